"""Reads what docs/deciding.md promises, so that benchmarks/evidence.py fails if the page promises more than holds."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

PAGE = Path(__file__).resolve().parent.parent / "docs" / "deciding.md"


@dataclass(frozen=True)
class Promises:
    """Shares are between 0 and 1, errors of curves in points. `settled` is the probability that the stated number of
    further rows settles a case."""

    false_meets: float
    false_promotions: float
    settled: float
    curve_error: float
    curve_bias: float
    gain_error: float
    inside_band: float
    gain_found: float


# Each has one group, the number; a sentence of the page may be wrapped anywhere.
_SENTENCES: Mapping[str, str] = {
    "false_meets": r"ten looks add up to ([\d.]+)%",
    "false_promotions": r"together ([\d.]+)%, however many there are",
    "settled": r"further held-out rows that would decide it with a probability of ([\d.]+)%",
    "curve_error": r"off by [\d.]+ points on average \(promised: ([\d.]+)\)",
    "curve_bias": r"on the whole \(promised: within ([\d.]+)\)",
    "gain_error": r"its gain by [\d.]+ \(promised: ([\d.]+)\)",
    "inside_band": r"contained the real score in \d+ of \d+ files \(promised: ([\d.]+) in 10\)",
    "gain_found": r"A gain was found in \d+ \(promised: ([\d.]+) in 10\)",
}
_IN_POINTS = ("curve_error", "curve_bias", "gain_error")
_IN_TENTHS = ("inside_band", "gain_found")


def read_promises(page: Path = PAGE) -> Promises:
    """Raises ValueError if a promise is no longer on the page."""
    text = " ".join(page.read_text(encoding="utf-8").split())
    numbers = {field.name: _read(field.name, text) for field in fields(Promises)}
    return Promises(**numbers)


def _read(name: str, text: str) -> float:
    match = re.search(_SENTENCES[name], text)
    if match is None:
        raise ValueError(
            f"reading the promise '{name}' in docs/deciding.md: no sentence like {_SENTENCES[name]!r}"
        )
    number = float(match.group(1))
    if name in _IN_POINTS:
        return number
    return number / 10 if name in _IN_TENTHS else number / 100
