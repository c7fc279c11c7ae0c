"""Log lines as JSON, each with a reference. The lines of one delivery or one step share a reference, which the user's
message about its failure names. The values of our keys are blotted out wherever they would appear.

Lines go to stderr (as text on a terminal, as JSON elsewhere) and as JSON to a file of the data folder, which `finetune
log REFERENCE` searches.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any, Literal

from trainers.log_lines import JsonLines, Redactor, TextLines, new_reference

FILE = "finetune.log"
TRAINERS_FILE = Path("trainer") / "trainer.log"
FILE_BYTES, FILES = 10_000_000, 5
CHATTY = ("apscheduler", "httpx", "httpx2", "slack_sdk", "slack_bolt")

Form = Literal["json", "text"]
FORMS: tuple[Form, ...] = ("json", "text")

_reference: ContextVar[str | None] = ContextVar("_reference", default=None)


def reference() -> str:
    """Returns the reference of what this thread does, a new one if nothing was begun."""
    return _reference.get() or new_reference()


def begin(existing: str | None = None) -> str:
    """Gives this thread's lines one reference from here on."""
    begun = existing or new_reference()
    _reference.set(begun)
    return begun


@contextmanager
def referenced() -> Iterator[str]:
    token = _reference.set(new_reference())
    try:
        yield reference()
    finally:
        _reference.reset(token)


def sorry() -> str:
    """Returns the reference as a sentence to append to a user's message."""
    return f"Reference: {reference()}"


def set_up(folder: Path, hidden: Collection[str], form: Form | None = None) -> None:
    """`hidden`: our keys. `form` None: text on a terminal, else JSON. Raises OSError if the file can't be written."""
    blot = Redactor(hidden)
    to_stderr = logging.StreamHandler()
    is_text = form == "text" if form else sys.stderr.isatty()
    to_stderr.setFormatter(TextLines(blot) if is_text else JsonLines(blot))
    to_file = rotating_handler(folder / FILE)
    to_file.setFormatter(JsonLines(blot))
    logging.getLogger().setLevel(logging.INFO)
    quieten()
    for handler in (to_stderr, to_file):
        handler.addFilter(_add_reference)
        logging.getLogger().addHandler(handler)


def rotating_handler(path: Path) -> RotatingFileHandler:
    """Returns a handler whose files never take more than FILES times FILE_BYTES."""
    return RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8")


def quieten() -> None:
    """Silences libraries that quote what they send and get, also if somebody sets our own log to DEBUG."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def find(folder: Path, wanted: str) -> Iterator[Mapping[str, Any]]:
    """Yields the lines of a reference, oldest first, our trainer's after ours. Skips lines that are no JSON: cut off by
    a kill, or from a program that the trainer started."""
    files = [
        folder / f"{name}{end}"
        for name in (TRAINERS_FILE, FILE)
        for end in ("", *(f".{number}" for number in range(1, FILES)))
    ]
    for file in reversed([file for file in files if file.exists()]):
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                if wanted in line and (read := _read(line)).get("ref") == wanted:
                    yield read


def words(line: str) -> str:
    """Returns the message of a line of JSON, or the line itself."""
    return str(_read(line).get("message", line))


def _read(line: str) -> Mapping[str, Any]:
    try:
        read = json.loads(line)
    except ValueError:
        return {}
    return read if isinstance(read, dict) else {}


def _add_reference(record: logging.LogRecord) -> bool:
    if not hasattr(record, "ref"):
        record.ref = reference()
    return True
