"""Uploads to Together, in the three steps of its own client: a request for an address, the bytes to that address, and a
request to check them. A file is usable only after all three.

A kill or a lost answer may leave one half done. The next upload finds it by its name, and completes or replaces it. The
vendor's client also sends a checksum, by which the vendor knows a file again. That would give two jobs the same file,
while each needs its own copy, so it is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urljoin, urlsplit

from trainers.client import payloads, uploads
from trainers.client.dialects.dialect import Dialect, object_under
from trainers.client.payloads import Json
from trainers.client.uploads import HashingFile
from trainers.errors import InvalidResponse, Refused, Uncertain
from trainers.providers.providers import is_loopback
from trainers.types import Provider

# A file without a status, or with PENDING, may still wait for the request to check it.
REQUESTED = frozenset({"QUEUED", "RUNNING", "COMPLETED"})
INVALID = "INVALID_FORMAT"
FAILED = "FAILED"
MAX_REDIRECTS = 5


class AlreadyThere(Exception):
    """The vendor has the file already, by its own account."""

    def __init__(self, file_id: str) -> None:
        super().__init__(file_id)
        self.file_id = file_id


class TogetherUploads(Dialect):
    def __init__(self, provider: Provider, key: str) -> None:
        super().__init__(provider, key)
        self._requested: set[str] = set()  # files whose check this client has requested, by id

    def _find_file(self, name: str, sha256: str, size: int) -> str | None:
        """Completes an upload of this name, or deletes it, so that there are never two."""
        action = self._action(f"looking for the file {name!r}")
        # Read to the end before anything is deleted.
        ours = [row for row in self._files(action) if row.get("filename") == name]
        for row in ours:
            file_id = payloads.required(row, "id", action)
            if self._has_bytes(row, name, sha256, size) and self._complete(row, action):
                return file_id
            self.delete_file(file_id)
        return None

    def _has_bytes(self, row: Json, name: str, sha256: str, size: int) -> bool:
        if not uploads.is_upload_usable(row, name, size):
            return False
        file_id = str(row.get("id"))
        if self._sent.get(file_id) == sha256:
            return True
        if not self.has_content(file_id, sha256):
            return False
        self._sent[file_id] = sha256
        return True

    def _complete(self, row: Json, action: str) -> bool:
        """Returns False if the file can't be completed, but may be sent again."""
        file_id = payloads.required(row, "id", action)
        status = row.get("processing_status")
        if status == FAILED:
            return False
        _refuse_invalid(row, action)
        if status in REQUESTED or file_id in self._requested:
            return True
        try:
            checked = self._request_check(file_id, action)
        except Refused:
            return False
        _refuse_invalid(checked, action)
        return True

    def _send_file(self, path: Path, name: str, sha256: str, action: str) -> str:
        try:
            file_id = super()._send_file(path, name, sha256, action)
        except AlreadyThere as there:
            file_id = there.file_id
            row = self._look_up(action, _path_of(file_id)) or {}
            if not self._has_bytes(row, name, sha256, uploads.file_size(path, action)):
                raise Refused(
                    f"{action}: {self.provider.name} answers that it has this file already, as {file_id}, and that "
                    "is another file. Delete it there, then start again.",
                    code="file_exists",
                    status=409,
                ) from None
        _refuse_invalid(self._request_check(file_id, action), action)
        return file_id

    def _post_file(self, action: str, name: str, file: HashingFile) -> Json:
        """Requests an address and sends the bytes there. Raises AlreadyThere."""
        address, file_id = self._request_address(action, name)
        self._put_bytes(action, address, file)
        return {"id": file_id}

    def _request_address(self, action: str, name: str) -> tuple[str, str]:
        """Returns the address for the bytes, and the file's id."""
        import openai

        body = {"purpose": "fine-tune", "file_name": name, "file_type": "jsonl"}

        def ask() -> Mapping[str, str]:
            try:
                self._client.post(
                    "/files",
                    body=body,
                    options={"headers": {"Content-Type": "multipart/form-data"}},
                    cast_to=bytes,
                )
            except openai.ConflictError as conflict:
                there = payloads.read_object(conflict.response.content, action)
                raise AlreadyThere(payloads.required(there, "file_id", action)) from conflict
            except openai.APIStatusError as error:
                if 300 <= error.status_code < 400:  # the expected answer
                    return error.response.headers
                raise
            raise InvalidResponse(f"{action}: the answer names no address for the rows.")

        headers = self._send_once(action, ask)
        file_id = headers.get("x-together-file-id")
        if not file_id:
            raise InvalidResponse(f"{action}: the answer names no id for the file.")
        return self._address(action, self.provider.base_url, headers), file_id

    def _put_bytes(self, action: str, address: str, file: HashingFile) -> None:
        for _ in range(MAX_REDIRECTS):
            moved_to = self._put_once(action, address, file)
            if moved_to is None:
                return
            address = moved_to
            file.rewind()
        raise InvalidResponse(f"{action}: the storage redirects without end.")

    def _put_once(self, action: str, address: str, file: HashingFile) -> str | None:
        """Returns the address to which the storage redirects, if it does."""
        import openai

        headers = self._unsigned()

        def put() -> Mapping[str, str] | None:
            try:
                self._client.put(address, content=file, options={"headers": headers}, cast_to=bytes)
            except openai.APIStatusError as error:
                if 300 <= error.status_code < 400:
                    return error.response.headers
                raise
            return None

        try:
            redirect = self._send_once(action, put)
        except Refused as refused:
            # Most likely the address has expired; the next attempt gets another.
            raise Uncertain(
                f"{action}: the vendor's storage refused the rows (HTTP {refused.status}).",
                status=refused.status,
            ) from refused
        if redirect is None:
            return None
        return self._address(action, address, redirect)

    def _address(self, action: str, base: str, headers: Mapping[str, str]) -> str:
        """Returns the address in a redirect from `base`. Rows travel encrypted, or don't leave this machine."""
        location = headers.get("location", "")
        address = urljoin(base, location)
        scheme = urlsplit(address).scheme
        is_here = is_loopback(self.provider.base_url) and is_loopback(address) and scheme == "http"
        if not location or not (scheme == "https" or is_here):
            raise InvalidResponse(f"{action}: the address for the rows is missing or not encrypted.")
        return address

    def _request_check(self, file_id: str, action: str) -> Json:
        path = f"{_path_of(file_id)}/preprocess"
        content = self._send_once(action, lambda: self._client.post(path, cast_to=bytes))
        self._requested.add(file_id)
        return payloads.read_object(content, action)


def _path_of(file_id: str) -> str:
    return f"/files/{quote(file_id, safe='')}"


def _refuse_invalid(row: Json, action: str) -> None:
    if row.get("processing_status") != INVALID:
        return
    why = object_under(row, "validation_report").get("error") or "it doesn't say why"
    raise Refused(
        f"{action}: the vendor's check found the rows invalid: {why}.", code="invalid_file", status=400
    )
