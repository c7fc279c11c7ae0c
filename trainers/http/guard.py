"""Checks that come before any endpoint of our HTTP servers: Host header, bearer key, size of the body. Each server
decides what a key may do, and reads no body before."""

from __future__ import annotations

import hmac
from collections.abc import Set as AbstractSet

from starlette.datastructures import Headers
from starlette.types import Message, Receive

from trainers.http.errors import ApiError

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})


def host_problem(headers: Headers, hosts: AbstractSet[str], server: str, remedy: str) -> ApiError | None:
    """Returns the refusal of a Host header that is neither loopback's nor one of `hosts`.

    Others are refused because of DNS rebinding: a web page whose name was pointed at 127.0.0.1 sends its own name as
    Host. `server` is a noun such as "trainer", `remedy` a sentence that says how {name} is allowed.
    """
    name = _host_name(headers.get("host", ""))
    if name in LOOPBACK_NAMES or name in hosts:
        return None
    text = f"This {server} does not answer to the host name '{name}'. {remedy.format(name=name)}"
    return ApiError(403, text, "host_not_allowed")


def _host_name(host: str) -> str:
    """Returns the name without the port, and without the brackets of an address such as '[::1]:80'."""
    if host.startswith("["):
        name, _, _ = host[1:].partition("]")
    else:
        name, _, _ = host.partition(":")
    return name.lower()


def sent_key(headers: Headers) -> str:
    """Returns the bearer key of a request, "" if it has none."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        return ""
    return value.strip()


def is_same_key(sent: str, key: str) -> bool:
    """Compares in constant time: how long it takes must not tell how much of the key is right. No key is like ""."""
    if not key:
        return False
    return hmac.compare_digest(sent.encode(), key.encode())


def key_missing(text: str) -> ApiError:
    return ApiError(401, text, "invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def is_longer(headers: Headers, limit: int) -> bool:
    """True if a request says that its body is longer, so that it can be refused unread. A body without a length, or
    with a false one, is counted by LimitedBody as it arrives."""
    declared = headers.get("content-length", "0")
    if not declared.isdigit():
        return False
    return int(declared) > limit


class LimitedBody:
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
