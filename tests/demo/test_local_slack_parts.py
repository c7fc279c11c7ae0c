"""Parts of the local-slack driver that need no local-slack: finding and starting it, and the proxy before its page."""

from __future__ import annotations

import http.client
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from demo.local_slack import find_local_slack
from demo.local_slack.front import PageProxy
from demo.local_slack.process import start, workspace_config
from demo.people import ANA, BEN, BOT, TICKETS
from demo.workspace import WorkspaceError

PAGE = b"<html><head><title>page</title></head></html>"


class FakeLocalSlack(BaseHTTPRequestHandler):
    """In place of local-slack: a page, an echo, and an upgraded connection that returns bytes reversed."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.headers.get("Upgrade"):
            self.send_response(101)
            self.end_headers()
            self.wfile.write(self.rfile.read(4)[::-1])
            self.close_connection = True
        else:
            self._answer(PAGE if self.path == "/" else self.path.encode())

    def do_POST(self) -> None:
        self._answer(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[PageProxy]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeLocalSlack)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    proxy = PageProxy(server.server_port)
    proxy.start()
    yield proxy
    proxy.stop()
    server.shutdown()
    thread.join()
    server.server_close()


def request(proxy: PageProxy, verb: str, path: str, body: bytes = b"") -> bytes:
    connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"), timeout=5)
    try:
        connection.request(verb, path, body)
        return connection.getresponse().read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", ["/", "/?x=1"])
def test_our_script_runs_before_the_pages_own(proxy: PageProxy, path: str) -> None:
    page = request(proxy, "GET", path).decode()
    assert page.startswith("<html><head><script>")
    assert "window.WebSocket = class" in page
    assert page.endswith("</script><title>page</title></head></html>")


def test_other_requests_pass_through_unchanged(proxy: PageProxy) -> None:
    assert request(proxy, "GET", "/api/files.info?file=F1") == b"/api/files.info?file=F1"
    large = bytes(range(256)) * 4_000
    assert request(proxy, "POST", "/upload/v1/x", large) == large


def test_websocket_bytes_pass_through_both_ways(proxy: PageProxy) -> None:
    host, _, port = proxy.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 5) as line:
        line.sendall(b"GET /ui HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nabcd")
        received = b""
        while not received.endswith(b"dcba"):
            chunk = line.recv(4096)
            assert chunk, received
            received += chunk
    assert received.startswith(b"HTTP/1.1 101")


def test_a_stopped_proxy_closes_its_connections(proxy: PageProxy) -> None:
    host, _, port = proxy.url.removeprefix("http://").partition(":")
    with socket.create_connection((host, int(port)), 5) as line:
        line.sendall(b"GET /half")
        assert request(proxy, "GET", "/x") == b"/x"
        proxy.stop()
        assert line.recv(10) == b""


def test_the_variable_must_name_an_existing_binary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    binary = tmp_path / "local-slack"
    monkeypatch.setenv("FINETUNE_LOCAL_SLACK", str(binary))
    with pytest.raises(WorkspaceError, match="which does not exist"):
        find_local_slack()
    binary.touch()
    assert find_local_slack() == binary


def test_a_binary_that_does_not_start_is_reported_with_its_output(tmp_path: Path) -> None:
    binary = tmp_path / "local-slack"
    binary.write_text("#!/bin/sh\necho wrong libc\nexit 1\n")
    binary.chmod(0o755)
    with pytest.raises(WorkspaceError, match=r"starting local-slack: .*wrong libc"):
        start(binary, tmp_path, (ANA,), (TICKETS,))


def test_the_workspace_has_socket_mode_the_people_and_their_direct_messages() -> None:
    config: dict[str, Any] = workspace_config((ANA, BEN), (TICKETS,))
    assert config["app"]["mode"] == "socket"
    assert [user["id"] for user in config["users"]] == [ANA.id, BEN.id]
    members = {channel["id"]: channel["members"] for channel in config["channels"]}
    assert members == {
        TICKETS.id: list(TICKETS.members),
        "D0ANA": [ANA.id, BOT.id],
        "D0BEN": [BEN.id, BOT.id],
    }
