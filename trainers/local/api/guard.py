"""Checks that come before any endpoint of the trainer: Host header, bearer key with its rights, size of the body.

The key is checked before a body is read; a client with the key may take as long as it needs to send one."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from trainers.http.errors import ApiError
from trainers.http.guard import LimitedBody, host_problem, is_longer, is_same_key, key_missing, sent_key
from trainers.http.metrics import METRICS
from trainers.local.jobs.files import MAX_FILE_BYTES, file_too_large

MODELS = "/v1/models"
RESPONSE = "/v1/responses/"
CALLS = ("/v1/chat/completions", "/v1/responses", "/v1/completions", "/v1/embeddings")
MAX_JSON_BYTES = 2 * 1024 * 1024
# For what a form has around a file of the largest size.
MULTIPART_SLACK_BYTES = 64 * 1024
HOST_REMEDY = "Start it with --allow-host {name}."


@dataclass(frozen=True)
class Guard:
    """`key` may do everything. `call_key` may only list models, ask them, read or delete what was answered to it, and
    read the metrics, so that a program that
    calls `team/NAME` can't read rows or move the name; empty if there is none.

    `hosts` are the host names that clients may use, besides those of loopback.
    """

    app: ASGIApp
    key: str
    call_key: str
    hosts: frozenset[str]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = Headers(scope=scope)
        is_upload = scope["path"] == "/v1/files" and scope["method"] == "POST"
        limit = MAX_JSON_BYTES
        too_large = _body_too_large()
        if is_upload:
            limit = MAX_FILE_BYTES + MULTIPART_SLACK_BYTES
            too_large = file_too_large()
        problem = host_problem(headers, self.hosts, "trainer", HOST_REMEDY)
        if problem is None:
            problem = self._key_problem(scope, headers)
        if problem is None and is_longer(headers, limit):
            problem = too_large
        if problem is not None:
            return await problem.response()(scope, receive, send)
        await self.app(scope, LimitedBody(receive, limit, too_large), send)

    def _key_problem(self, scope: Scope, headers: Headers) -> ApiError | None:
        sent = sent_key(headers)
        if is_same_key(sent, self.key):
            return None
        if is_same_key(sent, self.call_key):
            if may_call(scope["method"], scope["path"]):
                return None
            return _not_for_calls(scope)
        return key_missing("Incorrect API key. Send the trainer's key as 'Authorization: Bearer KEY'.")


def may_call(method: str, path: str) -> bool:
    """True if the key for calls may do this. What isn't listed here is refused, and so is every new endpoint."""
    if method == "POST":
        return path in CALLS
    if path.startswith(RESPONSE):  # of its own, since another key's responses are not found
        return method in ("GET", "HEAD", "DELETE")
    is_readable = path in (MODELS, METRICS) or path.startswith(f"{MODELS}/")
    return method in ("GET", "HEAD") and is_readable


def _not_for_calls(scope: Scope) -> ApiError:
    text = (
        f"This key is for calling models, so {scope['method']} {scope['path']} is refused. It may list models, ask "
        f"them by {', '.join(CALLS)}, and read {METRICS}. Everything else takes the trainer's own key (trainer.key in "
        "its data folder)."
    )
    return ApiError(403, text, "insufficient_permissions")


def _body_too_large() -> ApiError:
    return ApiError(413, "The request's body is too large. The limit for JSON is 2 MB.", "request_too_large")
