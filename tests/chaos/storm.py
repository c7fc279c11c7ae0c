"""A storm: people request runs and approve them while the bot is killed again and again; then quiet, then the verdict.

The people, both peers and the killer live in this process; each life of the bot is a forked one (bot_process.py).
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

from bot.services.datasets.dataset_worker import SEED
from demo.people import ANA, BEN
from demo.slack_emulator import refused
from demo.slack_emulator.state import ALL_SCOPES
from demo.workspace import Channel, Person, WorkspaceError
from storage.datasets import NewDataset
from storage.store import Store
from tests.bot.measurements import PRICES
from tests.bot.props import answer, tickets_csv
from tests.bot.world import CLEO, DORA, EVERYBODY, MODEL, PEOPLE, PRIVATE, TARGET, WHY
from tests.chaos.fork_host import ForkHost
from tests.chaos.other_work import LABELLED, OTHER_POINTS, TAUGHT, WORD, OtherWork, find_problems
from tests.chaos.records import Record
from tests.chaos.stormy_peers import RecordedService, StormyHosted, StormySlack, Weather, record_paths
from tests.chaos.verdict import IN_THREAD, Verdict, judge, read_approvals, read_replaced
from tests.local.trainer_server import free_port
from tests.peers.hosted import KEY
from trainers.dataset import Columns, Report, check_file

SPEED = 240.0
STAGE_S = 0.15
QUIET_S, SURELY_QUIET_S = 2.0, 25.0
NO_CARD_S = 5.0
FORM_S = 2.0
PATIENCE_S = 240.0
LONGEST_LIFE_S = 0.7
HUNTED = 0.33  # the share of lives that are to end where a peer holds a request
HUNT_S = 1.5  # after which such a life ends anyway
PEOPLE_AT_ONCE = 6
DAY_S = 86_400.0
# The sum of each run and measurement is rounded, so the bill may exceed the budgets by this much.
ROUNDED_MICROS = 20
READING_SCOPES = {"channels:history", "groups:history", "im:history"}
CLOSED, IN_CLOSED = Channel("C0CLOSED", "closed-later", EVERYBODY), 0
DELETED = 2  # the number of the run whose dataset is deleted if the team has other work
LOSS = "Loss by training step"
Seen = TypeVar("Seen")
POINTS = (
    "GET /fine_tuning/jobs done",
    "POST /files arrived",
    "POST /files done",
    "chat.postMessage arrived",
    "chat.postMessage done",
    "chat.update done",
)


@dataclass(frozen=True)
class Orders:
    """`runs` are requested one after the other, each on its own dataset. `bad_weather` is the share of posts that go
    wrong. `may_read` lets the bot look for messages that it may have posted. `lasting` adds faults that don't end with
    the storm: Slack refuses one message, all direct messages (a scope is missing), and everything for the channel of
    the first run once that is approved. With `has_other_work` the team also labels rows, by itself and by a model, and
    deletes the dataset of one run."""

    kills: int
    runs: int
    seed: int = 1
    bad_weather: float = 0.3
    list_lag_s: float = 0.5
    late_s: float = 0.8
    budget_usd: str = "20"
    may_read: bool = False
    lasting: bool = False
    has_other_work: bool = False


@dataclass
class Storm:
    """`target` is what people request. Without `forks` the storm has a fork host of its own. `problems` are those of
    the team's other work."""

    folder: Path
    orders: Orders
    forks: ForkHost | None = None
    target: str = f"target={TARGET}"
    speed: float = SPEED
    quiet_s: float = QUIET_S
    kills: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    _life: int | None = None
    _deadly_point: str | None = None
    _asked_at: dict[str, float] = field(default_factory=dict)
    _typed: Counter[str] = field(default_factory=Counter)
    _killed: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _forms: dict[str, threading.Lock] = field(
        default_factory=lambda: {person.id: threading.Lock() for person in (BEN, CLEO)}
    )

    def __post_init__(self) -> None:
        self._chance = random.Random(self.orders.seed)
        self._weather = Weather(random.Random(self.orders.seed + 1))

    def run(self) -> Verdict:
        """Plays everything, from the seeding to the verdict."""
        with ExitStack() as stack:
            provider, slack = (Record(path) for path in record_paths(self.folder))
            stack.callback(provider.close)
            stack.callback(slack.close)
            self._forks = self.forks or stack.enter_context(ForkHost())
            self.provider = stack.enter_context(self._start_provider(provider))
            self.slack = stack.enter_context(self._start_slack(slack))
            self._prepare_bot()
            with ThreadPoolExecutor(PEOPLE_AT_ONCE) as people:
                requests = [people.submit(work) for work in self._other_work()]
                requests += [
                    people.submit(self._ask_and_approve, number) for number in range(self.orders.runs)
                ]
                self._kill_repeatedly()
                for request in requests:
                    request.result(PATIENCE_S)
            self._weather.clear_up()
            self._wait_for_quiet()
            self._end_life()
            self._record_machines(provider)
            if self.orders.has_other_work:
                data = self.folder / "data"
                self.problems = find_problems(data, self._grown, name_of(DELETED), self.provider.service)
                self.problems += self._find_unbooked()
        return self._judge()

    def _judge(self) -> Verdict:
        refused_parts = [f"{part} on {name_of(1)}" for part in IN_THREAD]  # they come in one message
        excused = (*refused_parts, name_of(IN_CLOSED)) if self.orders.lasting else ()
        retyped = {name for name, times in self._typed.items() if times > 1}
        return judge(
            *record_paths(self.folder),
            float(self.orders.budget_usd),
            approvals=read_approvals(self.folder / "data" / "finetune.db"),
            replaced=read_replaced(self.folder / "data" / "finetune.db", retyped),
            may_read=self.orders.may_read,
            excused=excused,
        )

    def _find_unbooked(self) -> list[str]:
        """Returns, as a problem, by how much the provider's bill is above what the budgets say."""
        billed_micros = self._judge().billed_usd * 1e6
        store = Store(self.folder / "data" / "finetune.db")
        months = {
            row["month"]
            for row in store.database.rows("SELECT month FROM ledger UNION SELECT month FROM measurements")
        }
        booked_micros = sum(store.committed(month) for month in months if month)
        store.close()
        unbooked_micros = billed_micros - booked_micros
        if unbooked_micros <= ROUNDED_MICROS:
            return []
        return [f"${unbooked_micros / 1e6:.6f} of the provider's bill are in no budget"]

    # The killer.

    def _kill_repeatedly(self) -> None:
        self._weather.posts = self._weather.slack = self.orders.bad_weather
        self._weather.late_s = self.orders.late_s
        self._begin_life()
        while sum(self.kills.values()) < self.orders.kills:
            is_hunted = self._chance.random() < HUNTED
            self._deadly_point = self._chance.choice(self._points) if is_hunted else None
            lives_s = HUNT_S if is_hunted else self._chance.uniform(0.1, LONGEST_LIFE_S)
            if not self._killed.wait(lives_s):
                self._kill("by the clock")
            self._begin_life()
        self._deadly_point = None

    @property
    def _points(self) -> tuple[str, ...]:
        """A create is listed four times, because it is rare and costs money."""
        create = self.provider.service.create_route
        others = OTHER_POINTS if self.orders.has_other_work else ()
        return (*4 * (f"{create} arrived", f"{create} done"), *POINTS, *others)

    def _pass_point(self, point: str) -> None:
        """Called by the peers."""
        if point == self._deadly_point:
            self._deadly_point = None
            self._kill(point)

    def _kill(self, why: str) -> None:
        """Also called in a peer's thread. From here on the bot does nothing more."""
        with self._lock:
            if self._life is not None and not self._killed.is_set():
                os.kill(self._life, signal.SIGKILL)
                self.kills[why] = self.kills.get(why, 0) + 1
                self._killed.set()

    def _begin_life(self) -> None:
        self._end_life()
        with self._lock:
            self._killed.clear()
            self._life = self._forks.start("tests.chaos.bot_process:run_bot", **self._arguments)

    def _end_life(self) -> None:
        with self._lock:
            if self._life is not None:
                self._forks.kill(self._life)
            self._life = None

    # The people.

    def _other_work(self) -> list[Callable[[], None]]:
        """Returns what people do beside the runs, each in a thread of its own."""
        if not self.orders.has_other_work:
            return []
        return [self._team.label_and_delete, self._team.distil]

    @property
    def _grown(self) -> tuple[str, ...]:
        """The datasets to which the team adds rows."""
        return (LABELLED, TAUGHT)

    @cached_property
    def _team(self) -> OtherWork:
        return OtherWork(self.slack, self.folder / "desktop", name_of(DELETED), self._insist)

    def _ask_and_approve(self, number: int) -> None:
        """Requests are spread over the whole storm, so that there is always work to be killed at. People repeat what
        they do until Slack shows no error, and then believe that it is done."""
        while sum(self.kills.values()) < self.orders.kills * number // self.orders.runs:
            time.sleep(0.05)
        name, channel = name_of(number), channel_of(number)
        card = self._insist(partial(self._ask, name, channel))
        with ThreadPoolExecutor(2) as approvers:
            for click in [
                approvers.submit(self._insist, partial(self._approve, person, channel, card))
                for person in (BEN, CLEO)
            ]:
                click.result()
        if channel == CLOSED and self.orders.lasting:
            for method in ("chat.postMessage", "chat.update", "files.completeUploadExternal"):
                self.slack.fail(method, refused("is_archived"), times=None, channel=CLOSED.id)

    def _insist(self, act: Callable[[], Seen | None]) -> Seen:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            with suppress(WorkspaceError):
                seen = act()
                if seen:
                    return seen
            time.sleep(0.05)
        raise TimeoutError("the bot never did what a person asked for")

    def _ask(self, name: str, channel: Channel) -> str | None:
        """Returns the plan's card once there is one. The command is typed again if none comes: the answer after the ack
        was a no, for instance because Slack did not say in time who the person is."""
        card, now = self._find_card(name, channel), time.monotonic()
        is_due = card is None and now > self._asked_at.get(name, 0.0) + NO_CARD_S
        if is_due:
            self._typed[name] += 1  # also if a killed bot acks nothing: it may have stored the command
            if not self.slack.answer_to(ANA.id, channel.id, f"/finetune start {name} {self.target}"):
                self._asked_at[name] = now
        return card

    def _approve(self, person: Person, channel: Channel, card: str) -> bool:
        """Leaves a card alone that doesn't ask any more, because an earlier click counted without being acked."""
        with self._forms[person.id]:
            while self.slack.view(person.id) is not None:  # of a click that met an error
                self.slack.close_modal(person.id)
            if self._asks_for_approval(channel, card):
                self.slack.click(person.id, channel.id, card, "approve_plan")
                self._wait_for_form(person, channel, card)
            if self.slack.view(person.id) is not None:
                self.slack.submit_modal(person.id, {"reason": WHY})
        return True

    def _wait_for_form(self, person: Person, channel: Channel, card: str) -> None:
        """A click is acked before the form opens; none opens if the click was enough, was refused or met an error."""
        until = time.monotonic() + FORM_S
        while self.slack.view(person.id) is None and self._asks_for_approval(channel, card):
            if time.monotonic() > until:
                return
            time.sleep(0.02)

    def _asks_for_approval(self, channel: Channel, card: str) -> bool:
        blocks = next(message.blocks for message in self.slack.messages(channel.id) if message.ts == card)
        return '"approve_plan"' in json.dumps(list(blocks))

    def _find_card(self, dataset: str, channel: Channel) -> str | None:
        """Returns the newest card that asks for approval of a plan of this dataset."""
        for message in reversed(self.slack.messages(channel.id)):
            if dataset in str(message.blocks) and self._asks_for_approval(channel, message.ts):
                return message.ts
        return None

    # The stage.

    def _record_machines(self, provider: Record) -> None:
        """Adds to the provider's record what is known only at the end."""

    def _provider_row(self) -> str:
        return ACME.format(url=self.provider.url, model=MODEL)

    def _keys(self) -> dict[str, str]:
        return {"ACME_KEY": KEY}

    def _wait_for_quiet(self) -> None:
        """Waits as long as results are still being posted, which takes many minutes on a busy machine."""
        fewest, deadline = self._judge().unposted, time.monotonic() + PATIENCE_S
        while not self._is_quiet():
            if (unposted := self._judge().unposted) < fewest:
                fewest, deadline = unposted, time.monotonic() + PATIENCE_S
            assert time.monotonic() < deadline, f"the bot never came to rest, {unposted} results are missing"
            time.sleep(0.25)

    def _is_quiet(self) -> bool:
        """Judging answers makes no noise, and neither does waiting for a trainer to start or for a list to show a job;
        each takes seconds on a busy machine. If something is still missing, the silence must last longer."""
        silent_s = time.monotonic() - max(self.provider.last_active, self.slack.last_called)
        if silent_s < self.quiet_s:
            return False
        verdict = self._judge()
        return silent_s > SURELY_QUIET_S or not (verdict.lost or verdict.unposted or self._count_running())

    def _count_running(self) -> int:
        """Counts machines that cost money by the hour."""
        return 0

    def _service_settings(self, record: Record) -> dict[str, Any]:
        """Returns the settings of every vendor's stand-in."""
        return {
            "answer": answer,
            "stage_s": STAGE_S,
            "list_lag_s": self.orders.list_lag_s,
            "record": record,
            "weather": self._weather,
            "pass_point": self._pass_point,
        }

    def _start_provider(self, record: Record) -> Any:
        service = RecordedService(models=(MODEL,), **self._service_settings(record))
        return StormyHosted(service, weather=self._weather)

    def _start_slack(self, record: Record) -> StormySlack:
        scopes = ALL_SCOPES | READING_SCOPES if self.orders.may_read else ALL_SCOPES
        if self.orders.lasting:
            scopes -= {"im:write"}
        workspace = {"people": PEOPLE, "channels": (PRIVATE, CLOSED), "scopes": scopes}
        slack = StormySlack(record, self._weather, self._pass_point, **workspace)
        if self.orders.lasting:
            plot = f"{LOSS}, {MODEL} on {name_of(1)}"
            slack.fail("files.completeUploadExternal", refused("internal_error"), times=None, text=plot)
        return slack

    def _prepare_bot(self) -> None:
        port, access = free_port(), self.slack.access
        self.slack.deliver_to(f"http://127.0.0.1:{port}/slack/events")
        config = self.folder / "finetune.toml"
        text = settings(access.api_url, port, self.orders.budget_usd) + self._provider_row()
        if self.orders.has_other_work:
            text += PRICES
        config.write_text(text, encoding="utf-8")
        environment = {
            "SLACK_BOT_TOKEN": access.bot_token,
            "SLACK_SIGNING_SECRET": access.signing_secret,
            **self._keys(),
        }
        born = time.time()
        self._arguments: dict[str, Any] = {
            "config": str(config),
            "environment": environment,
            "born": born,
            "speed": self.speed,
            "late_s": _late_s(born) if self.orders.may_read else 0.0,
        }
        names = [name_of(number) for number in range(self.orders.runs)]
        if self.orders.has_other_work:
            names += self._grown
        seed_datasets(self.folder / "data", names)


