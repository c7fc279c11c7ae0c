"""Reads what clients send: JSON bodies and multipart uploads, each to its cap (guard.py)."""

from __future__ import annotations

from typing import Any

import orjson
from starlette.datastructures import FormData, UploadFile
from starlette.requests import Request

from trainers.local.problems import invalid

MIN_EXPIRY_S = 3600
MAX_EXPIRY_S = 30 * 24 * 3600


async def json_object(request: Request) -> dict[str, Any]:
    """Raises Problem (400). NaN, lone surrogates and broken UTF-8 are no JSON."""
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        place = f"line {error.lineno}, character {error.colno}"
        raise invalid(
            f"The request's body is not valid JSON from {place} on.", None, "invalid_json"
        ) from error
    if not isinstance(body, dict):
        raise invalid("The request's body must be a JSON object.", None, "invalid_json")
    return body


def upload(form: FormData) -> UploadFile:
    """The one part called 'file', of purpose 'fine-tune'. Raises Problem (400)."""
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise invalid(
            "Send the file as the part 'file' of a multipart form.", "file", "missing_required_parameter"
        )
    if purpose != "fine-tune":
        text = f"'purpose' is {str(purpose)[:64]!r}; this trainer takes files for 'fine-tune' only."
        raise invalid(text, "purpose")
    return file


def expiry(form: FormData) -> int | None:
    """Seconds from now. Raises Problem (400)."""
    raw, anchor = form.get("expires_after[seconds]"), form.get("expires_after[anchor]")
    if raw is None and anchor is None:
        return None
    if anchor != "created_at":
        raise invalid("'expires_after.anchor' must be 'created_at'.", "expires_after")
    fits = isinstance(raw, str) and raw.isascii() and raw.isdigit() and len(raw) < 10
    if not fits or not MIN_EXPIRY_S <= int(str(raw)) <= MAX_EXPIRY_S:
        text = f"'expires_after.seconds' must be a whole number from {MIN_EXPIRY_S} to {MAX_EXPIRY_S}."
        raise invalid(text, "expires_after")
    return int(str(raw))
