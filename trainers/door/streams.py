"""Server-sent events: splits a provider's stream into events, and sends ours. A stream ends early if its program hangs
up, so that no provider goes on writing for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import orjson
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

T = TypeVar("T")
LAST_EVENT = b"data: [DONE]\n\n"


async def split_events(parts: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    """Yields the events that each part of a stream completes, each with the blank line that ends it."""
    rest = b""
    async for part in parts:
        rest += part
        if b"\r\n\r\n" in rest:
            rest = rest.replace(b"\r\n", b"\n")
        *events, rest = rest.split(b"\n\n")
        if events:
            yield [event + b"\n\n" for event in events]
    if rest.strip():
        yield [rest.rstrip(b"\r\n") + b"\n\n"]


def data_of(event: bytes) -> dict[str, Any] | None:
    """Returns the JSON object of an event, None if it has none."""
    lines = [line[5:].lstrip() for line in event.split(b"\n") if line.startswith(b"data:")]
    try:
        value = orjson.loads(b"\n".join(lines))
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


def encode_event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


@dataclass
class StreamProgress:
    """How far a provider's stream has come: its first event has arrived, or it has broken off."""

    has_begun: bool = False
    has_broken_off: bool = False


class EventStream(Response):
    """Sends events as they come, and calls `close` at the end in any case, also if no event was ever read. `progress`
    is that of the provider's stream, None if no provider is asked."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        close: Callable[[], Awaitable[None]],
        headers: Mapping[str, str] | None = None,
        progress: StreamProgress | None = None,
    ) -> None:
        super().__init__(headers={**(headers or {}), "cache-control": "no-cache"})
        del self.headers["content-length"]
        self._events = events
        self._close = close
        self._progress = progress or StreamProgress(has_begun=True)
        self._waiting: list[bytes] = []

    async def begin(self) -> bool:
        """Waits until the provider has begun; what comes by then is sent later. Returns False if it has broken off or
        ended without an event. Closes the stream if the waiting is cancelled."""
        progress = self._progress
        try:
            while not (progress.has_begun or progress.has_broken_off):
                self._waiting.append(await anext(self._events))
        except StopAsyncIteration:
            return False
        except BaseException:
            await self.end()
            raise
        return not progress.has_broken_off

    async def end(self) -> None:
        """Closes the stream, which nobody reads any more."""
        await self._events.aclose()
        await self._close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await while_connected(receive, self._send(send))
        except ClientDisconnect:
            return  # nobody is left to tell
        finally:
            await self.end()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        for event in self._waiting:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        async for event in self._events:
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


async def while_connected(receive: Receive, work: Awaitable[T]) -> T:
    """Does something for a program as long as it waits. Raises ClientDisconnect if it hangs up; the work is cancelled
    then. The request's body must have been read."""
    task = asyncio.current_task()
    assert task is not None  # noqa: S101  a coroutine runs in one
    has_hung_up = False
    is_over = False

    async def watch() -> None:
        nonlocal has_hung_up
        while (await receive())["type"] != "http.disconnect":
            continue
        if not is_over:
            has_hung_up = True
            task.cancel()

    watcher = asyncio.ensure_future(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if not has_hung_up:
            raise
        task.uncancel()
        raise ClientDisconnect from None
    finally:
        is_over = True
        watcher.cancel()


async def read_object(request: Request) -> dict[str, Any] | None:
    """Returns a request's body, None if it is no object of JSON."""
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None
