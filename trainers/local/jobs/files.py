"""Uploaded files on disk. Folders are named by generated ids; a client's file name is only stored as data."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

from trainers.http.errors import ApiError, not_found
from trainers.local.job_directory import delete_folder, read_json, replace_json

MAX_FILE_BYTES = 512 * 1024 * 1024
CHUNK_BYTES = 1024 * 1024
FILE_ID = re.compile(r"file-[0-9a-f]{24}")


@dataclass(frozen=True)
class StoredFile:
    """`sha256` is that of the content, in hex. `lines` also counts a last line without a newline."""

    id: str
    filename: str
    bytes: int
    created_at: int
    sha256: str
    lines: int
    expires_at: int | None


class Files:
    def __init__(self, root: Path) -> None:
        self._root = root
        root.mkdir(parents=True, exist_ok=True)
        for leftover in root.glob(".*"):  # from an interrupted upload or deletion
            shutil.rmtree(leftover)

    def add(self, source: BinaryIO, filename: str, expires_after_s: int | None) -> StoredFile:
        """Stores all of `source`. Raises ApiError: 400 if it is empty, 413 if it is too large."""
        file_id = "file-" + secrets.token_hex(12)
        staging = self._root / f".{file_id}"
        staging.mkdir()
        try:
            stored = _write(source, staging, file_id, filename, expires_after_s)
            replace_json(staging / "meta.json", asdict(stored))
            staging.rename(self._root / file_id)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return stored

    def get(self, file_id: str) -> StoredFile:
        """Raises ApiError (404) if there is no such file, or it has expired."""
        if not FILE_ID.fullmatch(file_id):
            raise not_found("file", file_id)
        file = self._read(file_id)
        if file is None:
            raise not_found("file", file_id)
        return file

    def content(self, file_id: str) -> Path:
        return self._root / self.get(file_id).id / "content.jsonl"

    def delete(self, file_id: str) -> None:
        """Deletes a file. Jobs created from it keep their own links to its bytes."""
        delete_folder(self._root / self.get(file_id).id)

    def all(self) -> list[StoredFile]:
        """Returns all files, newest first."""
        files = [self._read(folder.name) for folder in self._root.glob("file-*")]
        present = [file for file in files if file is not None]
        return sorted(present, key=lambda file: (file.created_at, file.id), reverse=True)

    def _read(self, file_id: str) -> StoredFile | None:
        """Returns None if there is no such file, or it has expired."""
        raw = read_json(self._root / file_id / "meta.json")
        if raw is None:
            return None
        stored = StoredFile(**raw)
        # Deleted when somebody looks, so that no thread has to.
        if stored.expires_at is not None and stored.expires_at <= time.time():
            delete_folder(self._root / file_id)
            return None
        return stored


def _write(
    source: BinaryIO, folder: Path, file_id: str, filename: str, expires_after_s: int | None
) -> StoredFile:
    digest = hashlib.sha256()
    size = 0
    newlines = 0
    last = b"\n"
    with (folder / "content.jsonl").open("wb") as target:
        while chunk := source.read(CHUNK_BYTES):
            size += len(chunk)
            if size > MAX_FILE_BYTES:
                raise file_too_large()
            digest.update(chunk)
            newlines += chunk.count(b"\n")
            last = chunk[-1:]
            target.write(chunk)
        target.flush()
        os.fsync(target.fileno())
    if size == 0:
        text = f"The file '{filename}' is empty. Send one example per line."
        raise ApiError(400, text, "empty_file", "file")
    now = int(time.time())
    expires_at = None
    if expires_after_s is not None:
        expires_at = now + expires_after_s
    return StoredFile(
        id=file_id,
        filename=filename,
        bytes=size,
        created_at=now,
        sha256=digest.hexdigest(),
        lines=newlines + (last != b"\n"),
        expires_at=expires_at,
    )


def file_too_large() -> ApiError:
    text = "The file is larger than 512 MB. Send a smaller one."
    return ApiError(413, text, "file_too_large", "file")
