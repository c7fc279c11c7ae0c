"""Which of several results is better: by the rule of a promotion, on the rows that all of them answered."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from bot.rules.training.compared_results import (
    CommonScores,
    compare_results,
    different_settings,
    why_unmatched,
)
from tests.cards.training.compared_cards import common, result, scored, with_setting
from trainers.evaluation.claims import promotion_level

MARGIN = 0.02


def test_the_order_of_the_names_decides_nothing() -> None:
    better = result(1, scored(190))
    worse = result(2, scored(150))
    for named in ((better, worse), (worse, better)):
        compared = compare_results(common(*named), (), MARGIN)
        assert (compared.outcome, compared.winner) == ("better", better)
        (pair,) = compared.pairs
        assert (pair.only_first, pair.only_other) == (40, 0)


def test_a_later_model_needs_more_evidence_than_an_earlier_one() -> None:
    """9 of 9 differing rows are enough for the second tuned model (p = 0.002), and too few for the tenth."""
    assert promotion_level(10) < 0.002 < promotion_level(2)
    for look, outcome in ((2, "better"), (10, "can't tell")):
        later = result(5, scored(189), look=look)
        compared = compare_results(common(result(1, scored(180)), later), (), MARGIN)
        assert compared.outcome == outcome
        assert compared.pairs[0].difference.low > 0, "the shown range is the same 95% for both"


def test_rows_read_before_a_training_count_as_wrong_for_what_learnt_from_them() -> None:
    earlier = common(result(1, scored(180)))[0]
    later = common(result(2, scored(190)))[0]
    assert compare_results([earlier, later], (), MARGIN).outcome == "better"
    taught = replace(later, read=tuple(range(180, 190)))
    assert compare_results([earlier, taught], (), MARGIN).outcome == "can't tell"


def test_a_cheaper_one_wins_only_if_it_is_shown_to_be_no_worse() -> None:
    dear = result(1, scored(190), usd=Decimal("1"))
    cheap = result(2, scored(189), usd=Decimal("0.01"))
    for margin, outcome in ((0.1, "cheaper"), (0.001, "can't tell")):
        compared = compare_results(common(dear, cheap), (), margin)
        assert compared.outcome == outcome
        assert compared.winner == (cheap if outcome == "cheaper" else None)
    unpriced = replace(cheap, usd=None)
    assert compare_results(common(dear, unpriced), (), 0.1).outcome == "can't tell"


def test_the_best_of_three_has_to_beat_both() -> None:
    best = result(3, scored(190))
    alike = result(2, scored(189, first=1))
    worse = result(1, scored(150))
    compared = compare_results(common(best, alike, worse), (), MARGIN)
    assert compared.outcome == "can't tell"
    assert compared.undecided == (best, alike), "the third is out"


def test_one_result_alone_has_nothing_to_be_compared_with() -> None:
    compared = compare_results([CommonScores(result(1, scored(190)), (1.0,))], (), MARGIN)
    assert (compared.outcome, compared.winner, compared.pairs) == ("nothing to compare", None, ())


def test_scores_of_other_kinds_and_judges_do_not_compare() -> None:
    labels = result(1, scored(190))
    judged = result(2, scored(190, scoring="judge"), judge="openai/a")
    assert why_unmatched(judged, labels) == "other measure"
    assert why_unmatched(replace(judged, judge="openai/b"), judged) == "other judge"
    assert why_unmatched(replace(labels, judge="openai/b"), labels) is None, "nobody judged these"
    assert why_unmatched(result(3, None), None) == "no result"
    assert why_unmatched(result(3, None, is_deleted=True), None) == "deleted"


def test_only_settings_that_differ_are_named() -> None:
    runs = [result(1, scored(190)), result(2, scored(150), settings=with_setting("epochs", "3"))]
    (only,) = different_settings(runs)
    assert (only.name, only.values) == ("epochs", ("5", "3"))
    untrained = result(7, scored(190), settings=())
    assert different_settings([runs[0], untrained]) == ()
