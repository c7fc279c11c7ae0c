"""What a run's result means: whether it is clearly better, what to do with the tuned model, and what comes next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bot.rules.training.results import (
    Decision,
    NextStep,
    decide,
    has_gained,
    is_usable,
    next_step,
    planned_saving_micros,
)
from bot.values.runs import Advice, RunResult
from tests.cards import builders, measurements
from tests.cards.builders import GO

WORSE = Advice("no_go", "worse", "Not now.", "Stay.")
TOO_DEAR = replace(WORSE, rule="payback")
OPEN = replace(WORSE, kind="unknown", rule="measure")


def beside(other: int, tuned: int, advice: Advice | None = GO, **values: Any) -> RunResult:
    """The tuned model has `tuned` of 200 rows right, the classical one `other`; the bar is 85%."""
    comparison = measurements.comparison_beside_classical(other, tuned)
    return builders.result_with(tuned, beside=comparison, advice=advice, **values)


@pytest.mark.parametrize(
    ("result", "may_be_used", "decision"),
    [
        (beside(151, 190), True, "deploy"),
        (beside(151, 190), False, "good enough"),
        (beside(151, 190, OPEN), True, "undecided"),
        (beside(151, 190, TOO_DEAR), False, "not now"),
        (beside(190, 184, TOO_DEAR), False, "not now"),
        (beside(190, 184, WORSE), False, "not needed"),
        (beside(100, 120, WORSE), False, "not good enough"),
        (beside(151, 20, WORSE), False, "failed"),
        (builders.result_with(12, beside=measurements.comparison_of_silent_tuned()), True, "failed"),
        (builders.result_with(190), True, None),
    ],
)
def test_what_to_do_with_a_tuned_model(
    result: RunResult, may_be_used: bool, decision: Decision | None
) -> None:
    assert decide(result, may_be_used=may_be_used, is_in_use=False) == decision


def test_what_a_team_uses_is_in_use_whatever_the_verdict_was() -> None:
    assert decide(beside(151, 20, WORSE), may_be_used=False, is_in_use=True) == "in use"


def test_scores_of_a_distrusted_judge_decide_nothing() -> None:
    judged = builders.result_with(
        190, advice=GO, beside=measurements.comparison_beside_prompted(scoring="judge")
    )
    distrusted = replace(judged, judge_checks=measurements.DISTRUSTING)
    assert decide(judged, may_be_used=True, is_in_use=False) == "deploy"
    assert decide(distrusted, may_be_used=True, is_in_use=False) == "undecided"
    assert not is_usable(distrusted)


def test_a_difference_that_may_be_chance_is_no_gain() -> None:
    assert has_gained(builders.result(p_value=0.049))
    assert not has_gained(builders.result(p_value=0.05))
    assert not has_gained(builders.worse_result())


def test_a_saving_is_planned_only_with_a_model_that_may_be_used() -> None:
    plan = builders.plan(monthly_before_micros=500, monthly_after_micros=200)
    assert planned_saving_micros(plan, beside(151, 190)) == 300
    assert planned_saving_micros(plan, beside(151, 190, TOO_DEAR)) == 0
    assert planned_saving_micros(replace(plan, monthly_after_micros=900), beside(151, 190)) == 0


@pytest.mark.parametrize(
    ("result", "step"),
    [
        (builders.equal_result(), "stay"),
        (builders.worse_result(), "look at worse rows"),
        (builders.result(), None),
        (builders.result(advice=GO), "see what speaks against it"),
        (builders.result(advice=WORSE), "as advised"),
    ],
)
def test_the_next_step(result: RunResult, step: NextStep | None) -> None:
    assert next_step(result, has_model=True) == step
