"""A file on its way to a trainer: whether its bytes are those that its name says, and whether one there will do.

Sends nothing.
"""

from __future__ import annotations

import hashlib
import io
import time
from pathlib import Path

from trainers.answers import Json
from trainers.errors import Changed, TrainerError

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


def check(path: Path, sha256: str) -> None:
    """Raises Changed, or OSError."""
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            raise Changed(path.name)


class Hashed(io.FileIO):
    """A file opened for reading that knows the sha256 of what was read: of what was sent, once it is sent."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._digest = hashlib.sha256()

    def read(self, size: int | None = -1, /) -> bytes:
        content = super().read(-1 if size is None else size) or b""
        self._digest.update(content)
        return content

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()
