"""HTTP mode's front: takes what Slack signed and can be read, and hands it over to Bolt."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterable
from typing import Any

from slack_bolt import App
from slack_bolt.adapter.wsgi import SlackRequestHandler
from slack_sdk.signature import SignatureVerifier

from bot import logs

MAX_BODY = 1024 * 1024
# What a body of another shape than Slack's makes Bolt raise; a database that fails is none of these, and stays a 500,
# after which Slack delivers again.
MISSHAPEN = (TypeError, AttributeError, LookupError, ValueError, RecursionError)

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
log = logging.getLogger(__name__)


def checked_wsgi(app: App, signing_secret: str) -> Wsgi:
    """Bolt parses a body before it checks its signature, and answers 500 to what can't be parsed. So the signature is
    checked here first, and what Bolt stumbles over is a sentence with a reference."""
    handler, verifier = SlackRequestHandler(app), SignatureVerifier(signing_secret)

    def front(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if not _is_signed(environ, verifier):
            return _refused(
                start_response, "401 Unauthorized", "This address takes Slack's signed requests only."
            )
        logs.begin()
        try:
            answer: Iterable[bytes] = handler(environ, start_response)
        except MISSHAPEN as error:
            log.error("a delivery that can't be read", exc_info=error)
            said = f"This delivery is not in a form of Slack's. {logs.sorry()}"
            return _refused(start_response, "400 Bad Request", said)
        return answer

    return front


def _is_signed(environ: dict[str, Any], verifier: SignatureVerifier) -> bool:
    timestamp = str(environ.get("HTTP_X_SLACK_REQUEST_TIMESTAMP", ""))
    signature = str(environ.get("HTTP_X_SLACK_SIGNATURE", ""))
    length = str(environ.get("CONTENT_LENGTH") or "0")
    has_form = timestamp.isascii() and timestamp.isdigit() and len(timestamp) < 20 and signature.isascii()
    if not has_form or not length.isdigit() or int(length) > MAX_BODY:
        return False
    body = environ["wsgi.input"].read(int(length))
    environ["wsgi.input"] = io.BytesIO(body)  # for Bolt, which reads it again
    try:
        return verifier.is_valid(body, timestamp, signature)
    except UnicodeDecodeError:
        return False


def _refused(start_response: Callable[..., Any], status: str, said: str) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [said.encode()]
