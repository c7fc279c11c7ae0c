"""Who may ask, and how much: Host header, bearer key, size of the body, before any endpoint is reached."""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from trainers.local.files import MAX_FILE_BYTES, too_large
from trainers.local.problems import Problem

MAX_JSON_BYTES = 2 * 1024 * 1024
MULTIPART_SLACK_BYTES = 64 * 1024
MAX_RELAY_BYTES = 16 * 1024**3  # one file of a checkpoint
RELAY = "/relay/"
LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Guard:
    """`hosts` are the names under which this server may be addressed, beside those of loopback.

    A page in a browser whose name was made to point at 127.0.0.1 (DNS rebinding) sends its own name as Host.
    `has_relay`: what is under /relay/ asks for its jobs' tokens itself.
    """

    app: ASGIApp
    key: str
    hosts: frozenset[str]
    has_relay: bool = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        problem = self._host_problem(headers)
        if not (self.has_relay and scope["path"].startswith(RELAY)):
            problem = problem or self._key_problem(headers)
        problem = problem or _size_problem(scope, headers)
        if problem is not None:
            return await problem.response()(scope, receive, send)
        await self.app(scope, _Capped(receive, _limit(scope)), send)

    def _host_problem(self, headers: Headers) -> Problem | None:
        name = _host_name(headers.get("host", ""))
        if name in LOOPBACK_NAMES or name in self.hosts:
            return None
        return Problem(403, f"This trainer does not answer to the host name '{name}'.", "host_not_allowed")

    def _key_problem(self, headers: Headers) -> Problem | None:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self.key.encode()):
            return None
        text = "Incorrect API key. Send the trainer's key as 'Authorization: Bearer KEY'."
        return Problem(401, text, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


class _Capped:
    """Receives a body until `limit` bytes; raises Problem (413) at the first byte beyond."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._left = limit

    async def __call__(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        if self._left < 0:
            raise _too_much()
        return message


def _host_name(host: str) -> str:
    """The name without the port, in small letters; of '[::1]:80' the address without brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_upload(scope: Scope) -> bool:
    return bool(scope["path"] == "/v1/files" and scope["method"] == "POST")


def _limit(scope: Scope) -> int:
    if scope["method"] == "PUT" and scope["path"].startswith(RELAY):
        return MAX_RELAY_BYTES
    return MAX_FILE_BYTES + MULTIPART_SLACK_BYTES if _is_upload(scope) else MAX_JSON_BYTES


def _size_problem(scope: Scope, headers: Headers) -> Problem | None:
    declared = headers.get("content-length", "0")
    if not declared.isdigit() or int(declared) <= _limit(scope):
        return None
    return too_large() if _is_upload(scope) else _too_much()


def _too_much() -> Problem:
    return Problem(413, "The request's body is too large. JSON may have 2 MB.", "request_too_large")
