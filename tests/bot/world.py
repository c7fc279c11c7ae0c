"""A world for stories: the real Service over real HTTP and SQLite, the Slack emulator, and a hosted provider.

Time passes only in `tick`, which does what the scheduler does (a reconcile, then the outbox), and in `pass_time`.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, ParamSpec, TypeVar
from unittest.mock import patch

from bot.app import Service
from bot.provider_threads import ProviderThreads
from bot.reconciler import reconcile
from bot.services.datasets import datasets
from bot.settings import Settings, load_settings
from bot.slack import http
from bot.slack.limits import LookUpLimits
from bot.worker_pool import WorkerPool
from demo.people import ANA, BEN, BOT, TICKETS
from demo.slack_emulator import SlackEmulator
from demo.workspace import Channel, Person, PostedMessage, Submission, WorkspaceError
from storage.datasets import NewDataset
from storage.deletion.dataset_deletion import FILE_NAME
from storage.records import Dataset, Run, RunState
from tests.bot.blank_pictures import save_blank_pictures
from tests.bot.props import answer, checked_tickets
from tests.databases import put_database
from tests.forked import forked_spawns
from tests.patience import PATIENCE_S, wait_until
from tests.peers.fireworks import Fireworks
from tests.peers.hosted import Hosted, SigningHosted
from tests.peers.service import Service as Company
from tests.peers.together import Together
from tests.peers.vendors import Vendor
from trainers.dataset.sensitive_data import scan_file
from trainers.host import TINKER_KEY
from trainers.types import Dialect

CLEO = Person("U0CLEO", "cleo", "Cleo Marin", "cleo@example.com")
DORA = Person("U0DORA", "dora", "Dora Lind", "dora@example.com")
GUS = Person("U0GUS", "gus", "Gus Guest", kind="guest")
EVE = Person("U0EVE", "eve", "Eve Elsewhere", kind="stranger")
ROBO = Person("U0ROBO", "robo", "Another bot", kind="bot")
PEOPLE = (ANA, BEN, CLEO, DORA, GUS, EVE, ROBO)
EVERYBODY = (*(person.id for person in PEOPLE), BOT.id)
PRIVATE = Channel(TICKETS.id, TICKETS.name, EVERYBODY)
PUBLIC = Channel("C0GENERAL", "general", EVERYBODY, private=False)
WITHOUT_BOT = Channel("C0ELSE", "elsewhere", tuple(person.id for person in PEOPLE))
HR = Channel("C0HR", "hr", (DORA.id, BEN.id, CLEO.id, BOT.id))  # without Ana
OWN = Channel("C0OWN", "own", (ANA.id, BEN.id, BOT.id))
APPROVERS_GROUP = "S0APPROVE"

ADAPTERS_PROJECT = "COREWEAVE_PROJECT"
MODEL, TARGET = "acme-small", "acme/acme-small"
START = f"/finetune start tickets current=gpt-4o volume=100M target={TARGET}"
JOBS = "/fine_tuning/jobs"
WHY = "quality counts here, not cost"
SECONDS_A_TICK = 3.0
SLACK_THREADS = 4  # a story has few people, and to start a server's usual 32 takes a third of the start

VENDORS: tuple[Dialect, ...] = ("together", "fireworks")
ABILITIES: dict[Dialect, str] = {
    "openai": '"metadata", "metadata_filter", "method", "suffix", "checkpoints", "chat"',
    "together": '"extra_hyperparameters", "suffix", "checkpoints", "progress", "job_deletion", "limits", "chat"',
    "fireworks": '"own_id", "idempotency", "extra_hyperparameters", "limits", "chat"',
}
DIALECTS: dict[Dialect, str] = {
    "openai": "",
    "together": """
dialect = "together"
suffix_length = 40
hyperparameter_limits = {{ batch_size = [], learning_rate_multiplier = [] }}
""",
    "fireworks": """
