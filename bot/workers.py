"""Work that would hold the interpreter (checking a big file, plots, statistics) runs in a process of its own.

A step asks `poll` at every tick: the first asking starts the work, the answer comes at a later one. What was
under way when the process died is simply asked for again.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Workers:
    """`size` processes, started at first use; each imports what its work needs, this process does not."""

    def __init__(self, size: int = 1) -> None:
        self._size = size
        self._pool: ProcessPoolExecutor | None = None
        self._running: dict[str, Future[Any]] = {}

    def poll(self, key: str, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T | None:
        """None while the work named `key` goes on; its value once; what it raised is raised here."""
        future = self._running.get(key)
        if future is None:
            self._running[key] = self._submit(work, *args, **kwargs)
            return None
        if not future.done():
            return None
        del self._running[key]
        value: _T = future.result()
        return value

    def has(self, key: str) -> bool:
        """Whether that work goes on, or is done and its value not fetched yet."""
        return key in self._running

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _submit(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        if self._pool is None:
            self._pool = self._new_pool()
        try:
            return self._pool.submit(work, *args, **kwargs)
        except BrokenProcessPool:  # a worker was killed, at work or while it had none
            self._pool = self._new_pool()
            return self._pool.submit(work, *args, **kwargs)

    def _new_pool(self) -> ProcessPoolExecutor:
        # spawn: a forked child would inherit locks held by other threads
        return ProcessPoolExecutor(self._size, mp_context=get_context("spawn"))
