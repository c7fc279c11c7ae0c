"""The files that are sent to a trainer: how a copy is named and found again, and whether it is still the one that was
approved. Sends nothing."""

from __future__ import annotations

import codecs
import hashlib
import io
import re
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from trainers.errors import FileChanged, TrainerError

EXPIRY_MARGIN_S = 2 * 24 * 3600
MARK_LENGTH = 16


def key_mark(key: str) -> str:
    """Returns a short hash of a job's key, for places with little room: a job's suffix and its file's name."""
    hashed = hashlib.sha256(key.encode())
    return hashed.hexdigest()[:MARK_LENGTH]


def upload_name(sha256: str, key: str | None = None) -> str:
    """Returns the name under which a file is uploaded. With a `key`, it names the copy for this job alone."""
    if key:
        return f"{sha256}-{key_mark(key)}.jsonl"
    return f"{sha256}.jsonl"


def is_upload_of(name: object, hashes: Collection[str]) -> bool:
    """True if a file with this name is our upload of one of these sha256, for any job."""
    if not isinstance(name, str) or not name.endswith(".jsonl"):
        return False
    return name[:64] in hashes and name[64] in "-."  # a hash has 64 letters


def file_marks(rows: Iterable[Mapping[str, object]]) -> dict[str, str]:
    """Returns the key marks of listed files that were uploaded for one job alone, by file id."""
    pattern = re.compile(rf"[0-9a-f]{{64}}-([0-9a-f]{{{MARK_LENGTH}}})\.jsonl")
    marks: dict[str, str] = {}
    for row in rows:
        name = pattern.fullmatch(str(row.get("filename")))
        if name:
            marks[str(row.get("id"))] = name[1]
    return marks


def is_upload_usable(row: Mapping[str, object], name: str, size: int) -> bool:
    """True if an upload has this name and size, the right purpose and no error, and won't expire while a job waits."""
    if row.get("filename") != name or row.get("purpose") != "fine-tune":
        return False
    if row.get("status") == "error":
        return False
    if row.get("bytes") not in (size, None):  # some vendors don't say
        return False
    expires = row.get("expires_at")
    if not isinstance(expires, int):
        return True
    return expires > time.time() + EXPIRY_MARGIN_S


def file_size(path: Path, action: str) -> int:
    try:
        return path.stat().st_size
    except OSError as error:
        raise TrainerError(f"{action}: the file can't be read: {error.strerror}.") from error


def check_sha256(path: Path, sha256: str) -> None:
    """Raises FileChanged if the file has another sha256, and OSError as open() does."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    if digest.hexdigest() != sha256:
        raise FileChanged(path.name)


@contextmanager
def file_to_send(path: Path, sha256: str, *, bom: bool) -> Iterator[tuple[HashingFile, str]]:
    """Yields the file to send and the sha256 of its bytes. With `bom`, it is a copy with a byte order mark in front.
    Raises FileChanged if the file at `path` has another sha256, and OSError as open() does."""
    if not bom:
        check_sha256(path, sha256)
        with HashingFile(path) as file:
            yield file, sha256
        return
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise FileChanged(path.name)
    marked = codecs.BOM_UTF8 + content
    marked_sha256 = hashlib.sha256(marked).hexdigest()
    with tempfile.TemporaryFile() as copy:  # has no name, so no rows are left behind
        copy.write(marked)
        copy.seek(0)
        with HashingFile(copy.fileno()) as file:
            yield file, marked_sha256


class HashingFile(io.FileIO):
    """A file that hashes what is read from it, and therefore what is sent."""

    def __init__(self, file: Path | int) -> None:
        super().__init__(file, "rb", closefd=not isinstance(file, int))
        self._digest = hashlib.sha256()

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None:
            size = -1
        content = super().read(size) or b""
        self._digest.update(content)
        return content

    def rewind(self) -> None:
        """Goes back to the beginning, to be sent again."""
        self.seek(0)
        self._digest = hashlib.sha256()

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()
