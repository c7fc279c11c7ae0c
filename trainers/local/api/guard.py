"""Checks that come before any endpoint: idle connections, Host header, bearer key with its rights, size of the body.

A connection has 10 s to send a request's head, and if there are too many connections, the one that has waited longest
is closed. uvicorn has no such limits: a client that opened 1,024 connections and sent nothing made the trainer
unreachable. The key is checked before a body is read; a client with the key may take as long as it needs to send
one."""

from __future__ import annotations

import asyncio
import hmac
import logging
import resource
import time
from dataclasses import dataclass
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM
from typing import Any

import uvicorn
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from trainers.local.api_errors import ApiError
from trainers.local.jobs.files import MAX_FILE_BYTES, file_too_large

MODELS = "/v1/models"
METRICS = "/metrics"
CALLS = ("/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings")
MAX_JSON_BYTES = 2 * 1024 * 1024
# For what a form has around a file of the largest size.
MULTIPART_SLACK_BYTES = 64 * 1024
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
HEAD_S = 10.0
BACKLOG = 128  # asyncio accepts this many connections before it serves one of them
MAX_CONNECTIONS = 1000
MIN_CONNECTIONS = 16
# For jobs, logs, weights, and connections accepted before others are closed.
RESERVED_FILES = 128 + 2 * BACKLOG
MAX_OPEN_FILES = 65_536
LOG_INTERVAL_S = 60.0
# With each of these asyncio can't accept a connection now; a container of little memory has the last two.
OUT_OF_RESOURCES = (EMFILE, ENFILE, ENOBUFS, ENOMEM)


@dataclass(frozen=True)
class Guard:
    """`key` may do everything. `call_key` may only list models, ask them and read the metrics, so that a program that
    calls `team/NAME` can't read rows or move the name; empty if there is none.

    `hosts` are the host names that clients may use, besides those of loopback. Others are refused because of DNS
    rebinding: a web page whose name was pointed at 127.0.0.1 sends its own name as Host.
    """

    app: ASGIApp
    key: str
    call_key: str
    hosts: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        is_upload = scope["path"] == "/v1/files" and scope["method"] == "POST"
        limit = MAX_JSON_BYTES
        too_large = _body_too_large()
        if is_upload:
            limit = MAX_FILE_BYTES + MULTIPART_SLACK_BYTES
            too_large = file_too_large()
        problem = self._host_problem(headers) or self._key_problem(scope, headers)
        # To refuse it unread. A body without a length, or a false one, is counted as it arrives.
        declared = headers.get("content-length", "0")
        if problem is None and declared.isdigit() and int(declared) > limit:
            problem = too_large
        if problem is not None:
            return await problem.response()(scope, receive, send)
        await self.app(scope, _LimitedBody(receive, limit, too_large), send)

    def _host_problem(self, headers: Headers) -> ApiError | None:
        name = _host_name(headers.get("host", ""))
        if name in LOOPBACK_NAMES or name in self.hosts:
            return None
        text = f"This trainer does not answer to the host name '{name}'. Start it with --allow-host {name}."
        return ApiError(403, text, "host_not_allowed")

    def _key_problem(self, scope: Scope, headers: Headers) -> ApiError | None:
        scheme, _, value = headers.get("authorization", "").partition(" ")
        sent = ""
        if scheme.lower() == "bearer":
            sent = value.strip()
        if _is_same(sent, self.key):
            return None
        if _is_same(sent, self.call_key):
            if may_call(scope["method"], scope["path"]):
                return None
            return _not_for_calls(scope)
        text = "Incorrect API key. Send the trainer's key as 'Authorization: Bearer KEY'."
        return ApiError(401, text, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _host_name(host: str) -> str:
    """Returns the name without the port, and without the brackets of an address such as '[::1]:80'."""
    if host.startswith("["):
        name, _, _ = host[1:].partition("]")
    else:
        name, _, _ = host.partition(":")
    return name.lower()


def _is_same(sent: str, key: str) -> bool:
    # In constant time: how long a comparison takes must not tell how much of the key is right.
    return bool(key) and hmac.compare_digest(sent.encode(), key.encode())


def may_call(method: str, path: str) -> bool:
    """True if the key for calls may do this. What isn't listed here is refused, and so is every new endpoint."""
    if method == "POST":
        return path in CALLS
    is_readable = path in (MODELS, METRICS) or path.startswith(f"{MODELS}/")
    return method in ("GET", "HEAD") and is_readable


def _not_for_calls(scope: Scope) -> ApiError:
    text = (
        f"This key is for calling models, so {scope['method']} {scope['path']} is refused. It may list models, ask "
        f"them by {', '.join(CALLS)}, and read {METRICS}. Everything else takes the trainer's own key (trainer.key in "
        "its data folder)."
    )
    return ApiError(403, text, "insufficient_permissions")


class _LimitedBody:
    """Receives a body of at most `limit` bytes, and raises `too_large` at the first byte beyond."""

    def __init__(self, receive: Receive, limit: int, too_large: ApiError) -> None:
        self._receive = receive
        self._left = limit
        self._too_large = too_large

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise self._too_large
        return message


def _body_too_large() -> ApiError:
    return ApiError(413, "The request's body is too large. The limit for JSON is 2 MB.", "request_too_large")


def server_config(app: Any, shutdown_s: int) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=TimedConnection,
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=shutdown_s,
    )


class TimedConnection(H11Protocol):
    """A connection that is closed if a request's head takes longer than HEAD_S. `_since` is when the wait began."""

    _since = 0.0
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

    def on_response_complete(self) -> None:
        self._since = self.loop.time()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _close_if_late(self) -> None:
        waited = 0.0
        if self.is_waiting:
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
