"""The simulation: exact if nothing is uncertain, repeatable by its seed, and what holds for all inputs."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bot.rules.bills import Rates
from bot.rules.forecast import LIKELY, Outlook, simulate
from bot.rules.roi import Inputs, Quality, Range, Training, estimate, net_value
from bot.rules.swings import LABOUR, extra_runs
from tests.rules.builders import ARTICLE, WITH_PEOPLE, WITHOUT_HOURS
from tests.rules.test_roi import NANO, TEN_BILLION

CERTAIN = replace(
    ARTICLE, volume_spread=Decimal(0), price_fall=Range.exactly(Decimal(0)), run_fails=Decimal(0)
)
BILLION = replace(WITH_PEOPLE, monthly_input_tokens=1_000_000_000)
# 4 points better on 200 rows, a wrong answer costs 2 cents
BETTER = Quality(200, Decimal(12), Decimal(4), Decimal("0.02"))


def simulate_briefly(inputs: Inputs) -> Outlook:
    """For outcomes that hardly depend on the draws."""
    return simulate(inputs, draws=1_000)


def test_without_uncertainty_the_outlook_is_the_exact_estimate() -> None:
    costs, outlook = estimate(CERTAIN), simulate_briefly(CERTAIN)
    assert costs.payback_months is not None
    assert outlook.p_payback == 1
    for quantiles, exact in (
        (outlook.payback_months, round(costs.payback_months, 4)),
        (outlook.saving_month, 23),
        (outlook.npv, round(costs.npv_usd, 2)),
    ):
        assert quantiles.p5 == quantiles.p50 == quantiles.p95 == exact
    assert outlook.expected == round(costs.npv_usd, 2)
    assert outlook.swings == ()
    assert [month.p50 for month in outlook.months] == [-25 + 23 * month for month in range(13)]


def test_the_same_seed_gives_the_same_outlook_and_another_a_close_one() -> None:
    once = simulate(ARTICLE, seed=1)
    again = simulate(ARTICLE, seed=1)
    other = simulate(ARTICLE, seed=2)
    assert once == again
    assert once != other
    assert once.p_payback == pytest.approx(other.p_payback, abs=0.02)
    assert (once.draws, once.seed) == (10_000, 1)


def test_only_the_planned_runs_that_fail_are_paid_again() -> None:
    """$75 for three runs of $25; each fails once in four times, so that one more is paid on average."""
    training = replace(CERTAIN.training, runs=3)
    outlook = simulate(
        replace(CERTAIN, training=training, run_fails=Decimal("0.25"), volume_spread=Decimal(0))
    )
    spent = {month.p50 for month in outlook.months[:1]}
    assert spent <= {Decimal(-75), Decimal(-100)}
    assert outlook.months[0].p5 == -150  # three done again


@pytest.mark.parametrize(
    ("planned", "fails", "more"), [(1, "0", 0), (1, "0.2", 1), (3, "0.25", 3), (3, "0", 0)]
)
def test_extra_runs_are_the_95th_percentile_of_failed_runs(planned: int, fails: str, more: int) -> None:
    """As scipy.stats.nbinom.ppf(0.95, planned, 1 - fails) has it."""
    assert extra_runs(planned, Decimal(fails), Decimal("0.95")) == more


def test_the_volume_lies_within_its_spread_in_90_percent_of_draws() -> None:
    outlook = simulate(replace(CERTAIN, volume_spread=Decimal("0.25")))
    low = outlook.saving_month.p5
    middle = outlook.saving_month.p50
    high = outlook.saving_month.p95
    assert low is not None and middle is not None and high is not None
    assert float(low) == pytest.approx(23 / 1.25, rel=0.02)
    assert float(middle) == pytest.approx(23, rel=0.01)
    assert float(high) == pytest.approx(23 * 1.25, rel=0.02)


def test_the_article_s_case_is_likely_to_pay_back_and_never_with_staff_time() -> None:
    assert simulate_briefly(ARTICLE).p_payback > 0.9
    people = simulate_briefly(WITH_PEOPLE)
    assert people.p_payback == 0
    assert people.payback_months.p5 is None
    assert simulate_briefly(replace(WITH_PEOPLE, monthly_input_tokens=TEN_BILLION)).p_payback == 1


def test_one_run_in_five_is_paid_again() -> None:
    month_0 = simulate(replace(CERTAIN, run_fails=Decimal("0.2"))).months[0]
    assert (month_0.p5, month_0.p50, month_0.p95) == (-50, -25, -25)


def test_planned_work_takes_three_quarters_to_twice_as_long() -> None:
    """$5,000 at 50 hours: the triangle's 5% and 95% point are 43.7 and 87.5 hours."""
    month_0 = simulate(replace(CERTAIN, people_hours=Decimal(50), people_usd_per_hour=Decimal(100))).months[0]
    assert float(-month_0.p95 - 25) == pytest.approx(4_375, rel=0.01)
    assert float(-month_0.p5 - 25) == pytest.approx(8_750, rel=0.01)


