"""Monthly volumes as people state them (a number of requests, or of input tokens), shares, lengths of time, and how
many rows can be sealed. Knows nothing about prices."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Literal

FEWEST_SEALED = 50  # rows; fewer can't tell two models apart
MOST_SEALED = 10_000
HOURS_PER_MONTH = Decimal(730)  # 365 days in twelve equal months

Unit = Literal["requests", "tokens"]
LARGEST: Mapping[Unit, int] = {"requests": 10**12, "tokens": 10**15}
_A_MILLION = 1_000_000
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
# These parts are also used by the parser of commands, whose values end at a space.
NUMBER = r"(?:\d{1,3}(?:[,_]\d{3})+(?:\.\d+)?|\d{1,18}(?:\.\d{1,18}|,\d{1,2}(?!\d))?)"
UNIT = r"(?:(?:input\s+)?tokens?|requests?)"
A_MONTH = r"(?:(?:/|a\s|per\s)\s*(?:month|mo))"
# What people count. Not in commands: there a dataset may have such a name.
_COUNTED = r"(?:reqs?|calls?|questions?|messages?|tickets?|e-?mails?|chats?|documents?)"
_VOLUME = re.compile(
    rf"(?P<number>{NUMBER})[\s-]*+(?P<scale>[a-z]*?)[\s-]*+(?P<unit>{UNIT}|{_COUNTED})?\s*+{A_MONTH}?",
    re.ASCII | re.IGNORECASE,
)
# A comma before one or two digits can't be between thousands: 2,5M is two and a half million.
_DECIMAL_COMMA = re.compile(r"[0-9]+,[0-9]{1,2}", re.ASCII)
# 20.000 is twenty in English and twenty thousand in German or Spanish.
_GROUPED_BY_POINT = re.compile(r"[1-9][0-9]{0,2}\.[0-9]{3}", re.ASCII)


@dataclass(frozen=True)
class Misread:
    """Text that could not be parsed. `sentence` tells the person what they wrote and what to write instead. `readings`
    are texts that would be understood, if the text has several meanings."""

    sentence: str
    readings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Volume:
    """What a person gave as the volume of a month."""

    amount: int
    unit: Unit

    @property
    def text(self) -> str:
        """'20,000 requests', '10M tokens', without rounding."""
        short = format_tokens(self.amount)
        is_exact = self.unit == "tokens" and _scaled(short) == self.amount
        if is_exact:
            return f"{short} {self.unit}"
        return f"{self.amount:,} {self.unit}"

    @property
    def word(self) -> str:
        """'20000requests': without a space, since the options of a stored question are separated by spaces."""
        return f"{self.amount}{self.unit}"


@dataclass(frozen=True)
class MonthlyVolume:
    """A month's requests to today's model, and the input tokens of their prompts. `given` is the unit that the person
    used; the other number is computed from it."""

    requests: int
    input_tokens: int
    given: Unit


def monthly_volume(volume: Volume, tokens_per_request: Fraction) -> MonthlyVolume:
    """`tokens_per_request` are the input tokens of one request with today's prompt."""
    if volume.unit == "tokens":
        return MonthlyVolume(round(volume.amount / tokens_per_request), volume.amount, "tokens")
    return MonthlyVolume(volume.amount, round(volume.amount * tokens_per_request), "requests")


def parse_volume(text: str) -> Volume | Misread:
    """Parses '20k requests', '700 tickets a month', '10M tokens', '2.5B' or '10 million' (tokens), '0'.

    A bare number such as '20000' could be either, so it is returned as a misread with both readings."""
    return _parse(text, None)


def parse_request_volume(text: str) -> Volume | Misread:
    """Like `parse_volume`, for a field that is labelled as requests: a number without a unit means requests."""
    return _parse(text, "requests")


def parse_share(text: str) -> float | None:
    """Returns a share that was typed with or without its percent sign, None if it is none. A comma is a decimal one, as
    a share has no thousands: '92,5%' is 0.925."""
    match = re.fullmatch(r"([0-9]{0,3}(?:[.,][0-9]{1,4})?)\s*(%?)", text)
    if match is None or not match[1]:
        return None
    share = float(match[1].replace(",", "."))
    if match[2] or share > 1:
        share /= 100
    return round(share, 6)


