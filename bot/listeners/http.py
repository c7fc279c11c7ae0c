"""HTTP mode's front: refuses what would make Bolt's signature check stumble, then hands over to Bolt."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from slack_bolt import App
from slack_bolt.adapter.wsgi import SlackRequestHandler

MAX_BODY = 1024 * 1024

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def checked_wsgi(app: App) -> Wsgi:
    """Bolt answers 500 to a timestamp that is no number or a signature beyond ASCII; such are turned away here."""
    handler = SlackRequestHandler(app)

    def front(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if _is_malformed(environ):
            start_response("401 Unauthorized", [("Content-Type", "text/plain")])
            return [b"This address takes Slack's signed requests only."]
        answer: Iterable[bytes] = handler(environ, start_response)
        return answer

    return front


def _is_malformed(environ: dict[str, Any]) -> bool:
    timestamp = str(environ.get("HTTP_X_SLACK_REQUEST_TIMESTAMP", ""))
    signature = str(environ.get("HTTP_X_SLACK_SIGNATURE", ""))
    length = str(environ.get("CONTENT_LENGTH") or "0")
    is_signed = timestamp.isascii() and timestamp.isdigit() and signature.isascii() and signature != ""
    return not is_signed or not length.isdigit() or int(length) > MAX_BODY
