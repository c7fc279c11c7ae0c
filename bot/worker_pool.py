"""Runs CPU-bound work (checking a big file, plots, statistics) in separate processes, so that it doesn't block this
one's threads.

A step calls `poll` at every tick: the first call starts the work, a later one returns its result. If this process
dies, the next one asks for the work again. Each worker has one task at a time, so a task that takes too long or too
much memory is ended without touching the others.
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
from multiprocessing import get_context, parent_process
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")

PROCESSES = 2
# Measured on checks: 20,000 rows of 900 letters take 85 s of one core, and the time grows with the rows, of which there
# are 200,000 at most. Memory hardly grows: 20,000 and 60,000 such rows take 1.5 GB, half of it for numpy's threads.
DEADLINE_S = 1800.0
MEMORY_BYTES = 6 << 30


class WorkerStopped(Exception):
    """A task that was ended. The message completes a sentence like "Checking it …". `is_late` if it took too long: then
    it would take as long again, unlike a task that this machine had too little memory for at that moment."""

    def __init__(self, message: str, *, is_late: bool = False) -> None:
        super().__init__(message)
        self.is_late = is_late


def limit_memory(most: int = MEMORY_BYTES) -> int:
    """Limits this process's memory to `most` bytes, so that an allocation fails with MemoryError before the system
    starts to kill processes. Returns the previous limit.

    RLIMIT_DATA counts memory that is allocated. RLIMIT_AS would also count address space that is only reserved, of
    which numpy's threads take some hundred MB per core. Only Linux enforces it.
    """
    before, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if sys.platform == "linux":
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(resource.RLIMIT_DATA, (allowed, hard))
    return before


@dataclass
class _Task:
    """`asked` and `begun` are monotonic seconds. `future` is None until a process begins the task."""

    work: Callable[[], Any]
    asked: float
    begun: float = 0.0
    future: Future[Any] | None = None
    is_late: bool = False

    @property
    def is_done(self) -> bool:
        return self.future is not None and self.future.done()


class WorkerPool:
    """`size` processes, started at first use. They import what the work needs, so that this process needn't."""

    def __init__(
        self, size: int = PROCESSES, *, deadline_s: float = DEADLINE_S, memory: int = MEMORY_BYTES
    ) -> None:
        self._children = [_Child(memory) for _ in range(size)]
        self._deadline_s = deadline_s
        self._tasks: dict[str, _Task] = {}
        self._lock = threading.Lock()

    def poll(self, key: str, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """Returns None while the work named `key` goes on, then its value, once. Raises what the work raised, or
        WorkerStopped if it took too long or too much memory."""
        with self._lock:
            task = self._tasks.get(key)
            if task is None:
                self._tasks[key] = _Task(partial(work, *args, **kwargs), time.monotonic())
            # Looked up once: a task that ends from here on keeps its value for the next call.
            is_done = task is not None and task.is_done
            if is_done:
                del self._tasks[key]
            self._advance()
        if task is None or not is_done:
            return None
        value: _T = self._read_result(task)
        return value

    def take(self, key: str) -> Any:
        """Polls work that has already begun, so that its arguments need not be gathered again."""
        return self.poll(key, _never_begun, key)

    def has(self, key: str) -> bool:
        """True if that work goes on, or if its value has not been fetched yet."""
        return key in self._tasks

    @property
    def oldest_s(self) -> float:
        """Seconds for which the oldest task has been waiting or running; 0 if there is none."""
        with self._lock:
            unfinished = [task for task in self._tasks.values() if not task.is_done]
        if not unfinished:
            return 0.0
        oldest = min(task.asked for task in unfinished)
        return time.monotonic() - oldest

    def close(self) -> None:
        for child in self._children:
            child.close()

    def _advance(self) -> None:
        """Ends late tasks and starts waiting ones, in the order in which they were asked for."""
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
        assert task.future is not None  # noqa: S101 - only finished tasks get here
        try:
            return task.future.result()
        except MemoryError as error:
            raise WorkerStopped("needed more memory than it is allowed") from error
        except BrokenProcessPool as error:
            if task.is_late:
                minutes = round(self._deadline_s / 60)
                why = f"took longer than {minutes} minutes and was ended"
                raise WorkerStopped(why, is_late=True) from error
            raise WorkerStopped("was ended by the system, most likely for lack of memory") from error


def _never_begun(key: str) -> None:
    raise KeyError(key)


def _prepare_process(memory: int) -> None:
    """Limits a worker's memory, and ends the worker when its parent dies: it would wait for tasks for ever."""
    limit_memory(memory)
    parent = parent_process()
    if parent:

        def end_with_parent() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=end_with_parent, daemon=True).start()


@dataclass
class _Child:
    """One worker process, with one task at a time. It is started for its first task, and again after it was lost."""

    memory: int
    _task: _Task | None = None
    _pool: ProcessPoolExecutor | None = None
    _process: Future[int] = field(default_factory=Future)

    @property
    def task(self) -> _Task | None:
        """The task that it is running; None if it is idle."""
        task = self._task
        if task is None or task.future is None or task.future.done():
            return None
        return task

    @property
    def is_started(self) -> bool:
        """True once the process runs: on a busy machine it may take seconds to start."""
        return self._process.done()

    def begin(self, task: _Task, now: float) -> None:
        future = self._task.future if self._task else None
        if future is not None and isinstance(future.exception(), MemoryError):
            self.close()  # the memory that it has left may be too little for the next task
        try:
            task.future = self._running_pool().submit(task.work)
        except BrokenProcessPool:  # the process was killed while idle
            self._pool = None
            task.future = self._running_pool().submit(task.work)
        task.begun = now
        self._task = task

    def end_late(self) -> None:
        if self._task:
            self._task.is_late = True
            self._kill()

    def close(self) -> None:
        """Ends the process and its task, which would otherwise delay the end of this process."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None
        if self.task:
            self._kill()

    def _kill(self) -> None:
        """Kills the process, unless it is still starting or has already ended."""
        if self.is_started and not self._process.exception():
            with suppress(ProcessLookupError):
                os.kill(self._process.result(), signal.SIGKILL)

    def _running_pool(self) -> ProcessPoolExecutor:
        if self._pool is None:
            # spawn: a forked child would inherit locks held by other threads
            spawn = get_context("spawn")
            self._pool = ProcessPoolExecutor(1, spawn, initializer=_prepare_process, initargs=(self.memory,))
            self._process = self._pool.submit(os.getpid)
        return self._pool
