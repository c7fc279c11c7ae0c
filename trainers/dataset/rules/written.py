"""Secrets and personal data in rows as they are written: all the bytes that a trainer or a model would get.

What a check finds in an uploaded file is not enough: rows of an earlier holdout are held out with it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from trainers.dataset.findings import Fault, Findings
from trainers.dataset.holdout.splitting import chat_row
from trainers.dataset.rules.presidio import check_presidio
from trainers.dataset.rules.sensitive import PERSONAL, SECRET, faults_of_texts
from trainers.dataset.scan.batches import Joined
from trainers.dataset.values import Example
from trainers.types import Message

_PATTERNS = 3  # one more with each change of the patterns: what older ones looked at is looked at again
_ROWS_AT_ONCE = 200
_SEED = 20261124  # which rows presidio looks at, where there are too many for it


@dataclass(frozen=True)
class Scan:
    """How many rows hold what, as words that complete "holds …". `sha256` is of the bytes that were looked at."""

    sha256: str
    personal: tuple[tuple[str, int], ...] = ()
    secret: tuple[tuple[str, int], ...] = ()

    @property
    def codes(self) -> frozenset[str]:
        """Of the findings that a check would list."""
        return frozenset(
            rule.code for rule, kinds in ((PERSONAL, self.personal), (SECRET, self.secret)) if kinds
        )

    def to_json(self) -> str:
        return orjson.dumps(asdict(self)).decode()

    @staticmethod
    def from_json(text: str) -> Scan:
        raw = orjson.loads(text)
        kinds = {name: tuple((kind, rows) for kind, rows in raw[name]) for name in ("personal", "secret")}
        return Scan(raw["sha256"], **kinds)


def scanner(*, presidio: bool) -> str:
    """Names the patterns that `scan` goes by."""
    return f"{_PATTERNS} and presidio" if presidio else str(_PATTERNS)


def scan(path: Path, *, presidio: bool) -> Scan:
    """Of a file of JSON lines."""
    raw = path.read_bytes()
    rows = [row for row in raw.split(b"\n") if row]
    kinds: dict[str, Counter[str]] = {PERSONAL.code: Counter(), SECRET.code: Counter()}
    for faults in _faults(rows, presidio=presidio):
        for rule, said in {(fault.rule.code, fault.said) for fault in faults}:
            kinds[rule][said.removeprefix("holds ")] += 1
    personal, secret = (tuple(kinds[rule.code].most_common()) for rule in (PERSONAL, SECRET))
    return Scan(hashlib.sha256(raw).hexdigest(), personal, secret)


def sensitive_rows(examples: Sequence[Example], *, presidio: bool) -> frozenset[int]:
    """Places of those with a secret or personal data."""
    faults = _faults([chat_row(example) for example in examples], presidio=presidio)
    return frozenset(place for place, held in enumerate(faults) if held)


def _faults(rows: Sequence[bytes], *, presidio: bool) -> Iterator[list[Fault]]:
    """Of each row, what is secret or personal."""
    texts = [_text(row) for row in rows]
    further = _by_presidio(texts) if presidio else {}
    for start in range(0, len(texts), _ROWS_AT_ONCE):
        some = texts[start : start + _ROWS_AT_ONCE]
        held = faults_of_texts(Joined([text.encode() for text in some]), some)
        for place in range(len(some)):
            faults = [*held.get(place, ()), *further.get(start + place, ())]
            yield [fault for fault in faults if fault.rule in (PERSONAL, SECRET)]


def _by_presidio(texts: Sequence[str]) -> dict[int, list[Fault]]:
    found = Findings(20 * len(texts))
    rows = [Example(place, (Message("user", text),)) for place, text in enumerate(texts)]
    check_presidio(rows, range(len(texts)), _SEED, found)
    held: dict[int, list[Fault]] = {}
    for one in found.sorted():
        if one.line is not None:
            kind = one.message.partition(" holds ")[2].rstrip(".")
            held.setdefault(one.line, []).append(Fault(PERSONAL, f"holds {kind}"))
    return held


def _text(row: bytes) -> str:
    """All texts of the row, since characters may be escaped in it."""
    return "\n".join(_strings(orjson.loads(row)))


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for one in value:
            yield from _strings(one)
    elif isinstance(value, dict):
        for key, one in value.items():
            yield key
            yield from _strings(one)
