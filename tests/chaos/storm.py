"""A storm: people ask for runs and approve them, while the bot is killed again and again; then quiet, then the verdict.

The people, both peers and the killer live in this process; each life of the bot is one of its own (life.py).
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from bot.services.dataset_worker import SEED
from demo.people import ANA, BEN
from demo.slack_emulator import refused
from demo.slack_emulator.state import ALL_SCOPES
from demo.workspace import Channel, Person, WorkspaceError
from storage.datasets import NewDataset
from storage.store import Store
from tests.bot.props import answer, tickets_csv
from tests.bot.world import CLEO, DORA, EVERYBODY, MODEL, PEOPLE, PRIVATE, TARGET, WHY
from tests.chaos.fork_host import ForkHost
from tests.chaos.peers import RecordedService, StormyHosted, StormySlack, Weather, recorded_at
from tests.chaos.records import Record
from tests.chaos.verdict import IN_THE_THREAD, Verdict, approvals_in, judge
from tests.local.served import free_port
from tests.peers.hosted import KEY
from trainers.dataset import Columns, check_file

SPEED = 240.0
STAGE_S = 0.15
QUIET_S, SURELY_QUIET_S = 2.0, 25.0
NO_CARD_S = 5.0
PATIENCE_S = 240.0
LONGEST_LIFE_S = 0.7
HUNTED, HUNT_S = (
    0.33,
    1.5,
)  # the share of lives that end where a peer holds a request, if they come there in time
PEOPLE_AT_ONCE = 6
A_DAY_S = 86_400.0  # behind Slack's clock, a bot that runs fast takes no message for older than its draft
READING_SCOPES = {"channels:history", "groups:history", "im:history"}
CLOSED, IN_CLOSED = Channel("C0CLOSED", "closed-later", EVERYBODY), 0
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
    """`runs` are asked for one after the other, each on a dataset of its own. `bad_weather`: the share of posts that
    go wrong. `may_read`: the team lets the bot look where a message may stand already. `lasting`: to the storm's end
    Slack refuses one message, every message to a person (a scope is missing), and what goes to the channel of the first
    run once that is approved."""

    kills: int
    runs: int
    seed: int = 1
    bad_weather: float = 0.3
    list_lag_s: float = 0.5
    late_s: float = 0.8
    budget_usd: str = "20"
    may_read: bool = False
    lasting: bool = False


@dataclass
class Storm:
    """`wanted`: what people ask for."""

    folder: Path
    orders: Orders
    wanted: str = f"target={TARGET}"
    speed: float = SPEED
    quiet_s: float = QUIET_S
    kills: dict[str, int] = field(default_factory=dict)
    _life: int | None = None
    _deadly: str | None = None
    _asked: dict[str, float] = field(default_factory=dict)
    _killed: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _forms: dict[str, threading.Lock] = field(
        default_factory=lambda: {person.id: threading.Lock() for person in (BEN, CLEO)}
    )

    def __post_init__(self) -> None:
        self._chance = random.Random(self.orders.seed)
        self._weather = Weather(random.Random(self.orders.seed + 1))

    def blow(self) -> Verdict:
        """Everything, from the seeding to the verdict."""
        with ExitStack() as stack:
            provider, slack = (Record(path) for path in recorded_at(self.folder))
            stack.callback(provider.close)
            stack.callback(slack.close)
            self._forks = stack.enter_context(ForkHost())
            self.provider = stack.enter_context(self._hosted(provider))
            self.slack = stack.enter_context(self._slack(slack))
            self._settle_in()
            with ThreadPoolExecutor(PEOPLE_AT_ONCE) as people:
                asked = [people.submit(self._ask_and_approve, number) for number in range(self.orders.runs)]
                self._kill_and_kill()
                for one in asked:
                    one.result(PATIENCE_S)
            self._weather.clear_up()
            self._wait_for_quiet()
            self._end_life()
            self._look_back(provider)
        return self._judged()

    def _judged(self) -> Verdict:
        refused = [f"{part} on {name_of(1)}" for part in IN_THE_THREAD]  # they come in one message
        excused = (*refused, name_of(IN_CLOSED)) if self.orders.lasting else ()
        budget, may_read = float(self.orders.budget_usd), self.orders.may_read
        approvals = approvals_in(self.folder / "data" / "finetune.db")
        return judge(
            *recorded_at(self.folder), budget, approvals=approvals, may_read=may_read, excused=excused
        )

    # The killer.

    def _kill_and_kill(self) -> None:
        self._weather.posts = self._weather.slack = self.orders.bad_weather
        self._weather.late_s = self.orders.late_s
        self._begin_life()
        while sum(self.kills.values()) < self.orders.kills:
            is_hunted = self._chance.random() < HUNTED
            self._deadly = self._chance.choice(self._points) if is_hunted else None
            lives_s = HUNT_S if is_hunted else self._chance.uniform(0.1, LONGEST_LIFE_S)
            if not self._killed.wait(lives_s):
                self._kill("by the clock")
            self._begin_life()
        self._deadly = None

    @property
    def _points(self) -> tuple[str, ...]:
        """A create is rare, and where money is."""
        create = self.provider.service.create_route
        return (*4 * (f"{create} arrived", f"{create} done"), *POINTS)

    def _passing(self, point: str) -> None:
        """Called by the peers."""
        if point == self._deadly:
            self._deadly = None
            self._kill(point)

    def _kill(self, why: str) -> None:
        """From a peer's thread too: nothing more is done by the bot from here on."""
        with self._lock:
            if self._life is not None and not self._killed.is_set():
                os.kill(self._life, signal.SIGKILL)
                self.kills[why] = self.kills.get(why, 0) + 1
                self._killed.set()

    def _begin_life(self) -> None:
        self._end_life()
        with self._lock:
            self._killed.clear()
            self._life = self._forks.start("tests.chaos.bot_process:run_bot", **self._body)

    def _end_life(self) -> None:
        with self._lock:
            if self._life is not None:
                self._forks.kill(self._life)
            self._life = None

    # The people.

    def _ask_and_approve(self, number: int) -> None:
        """Spread over the whole storm, so that there is always work to be killed at. People do a thing until Slack
        shows no error, and believe from then on that it is done."""
        while sum(self.kills.values()) < self.orders.kills * number // self.orders.runs:
            time.sleep(0.05)
        name, place = name_of(number), place_of(number)
        card = self._insist(partial(self._ask, name, place))
        with ThreadPoolExecutor(2) as approvers:
            for click in [
                approvers.submit(self._insist, partial(self._approve, person, place, card))
                for person in (BEN, CLEO)
            ]:
                click.result()
        if place == CLOSED and self.orders.lasting:
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
        raise TimeoutError("the bot never came back to what a person wanted")

    def _ask(self, name: str, place: Channel) -> str | None:
        """The plan's card, once it stands. Typed again where none comes: the answer after the ack was a no, since Slack
        did not say in time who the person is, for instance."""
        card, now = self._card_of(name, place), time.monotonic()
        is_due = card is None and now > self._asked.get(name, 0.0) + NO_CARD_S
        if is_due and not self.slack.answer_to(ANA.id, place.id, f"/finetune start {name} {self.wanted}"):
            self._asked[name] = now
        return card

    def _approve(self, person: Person, place: Channel, card: str) -> bool:
        """A card that asks no more, since an earlier click counted though it was not acked, is left alone."""
        with self._forms[person.id]:
            while self.slack.view(person.id) is not None:  # of a click that met an error
                self.slack.close_modal(person.id)
            if self._asks(place, card):
                self.slack.click(person.id, place.id, card, "approve_plan")
            if self.slack.view(person.id) is not None:
                self.slack.submit_modal(person.id, {"reason": WHY})
        return True

    def _asks(self, place: Channel, card: str) -> bool:
        blocks = next(one.blocks for one in self.slack.messages(place.id) if one.ts == card)
        return '"approve_plan"' in json.dumps(list(blocks))

    def _card_of(self, dataset: str, place: Channel) -> str | None:
        """The newest one that asks for approval of a plan of this dataset."""
        for one in reversed(self.slack.messages(place.id)):
            if dataset in str(one.blocks) and self._asks(place, one.ts):
                return one.ts
        return None

    # The stage.

    def _look_back(self, provider: Record) -> None:
        """What the provider's record says only now."""

    def _provider_row(self) -> str:
        return ACME.format(url=self.provider.url, model=MODEL)

    def _keys(self) -> dict[str, str]:
        return {"ACME_KEY": KEY}

    def _wait_for_quiet(self) -> None:
        """As long as more and more results are posted: on a busy machine they take many minutes."""
        fewest, deadline = self._judged().unposted, time.monotonic() + PATIENCE_S
        while not self._is_quiet():
            if (unposted := self._judged().unposted) < fewest:
                fewest, deadline = unposted, time.monotonic() + PATIENCE_S
            assert time.monotonic() < deadline, f"the bot never came to rest, {unposted} results are missing"
            time.sleep(1)

    def _is_quiet(self) -> bool:
        """A judgement makes no noise, nor does waiting for a trainer to start or for a list to show a job, and a busy
        machine takes seconds for each: where something is missing, longer is listened."""
        silent_s = time.monotonic() - max(self.provider.last_asked, self.slack.last_called)
        if silent_s < self.quiet_s:
            return False
        verdict = self._judged()
        return silent_s > SURELY_QUIET_S or not (verdict.lost or verdict.unposted or self._left_running())

    def _left_running(self) -> int:
        """Machines that cost money by the hour."""
        return 0

    def _service_settings(self, record: Record) -> dict[str, Any]:
        """What every vendor's stand-in is told in a storm."""
        return {
            "answer": answer,
            "stage_s": STAGE_S,
            "list_lag_s": self.orders.list_lag_s,
            "record": record,
            "weather": self._weather,
            "passing": self._passing,
        }

    def _hosted(self, record: Record) -> Any:
        service = RecordedService(models=(MODEL,), **self._service_settings(record))
        return StormyHosted(service, weather=self._weather)

    def _slack(self, record: Record) -> StormySlack:
        scopes = ALL_SCOPES | READING_SCOPES if self.orders.may_read else ALL_SCOPES
        if self.orders.lasting:
            scopes -= {"im:write"}
        cast = {"people": PEOPLE, "channels": (PRIVATE, CLOSED), "scopes": scopes}
        slack = StormySlack(record, self._weather, self._passing, **cast)
        if self.orders.lasting:
            plot = f"{LOSS}, {MODEL} on {name_of(1)}"
            slack.fail("files.completeUploadExternal", refused("internal_error"), times=None, text=plot)
        return slack

    def _settle_in(self) -> None:
        port, door = free_port(), self.slack.access
        self.slack.deliver_to(f"http://127.0.0.1:{port}/slack/events")
        config = self.folder / "finetune.toml"
        people = settings(door.api_url, port, self.orders.budget_usd)
        config.write_text(people + self._provider_row(), encoding="utf-8")
        environment = {
            "SLACK_BOT_TOKEN": door.bot_token,
            "SLACK_SIGNING_SECRET": door.signing_secret,
            **self._keys(),
        }
        self._body = {
            "config": str(config),
            "environment": environment,
            "born": time.time(),
            "speed": self.speed,
            "late_s": A_DAY_S if self.orders.may_read else 0.0,
        }
        seed_datasets(self.folder / "data", self.orders.runs)


def name_of(number: int) -> str:
    return f"tickets{number:03d}"


def place_of(number: int) -> Channel:
    return CLOSED if number == IN_CLOSED else PRIVATE


def seed_datasets(data: Path, count: int) -> None:
    """As uploads leave them, without the fetching and the workers."""
    files = data / "files"
    files.mkdir(parents=True)
    source = files / "tickets.csv"
    source.write_text(tickets_csv(), encoding="utf-8")
    report = check_file(source, source.name, Columns(None, None), files, SEED)
    store = Store(data / "finetune.db")
    for number in range(count):
        new = NewDataset(name_of(number), place_of(number).id, DORA.id, source.name, f"F{number}")
        received = store.datasets.receive(new, now=time.time())
        changes = {"sha256": report.source_sha256, "report": report.to_json()}
        assert store.datasets.move(received, "ready", now=time.time(), **changes)
    store.close()


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
abilities = ["metadata", "metadata_filter", "method", "suffix", "checkpoints", "chat"]
[providers.acme.models."{model}"]
training = "8.00"
input = "0.80"
cached_input = "0.20"
output = "3.20"
"""
