"""Live accuracy: the sum by hand, the alarm, what a team could have seen by now, and what can't be judged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.evaluation.statistics import wilson
from trainers.monitoring.live_accuracy import (
    DROP,
    THRESHOLD,
    Holdout,
    LabelledWeek,
    alarm_probability,
    detectable_drop,
    judge_live_accuracy,
)

HOLDOUT = Holdout(0.875, 200)
counts = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=30)
holdouts = st.builds(Holdout, st.floats(0, 1), st.integers(1, 5_000))


def weeks_of(*pairs: tuple[int, int]) -> list[LabelledWeek]:
    return [LabelledWeek(right, labelled) for right, labelled in pairs]


def test_the_sum_grows_with_wrong_answers_and_starts_again_at_0() -> None:
    reference = HOLDOUT.reference
    of_right = math.log((reference - DROP) / reference)
    of_wrong = math.log((1 - reference + DROP) / (1 - reference))
    judged = judge_live_accuracy(weeks_of((20, 20), (12, 20), (14, 20)), HOLDOUT)
    assert judged.statistic == pytest.approx(26 * of_right + 14 * of_wrong)
    assert judged.statistic == pytest.approx(3.466, abs=0.001)
    assert not judged.is_alarm and judged.threshold == THRESHOLD


def test_the_first_week_above_the_threshold_is_the_alarm() -> None:
    judged = judge_live_accuracy(weeks_of((18, 20), (10, 20), (10, 20), (20, 20)), HOLDOUT)
    assert judged.is_alarm and judged.alarm_week == 3
    assert judge_live_accuracy(weeks_of((10, 20), (10, 20)), HOLDOUT).alarm_week == 2


def test_the_reference_lies_one_and_a_half_standard_errors_below_the_holdout() -> None:
    assert HOLDOUT.reference == pytest.approx(
        0.8391, abs=0.0001
    )  # (175 + 2) / 204 = 0.8676; its error is 0.0240
    assert Holdout(0.875, 800).reference == pytest.approx(0.8573, abs=0.0001)
    assert 0.98 < Holdout(1.0, 200).reference < 1  # all right is an estimate too
    assert Holdout(0.0, 200).reference == 0


def test_without_labels_nothing_is_stated() -> None:
    for weeks in ([], weeks_of((0, 0), (0, 0))):
        judged = judge_live_accuracy(weeks, HOLDOUT)
        assert not judged.is_alarm and judged.statistic == 0 and judged.labels == 0
        assert judged.recent is None and judged.detectable_drop is None


def test_wilsons_interval_is_of_the_last_four_weeks() -> None:
    judged = judge_live_accuracy(weeks_of((0, 20), (17, 20), (0, 0), (15, 20), (1, 1)), HOLDOUT)
    assert (judged.recent_right, judged.recent_labels, judged.labels) == (33, 41, 61)
    assert judged.recent == wilson(33, 41)


def test_the_probability_of_an_alarm_is_that_of_simulated_weeks() -> None:
    generator = np.random.default_rng(3)
    reference = HOLDOUT.reference
    for share, labelled in ((0.775, [20] * 14), (0.7, [5, 0, 40, 7, 20]), (reference, [20] * 52)):
        right = generator.binomial(labelled, share, (20_000, len(labelled)))
        of_right = math.log((reference - DROP) / reference)
        of_wrong = math.log((1 - reference + DROP) / (1 - reference))
        added = right * of_right + (np.array(labelled) - right) * of_wrong
        total = np.zeros(len(right))
        alarmed = np.zeros(len(right), bool)
        for week in added.T:
            total = np.maximum(total + week, 0)
            alarmed |= total >= THRESHOLD
        assert alarm_probability(labelled, share, reference) == pytest.approx(alarmed.mean(), abs=0.012)


def test_a_detectable_drop_alarms_in_four_of_five_cases_and_a_smaller_does_not() -> None:
    labelled = [20] * 26
    drop = detectable_drop(labelled, HOLDOUT)
    assert drop == 11
    assert alarm_probability(labelled, 0.875 - 0.11, HOLDOUT.reference) >= 0.8
    assert alarm_probability(labelled, 0.875 - 0.10, HOLDOUT.reference) < 0.8


def test_more_weeks_labels_and_rows_detect_smaller_drops() -> None:
    by_weeks = [detectable_drop([20] * count, HOLDOUT) for count in (2, 4, 13, 26, 52)]
    assert by_weeks == [None, 24, 13, 11, 9]
    assert detectable_drop([60] * 13, HOLDOUT) == 10
    assert detectable_drop([20] * 13, Holdout(0.875, 2_000)) == 10
    assert detectable_drop([], HOLDOUT) is None
    lowest = Holdout(0.01, 200)
    assert lowest.reference == 0 and detectable_drop([20] * 52, lowest) is None


@pytest.mark.parametrize(
    ("weeks", "holdout", "words"),
    [
        (weeks_of((3, 4), (5, 4)), HOLDOUT, "week 2 has 5 right answers of 4 labels"),
        (weeks_of((-1, 4)), HOLDOUT, "week 1 has -1"),
        ([], Holdout(0.5, 0), "at least one row"),
        ([], Holdout(1.2, 10), "share of 1.2"),
    ],
)
def test_impossible_counts_are_refused(weeks: list[LabelledWeek], holdout: Holdout, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        judge_live_accuracy(weeks, holdout)


@given(counts, holdouts)
def test_any_counts_are_judged(pairs: list[tuple[int, int]], holdout: Holdout) -> None:
    weeks = [LabelledWeek(right, right + wrong) for right, wrong in pairs]
    judged = judge_live_accuracy(weeks, holdout)
    assert judged.statistic >= 0 and 0 <= judged.reference <= holdout.share
    assert judged.detectable_drop is None or 1 <= judged.detectable_drop <= 30
    # Weeks without labels change nothing but their number.
    padded = [week for each in weeks for week in (LabelledWeek(0, 0), each)]
    assert judge_live_accuracy(padded, holdout).statistic == pytest.approx(judged.statistic)


@given(counts, holdouts)
def test_another_wrong_answer_never_lowers_the_sum(pairs: list[tuple[int, int]], holdout: Holdout) -> None:
    weeks = [LabelledWeek(right, right + wrong + 1) for right, wrong in pairs]
    better = [LabelledWeek(week.right + 1, week.labelled) for week in weeks]
    worse = judge_live_accuracy(weeks, holdout).statistic
    assert judge_live_accuracy(better, holdout).statistic <= worse
