"""Which files of a job's folder travel, and under which names. Pure but for reading the folder."""

from __future__ import annotations

import re
from pathlib import Path

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
NAME = r"[A-Za-z0-9_][\w.-]{0,200}"
# complete once it has its name
FOLDER = re.compile(rf"adapter|({NAME}/){{0,3}}checkpoints/step-\d{{6,9}}", re.ASCII)
FILE = re.compile(rf"({NAME}/){{0,4}}(\.(adapter|step-\d{{6,9}})/)?{NAME}", re.ASCII)

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
