"""Work in other processes: its value comes once, its exception is raised, and a killed process is replaced."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bot.cli.options import EXIT_UNUSABLE, limited_memory
from bot.services.datasets.dataset_worker import inspect
from bot.worker_pool import MEMORY_BYTES, WorkerPool, WorkerStopped
from tests.bot.cli_runner import ROOT
from tests.forked import forked_spawns
from tests.patience import wait_until
from trainers.dataset import Columns, read


def process_id() -> int:
    return os.getpid()


def fails(what: str) -> None:
    raise LookupError(what)


def sleeps(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@pytest.fixture
def forked() -> Iterator[None]:
    """Tests of the memory limit and of a killed parent have processes that were spawned."""
    with forked_spawns():
        yield


@pytest.fixture(scope="module")
def module_pool() -> Iterator[WorkerPool]:
    pool = WorkerPool()
    yield pool
    pool.close()


@pytest.fixture
def shared_pool(module_pool: WorkerPool, forked: None) -> WorkerPool:
    """For tests that leave its processes alive."""
    return module_pool


@pytest.fixture
def pool(forked: None) -> Iterator[WorkerPool]:
    pool = WorkerPool()
    yield pool
    pool.close()


def run_in_worker(pool: WorkerPool, key: str) -> int:
    """Returns the id of the process that did the work."""
    assert pool.poll(key, process_id) is None
    return wait_until(lambda: pool.poll(key, process_id), "the worker's answer")


def test_a_value_comes_once_and_from_another_process(shared_pool: WorkerPool) -> None:
    assert run_in_worker(shared_pool, "a") != os.getpid()
    assert shared_pool.poll("a", process_id) is None, "polled again, it is done again"
    wait_until(lambda: shared_pool.poll("a", process_id), "the second answer")


def test_polling_while_the_work_goes_on_starts_nothing_new(shared_pool: WorkerPool) -> None:
    assert shared_pool.oldest_s == 0.0
    assert shared_pool.poll("a", sleeps, 0.2) is None
    assert shared_pool.oldest_s > 0.0
    wait_until(lambda: shared_pool.poll("a", sleeps, 0.2), "the work")
    assert shared_pool.oldest_s == 0.0
    assert shared_pool.poll("b", process_id) is None
    wait_until(lambda: shared_pool.poll("b", process_id), "the next work, not behind a hundred sleeps")


def test_a_value_comes_once_even_if_the_work_ends_while_it_is_polled(
    shared_pool: WorkerPool, monkeypatch: pytest.MonkeyPatch
) -> None:
    advance = shared_pool._advance

    def advance_until_it_ends() -> None:
        advance()
        if future := shared_pool._tasks["a"].future:
            future.result()

    assert shared_pool.poll("a", sleeps, 0.2) is None
    with monkeypatch.context() as patch:
        patch.setattr(shared_pool, "_advance", advance_until_it_ends)
        value = shared_pool.poll("a", sleeps, 0.2)
    assert value or shared_pool.poll("a", sleeps, 0.2) == "slept"
    assert not shared_pool.has("a"), "its value was fetched"


def test_an_exception_of_the_work_is_raised_once(shared_pool: WorkerPool) -> None:
    assert shared_pool.poll("a", fails, "no such row") is None
    with pytest.raises(LookupError, match="no such row"):
        wait_until(lambda: shared_pool.poll("a", fails, "no such row"), "the error")
    assert shared_pool.poll("a", sleeps, 0.0) is None
    assert wait_until(lambda: shared_pool.poll("a", sleeps, 0.0), "the second try") == "slept"


def test_a_killed_worker_is_replaced_and_reported_if_it_was_at_work(pool: WorkerPool) -> None:
    busy = run_in_worker(pool, "a")
    assert pool.poll("long", sleeps, 60.0) is None
    os.kill(busy, signal.SIGKILL)
    with pytest.raises(WorkerStopped, match="ended by the system"):
        wait_until(lambda: pool.poll("long", sleeps, 60.0), "the death")
    idle = run_in_worker(pool, "b")
    assert idle not in (busy, os.getpid())

    os.kill(idle, signal.SIGKILL)
    wait_until(
        lambda: all(child._pool is None or child._pool._broken for child in pool._children[:1]),
        "the pool's notice",
    )
    assert run_in_worker(pool, "c") not in (busy, idle, os.getpid())


@pytest.mark.deep
@pytest.mark.usefixtures("forked")
def test_a_task_past_its_deadline_is_ended_and_no_other_is_affected() -> None:
    pool = WorkerPool(deadline_s=3.0)
    try:
        victim = run_in_worker(pool, "a")
        assert pool.poll("hangs", sleeps, 600.0) is None
        assert pool.poll("short", sleeps, 0.1) is None
        assert pool.poll("waits", process_id) is None, "a third task, while both processes are at work"
        assert wait_until(lambda: pool.poll("short", sleeps, 0.1), "the second process's work") == "slept"
        assert wait_until(lambda: pool.poll("waits", process_id), "what waited") != victim
        with pytest.raises(WorkerStopped, match="took longer than"):
            wait_until(lambda: pool.poll("hangs", sleeps, 600.0), "its end")
        assert run_in_worker(pool, "b") != victim
    finally:
        pool.close()


@pytest.mark.deep
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_task_that_takes_too_much_memory_fails_alone_and_its_process_ends() -> None:
    pool = WorkerPool(1, memory=1 << 30)
    try:
        first = run_in_worker(pool, "a")
        with pytest.raises(WorkerStopped, match="more memory"):
            wait_until(lambda: pool.poll("greedy", bytearray, 2 << 30), "the refusal")
        assert run_in_worker(pool, "b") != first
    finally:
        pool.close()


@pytest.mark.deep
@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
def test_a_parquet_bomb_in_nested_rows_is_a_finding_within_the_memory_limit(tmp_path: Path) -> None:
    """Nested texts can't be measured before they are unpacked: 3,000 rows that share one of 10 MB."""
    rows = 3000
    shared = pa.DictionaryArray.from_arrays(
        pa.array([0, 1] * rows, pa.int32()), pa.array(["x" * 10_000_000, "refund"])
    )
    roles = pa.array(["user", "assistant"] * rows)
    messages = pa.StructArray.from_arrays([roles, shared], names=["role", "content"])
    offsets = pa.array(range(0, 2 * rows + 1, 2), pa.int32())
    table = pa.table({"messages": pa.ListArray.from_arrays(offsets, messages)})
    path = tmp_path / "bomb.parquet"
    pq.write_table(table, path, write_statistics=False, store_schema=False, compression="zstd")
    assert path.stat().st_size < 50_000
    pool = WorkerPool(1, memory=1 << 30)
    try:
        reading = wait_until(lambda: pool.poll("bomb", read, path, "bomb.parquet"), "the reading")
    finally:
        pool.close()
    assert [finding.code for finding in reading.findings] == ["too_big_unpacked"]


