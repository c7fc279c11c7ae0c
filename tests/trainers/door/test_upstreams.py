"""Calls of providers that do what few providers do: they compress, stall, close connections, or are behind a proxy."""

from __future__ import annotations

import asyncio
import gzip
import shutil
import ssl
import subprocess
import zlib
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from trainers.door import upstreams
from trainers.door.upstreams import UpstreamAnswer, UpstreamClient, UpstreamDown, VendorError
from trainers.recipes.values import Upstream

ACME = Upstream("acme", "http://unused/v1")
BODY = b'{"messages": []}'
ANSWER = b'{"choices": []}'
EVENT = b'data: {"choices": []}\n\n'
Write = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Server:
    """A server that writes the same to each request. `connections` has what was read on each, request by request."""

    write: Write
    connections: list[list[bytes]] = field(default_factory=list)
    hung_up: int = 0
    url: str = ""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        requests: list[bytes] = []
        self.connections.append(requests)
        self._tasks.append(asyncio.current_task())
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                requests.append(head)
                await reader.readexactly(len(BODY))
                await self.write(writer)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            self.hung_up += 1
        finally:
            writer.transport.abort()

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def serving(write: Write, tls: ssl.SSLContext | None = None) -> AsyncIterator[Server]:
    server = Server(write)
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=tls)
    scheme = "https" if tls else "http"
    server.url = f"{scheme}://127.0.0.1:{listening.sockets[0].getsockname()[1]}/v1/chat"
    try:
        yield server
    finally:
        listening.close()
        await server.close()


@asynccontextmanager
async def calling(answer_s: float = 20.0) -> AsyncIterator[UpstreamClient]:
    client = UpstreamClient(answer_s)
    try:
        yield client
    finally:
        await client.close()


