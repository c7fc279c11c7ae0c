"""Writes examples/shift_swaps.jsonl and examples/shift_swaps_other_authors.jsonl: threads of a rota channel, each with
the team's own JSON as the answer.

`python -m demo.shift_swaps` writes both again, the same each time. The phrases and names are written by hand, in
examples/shift_phrases.toml; this module only combines them. The phrases of the second file's authors are in no row of
the first one.
"""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

EXAMPLES = Path(__file__).parents[1] / "examples"
PHRASES = EXAMPLES / "shift_phrases.toml"
TRAINING = EXAMPLES / "shift_swaps.jsonl"
OTHER_AUTHORS = EXAMPLES / "shift_swaps_other_authors.jsonl"
ROWS = 900
OTHER_ROWS = 180
SEED = 11

INSTRUCTIONS = "Reply with JSON for this shift: who is off, who is on (or open), day as mon, start as 0600."
OPEN = "open"
DAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
STARTS = (
    *("0500", "0600", "0630", "0700", "0730", "0800", "0900", "1000", "1130", "1200"),
    *("1300", "1400", "1430", "1500", "1600", "1730", "1800", "2000", "2130", "2200"),
)
HOURS = ("twelve", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven")
LEAST_LETTERS = 5  # of a word in which a finger slips

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Author:
    """How somebody writes. `typos` is the share of words with a slip, `phrases` are by situation."""

    is_lower: bool
    typos: float
    times: Sequence[str]
    days: Sequence[str]
    phrases: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Cast:
    """The people and the shift of a thread. `others` take no part in the answer."""

    off: str
    on: str
    others: Sequence[str]
    day: str
    start: str
    other_day: str
    other_start: str


@dataclass(frozen=True)
class Thread:
    lines: Sequence[str]
    answer: Mapping[str, str]


def main() -> None:
    for path, rows in ((TRAINING, training_rows()), (OTHER_AUTHORS, other_rows())):
        path.write_text(to_jsonl(rows), encoding="utf-8")
        print(f"{path}: {len(rows)} rows")


def training_rows() -> list[Row]:
    dice = random.Random(SEED)  # noqa: S311 - no secret
    return _rows(ROWS, dice, is_holdout=False, names="training")


def other_rows() -> list[Row]:
    dice = random.Random(SEED + 1)  # noqa: S311 - no secret
    return _rows(OTHER_ROWS, dice, is_holdout=True, names="other")


def to_jsonl(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def read_phrases() -> dict[str, Any]:
    with PHRASES.open("rb") as file:
        return tomllib.load(file)


def _rows(count: int, dice: random.Random, *, is_holdout: bool, names: str) -> list[Row]:
    """Returns so many rows with different threads."""
    written = read_phrases()
    authors = [_author(each) for each in written["author"] if each["holdout"] == is_holdout]
    people = [*written["names"][names].split(), *written["names"]["both"].split()]
    rows: dict[str, Row] = {}
    while len(rows) < count:
        thread = _Writer(dice, authors, _cast(dice, people)).thread()
        text = "\n".join(thread.lines)
        rows.setdefault(text, _row(text, thread.answer))
    return list(rows.values())


def _author(written: Mapping[str, Any]) -> Author:
    return Author(
        is_lower=written.get("case") == "lower",
        typos=written["typos"],
        times=written["times"],
        days=written["days"],
        phrases=written,
    )


def _cast(dice: random.Random, people: Sequence[str]) -> Cast:
    off, on, *others = dice.sample(people, 7)
    day, other_day = dice.sample(DAYS, 2)
    start, other_start = dice.sample(STARTS, 2)
    return Cast(off, on, others, day, start, other_day, other_start)


def _row(text: str, answer: Mapping[str, str]) -> Row:
    return {
        "messages": [
            {"role": "system", "content": INSTRUCTIONS},
            {"role": "user", "content": text},
            {"role": "assistant", "content": json.dumps(answer, separators=(",", ":"), ensure_ascii=False)},
        ]
    }


class _Writer:
    """Writes one thread. Each person keeps the habits of one author."""

    def __init__(self, dice: random.Random, authors: Sequence[Author], cast: Cast) -> None:
        self._dice = dice
        self._cast = cast
        people = (cast.off, cast.on, *cast.others)
        self._habits = {person: dice.choice(authors) for person in people}

    def thread(self) -> Thread:
        write = self._dice.choices(
            (self._asked, self._asked_for, self._offered, self._announced), weights=(42, 18, 15, 25)
        )[0]
        return write()

    def _asked(self) -> Thread:
        return self._request(self._cast.off, "ask")

    def _asked_for(self) -> Thread:
        return self._request(self._cast.others[0], "ask_for")

    def _offered(self) -> Thread:
        cast = self._cast
        lines = [self._line(cast.on, "offer")]
        if self._happens(0.2):
            lines.append(self._line(cast.others[1], "chat"))
        lines.append(self._line(cast.off, "give"))
        return self._concluded(lines, cast.on)

    def _announced(self) -> Thread:
        cast = self._cast
        lines = [self._line(cast.others[0], "announce")]
        if self._happens(0.3):
            lines.append(self._line(cast.others[1], "chat"))
        return self._concluded(lines, cast.on)

    def _request(self, asker: str, situation: str) -> Thread:
        """Somebody asks, some decline, and the shift is taken, given back, or stays open."""
        lines = list(self._question(asker, situation))
        for person in self._cast.others[1 : 1 + self._dice.choices((0, 1, 2), weights=(45, 35, 20))[0]]:
            lines.append(self._line(person, "decline"))
        end = self._dice.choices(
            (self._taken, self._confirmed, self._given_back, self._left_open), weights=(45, 20, 15, 20)
        )[0]
        return end(lines, asker)

    def _question(self, asker: str, situation: str) -> Iterator[str]:
        """Yields the question, sometimes with a wrong day and start that the asker corrects."""
        if not self._happens(0.12):
            yield self._line(asker, situation)
            return
        cast = self._cast
        wrong = Cast(cast.off, cast.on, cast.others, cast.other_day, cast.other_start, cast.day, cast.start)
        yield self._line(asker, situation, wrong)
        yield self._line(asker, "correct")

    def _taken(self, lines: list[str], _: str) -> Thread:
        lines.append(self._line(self._cast.on, "take"))
        return self._concluded(lines, self._cast.on)

    def _confirmed(self, lines: list[str], asker: str) -> Thread:
        lines.append(self._line(asker, "confirm"))
        return self._concluded(lines, self._cast.on)

    def _given_back(self, lines: list[str], asker: str) -> Thread:
        first = self._cast.others[3]
        lines.append(self._line(first, "take"))
        lines.append(self._line(first, "withdraw"))
        if self._happens(0.5):
            return self._taken(lines, asker)
        return self._concluded(lines, OPEN)

    def _left_open(self, lines: list[str], asker: str) -> Thread:
        if self._happens(0.6):
            lines.append(self._line(asker, "unfilled"))
        return self._concluded(lines, OPEN)

    def _concluded(self, lines: list[str], on: str) -> Thread:
        cast = self._cast
        answer = {"off": cast.off, "on": on, "day": cast.day[:3], "start": cast.start}
        return Thread(lines, answer)

    def _line(self, speaker: str, situation: str, cast: Cast | None = None) -> str:
        """Returns what the speaker writes, with the name before it."""
        cast = cast or self._cast
        author = self._habits[speaker]
        phrase = self._dice.choice(author.phrases[situation])
        words = [self._mistyped(word, author.typos) for word in phrase.split(" ")]
        text = " ".join(words).format(
            off=cast.off,
            on=cast.on,
            offs=f"{cast.off}s",
            ons=f"{cast.on}s",
            x=cast.others[4],
            y=self._dice.choice((cast.others[4], cast.others[3], cast.on)),
            D=self._day(author, cast.day),
            D2=self._day(author, cast.other_day),
            T=self._time(author, cast.start),
            T2=self._time(author, cast.other_start),
        )
        if author.is_lower:
            text = text.lower()
        return f"{speaker}: {text}"

    def _day(self, author: Author, day: str) -> str:
        if self._dice.choice(author.days) == "short":
            return day[:3].capitalize()
        return self._mistyped(day.capitalize(), author.typos)

    def _time(self, author: Author, start: str) -> str:
        return TIMES[self._dice.choice(author.times)](int(start[:2]), int(start[2:]))

    def _mistyped(self, word: str, share: float) -> str:
        """Returns the word, or with this chance one with two letters swapped, or one left out or doubled."""
        if len(word) < LEAST_LETTERS or not word.isalpha() or not self._happens(share):
            return word
        at = self._dice.randrange(1, len(word) - 1)
        slips = (
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
        )
        return self._dice.choice(slips)

    def _happens(self, chance: float) -> bool:
        return self._dice.random() < chance


def _half(hour: int) -> str:
    return "am" if hour < 12 else "pm"


def _twelve(separator: str, space: str = "") -> Callable[[int, int], str]:
    """Returns a writer of times like 6am and 6:30am."""

    def write(hour: int, minute: int) -> str:
        minutes = f"{separator}{minute:02d}" if minute else ""
        return f"{hour % 12 or 12}{minutes}{space}{_half(hour)}"

    return write


def _in_words(hour: int, minute: int) -> str:
    if (hour, minute) == (12, 0):
        return "noon"
    part = "in the morning"
    if hour >= 12:
        part = "in the afternoon"
    if hour >= 17:
        part = "in the evening"
    before = "half past " if minute else ""
    return f"{before}{HOURS[hour % 12]} {part}"


def _with_h(hour: int, minute: int) -> str:
    return f"{hour}h{minute:02d}" if minute else f"{hour}h"


TIMES: Mapping[str, Callable[[int, int], str]] = {
    "24": lambda hour, minute: f"{hour:02d}:{minute:02d}",
    "24hours": lambda hour, minute: f"{hour:02d}:{minute:02d} hours",
    "24plain": lambda hour, minute: f"{hour:02d}{minute:02d}",
    "12": _twelve(":"),
    "12dot": _twelve("."),
    "12space": _twelve(":", " "),
    "words": _in_words,
    "h": _with_h,
}
"""Ways to write a time, from its hour and minute."""


if __name__ == "__main__":
    main()
