"""Runs work that would hold the interpreter (checking a big file, plots, statistics) in processes of its own.

A step calls `poll` at every tick: the first call starts the work, a later one returns the answer. What was under way
when the process died is asked for again. A task that takes too long or too much memory is ended alone: each process has
one task at a time, so the others go on.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

PROCESSES = 2
# Measured on checks: 20,000 rows of 900 letters take 85 s of one core, and the time grows with the rows, of which there
# are 200,000 at most. Memory hardly grows: 20,000 and 60,000 such rows take 1.5 GB, half of it for numpy's threads.
DEADLINE_S = 1800.0
MEMORY_BYTES = 6 << 30


class WorkerStopped(Exception):
    """A task that was ended. The message completes a sentence: "checking it …"."""


def limit_memory(most: int = MEMORY_BYTES) -> int:
    """Limits this process: beyond it an allocation fails with MemoryError, long before the system ends other processes.
    Returns the limit before.

    RLIMIT_DATA counts what is allocated. RLIMIT_AS would also count address space that is only reserved, of which
    numpy's threads take some hundred MB for each core. Only Linux keeps it.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if sys.platform == "linux":
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
    return before


@dataclass
class _Task:
    """`begun`: when a process took it up; `future` is its answer from then on."""

    work: Callable[[], Any]
    asked: float
    begun: float = 0.0
    future: Future[Any] | None = None
    is_late: bool = False


class WorkerPool:
    """`size` processes, started at first use; each imports what its work needs, this process does not."""

    def __init__(
        self, size: int = PROCESSES, *, deadline_s: float = DEADLINE_S, memory: int = MEMORY_BYTES
    ) -> None:
        self._children = [_Child(memory) for _ in range(size)]
        self._deadline_s = deadline_s
        self._tasks: dict[str, _Task] = {}
        self._lock = threading.Lock()

    def poll(self, key: str, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """Returns None while the work named `key` goes on, and its value once. Raises what the work raised, or
        WorkerStopped if it took too long or too much memory."""
        with self._lock:
            task = self._tasks.get(key)
            if task is None:
                self._tasks[key] = _Task(partial(work, *args, **kwargs), time.monotonic())
            elif task.future and task.future.done():
                del self._tasks[key]
            self._advance()
        if task is None or task.future is None or not task.future.done():
            return None
        value: _T = self._read_result(task)
        return value

    def take(self, key: str) -> Any:
        """As `poll`, for work that was begun, whose arguments need not be gathered again."""
        return self.poll(key, _never_begun, key)

    def has(self, key: str) -> bool:
        """Returns whether that work goes on, or is done and its value not fetched yet."""
        return key in self._tasks

    @property
    def oldest_s(self) -> float:
        """Seconds that the oldest task has been waiting or running; 0 if there is none."""
        with self._lock:
            open_since = [
                task.asked for task in self._tasks.values() if not (task.future and task.future.done())
            ]
        return time.monotonic() - min(open_since) if open_since else 0.0

    def close(self) -> None:
        for child in self._children:
            child.close()

    def _advance(self) -> None:
        """Ends late tasks and begins waiting ones, in the order in which they were asked for."""
        now = time.monotonic()
        for child in self._children:
            if child.task and not child.is_started:
                child.task.begun = now
            elif child.task and now - child.task.begun > self._deadline_s:
                child.end_late()
        waiting = [task for task in self._tasks.values() if task.future is None]
        idle = [child for child in self._children if child.task is None]
        for task, child in zip(waiting, idle, strict=False):
            child.begin(task, now)

    def _read_result(self, task: _Task) -> Any:
        assert task.future is not None  # noqa: S101 - only tasks that are done get here
        try:
            return task.future.result()
        except MemoryError as error:
            raise WorkerStopped("needed more memory than it may have") from error
        except BrokenProcessPool as error:
            if task.is_late:
                minutes = round(self._deadline_s / 60)
                raise WorkerStopped(f"took longer than {minutes} minutes and was ended") from error
            raise WorkerStopped("was ended by the system, most likely for its memory") from error


def _never_begun(key: str) -> None:
    raise KeyError(key)


@dataclass
class _Child:
    """One process, which has one task at a time. Started at its first task, and after it was lost."""

    memory: int
    _task: _Task | None = None
    _pool: ProcessPoolExecutor | None = None
    _process: Future[int] = field(default_factory=Future)

    @property
    def task(self) -> _Task | None:
        """The task that it runs."""
        return (
            None
            if self._task is None or self._task.future is None or self._task.future.done()
            else self._task
        )

    @property
    def is_started(self) -> bool:
        """Whether the process runs: on a busy machine it may take seconds to start."""
        return self._process.done()

    def begin(self, task: _Task, now: float) -> None:
        future = self._task.future if self._task else None
        if future is not None and isinstance(future.exception(), MemoryError):
            self.close()  # what is left of it may be too little for the next one
        try:
            task.future = self._running_pool().submit(task.work)
        except BrokenProcessPool:  # it was killed while it had nothing to do
            self._pool = None
            task.future = self._running_pool().submit(task.work)
        task.begun, self._task = now, task

    def end_late(self) -> None:
        if self._task:
            self._task.is_late = True
            self._kill()

    def close(self) -> None:
        """Ends its task, which would otherwise hold up the end of this process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        if self.task:
            self._kill()

    def _kill(self) -> None:
        """Does nothing while it is just starting, or if it has ended by itself."""
        if self.is_started and not self._process.exception():
            with suppress(ProcessLookupError):
                os.kill(self._process.result(), signal.SIGKILL)

    def _running_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # spawn: a forked child would inherit locks held by other threads
            spawn = get_context("spawn")
            self._pool = ProcessPoolExecutor(1, spawn, initializer=limit_memory, initargs=(self.memory,))
            self._process = self._pool.submit(os.getpid)
        return self._pool