@pytest.mark.parametrize(
    "inputs",
    [
        replace(BILLION, ends=date(2027, 1, 20)),
        replace(BILLION, tuned=replace(ARTICLE.tuned, usd_per_hour=Decimal(2))),
        replace(WITH_PEOPLE, quality=BETTER),
    ],
)
def test_likely_from_is_the_smallest_volume_at_which_80_percent_pay_back(inputs: Inputs) -> None:
    enough = simulate(inputs).likely_from
    assert enough is not None
    expected = estimate(inputs).break_even_tokens_per_month
    assert expected is not None and enough > expected, "the expected sum alone pays back in half of the draws"
    below, at = (
        simulate(replace(inputs, monthly_input_tokens=volume)) for volume in (int(enough * 0.999), enough)
    )
    assert below.p_payback < 0.8 <= at.p_payback
    assert at.likely_from == pytest.approx(enough, rel=1e-6)


def test_no_volume_is_enough_for_a_dearer_model_and_any_for_a_free_one() -> None:
    assert simulate_briefly(replace(ARTICLE, now=NANO)).likely_from is None
    assert simulate_briefly(replace(ARTICLE, ends=ARTICLE.today)).likely_from is None
    free = replace(CERTAIN, training=Training(100, 1, usd_per_hour=Decimal(0)))
    assert simulate_briefly(free).likely_from == 0


def test_a_model_that_has_ended_never_pays_back() -> None:
    outlook = simulate_briefly(replace(ARTICLE, ends=date(2026, 10, 23)))
    assert (outlook.p_payback, outlook.horizon_months, len(outlook.months)) == (0, 0, 1)
    assert outlook.payback_months.p5 is None


def test_the_last_month_ends_with_the_model() -> None:
    """51 days are 1.677 months."""
    outlook = simulate_briefly(replace(CERTAIN, ends=date(2027, 1, 14)))
    assert [round(month.month, 3) for month in outlook.months] == [0, 1, Decimal("1.677")]
    assert outlook.horizon_months == outlook.months[-1].month
    assert outlook.months[-1].p50 == round(-25 + 23 * outlook.horizon_months, 2)


def test_a_payback_after_the_model_s_end_counts_as_never() -> None:
    """51 days are left, 1.68 months; it takes 2.2."""
    slow = replace(CERTAIN, training=replace(CERTAIN.training, usd_per_million=Decimal(50)))
    assert simulate_briefly(slow).payback_months.p50 == Decimal("2.1739")
    assert simulate_briefly(replace(slow, ends=date(2027, 1, 14))).payback_months.p50 is None


def test_a_loss_and_no_volume_never_pay_back() -> None:
    for inputs in (replace(ARTICLE, now=NANO), replace(ARTICLE, monthly_input_tokens=0)):
        outlook = simulate_briefly(inputs)
        assert outlook.p_payback == 0
        assert (
            outlook.payback_months == simulate_briefly(replace(inputs, run_fails=Decimal(0))).payback_months
        )


def test_free_training_pays_back_at_once() -> None:
    free = replace(CERTAIN, training=Training(1, 1, usd_per_hour=Decimal(0)))
    outlook = simulate_briefly(free)
    assert (outlook.p_payback, outlook.payback_months.p50) == (1, 0)
    loss = simulate_briefly(replace(free, now=NANO))
    assert (loss.p_payback, loss.payback_months.p50) == (0, None)


def test_a_falling_price_eats_the_saving() -> None:
    """Twelve months on a tenth of $25 is left, and the tuned model still costs $2."""
    outlook = simulate_briefly(replace(CERTAIN, price_fall=Range.exactly(Decimal("0.9"))))
    last, before = outlook.months[12].p50, outlook.months[11].p50
    assert float(last - before) == pytest.approx(2.5 - 2, abs=0.01)


def test_measured_quality_varies_by_its_standard_error() -> None:
    """12 rows gained and 4 lost of 200: the gap is 4 points, its standard deviation about 2."""
    outlook = simulate(replace(CERTAIN, quality=BETTER))
    a_gap = 0.02 * 10_000_000 / 120
    low, middle, high = (
        (float(value) - 23) / a_gap
        for value in (outlook.saving_month.p5, outlook.saving_month.p50, outlook.saving_month.p95)
        if value is not None
    )
    assert middle == pytest.approx(0.04, abs=0.003)
    assert low == pytest.approx(0.04 - 1.645 * 0.02, abs=0.008)
    assert high == pytest.approx(0.04 + 1.645 * 0.02, abs=0.008)


