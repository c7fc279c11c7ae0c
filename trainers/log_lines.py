"""Formats log records as JSON or text, each with its reference. Secrets are redacted."""

from __future__ import annotations

import json
import logging
import re
import secrets
import sys
from asyncio import CancelledError
from collections.abc import Collection
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler, WatchedFileHandler
from pathlib import Path
from typing import Any

FILE_BYTES = 10_000_000
FILES = 5
LETTERS = "23456789ABCDEFGHJKMNPQRSTVWXYZ"  # without letters that are easily confused
LENGTH = 8
REDACTED = "[secret]"
# The formats of keys that Slack, vendors and GitHub issue, for keys that are not in our settings.
LOOKS_SECRET = re.compile(
    r"\b(?:xox[a-z]-|xapp-|sk-|hf_|gh[opusr]_|github_pat_)[A-Za-z0-9_-]{8,}|(?<=Bearer )[^\s\"']{8,}"
)


def new_reference() -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(LENGTH))


class Redactor:
    """Replaces our own keys, and anything that looks like a key, in a text."""

    def __init__(self, hidden: Collection[str]) -> None:
        longest_first = sorted({key for key in hidden if len(key) >= 6}, key=len, reverse=True)
        self._own_keys = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        text = self._own_keys.sub(REDACTED, text) if self._own_keys else text
        return LOOKS_SECRET.sub(REDACTED, text)


class JsonLines(logging.Formatter):
    """Formats each record as one line of JSON. The record's attribute `ref` is its reference."""

    def __init__(self, redact: Redactor) -> None:
        super().__init__()
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "ref": getattr(record, "ref", ""),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return self._redact(json.dumps(line, ensure_ascii=False))


class TextLines(logging.Formatter):
    def __init__(self, redact: Redactor) -> None:
        super().__init__("%(asctime)s %(levelname)s %(ref)s %(name)s: %(message)s", defaults={"ref": "-"})
        self._redact = redact

    def format(self, record: logging.LogRecord) -> str:
        return self._redact(super().format(record))


def write_log(
    keys: Collection[str], *filters: logging.Filter, path: Path | None = None, is_rotated: bool = True
) -> None:
    """Logs without our keys: to the file `path`, or to stderr, as text on a terminal and as JSON elsewhere. The file is
    rotated here, or by another process if `is_rotated` is False. Leaves out the tracebacks of answers that our own
    shutdown cut off, and a line of httpx2's for every request. Raises OSError if the file can't be written."""
    blot = Redactor(keys)
    form: logging.Formatter = JsonLines(blot)
    handler: logging.Handler = logging.StreamHandler()
    if path is not None and not is_rotated:
        handler = WatchedFileHandler(path, encoding="utf-8")
    elif path is not None:
        handler = RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8")
    elif sys.stderr.isatty():
        form = TextLines(blot)
    handler.addFilter(_is_not_cut_off)
    for each in filters:
        handler.addFilter(each)
    handler.setFormatter(form)
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    logging.getLogger("httpx2").setLevel(logging.WARNING)


def _is_not_cut_off(record: logging.LogRecord) -> bool:
    if not record.exc_info:
        return True
    _, error, _ = record.exc_info
    return not isinstance(error, CancelledError)
