"""Work in processes of its own: its value once, its error, and a fresh process after one was killed."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bot.cli.options import EXIT_UNUSABLE, limited_memory
from bot.services.dataset_worker import inspect
from bot.worker_pool import MEMORY_BYTES, WorkerPool, WorkerStopped
from demo.workspace import wait_until
from trainers.dataset import Columns, read


def process_id() -> int:
    return os.getpid()


def fails(what: str) -> None:
    raise LookupError(what)


def sleeps(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@pytest.fixture
def workers() -> Iterator[WorkerPool]:
    workers = WorkerPool()
    yield workers
    workers.close()


def work_of_its_own(workers: WorkerPool, key: str) -> int:
    assert workers.poll(key, process_id) is None
    return wait_until(lambda: workers.poll(key, process_id), "the worker's answer")


def test_the_value_comes_once_from_another_process(workers: WorkerPool) -> None:
    assert work_of_its_own(workers, "a") != os.getpid()
    assert workers.poll("a", process_id) is None, "asked again, it is done again"
    wait_until(lambda: workers.poll("a", process_id), "the second answer")


def test_asking_again_while_it_goes_on_starts_nothing_new(workers: WorkerPool) -> None:
    started = time.monotonic()
    while workers.poll("a", sleeps, 0.3) is None:
        assert time.monotonic() - started < 20
        time.sleep(0.01)
    assert workers.poll("b", process_id) is None
    wait_until(lambda: workers.poll("b", process_id), "the next work, not behind a hundred sleeps")


def test_the_value_comes_once_though_the_work_ends_while_it_is_polled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    workers = WorkerPool()
    advance = workers._advance

    def advance_until_it_ends() -> None:
        advance()
        if future := workers._tasks["a"].future:
            future.result()

    assert workers.poll("a", sleeps, 0.5) is None
    with monkeypatch.context() as patch:
        patch.setattr(workers, "_advance", advance_until_it_ends)
        value = workers.poll("a", sleeps, 0.5)
    assert value or workers.poll("a", sleeps, 0.5) == "slept"
    assert not workers.has("a"), "its value was fetched"
    workers.close()


def test_what_it_raised_is_raised_here_once(workers: WorkerPool) -> None:
    assert workers.poll("a", fails, "no such row") is None
    with pytest.raises(LookupError, match="no such row"):
        wait_until(lambda: workers.poll("a", fails, "no such row"), "the error")
    assert workers.poll("a", sleeps, 0.0) is None
    assert wait_until(lambda: workers.poll("a", sleeps, 0.0), "the second try") == "slept"


def test_a_worker_killed_at_work_is_said_and_replaced(workers: WorkerPool) -> None:
    victim = work_of_its_own(workers, "a")
    assert workers.poll("long", sleeps, 60.0) is None
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(WorkerStopped, match="ended by the system"):
        wait_until(lambda: workers.poll("long", sleeps, 60.0), "the death")
    assert work_of_its_own(workers, "b") not in (victim, os.getpid())


def test_a_worker_killed_while_idle_is_replaced_unnoticed(workers: WorkerPool) -> None:
    victim = work_of_its_own(workers, "a")
    os.kill(victim, signal.SIGKILL)
    pool = workers._children[0]._pool
    wait_until(lambda: pool is None or pool._broken, "the pool's notice")
    assert work_of_its_own(workers, "b") not in (victim, os.getpid())


def test_a_task_past_its_deadline_is_ended_and_no_other_hears_of_it() -> None:
    workers = WorkerPool(deadline_s=3.0)
    try:
        victim = work_of_its_own(workers, "a")
        assert workers.poll("hangs", sleeps, 600.0) is None
        assert workers.poll("short", sleeps, 0.1) is None
        assert workers.poll("waits", process_id) is None, "a third task, while both processes are at work"
        assert wait_until(lambda: workers.poll("short", sleeps, 0.1), "the second process's work") == "slept"
        assert wait_until(lambda: workers.poll("waits", process_id), "what waited") != victim
        with pytest.raises(WorkerStopped, match="took longer than"):
            wait_until(lambda: workers.poll("hangs", sleeps, 600.0), "its end")
        assert work_of_its_own(workers, "b") != victim
    finally:
        workers.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_task_that_takes_too_much_memory_fails_alone_and_its_process_goes() -> None:
    workers = WorkerPool(1, memory=1 << 30)
    try:
        first = work_of_its_own(workers, "a")
        with pytest.raises(WorkerStopped, match="more memory"):
            wait_until(lambda: workers.poll("greedy", bytearray, 2 << 30), "the refusal")
        assert work_of_its_own(workers, "b") != first
    finally:
        workers.close()


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_parquet_bomb_in_nested_rows_ends_as_a_finding_within_the_process_s_memory(tmp_path: Path) -> None:
    """Nested texts can't be measured before they are unpacked: 3,000 rows that share one of 20 MB."""
    rows = 3000
    shared = pa.DictionaryArray.from_arrays(
        pa.array([0, 1] * rows, pa.int32()), pa.array(["x" * 20_000_000, "refund"])
    )
    roles = pa.array(["user", "assistant"] * rows)
    messages = pa.StructArray.from_arrays([roles, shared], names=["role", "content"])
    offsets = pa.array(range(0, 2 * rows + 1, 2), pa.int32())
    table = pa.table({"messages": pa.ListArray.from_arrays(offsets, messages)})
    path = tmp_path / "bomb.parquet"
    pq.write_table(table, path, write_statistics=False, store_schema=False, compression="zstd")
    assert path.stat().st_size < 50_000
    workers = WorkerPool(1, memory=2 << 30)
    try:
        reading = wait_until(lambda: workers.poll("bomb", read, path, "bomb.parquet"), "the reading")
    finally:
        workers.close()
    assert [finding.code for finding in reading.findings] == ["too_big_unpacked"]


def test_a_command_on_a_strange_file_has_the_same_limit_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(SystemExit) as ended, limited_memory():
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == MEMORY_BYTES
        raise MemoryError
    assert (ended.value.code, resource.getrlimit(resource.RLIMIT_DATA)) == (EXIT_UNUSABLE, before)
    assert "more than 6 GB of memory" in capsys.readouterr().err


def test_the_oldest_task_s_age_is_known_until_it_is_done(workers: WorkerPool) -> None:
    assert workers.oldest_s == 0.0
    assert workers.poll("a", sleeps, 0.05) is None
    assert workers.oldest_s > 0.0
    wait_until(lambda: workers.poll("a", sleeps, 0.05), "the answer")
    assert workers.oldest_s == 0.0


def test_rows_beyond_the_models_limit_are_found_by_the_inspection(tmp_path: Path) -> None:
    rows = [f"question {i} on {i * 77 % 91} {'and more ' * (i % 2 * 200)},{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]))

    seen = inspect(
        tmp_path / "a.csv",
        "a.csv",
        Columns(),
        tmp_path,
        7,
        previous=None,
        drawings=tmp_path,
        longest=300,
        lengths_by=None,
        presidio=False,
        local_models={},
    )

    assert sum(finding.count for finding in seen.report.findings if finding.code == "row_too_long") == 20
