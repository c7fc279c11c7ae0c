"""A real HTTP server on loopback around Service, with the faults that a network or a vendor can have.

`requests` records everything that reached it. A fault happens either before the service does anything
(`commit=False`) or after it has done everything.
"""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
import time
from collections import defaultdict, deque
from contextlib import suppress
from dataclasses import dataclass, field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from tests.peers.service import Reply, Service, refusal
from tests.peers.vendors import Vendor

KEY = "sk-test-0123456789"
# A provider that answers questions, with the price of one model, for finetune.toml.
CHAT_SETTINGS = """
[providers.acme]
title = "Acme"
base_url = "{url}"
key_env = "ACME_KEY"
abilities = ["chat"]
requests_per_minute = 6000
[prices."acme/large"]
input = "2.50"
output = "10.00"
"""
SIGNED = " /signed/"
"""In the routes of signed addresses."""
HANGS_S = 60.0  # longer than any caller waits


@dataclass(frozen=True)
class Fault:
    """An 'answer' without a body is an error in the API's format. 'cut' is a reset in the middle of the answer."""

    commit: bool
    then: Literal["answer", "hang", "reset", "cut"] = "answer"
    status: int = 500
    code: str = "server_error"
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = None


PAGE = b"<!DOCTYPE html><html><body>Please log in</body></html>"
NOT_AVAILABLE = Fault(commit=False, status=403, code="training_not_available")
COMMIT_THEN_500 = Fault(commit=True)
NOTHING_BUT_500 = Fault(commit=False)
COMMIT_THEN_HANG = Fault(commit=True, then="hang")
HANG = Fault(commit=False, then="hang")
COMMIT_THEN_CUT = Fault(commit=True, then="cut")
RESET = Fault(commit=False, then="reset")
COMMIT_THEN_RESET = Fault(commit=True, then="reset")
BUSY = Fault(commit=False, status=429, code="rate_limit_exceeded", headers=(("Retry-After", "7"),))
WAIT_503 = Fault(commit=False, status=503, headers=(("Retry-After", "30"),))
HTML = Fault(commit=False, status=200, headers=(("Content-Type", "text/html"),), body=PAGE)
COMMIT_THEN_HTML = Fault(commit=True, status=200, headers=(("Content-Type", "text/html"),), body=PAGE)


@dataclass(frozen=True)
class Seen:
    """One request that reached the server. `route` is like 'POST /fine_tuning/jobs'."""

    route: str
    query: dict[str, str]
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass
class Hosted:
    """Use as a context manager. `slow_s` delays every answer."""

    service: Service = field(default_factory=Service)
    key: str = KEY
    slow_s: float = 0.0
    requests: list[Seen] = field(default_factory=list)
    _faults: dict[str, deque[Fault]] = field(default_factory=lambda: defaultdict(deque))
    _closing: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Hosted:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hosted = self
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/v1"

    def fail(self, route: str, fault: Fault, times: int = 1) -> None:
        """Makes the next `times` requests to `route` meet this fault."""
        self._faults[route].extend([fault] * times)

    def forgive(self, route: str) -> None:
        """Cancels the remaining faults of a route."""
        self._faults[route].clear()

    def count(self, route: str) -> int:
        return sum(seen.route == route for seen in self.requests)

    def next_fault(self, route: str) -> Fault | None:
        return self._faults[route].popleft() if self._faults[route] else None

    def lets_in(self, seen: Seen) -> bool:
        return seen.headers.get("authorization") == f"Bearer {self.key}"

    def let_go(self) -> None:
        """Closes hanging connections without an answer, now and from now on."""
        self._closing.set()

    def wait_for_the_end(self) -> None:
        self._closing.wait(HANGS_S)


class SigningHosted(Hosted):
    """Signed addresses need no key, and refuse one."""

    service: Vendor

    def __enter__(self) -> SigningHosted:
        super().__enter__()
        self.service.address = self.url
        return self

    def lets_in(self, seen: Seen) -> bool:
        if SIGNED in seen.route:
            return "authorization" not in seen.headers
        return super().lets_in(seen)


