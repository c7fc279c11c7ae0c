"""Work in processes of its own: its value once, its error, and a fresh process after one was killed."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from bot.demo.workspace import wait_until
from bot.work.checking import inspect
from bot.workers import Workers
from trainers.dataset import Columns


def process_id() -> int:
    return os.getpid()


def fails(what: str) -> None:
    raise LookupError(what)


def sleeps(seconds: float) -> str:
    time.sleep(seconds)
    return "slept"


@pytest.fixture
def workers() -> Iterator[Workers]:
    workers = Workers()
    yield workers
    workers.close()


def work_of_its_own(workers: Workers, key: str) -> int:
    assert workers.poll(key, process_id) is None
    return wait_until(lambda: workers.poll(key, process_id), "the worker's answer")


def test_the_value_comes_once_from_another_process(workers: Workers) -> None:
    assert work_of_its_own(workers, "a") != os.getpid()
    assert workers.poll("a", process_id) is None, "asked anew, it is done anew"
    wait_until(lambda: workers.poll("a", process_id), "the second answer")


def test_asking_again_while_it_goes_on_starts_nothing_new(workers: Workers) -> None:
    started = time.monotonic()
    while workers.poll("a", sleeps, 0.3) is None:
        assert time.monotonic() - started < 20
        time.sleep(0.01)
    assert workers.poll("b", process_id) is None
    wait_until(lambda: workers.poll("b", process_id), "the next work, not behind a hundred sleeps")


def test_what_it_raised_is_raised_here_once(workers: Workers) -> None:
    assert workers.poll("a", fails, "no such row") is None
    with pytest.raises(LookupError, match="no such row"):
        wait_until(lambda: workers.poll("a", fails, "no such row"), "the error")
    assert workers.poll("a", sleeps, 0.0) is None
    assert wait_until(lambda: workers.poll("a", sleeps, 0.0), "the second try") == "slept"


def test_a_worker_killed_at_work_is_said_and_replaced(workers: Workers) -> None:
    victim = work_of_its_own(workers, "a")
    assert workers.poll("long", sleeps, 60.0) is None
    os.kill(victim, signal.SIGKILL)
    with pytest.raises(BrokenProcessPool):
        wait_until(lambda: workers.poll("long", sleeps, 60.0), "the death")
    assert work_of_its_own(workers, "b") not in (victim, os.getpid())


def test_a_worker_killed_while_idle_is_replaced_unnoticed(workers: Workers) -> None:
    victim = work_of_its_own(workers, "a")
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: workers._pool is None or workers._pool._broken, "the pool's notice")
    assert work_of_its_own(workers, "b") not in (victim, os.getpid())


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
