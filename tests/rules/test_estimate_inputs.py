"""The numbers of an estimate, as people write them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from bot.rules import estimate_inputs
from bot.rules.estimate_inputs import (
    Figure,
    Question,
    changed_fields,
    continue_plan,
    continue_shared,
    find_implausible_figure,
)
from bot.rules.units import Misread, Volume


@pytest.mark.parametrize(
    ("figure", "text", "value"),
    [
        (estimate_inputs.PEOPLE_HOURS, "16", "16"),
        (estimate_inputs.PEOPLE_RATE, "$1,500.50", "1500.50"),
        (estimate_inputs.BATCH_SHARE, "30%", "0.3"),
        (estimate_inputs.BATCH_SHARE, "0.3", "0.3"),
        (estimate_inputs.UTILISATION, " 20 % ", "0.2"),
        (estimate_inputs.LABEL_COUNT, "1,000", "1000"),
    ],
)
def test_a_figure_is_read_as_people_write_it(figure: Figure, text: str, value: str) -> None:
    assert figure.read(text) == Decimal(value)


@pytest.mark.parametrize(
    ("figure", "text", "sentence"),
    [
        (
            estimate_inputs.PEOPLE_HOURS,
            "-1",
            "“-1” can't be hours of people's time. Write a number from 0 to 100,000.",
        ),
        (
            estimate_inputs.PEOPLE_RATE,
            "abc",
            "I can't read “abc” as dollars for an hour of a person. Write a number like 75.",
        ),
        (estimate_inputs.PEOPLE_RATE, "", "I can't read “nothing” as"),
        (estimate_inputs.PEOPLE_RATE, "1e9", "I can't read “1e9” as"),
        (estimate_inputs.RETRAIN_MONTHS, "0", "from 1 to 120"),
        (estimate_inputs.RETRAIN_MONTHS, "1.5", "Write a whole number like 6."),
        (estimate_inputs.BATCH_SHARE, "130%", "from 0 to 1"),
        (estimate_inputs.HOSTING_HOURS, "1000", "from 0 to 744"),
        (estimate_inputs.UTILISATION, "0", "from 0.01 to 1"),
    ],
)
def test_an_impossible_figure_is_answered_with_a_sentence(figure: Figure, text: str, sentence: str) -> None:
    read = figure.read(text)
    assert isinstance(read, Misread)
    assert sentence in read.sentence


def test_an_implausible_figure_is_found_in_a_question() -> None:
    assert find_implausible_figure(Question()) is None
    assert find_implausible_figure(Question(people_hours=Decimal(0), runs=1)) is None
    for wrong in (
        Question(people_hours=Decimal(-1)),
        Question(prompt_tokens=0),
        Question(batch_share=Decimal(2)),
        Question(wrong_usd=Decimal("-0.5")),
    ):
        misread = find_implausible_figure(wrong)
        assert misread is not None and "can't be" in misread.sentence


SHARED = Question(
    current="gpt-4o",
    volume=Volume(20_000, "requests"),
    target="local/a",
    people_hours=Decimal(8),
    serving_speed=Decimal(500),
    hyperparameters=(("n_epochs", 3),),
)


@pytest.mark.parametrize(
    ("typed", "taken"),
    [
        ({}, ("current", "volume", "target", "people_hours", "serving_speed", "hyperparameters")),
        # Half of the settings would be a training that nobody has seen.
        (
            {"hyperparameters": (("lora_r", 64),)},
            ("current", "volume", "target", "people_hours", "serving_speed"),
        ),
        # The speed and the epochs were for another model.
        ({"target": "local/b"}, ("current", "volume", "people_hours")),
        (
            {"current": "gpt-5", "people_hours": Decimal(0)},
            ("volume", "target", "serving_speed", "hyperparameters"),
        ),
    ],
)
def test_a_question_goes_on_from_a_shared_one(typed: dict[str, Any], taken: tuple[str, ...]) -> None:
    question = Question(**typed)
    filled = continue_shared(question, SHARED)
    assert changed_fields(question, filled) == taken
    assert all(getattr(filled, name) == value for name, value in typed.items())
    assert all(getattr(filled, name) == getattr(SHARED, name) for name in taken)


def test_an_earlier_plan_tells_only_about_the_requests() -> None:
    assert changed_fields(Question(), continue_plan(Question(), SHARED)) == ("current", "volume")
