"""The audit log for the terminal: what a check of its chain says, and its entries as JSON and CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, fields
from datetime import UTC, datetime

from bot.views.blocks import UNSEEN
from bot.views.words import counted
from storage.chain import Broken, Whole
from storage.records import AuditEntry

# What makes a spreadsheet read a cell as a formula, or split it (OWASP, CSV injection); the last four are full-width.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]"
)  # a terminal obeys some; the JSON has them all, escaped
UNSEEN_BY_IT = (
    "What this can't see by itself: entries cut off at the end, or a chain written anew. "
    "Note the head elsewhere and give it next time: --head HASH."
)


def said(found: Whole | Broken) -> str:
    """For people, on a terminal: nothing out of the log can move its cursor."""
    if isinstance(found, Broken):
        return "\n".join(
            [f"{counted(found.before, 'entry', 'entries')} fit, then: {_what(found)}", found.why]
        )
    whole = f"{counted(found.entries, 'entry', 'entries')}, whole. Head: {found.head}"
    if found.known is None:
        return f"{whole}\n{UNSEEN_BY_IT}"
    known = f"The earlier head is entry {found.known.id} of {moment(found.known.at)}"
    return f"{whole}\n{known}: nothing before it was cut off."


def as_json(entries: Iterable[AuditEntry]) -> str:
    return json.dumps([asdict(one) | {"time": moment(one.at)} for one in entries], indent=1)


def as_csv(entries: Iterable[AuditEntry]) -> str:
    """Every cell quoted, and none that a spreadsheet would take for a formula."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, quoting=csv.QUOTE_ALL)
    writer.writerow([*(field.name for field in fields(AuditEntry)), "time"])
    for one in entries:
        writer.writerow([defused(str(value)) for value in (*asdict(one).values(), moment(one.at))])
    return sheet.getvalue()


def defused(cell: str) -> str:
    """An apostrophe before it makes a spreadsheet show text as text."""
    clean = CONTROL.sub(
        "", cell.encode("utf-8", "replace").decode()
    )  # half characters, which a file can't take
    return f"'{clean}" if clean.startswith(FORMULA_STARTS) else clean


def moment(at: object) -> str:
    """'2026-11-25 14:03:07 UTC'; what is no time, as it stands there."""
    try:
        return datetime.fromtimestamp(float(str(at)), UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return ascii(at)


def _what(found: Broken) -> str:
    if found.entry is None:
        return "the next can't be named."
    return f"entry {_shown(found.entry.id)}, {moment(found.entry.at)}, about {_shown(found.entry.subject)}."


def _shown(value: object) -> str:
    """Bytes of any kind, on one line."""
    text = value if isinstance(value, str) else ascii(value)
    return UNSEEN.sub("", text.encode("utf-8", "replace").decode())[:80]
