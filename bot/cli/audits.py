"""Renders the audit log as text for the terminal, as JSON and as CSV."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Any

from bot.cards.common.blocks import INVISIBLE
from bot.cards.common.words import pluralize
from storage.audit import BrokenLog, IntactLog
from storage.records import AuditEntry
from trainers.dataset.clean_copy import FORMULA_STARTS

# Control characters, some of which a terminal would obey. The JSON has them all, escaped.
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")

UNSEEN_BY_IT = (
    "This alone can't detect entries cut off at the end, or a chain that was rewritten. Keep the head in another place "
    "and give it next time: --head HASH."
)


def audit_summary(log: IntactLog | BrokenLog) -> str:
    """Returns a summary that is safe to print: no text from the log can control the terminal."""
    if isinstance(log, BrokenLog):
        broken = "the next one, which can't be read."
        if log.entry is not None:
            number = _one_line(log.entry.id)
            subject = _one_line(log.entry.subject)
            broken = f"entry {number}, {format_time(log.entry.at)}, about {subject}."
        intact = pluralize(log.before, "intact entry", "intact entries")
        return f"The log is broken after {intact}: {broken}\n{log.why}"
    entries = pluralize(log.entries, "entry", "entries")
    text = f"{entries}, all intact. Head: {log.head}"
    if log.earlier is None:
        return f"{text}\n{UNSEEN_BY_IT}"
    earlier = f"The earlier head is entry {log.earlier.id} of {format_time(log.earlier.at)}"
    return f"{text}\n{earlier}: nothing up to it was cut off or rewritten."


def log_json(log: IntactLog | BrokenLog) -> dict[str, Any]:
    """`entries` is the number of intact ones; `broken` is the first broken one, null if it can't be read."""
    if isinstance(log, BrokenLog):
        broken = None
        if log.entry is not None:
            broken = asdict(log.entry)
        return {
            "intact": False,
            "entries": log.before,
            "why": log.why,
            "broken": broken,
        }
    earlier = None
    if log.earlier:
        earlier = log.earlier.id
    return {
        "intact": True,
        "entries": log.entries,
        "head": log.head,
        "earlier_head_is_entry": earlier,
    }


def audit_json(entries: Iterable[AuditEntry]) -> str:
    values = [asdict(entry) | {"time": format_time(entry.at)} for entry in entries]
    return json.dumps(values, indent=1)


def audit_csv(entries: Iterable[AuditEntry]) -> str:
    """Returns CSV in which every cell is quoted and no cell can act as a formula."""
    sheet = io.StringIO()
    writer = csv.writer(sheet, quoting=csv.QUOTE_ALL)
    names = [field.name for field in fields(AuditEntry)]
    writer.writerow([*names, "time"])
    for entry in entries:
        values = (*asdict(entry).values(), format_time(entry.at))
        writer.writerow([escape_formula(str(value)) for value in values])
    return sheet.getvalue()


def escape_formula(cell: str) -> str:
    """Puts an apostrophe before a cell that looks like a formula, so that spreadsheets show it as text."""
    # Lone surrogates are replaced, as they can't be encoded.
    encodable = cell.encode("utf-8", "replace").decode()
    clean = CONTROL.sub("", encodable)
    if not clean.startswith(FORMULA_STARTS):
        return clean
    return f"'{clean}"


def format_time(at: object) -> str:
    """Returns a time like '2026-11-25 14:03:07 UTC'. A value that is not a time is returned as ASCII text."""
    try:
        moment = datetime.fromtimestamp(float(str(at)), UTC)
        return moment.strftime("%Y-%m-%d %H:%M:%S UTC")
    except (ValueError, OverflowError, OSError):
        return ascii(at)


def _one_line(value: object) -> str:
    """Returns any value as one line of at most 80 printable characters."""
    # Somebody may have written anything into the database, such as bytes where a name should be.
    text = ascii(value)
    if isinstance(value, str):
        text = value
    printable = text.encode("utf-8", "replace").decode()
    return INVISIBLE.sub("", printable)[:80]
