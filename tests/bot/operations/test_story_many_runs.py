"""What a person waits for takes no longer after many runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bot.services.datasets import dataset_worker
from bot.services.evidence import scored_rows
from bot.services.training import runs
from bot.values.runs import Progress
from demo.people import ANA, BEN, TICKETS
from tests.bot.runs import add_finished_runs
from tests.bot.world import START, World
from trainers.dataset import Reading, read

LOCKED = Path("read inside a transaction")


@pytest.fixture
def reads(world: World, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files of held-out rows that are read from now on; LOCKED for one read inside a transaction."""
    files: list[Path] = []

    def reading(path: Path, *rest: Any) -> Reading:
        files.append(LOCKED if world.store.database.utils.conn.in_transaction else path)
        return read(path, *rest)

    for module in (dataset_worker, scored_rows):
        monkeypatch.setattr(module, "read", reading)
    return files


@pytest.mark.deep
def test_a_result_costs_the_same_after_many_runs(world: World, reads: list[Path]) -> None:
    world.start_approved()
    world.tick_until_state("done")
    add_finished_runs(world, 12)
    context = world.service.context
    statements = count_statements(world, lambda: runs.summarize(context, 12, ANA.id, TICKETS.id))
    assert statements > 10, "the result was read"
    add_finished_runs(world, 15, after=13)
    assert count_statements(world, lambda: runs.summarize(context, 12, ANA.id, TICKETS.id)) == statements
    reads.clear()
    assert "Run 28" in world.type("/finetune results 28")
    assert world.type("/finetune promote tickets-28 because=the demo is today", user=BEN) == ""
    assert not reads, "no held-out rows are read"

    world.start(f"{START} epochs=7")
    world.approve()
    world.tick_until_state("evaluating", 29)
    reads.clear()
    world.tick_until_state("done", 29)
    assert LOCKED not in reads


def count_statements(world: World, call: Callable[[], object]) -> int:
    statements: list[str] = []
    connection = world.store.database.utils.conn
    connection.set_trace_callback(statements.append)
    call()
    connection.set_trace_callback(None)
    return len(statements)


@pytest.mark.deep
def test_a_tick_reads_no_held_out_rows_while_answers_arrive(world: World, reads: list[Path]) -> None:
    def answered() -> int:
        return Progress.from_json(world.run().progress).evaluated

    world.provider.slow_s = 0.3  # the rows' questions go out in three waves
    world.start_approved()
    world.tick_until(answered, "the first answers")
    reads.clear()
    world.tick(3)
    assert answered() < 36 and world.run().state == "evaluating"
    assert not reads
