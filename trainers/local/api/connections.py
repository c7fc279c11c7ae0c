"""Connections that say nothing: each has 10 s for a request's head, and when there are too many, the one that has
waited longest is closed. uvicorn has no such limits: who opened 1,024 and sent nothing left the trainer deaf.

Once a head is there, the key is checked before a body is read; who has it may take their time.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from errno import EMFILE, ENFILE
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0
BACKLOG = 128  # asyncio accepts as many before it looks at one of them
MOST, LEAST = 1000, 16
OTHER_FILES = 128 + 2 * BACKLOG  # jobs, logs and weights; and connections accepted before others are closed
MOST_FILES = 65_536
SILENT_S = 60.0


def server_config(app: Any, shutdown_s: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=Patient,
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=shutdown_s,
    )


class Patient(H11Protocol):
    """`_since`: when it began to wait for the request that is not there yet."""

    _since = 0.0
    _look: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._look = self.loop.call_later(HEAD_S, self._look_at_it)
        if len(self.connections) > most_connections():
            waiting = [one for one in self.connections if isinstance(one, Patient) and one.is_waiting]
            min(waiting, key=lambda one: one._since).transport.abort()  # this one is among them

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _look_at_it(self) -> None:
        waited = self.loop.time() - self._since if self.is_waiting else 0.0
        if waited >= HEAD_S:
            self.transport.abort()
        else:
            self._look = self.loop.call_later(HEAD_S - waited, self._look_at_it)


def most_connections() -> int:
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(LEAST, min(MOST, files - OTHER_FILES))


def allow_more_files() -> None:
    """As many as the system lets us have: the usual 1,024 are for programs that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class OnceAMinute(logging.Filter):
    """Of the error that no file is left: asyncio logs it for each connection of its backlog, over and over."""

    def __init__(self) -> None:
        super().__init__()
        self._last = -SILENT_S

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if not (isinstance(error, OSError) and error.errno in (EMFILE, ENFILE)):
            return True
        is_news = time.monotonic() - self._last >= SILENT_S
        if is_news:
            self._last = time.monotonic()
        return is_news
