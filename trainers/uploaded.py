"""A file that lies at a trainer: whether a job can still be trained on it. Sends nothing."""

from __future__ import annotations

import time
from pathlib import Path

from trainers.answers import Json
from trainers.errors import TrainerError

EXPIRY_MARGIN_S = 2 * 24 * 3600


def is_usable(row: Json, name: str, size: int) -> bool:
    """Whole, ours, of the right purpose, and not about to expire under a job that waits."""
    expires = row.get("expires_at")
    lasts = not isinstance(expires, int) or expires > time.time() + EXPIRY_MARGIN_S
    is_ours = row.get("filename") == name and row.get("purpose") == "fine-tune"
    return is_ours and lasts and row.get("bytes") in (size, None) and row.get("status") != "error"


def size(path: Path, doing: str) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise TrainerError(f"{doing}: the file cannot be read: {error.strerror}.") from error
