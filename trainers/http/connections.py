"""Connections of our HTTP servers: how many there may be, and how long one may say nothing.

A connection has 10 s to send a request's head, and if there are too many connections, the one that has waited longest
is closed. uvicorn has no such limits: a client that opened 1,024 connections and sent nothing made the trainer
unreachable."""

from __future__ import annotations

import asyncio
import resource
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0
# Above what clients keep: a connection that a server closes just as a request is on its way fails that request.
KEEP_ALIVE_S = 120
BACKLOG = 128  # asyncio accepts this many connections before it serves one of them
MAX_CONNECTIONS = 1000
MIN_CONNECTIONS = 16
# For jobs, logs, weights, and connections accepted before others are closed.
RESERVED_FILES = 128 + 2 * BACKLOG


def server_config(app: Any, shutdown_s: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=TimedConnection,
        ws="none",
        proxy_headers=False,
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=shutdown_s,
    )


class TimedConnection(H11Protocol):
    """A connection that is closed if a request's head takes longer than HEAD_S. `_since` is when the wait for it began:
    with the connection, or with the first byte after an answer. Until that byte uvicorn's time to keep an idle
    connection counts."""

    _since = 0.0
    _is_idle = False
    _timer: asyncio.TimerHandle | None = None

    @property
    def is_waiting(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._since = self.loop.time()
        self._timer = self.loop.call_later(HEAD_S, self._close_if_late)
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, files - RESERVED_FILES))
        if len(self.connections) > most:
            waiting = [
                connection
                for connection in self.connections
                if isinstance(connection, TimedConnection) and connection.is_waiting
            ]
            longest_waiting = min(waiting, key=lambda other: other._since)  # perhaps this one
            longest_waiting.transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._is_idle:
            self._is_idle = False
            self._since = self.loop.time()
        super().data_received(data)

    def on_response_complete(self) -> None:
        self._is_idle = True
        self._since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _close_if_late(self) -> None:
        waited = 0.0
        if self.is_waiting and not self._is_idle:
            waited = self.loop.time() - self._since
        if waited >= HEAD_S:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(HEAD_S - waited, self._close_if_late)
