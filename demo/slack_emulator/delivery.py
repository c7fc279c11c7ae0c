"""Slack's side of the HTTP mode: sends signed requests to the bot, and waits three seconds for its answers."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

_FORM = "application/x-www-form-urlencoded"
_JSON = "application/json"


@dataclass(frozen=True)
class Delivery:
    """A request to the bot: `what` is '/finetune', 'view_submission', 'file_shared', … `status` is None if no ack came
    in time."""

    what: str
    body: bytes
    content_type: str
    status: int | None
    answer: bytes
    seconds: float

    @property
    def acked(self) -> bool:
        return self.status == 200

    @property
    def ack(self) -> dict[str, Any]:
        """The ack's body as JSON. Plain text becomes the text of an ephemeral message, an empty body {}."""
        text = self.answer.decode()
        if not text:
            return {}
        if not text.startswith("{"):
            return {"text": text}
        values: dict[str, Any] = json.loads(text)
        return values


@dataclass(frozen=True)
class BotClient:
    """Sends requests to the bot at `url`, signed with `secret`. An ack is too late after `patience` seconds."""

    url: str
    secret: str
    patience: float = 3.0

    def form(self, what: str, form: Mapping[str, str]) -> Delivery:
        return self.deliver(what, urlencode(form).encode(), _FORM)

    def payload(self, payload: Mapping[str, Any]) -> Delivery:
        return self.form(payload["type"], {"payload": json.dumps(payload)})

    def event(self, callback: Mapping[str, Any]) -> Delivery:
        return self.deliver(callback["event"]["type"], json.dumps(callback).encode(), _JSON)

    def deliver(self, what: str, body: bytes, content_type: str, *, retry: int = 0) -> Delivery:
        """Sends a request. `retry` above 0 adds Slack's headers for that repetition."""
        headers = {"Content-Type": content_type, **signature(self.secret, body)}
        if retry:
            headers |= {"X-Slack-Retry-Num": str(retry), "X-Slack-Retry-Reason": "http_timeout"}
        start = time.monotonic()
        status, answer = self._post(body, headers)
        return Delivery(what, body, content_type, status, answer, time.monotonic() - start)

    def _post(self, body: bytes, headers: Mapping[str, str]) -> tuple[int | None, bytes]:
        parts = urlsplit(self.url)
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=self.patience)
        try:
            connection.request("POST", parts.path or "/", body, dict(headers))
            response = connection.getresponse()
            return response.status, response.read()
        except (OSError, http.client.HTTPException):
            return None, b""
        finally:
            connection.close()


def signature(secret: str, body: bytes, at: int | None = None) -> dict[str, str]:
    """Returns the headers of Slack's request signing v0: HMAC-SHA256 over 'v0:<time>:<body>'. `at` is in seconds,
    default now."""
    if at is None:
        at = int(time.time())
    stamp = str(at)
    signed = b":".join((b"v0", stamp.encode(), body))
    digest = hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()
    return {"X-Slack-Request-Timestamp": stamp, "X-Slack-Signature": f"v0={digest}"}