def _late_s(born: float) -> float:
    """Returns the seconds by which the bot's clock begins behind Slack's: at least a day, since a fast bot doesn't take
    a message older than its draft for its own, and at midnight, since what is reported once a day would be reported
    again in a storm that runs past it."""
    return DAY_S + born % DAY_S


def name_of(number: int) -> str:
    return f"tickets{number:03d}"


def channel_of(number: int) -> Channel:
    return CLOSED if number == IN_CLOSED else PRIVATE


def seed_datasets(data: Path, names: Sequence[str]) -> None:
    """Stores datasets as uploads leave them, without the downloads and the workers. The one that may be deleted has
    rows of its own, with a word to look for."""
    files = data / "files"
    files.mkdir(parents=True)
    (word,) = WORD.values()
    usual = _check(tickets_csv(), files)
    marked = _check(tickets_csv().replace("question", f"question of a {word}"), files)
    store = Store(data / "finetune.db")
    for number, name in enumerate(names):
        report = marked if name == name_of(DELETED) else usual
        new = NewDataset(name, channel_of(number).id, DORA.id, "tickets.csv", f"F{number}")
        received = store.datasets.receive(new, now=time.time())
        changes = {"sha256": report.source_sha256, "report": report.to_json()}
        assert store.datasets.move(received, "ready", now=time.time(), **changes)
    store.close()


def _check(content: str, files: Path) -> Report:
    """Writes the two parts of a file, and the file itself by its hash."""
    source = files / "tickets.csv"
    source.write_text(content, encoding="utf-8")
    report = check_file(source, source.name, Columns(None, None), files, SEED)
    source.rename(files / report.source_sha256)
    return report


def settings(slack: str, port: int, budget_usd: str) -> str:
    return f"""
data = "data"
[slack]
mode = "http"
port = {port}
api_url = "{slack}"
[people]
approvers = ["{BEN.id}", "{CLEO.id}"]
quorum = 2
[budget]
monthly_usd = "{budget_usd}"
"""


ACME = """
[providers.acme]
title = "Acme Tuning"
base_url = "{url}"
key_env = "ACME_KEY"
timeout_s = 0.6
outputs_terms = "https://acme.example/terms"
abilities = ["metadata", "metadata_filter", "method", "suffix", "checkpoints", "chat"]
[providers.acme.models."{model}"]
training = "8.00"
input = "0.80"
cached_input = "0.20"
output = "3.20"
"""
