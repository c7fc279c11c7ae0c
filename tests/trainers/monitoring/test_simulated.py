"""The short form of benchmarks/watch.py: what monitoring promises about false alarms holds in simulated years, and what
it should see is seen. Seeds are fixed, so the shares are the same on each run."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks._monitoring import (
    Labels,
    Tickets,
    alarm_weeks,
    false_alarms_of_accuracy,
    false_alarms_of_labels,
    false_alarms_of_shift,
    new_requests_seen,
    non_inferiority_tests,
    run_canaries,
    superiority_tests,
)
from benchmarks.watch import main


@pytest.fixture(scope="module")
def tickets() -> Tickets:
    """Texts of eight kinds, as vectors of 16 numbers that vary more in some directions, as an encoder's do."""
    generator = np.random.default_rng(1)
    labels = np.repeat(np.array([f"kind {place}" for place in range(8)]), 60)
    centres = generator.standard_normal((8, 16)) * np.linspace(0.6, 0.1, 16)
    vectors = np.repeat(centres, 60, axis=0) + generator.standard_normal((480, 16)) * np.linspace(
        0.4, 0.1, 16
    )
    return Tickets(vectors.astype(np.float32), labels)


@pytest.mark.parametrize("rows", [200, 500])
@pytest.mark.parametrize("share", [0.6, 0.875, 0.97])
def test_live_accuracy_alarms_falsely_in_at_most_5_percent_of_years(rows: int, share: float) -> None:
    assert false_alarms_of_accuracy(Labels(20, share, rows), 1_000, seed=1).value <= 0.05


@pytest.mark.parametrize("rows", [200, 500])
def test_a_lucky_holdout_makes_at_most_7_percent(rows: int) -> None:
    chosen = false_alarms_of_accuracy(Labels(20, 0.875, rows, best_of=3), 1_000, seed=1)
    alone = false_alarms_of_accuracy(Labels(20, 0.875, rows), 1_000, seed=1)
    assert alone.value < chosen.value <= 0.07


def test_a_drop_is_seen_within_the_promised_weeks_in_half_of_the_cases() -> None:
    for drop, weeks in ((0.1, 14), (0.15, 6)):
        alarms = alarm_weeks(Labels(20, 0.875, 200), drop, 52, 1_000, seed=2)
        assert (alarms <= weeks).mean() == pytest.approx(0.5, abs=0.04)


@pytest.mark.deep
def test_ten_datasets_have_few_years_with_a_false_shift(tickets: Tickets) -> None:
    """Of ten years, 6% are less than one."""
    assert false_alarms_of_shift(tickets, 10, seed=1).hits <= 1
    assert false_alarms_of_labels(tickets, 10, seed=1).hits <= 1


@pytest.mark.deep
def test_a_fifth_of_new_requests_is_seen(tickets: Tickets) -> None:
    assert new_requests_seen(tickets, 0.2, 4, seed=1).hits >= 3
    assert new_requests_seen(tickets, 0.0, 4, seed=1).hits == 0


@pytest.mark.deep
@pytest.mark.parametrize("disagreement", [0.1, 0.3])
def test_tests_of_a_candidate_are_wrong_in_at_most_5_percent(disagreement: float) -> None:
    equal = superiority_tests(disagreement, 0.0, 400, seed=1)
    assert equal.better.value <= 0.05 and equal.worse.value <= 0.05
    at_margin = non_inferiority_tests(disagreement, -0.05, 400, seed=1)
    assert at_margin.better.value <= 0.05 and at_margin.worse.value <= 0.05


def test_tests_of_a_candidate_answer_if_there_is_an_answer() -> None:
    better = superiority_tests(0.1, 0.1, 100, seed=2)
    assert better.better.value > 0.95 and better.pairs <= 10
    cheaper = non_inferiority_tests(0.05, 0.0, 100, seed=2)
    assert cheaper.better.value > 0.95 and cheaper.pairs <= 12 and cheaper.calls <= 250
    worse = non_inferiority_tests(0.2, -0.15, 100, seed=2)
    assert worse.worse.value > 0.95


def test_a_canary_that_is_as_good_is_seldom_stopped_and_a_worse_one_is() -> None:
    equal = run_canaries(0.1, 0.05, 0.05, 10_000, 400, seed=1)
    assert equal.stopped.value <= 0.05
    worse = run_canaries(0.1, 0.05, 0.2, 10_000, 50, seed=2)
    assert worse.stopped.value == 1 and worse.conversations < 600


@pytest.mark.deep
def test_the_short_form_meets_its_targets(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["accuracy", "canary", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "10 points less" in printed and "NOT MET" not in printed
