"""The crash sweep: each step of a run dies at its N-th line, for every N, and the next life must set it right.

Deaths that leave the same database and the same peers have the same future, so that is lived through once for each
*state* that they leave; the deaths themselves are all real. `halving` finds the states with fewer of them: where two
deaths leave the same state those between them do too, since a step undoes nothing.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import signal
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

from bot.services.provider_jobs import SETTLE_S
from storage.audit import IntactLog, verify_log
from storage.driver import sqlite3
from tests.bot.hosting import company, host, hosting_rules
from tests.bot.world import PRIVATE, Rules, World, words_of
from tests.chaos.fork_host import ForkHost
from tests.peers.hosted import COMMIT_THEN_500, KEY, NOT_AVAILABLE, NOTHING_BUT_500

FOR_EVER, AT_ONCE = ("running",), ("running", "succeeded")
REMEMBERED = {
    "runs": "id, state, tries, job_id, file_id, model, cancel_asked_by, wish, reserved_micros, actual_micros",
    "approvals": "run_id, person, decision",
    "ledger": "run_id, kind, micros",
    "outbox": "id, kind, card, thread, dedupe, state, tries",
    "sent_once": "dedupe",
    "cards": "name",
    "audit": "who, action, subject",
    "models": "name, state",
    "promotions": "id, model, ended_at IS NULL, carried_at IS NOT NULL, tries",
    "answers": "run_id, arm, row",
    "deployments": "name, state, sent_at > 0, billed_until > 0, chat_model, reason",
}
OF_SLACK = (
    "messages",
    "files",
    "uploads",
    "modals",
    "homes",
    "triggers",
    "response_urls",
    "calls",
    "channels",
)


@dataclass(frozen=True)
class Step:
    """`prepare` brings a world to where the step begins. Afterwards the provider has `jobs` that are not cancelled,
    and `created` in all; `results` says whether the result must stand in the channel, `promoted` whether the model is
    in use, with its card, and the provider's alias stands for it. Those that are `is_quick` are among the default
    tests, and those `is_of_dialects` at vendors with an API of their own. Where it `is_hosted`, one machine is started
    in all, and none is left running after `ticks`."""

    name: str
    prepare: Callable[[World], object]
    act: Literal["tick", "approve", "cancel", "promote", "stop"] = "tick"
    jobs: int = 1
    created: int = 1
    results: bool = False
    promoted: bool = False
    is_quick: bool = False
    is_of_dialects: bool = False
    is_hosted: bool = False
    ticks: int = 30

    @property
    def rules(self) -> Rules:
        return hosting_rules(idle_s=300) if self.is_hosted else Rules()


@dataclass
class Found:
    """Of one step: how many lines it has, how many deaths were died and states left, and what went wrong where.
    The last death comes when the step is through, before anything is closed."""

    step: str
    lines: int
    deaths: int = 0
    states: int = 0
    wrong: list[str] = field(default_factory=list)


def _asked(world: World) -> None:
    world.provider.service.stages = FOR_EVER
    world.start()
    world.tick(3)


def _approved(world: World) -> None:
    _asked(world)
    world.approve()


def _in_doubt(world: World, fault: Any) -> None:
    world.provider.fail(world.create_route, fault)
    _approved(world)
    world.tick()
    assert world.run().state == "creating"


def _again(world: World) -> None:
    _in_doubt(world, NOTHING_BUT_500)
    world.pass_time(SETTLE_S)


def _refused(world: World) -> None:
    world.provider.fail(world.create_route, NOT_AVAILABLE, times=9)
    _approved(world)


def _training(world: World) -> None:
    _approved(world)
    world.tick(3)
    assert world.run().state == "training"


def _trained(world: World) -> None:
    _training(world)
    world.provider.service.stages = AT_ONCE
    world.pass_time(60)


def _evaluating(world: World) -> None:
    _trained(world)
    world.tick_until_state("evaluating")


def _answered(world: World) -> None:
    _evaluating(world)
    answers = world.store.runs.answers
    world.tick_until(lambda: len(answers(1, "tuned")) == len(answers(1, "base")) == 18, "all answers")


def _done(world: World) -> None:
    world.abilities += ', "aliases"'
    world.restart()
    world.start_approved()
    world.tick_until_state("done")


def _on_a_machine(world: World) -> None:
    host(world)
    _evaluating(world)


def _starting(world: World) -> None:
    _on_a_machine(world)
    world.tick_until(lambda: company(world).running, "a machine")
    world.pass_time(10)


def _start_lost(world: World) -> None:
    world.provider.fail("POST /selfserve/deployments", COMMIT_THEN_500)
    _starting(world)


def _answered_there(world: World) -> None:
    host(world)
    world.start_approved()
    world.tick_until_state("done")


def _idle(world: World) -> None:
    _answered_there(world)
    world.pass_time(300)


STEPS = (
    Step("approve", _asked, act="approve"),
    Step("create", _approved, is_quick=True, is_of_dialects=True),
    Step(
        "adopt a job whose answer got lost",
        lambda world: _in_doubt(world, COMMIT_THEN_500),
        is_of_dialects=True,
    ),
    Step("create again after SETTLE", _again),
    Step("create, and be refused", _refused, jobs=0, created=0),
    Step("follow a job that trains", _training),
    Step("take a model that is trained", _trained, results=True),
    Step("ask both models", _evaluating, results=True),
    Step("judge and post the result", _answered, results=True),
    Step("cancel a job that trains", _training, act="cancel", jobs=0, is_of_dialects=True),
    Step("cancel before the create", _approved, act="cancel", jobs=0, created=0),
    Step("put a model to work", _done, act="promote", results=True, promoted=True),
    Step("start a machine", _on_a_machine, results=True, is_hosted=True, ticks=70),
    Step("find a machine whose answer got lost", _start_lost, results=True, is_hosted=True, ticks=50),
    Step("see a machine ready", _starting, results=True, is_hosted=True, ticks=50),
    Step("stop a machine that nobody asks", _idle, results=True, is_hosted=True),
    Step("stop a machine by a click", _answered_there, act="stop", results=True, is_hosted=True),
)


class Sweep:
    """Of one step, from a world that is prepared and then stopped: only its data and its peers are used."""

    def __init__(self, world: World, forks: ForkHost, step: Step) -> None:
        self._world, self._forks, self._step = world, forks, step
        step.prepare(world)
        self._now = world.clock
        world.stop()
        self._data, self._kept = world.folder / "swept", world.folder / "kept.db"
        with closing(sqlite3.connect(str(world.folder / "data" / "finetune.db"))) as connection:
            connection.execute("VACUUM INTO ?", (str(self._kept),))
        config = (world.folder / "finetune.toml").read_text(encoding="utf-8")
        self._config = world.folder / "swept.toml"
        self._config.write_text(config.replace('data = "data"', 'data = "swept"'), encoding="utf-8")
        service = world.provider.service
        self._provider = copy.deepcopy(
            (service.files, service.jobs, service.aliases, service._uploads, service._creates)
        )
        self._machines = copy.deepcopy(getattr(service, "machines", []))
        self._slack = {name: copy.deepcopy(getattr(world.slack._state, name)) for name in OF_SLACK}
        self._faults = copy.deepcopy(world.provider._faults)
        self._judged: dict[str, str | None] = {}

    def every(self) -> Found:
        found = Found(self._step.name, self._lines())
        for line in range(1, found.lines + 2):
            self._note(found, line)
        return found

    def halving(self) -> Found:
        found = Found(self._step.name, self._lines())
        states = {line: self._note(found, line) for line in (1, found.lines + 1)}
        self._halve(found, states, 1, found.lines + 1)
        return found

    def _halve(self, found: Found, states: dict[int, str], low: int, high: int) -> None:
        if high - low < 2 or states[low] == states[high]:
            return
        middle = (low + high) // 2
        states[middle] = self._note(found, middle)
        self._halve(found, states, low, middle)
        self._halve(found, states, middle, high)

    def _lines(self) -> int:
        """How many the step has when nobody kills it."""
        code = self._die(10**9)
        assert code == 0, f"the step {self._step.name!r} fails by itself: {code}"
        return int((self._world.folder / "lines").read_text(encoding="ascii"))

    def _note(self, found: Found, line: int) -> str:
        code = self._die(line)
        assert code in (0, -signal.SIGKILL), f"{self._step.name}, line {line}: it ended with {code}"
        found.deaths += 1
        state = self._state()
        if state not in self._judged:
            found.states += 1
            self._judged[state] = self._what_is_wrong()
            if self._judged[state]:
                found.wrong.append(f"{self._step.name}, killed at line {line}: {self._judged[state]}")
        return state

    def _die(self, line: int) -> int:
        self._set_back()
        return self._run("die", line=line, told=str(self._world.folder / "lines"))

    def _what_is_wrong(self) -> str | None:
        code = self._run("recover", ticks=self._step.ticks)
        service = self._world.provider.service
        living = [job for job in service.jobs.values() if not job.is_cancelled]
        posted = sum("Result of run" in words_of(one) for one in self._world.slack.messages(PRIVATE.id))
        chain = verify_log(self._data / "finetune.db")
        wrong = [
            f"the next life ended with {code}" if code else "",
            f"{len(living)} live jobs, not {self._step.jobs}" if len(living) != self._step.jobs else "",
            f"{len(service.jobs)} jobs were created" if len(service.jobs) > self._step.created else "",
            "the result was not posted" if self._step.results and not posted else "",
            self._wrong_in_use() if self._step.promoted else "",
            self._wrong_machines() if self._step.is_hosted else "",
            "" if isinstance(chain, IntactLog) else f"the audit log is broken: {chain.why}",
        ]
        return "; ".join(one for one in wrong if one) or None

    def _wrong_in_use(self) -> str:
        with closing(sqlite3.connect(str(self._data / "finetune.db"))) as connection:
            standing = connection.execute(
                "SELECT model, carried_at FROM promotions WHERE ended_at IS NULL"
            ).fetchall()
        cards = sum("is in use for tickets" in one.text for one in self._world.slack.messages(PRIVATE.id))
        alias = self._world.provider.service.aliases.get("team/tickets", "")
        is_right = len(standing) == 1 and standing[0][1] and cards and alias.startswith("ft:")
        return (
            ""
            if is_right
            else f"in use are {standing}, with {cards} cards, and the alias stands for {alias!r}"
        )

    def _wrong_machines(self) -> str:
        """By the vendor's own ledger."""
        machines, running = company(self._world).machines, company(self._world).running
        is_right = len(machines) == 1 and not running
        return (
            "" if is_right else f"{len(machines)} machines were started, and {len(running)} are left running"
        )

    def _run(self, what: str, **more: Any) -> int:
        return self._forks.wait(self._born(what, **more))

    def _born(self, what: str, **more: Any) -> int:
        door = self._world.slack.access
        environment = {
            "SLACK_BOT_TOKEN": door.bot_token,
            "SLACK_SIGNING_SECRET": door.signing_secret,
            "ACME_KEY": KEY,
        }
        return self._forks.start(
            f"tests.chaos.crash:{what}",
            config=str(self._config),
            environment=environment,
            now=self._now,
            act=self._step.act,
            **more,
        )

    def _set_back(self) -> None:
        shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir()
        (self._data / "files").symlink_to(self._world.folder / "data" / "files")
        shutil.copy(self._kept, self._data / "finetune.db")
        service, state = self._world.provider.service, self._world.slack._state
        (service.files, service.jobs, service.aliases, service._uploads, service._creates) = copy.deepcopy(
            self._provider
        )
        if self._step.is_hosted:
            company(self._world).machines = copy.deepcopy(self._machines)
        self._world.provider._faults = copy.deepcopy(self._faults)
        with state.lock:
            for name, value in self._slack.items():
                setattr(state, name, copy.deepcopy(value))

    def _state(self) -> str:
        """What a death left: the database, the provider and the channel, without what only the clock decides."""
        with closing(sqlite3.connect(str(self._data / "finetune.db"))) as connection:
            remembered = {
                table: connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1").fetchall()  # noqa: S608
                for table, columns in REMEMBERED.items()
            }
        service, slack = self._world.provider.service, self._world.slack._state
        jobs = [(job.id, job.is_cancelled) for job in service.jobs.values()]
        said = {
            place: [(one.edits, one.body["text"]) for one in some] for place, some in slack.messages.items()
        }
        whole: Mapping[str, Any] = {
            "ours": remembered,
            "files": list(service.files),
            "aliases": service.aliases,
            "jobs": jobs,
            "machines": [(each.name, each.ended is None) for each in getattr(service, "machines", ())],
            "said": said,
        }
        return hashlib.sha256(json.dumps(whole, default=str).encode()).hexdigest()
