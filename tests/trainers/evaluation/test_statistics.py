"""The statistics: published and agreed values, and properties that hold for any answers."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainers.evaluation.statistics import (
    OTHER,
    Interval,
    compare,
    confusion,
    detectable_gap,
    exact_match,
    find_worse_labels,
    holm,
    label_scores,
    macro_f1,
    mcnemar_exact,
    mean_interval,
    normalise,
    paired_interval,
    paired_means,
    rows_needed,
    wilson,
    wilson_of_share,
)


def rounded(interval: Interval, digits: int) -> tuple[float, float]:
    return round(interval.low, digits), round(interval.high, digits)


def test_wilsons_interval_has_the_agreed_values_also_for_a_share() -> None:
    assert rounded(wilson(170, 200), 4) == (0.7939, 0.8929)
    assert rounded(wilson(0, 10), 4) == (0.0, 0.2775)
    assert rounded(wilson(10, 10), 4) == (0.7225, 1.0)
    for correct, n in ((170, 200), (0, 10), (10, 10), (3, 7)):
        of_count, of_share = wilson(correct, n), wilson_of_share(correct / n, n)
        assert (of_count.low, of_count.high) == pytest.approx((of_share.low, of_share.high), abs=1e-9)
    with pytest.raises(ValueError, match="0 rows"):
        wilson(0, 0)
    with pytest.raises(ValueError, match="0 rows"):
        wilson_of_share(0.5, 0)


@pytest.mark.parametrize(
    ("b", "c", "p"), [(10, 25, 0.01667), (8, 20, 0.0357), (3, 9, 0.146), (15, 18, 0.728)]
)
def test_mcnemars_exact_p_has_the_agreed_values(b: int, c: int, p: float) -> None:
    assert mcnemar_exact(b, c) == pytest.approx(p, abs=0.0005 if p > 0.05 else 0.00005)
    assert mcnemar_exact(c, b) == mcnemar_exact(b, c)
    assert mcnemar_exact(0, 0) == 1.0


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # airway responsiveness, Fagerland and others 2014, method of Newcombe
        ((1, 1, 7, 12), -0.507, -0.026),
        ((36, 12, 2, 0), 0.0569, 0.3404),  # Newcombe 1998, table II, method 10
    ],
)
def test_the_paired_interval_has_the_published_values(
    table: tuple[int, int, int, int], low: float, high: float
) -> None:
    interval = paired_interval(*table)
    assert interval.low == pytest.approx(low, abs=0.0005)
    assert interval.high == pytest.approx(high, abs=0.0005)


@pytest.mark.parametrize(
    ("gap", "discordant", "rows"),
    [
        (0.05, 0.10, 312),
        (0.05, 0.15, 469),
        (0.05, 0.20, 626),
        (0.03, 0.10, 870),
        (0.03, 0.15, 1306),
        (0.03, 0.20, 1742),
    ],
)
def test_the_number_of_rows_needed_is_the_agreed_one(gap: float, discordant: float, rows: int) -> None:
    assert rows_needed(gap, discordant) == rows
    assert detectable_gap(rows, discordant) == pytest.approx(gap, abs=0.0001)


def test_too_few_rows_detect_no_gap_and_a_gap_beyond_the_disagreement_is_refused() -> None:
    assert detectable_gap(20, 0.1) is None
    assert detectable_gap(200, 0.0) is None
    with pytest.raises(ValueError, match="is impossible"):
        rows_needed(0.2, 0.1)


def test_two_models_are_compared_row_by_row() -> None:
    base = [True] * 100 + [False] * 100
    tuned = [True] * 90 + [False] * 10 + [True] * 80 + [False] * 20

    result = compare(base, tuned)

    assert (result.n, result.base_correct, result.tuned_correct) == (200, 100, 170)
    assert (result.gained, result.lost) == (80, 10)
    assert result.difference == pytest.approx(0.35)
    assert rounded(result.tuned, 4) == (0.7939, 0.8929)
    assert result.p == mcnemar_exact(80, 10) < 0.001
    assert result.is_better
    assert not result.is_worse
    assert result.difference_interval == paired_interval(90, 80, 10, 20)
    assert result.detectable_gap == detectable_gap(200, 0.45)
    assert compare(tuned, base).is_worse


@pytest.mark.parametrize(("base", "tuned"), [([], []), ([True], []), ([True, False], [True])])
def test_answers_to_different_rows_are_not_compared(base: list[bool], tuned: list[bool]) -> None:
    for compute in (compare, paired_means):
        with pytest.raises(ValueError, match="both need the same rows"):
            compute(base, tuned)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=80))
def test_intervals_hold_their_estimates_and_are_mirrored_when_swapped(pairs: list[tuple[bool, bool]]) -> None:
    base, tuned = [b for b, _ in pairs], [t for _, t in pairs]
    result, mirrored = compare(base, tuned), compare(tuned, base)
    slack = 1e-9
    assert result.base.low - slack <= sum(base) / len(base) <= result.base.high + slack
    interval = result.difference_interval
    assert -1 - slack <= interval.low - slack <= result.difference <= interval.high + slack <= 1 + 2 * slack
    assert mirrored.p == pytest.approx(result.p)
    assert mirrored.difference_interval.low == pytest.approx(-interval.high)
    assert 0 < result.p <= 1 + slack


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("refund", True),
        (" Refund.\n", True),
        ("'refund'", True),
        ("“Refund.”", True),
        ("`refund`.", True),
        ("ｒefund", True),
        ("Label: refund", False),
        ("refunds", False),
        ("refund billing", False),
        ("", False),
    ],
)
def test_case_quotes_and_punctuation_do_not_make_an_answer_wrong(answer: str, same: bool) -> None:
    assert exact_match("refund", answer) is same


def test_normalise_keeps_what_labels_are_made_of() -> None:
    assert normalise("Account_Change") == "account_change"
    assert normalise("C++") == "c++"
    assert normalise(normalise('"a."')) == normalise('"a."') == "a"


EXPECTED = ["a", "a", "a", "b", "b", "c"]
ANSWERS = ["a", "A.", "b", "b", "I think b", "a"]


def test_answers_are_counted_per_label_with_a_column_for_others() -> None:
    matrix = confusion(EXPECTED, ANSWERS)
    assert matrix.labels == ("a", "b", "c")
    assert matrix.columns == ("a", "b", "c", OTHER)
    assert matrix.counts == ((2, 1, 0, 0), (0, 1, 0, 1), (1, 0, 0, 0))


def test_each_label_has_its_recall_and_f1_of_which_macro_f1_is_the_mean() -> None:
    a, b, c = label_scores(confusion(EXPECTED, ANSWERS))
    assert (a.recall, a.f1) == pytest.approx((2 / 3, 2 / 3))
    assert (b.recall, b.f1) == (0.5, 0.5)
    assert (c.recall, c.f1) == (0.0, 0.0)
    assert macro_f1(confusion(EXPECTED, ANSWERS)) == pytest.approx((2 / 3 + 1 / 2 + 0) / 3)
    with pytest.raises(ValueError, match="no labels"):
        macro_f1(confusion([], []))


def test_two_spellings_of_a_label_count_as_one_label() -> None:
    matrix = confusion(["Refund", "refund"], ["refund", "REFUND"])
    assert matrix.labels == ("Refund",)
    assert matrix.counts == ((2, 0),)


@pytest.mark.parametrize(
    ("ps", "corrected"),
    [
        ((), ()),
        ((0.04,), (0.04,)),
        ((0.01, 0.04, 0.03), (0.03, 0.06, 0.06)),  # as R's p.adjust(c(.01, .04, .03), "holm")
        ((0.6, 0.5), (1.0, 1.0)),
        ((0.02, 0.02, 0.001), (0.04, 0.04, 0.003)),
    ],
)
def test_holms_correction_has_the_values_of_r(ps: tuple[float, ...], corrected: tuple[float, ...]) -> None:
    assert holm(ps) == pytest.approx(corrected)


def test_the_bootstrap_agrees_with_the_formula_if_there_is_one() -> None:
    scores = [1.0] * 170 + [0.0] * 30
    interval = mean_interval(scores)
    assert rounded(interval, 2) == (0.8, 0.9)
    assert interval == mean_interval(scores)
    assert mean_interval(scores, 0.90).low > interval.low


@pytest.mark.parametrize("scores", [[0.9] * 12, [0.2, 0.4, 0.9], [1.0] * 500])
def test_few_or_equal_scores_get_wilsons_wider_interval(scores: list[float]) -> None:
    interval = mean_interval(scores)
    wilsons = wilson_of_share(sum(scores) / len(scores), len(scores))
    assert (interval.low, interval.high) == pytest.approx((wilsons.low, wilsons.high))
    assert interval.high - interval.low > 0.005


def test_shares_on_the_same_rows_are_compared_by_their_differences() -> None:
    base = [0.1 * (i % 10) for i in range(200)]
    tuned = [value + (0.05 if i % 3 else -0.02) for i, value in enumerate(base)]
    difference = paired_means(base, tuned)
    assert difference.value == pytest.approx(sum(tuned) / 200 - sum(base) / 200)
    assert difference.low < difference.value < difference.high
    assert difference.p == pytest.approx(2 / 2001)
    assert paired_means(tuned, base).value == pytest.approx(-difference.value)
    assert paired_means(base, base).p == 1.0


@pytest.mark.parametrize(
    ("base", "tuned"), [([0.5, 0.5], [0.75, 0.75]), ([0.5] * 5, [0.6, 0.7, 0.55, 0.6, 0.8])]
)
def test_small_gains_on_a_few_rows_prove_nothing(base: list[float], tuned: list[float]) -> None:
    difference = paired_means(base, tuned)
    assert difference.low < 0 < difference.value < difference.high and difference.p > 0.05
    assert paired_means(tuned, base).p == pytest.approx(difference.p)


def test_large_gains_on_a_few_rows_are_significant() -> None:
    difference = paired_means([0.1, 0.0, 0.2] * 4, [0.9, 1.0, 0.8] * 4)
    assert difference.low > 0.2 and difference.p < 0.001
    assert paired_means([0.0], [0.0]).p == 1.0


def test_importing_the_statistics_and_the_dataset_stays_light() -> None:
    heavy = "{'scipy', 'numpy', 'sklearn', 'tokenizers', 'toktok', 'torch'}"
    modules = "dataset, evaluation, models.tokens, evaluation.tfidf, evaluation.learning_curves, evaluation.comparison"
    ours = ", ".join(f"trainers.{name}" for name in modules.split(", "))
    code = f"import sys, {ours}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_label_that_got_worse_is_found_among_77_that_fluctuate() -> None:
    """Every other label loses one row and gains one; chance alone would make four of 77 seem worse."""
    names = [f"label {number}" for number in range(77)]
    expected = [name for name in names for _ in range(40)]
    before = [row % 40 != 0 for row in range(len(expected))]
    after = [row % 40 != 1 for row in range(len(expected))]
    assert find_worse_labels(expected, before, after) == ()
    lost = {row for row, name in enumerate(expected) if name == "label 7" and row % 40 > 20}
    worse = [is_right and row not in lost for row, is_right in enumerate(after)]
    (loss,) = find_worse_labels(expected, before, worse)
    assert (loss.label, loss.rows, loss.before, loss.after) == ("label 7", 40, 39, 20)
    assert loss.p == pytest.approx(77 * mcnemar_exact(20, 1), abs=1e-6)


def test_a_few_rows_of_a_label_show_no_loss() -> None:
    assert find_worse_labels(["a"] * 4 + ["b"] * 4, [True] * 8, [False] * 4 + [True] * 4) == ()
    (loss,) = find_worse_labels(["A"] * 10 + ["a"], [True] * 11, [False] * 11)
    assert (loss.label, loss.rows, loss.after) == ("A", 11, 0), "two spellings are one label"
