"""A week of sampled calls beside the first weeks, without a bot."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from bot.services.monitoring.week_worker import WeekOfCalls, compare
from bot.values.monitoring import WeekShift, count_right
from tests.cards.measurements import CANDIDATES
from trainers.encoders import DEFAULT_ENCODER
from trainers.evaluation.results import Scoring
from trainers.monitoring.live_accuracy import Holdout
from trainers.recipes import samples
from trainers.recipes.samples import SampledCall

NAME = "team/tickets"
RECIPE = "ab" * 32
MONDAY = datetime(2026, 9, 21, tzinfo=UTC)


def store_week(folder: Path, week: int, questions: list[str]) -> WeekOfCalls:
    """Stores a week of calls, of which this is the worker's question."""
    begin = MONDAY + timedelta(days=7 * week)
    calls = [
        SampledCall(
            id=f"{week}-{number}",
            name=NAME,
            promotion=1,
            recipe=RECIPE,
            at=begin.timestamp() + number,
            messages=json.dumps([{"role": "user", "content": question}]),
            answer="refund",
            prompt_tokens=None,
            completion_tokens=None,
            is_masked=False,
            fallback_from=None,
            conversation=f"{week}-{number}",
        )
        for number, question in enumerate(questions)
    ]
    samples.add(folder, calls)
    return WeekOfCalls(
        recipes=folder,
        name=NAME,
        week=f"{begin.date()}",
        until=(begin + timedelta(days=7)).timestamp(),
        labels=RECIPE,
        first_weeks=folder / "first-weeks",
        encoder=DEFAULT_ENCODER,
        level=0.01,
    )


def usual(count: int) -> list[str]:
    return [f"a question about order {number}" for number in range(count)]


@pytest.mark.deep
def test_weeks_that_another_encoder_has_read_are_not_compared(tmp_path: Path) -> None:
    first = store_week(tmp_path, 0, usual(200))
    assert compare(first) == WeekShift(), "there is nothing to compare the first week with"
    second = store_week(tmp_path, 1, usual(200))
    shift = compare(second)
    assert shift.texts is not None and not shift.is_shown
    for path in first.first_weeks.glob("*.npz"):
        with np.load(path) as arrays:
            counts = {**json.loads(str(arrays["counts"])), "encoder": "another"}
        np.savez(path, vectors=np.zeros((200, 3), np.float32), counts=np.array(json.dumps(counts)))
    assert compare(second) == WeekShift()


@pytest.mark.deep
def test_once_four_weeks_were_read_the_last_two_are_compared_with_them(tmp_path: Path) -> None:
    for week in range(5):
        compare(store_week(tmp_path, week, usual(110)))
    shift = compare(store_week(tmp_path, 5, usual(110)))
    assert shift.texts is not None, "a week alone would be too few"
    assert (shift.texts.reference, shift.texts.recent) == (440, 220)


@pytest.mark.parametrize(
    ("scoring", "right"), [("label", 0.5), ("calls", 0.5), ("json", 0.5), ("f1", None), ("judge", None)]
)
def test_only_rows_that_are_right_or_wrong_compare_with_labels_of_people(
    scoring: Scoring, right: float | None
) -> None:
    candidate = replace(CANDIDATES[0], scoring=scoring, scores=(1.0, 0.75, 1.0, 0.0))
    expected = None if right is None else Holdout(right, 4)
    assert count_right(candidate) == expected and count_right(None) is None