def complete(content: bytes = ANSWER, *headers: str, status: str = "200 OK") -> Write:
    """Writes an answer with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *headers]
    raw = "\r\n".join([*lines, "", ""]).encode() + content

    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(raw)

    return write


def in_parts(*parts: bytes, pause_s: float = 0.0, headers: str = "") -> Write:
    """Writes a stream, and pauses after each part."""

    async def write(writer: asyncio.StreamWriter) -> None:
        head = f"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n{headers}Transfer-Encoding: chunked\r\n\r\n"
        writer.write(head.encode())
        for part in parts:
            writer.write(b"%x\r\n%s\r\n" % (len(part), part))
            await writer.drain()
            await asyncio.sleep(pause_s)
        writer.write(b"0\r\n\r\n")

    return write


async def ask(client: UpstreamClient, url: str, *, is_stream: bool = False, **headers: str) -> UpstreamAnswer:
    return await client.send(ACME, url, BODY, headers, is_stream=is_stream)


async def read_stream(answer: UpstreamAnswer) -> bytes:
    try:
        return b"".join([part async for part in answer.parts()])
    finally:
        answer.close()


def run(test: Callable[[], Awaitable[Any]]) -> Any:
    async def in_time() -> Any:
        async with asyncio.timeout(60):
            return await test()

    return asyncio.run(in_time())


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_an_answer_that_is_compressed_in_spite_of_us_is_read(encoding: str) -> None:
    compress = gzip.compress if encoding == "gzip" else zlib.compress
    header = f"Content-Encoding: {encoding}"

    async def test() -> None:
        async with calling() as client:
            async with serving(complete(compress(ANSWER), header)) as server:
                answer = await ask(client, server.url)
                assert (answer.content, "content-encoding" in answer.headers) == (ANSWER, False)
                assert b"accept-encoding: identity\r\n" in server.connections[0][0].lower()
            packed = compress(EVENT * 3)
            async with serving(in_parts(packed[:9], packed[9:], headers=f"{header}\r\n")) as server:
                assert await read_stream(await ask(client, server.url, is_stream=True)) == EVENT * 3

    run(test)


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_part_that_does_not_come_in_time_ends_the_call(is_stream: bool) -> None:
    async def test() -> None:
        async with calling(0.3) as client, serving(in_parts(EVENT, EVENT, pause_s=30)) as server:
            with pytest.raises(UpstreamDown, match="acme gave no answer in time") as caught:
                await read_stream(await ask(client, server.url, is_stream=is_stream))
            assert (caught.value.status, caught.value.code) == (504, "upstream_timeout")

    run(test)


def test_a_stream_may_take_longer_than_each_of_its_parts() -> None:
    async def test() -> None:
        parts = [EVENT] * 8
        async with calling(1.0) as client, serving(in_parts(*parts, pause_s=0.2)) as server:
            assert await read_stream(await ask(client, server.url, is_stream=True)) == EVENT * 8

    run(test)


def test_a_provider_that_does_not_read_a_long_request_is_given_up() -> None:
    async def write(writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(30)  # with the rest of the body unread

    async def test() -> None:
        async with calling(0.5) as client, serving(write) as server:
            with pytest.raises(UpstreamDown, match="gave no answer in time"):
                await client.send(ACME, server.url, b" " * 16_000_000, {}, is_stream=False)

    with pytest.warns(ResourceWarning, match="large body"):  # aiohttp's: it copies the body in one go
        run(test)


def test_connections_that_a_provider_closes_between_calls_fail_no_call() -> None:
    async def write(writer: asyncio.StreamWriter) -> None:
        await complete()(writer)
        writer.close()  # without having said so

    async def test() -> None:
        async with calling() as client, serving(write) as server:
            for _ in range(20):
                assert (await ask(client, server.url)).content == ANSWER
                await asyncio.sleep(0.02)
            assert len(server.connections) == 20

    run(test)


def test_a_connection_is_used_again_unless_it_was_idle_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    assert upstreams.IDLE_S < 5, "uvicorn and Node close a connection after 5 s"
    monkeypatch.setattr(upstreams, "IDLE_S", 0.5)

    async def test() -> None:
        async with calling() as client, serving(complete()) as server:
            for pause_s in (0.0, 0.0, 1.0, 0.0):
                await ask(client, server.url)
                await asyncio.sleep(pause_s)
            assert [len(requests) for requests in server.connections] == [3, 1]

    run(test)


def test_more_calls_than_connections_wait_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert upstreams.MOST_CONNECTIONS >= 1_000
    monkeypatch.setattr(upstreams, "MOST_CONNECTIONS", 50)
    most = 0
    at_once = 0
    begun = asyncio.Event()

    async def write(writer: asyncio.StreamWriter) -> None:
        nonlocal most, at_once
        at_once += 1
        most = max(most, at_once)
        if at_once == 50:
            begun.set()
        await begun.wait()
        at_once -= 1
        await complete()(writer)

    async def test() -> None:
        async with calling() as client, serving(write) as server:
            answers = await asyncio.gather(*(ask(client, server.url) for _ in range(130)))
        assert {answer.content for answer in answers} == {ANSWER}
        assert (most, len(server.connections)) == (50, 50)

    run(test)


def test_a_stream_that_is_closed_early_hangs_up() -> None:
    async def test() -> None:
        async with calling() as client, serving(in_parts(*[EVENT] * 1_000, pause_s=0.01)) as server:
            answer = await ask(client, server.url, is_stream=True)
            assert await anext(answer.parts()) == EVENT
            answer.close()
            while not server.hung_up:
                await asyncio.sleep(0.01)

    run(test)


def test_an_answer_that_breaks_off_is_no_answer() -> None:
    async def write(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
        writer.close()

    async def test() -> None:
        async with calling() as client, serving(write) as server:
            with pytest.raises(UpstreamDown, match="acme broke off its answer") as caught:
                await ask(client, server.url)
            assert (caught.value.status, caught.value.code) == (502, "upstream_unreachable")

    run(test)


def test_a_redirect_is_not_followed_and_a_cookie_is_not_sent_back() -> None:
    async def test() -> None:
        cookie = "Set-Cookie: session=of-another-program"
        async with calling() as client, serving(complete(b"", cookie, status="302 Found")) as server:
            for _ in range(2):
                with pytest.raises(VendorError) as caught:
                    await ask(client, server.url)
                assert (caught.value.status, caught.value.headers) == (302, {})
            assert b"cookie" not in server.connections[0][1].lower()

    run(test)


def test_headers_are_passed_on_however_they_are_written() -> None:
    long = "x" * 20_000
    headers = ("X-Request-ID: req_1", "X-RateLimit-Remaining: 7", f"Content-Security-Policy: {long}")

    async def test() -> None:
        async with calling() as client, serving(complete(ANSWER, *headers)) as server:
            answer = await ask(client, server.url, **{"idempotency-key": "k1"})
            assert answer.headers == {"x-request-id": "req_1", "x-ratelimit-remaining": "7"}
            assert b"idempotency-key: k1\r\n" in server.connections[0][0].lower()

    run(test)


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
def test_a_proxy_of_the_environment_is_used_but_not_for_loopback(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    upstreams.find_proxy.cache_clear()

    async def test() -> None:
        async with calling() as client, serving(complete()) as proxy, serving(complete()) as direct:
            address = proxy.url.removesuffix("/v1/chat").replace("http://", "user:word@")
            monkeypatch.setenv(variable, address)
            monkeypatch.setenv("no_proxy", "internal.example")
            await ask(client, direct.url)
            assert (len(direct.connections), len(proxy.connections)) == (1, 0)
            await ask(client, "http://vendor.example:8080/v1/chat")
            head = proxy.connections[0][0]
            assert head.startswith(b"POST http://vendor.example:8080/v1/chat HTTP/1.1\r\n")
            assert b"Proxy-Authorization: Basic " + b64encode(b"user:word") in head
            assert upstreams.find_proxy("http://models.internal.example/v1") is None

    run(test)
    upstreams.find_proxy.cache_clear()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="it makes a certificate with openssl")
def test_a_provider_whose_certificate_nobody_vouches_for_gets_no_key(tmp_path: Path) -> None:
    certificate = tmp_path / "own.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=127.0.0.1", "-days", "2",
         "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", tmp_path / "own.key", "-out", certificate],
        capture_output=True, check=True,
    )  # fmt: skip
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, tmp_path / "own.key")

    async def test() -> None:
        async with calling() as client, serving(complete(), tls) as server:
            with pytest.raises(UpstreamDown, match="acme can't be reached"):
                await ask(client, server.url)
            assert not any(server.connections)
            trusted = ssl.create_default_context(cafile=certificate)
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(upstreams, "trusted_certificates", lambda: trusted)
                assert (await ask(client, server.url)).content == ANSWER

    run(test)