def _parse(text: str, default: Unit | None) -> Volume | Misread:
    match = _VOLUME.fullmatch(text.strip())
    if match is None or match["scale"].lower() not in _SCALES:
        return _misread(f"I can't read {_quoted(text)} as a volume.")
    scale = match["scale"].lower()
    # Without the unit: the parser of commands has removed the space before it.
    shown = _quoted(f"{match['number']}{match['scale']}")
    if not scale and _GROUPED_BY_POINT.fullmatch(match["number"]):
        plain = match["number"].replace(".", "")
        return Misread(
            f"{shown} has a point before three digits. If thousands are meant, write {plain} or {int(plain):,}."
        )
    unit = _unit(match["unit"]) or default
    number = _number(match["number"]) * _SCALES[scale]
    if unit is None and not scale and number:
        return _ask_unit(match["number"], number)
    # K, M and B have always meant tokens; 0 is the same in both.
    unit = unit or "tokens"
    if number != int(number):
        return _misread(f"{shown} is not a whole number of {unit}.")
    if number > LARGEST[unit]:
        return Misread(f"{shown} is too much: write at most {format_tokens(LARGEST[unit])} {unit} a month.")
    return Volume(int(number), unit)


def _number(text: str) -> Decimal:
    if _DECIMAL_COMMA.fullmatch(text):
        return Decimal(text.replace(",", "."))
    return Decimal(re.sub("[,_]", "", text))


def _unit(word: str | None) -> Unit | None:
    if word is None:
        return None
    if "token" in word.lower():
        return "tokens"
    return "requests"


def _ask_unit(typed: str, number: Decimal) -> Misread:
    return Misread(
        f"Is it {number:,} requests a month, or {number:,} tokens?",
        readings=(f"{typed}requests", f"{typed}tokens"),
    )


def _misread(problem: str) -> Misread:
    return Misread(
        f"{problem} Write the requests of a month like 20k requests, or its input tokens like 10M, 2.5B or "
        "10 million tokens."
    )


def _scaled(short: str) -> Decimal:
    """Reads what `format_tokens` wrote."""
    digits = short.rstrip("kMBT")
    letter = short[len(digits) :].lower()
    return Decimal(digits.replace(",", "")) * _SCALES[letter]


def format_requests(requests: Fraction | int) -> str:
    """Formats a number of requests with about three digits: '950', '20,000', '169,000', '1.5M'."""
    count = round(requests)
    if count < 1000:
        return f"{count}"
    rounded = int(Decimal(f"{Decimal(count):.2e}"))
    if rounded >= _A_MILLION:
        return format_tokens(rounded)
    return f"{rounded:,}"


def format_runs(count: int) -> str:
    if count == 1:
        return "1 run"
    return f"{count} runs"


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
    if amount != 1:
        unit += "s"
    return f"{amount:,} {unit}"


def _quoted(text: str) -> str:
    """Quotes what a person typed, shortened to 40 characters and without unprintable ones."""
    clean = "".join(letter if letter.isprintable() else " " for letter in text.strip())
    if len(clean) > 40:
        clean = f"{clean[:40]}…"
    return f"“{clean}”"


def month_of(now: float) -> str:
    return datetime.fromtimestamp(now, UTC).strftime("%Y-%m")


def day_of(now: float) -> date:
    return datetime.fromtimestamp(now, UTC).date()


@dataclass(frozen=True)
class Period:
    """The days from `first` to before `end`, in UTC: a calendar month, called '2026-11', or a week, called by its
    Monday."""

    name: str
    first: date
    end: date

    @property
    def start_s(self) -> float:
        """Its beginning in unix seconds."""
        return _midnight(self.first)

    @property
    def end_s(self) -> float:
        return _midnight(self.end)

    @property
    def hours_per_month(self) -> Decimal:
        """The hours of the month; of an average one for a week."""
        if self.first.day == self.end.day == 1:
            return Decimal((self.end - self.first).days * 24)
        return HOURS_PER_MONTH

    def has(self, day: str) -> bool:
        """True if a day like '2026-11-27' is in it."""
        return f"{self.first}" <= day < f"{self.end}"


def month_period(month: str) -> Period:
    """Returns a month like '2026-11' with its days."""
    first = date.fromisoformat(f"{month}-01")
    end = (first + timedelta(days=32)).replace(day=1)
    return Period(month, first, end)


def week_period(day: date) -> Period:
    """Returns the week, from Monday to Sunday, that this day is in."""
    monday = day - timedelta(days=day.weekday())
    return Period(f"{monday}", monday, monday + timedelta(days=7))


def _midnight(day: date) -> float:
    return datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()
