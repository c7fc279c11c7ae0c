from __future__ import annotations

from decimal import Decimal

import pytest

from bot.decisions.amounts import Misread
from bot.decisions.worth import question
from bot.decisions.worth.question import Figure, Question, absurd


@pytest.mark.parametrize(
    ("figure", "text", "value"),
    [
        (question.PEOPLE_HOURS, "16", "16"),
        (question.PEOPLE_HOURS, "0", "0"),
        (question.PEOPLE_RATE, "$1,500.50", "1500.50"),
        (question.BATCH_SHARE, "30%", "0.3"),
        (question.BATCH_SHARE, "0.3", "0.3"),
        (question.UTILISATION, " 20 % ", "0.2"),
        (question.LABEL_COUNT, "1,000", "1000"),
    ],
)
def test_a_figure_is_read_as_people_write_it(figure: Figure, text: str, value: str) -> None:
    assert figure.read(text) == Decimal(value)


@pytest.mark.parametrize(
    ("figure", "text", "sentence"),
    [
        (
            question.PEOPLE_HOURS,
            "-1",
            "“-1” can't be hours of people's time: it is a number from 0 to 100,000.",
        ),
        (
            question.PEOPLE_RATE,
            "abc",
            "I can't read “abc” as dollars for an hour of a person. Write a number like 75.",
        ),
        (question.PEOPLE_RATE, "", "I can't read “nothing” as"),
        (question.PEOPLE_RATE, "1e9", "I can't read “1e9” as"),
        (question.PEOPLE_RATE, "nan", "I can't read “nan” as"),
        (question.RETRAIN_MONTHS, "0", "from 1 to 120"),
        (question.RETRAIN_MONTHS, "1.5", "it is a whole number, like 6."),
        (question.BATCH_SHARE, "130%", "from 0 to 1"),
        (question.HOSTING_HOURS, "1000", "from 0 to 744"),
        (question.UTILISATION, "0", "from 0.01 to 1"),
    ],
)
def test_what_cannot_be_is_answered_with_a_sentence(figure: Figure, text: str, sentence: str) -> None:
    read = figure.read(text)
    assert isinstance(read, Misread)
    assert sentence in read.sentence


def test_an_absurd_figure_is_found_however_it_came_in() -> None:
    assert absurd(Question()) is None
    assert absurd(Question(people_hours=Decimal(0), runs=1)) is None
    for wrong in (
        Question(people_hours=Decimal(-1)),
        Question(prompt_tokens=0),
        Question(batch_share=Decimal(2)),
        Question(wrong_usd=Decimal("-0.5")),
    ):
        found = absurd(wrong)
        assert found is not None
        assert "can't be" in found.sentence
