"""A caller of HTTP that costs little itself: keep-alive connections, no retry, times of the first and the last byte."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

END_OF_CHUNKS = b"0\r\n\r\n"


@dataclass(frozen=True)
class Answer:
    """`failure` says in a word what went wrong, "" if nothing did. Times are seconds from the call's beginning."""

    first_byte_s: float
    total_s: float
    failure: str = ""


@dataclass
class Caller:
    """Posts bodies to one path. A connection is used by one call at a time."""

    url: str
    key: str
    _idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = field(default_factory=list)

    async def post(self, body: bytes) -> Answer:
        started = time.perf_counter()
        try:
            reader, writer = await self._connection()
            try:
                first_byte_s, closes, status = await self._exchange(reader, writer, body, started)
            except BaseException:
                writer.close()
                raise
        except (OSError, EOFError) as error:
            total_s = time.perf_counter() - started
            return Answer(total_s, total_s, type(error).__name__)
        if closes:
            writer.close()
        else:
            self._idle.append((reader, writer))
        failure = "" if status == 200 else str(status)
        return Answer(first_byte_s, time.perf_counter() - started, failure)

    async def _connection(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while self._idle:
            reader, writer = self._idle.pop()
            if not reader.at_eof() and not writer.is_closing():
                return reader, writer
            writer.close()
        parts = urlsplit(self.url)
        return await asyncio.open_connection(parts.hostname, parts.port)

    async def _exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes, started: float
    ) -> tuple[float, bool, int]:
        parts = urlsplit(self.url)
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nAuthorization: Bearer {self.key}\r\n"
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        lines = (await reader.readuntil(b"\r\n\r\n")).lower().split(b"\r\n")
        fields = dict(line.split(b": ", 1) for line in lines[1:] if b": " in line)
        if b"content-length" in fields:
            first_byte_s = time.perf_counter() - started
            await reader.readexactly(int(fields[b"content-length"]))
        else:
            content = await reader.read(65_536)
            first_byte_s = time.perf_counter() - started
            while not content.endswith(END_OF_CHUNKS):
                part = await reader.read(65_536)
                if not part:
                    raise EOFError
                content = content[-len(END_OF_CHUNKS) :] + part
        return first_byte_s, fields.get(b"connection") == b"close", int(lines[0].split()[1])

    def close(self) -> None:
        for _, writer in self._idle:
            writer.close()
        self._idle.clear()


async def at_rate(
    per_second: float, count: int, calls: Sequence[Callable[[], Awaitable[Answer]]]
) -> list[list[Answer]]:
    """Begins each of `calls` `count` times, all at once at each tick. Returns their answers, in the same order."""
    tasks: list[list[asyncio.Task[Answer]]] = [[] for _ in calls]
    began = time.perf_counter()
    for number in range(count):
        wait_s = began + number / per_second - time.perf_counter()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        for place, call in enumerate(calls):
            tasks[place].append(asyncio.ensure_future(call()))
    return [list(await asyncio.gather(*row)) for row in tasks]


async def all_open(count: int, open_calls: int, call: Callable[[], Awaitable[Answer]]) -> list[Answer]:
    """Calls `count` times with as many calls open at any time."""
    left = iter(range(count))

    async def work() -> list[Answer]:
        return [await call() for _ in left]

    rows = await asyncio.gather(*(work() for _ in range(open_calls)))
    return [answer for row in rows for answer in row]


def quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]
