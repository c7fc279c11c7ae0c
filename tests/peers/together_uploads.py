"""Uploads to Together in memory, as its SDK does them: an address by a redirect, the bytes to that address without a
key, and a request to check them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tests.peers.service import Reply, StoredFile, refusal
from tests.peers.vendors import Vendor


@dataclass
class Upload(StoredFile):
    """`is_requested`: its check was requested, after its bytes had come."""

    has_bytes: bool = False
    is_requested: bool = False


@dataclass
class TogetherUploads(Vendor):
    """With `links_live` the addresses for bytes work. With `knows_names` a name is taken once. `invalid` is what the
    check has against every file. `moves` redirects the bytes so often."""

    links_live: bool = True
    knows_names: bool = False
    invalid: str | None = None
    moves: int = 0

    def _file_call(
        self, method: str, rest: list[str], headers: Mapping[str, str], body: dict[str, Any]
    ) -> Reply | None:
        """Answers a call on files, or returns None if they are called as at OpenAI."""
        match (method, *rest):
            case ("POST",):
                return self._announce(body)
            case ("GET",):
                return 200, {"data": [self._file_row(file) for file in self.files.values()]}
            case (_, file_id, *_) if file_id not in self.files:
                return refusal(404, "not_found", f"No file {file_id}.")
            case ("GET", file_id):
                return 200, self._file_row(self.files[file_id])
            case ("GET", file_id, "content") if not self._upload_of(file_id).has_bytes:
                return refusal(404, "not_found", f"{file_id} has no content.")
            case ("POST", file_id, "preprocess"):
                return self._request_check(self._upload_of(file_id))
        return None

    def is_usable(self, file_id: object) -> bool:
        """True if all three steps of its upload are done."""
        return file_id in self.files and self._upload_of(str(file_id)).is_requested

    def _announce(self, form: dict[str, Any]) -> Reply:
        name = str(form.get("file_name"))
        if form.get("purpose") != "fine-tune" or form.get("file_type") != "jsonl":
            return refusal(400, "missing_field", "purpose and file_type are required.")
        for file in self.files.values():
            is_same = hashlib.sha256(file.content).hexdigest() == form.get("checksum")
            if is_same or (self.knows_names and file.name == name):
                return 409, {"file_id": file.id}
        self._uploads += 1
        file_id = f"file-{self._uploads}"
        self.files[file_id] = Upload(file_id, name, b"", "fine-tune", time.time())
        return 302, {"Location": self._address_of(file_id), "X-Together-File-Id": file_id}

    def _address_of(self, file_id: str) -> str:
        return f"{self.address}/signed/uploads/{file_id}?signature=abc%2Fdef"

    def _store(self, file_id: str, headers: Mapping[str, str], body: dict[str, Any]) -> Reply:
        content = body["content"]
        if not self.links_live or file_id not in self.files:
            return 403, b"<Error><Code>AccessDenied</Code></Error>"
        if self.moves:
            self.moves -= 1
            return 307, {"Location": self._address_of(file_id)}
        if headers.get("content-length") != str(len(content)) or "content-type" in headers:
            return 403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"
        return self._upload({"file": (self.files[file_id].name, content), "id": file_id})

    def _upload(self, form: dict[str, Any]) -> Reply:
        upload = self._upload_of(form["id"])
        upload.content = form["file"][1]
        upload.has_bytes = True
        return 200, b""

    def _request_check(self, upload: Upload) -> Reply:
        if not upload.has_bytes:
            return refusal(400, "no_content", f"The bytes of {upload.id} have not come.")
        upload.is_requested = True
        return 200, self._file_row(upload)

    def _file_row(self, file: StoredFile) -> dict[str, Any]:
        row = {
            "id": file.id,
            "object": "file",
            "bytes": len(file.content),
            "created_at": int(file.created),
            "filename": file.name,
            "FileType": "jsonl",
            "purpose": file.purpose,
            "processing_status": self._check_status(self._upload_of(file.id)),
        }
        if row["processing_status"] == "INVALID_FORMAT":
            row["validation_report"] = {"valid": False, "error": self.invalid}
        return row

    def _check_status(self, upload: Upload) -> str:
        if not upload.is_requested:
            return "PENDING"
        if self.invalid:
            return "INVALID_FORMAT"
        is_checked = self.looks.get(upload.id, 0) >= self.check_looks
        return "COMPLETED" if is_checked else "QUEUED"

    def _upload_of(self, file_id: str) -> Upload:
        file = self.files[file_id]
        assert isinstance(file, Upload)
        return file