dialect = "fireworks"
chat_base_url = "{chat}/inference/v1"
hyperparameter_names = {{ n_epochs = "epochs", lora_r = "loraRank", batch_size = "batchSizeSamples" }}
hyperparameter_limits = {{ lora_alpha = [], lora_dropout = [] }}
""",
}

Result = TypeVar("Result")
P = ParamSpec("P")
T = TypeVar("T")


class SharedWorkers(WorkerPool):
    """Outlives its Service: one warm process serves all tests. Saves charts as blank pictures unless it `draws`."""

    def __init__(self, *, draws: bool = True) -> None:
        super().__init__()
        self._draws = draws

    def poll(self, key: str, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        with forked_spawns():
            return super().poll(
                key, work if self._draws else partial(save_blank_pictures, work), *args, **kwargs
            )

    def close(self) -> None:
        self._tasks.clear()

    def wait(self) -> None:
        """Wait up to 0.1 s for a task to end; a tick would only find it still running."""
        futures = [task.future for task in list(self._tasks.values()) if task.future]
        if futures and not any(future.done() for future in futures):
            wait(futures, timeout=0.1, return_when=FIRST_COMPLETED)

    def close_processes(self) -> None:
        super().close()


class InlineProviderThreads(ProviderThreads):
    """Runs calls to a provider within the tick, so that a test knows when they are over."""

    def begin(self, provider: str, work: Callable[[], None]) -> None:
        work()


@dataclass
class Rules:
    """The parts of finetune.toml that differ between tests: people, money, and the one hosted provider.

    `budget` is USD per month, `measurement` the most that one measurement may cost, and `training` USD per million
    tokens. `vendor` is the API that the provider speaks. `provider_row` adds lines to its row, in which PROVIDER_URL
    stands for its address; with `provider_is_remote` that address isn't a loopback one, though the provider still
    answers from this machine. `more` adds lines at the end. `current_ends` is gpt-4o's end date; '' leaves it to the
    built-in list. `serving` is the address that programs call, '' for none.
    """

    approvers: Sequence[str] = (BEN.id, CLEO.id, DORA.id, GUS.id, EVE.id, ROBO.id)
    groups: Sequence[str] = ()
    quorum: int | None = 1
    budget: str = "20"
    fallback: str = ""
    trainer_timeout_s: float = 5.0
    provider_is_remote: bool = False
    measurement: str = "5"
    more: str = ""
    training: str = "8.00"
    provider_row: str = ""
    current_ends: str = "ends = 2999-12-31"
    serving: str = ""
    vendor: Dialect = "openai"


@dataclass
class World:
    """`clock` is the time in unix seconds. Set `rules` and `abilities`, then `restart`, to change finetune.toml."""

    folder: Path
    slack: SlackEmulator
    provider: Hosted
    workers: SharedWorkers
    rules: Rules
    clock: float = field(default_factory=time.time)
    abilities: str = ""
    threads: type[ProviderThreads] = InlineProviderThreads
    clock_error_s: float = 0.0
    """Seconds by which somebody set the machine's clock forward."""
    unacked_deliveries: int = 0
    """Deliveries that were never acked because the bot was killed."""
    _service: Service | None = None

    def __post_init__(self) -> None:
        self.abilities = self.abilities or ABILITIES[self.rules.vendor]

    @property
    def create_route(self) -> str:
        return self.provider.service.create_route

    @property
    def service(self) -> Service:
        assert self._service is not None
        return self._service

    @property
    def store(self) -> Any:
        return self.service.store

    def boot(self) -> None:
        settings = self._settings()
        put_database(settings.database)
        with patch.object(http, "THREADS", SLACK_THREADS):
            self._service = Service(
                settings,
                clock=lambda: self.clock + self.clock_error_s,
                steady=lambda: self.clock,
                workers=self.workers,
                threads=self.threads,
                # without limits, as a story's minute holds more clicks than people make
                limits=LookUpLimits(lambda: self.clock, {}),
            )
        self._service.connection.open()
        self.slack.deliver_to(self._service.address)
        self.slack.settle = self.wait_until_idle

    def wait_until_idle(self) -> None:
        """Wait until the bot has done what it acked: it acks before it looks anything up."""
        if self._service is not None:
            inbox = self._service.store.inbox
            wait_until(lambda: inbox.is_idle, "the end of what was acked")

    def stop(self) -> None:
        if self._service is not None:
            self._service.stop()
            self._service = None

    def restart(self) -> None:
        self.stop()
        self.boot()

    # Time.

    def pass_time(self, seconds: float) -> None:
        self.clock += seconds

    def tick(self, times: int = 1) -> None:
        for _ in range(times):
            reconcile(self.service.context)
            self.send()
            if person := self.service.homes.next_outdated():
                self.service.homes.redraw(person)
            self.clock += SECONDS_A_TICK

    def send(self) -> None:
        """Send the outbox until nothing is due within the next seconds."""
        while self.service.notices.send_due():
            self.clock += 1.6  # Slack takes the next edit by then

    def tick_until(
        self, look: Callable[[], Result | None], what: str, *, seconds: float = PATIENCE_S
    ) -> Result:
        """Tick until `look` returns something, and return it. `what` names it in the error."""

        def look_or_tick() -> Result | None:
            result = look()
            if not result:
                self.tick()
                self.workers.wait()
            return result

        return wait_until(look_or_tick, what, seconds=seconds)

    def tick_until_state(self, state: RunState, number: int = 1) -> Run:
        self.tick_until(lambda: self.run(number).state == state, f"run {number} to be {state}")
        self.send()
        return self.run(number)

    def tick_until_answered(self, user: Person = ANA) -> str:
        """Tick until all questions to models are answered; the newest message that only this person reads."""
        self.tick_until(lambda: not self.store.questions.waiting(), "the answer")
        self.send()
        return words_of(self.slack.ephemerals(user.id)[-1])

    # People.

    def type(self, line: str, *, user: Person = ANA, channel: Channel = PRIVATE) -> str:
        """Type a command; the replies that only this person reads, '' if there are none."""
        before = len(self.slack.ephemerals(user.id))
        self.slack.command(user.id, channel.id, line)
        if line.startswith("/finetune estimate "):  # the reply comes after the ack
            self.wait_for_answer(user, before)
        elif line.startswith("/finetune start "):  # and so does a refusal
            wait_until(lambda: not self.store.inbox.waiting(), "the plan or its refusal")
            if self.store.database.value("SELECT 1 FROM outbox WHERE kind = 'ephemeral' AND state = 'due'"):
                self.wait_for_answer(user, before)
        return "\n".join(words_of(reply) for reply in self.slack.ephemerals(user.id)[before:])

    def wait_for_answer(self, user: Person, before: int) -> None:
        """Wait until there are more than `before` messages that only this person reads."""

        def sent() -> bool:
            self.send()
            return len(self.slack.ephemerals(user.id)) > before

        wait_until(sent, f"an answer to {user.name}")

    def upload(
        self,
        file: str,
        content: str | bytes,
        *,
        user: Person = DORA,
        called: str = "tickets",
        channel: Channel = PRIVATE,
    ) -> Submission:
        """Type `/finetune upload`, and fill in and send its form."""
        self.slack.command(user.id, channel.id, "/finetune upload")
        return self.fill_upload(user, {"file": self.put_file(file, content, user), "name": called})

    def fill_upload(self, user: Person, answers: dict[str, str]) -> Submission:
        return self.slack.submit_modal(user.id, answers)

    def put_file(self, name: str, content: str | bytes, user: Person = DORA) -> str:
        return self.slack.upload(user.id, self.file(name, content))

    def file(self, name: str, content: str | bytes) -> Path:
        path = self.folder / "desktop" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def upload_and_check(
        self, content: str | bytes, *, file: str = "tickets.csv", channel: Channel = PRIVATE
    ) -> Dataset:
        """Upload a file, and tick until the dataset is ready or refused and its messages are sent."""
        assert self.upload(file, content, channel=channel).accepted
        self.tick_until(lambda: self.dataset().state in ("ready", "refused"), "the check")
        self.send()
        return self.dataset()

    def click(self, user: Person, action: str, *, channel: Channel = PRIVATE) -> None:
        """Press the channel's newest button for this action."""
        self.slack.click(user.id, channel.id, self.find_button(action, channel).ts, action)

    def approve(self, user: Person = BEN, *, channel: Channel = PRIVATE) -> None:
        """Press *Approve*, and give a reason if the form asks for one."""
        self.click(user, "approve_plan", channel=channel)
        if self.slack.view(user.id) is not None:
            assert self.slack.submit_modal(user.id, {"reason": WHY}).closed

    def click_and_read(self, user: Person, action: str, *, channel: Channel = PRIVATE) -> str:
        """Press a button; the reply that only this person reads, which comes after the ack."""
        before = len(self.slack.ephemerals(user.id))
        self.click(user, action, channel=channel)
        replies = wait_until(lambda: self.slack.ephemerals(user.id)[before:], f"an answer to {action}")
        return words_of(replies[0])

    def read_form(self, user: Person) -> str:
        """All words of the form that this person has open."""
        view = self.slack.view(user.id)
        assert view is not None, "no form is open"
        return "\n".join([view.title, *_texts(list(view.blocks))])

    def estimate_details(self) -> str:
        """Press *Details* on Ana's newest estimate, read the form and close it."""
        newest_first = reversed(self.slack.ephemerals(ANA.id))
        card = next(message for message in newest_first if "estimate_details" in str(message.blocks))
        self.slack.click(ANA.id, PRIVATE.id, card.ts, "estimate_details")
        details = self.read_form(ANA)
        self.slack.close_modal(ANA.id)
        return details

    def share_estimate(self) -> None:
        """Press *Share in the channel* on Ana's newest estimate: today's model that it names is then the team's."""
        newest_first = reversed(self.slack.ephemerals(ANA.id))
        card = next(message for message in newest_first if "share_estimate" in str(message.blocks))
        before = len(self.slack.ephemerals(ANA.id))
        self.slack.click(ANA.id, PRIVATE.id, card.ts, "share_estimate")
        self.wait_for_answer(ANA, before)

    def plan_details(self, user: Person = BEN) -> str:
        """Press *Details* on the newest plan's card, read the form and close it."""
        self.click(user, "plan_details")
        details = self.read_form(user)
        self.slack.close_modal(user.id)
        return details

    def start(self, line: str = START, *, user: Person = ANA, channel: Channel = PRIVATE) -> Run:
        """Ask for a run, whose approval card is sent; seeds the tickets unless there are any."""
        if self.store.datasets.newest("tickets") is None:
            self.seed_dataset(channel=channel)
        assert self.type(line, user=user, channel=channel) == ""
        self.send()
        return self.newest_run()

    def start_approved(self) -> Run:
        run = self.start()
        self.approve()
        return self.run(run.id)

    # What people see.

    def texts(self, channel: Channel = PRIVATE) -> list[str]:
        return [words_of(message) for message in self.slack.messages(channel.id)]

    def cards(self, channel: Channel = PRIVATE) -> list[str]:
        """The messages of the channel outside threads."""
        messages = self.slack.messages(channel.id)
        return [words_of(message) for message in messages if message.thread_ts in (None, message.ts)]

    def files(self, channel: Channel = PRIVATE) -> list[str]:
        """Names of the files in the channel."""
        return [file.name for message in self.slack.messages(channel.id) for file in message.files]

    def tick_until_file(self, name: str) -> None:
        """Tick until the bot has posted a file of this name; a worker writes reports after the result."""
        self.tick_until(lambda: name in self.files(), name)

    def read_file(self, name: str, place: str = PRIVATE.id) -> str:
        """The content of the newest file of this name."""
        files = [
            file for message in self.slack.messages(place) for file in message.files if file.name == name
        ]
        assert files, f"no {name} was posted there"
        return self.slack.content(files[-1].id).decode()

    def find_message(self, *parts: str, channel: Channel = PRIVATE) -> str:
        """The channel's newest message with all these parts, or an error that shows all messages."""
        for message in reversed(self.slack.messages(channel.id)):
            words = words_of(message)
            if all(part in words for part in parts):
                return words
        raise WorkspaceError(f"no message has {parts}; there are:\n" + "\n---\n".join(self.texts(channel)))

    def dms(self, user: Person = ANA) -> list[str]:
        return [words_of(message) for message in self.slack.messages(self.slack.dm(user.id))]

    def find_button(self, action: str, channel: Channel = PRIVATE) -> PostedMessage:
        for message in reversed(self.slack.messages(channel.id)):
            if f'"{action}"' in json.dumps(list(message.blocks)):
                return message
        raise WorkspaceError(f"no message has the button {action}")

    def has_button(self, action: str) -> bool:
        messages = self.slack.messages(PRIVATE.id)
        return any(f'"{action}"' in json.dumps(list(message.blocks)) for message in messages)

    # What is stored.

    def run(self, number: int = 1) -> Run:
        run: Run | None = self.store.runs.get(number)
        assert run is not None
        return run

    def newest_run(self) -> Run:
        run: Run = self.store.runs.newest(1)[0]
        return run

    def dataset(self) -> Dataset:
        """The newest upload, whatever its state."""
        dataset: Dataset = self.store.datasets.all()[0]
        return dataset

    def ledger(self, number: int = 1) -> dict[str, int]:
        """Micro-dollars of a run by kind of entry."""
        rows = self.store.database.rows("SELECT kind, micros FROM ledger WHERE run_id = ?", (number,))
        return {row["kind"]: row["micros"] for row in rows}

    def jobs(self) -> int:
        """How many jobs the provider has, by its own record."""
        return len(self.provider.service.jobs)

    def files_at_provider(self) -> list[str]:
        """Names of the training files that the provider still holds."""
        return [file.name for file in self.provider.service.files.values() if file.purpose == "fine-tune"]

    def seed_dataset(
        self,
        *,
        uploaded_by: Person = DORA,
        channel: Channel = PRIVATE,
        called: str = "tickets",
        rows: int = 60,
    ) -> Dataset:
        """A ready dataset as an upload leaves it. Estimates show savings from 200 rows on."""
        files = self.service.settings.files
        report = checked_tickets(files, rows)
        store = self.store
        received = store.datasets.receive(
            NewDataset(called, channel.id, uploaded_by.id, "tickets.csv", "F0SEEDED"), now=self.clock
        )
        changes = {"sha256": report.source_sha256, "report": report.to_json()}
        ready: Dataset | None = store.datasets.move(received, "ready", now=self.clock, **changes)
        assert ready is not None
        parts = [files / f"{sha256}.jsonl" for sha256 in (report.train_sha256, report.holdout_sha256)]
        datasets.store_scans(self.service.context, [scan_file(part, presidio=False) for part in parts])
        return ready

    def _settings(self) -> Settings:
        config = self.folder / "finetune.toml"
        config.write_text(self._toml(), encoding="utf-8")
        access = self.slack.access
        tokens = {"SLACK_BOT_TOKEN": access.bot_token, "SLACK_SIGNING_SECRET": access.signing_secret}
        for name in (ADAPTERS_PROJECT, TINKER_KEY):
            if name in os.environ:
                tokens[name] = os.environ[name]
        return load_settings(tokens, config)

    def _provider_url(self) -> str:
        path = self.provider.service.path if isinstance(self.provider.service, Vendor) else ""
        if self.rules.provider_is_remote:
            return self.provider.url.replace("127.0.0.1", "0.0.0.0") + path  # noqa: S104 - an address to connect to
        return self.provider.url + path

    def _toml(self) -> str:
        rules = self.rules
        return f"""
data = "data"
[slack]
mode = "http"
port = 0
api_url = "{self.slack.access.api_url}"
fallback_channel = "{rules.fallback}"
[people]
approvers = {json.dumps(list(rules.approvers))}
approver_groups = {json.dumps(list(rules.groups))}
{"" if rules.quorum is None else f"quorum = {rules.quorum}"}
[budget]
monthly_usd = "{rules.budget}"
measurement_usd = "{rules.measurement}"
[prices."gpt-4o"]
input = "2.50"
cached_input = "1.25"
output = "10.00"
{rules.current_ends}
[serving]
address = "{rules.serving}"
[providers.acme]
title = "Acme Tuning"
base_url = "{self._provider_url()}"
stays_here = {str(not self.rules.provider_is_remote).lower()}
key_env = "ACME_KEY"
timeout_s = {rules.trainer_timeout_s}
abilities = [{self.abilities}]
{DIALECTS[rules.vendor].format(chat=self.provider.url.removesuffix("/v1"))}
{rules.provider_row.replace("PROVIDER_URL", self._provider_url())}
[providers.acme.models."{MODEL}"]
training = "{rules.training}"
input = "0.80"
cached_input = "0.20"
output = "3.20"
billions = 0.1
{rules.more}
"""


