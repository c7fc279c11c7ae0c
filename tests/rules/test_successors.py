"""Today's model ends: savings against it stop on that day, and savings against its successor begin."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from bot.cards.common.advice import todo_text
from bot.cards.common.payback import monthly_saving_text
from bot.cards.common.reasons import because_text
from bot.cards.decisions.assumptions import assumptions
from bot.rules.advice import _successor_reasons
from bot.rules.bills import ZERO, Flow, Phase, Rates, payback_months
from bot.rules.forecast import simulate
from bot.rules.reasons import ModelEnd
from bot.rules.roi import Inputs, Quality, Range, Succession, Training, Usage, estimate, net_value
from tests.rules.advice.worded_verdict import advise
from tests.rules.builders import ALL_MISS, FACTS, OK, candidate, comparison, facts_with
from trainers.evaluation.results import Candidate, MeasuredCandidate

TODAY, GONE = date(2026, 11, 27), date(2027, 1, 14)
LUNA = Rates("gpt-6-luna", Decimal("0.10"), ZERO, "a list")
GPT_4O = Rates("gpt-4o", Decimal("2.50"), ZERO, "a list", ends=GONE, successor="gpt-6-luna", after_end=LUNA)
MACHINE = Rates("local/m", ZERO, ZERO, "a list", on_own_machine=True)
FREE = Training(tokens=1_000_000, epochs=1, usd_per_million=ZERO)
INPUTS = Inputs(
    monthly_input_tokens=10_000_000_000,
    usage=Usage(100, 12_000, 12_000, 0),
    now=GPT_4O,
    tuned=MACHINE,
    training=FREE,
    today=TODAY,
    price_fall=Range.exactly(ZERO),
    discount=ZERO,
)
MONTHS = Decimal(48 * 24) / 730  # to the 14th of January


def test_savings_against_the_ended_model_stop_and_those_against_its_successor_begin() -> None:
    expected = 25_000 * MONTHS + 1_000 * (12 - MONTHS)
    assert round(net_value(INPUTS), 6) == round(expected, 6)
    assert estimate(INPUTS).succession == Succession("gpt-4o", GONE, "gpt-6-luna", Decimal(1000))


def test_nothing_is_saved_after_the_end_if_the_successor_s_price_is_unknown() -> None:
    cut = replace(INPUTS, now=replace(GPT_4O, after_end=None))
    costs = estimate(cut)
    assert round(costs.npv_usd, 6) == round(25_000 * MONTHS, 6)
    assert costs.horizon_months == MONTHS == costs.payback_target_months
    assert costs.succession == Succession("gpt-4o", GONE, "gpt-6-luna", None)


@pytest.mark.parametrize("ends", [None, date(2028, 1, 14)])
def test_a_model_that_outlasts_the_horizon_saves_all_year(ends: date | None) -> None:
    costs = estimate(replace(INPUTS, now=replace(GPT_4O, ends=ends)))
    assert (costs.npv_usd, costs.succession) == (300_000, None)


def test_a_successor_may_end_too() -> None:
    last = replace(LUNA, input=Decimal("0.05"))
    between = replace(LUNA, ends=date(2027, 4, 1), successor="gpt-7", after_end=last)
    until = Decimal(125 * 24) / 730
    expected = 25_000 * MONTHS + 1_000 * (until - MONTHS) + 500 * (12 - until)
    assert round(net_value(replace(INPUTS, now=replace(GPT_4O, after_end=between))), 6) == round(expected, 6)


def test_the_simulation_counts_the_end() -> None:
    outlook = simulate(replace(INPUTS, volume_spread=Decimal("0.0001")))
    assert outlook.npv.p50 is not None and abs(outlook.npv.p50 - net_value(INPUTS)) < 20
    assert [month.month for month in outlook.months][-1] == 12


def test_a_run_that_costs_more_than_is_saved_until_the_end_never_pays_back() -> None:
    dear = Training(tokens=1_000_000, epochs=1, usd_per_million=Decimal(60_000))
    gone = replace(INPUTS, training=dear, now=replace(GPT_4O, after_end=None))
    assert estimate(gone).payback_months is None and simulate(gone).p_payback == 0
    followed = estimate(replace(gone, now=GPT_4O)).payback_months
    assert followed is not None and round(followed, 4) == round(MONTHS + (60_000 - 25_000 * MONTHS) / 1000, 4)


def test_the_break_even_volume_pays_back_through_both() -> None:
    dear = replace(INPUTS, training=Training(tokens=1_000_000, epochs=1, usd_per_million=Decimal(6_000)))
    enough = estimate(dear).break_even_tokens_per_month
    assert enough is not None
    at = estimate(replace(dear, monthly_input_tokens=enough)).payback_months
    assert at is not None and Decimal("2.99") < at <= 3


def test_better_answers_do_not_count_against_an_unmeasured_successor() -> None:
    better = replace(INPUTS, quality=Quality(100, Decimal(20), ZERO, Decimal("0.01")))
    worse = replace(INPUTS, quality=Quality(100, ZERO, Decimal(20), Decimal("0.01")))
    a_month = 10_000_000_000 / Decimal(120) * Decimal("0.2") * Decimal("0.01")
    assert round(net_value(better) - net_value(INPUTS), 4) == round(a_month * MONTHS, 4)
    assert round(net_value(worse) - net_value(INPUTS), 4) == round(-12 * a_month, 4)


def test_payback_waits_through_a_phase_that_loses() -> None:
    def saves(usd: int) -> Flow:
        return Flow(ZERO, Decimal(usd), ZERO, ZERO)

    first = Phase(ZERO, Decimal(2), saves(-10))
    assert payback_months(Decimal(30), (first, Phase(Decimal(2), None, saves(25)))) == 4
    assert payback_months(Decimal(30), (first, Phase(Decimal(2), None, saves(-1)))) is None
    assert payback_months(Decimal(30), (first,)) is None


def test_the_assumption_names_the_successor_and_its_price() -> None:
    assert after_end(INPUTS).startswith("gpt-6-luna from 2027-01-14: input $0.10")
    assert after_end(replace(INPUTS, now=replace(GPT_4O, after_end=None))) == (
        "no saving is counted from 2027-01-14, because the price of its successor gpt-6-luna is unknown"
    )


def after_end(inputs: Inputs) -> str:
    (value,) = [each.value for each in assumptions(inputs, None) if each.name == "once gpt-4o has ended"]
    return value


@pytest.mark.parametrize(
    ("measured", "saving", "weighs", "ending"),
    [
        ((), 1000, True, "saves $1,000 a month. gpt-6-luna is not measured yet."),
        (
            (replace(candidate("zero", "misses", 120), identity=Candidate("zero", "openai/gpt-6-luna")),),
            1000,
            False,
            "saves $1,000 a month.",
        ),
        ((), -7, True, "costs $7.00 more a month. gpt-6-luna is not measured yet."),
    ],
)
def test_an_unmeasured_successor_keeps_the_verdict_open(
    measured: tuple[MeasuredCandidate, ...], saving: int, weighs: bool, ending: str
) -> None:
    facts = facts_with(*ALL_MISS, *measured, target=OK)
    costs = replace(estimate(INPUTS), succession=Succession("gpt-4o", GONE, "gpt-6-luna", Decimal(saving)))
    facts = replace(facts, estimate=costs, full_current="openai/gpt-4o", outlook=None)
    (reason,) = _successor_reasons(facts)
    assert (reason.weighs, reason.kind) == (weighs, "unknown") and because_text(reason.because).endswith(
        ending
    )
    if weighs:
        assert advise(facts).kind != "go"
        assert reason.step is not None and "models=openai/gpt-6-luna" in todo_text(reason.step.todo)


def test_an_unknown_successor_is_mentioned_and_decides_nothing() -> None:
    costs = replace(estimate(INPUTS), succession=Succession("gpt-4o", GONE, None, None))
    (reason,) = _successor_reasons(
        replace(
            facts_with(*ALL_MISS),
            estimate=costs,
            evidence=replace(facts_with().evidence, comparison=comparison()),
        )
    )
    assert not reason.weighs
    assert because_text(reason.because) == (
        "gpt-4o ends on 2027-01-14, and no successor is known, so no saving is counted after that day."
    )


def test_a_saving_until_the_end_of_today_s_model_names_that_day() -> None:
    costs = estimate(INPUTS)
    assert monthly_saving_text(costs) == "about $25,000 a month until 2027-01-14"
    verdict = advise(replace(FACTS, estimate=costs, outlook=None))
    assert "would save about $25,000 a month until 2027-01-14 if the tuned model" in verdict.headline
    endless = estimate(replace(INPUTS, now=replace(GPT_4O, ends=None)))
    assert monthly_saving_text(endless) == "about $25,000 a month"


def test_a_good_candidate_is_advised_until_its_model_ends() -> None:
    end = ModelEnd(GONE, "openai/gpt-4o-mini", "gpt-6-luna")
    facts = facts_with(*ALL_MISS[:3], candidate("kshot", "meets", 182), ALL_MISS[4])
    facts = replace(
        facts, estimate=estimate(replace(INPUTS, now=MACHINE)), model_ends=(("openai/gpt-4o-mini", end),)
    )
    assert advise(facts).next_step == (
        "Use the prompt with ten examples on openai/gpt-4o-mini until its model ends on 2027-01-14, and measure its "
        "successor gpt-6-luna before then."
    )


def test_both_ends_count() -> None:
    """Today's model and the tuned one end on the same day: nothing pays back after it."""
    slow = replace(INPUTS, ends=GONE, monthly_input_tokens=1_000_000, people_hours=Decimal(10))
    costs = estimate(slow)
    assert costs.payback_months is None and costs.saving_ends == GONE
    assert costs.succession == Succession("gpt-4o", GONE, "gpt-6-luna", None, ends_too=True)
    facts = replace(facts_with(*ALL_MISS), estimate=costs, outlook=simulate(slow, draws=500))
    verdict = advise(replace(facts, full_current="openai/gpt-4o"))
    assert verdict.kind == "no_go" and "before both models end on 2027-01-14" in verdict.headline
    assert verdict.next_step.startswith(
        "Stay with gpt-4o until it ends on 2027-01-14, and measure gpt-6-luna before then "
        "(`/finetune baseline tickets models=openai/gpt-6-luna`)."
    )