def test_a_command_of_the_terminal_has_the_same_memory_limit(capsys: pytest.CaptureFixture[str]) -> None:
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with pytest.raises(SystemExit) as end, limited_memory():
        assert resource.getrlimit(resource.RLIMIT_DATA)[0] == MEMORY_BYTES
        raise MemoryError
    assert (end.value.code, resource.getrlimit(resource.RLIMIT_DATA)) == (EXIT_UNUSABLE, before)
    assert "more than 6 GB of memory" in capsys.readouterr().err


def test_an_inspection_finds_rows_beyond_the_models_limit(tmp_path: Path) -> None:
    rows = [f"question {i} on {i * 77 % 91} {'and more ' * (i % 2 * 200)},{'ab'[i % 2]}" for i in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]))
    inspection = inspect(
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
    findings = inspection.report.findings
    assert sum(finding.count for finding in findings if finding.code == "row_too_long") == 20


KILLED_PARENT = """\
import os, time
from bot.worker_pool import WorkerPool
if __name__ == "__main__":
    pool, worker = WorkerPool(1), None
    while not (worker := pool.poll("a", os.getpid)):
        time.sleep(0.02)
    print(worker, flush=True)
    time.sleep(60)
"""


@pytest.mark.deep
def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(KILLED_PARENT)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env=environment
    ) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker's end")