class _Server(ThreadingHTTPServer):
    hosted: Hosted
    daemon_threads = False  # joined on close, so that no socket outlives its test
    request_queue_size = 64  # more than there are callers

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._connections: set[socket.socket] = set()

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def close_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().close_request(request)

    def shutdown(self) -> None:
        """Wakes the loop, which looks for its end twice a second otherwise."""
        with suppress(OSError):  # not every system allows it on a socket that listens
            self.socket.shutdown(socket.SHUT_RD)
        super().shutdown()

    def server_close(self) -> None:
        """Ends the connections that callers keep open."""
        for connection in list(self._connections):
            with suppress(OSError):  # it was closed meanwhile
                connection.shutdown(socket.SHUT_RD)
        super().server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores callers that hung up or were killed."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def handle_any(self) -> None:
        hosted = self.server.hosted
        seen = self._read()
        hosted.requests.append(seen)
        time.sleep(hosted.slow_s)
        fault = hosted.next_fault(seen.route)
        reply = self._reply(seen) if fault is None or fault.commit else None
        if fault is not None:
            self._misbehave(fault, reply)
        elif reply is not None:
            self._send_reply(reply)

    def _send_reply(self, reply: Reply) -> None:
        """Sends a redirect's object as its headers."""
        status, body = reply
        if 300 <= status < 400 and isinstance(body, dict):
            self._send(status, b"", "text/plain", tuple(body.items()))
        else:
            self._send(status, _encoded(reply), "application/json")

    do_GET = do_POST = do_PUT = do_DELETE = handle_any

    def log_message(self, *args: object) -> None:
        pass

    def _read(self) -> Seen:
        parts = urlsplit(self.path)
        length = int(self.headers.get("Content-Length") or 0)
        raw = self.rfile.read(length)
        if len(raw) < length:
            raise ConnectionAbortedError("killed in the middle of its request")
        headers = {name.lower(): value for name, value in self.headers.items()}
        route = f"{self.command} {parts.path.removeprefix('/v1')}"
        return Seen(route, dict(parse_qsl(parts.query)), headers, _body(headers, raw, route))

    def _reply(self, seen: Seen) -> Reply:
        hosted = self.server.hosted
        if not hosted.lets_in(seen):
            return refusal(401, "invalid_api_key", "Incorrect API key provided.")
        method, path = seen.route.split(" ", 1)
        return hosted.service.answer_to(method, path, seen.query, seen.headers, seen.body)

    def _misbehave(self, fault: Fault, reply: Reply | None) -> None:
        if fault.then == "hang":
            self.server.hosted.wait_for_the_end()
            self.close_connection = True
        elif fault.then in ("reset", "cut"):
            if fault.then == "cut" and reply is not None:
                self._send_half(_encoded(reply))
            self._reset()
        else:
            body = fault.body or json.dumps(refusal(fault.status, fault.code, "It went wrong.")[1]).encode()
            self._send(fault.status, body, "application/json", fault.headers)

    def _send(
        self, status: int, body: bytes, content_type: str, headers: tuple[tuple[str, str], ...] = ()
    ) -> None:
        """In one packet, as a second one would wait until the first is acknowledged."""
        self.send_response(status)
        for name, value in {"Content-Type": content_type, **dict(headers)}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self._headers_buffer += [b"\r\n", body]  # type: ignore[attr-defined]
        self.flush_headers()

    def _send_half(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2])

    def _reset(self) -> None:
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def _encoded(reply: Reply) -> bytes:
    return reply[1] if isinstance(reply[1], bytes) else json.dumps(reply[1]).encode()


def _body(headers: dict[str, str], raw: bytes, route: str) -> dict[str, Any]:
    if "multipart" in headers.get("content-type", ""):
        return _form(headers, raw)
    if SIGNED in route:
        return {"content": raw}
    body: dict[str, Any] = json.loads(raw or b"{}")
    return body


def _form(headers: dict[str, str], raw: bytes) -> dict[str, Any]:
    """Parses a multipart form, in which an upload becomes (name, content)."""
    head = f"Content-Type: {headers['content-type']}\r\n\r\n".encode()
    form: dict[str, Any] = {}
    for part in BytesParser().parsebytes(head + raw).walk():
        content = part.get_payload(decode=True)
        if isinstance(content, bytes):
            name = str(part.get_param("name", header="content-disposition"))
            form[name] = (part.get_filename(), content) if part.get_filename() else content.decode()
    return form
