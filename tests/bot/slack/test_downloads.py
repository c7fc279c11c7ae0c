"""Fetching a file if Slack's answer is cut off, redirects, asks for a sign-in, or names another host."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from slack_sdk import WebClient

from bot.context import FetchedFile, FetchLater
from bot.slack.files import SlackFiles
from bot.slack.users import SlackDirectory
from bot.values.runs import Refusal

MOST = 1_000


@dataclass
class Answer:
    """The answer to a download. `url` is what files.info names, '' for this server's own; `size` is what it claims."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"text,label\n"
    url: str = ""
    size: int = 11
    tokens: list[str | None] = field(default_factory=list)
    is_info_cut: bool = False


@contextmanager
def slack_with(answer: Answer) -> Iterator[SlackFiles]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            url = answer.url or f"http://127.0.0.1:{server.server_port}/file"
            info = {"name": "a.csv", "size": answer.size, "url_private_download": url}
            cut = (("Content-Length", "500"),) if answer.is_info_cut else ()
            self._send(
                200,
                (("Content-Type", "application/json"), *cut),
                json.dumps({"ok": True, "file": info}).encode(),
            )

        def do_GET(self) -> None:
            answer.tokens.append(self.headers.get("Authorization"))
            self._send(answer.status, answer.headers, answer.body)

        def _send(self, status: int, headers: tuple[tuple[str, str], ...], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    host = f"127.0.0.1:{server.server_port}"
    try:
        client = WebClient("xoxb-1", base_url=f"http://{host}/api/", retry_handlers=[])
        yield SlackFiles(client, "xoxb-1", frozenset({host}))
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_an_answer_that_is_cut_off_does_not_count(tmp_path: Path) -> None:
    with slack_with(Answer(is_info_cut=True)) as files:
        with pytest.raises(FetchLater, match="asking Slack about the file"):
            files.fetch("F1", tmp_path, MOST)
        directory = SlackDirectory(files.slack, None)
        assert directory.person("U1") is None
        assert directory.takes_posts("C1") is None


def test_a_file_is_stored_under_its_sha256(tmp_path: Path) -> None:
    with slack_with(Answer()) as files:
        fetched = files.fetch("F1", tmp_path, MOST)
    assert isinstance(fetched, FetchedFile)
    assert fetched.path.name == fetched.sha256 and fetched.path.read_bytes() == b"text,label\n"


def test_a_download_that_ends_early_leaves_no_file(tmp_path: Path) -> None:
    cut = Answer(headers=(("Content-Length", "500"),))
    with slack_with(cut) as files, pytest.raises(FetchLater, match="ended early, after 11 bytes"):
        files.fetch("F1", tmp_path, MOST)
    assert list(tmp_path.iterdir()) == []


def test_a_file_larger_than_announced_is_refused(tmp_path: Path) -> None:
    with slack_with(Answer(body=b"x" * 5_000)) as files:
        refusal = files.fetch("F1", tmp_path, MOST)
    assert isinstance(refusal, Refusal) and "Send less: a sample of a few thousand rows" in refusal.text
    assert list(tmp_path.iterdir()) == []


def test_a_sign_in_page_names_the_missing_scope(tmp_path: Path) -> None:
    with slack_with(Answer(headers=(("Content-Type", "text/html; charset=utf-8"),))) as files:
        refusal = files.fetch("F1", tmp_path, MOST)
    assert isinstance(refusal, Refusal) and "files:read" in refusal.text


def test_a_redirect_gets_no_token(tmp_path: Path) -> None:
    elsewhere = Answer()
    with slack_with(elsewhere) as other:
        address = next(iter(other.hosts))
        with slack_with(Answer(status=302, headers=(("Location", f"http://{address}/file"),))) as files:
            assert isinstance(files.fetch("F1", tmp_path, MOST), Refusal)
    assert elsewhere.tokens == []


@pytest.mark.parametrize("url", ["https://files.example/x", "http://files.slack.com/x", "file:///etc/passwd"])
def test_a_foreign_address_is_not_contacted(tmp_path: Path, url: str) -> None:
    with slack_with(Answer(url=url)) as files:
        refusal = files.fetch("F1", tmp_path, MOST)
    assert isinstance(refusal, Refusal) and "kept outside Slack" in refusal.text
