"""Log lines as JSON, each with a reference; what one delivery or one step says carries one reference, and what a user
reads of its failure names it. No secrets: the values of our keys are blotted out wherever they would appear.

Lines go to stderr (as text on a terminal, as JSON elsewhere) and as JSON to a file of the data folder, which
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

from trainers.log_lines import JsonLines, Redactor, TextLines, new_reference

FILE = "finetune.log"
TRAINERS_FILE = Path("trainer") / "trainer.log"
FILE_BYTES, FILES = 10_000_000, 5
CHATTY = ("apscheduler", "httpx", "httpx2", "slack_sdk", "slack_bolt")

Form = Literal["json", "text"]
FORMS: tuple[Form, ...] = ("json", "text")

_reference: ContextVar[str | None] = ContextVar("_reference", default=None)


def reference() -> str:
    """Of what this thread is at; a new one where nothing was begun."""
    return _reference.get() or new_reference()


def begin(existing: str | None = None) -> str:
    """From here on, this thread's lines carry one reference."""
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
    """How a user finds their failure in the log, after a sentence."""
    return f"Reference: {reference()}"


def set_up(folder: Path, hidden: Collection[str], form: Form | None = None) -> None:
    """`hidden`: our keys. `form` None: text on a terminal, else JSON. OSError where the file can't be written."""
    blot = Redactor(hidden)
    to_stderr = logging.StreamHandler()
    is_text = form == "text" if form else sys.stderr.isatty()
    to_stderr.setFormatter(TextLines(blot) if is_text else JsonLines(blot))
    to_file = rotating(folder / FILE)
    to_file.setFormatter(JsonLines(blot))
    logging.getLogger().setLevel(logging.INFO)
    quieten()
    for handler in (to_stderr, to_file):
        handler.addFilter(_add_reference)
        logging.getLogger().addHandler(handler)


def rotating(path: Path) -> RotatingFileHandler:
    """A log file that never takes more than FILES times FILE_BYTES."""
    return RotatingFileHandler(path, maxBytes=FILE_BYTES, backupCount=FILES - 1, encoding="utf-8")


def quieten() -> None:
    """Also where somebody sets our own log to DEBUG: there these quote what they send and get."""
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)


def find(folder: Path, wanted: str) -> Iterator[Mapping[str, Any]]:
    """The lines of a reference, oldest first, our trainer's after ours. A line that is no JSON was cut off by a kill
    or comes from a program that the trainer started, and is left out."""
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
    """What it says, where it is JSON; else itself."""
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
