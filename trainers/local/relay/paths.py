"""Which files of a job's folder travel, and under which names. Pure but for reading the folder."""

from __future__ import annotations

import re
from pathlib import Path

STAYS = frozenset(
    {"lock", "pid", "gpu", "ray.json", "request.json", "events.jsonl", "train.log"}
    | {"CHECKED", "PAUSED", "DONE", "FAILED", "CANCELLED", "MODEL_DELETED"}
)
CHECKPOINT = re.compile(r"step-\d{6,9}")
PART = r"(adapter_model\.safetensors|adapter_config\.json|state\.pt|checkpoint\.json)"
COMES_BACK = re.compile(
    r"(progress\.json|results\.csv|base\.json|mlflow\.json|DONE|FAILED|PAUSED)"
    rf"|checkpoints/\.step-\d{{6,9}}/{PART}|checkpoints/step-\d{{6,9}}/checkpoint\.json|\.adapter/{PART}"
    r"|tensorboard/events\.out\.tfevents\.[\w.-]{1,200}"
)
FOLDER = re.compile(r"adapter|checkpoints/step-\d{6,9}")


def outgoing(folder: Path) -> list[str]:
    """What a run needs to begin or to go on: the job, its rows, checkpoints, curves."""
    found = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    return [path.as_posix() for path in found if _travels(path)]


def _travels(path: Path) -> bool:
    is_partial = any(part.startswith(".") or part.endswith(".tmp") for part in path.parts)
    return not is_partial and path.parts[0] not in STAYS and path.parts[0] not in ("adapter", "engine")


def hidden(folder: str) -> str:
    """Where a folder's files are put until it is complete: checkpoints/.step-000001 for checkpoints/step-000001."""
    parent, _, name = folder.rpartition("/")
    return f"{parent}/.{name}" if parent else f".{name}"
