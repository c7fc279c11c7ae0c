"""Which files of a job's folder travel between server and node, in which form, and which submission of the
job may bring them (ray.json)."""

from __future__ import annotations

import hmac
import re
import secrets
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import orjson

from trainers.local.job_directory import read_json, replace_json

TICKET_FILE = "ray.json"
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
    raw = read_json(folder / TICKET_FILE)
    return Ticket(**raw) if raw else None


def open_ticket(folder: Path) -> Ticket:
    """The next attempt's; all before it are refused from now on."""
    before = read_ticket(folder)
    attempt = before.attempt + 1 if before else 1
    ticket = Ticket(f"{folder.name}-{attempt}", attempt, secrets.token_urlsafe(32))
    return write_ticket(folder, ticket)


def write_ticket(folder: Path, ticket: Ticket) -> Ticket:
    replace_json(folder / TICKET_FILE, asdict(ticket))
    (folder / TICKET_FILE).chmod(0o600)
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
    found = (read_ticket(path.parent) for path in jobs.glob(f"ftjob-*/{TICKET_FILE}"))
    return any(ticket is not None and ticket.is_open for ticket in found)


# Which files of a job's folder travel, and under which names. Pure but for reading the folder.


OURS = frozenset(
    {
        "lock",
        "pid",
        "gpu",
        "ray.json",
        "request.json",
        "job.json",
        "train.jsonl",
        "valid.jsonl",
        "events.jsonl",
    }
    | {"train.log", "CHECKED", "CANCELLED", "MODEL_DELETED"}
)
MARKS = frozenset({"DONE", "FAILED", "PAUSED"})
GIVEN = frozenset({"job.json", "train.jsonl", "valid.jsonl"})  # the server's, which a run needs
FILE_NAME = r"[A-Za-z0-9_][\w.-]{0,200}"
# complete once it has its name
FOLDER = re.compile(rf"adapter|({FILE_NAME}/){{0,3}}checkpoints/step-\d{{6,9}}", re.ASCII)
FILE = re.compile(rf"({FILE_NAME}/){{0,4}}(\.(adapter|step-\d{{6,9}})/)?{FILE_NAME}", re.ASCII)

STRAY = re.compile(r"(.*/)?checkpoints(/(?!\.?step-\d{6,9}/).*)?", re.ASCII)  # beside the checkpoints


def outgoing(folder: Path) -> list[str]:
    """What a run needs to begin or to go on: the job, its rows, checkpoints, curves."""
    return [
        path
        for path in _files(folder)
        if path in GIVEN or (not path.startswith("adapter/") and _is_theirs(path))
    ]


def changing(folder: Path) -> list[str]:
    """What a run writes, but for events, marks, and what is in folders that are complete at once."""
    return [path for path in _files(folder) if _is_theirs(path) and not _is_in_folder(path)]


def complete_folders(folder: Path) -> list[str]:
    """Checkpoints, the job's own and those of a sweep's arms."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("checkpoints/step-*"))
    return sorted(path for path in found if FOLDER.fullmatch(path))


def may_come_back(path: str) -> bool:
    """A folder of a mark's name would be taken for the mark, a file of a checkpoint's for the checkpoint."""
    first = path.partition("/")[0]
    if FOLDER.fullmatch(path) or STRAY.fullmatch(path) or first in OURS or (first in MARKS and first != path):
        return False
    return FILE.fullmatch(path) is not None


def hidden(folder: str) -> str:
    """Where a folder's files are put until it is complete: checkpoints/.step-000001 for checkpoints/step-000001."""
    parent, _, name = folder.rpartition("/")
    return f"{parent}/.{name}" if parent else f".{name}"


def _files(folder: Path) -> list[str]:
    return [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]


def _is_theirs(path: str) -> bool:
    is_partial = any(part.startswith(".") or part.endswith(".tmp") for part in path.split("/"))
    return not is_partial and path not in OURS and path not in MARKS


def _is_in_folder(path: str) -> bool:
    return FOLDER.fullmatch(path.rpartition("/")[0]) is not None


# The form of what the server itself reads of a node's files: a mark that says nonsense never gets its
# name.


Kinds = tuple[type, ...]

MOST_BYTES = 64 * 1024  # the server holds it in memory
NOTHING = type(None)
NUMBER: Kinds = (int, NOTHING)
PROGRESS: Mapping[str, Kinds] = {
    "step": (int,),
    "total_steps": NUMBER,
    "trained_tokens": NUMBER,
    "estimated_finish": NUMBER,
    "stopped": (str, NOTHING),
    "result_step": NUMBER,
    "winner": NUMBER,
}
FAILURE: Mapping[str, Kinds] = {"code": (str,), "message": (str,), "param": (str, NOTHING)}
END: Mapping[str, Kinds] = {**PROGRESS, "step": NUMBER, "trained_tokens": (int,)}
FORMS = {"DONE": END, "progress.json": PROGRESS, "FAILED": FAILURE}


def is_formed(path: str, file: Path) -> bool:
    """Whether `file`, which is to stand at `path` of a job's folder, says what the server reads there; of others it
    reads nothing."""
    form = FORMS.get(path)
    if form is None:
        return True
    if file.stat().st_size > MOST_BYTES:
        return False
    try:
        said = orjson.loads(file.read_bytes())
    except orjson.JSONDecodeError:
        return False
    return isinstance(said, dict) and all(isinstance(said.get(name), kinds) for name, kinds in form.items())
