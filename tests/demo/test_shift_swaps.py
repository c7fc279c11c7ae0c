"""The threads of the demo's second story: they are written by hand, and the other authors are others."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from demo.shift_swaps import (
    DAYS,
    OPEN,
    OTHER_AUTHORS,
    STARTS,
    TIMES,
    TRAINING,
    other_rows,
    read_phrases,
    to_jsonl,
    training_rows,
)

SITUATIONS = (
    *("ask", "ask_for", "offer", "give", "take", "confirm"),
    *("decline", "withdraw", "unfilled", "correct", "announce"),
)
FEWEST_PHRASES = 30
FEWEST_OTHERS = 150


def answers(file: Path) -> list[dict[str, str]]:
    rows = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    return [json.loads(row["messages"][-1]["content"]) for row in rows]


def phrases(situation: str, *, of_holdout: bool) -> list[str]:
    texts = []
    for author in read_phrases()["author"]:
        if author["holdout"] == of_holdout:
            texts += author[situation]
    return texts


def test_the_files_are_what_the_phrases_make() -> None:
    assert to_jsonl(training_rows()) == TRAINING.read_text(encoding="utf-8")
    assert to_jsonl(other_rows()) == OTHER_AUTHORS.read_text(encoding="utf-8")


@pytest.mark.parametrize("situation", SITUATIONS)
def test_each_situation_has_many_phrasings_and_none_is_shared(situation: str) -> None:
    own = phrases(situation, of_holdout=False)
    others = phrases(situation, of_holdout=True)

    assert len(set(own)) >= FEWEST_PHRASES
    assert len(set(others)) == len(others) >= FEWEST_PHRASES // 3
    assert not {each.lower() for each in own} & {each.lower() for each in others}


def test_the_names_of_other_authors_are_mostly_new() -> None:
    def people(file: Path) -> set[str]:
        return {answer["off"] for answer in answers(file)}

    new = people(OTHER_AUTHORS) - people(TRAINING)

    assert len(answers(OTHER_AUTHORS)) >= FEWEST_OTHERS
    assert len(new) > 0.6 * len(people(OTHER_AUTHORS))


@pytest.mark.parametrize("file", [TRAINING, OTHER_AUTHORS])
def test_an_answer_has_two_people_or_an_open_shift(file: Path) -> None:
    short_days = {day[:3] for day in DAYS}
    for answer in answers(file):
        assert list(answer) == ["off", "on", "day", "start"]
        assert answer["off"] != answer["on"] and answer["off"] != OPEN
        assert answer["day"] in short_days and answer["start"] in STARTS
    assert 0.1 < sum(answer["on"] == OPEN for answer in answers(file)) / len(answers(file)) < 0.3


@pytest.mark.parametrize(
    ("style", "early", "late"),
    [
        ("24", "06:30", "14:00"),
        ("24hours", "06:30 hours", "14:00 hours"),
        ("24plain", "0630", "1400"),
        ("12", "6:30am", "2pm"),
        ("12dot", "6.30am", "2pm"),
        ("12space", "6:30 am", "2 pm"),
        ("words", "half past six in the morning", "two in the afternoon"),
        ("h", "6h30", "14h"),
    ],
)
def test_a_time_is_written_in_each_way(style: str, early: str, late: str) -> None:
    assert TIMES[style](6, 30) == early
    assert TIMES[style](14, 0) == late


def test_noon_and_evening_have_their_own_words() -> None:
    assert TIMES["words"](12, 0) == "noon"
    assert TIMES["words"](21, 30) == "half past nine in the evening"
    assert TIMES["12"](12, 0) == "12pm"
