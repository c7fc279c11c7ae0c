"""What a person waits for does not grow with the runs that went before."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bot.services import evaluation_worker, evidence, runs
from bot.values.runs import Progress
from demo.people import ANA, BEN, TICKETS
from tests.bot.seeded_runs import finished_runs
from tests.bot.world import START, World
from trainers.dataset import Reading, read

LOCKED = Path("read inside a transaction")


@pytest.fixture
def reads(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of held-out rows that are read from now on; LOCKED for one that is read inside a transaction."""
    files: list[Path] = []

    def reading(path: Path, *rest: Any) -> Reading:
        files.append(LOCKED if world.store.database.utils.conn.in_transaction else path)
        return read(path, *rest)

    for place in (evaluation_worker, evidence):
        monkeypatch.setattr(place, "read", reading)
    return files


def done(world: World) -> World:
    world.start_approved()
    world.tick_until_state("done")
    return world


def test_a_result_beside_fifteen_earlier_runs_reads_no_held_out_rows(world: World, reads: list[Path]) -> None:
    finished_runs(done(world), 15)
    reads.clear()
    assert "Run 16" in world.type("/finetune results 16")
    assert world.type("/finetune promote tickets-16", user=BEN) == ""
    assert not reads


def test_statements_for_a_result_do_not_grow_with_the_runs_before(world: World) -> None:
    finished_runs(done(world), 12)
    few = statements(world, lambda: runs.summarize(world.service.context, 12, ANA, TICKETS))
    finished_runs(world, 40, after=13)
    assert statements(world, lambda: runs.summarize(world.service.context, 12, ANA, TICKETS)) == few


def test_the_end_of_a_run_reads_no_file_while_it_holds_the_write_lock(
    world: World, reads: list[Path]
) -> None:
    finished_runs(done(world), 15)
    world.start(f"{START} epochs=7")
    world.approve()
    world.tick_until_state("evaluating", 17)
    reads.clear()
    world.tick_until_state("done", 17)
    assert LOCKED not in reads


def statements(world: World, ask: Callable[[], object]) -> int:
    ran: list[str] = []
    connection = world.store.database.utils.conn
    connection.set_trace_callback(ran.append)
    ask()
    connection.set_trace_callback(None)
    return len(ran)


def test_while_answers_come_a_tick_reads_no_held_out_rows(world: World, reads: list[Path]) -> None:
    def answered() -> int:
        return Progress.from_json(world.run().progress).evaluated

    world.provider.slow_s = 0.3  # the rows' questions go out in three waves
    world.start_approved()
    world.tick_until(answered, "the first answers")
    reads.clear()
    world.tick(3)
    assert answered() < 36 and world.run().state == "evaluating"
    assert not reads
    world.provider.slow_s = 0.0
    world.tick_until_state("done")
