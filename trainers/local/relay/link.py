"""The node's end of the relay: asks the trainer, in words of the job. Keeps nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx2

TIMEOUT_S = 30.0
CHUNK_BYTES = 1024 * 1024


class Away(Exception):
    """The trainer does not answer now."""


class NotWanted(Exception):
    """This attempt was replaced or has ended."""


class Link:
    """`address` is the job's: http://trainer:8021/relay/ftjob-…"""

    def __init__(self, address: str, token: str) -> None:
        self._address = address.rstrip("/")
        self._http = httpx2.Client(headers={"Authorization": f"Bearer {token}"}, timeout=TIMEOUT_S)

    def __enter__(self) -> Link:
        return self

    def __exit__(self, *error: object) -> None:
        self._http.close()

    def files(self) -> list[str]:
        return list(self._json("GET", "files")["files"])

    def base(self) -> dict[str, Any]:
        """`hub_id`, or `fingerprint` and `files` with their sizes."""
        return self._json("GET", "base")

    def download(self, path: str, target: Path) -> None:
        """`path`: files/… or base/…"""
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._http.stream("GET", f"{self._address}/{path}") as answer, target.open("wb") as file:
                _check(answer)
                for chunk in answer.iter_bytes(CHUNK_BYTES):
                    file.write(chunk)
        except httpx2.TransportError as error:
            raise Away(str(error)) from error

    def upload(self, path: str, source: Path | bytes) -> None:
        content = source if isinstance(source, bytes) else source.read_bytes()
        self._ask("PUT", f"files/{path}", content=content)

    def complete(self, folder: str, keep: Sequence[str]) -> None:
        self._ask("POST", f"folders/{folder}", json={"keep": list(keep)})

    def tick(self, events: Sequence[Mapping[str, Any]], start: int) -> tuple[int, bool]:
        """How many events the trainer has, and whether a pause is wanted."""
        said = self._json("POST", "tick", json={"events": list(events), "from": start})
        return int(said["taken"]), said["wanted"] == "pause"

    def _json(self, method: str, path: str, **more: Any) -> dict[str, Any]:
        raw = self._ask(method, path, **more).json()
        return raw if isinstance(raw, dict) else {}

    def _ask(self, method: str, path: str, **more: Any) -> httpx2.Response:
        try:
            answer = self._http.request(method, f"{self._address}/{path}", **more)
        except httpx2.TransportError as error:
            raise Away(str(error)) from error
        _check(answer)
        return answer


def _check(answer: httpx2.Response) -> None:
    """Raises NotWanted, Away; RuntimeError where the trainer does not understand."""
    if answer.status_code == 410:
        raise NotWanted(f"HTTP {answer.status_code}")
    if answer.status_code >= 500:
        raise Away(f"HTTP {answer.status_code}")
    if not answer.is_success:
        answer.read()
        raise RuntimeError(
            f"{answer.request.method} {answer.request.url}: HTTP {answer.status_code} {answer.text}"
        )
