"""What speaks against promoting a model."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from statistics import stdev

import numpy as np
import pytest

from bot.rules.judge_agreement import CheckedJudge
from bot.rules.models.promotion import (
    LabelRecall,
    ModelComparison,
    Objection,
    PromotionEvidence,
    alias_for,
    best_comparison,
    compare_change,
    compare_models,
    find_objections,
    labels_below_floor,
)
from bot.rules.permissions import PromotionLimits
from tests.cards import measurements
from trainers.evaluation.claims import promotion_level
from trainers.evaluation.statistics import Interval, compare
from trainers.local.models import ALIAS_NAME

TUNED = measurements.candidate("tuned", "local/tickets-7", 190)
BETTER = ModelComparison("the untuned base", 0.5, 0.2, 0.1, 0.3, 200)
EQUAL = ModelComparison("the untuned base", 0.7, 0.0, -0.1, 0.1, 200)
WORSE = ModelComparison("the untuned base", 0.9, -0.2, -0.3, -0.1, 200)
CLOSE = ModelComparison("gpt-4o", 0.955, -0.005, -0.012, 0.004, 1000, Decimal("0.03"), Decimal("0.12"))
FREE = ModelComparison("classical", 0.95, 0.0, -0.01, 0.01, 1000, Decimal("0.03"), Decimal(0))
SOUND = PromotionEvidence(TUNED, BETTER)


@pytest.mark.parametrize(
    ("evidence", "objections"),
    [
        (SOUND, ()),
        (replace(SOUND, used="tickets-3", against_used=BETTER), ()),
        (PromotionEvidence(None), ("unmeasured",)),
        (PromotionEvidence(TUNED), ("nothing_beside",)),
        (replace(SOUND, others_judge="acme/sage-2"), ("other_judge",)),
        (PromotionEvidence(TUNED, others_judge="acme/sage-2"), ("other_judge",)),
        (replace(SOUND, best=EQUAL, others_judge="acme/sage-2"), ("other_judge", "not_better")),
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
        (replace(SOUND, best=replace(BETTER, low=0.0)), ("not_better",)),  # an interval that touches zero
        (replace(SOUND, low=(LabelRecall("refund", 20, 5),)), ("below_floor",)),
        (replace(SOUND, judge=CheckedJudge("sage", measurements.DISTRUSTING)), ("judge",)),
        (replace(SOUND, judge=CheckedJudge("sage")), ()),
        (PromotionEvidence(None, no_go="Not now.", is_gone=True), ("gone", "no_go", "unmeasured")),
    ],
)
def test_objections_to_a_promotion(evidence: PromotionEvidence, objections: tuple[Objection, ...]) -> None:
    assert find_objections(evidence) == objections


@pytest.mark.parametrize("is_tuned", [True, False])
def test_what_is_not_shown_to_meet_the_bar_is_objected_to(is_tuned: bool) -> None:
    """A candidate without training has to meet the bar, and needn't be better than the other candidates."""
    proof = replace(SOUND, is_tuned=is_tuned)
    if not is_tuned:
        proof = replace(proof, best=None)
    assert find_objections(proof) == ()
    misses = replace(proof, candidate=replace(TUNED, standing="misses"))
    assert find_objections(misses) == ("below_bar",)
    undecided = replace(proof, candidate=replace(TUNED, standing="undecided"))
    assert find_objections(undecided) == ("bar_undecided",)
    assert find_objections(replace(proof, skips_sealed=True)) == ("sealed",)


def test_right_and_wrong_answers_have_newcombe_s_interval() -> None:
    mine, theirs = [1.0] * 66 + [0.0] * 11, [1.0] * 18 + [0.0] * 59
    comparison = compare_models("the base", mine, theirs)
    expected = compare([bool(score) for score in theirs], [bool(score) for score in mine])
    assert (comparison.score, comparison.difference) == (
        pytest.approx(18 / 77),
        pytest.approx(expected.difference),
    )
    assert (comparison.low, comparison.high) == (
        pytest.approx(expected.difference_interval.low),
        pytest.approx(expected.difference_interval.high),
    )
    assert comparison.is_better and not comparison.is_worse


def test_partial_scores_have_the_interval_of_their_mean_difference() -> None:
    comparison = compare_models("retrieval", [0.9, 0.7, 0.8, 0.6] * 9, [0.5, 0.5, 0.4, 0.6] * 9)
    assert comparison.difference == pytest.approx(0.25)
    reach = 1.959964 * stdev([0.4, 0.2, 0.4, 0.0] * 9) / 6
    assert (comparison.low, comparison.high) == (pytest.approx(0.25 - reach), pytest.approx(0.25 + reach))


def test_two_rows_with_the_same_gain_prove_nothing() -> None:
    comparison = compare_models("retrieval", [0.75, 0.75], [0.5, 0.5])
    assert comparison.low < 0 < comparison.difference < comparison.high and not comparison.is_better


