"""Log lines with references. All lines of one delivery or one step share a reference, and the message that tells a user
about a failure names it. The values of our keys are redacted.

Lines go to stderr (text on a terminal, JSON elsewhere) and as JSON to a file in the data folder, which
`finetune log REFERENCE` searches.
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

from trainers.log_lines import FILE_BYTES as FILE_BYTES
from trainers.log_lines import FILES as FILES
from trainers.log_lines import JsonLines, Redactor, TextLines, new_reference

FILE = "finetune.log"
TRAINERS_FILE = Path("trainer") / "trainer.log"
DOORS_FILE = Path("serving") / "door.log"
CHATTY = ("apscheduler", "httpx", "httpx2", "slack_sdk", "slack_bolt")

Form = Literal["json", "text"]
FORMS: tuple[Form, ...] = ("json", "text")

_reference: ContextVar[str | None] = ContextVar("_reference", default=None)


def reference() -> str:
    """Returns the reference of this thread's current work, or a new one if it has none."""
    return _reference.get() or new_reference()


def begin(existing: str | None = None) -> str:
    """Gives this thread's log lines one reference from here on, and returns it."""
    begun = existing or new_reference()
    _reference.set(begun)
    return begun


@contextmanager
def referenced() -> Iterator[str]:
    """Gives the log lines within the block a reference of their own."""
    token = _reference.set(new_reference())
    try:
        yield reference()
    finally:
        _reference.reset(token)


def sorry() -> str:
    """Returns "Reference: …", to append to a message about a failure."""
    return f"Reference: {reference()}"


def set_up(folder: Path, hidden: Collection[str], form: Form | None = None) -> None:
    """`hidden` are the values to redact. `form` None means text on a terminal and JSON elsewhere. Raises OSError if the
    file can't be written."""
    blot = Redactor(hidden)
    if form is None:
        form = "text" if sys.stderr.isatty() else "json"
    to_stderr = logging.StreamHandler()
    to_stderr.setFormatter(TextLines(blot) if form == "text" else JsonLines(blot))
    to_file = rotating_handler(folder / FILE)
    to_file.setFormatter(JsonLines(blot))
    logging.getLogger().setLevel(logging.INFO)
    quieten()
    for handler in (to_stderr, to_file):
        handler.addFilter(_add_reference)
        logging.getLogger().addHandler(handler)


def rotating_handler(path: Path) -> RotatingFileHandler:
    """Returns a handler whose files together take at most FILES times FILE_BYTES."""
    return RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8")


def quieten() -> None:
    """Silences libraries that log what they send and receive, even if our own log is set to DEBUG."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def find(folder: Path, wanted: str) -> Iterator[Mapping[str, Any]]:
    """Yields the lines with a reference, oldest first: the bot's, then the trainer's, then those of what answers
    programs. Skips lines that are not JSON: cut off by a kill, or printed by a program that the trainer started."""
    for name in (FILE, TRAINERS_FILE, DOORS_FILE):
        for file in _oldest_first(folder / name):
            with file.open(encoding="utf-8", errors="replace") as lines:
                for line in lines:
                    if wanted not in line:  # spares reading its JSON
                        continue
                    read = _read(line)
                    if read.get("ref") == wanted:
                        yield read


def _oldest_first(path: Path) -> list[Path]:
    """Returns the files of a rotating handler that exist: the highest number is the oldest, and none the newest."""
    rotated = [path.with_name(f"{path.name}.{number}") for number in range(FILES - 1, 0, -1)]
    return [file for file in (*rotated, path) if file.exists()]


def words(line: str) -> str:
    """Returns the message in a JSON log line, or the line itself if it is not JSON."""
    return str(_read(line).get("message", line))


def _read(line: str) -> Mapping[str, Any]:
    try:
        read = json.loads(line)
    except ValueError:
        return {}
    if not isinstance(read, dict):
        return {}
    return read


def _add_reference(record: logging.LogRecord) -> bool:
    if not hasattr(record, "ref"):
        record.ref = reference()
    return True
