"""Tests of a candidate on live calls: e-values by hand, when they end, calls without a label, and canaries."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.monitoring.switch_tests import (
    DECISIVE,
    MOST_PAIRS,
    CallVerdict,
    canary_e,
    judge_canary,
    judge_non_inferiority,
    judge_superiority,
    superiority_e,
)

VERDICTS: tuple[CallVerdict, ...] = ("same", "candidate", "incumbent", "tie", "unlabelled")
MIRRORED: dict[CallVerdict, CallVerdict] = {"candidate": "incumbent", "incumbent": "candidate"}
SAME: list[CallVerdict] = ["same"]
WIN: list[CallVerdict] = ["candidate"]
LOSS: list[CallVerdict] = ["incumbent"]
MISSING: list[CallVerdict] = ["unlabelled"]
BOTH = WIN + LOSS
calls_of_any_kind = st.lists(st.sampled_from(VERDICTS), max_size=60)


@pytest.mark.parametrize(
    ("wins", "losses", "e"),
    [(0, 0, 1), (1, 0, 1.5), (0, 1, 0.5), (2, 0, 7 / 3), (1, 1, 2 / 3), (7, 0, 31.875)],
)
def test_the_e_value_of_superiority_is_the_integral_over_stakes(wins: int, losses: int, e: float) -> None:
    assert superiority_e(wins, losses) == pytest.approx(e)
    middles = [0.5 + (place + 0.5) / 20_000 for place in range(10_000)]
    integral = math.fsum((2 * t) ** wins * (2 - 2 * t) ** losses for t in middles) / len(middles)
    assert superiority_e(wins, losses) == pytest.approx(integral, rel=1e-5)


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_e_value_is_fair_if_both_are_right_as_often(wins: int, losses: int) -> None:
    after = superiority_e(wins + 1, losses) + superiority_e(wins, losses + 1)
    assert after / 2 == pytest.approx(superiority_e(wins, losses))


def test_seven_wins_in_a_row_decide_and_what_follows_is_not_read() -> None:
    calls: list[CallVerdict] = ["same", "candidate", "tie"] * 7
    test = judge_superiority([*calls, "incumbent"], weeks=1)
    assert (test.outcome, test.calls, test.pairs) == ("better", 20, 13)
    assert test.e_for == pytest.approx(31.875) and test.expected_calls is None
    assert judge_superiority(["incumbent"] * 7, weeks=1).outcome == "worse"


def test_six_wins_are_open_and_one_more_is_expected() -> None:
    test = judge_superiority(["candidate", "same"] * 6, weeks=1)
    assert (test.outcome, test.expected_calls) == ("open", 2)
    assert judge_superiority(["candidate"] * 4, weeks=1).expected_calls is None  # too few for a forecast
    even = judge_superiority(["candidate", "incumbent"] * 10, weeks=1)
    assert (even.outcome, even.expected_calls) == ("open", None)


@pytest.mark.parametrize("judge", [judge_superiority, judge_non_inferiority])
def test_a_test_ends_after_four_weeks_or_a_hundred_labels(judge: object) -> None:
    assert callable(judge)
    undecided = BOTH * 3
    assert judge(undecided, weeks=3.9).outcome == "open"
    assert judge(undecided, weeks=4).outcome == "cannot_tell"
    full = judge(BOTH * (MOST_PAIRS // 2) + WIN * 50, weeks=1)
    assert (full.outcome, full.pairs, full.calls) == ("cannot_tell", MOST_PAIRS, MOST_PAIRS)
    assert judge([], weeks=0).outcome == "open"
    with pytest.raises(ValueError, match="-1 weeks"):
        judge([], weeks=-1)


def test_equal_answers_show_that_a_candidate_is_not_worse_without_any_label() -> None:
    test = judge_non_inferiority(["same"] * 100, weeks=1)
    assert (test.outcome, test.calls, test.pairs) == ("not_worse", 87, 0)
    # Each call multiplies each stake by 1 + stake * 0.05.
    stakes = [share / 0.95 for share in (0.12, 0.24, 0.48, 0.95)]
    by_hand = sum((1 + 0.05 * stake) ** 87 for stake in stakes) / 4
    assert test.e_for == pytest.approx(by_hand)
    assert judge_superiority(["same"] * 100, weeks=1).outcome == "open"


def test_a_smaller_margin_needs_more_calls() -> None:
    needed = [judge_non_inferiority(["same"] * 1_000, weeks=1, margin=m).calls for m in (0.1, 0.05, 0.02)]
    assert needed == [42, 87, 219]


def test_a_candidate_that_is_worse_by_more_than_the_margin_is_found_worse() -> None:
    calls = SAME * 5 + LOSS
    test = judge_non_inferiority(calls * 30, weeks=1)
    assert test.outcome == "worse" and test.e_against >= DECISIVE
    open_test = judge_non_inferiority(calls * 9, weeks=1)
    assert open_test.outcome == "open"
    assert open_test.expected_calls is not None
    assert abs(len(calls) * 9 + open_test.expected_calls - test.calls) <= 12


def test_calls_without_a_label_count_against_both_answers() -> None:
    """Nobody decides a test by labelling only what suits them."""
    assert judge_superiority((WIN + MISSING) * 20, weeks=1).outcome == "open"
    assert judge_non_inferiority(MISSING * 10 + SAME * 60, weeks=1).outcome == "open"
    # After the last label they do no harm.
    test = judge_superiority(WIN * 7 + MISSING * 50, weeks=1)
    assert (test.outcome, test.unlabelled) == ("better", 0)


def test_a_margin_that_is_no_share_is_refused() -> None:
    for margin in (0, 1, 5):
        with pytest.raises(ValueError, match=f"margin of {margin}"):
            judge_non_inferiority([], weeks=0, margin=margin)


@given(calls_of_any_kind)
def test_superiority_is_the_same_seen_from_the_other_side(calls: list[CallVerdict]) -> None:
    mirrored = [MIRRORED.get(verdict, verdict) for verdict in calls]
    test = judge_superiority(calls, weeks=1)
    other = judge_superiority(mirrored, weeks=1)
    assert (test.calls, test.pairs) == (other.calls, other.pairs)
    assert test.e_for == pytest.approx(other.e_against)


@given(calls_of_any_kind, st.integers(0, 59))
def test_a_label_never_lowers_what_a_missing_one_left_open(calls: list[CallVerdict], place: int) -> None:
    if place >= len(calls):
        return
    missing = [*calls]
    missing[place] = "unlabelled"
    for judge in (judge_superiority, judge_non_inferiority):
        before = judge(missing, weeks=1)
        after = judge(calls, weeks=1)
        if before.outcome != "open":
            assert after.calls <= before.calls
        elif after.outcome == "open":
            assert after.e_for >= before.e_for - 1e-9
            assert after.e_against >= before.e_against - 1e-9


@given(calls_of_any_kind)
def test_a_decision_stands_whatever_comes_later(calls: list[CallVerdict]) -> None:
    labelled = [verdict for verdict in calls if verdict != "unlabelled"]
    for judge in (judge_superiority, judge_non_inferiority):
        test = judge(labelled, weeks=1)
        if test.outcome != "open":
            assert judge(labelled + LOSS * 20, weeks=1) == test


def test_a_canary_is_stopped_if_too_many_events_are_its() -> None:
    usual = [False] * 9 + [True]
    assert judge_canary(usual * 20, share=0.1).outcome == "open"
    often = judge_canary([False, False, True] * 20, share=0.1)
    assert often.outcome == "worse" and often.events < 40
    assert judge_canary([], share=0.1).e_against == 1.0


def test_a_canarys_first_event_is_weighed_by_hand() -> None:
    test = judge_canary([True], share=0.1)
    ratios = (1.25, 1.5, 2.0, 3.0, 5.0, 10.0)
    stakes = [0.1 * ratio / (0.1 * ratio + 0.9) for ratio in ratios]
    assert test.e_against == pytest.approx(sum(stakes) / 0.1 / 6)
    assert (test.events, test.of_candidate) == (1, 1)


@given(st.lists(st.booleans(), max_size=40), st.floats(0.01, 0.9))
def test_a_canarys_next_event_is_a_fair_bet(events: list[bool], share: float) -> None:
    now = judge_canary(events, share)
    if now.outcome == "worse":
        return
    canary = judge_canary([*events, True], share).e_against
    incumbent = judge_canary([*events, False], share).e_against
    assert share * canary + (1 - share) * incumbent == pytest.approx(now.e_against)


@pytest.mark.parametrize(("share", "events"), [(0.01, 2), (0.05, 3), (0.1, 3), (0.2, 4), (0.5, 7)])
def test_a_canary_that_alone_errs_is_stopped_by_few_errors(share: float, events: int) -> None:
    test = judge_canary([True] * 50, share)
    assert (test.outcome, test.events) == ("worse", events)


@given(st.lists(st.booleans(), max_size=60), st.floats(0.01, 0.9))
def test_a_canarys_e_value_is_the_capital_of_a_bettor_with_several_stakes(
    events: list[bool], share: float
) -> None:
    rates = np.array((1.25, 1.5, 2.0, 3.0, 5.0, 10.0))
    stakes = share * rates / (share * rates + 1 - share)
    factors = np.where(np.array(events, dtype=bool)[:, None], stakes / share, (1 - stakes) / (1 - share))
    capital = factors.prod(axis=0).mean()
    assert canary_e(sum(events), len(events) - sum(events), share) == pytest.approx(capital, rel=1e-9)


@pytest.mark.deep
def test_equal_error_rates_seldom_stop_a_canary() -> None:
    chance = random.Random(20261202)
    for share in (0.1, 0.5):
        stopped = 0
        for _ in range(400):
            events = [chance.random() < share for _ in range(500)]
            stopped += judge_canary(events, share).outcome == "worse"
        assert stopped <= 20  # 5%


def test_many_events_overflow_nothing() -> None:
    assert canary_e(10_000, 0, 0.1) > DECISIVE
    assert 0.0 <= canary_e(0, 10_000, 0.1) < 1e-100


def test_a_canary_without_a_share_is_refused() -> None:
    for share in (0, 1):
        with pytest.raises(ValueError, match=f"share of {share}"):
            judge_canary([], share)
