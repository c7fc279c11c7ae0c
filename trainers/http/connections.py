"""Connections of our HTTP servers: how many there may be, how long one may say nothing, which errors are logged.

A connection has 10 s to send a request's head, and if there are too many connections, the one that has waited longest
is closed. uvicorn has no such limits: a client that opened 1,024 connections and sent nothing made the trainer
unreachable."""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
import time
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
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
MAX_OPEN_FILES = 65_536
LOG_INTERVAL_S = 60.0
# With each of these asyncio can't accept a connection now; a container of little memory has the last two.
OUT_OF_RESOURCES = (EMFILE, ENFILE, ENOBUFS, ENOMEM)


def listen(host: str, port: int) -> socket.socket:
    """Returns a listening socket with Nagle's algorithm off. asyncio turns it off only for sockets that name their
    protocol, which those of create_server don't; with it each answer waits 40 ms for an acknowledgement of its head.
    Raises OSError."""
    family = socket.AF_INET
    if ":" in host:
        family = socket.AF_INET6
    listener = socket.create_server((host, port), family=family)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def why_no_port(host: str, port: int, error: OSError) -> str:
    """Returns the beginning of a sentence about `listen`'s error."""
    why = str(error.strerror).partition(" (while")[0]
    return f"port {port} on {host} cannot be used: {why}."


def address_of(host: str, listener: socket.socket) -> str:
    """Returns the address for clients, whose port the system may have chosen."""
    port = listener.getsockname()[1]
    if ":" in host:  # IPv6
        host = f"[{host}]"
    return f"http://{host}:{port}/v1"


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


def allow_more_files() -> None:
    """Raises this process's limit of open files as far as the system allows. The default of 1,024 exists for programs
    that use select()."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES
    if hard != resource.RLIM_INFINITY:
        wanted = min(hard, MAX_OPEN_FILES)
    if wanted > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class AcceptErrorFilter(logging.Filter):
    """Lets the error that no connection can be accepted through once a minute. asyncio logs it over and over, for each
    connection of its backlog."""

    def __init__(self) -> None:
        super().__init__()
        self._last = -LOG_INTERVAL_S

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.exc_info:
            return True
        _, error, _ = record.exc_info
        if not (isinstance(error, OSError) and error.errno in OUT_OF_RESOURCES):
            return True
        is_due = time.monotonic() - self._last >= LOG_INTERVAL_S
        if is_due:
            self._last = time.monotonic()
        return is_due