def test_answers_to_different_rows_can_t_be_compared() -> None:
    with pytest.raises(ValueError):
        compare_models("retrieval", [1.0, 0.0], [1.0])


def test_rows_that_people_had_read_count_as_wrong_in_what_decides() -> None:
    mine, theirs = [1.0] * 90 + [0.0] * 10, [0.0] * 20 + [1.0] * 55 + [0.0] * 25
    unread, read = (compare_models("the base", mine, theirs, read=places) for places in ((), range(30)))
    assert unread.is_better and not read.is_better
    assert (read.difference, read.low, read.high) == (unread.difference, unread.low, unread.high)


def test_the_rows_for_a_margin_show_it_in_four_of_five_cases() -> None:
    """With equally good models that disagree on a tenth of the rows, and 400 draws: 74% or less is one in 1,000."""
    few = compare_models(
        "the base", [1.0] * 185 + [0.0] * 15, [1.0] * 175 + [0.0] * 10 + [1.0] * 10 + [0.0] * 5
    )
    needed = few.rows_for_margin(0.03)
    assert needed and needed > 200
    shown = 0
    for gained, lost, _ in np.random.default_rng(0).multinomial(needed, (0.05, 0.05, 0.9), 400).tolist():
        rest = [1.0] * (needed - gained - lost)
        mine, theirs = (
            [*rest, *[1.0] * gained, *[0.0] * lost],
            [*rest, *[0.0] * gained, *[1.0] * lost],
        )
        shown += compare_models("the base", mine, theirs).is_not_worse(0.03)
    assert 0.74 < shown / 400 < 0.9


def test_enough_rows_for_a_margin_ask_for_no_more() -> None:
    alike = [1.0] * 900 + [0.0] * 100
    assert compare_models("the base", alike, alike).rows_for_margin(0.03) is None
    assert compare_models("the base", alike, alike).rows_for_margin(0.0) is None, "no margin, nothing to show"
    stored = replace(compare_models("the base", [1.0, 0.0], [0.0, 1.0]), spread=None)
    assert stored.rows_for_margin(0.03) is None, "unknown in comparisons of older versions"


def test_the_levels_of_all_promotions_add_up_to_three_and_a_half_percent() -> None:
    assert 0.034 < sum(promotion_level(look) for look in range(1, 1_000)) < 0.035


def test_each_dataset_has_an_alias_of_its_own() -> None:
    assert alias_for("tickets") == "team/tickets"
    others = {alias_for(name) for name in ("客户-2024", "订单-2024", "客户", "é" * 40, "a" * 39 + "é")}
    assert len(others) == 5 and all(ALIAS_NAME.fullmatch(alias) for alias in others), (
        "as our trainer takes them"
    )


def test_a_cheaper_model_is_also_compared_with_the_free_one() -> None:
    limits = PromotionLimits()
    assert best_comparison([FREE, CLOSE], limits.margin) == FREE
    assert best_comparison([CLOSE], limits.margin) == CLOSE
    assert best_comparison([FREE, replace(BETTER, score=0.96)], limits.margin) == replace(BETTER, score=0.96)
    assert best_comparison([], limits.margin) is None
    # a lead that may be luck: the model beats both, and is compared with the best alternative of the other cards
    lucky = replace(BETTER, score=0.505)
    best = replace(BETTER, is_best=True)
    assert best_comparison([lucky, best], limits.margin) == best
    assert best_comparison([replace(EQUAL, score=0.505), best], limits.margin) == replace(EQUAL, score=0.505)


@pytest.mark.parametrize("n", [20, 200])
@pytest.mark.parametrize("look", [1, 4])
def test_a_stored_change_of_shares_is_compared_like_the_rows(n: int, look: int) -> None:
    scores = [(row % 5) / 4 for row in range(n)]
    others = [max(score - 0.25 * (row % 3), 0.0) for row, score in enumerate(scores)]
    candidate = replace(TUNED, scoring="json", scores=tuple(scores), score=sum(scores) / n)
    by_rows = compare_models("base", scores, others, look=look)
    stored = compare_change(
        "base", sum(others) / n, Interval(by_rows.low, by_rows.high), candidate, look=look
    )
    assert stored.bound == pytest.approx(by_rows.bound, abs=0.001)
    assert stored.difference == pytest.approx(by_rows.difference)
    as_wrong = compare_change(
        "base",
        sum(others) / n,
        Interval(by_rows.low, by_rows.high),
        replace(candidate, read=(4, 9)),
        look=look,
    )
    assert as_wrong.bound < stored.bound


def test_only_a_significantly_low_label_is_below_the_floor() -> None:
    limits = PromotionLimits(floor=0.6, floor_rows=10)
    labels = [
        LabelRecall("refund", 40, 12),
        LabelRecall("delivery", 10, 5),  # half of ten may well be six
        LabelRecall("invoice", 9, 0),
        LabelRecall("login", 20, 2),
    ]
    assert [label.label for label in labels_below_floor(labels, limits)] == ["login", "refund"]
    assert labels_below_floor(labels, PromotionLimits()) == ()
