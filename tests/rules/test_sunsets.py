"""When a team learns that a model ends, and which targets last."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta

import pytest

from bot.values.sunsets import ModelUse, due_notice, ending_soon, is_lasting_target, notice_key
from trainers.providers.providers import load_providers

TODAY = date(2026, 12, 20)
USE = ModelUse("today's", "tickets", "gpt-4o", ends=date(2027, 1, 14))


@pytest.mark.parametrize(
    ("days", "notice"), [(91, None), (90, 90), (31, 90), (30, 30), (8, 30), (7, 7), (1, 7), (0, 0), (-40, 0)]
)
def test_the_nearest_notice_is_due(days: int, notice: int | None) -> None:
    assert due_notice(replace(USE, ends=TODAY + timedelta(days=days)), TODAY) == notice


def test_a_model_without_an_end_has_no_notice() -> None:
    assert due_notice(replace(USE, ends=None), TODAY) is None
    assert ending_soon([replace(USE, ends=None)], TODAY) == ()


def test_the_nearest_end_comes_first() -> None:
    later, far = replace(USE, ends=date(2027, 3, 1)), replace(USE, ends=date(2028, 1, 1))
    assert ending_soon([later, far, USE], TODAY) == (USE, later)


def test_each_end_dataset_and_notice_has_its_own_key() -> None:
    keys = {
        notice_key(use, notice)
        for use in (USE, replace(USE, ends=date(2027, 2, 1)), replace(USE, dataset="mails"))
        for notice in (30, 7)
    }
    assert len(keys) == 6


@pytest.mark.parametrize(
    ("target", "day", "lasts"),
    [
        ("local/smollm2-135m", TODAY, True),
        ("openai/gpt-4o-mini", date(2026, 5, 1), True),
        ("openai/gpt-4o-mini", date(2026, 5, 7), False),  # closed to newcomers
        ("openai/gpt-4.1-nano", date(2026, 4, 28), False),  # ends in less than half a year
        ("nebius/llama-3.1-8b", TODAY, False),  # what it trained is not served
    ],
)
def test_a_target_lasts_if_it_trains_serves_and_lives(target: str, day: date, lasts: bool) -> None:
    provider, _, name = target.partition("/")
    row = next(row for row in load_providers() if row.name == provider)
    model = row.model(name)
    assert model is not None and is_lasting_target(row, model, day) is lasts
