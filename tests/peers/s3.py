"""An S3 server on loopback, and a proxy in front of it that answers late or with 500.

The server is moto's, in its own environment, because its botocore needs an older python-dateutil than this project.
"""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx2

from tests.local.trainer_server import free_port

BUCKET = "training"
KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_EC2_METADATA_DISABLED": "true",
}


def moto_command() -> str:
    """$FINETUNE_MOTO, or `moto_server` on the path."""
    command = os.environ.get("FINETUNE_MOTO") or shutil.which("moto_server")
    assert command, (
        "There is no S3 server: pip install 'moto[server]==5.2.5', and set FINETUNE_MOTO to its command."
    )
    return command


@contextmanager
def s3_server() -> Iterator[int]:
    """Yields the server's port once the bucket exists."""
    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [moto_command(), "-H", "127.0.0.1", "-p", str(port)]
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet, env=environment)
    try:
        deadline = time.monotonic() + 60
        while not _has_bucket(port):
            assert time.monotonic() < deadline, "moto_server did not start within 60 s"
            time.sleep(0.2)
        yield port
    finally:
        process.terminate()
        process.wait(20)


def _has_bucket(port: int) -> bool:
    try:
        return httpx2.put(f"http://127.0.0.1:{port}/{BUCKET}", timeout=10).is_success
    except httpx2.TransportError:
        return False


def s3_url(port: int, folder: str) -> str:
    return f"s3://{BUCKET}/{folder}?endpoint_override=127.0.0.1:{port}&scheme=http&region=us-east-1"


class FaultyProxy:
    """Passes requests on to `port`. Every `fail_each`th request gets a 500, in turn before and after it is carried out;
    every `late_each`th is answered `late_s` seconds late. While `is_away` all get a 503."""

    def __init__(self, port: int, fail_each: int = 10, late_each: int = 23, late_s: float = 2.0) -> None:
        self.is_away = False
        self.requests = self.failed = 0
        self._lock = threading.Lock()
        self._fail_each = fail_each
        self._late_each = late_each
        self._late_s = late_s
        self._port = port
        self._server = self._listen()

    @property
    def port(self) -> int:
        return int(self._server.server_port)

    def end(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def pass_on(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, Any, bytes]:
        with self._lock:
            self.requests += 1
            number = self.requests
            is_failing = self.is_away or number % self._fail_each == 0
            self.failed += is_failing
        if number % self._late_each == 0:
            time.sleep(self._late_s)
        if is_failing and (self.is_away or self.failed % 2):
            return (503 if self.is_away else 500), [], b""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            content = answer.read()
        finally:
            connection.close()
        return (500, [], b"") if is_failing else (answer.status, answer.getheaders(), content)

    def _listen(self) -> ThreadingHTTPServer:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_any(self) -> None:
                headers = {name: value for name, value in self.headers.items() if name.lower() not in HOP}
                status, answer_headers, content = proxy.pass_on(
                    self.command, self.path, headers, self._body()
                )
                self.send_response(status)
                has_length = False
                for name, value in answer_headers:
                    has_length = has_length or name.lower() == "content-length"
                    if name.lower() not in (*HOP, "server", "date"):
                        self.send_header(name, value)
                if not has_length:
                    self.send_header("content-length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = handle_any

            def _body(self) -> bytes:
                if "chunked" not in self.headers.get("transfer-encoding", ""):
                    return self.rfile.read(int(self.headers.get("content-length") or 0))
                content = b""
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    content += self.rfile.read(size)
                    self.rfile.readline()
                while self.rfile.readline().strip():  # trailers
                    continue
                return content

            def log_message(self, format: str, *args: Any) -> None: ...

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return server


HOP = ("transfer-encoding", "connection", "expect")


@contextmanager
def faulty_proxy(port: int, **more: Any) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(port, **more)
    try:
        yield proxy
    finally:
        proxy.end()
