"""What speaks against putting a model to work: each kind, and nothing where it is shown to be better."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from statistics import stdev

import pytest

from bot.rules.permissions import PromotionLimits
from bot.rules.promotion import (
    LabelRecall,
    ModelComparison,
    Objection,
    PromotionEvidence,
    alias_for,
    best_comparison,
    compare_models,
    find_objections,
    labels_below_floor,
)
from tests.cards import measurements
from trainers.evaluation.statistics import compare
from trainers.local.models import ALIAS_NAME

RUNG = measurements.rung("tuned", "local/tickets-7", 190)
BETTER = ModelComparison("the untuned base", 0.5, 0.2, 0.1, 0.3, 200)
EQUAL = ModelComparison("the untuned base", 0.7, 0.0, -0.1, 0.1, 200)
WORSE = ModelComparison("the untuned base", 0.9, -0.2, -0.3, -0.1, 200)
CLOSE = ModelComparison("gpt-4o", 0.955, -0.005, -0.012, 0.004, 1000, Decimal("0.03"), Decimal("0.12"))
FREE = ModelComparison("classical", 0.95, 0.0, -0.01, 0.01, 1000, Decimal("0.03"), Decimal(0))
SOUND = PromotionEvidence(RUNG, BETTER)


@pytest.mark.parametrize(
    ("proof", "found"),
    [
        (SOUND, ()),
        (replace(SOUND, used="tickets-3", against_used=BETTER), ()),
        (PromotionEvidence(None), ("unmeasured",)),
        (PromotionEvidence(RUNG), ("nothing_beside",)),
        (replace(SOUND, best=EQUAL), ("not_better",)),
        (replace(SOUND, best=WORSE), ("not_better",)),
        (replace(SOUND, no_go="Not now."), ("no_go",)),
        (replace(SOUND, is_gone=True), ("gone",)),
        (replace(SOUND, used="tickets-3"), ("other_rows",)),
        (replace(SOUND, used="tickets-3", against_used=EQUAL), ("not_better_than_used",)),
        (replace(SOUND, best=CLOSE), ()),
        (replace(SOUND, best=replace(CLOSE, usd=Decimal("0.12"))), ("not_better",)),
        (replace(SOUND, best=replace(CLOSE, usd=None)), ("not_better",)),
        (replace(SOUND, best=replace(CLOSE, low=-0.03)), ("not_better",)),
        (replace(SOUND, used="tickets-3", against_used=CLOSE), ()),
        (replace(SOUND, best=CLOSE, limits=PromotionLimits(margin=0.01)), ("not_better",)),
        (replace(SOUND, best=CLOSE, limits=PromotionLimits(margin=0.0)), ("not_better",)),
        (replace(SOUND, low=(LabelRecall("refund", 20, 5),)), ("below_floor",)),
        (PromotionEvidence(None, no_go="Not now.", is_gone=True), ("gone", "no_go", "unmeasured")),
    ],
)
def test_what_speaks_against_a_model(proof: PromotionEvidence, found: tuple[Objection, ...]) -> None:
    assert find_objections(proof) == found


def test_an_interval_that_touches_zero_shows_nothing() -> None:
    assert find_objections(replace(SOUND, best=replace(BETTER, low=0.0))) == ("not_better",)


def test_right_and_wrong_has_newcombe_s_interval() -> None:
    mine, theirs = [1.0] * 66 + [0.0] * 11, [1.0] * 18 + [0.0] * 59
    held = compare_models("the base", mine, theirs)
    known = compare([bool(one) for one in theirs], [bool(one) for one in mine])
    assert (held.score, held.difference) == (pytest.approx(18 / 77), pytest.approx(known.difference))
    assert (held.low, held.high) == (
        pytest.approx(known.difference_interval.low),
        pytest.approx(known.difference_interval.high),
    )
    assert held.is_better and not held.is_worse


def test_scores_in_part_have_the_interval_of_their_mean_difference() -> None:
    held = compare_models("retrieval", [0.9, 0.7, 0.8, 0.6] * 9, [0.5, 0.5, 0.4, 0.6] * 9)
    assert held.difference == pytest.approx(0.25)
    reach = 1.959964 * stdev([0.4, 0.2, 0.4, 0.0] * 9) / 6
    assert (held.low, held.high) == (pytest.approx(0.25 - reach), pytest.approx(0.25 + reach))


def test_two_rows_that_gain_alike_prove_nothing() -> None:
    held = compare_models("retrieval", [0.75, 0.75], [0.5, 0.5])
    assert held.low < 0 < held.difference < held.high and not held.is_better


def test_answers_to_other_rows_are_not_held_against_each_other() -> None:
    with pytest.raises(ValueError):
        compare_models("retrieval", [1.0, 0.0], [1.0])


def test_an_alias_is_never_a_dataset_s_own_name() -> None:
    assert alias_for("tickets") == "team/tickets"
    others = {alias_for(name) for name in ("客户-2024", "订单-2024", "客户", "é" * 40, "a" * 39 + "é")}
    assert len(others) == 5 and all(ALIAS_NAME.fullmatch(one) for one in others), "as our trainer takes them"


def test_a_cheaper_model_has_to_replace_the_free_one_too() -> None:
    """It costs less than the best, and as much more than nothing as it is not shown to be worth."""
    limits = PromotionLimits()
    assert best_comparison([FREE, CLOSE], limits.margin) == FREE
    assert best_comparison([CLOSE], limits.margin) == CLOSE
    assert best_comparison([FREE, replace(BETTER, score=0.96)], limits.margin) == replace(BETTER, score=0.96)
    assert best_comparison([], limits.margin) is None


def test_only_a_label_that_is_shown_to_be_low_is_below_the_floor() -> None:
    limits = PromotionLimits(floor=0.6, floor_rows=10)
    labels = [
        LabelRecall("refund", 40, 12),
        LabelRecall("delivery", 10, 5),  # half of ten may well be six
        LabelRecall("invoice", 9, 0),
        LabelRecall("login", 20, 2),
    ]
    assert [label.label for label in labels_below_floor(labels, limits)] == ["login", "refund"]
    assert labels_below_floor(labels, PromotionLimits()) == ()
