"""A small part of the training rows kept back, so that a training can stop early, or a sweep choose, without a look
at the holdout.

A tenth of the rows, 20 at least and 200 at most, drawn by a hash of seed and question: the same rows every time, and
rows that ask the same thing on one side.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

LEAST_ROWS = 100
SHARE = 10
FEWEST, MOST = 20, 200


@dataclass(frozen=True)
class Carved:
    """Both parts lie in the folder of files as SHA256.jsonl; `fitted` is what is trained on."""

    fitted_sha256: str
    validation_sha256: str
    n_fitted: int
    n_validation: int


def carve(files: Path, train_sha256: str, seed: int) -> Carved | None:
    """None where there are under 100 rows, or nearly all of them ask the same."""
    with (files / f"{train_sha256}.jsonl").open("rb") as file:
        rows = [line.rstrip(b"\n") for line in file if line.strip()]
    if len(rows) < LEAST_ROWS:
        return None
    drawn = _drawn([_draw(row, seed) for row in rows])
    kept_back = [row for row, is_drawn in zip(rows, drawn, strict=True) if is_drawn]
    fitted = [row for row, is_drawn in zip(rows, drawn, strict=True) if not is_drawn]
    if len(fitted) < len(rows) // 2:
        return None
    return Carved(_store(files, fitted), _store(files, kept_back), len(fitted), len(kept_back))


def rows_kept_back(rows: int) -> int:
    """Of so many training rows; a few more where some of them ask the same."""
    return max(FEWEST, min(MOST, rows // SHARE))


def _drawn(draws: Sequence[bytes]) -> list[bool]:
    last = sorted(draws)[rows_kept_back(len(draws)) - 1]
    return [draw <= last for draw in draws]


def _draw(row: bytes, seed: int) -> bytes:
    messages = orjson.loads(row)["messages"]
    asked = [message for message in messages if message["role"] != "assistant"]
    return hashlib.sha256(
        b"validation:%d:" % seed + orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)
    ).digest()


def _store(files: Path, rows: Sequence[bytes]) -> str:
    content = b"".join(row + b"\n" for row in rows)
    sha256 = hashlib.sha256(content).hexdigest()
    path = files / f"{sha256}.jsonl"
    if not path.exists():
        temporary = path.with_suffix(".tmp")
        temporary.write_bytes(content)
        temporary.replace(path)
    return sha256
