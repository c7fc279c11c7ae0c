"""The crash sweep: each step of a run dies at its N-th line, for every N, and the bot's next life must set it right.

Deaths that leave the same database and the same peers have the same future, so the recovery is played once for each
distinct *state*; the deaths themselves are all real. `bisect` finds the states with fewer deaths: if two deaths leave
the same state, so do those between them, because a step undoes nothing.
"""

from __future__ import annotations

import copy
import hashlib
import json
import shutil
import signal
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Literal

from bot.services.common.provider_jobs import SETTLE_S
from storage.audit import IntactLog, verify_log
from storage.driver import sqlite3
from tests.bot.hosting import company, host, hosting_rules
from tests.bot.world import PRIVATE, Rules, World, words_of
from tests.chaos.fork_host import ForkHost
from tests.peers.hosted import COMMIT_THEN_500, KEY, NOT_AVAILABLE, NOTHING_BUT_500

NEVER_DONE, SOON_DONE = ("running",), ("running", "succeeded")
COLUMNS = {  # of the database, without those that depend on the clock
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
SLACK_FIELDS = (
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
    """`prepare` brings a world to the beginning of the step. After the recovery, which has `ticks`, the provider must
    have `jobs` that aren't cancelled, and at most `created` in all. With `results` the result must be in the channel;
    with `promoted` the model must be in use, with its card and the provider's alias. A hosted step must have started
    one machine and left none running. Quick steps are among the default tests; `is_of_dialects` steps are also tried
    at vendors with their own APIs."""

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
class SweepResult:
    """How many lines a step has, how many deaths were tried and states left, and what went wrong where. The last death
    comes at the end of the step, before anything is closed."""

    step: str
    lines: int
    deaths: int = 0
    states: int = 0
    wrong: list[str] = field(default_factory=list)


def _request_plan(world: World) -> None:
    world.provider.service.stages = NEVER_DONE
    world.start()
    world.tick(3)


def _approve(world: World) -> None:
    _request_plan(world)
    world.approve()


def _create_with(world: World, fault: Any) -> None:
    world.provider.fail(world.create_route, fault)
    _approve(world)
    world.tick()
    assert world.run().state == "creating"


def _create_in_vain(world: World) -> None:
    _create_with(world, NOTHING_BUT_500)
    world.pass_time(SETTLE_S)


def _approve_where_training_is_closed(world: World) -> None:
    world.provider.fail(world.create_route, NOT_AVAILABLE, times=9)
    _approve(world)


def _train(world: World) -> None:
    _approve(world)
    world.tick(3)
    assert world.run().state == "training"


def _finish_training(world: World) -> None:
    _train(world)
    world.provider.service.stages = SOON_DONE
    world.pass_time(60)


def _evaluate(world: World) -> None:
    _finish_training(world)
    world.tick_until_state("evaluating")


def _get_answers(world: World) -> None:
    _evaluate(world)
    answers = world.store.runs.answers
    world.tick_until(lambda: len(answers(1, "tuned")) == len(answers(1, "base")) == 18, "all answers")


def _finish_with_aliases(world: World) -> None:
    world.abilities += ', "aliases"'
    world.restart()
    world.start_approved()
    world.tick_until_state("done")


def _evaluate_hosted(world: World) -> None:
    host(world)
    _evaluate(world)


def _start_machine(world: World) -> None:
    _evaluate_hosted(world)
    world.tick_until(lambda: company(world).running, "a machine")
    world.pass_time(10)


def _start_machine_without_answer(world: World) -> None:
    world.provider.fail("POST /selfserve/deployments", COMMIT_THEN_500)
    _start_machine(world)


def _finish_hosted(world: World) -> None:
    host(world)
    world.start_approved()
    world.tick_until_state("done")


def _leave_machine_idle(world: World) -> None:
    _finish_hosted(world)
    world.pass_time(300)


STEPS = (
    Step("approve", _request_plan, act="approve"),
    Step("create", _approve, is_quick=True, is_of_dialects=True),
    Step(
        "adopt a job whose answer got lost",
        lambda world: _create_with(world, COMMIT_THEN_500),
        is_of_dialects=True,
    ),
    Step("create again after SETTLE", _create_in_vain),
    Step("create, and be refused", _approve_where_training_is_closed, jobs=0, created=0),
    Step("follow a job that trains", _train),
    Step("take a model that is trained", _finish_training, results=True),
    Step("ask both models", _evaluate, results=True),
    Step("judge and post the result", _get_answers, results=True),
    Step("cancel a job that trains", _train, act="cancel", jobs=0, is_of_dialects=True),
    Step("cancel before the create", _approve, act="cancel", jobs=0, created=0),
    Step("deploy a model", _finish_with_aliases, act="promote", results=True, promoted=True),
    Step("start a machine", _evaluate_hosted, results=True, is_hosted=True, ticks=70),
    Step(
        "find a machine whose answer got lost",
        _start_machine_without_answer,
        results=True,
        is_hosted=True,
        ticks=50,
    ),
    Step("see a machine ready", _start_machine, results=True, is_hosted=True, ticks=50),
    Step("stop an idle machine", _leave_machine_idle, results=True, is_hosted=True),
    Step("stop a machine by a click", _finish_hosted, act="stop", results=True, is_hosted=True),
)


class Sweep:
    """Sweeps one step from a world that is prepared and then stopped: only its data and its peers are used."""

    def __init__(self, world: World, forks: ForkHost, step: Step) -> None:
        self._world = world
        self._forks = forks
        self._step = step
        step.prepare(world)
        self._now = world.clock
        world.stop()
        self._data, self._database_copy = world.folder / "swept", world.folder / "copy.db"
        with closing(sqlite3.connect(str(world.folder / "data" / "finetune.db"))) as connection:
            connection.execute("VACUUM INTO ?", (str(self._database_copy),))
        config = (world.folder / "finetune.toml").read_text(encoding="utf-8")
        self._config = world.folder / "swept.toml"
        self._config.write_text(config.replace('data = "data"', 'data = "swept"'), encoding="utf-8")
        self._line_count = world.folder / "lines"
        service = world.provider.service
        self._provider = copy.deepcopy(
            (service.files, service.jobs, service.aliases, service._uploads, service._creates)
        )
        self._machines = copy.deepcopy(getattr(service, "machines", []))
        self._slack = {name: copy.deepcopy(getattr(world.slack._state, name)) for name in SLACK_FIELDS}
        self._faults = copy.deepcopy(world.provider._faults)
        self._problems: dict[str, str | None] = {}

    def try_every_line(self) -> SweepResult:
        result = SweepResult(self._step.name, self._count_lines())
        for line in range(1, result.lines + 2):
            self._try(line, result)
        return result

    def bisect(self) -> SweepResult:
        result = SweepResult(self._step.name, self._count_lines())
        states = {line: self._try(line, result) for line in (1, result.lines + 1)}
        self._bisect(result, states, 1, result.lines + 1)
        return result

    def _bisect(self, result: SweepResult, states: dict[int, str], low: int, high: int) -> None:
        if high - low < 2 or states[low] == states[high]:
            return
        middle = (low + high) // 2
        states[middle] = self._try(middle, result)
        self._bisect(result, states, low, middle)
        self._bisect(result, states, middle, high)

    def _count_lines(self) -> int:
        """Returns how many lines the step has if nobody kills it."""
        status = self._die(10**9)
        assert status == 0, f"the step {self._step.name!r} fails without being killed: {status}"
        return int(self._line_count.read_text(encoding="ascii"))

    def _try(self, line: int, result: SweepResult) -> str:
        """Dies at a line, recovers if the state is new, and returns the state."""
        status = self._die(line)
        assert status in (0, -signal.SIGKILL), f"{self._step.name}, line {line}: exit status {status}"
        result.deaths += 1
        state = self._hash_state()
        if state not in self._problems:
            result.states += 1
            self._problems[state] = self._recover()
            if self._problems[state]:
                result.wrong.append(f"{self._step.name}, killed at line {line}: {self._problems[state]}")
        return state

    def _die(self, line: int) -> int:
        self._restore()
        return self._forks.wait(self._start("die", line=line, count_file=str(self._line_count)))

    def _recover(self) -> str | None:
        """Plays the bot's next life, and returns what is wrong after it."""
        status = self._forks.wait(self._start("recover", ticks=self._step.ticks))
        service = self._world.provider.service
        live = [job for job in service.jobs.values() if not job.is_cancelled]
        results = sum("Result of run" in words_of(card) for card in self._world.slack.messages(PRIVATE.id))
        log = verify_log(self._data / "finetune.db")
        problems = [
            f"the next life ended with {status}" if status else "",
            f"{len(live)} live jobs, not {self._step.jobs}" if len(live) != self._step.jobs else "",
            f"{len(service.jobs)} jobs were created" if len(service.jobs) > self._step.created else "",
            "the result was not posted" if self._step.results and not results else "",
            self._check_promotion() if self._step.promoted else "",
            self._check_machines() if self._step.is_hosted else "",
            "" if isinstance(log, IntactLog) else f"the audit log is broken: {log.why}",
        ]
        return "; ".join(filter(None, problems)) or None

    def _check_promotion(self) -> str:
        with closing(sqlite3.connect(str(self._data / "finetune.db"))) as connection:
            current = connection.execute(
                "SELECT model, carried_at FROM promotions WHERE ended_at IS NULL"
            ).fetchall()
        cards = sum("is in use for tickets" in card.text for card in self._world.slack.messages(PRIVATE.id))
        alias = self._world.provider.service.aliases.get("team/tickets", "")
        if len(current) == 1 and current[0][1] and cards and alias.startswith("ft:"):
            return ""
        return f"{current} are in use, with {cards} cards, and the alias stands for {alias!r}"

    def _check_machines(self) -> str:
        """By the vendor's own ledger."""
        machines, running = company(self._world).machines, company(self._world).running
        if len(machines) == 1 and not running:
            return ""
        return f"{len(machines)} machines were started, and {len(running)} are left running"

    def _start(self, function: str, **more: Any) -> int:
        access = self._world.slack.access
        environment = {
            "SLACK_BOT_TOKEN": access.bot_token,
            "SLACK_SIGNING_SECRET": access.signing_secret,
            "ACME_KEY": KEY,
        }
        return self._forks.start(
            f"tests.chaos.crash:{function}",
            config=str(self._config),
            environment=environment,
            now=self._now,
            act=self._step.act,
            **more,
        )

    def _restore(self) -> None:
        """Resets the database and the peers to the beginning of the step."""
        shutil.rmtree(self._data, ignore_errors=True)
        self._data.mkdir()
        (self._data / "files").symlink_to(self._world.folder / "data" / "files")
        shutil.copy(self._database_copy, self._data / "finetune.db")
        service, slack = self._world.provider.service, self._world.slack._state
        (service.files, service.jobs, service.aliases, service._uploads, service._creates) = copy.deepcopy(
            self._provider
        )
        if self._step.is_hosted:
            company(self._world).machines = copy.deepcopy(self._machines)
        self._world.provider._faults = copy.deepcopy(self._faults)
        with slack.lock:
            for name, value in self._slack.items():
                setattr(slack, name, copy.deepcopy(value))

    def _hash_state(self) -> str:
        """Hashes what a death left in the database, at the provider and in the channels, except what depends on the
        clock."""
        with closing(sqlite3.connect(str(self._data / "finetune.db"))) as connection:
            tables = {
                table: connection.execute(f"SELECT {columns} FROM {table} ORDER BY 1").fetchall()  # noqa: S608
                for table, columns in COLUMNS.items()
            }
        service, slack = self._world.provider.service, self._world.slack._state
        state = {
            "tables": tables,
            "files": list(service.files),
            "aliases": service.aliases,
            "jobs": [(job.id, job.is_cancelled) for job in service.jobs.values()],
            "machines": [(each.name, each.ended is None) for each in getattr(service, "machines", ())],
            "messages": {
                channel: [(message.edits, message.body["text"]) for message in messages]
                for channel, messages in slack.messages.items()
            },
        }
        return hashlib.sha256(json.dumps(state, default=str).encode()).hexdigest()
