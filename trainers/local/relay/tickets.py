"""ray.json in a job's folder: which submission of the job may train it. One at a time; an old one is refused.

Written before the submission, so that a server that was killed in between looks for it instead of submitting twice.
"""

from __future__ import annotations

import hmac
import secrets
import threading
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from trainers.local.spool import read_json, replace_json

FILE = "ray.json"
CHANGING = threading.Lock()


@dataclass(frozen=True)
class Ticket:
    """`token` proves to the relay and to the folder that it is this submission which asks; "" once it is over."""

    submission: str
    attempt: int
    token: str
    is_submitted: bool = False

    @property
    def is_open(self) -> bool:
        return bool(self.token)

    def admits(self, token: str) -> bool:
        return self.is_open and hmac.compare_digest(self.token.encode(), token.encode())


def read_ticket(folder: Path) -> Ticket | None:
    raw = read_json(folder / FILE)
    return Ticket(**raw) if raw else None


def open_ticket(folder: Path) -> Ticket:
    """The next attempt's; all before it are refused from now on."""
    before = read_ticket(folder)
    attempt = before.attempt + 1 if before else 1
    ticket = Ticket(f"{folder.name}-{attempt}", attempt, secrets.token_urlsafe(32))
    return write_ticket(folder, ticket)


def write_ticket(folder: Path, ticket: Ticket) -> Ticket:
    replace_json(folder / FILE, asdict(ticket))
    (folder / FILE).chmod(0o600)
    return ticket


def mark_submitted(folder: Path, ticket: Ticket) -> Ticket:
    return _change(folder, ticket, is_submitted=True)


def close_ticket(folder: Path, ticket: Ticket) -> None:
    _change(folder, ticket, token="")


def _change(folder: Path, ticket: Ticket, **changes: Any) -> Ticket:
    """Leaves a later attempt's as it is, and what another thread has changed meanwhile."""
    with CHANGING:
        now = read_ticket(folder)
        if now is None or now.attempt != ticket.attempt:
            return ticket
        return write_ticket(folder, replace(now, **changes))


def has_open_tickets(jobs: Path) -> bool:
    found = (read_ticket(path.parent) for path in jobs.glob(f"ftjob-*/{FILE}"))
    return any(ticket is not None and ticket.is_open for ticket in found)
