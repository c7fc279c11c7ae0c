"""The emulator's HTTP server: /api/<method>, upload and download URLs, and response_urls. It injects the faults.

It parses requests and writes answers; their meaning is in `methods`, `files` and `chat`.
"""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from demo.slack_emulator import chat, files, methods
from demo.slack_emulator.faults import Fault, Faults
from demo.slack_emulator.state import Call, Json, SlackError, State

_NESTED = ("blocks", "view", "files", "attachments", "metadata")


class SlackServer(ThreadingHTTPServer):
    """Listens on a free loopback port once created, and answers once `start` was called."""

    daemon_threads = True

    def __init__(self, state: State, faults: Faults) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.state = state
        self.faults = faults
        self.state.base = f"http://127.0.0.1:{self.server_port}"
        self._thread = threading.Thread(target=self.serve_forever, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        with suppress(OSError):  # wakes the loop, which looks for its end twice a second otherwise
            self.socket.shutdown(socket.SHUT_RD)
        self.shutdown()
        self._thread.join()
        self.server_close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores callers that hung up. Anything else is our own bug and is shown."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: SlackServer

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        if path.startswith("/files-pri/"):
            self._download(path)
        else:
            self.do_POST()

    def do_POST(self) -> None:
        path = urlsplit(self.path).path
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        _, kind, rest = [*path.split("/", 2), "", ""][:3]
        if kind == "api":
            self._api(rest, body)
        elif kind == "upload":
            self._upload(rest.removeprefix("v1/"), body)
        elif kind == "response":
            self._respond(rest, body)
        else:
            self._send(404, b"not found", "text/plain")

    def log_message(self, format: str, *args: Any) -> None:
        """Logs nothing, since `State.calls` records everything."""

    def _api(self, method: str, body: bytes) -> None:
        args = self._args(body)
        with self.server.state.lock:
            fault = self.server.faults.next_for(method, args)
        if fault:
            time.sleep(fault.wait)
        if fault and fault.answers and not fault.after_work:
            self._fail(method, args, fault)
            return
        answer = self._answer(method, args)
        if fault and fault.answers:
            self._fail(method, args, fault)
        else:
            self._record(method, args, 200, answer.get("error"))
            self._send_json(200, answer)

    def _answer(self, method: str, args: Json) -> Json:
        state = self.server.state
        with state.lock:
            try:
                return {"ok": True, **methods.call(state, method, self._token(args), args)}
            except SlackError as error:
                return _refusal(state, error)

    def _fail(self, method: str, args: Json, fault: Fault) -> None:
        status = 0 if fault.cut else fault.status
        self._record(method, args, status, fault.error or "fault")
        if fault.cut:
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif fault.error is None:
            self._send(fault.status, b"upstream error", "text/plain")
        else:
            headers = {}
            if fault.retry_after is not None:
                headers["Retry-After"] = str(fault.retry_after)
            self._send_json(fault.status, {"ok": False, "error": fault.error}, headers)

    def _upload(self, token: str, body: bytes) -> None:
        with self.server.state.lock:
            try:
                files.take_bytes(self.server.state, token, body)
            except KeyError:
                self._send(404, b"unknown or used upload_url", "text/plain")
            except SlackError as error:
                self._send(400, error.code.encode(), "text/plain")
            else:
                self._send(200, f"OK - {len(body)}".encode(), "text/plain")

    def _download(self, path: str) -> None:
        with self.server.state.lock:
            fault = self.server.faults.next_for("download", {"path": path})
        if fault:
            time.sleep(fault.wait)
        if fault and fault.answers:
            self._fail("download", {"path": path}, fault)
            return
        with self.server.state.lock:
            try:
                file = files.file_for_token(self.server.state, path.split("/")[2], self._token({}))
            except SlackError as error:
                self._record("download", {"path": path}, 404, error.code)
                self._send(404, error.code.encode(), "text/plain")
                return
        self._record("download", {"path": path}, 200, None if file else "login page")
        if file is None:
            self._send(200, files.LOGIN_PAGE, "text/html; charset=utf-8")
        else:
            self._send(200, file.content or b"", file.body["mimetype"])

    def _respond(self, name: str, body: bytes) -> None:
        args = self._args(body)
        with self.server.state.lock:
            try:
                chat.respond(self.server.state, name, args)
            except SlackError as error:
                self._record("response_url", args, 404, error.code)
                self._send_json(404, {"ok": False, "error": error.code})
                return
        self._record("response_url", args, 200, None)
        self._send(200, b"ok", "text/plain")

    def _args(self, body: bytes) -> Json:
        args: Json = dict(parse_qsl(urlsplit(self.path).query))
        if self.headers.get("Content-Type", "").startswith("application/json"):
            args.update(json.loads(body or b"{}"))
        else:
            args.update(parse_qsl(body.decode(errors="replace")))
        for name in _NESTED:
            if isinstance(args.get(name), str):
                args[name] = json.loads(args[name])
        return args

    def _token(self, args: Json) -> str | None:
        bearer = self.headers.get("Authorization", "")
        return bearer.removeprefix("Bearer ") or args.pop("token", None)

    def _record(self, method: str, args: Json, status: int, error: str | None) -> None:
        with self.server.state.lock:
            self.server.state.calls.append(Call(unquote(method), args, time.monotonic(), status, error))

    def _send_json(self, status: int, answer: Json, headers: dict[str, str] | None = None) -> None:
        scopes = {"X-OAuth-Scopes": ",".join(sorted(self.server.state.scopes))}
        self._send(
            status, json.dumps(answer).encode(), "application/json; charset=utf-8", scopes | (headers or {})
        )

    def _send(self, status: int, body: bytes, kind: str, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)


def _refusal(state: State, error: SlackError) -> Json:
    answer: Json = {"ok": False, "error": error.code}
    if error.details:
        answer["errors"] = list(error.details)
        answer["response_metadata"] = {"messages": [f"[ERROR] {detail}" for detail in error.details]}
    if error.needed:
        answer |= {"needed": error.needed, "provided": ",".join(sorted(state.scopes))}
    return answer