def test_the_sensitivity_has_the_widest_swing_first_and_is_exact() -> None:
    inputs = replace(BILLION, quality=BETTER)
    swings = simulate_briefly(inputs).swings
    assert [swing.name for swing in swings][:1] == ["quality"]
    assert {swing.name for swing in swings} == {
        "quality",
        "volume",
        "staff time",
        "price of the alternative",
        "training runs",
    }
    widths = [swing.width for swing in swings]
    assert widths == sorted(widths, reverse=True)
    volume = next(swing for swing in swings if swing.name == "volume")
    less = replace(inputs, monthly_input_tokens=800_000_000)
    assert (volume.low_value, volume.at_low) == ("6.67M requests a month", round(net_value(less), 2))


def test_staff_hours_that_are_not_given_swing_from_none_to_a_week() -> None:
    outlook = simulate_briefly(WITHOUT_HOURS)
    people = next(swing for swing in outlook.swings if swing.name == "staff time")
    assert (people.low_value, people.high_value) == ("0 hours (not given)", "40 hours at $75.00")
    assert people.width == 3000
    assert outlook.npv == simulate_briefly(ARTICLE).npv


def test_a_paid_machine_swings_by_its_training_time() -> None:
    minutes = Range(Decimal(60), Decimal(120), Decimal(240))
    paid = replace(CERTAIN, training=Training(1, 1, usd_per_hour=Decimal(10), minutes=minutes))
    (swing,) = simulate_briefly(paid).swings
    assert swing.name == "training time"
    assert swing.at_low > swing.at_high


def test_quantiles_of_the_triangular_distribution() -> None:
    assert LABOUR.quantile(Decimal(0)) == Decimal("0.75")
    assert LABOUR.quantile(Decimal("0.2")) == 1  # a fifth of its area lies below the top
    assert LABOUR.quantile(Decimal(1)) == 2
    assert Range.exactly(Decimal(3)).quantile(Decimal("0.05")) == 3


def test_each_month_s_quantiles_are_in_order() -> None:
    outlook = simulate_briefly(BILLION)
    assert [month.month for month in outlook.months] == list(range(13))
    assert all(month.p5 <= month.p50 <= month.p95 for month in outlook.months)


@settings(max_examples=8)
@given(
    less=st.integers(0, 10**11),
    more=st.integers(0, 10**11),
    tuned=st.decimals("0.01", "2.49", places=2),
    hours=st.integers(0, 100),
)
def test_more_volume_never_makes_payback_less_likely(
    less: int, more: int, tuned: Decimal, hours: int
) -> None:
    rates = Rates("tuned", tuned, Decimal(0), "a list")
    inputs = replace(WITH_PEOPLE, tuned=rates, people_hours=Decimal(hours))
    small, large = (
        simulate(replace(inputs, monthly_input_tokens=volume), draws=2_000).p_payback
        for volume in sorted((less, more))
    )
    assert large >= small


@settings(max_examples=8)
@given(right=st.integers(0, 16), other=st.integers(0, 16), usd=st.sampled_from(["0.0001", "0.01", "1"]))
def test_a_worse_tuned_score_never_makes_payback_likelier(right: int, other: int, usd: str) -> None:
    """Beyond what 10,000 draws may differ by chance."""
    worse, better = (
        simulate(
            replace(BILLION, quality=Quality(200, Decimal(n), Decimal(16 - n), Decimal(usd))), draws=4_000
        )
        for n in sorted((right, other))
    )
    assert worse.p_payback <= better.p_payback + 0.03
    assert median_value(worse) <= median_value(better) + abs(median_value(better)) * Decimal("0.03") + 100


@pytest.mark.parametrize(("volume", "ends"), [(10_000_000, None), (1_000_000_000, date(2027, 1, 10))])
def test_payback_is_unlikely_beyond_the_bearable_hours(volume: int, ends: date | None) -> None:
    inputs = replace(WITHOUT_HOURS, monthly_input_tokens=volume, ends=ends)
    outlook = simulate(inputs)
    hours = outlook.bearable_hours
    assert not outlook.is_time_said and hours is not None
    less, more = (
        simulate(replace(inputs, people_hours=hours * factor))
        for factor in (Decimal("0.97"), Decimal("1.03"))
    )
    assert less.p_payback >= LIKELY > more.p_payback
    assert less.is_time_said and less.bearable_hours is None


def test_an_unlikely_payback_bears_no_staff_hours() -> None:
    outlook = simulate_briefly(replace(WITHOUT_HOURS, monthly_input_tokens=1_000_000))
    assert outlook.p_payback < LIKELY and outlook.bearable_hours is None


def median_value(outlook: Outlook) -> Decimal:
    assert outlook.npv.p50 is not None
    return outlook.npv.p50
