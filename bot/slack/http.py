"""The server of HTTP mode: accepts readable requests that Slack signed, and passes them to Bolt.

Anybody may reach it, so unsigned requests must cost little: a request is refused as soon as its headers are read, it
has 10 s to arrive, and with too many connections the one that has waited longest is closed.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable
from typing import Any

from slack_bolt import App
from slack_bolt.adapter.wsgi import SlackRequestHandler
from slack_sdk.signature import SignatureVerifier
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.server import create_server
from waitress.utilities import Error

from bot import logs

MAX_BODY = 1024 * 1024
MAX_HEAD = 64 * 1024
REQUEST_S = 10
CONNECTIONS = 200
THREADS = 32  # a burst of people; with fewer, some wait for a thread, and a warning is logged for each
# What Bolt raises for a body that is not of Slack's form. A database error is none of these: it stays a 500, after
# which Slack delivers again.
MISSHAPEN = (TypeError, AttributeError, LookupError, ValueError, RecursionError)

SIGNED_ONLY = "This address takes Slack's signed requests only."

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
log = logging.getLogger(__name__)


class _Unsigned(Error):  # type: ignore[misc]
    code = 401
    reason = "Unauthorized"


class _Parser(HTTPRequestParser):  # type: ignore[misc]
    """Refuses a request without a signature at once; waitress itself would wait for its whole body."""

    completed: bool

    def received(self, data: bytes) -> int:
        taken = int(super().received(data))
        if self.headers_finished and not self.completed and "X_SLACK_SIGNATURE" not in self.headers:
            self.error = _Unsigned(SIGNED_ONLY)
            self.completed = True
        return taken


class _Channel(HTTPChannel):  # type: ignore[misc]
    """Counts only the beginning of a request as activity, so that a request that trickles in times out as well.
    Waitress itself counts each byte."""

    parser_class = _Parser
    last_activity: float

    def handle_read(self) -> None:
        before = self.last_activity
        has_begun = self.request is not None
        super().handle_read()
        is_unfinished = self.request is not None
        if has_begun and is_unfinished:
            self.last_activity = before


def new_server(application: Wsgi, host: str, port: int) -> Any:
    server = create_server(
        application,
        host=host,
        port=port,
        threads=THREADS,
        asyncore_use_poll=True,  # select() raises once the process has 1,024 files open
        max_request_header_size=MAX_HEAD,
        max_request_body_size=MAX_BODY + 1,
        channel_timeout=REQUEST_S,
        cleanup_interval=1,
        connection_limit=CONNECTIONS + 50,  # waitress accepts no more than this; `make_room` acts earlier
    )
    server.channel_class = _Channel
    return server


def make_room(server: Any) -> None:
    """Closes the connection that has waited longest, if there are too many; never one that is being answered. Call it
    before each poll, which accepts at most one connection."""
    channels = list(server.active_channels.values())
    if len(channels) > CONNECTIONS:
        waiting = [channel for channel in channels if not channel.requests and not channel.will_close]
        if waiting:
            min(waiting, key=lambda channel: channel.last_activity).will_close = True


def checked_wsgi(app: App, signing_secret: str) -> Wsgi:
    """Wraps Bolt: checks the signature before Bolt parses the body, and answers what Bolt can't parse with a sentence
    and a reference. Bolt alone would parse first, and answer 500."""
    handler = SlackRequestHandler(app)
    verifier = SignatureVerifier(signing_secret)

    def front(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not _is_signed(environ, verifier):
            return _refuse(start_response, "401 Unauthorized", SIGNED_ONLY)
        logs.begin()
        try:
            answer: Iterable[bytes] = handler(environ, start_response)
        except MISSHAPEN as error:
            log.error("a delivery that can't be read", exc_info=error)
            sentence = f"This delivery is not in Slack's format. {logs.sorry()}"
            return _refuse(start_response, "400 Bad Request", sentence)
        return answer

    return front


def _is_signed(environ: dict[str, Any], verifier: SignatureVerifier) -> bool:
    timestamp = str(environ.get("HTTP_X_SLACK_REQUEST_TIMESTAMP", ""))
    signature = str(environ.get("HTTP_X_SLACK_SIGNATURE", ""))
    length = str(environ.get("CONTENT_LENGTH") or "0")
    # The verifier computes with them, and would raise for what isn't a number or can't be compared.
    is_time = timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 20
    if not is_time or not signature.isascii():
        return False
    if not length.isdigit() or int(length) > MAX_BODY:
        return False
    body = environ["wsgi.input"].read(int(length))
    environ["wsgi.input"] = io.BytesIO(body)  # for Bolt, which reads it again
    try:
        return verifier.is_valid(body, timestamp, signature)
    except UnicodeDecodeError:
        return False


def _refuse(start_response: Callable[..., Any], status: str, sentence: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [sentence.encode()]
