"""Parses and formats token volumes and lengths of time, and limits the number of sealed rows. Knows nothing about
prices."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal

LARGEST_VOLUME = 10**15
FEWEST_SEALED, MOST_SEALED = 50, 10_000  # rows; fewer can't tell two models apart
HOURS_PER_MONTH = Decimal(730)  # 365 days in twelve equal months

_SCALES = {
    "": 1,
    "k": 10**3,
    "thousand": 10**3,
    "m": 10**6,
    "mio": 10**6,
    "million": 10**6,
    "b": 10**9,
    "bn": 10**9,
    "billion": 10**9,
    "t": 10**12,
    "trillion": 10**12,
}
_NUMBER = r"(?P<number>\d{1,3}(?:[,_]\d{3})+(?:\.\d+)?|\d{1,18}(?:\.\d{1,18})?)"
_VOLUME = re.compile(
    _NUMBER + r"\s*(?P<scale>[a-z]*?)\s*(?:(?:input\s+)?tokens?)?\s*"
    r"(?:(?:/|a |per )\s*(?:month|mo))?",
    re.ASCII,
)


@dataclass(frozen=True)
class Misread:
    """Text that could not be parsed. `sentence` tells the person what they wrote and what to write instead."""

    sentence: str


def parse_volume(text: str) -> int | Misread:
    """Parses tokens per month: '10M', '10m tokens', '2.5B', '300k', '1_000_000', '10 million tokens a month', '0'."""
    match = _VOLUME.fullmatch(text.strip().lower())
    if match is None or match["scale"] not in _SCALES:
        return _misread(f"I can't read {_shown(text)} as a volume.")
    number = Decimal(re.sub("[,_]", "", match["number"])) * _SCALES[match["scale"]]
    if number != int(number):
        return _misread(f"{_shown(text)} is not a whole number of tokens.")
    if number > LARGEST_VOLUME:
        return Misread(
            f"{_shown(text)} is too much: write at most {format_tokens(LARGEST_VOLUME)} tokens a month."
        )
    return int(number)


def _misread(problem: str) -> Misread:
    return Misread(
        f"{problem} Write the input tokens of a month like 10M, 2.5B, 300k, 10 million or 10,000,000."
    )


def format_tokens(count: int) -> str:
    """Formats a number of tokens with about three digits: 950, 12.3k, 3.62M, 10M, 728M, 2.5B."""
    if abs(count) < 1000:
        return str(count)
    rounded = Decimal(f"{Decimal(count):.2e}")
    for scale, letter in ((10**12, "T"), (10**9, "B"), (10**6, "M"), (10**3, "k")):
        if abs(rounded) >= scale:
            return f"{(rounded / scale).normalize():,f}{letter}"
    return str(count)


def format_months(months: Decimal) -> str:
    """Formats months in the unit that fits: 47 minutes, 5 hours, 33 days, 7.2 months, 18 years."""
    hours = months * HOURS_PER_MONTH
    if hours < 1:
        return _counted(hours * 60, "minute")
    if hours < 48:
        return _counted(hours, "hour")
    if hours < 24 * 61:
        return _counted(hours / 24, "day")
    if months < 24:
        return f"{months:.1f} months".replace(".0 ", " ")
    return _counted(months / 12, "year")


def _counted(count: Decimal, unit: str) -> str:
    if 0 < count < Decimal("0.5"):
        return f"under 1 {unit}"
    amount = count.quantize(Decimal(1))
    return f"{amount:,} {unit}" if amount == 1 else f"{amount:,} {unit}s"


def _shown(text: str) -> str:
    """Quotes what a person typed, shortened to 40 characters and without unprintable ones."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text.strip())
    return f"“{clean[:40]}…”" if len(clean) > 40 else f"“{clean}”"


def month_of(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m")


def day_of(now: float) -> date:
    return datetime.fromtimestamp(now, UTC).date()