MakeWorld = Callable[[Rules], World]
"""The fixture `make_world`: a running world by these rules."""


def _provider(rules: Rules) -> Hosted:
    if rules.vendor == "openai":
        return Hosted(Company(models=(MODEL,), answer=answer))
    price = Decimal(rules.training)
    if rules.vendor == "together":
        return SigningHosted(Together(models=(MODEL,), answer=answer, usd_per_million=price))
    return SigningHosted(Fireworks(models=(MODEL,), answer=answer, usd_per_million=price))


@contextmanager
def world(folder: Path, workers: SharedWorkers, rules: Rules) -> Iterator[World]:
    """A running world. At its end, nothing sent to Slack was malformed, and every delivery was acked in time."""
    provider = _provider(rules)
    groups = {APPROVERS_GROUP: (CLEO.id,)}
    with (
        SlackEmulator(
            people=PEOPLE, channels=(PRIVATE, PUBLIC, WITHOUT_BOT, HR, OWN), groups=groups
        ) as slack,
        provider,
    ):
        world = World(folder, slack, provider, workers, rules)
        world.boot()
        try:
            yield world
            assert _unnamed_files(world) == []
        finally:
            world.stop()
        malformed = {"invalid_blocks", "invalid_arguments", "msg_blocks_too_long", "no_text"}
        assert not [call for call in slack.calls() if call.error in malformed]
        deliveries = slack.deliveries
        assert not [delivery for delivery in deliveries if delivery.acked and delivery.seconds > 2]
        unacked = [delivery for delivery in deliveries if not delivery.acked]
        assert len(unacked) == world.unacked_deliveries


def _unnamed_files(world: World) -> list[str]:
    """Files of rows that nothing in the database names: the deletion of their dataset would not find them."""
    if world._service is None or not world.service.settings.files.is_dir():
        return []
    names = [path.name for path in world.service.settings.files.iterdir() if FILE_NAME.match(path.name)]
    named = world.store.deletions.named_files()
    return [name for name in names if name[:64] not in named]


def words_of(message: PostedMessage) -> str:
    """All words of a message and its files' names; the fallback text comes first."""
    return "\n".join([message.text, *_texts(list(message.blocks)), *(file.name for file in message.files)])


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for child in node:
            yield from _texts(child)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key == "text" and isinstance(value, str):
                yield value
            else:
                yield from _texts(value)
