"""Silent or slow connections neither block the trainer nor fill its disk."""

from __future__ import annotations

import asyncio
import errno
import logging
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.local.trainer_server import KEY, ROOT, TrainerServer, close, ready_url, serve_in_thread
from trainers.http import connections
from trainers.http.sockets import AcceptErrorFilter

FILES, SILENT = 500, 700
UNFINISHED = b"POST /v1/files HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100000\r\n"


@pytest.fixture
def impatient(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TrainerServer]:
    """A trainer that waits half a second for a request's head."""
    monkeypatch.setattr(connections, "HEAD_S", 0.5)
    with serve_in_thread(tmp_path / "data", {}) as served:
        yield served


def connect(served: TrainerServer) -> socket.socket:
    parts = urlsplit(served.url)
    client = socket.create_connection((parts.hostname, parts.port))
    client.settimeout(30)
    return client


@pytest.mark.parametrize("sent", [b"", UNFINISHED], ids=["nothing", "half a head"])
def test_a_connection_without_a_complete_head_is_closed(impatient: TrainerServer, sent: bytes) -> None:
    with connect(impatient) as client:
        client.sendall(sent)
        assert read_to_end(client) == b""


@pytest.mark.parametrize("sent", [UNFINISHED, UNFINISHED + b"\r\n"], ids=["a head", "the body of a refusal"])
def test_a_head_or_unauthorized_body_that_trickles_in_is_closed(
    impatient: TrainerServer, sent: bytes
) -> None:
    with connect(impatient) as client:
        client.sendall(sent)
        closed = threading.Event()

        def trickle() -> None:
            while not closed.wait(0.05):
                try:
                    client.send(b"x")
                except OSError:
                    return

        writer = threading.Thread(target=trickle)
        writer.start()
        try:
            answer = read_to_end(client)
        finally:
            closed.set()
            writer.join()
    assert (b" 401 " in answer) == sent.endswith(b"\r\n\r\n")


def test_a_request_with_the_key_may_send_its_body_slowly(impatient: TrainerServer) -> None:
    head = f"Authorization: Bearer {KEY}\r\nContent-Type: multipart/form-data; boundary=x\r\nConnection: close\r\n\r\n"
    with connect(impatient) as client:
        client.sendall(UNFINISHED + head.encode())
        client.settimeout(3 * connections.HEAD_S)
        with pytest.raises(TimeoutError):
            client.recv(1)
        client.settimeout(30)
        client.sendall(b"-" * 100_000)
        assert b" 400 " in read_to_end(client)


@pytest.mark.deep
def test_with_more_silent_connections_than_files_it_still_answers(tmp_path: Path) -> None:
    with ExitStack() as stack, (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "trainers.local", "--port", "0", "--data", str(tmp_path / "data")],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=ROOT,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, FILES)),
        )
        stack.callback(close, process)
        stack.callback(process.wait, 20)
        stack.callback(process.terminate)
        served = TrainerServer(ready_url(process), process)
        key = (tmp_path / "data" / "trainer.key").read_text().strip()
        for _ in range(SILENT):
            stack.enter_context(connect(served))
        with served.client(key) as client:
            assert client.models.list().data == []
    logged = (tmp_path / "log").read_text()
    assert len(logged) < 10_000, logged[-4_000:]


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOMEM])
def test_running_out_of_files_or_memory_is_logged_once_a_minute(number: int) -> None:
    def record(error: OSError) -> logging.LogRecord:
        return logging.makeLogRecord({"exc_info": (OSError, error, None)})

    log_filter = AcceptErrorFilter()
    assert [bool(log_filter.filter(record(OSError(number, "")))) for _ in range(3)] == [
        True,
        False,
        False,
    ]
    assert log_filter.filter(record(OSError(errno.ENOSPC, "")))


def test_listening_again_on_a_closed_socket_is_no_error() -> None:
    """asyncio listens again a second after such an error, also if the server was stopped meanwhile."""
    records: list[dict[str, Any]] = []

    async def stop_before_it_listens_again() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: records.append(context))
        listener = socket.socket()
        loop.call_soon(loop._start_serving, asyncio.Protocol, listener)  # type: ignore[attr-defined]
        listener.close()
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    asyncio.run(stop_before_it_listens_again())
    (context,) = records
    error = context["exception"]
    record = logging.makeLogRecord({"exc_info": (type(error), error, error.__traceback__)})
    assert not AcceptErrorFilter().filter(record)
    other = ValueError("of another kind")
    assert AcceptErrorFilter().filter(logging.makeLogRecord({"exc_info": (ValueError, other, None)}))


def read_to_end(client: socket.socket) -> bytes:
    """Returns everything received until the other side closes. Fails after 30 s."""
    answer = b""
    while True:
        try:
            part = client.recv(65536)
        except ConnectionError:
            return answer
        if not part:
            return answer
        answer += part
