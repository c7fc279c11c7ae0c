"""What the verdict says about costs, savings and payback."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest

from bot.cards.common.advice import todo_text
from bot.cards.common.payback import share_of_draws
from bot.rules.bills import Rates
from bot.rules.forecast import simulate
from bot.rules.plans import VerdictKind
from bot.rules.prices import MissingPrice
from bot.rules.reasons import PinDown
from bot.rules.roi import Succession, Training, estimate
from bot.rules.swings import rank_swings
from tests.rules.advice.worded_verdict import advise, reason, rules
from tests.rules.builders import (
    ALL_MISS,
    ARTICLE,
    FACTS,
    LIKELY,
    OPEN,
    TUNED_MEETS,
    UNLIKELY,
    WITH_PEOPLE,
    WITHOUT_HOURS,
    facts_from,
    facts_with,
    outlook,
    simulated,
)
from trainers.providers.pricing import PriceRow
from trainers.types import Price


def test_an_unmeasured_estimate_is_worth_measuring() -> None:
    verdict = advise(FACTS)
    assert verdict.headline.startswith(
        "Worth measuring: a run costs about $25.00 and would save about $23 a month"
    )
    assert reason(verdict, "payback").text == "It saves about $23 a month and pays back in 33 days."


def test_unknown_costs_and_savings_are_named() -> None:
    row = PriceRow("own/x", "tuned", Price(None, None, None, None), "docs")
    verdict = advise(replace(FACTS, estimate=None, missing=MissingPrice("token", row)))
    assert reason(verdict, "cost").text.startswith("The price of a token of own/x is unknown: add input")
    assert "about $25.00. What it would save is still unknown" in verdict.headline
    assert "an unknown amount" in advise(replace(FACTS, estimate=None, run_usd=None)).headline
    free = advise(facts_with(*ALL_MISS, estimate=None, outlook=None, run_usd=Decimal(0)))
    assert "costs only the machine's time" in free.headline


@pytest.mark.parametrize(("p", "kind"), [(0.8, "go"), (0.79, "unknown"), (0.21, "unknown"), (0.2, "no_go")])
def test_the_thresholds_on_the_chance_of_paying_back(p: float, kind: VerdictKind) -> None:
    verdict = advise(facts_with(*ALL_MISS, outlook=outlook(p)))
    assert (verdict.kind, reason(verdict, "payback").kind) == (kind, kind)
    assert kind == "go" or verdict.deciding.rule == "payback"


def test_the_chance_of_payback_is_shown_with_its_spread() -> None:
    text = reason(advise(facts_with(*ALL_MISS)), "payback").text
    assert text == (
        "It saves about $23 a month and pays back in 33 days. It pays back within 3 months in 93% of 10,000 "
        "simulations, if it is good enough; 90% lie between 15 days and 2.5 months."
    )
    unsaid = replace(LIKELY, is_time_said=False)
    assert "simulations, if it is good enough, ignoring staff time; 90% lie" in (
        reason(advise(facts_with(*ALL_MISS, outlook=unsaid)), "payback").text
    )
    assert "simulations, ignoring staff time; 90% lie" in (
        reason(advise(facts_with(*ALL_MISS, tuned=TUNED_MEETS, outlook=unsaid)), "payback").text
    )
    never = reason(advise(facts_with(*ALL_MISS, outlook=outlook(0.05, never=True))), "payback").text
    assert "9 in 10" not in never


@pytest.mark.parametrize(
    ("p", "text", "of_500"),
    [
        (0.0, "no simulation", "none of 500 simulations"),
        (0.001, "under 1% of simulations", "under 1% of 500 simulations"),
        (0.93, "93% of simulations", "93% of 500 simulations"),
        (0.999, "over 99% of simulations", "over 99% of 500 simulations"),
        (1.0, "all simulations", "all 500 simulations"),
    ],
)
def test_simulations_are_never_called_certain(p: float, text: str, of_500: str) -> None:
    assert (share_of_draws(p), share_of_draws(p, 500)) == (text, of_500)


def test_an_open_payback_asks_for_the_input_that_matters_most() -> None:
    assert advise(facts_with(*ALL_MISS, outlook=OPEN)).next_step == (
        "Take last month's number of requests from the vendor's usage page and add it (volume=). It matters most: "
        "volume from 80,000 requests a month to 125,000 requests a month moves the net value from $40.00 to $310.00."
    )
    assert advise(facts_with(*ALL_MISS, outlook=replace(OPEN, swings=()))).next_step.endswith("(volume=).")


def test_every_input_of_the_sensitivity_has_a_next_step() -> None:
    hourly = replace(
        ARTICLE.training,
        usd_per_million=None,
        usd_per_hour=Decimal(2),
        minutes=replace(ARTICLE.price_fall, low=Decimal(10), expected=Decimal(20), high=Decimal(40)),
    )
    names = {swing.name for swing in rank_swings(replace(ARTICLE, training=hourly, people_hours=None), None)}
    assert len(names) >= 4
    assert not any("Find out" in todo_text(PinDown(name, "tickets")) for name in names)


def test_missing_staff_hours_are_asked_for_if_they_could_change_the_verdict() -> None:
    """$23 a month for three months and $25 of training leave $44: 35 minutes at $75 an hour."""
    verdict = advise(facts_with(*ALL_MISS, estimate=estimate(WITHOUT_HOURS)))
    assert verdict.rule == "people's time"
    assert verdict.headline.startswith(
        "Undecided. The staff time that it takes is not counted yet. With more than 35 minutes of it, payback "
        "within 3 months would no longer be likely."
    )
    assert verdict.next_step == "How many hours of work will this take? Add hours=."
    by_draws = replace(LIKELY, is_time_said=False, bearable_hours=Decimal("0.4"))
    drawn = advise(facts_with(*ALL_MISS, estimate=estimate(WITHOUT_HOURS), outlook=by_draws))
    assert "With more than 24 minutes of it" in reason(drawn, "people's time").text


def test_a_saving_that_a_falling_price_eats_is_undecided() -> None:
    """Tokens at $2.20 against $2.50: saved at once, and lost from the fifth month on."""
    dear = replace(ARTICLE.tuned, input=Decimal("2.20"))
    free = Training(1, 1, usd_per_hour=Decimal(0))
    inputs = replace(ARTICLE, monthly_input_tokens=1_000_000_000, tuned=dear, training=free)
    drawn = simulate(inputs)
    assert drawn.p_payback > 0.95
    verdict = advise(facts_with(*ALL_MISS, estimate=estimate(inputs), outlook=drawn))
    assert verdict.kind == "unknown"
    assert reason(verdict, "net value").text.startswith(
        "Over 12 months it loses about $1,850 (a loss of $6,800 to a gain of $1,800), because the price of today's "
        "model falls. It saves about $300 a month at first."
    )
    assert "cheaper model does as well today (`/finetune baseline tickets`)" in verdict.next_step


def test_a_no_says_how_long_to_stay_with_a_model_that_ends_soon() -> None:
    lasting = estimate(ARTICLE)
    ending = replace(lasting, succession=Succession("gpt-4o", date(2027, 1, 14), None, None))
    step = advise(facts_with(*ALL_MISS, estimate=ending, outlook=UNLIKELY)).next_step
    until = (
        "Stay with today's model until it ends on 2027-01-14, and measure its possible successors before then"
    )
    assert step.startswith(until)
    step = advise(facts_with(*ALL_MISS, estimate=lasting, outlook=UNLIKELY)).next_step
    assert step.startswith("Stay with today's model. To aim for better answers")


def test_a_model_that_has_ended_shows_no_saving() -> None:
    gone = estimate(replace(ARTICLE, ends=date(2026, 10, 23)))
    verdict = advise(facts_with(*ALL_MISS, estimate=gone, outlook=UNLIKELY))
    assert (verdict.kind, gone.payback_months) == ("no_go", None)
    assert not {"cost", "payback"} & set(rules(verdict))


def test_a_saving_that_ends_too_soon_is_not_called_a_monthly_loss() -> None:
    people, end = {"people_hours": Decimal(50), "people_usd_per_hour": Decimal(100)}, date(2027, 1, 14)
    inputs = replace(ARTICLE, **people, ends=end, now=replace(ARTICLE.now, ends=end))  # type: ignore[arg-type]
    verdict = advise(facts_from(inputs))
    assert verdict.kind == "no_go"
    assert verdict.headline.startswith(
        "Not now. It saves $23.00 a month, which does not pay back the one-off $5,025 before both models end on "
        "2027-01-14. From about 10.9M requests a month (1.3B input tokens) on, it would pay back within 51 days."
    )


def test_a_loss_at_any_volume_is_a_no() -> None:
    nano = Rates("gpt-4.1-nano", Decimal("0.10"), Decimal("0.40"), "a list")
    verdict = advise(facts_from(replace(ARTICLE, now=nano)))
    assert verdict.kind == "no_go"
    assert verdict.headline == (
        "Not now. Today's model costs $1.00 a month, the tuned model would cost "
        "$2.00. "
        "No volume changes that."
    )


def test_a_no_for_slow_payback_says_which_volume_would_pay_back() -> None:
    people = WITH_PEOPLE
    verdict = advise(facts_from(people))
    assert verdict.kind == "no_go"
    assert "18 years" in verdict.headline
    assert "728M" in verdict.headline
    drawn = advise(replace(facts_from(people), outlook=replace(UNLIKELY, likely_from=1_214_801_476)))
    assert (
        "From about 10.1M requests a month (1.21B input tokens) on, it would pay back within 3 months in 80% of "
        "simulations" in drawn.headline
    )
    enough = advise(replace(facts_with(*ALL_MISS), outlook=UNLIKELY))
    assert "it would pay back" not in enough.headline


def test_a_payback_after_the_models_end_is_a_no() -> None:
    verdict = advise(facts_from(replace(ARTICLE, ends=date(2026, 12, 24))))
    assert verdict.kind == "no_go"
    assert "does not pay back the one-off $25.00 in the 30 days that the model has left" in (
        reason(verdict, "payback").text
    )


def test_a_payback_of_half_a_year_is_open() -> None:
    people = replace(ARTICLE, people_hours=Decimal(1), people_usd_per_hour=Decimal(115))
    payback = reason(advise(facts_from(people)), "payback")
    assert payback.kind == "unknown"
    assert "6.1 months" in payback.text


def test_a_free_machine_pays_back_at_once() -> None:
    free = replace(ARTICLE, training=Training(100, 1, usd_per_hour=Decimal(0)))
    payback = reason(advise(facts_from(free)), "payback")
    assert (payback.kind, payback.text) == ("go", "It saves about $23 a month and pays back at once.")


@pytest.mark.parametrize(("volume", "kind"), [(10_000_000, "no_go"), (10_000_000_000, "go")])
def test_the_article_s_case_is_a_no_and_a_go_at_a_thousand_times_its_volume(
    volume: int, kind: VerdictKind
) -> None:
    people = WITH_PEOPLE
    assert advise(simulated(facts_with(*ALL_MISS), replace(people, monthly_input_tokens=volume))).kind == kind


@pytest.mark.parametrize("volume", [5_500_000, 7_000_000])
def test_a_saving_is_too_small_if_it_pays_for_less_than_15_minutes_of_work(volume: int) -> None:
    tuned = replace(ARTICLE.tuned, input=Decimal("0.2"), output=Decimal("0.8"), usd_per_hour=Decimal(0))
    inputs = replace(ARTICLE, tuned=tuned, people_hours=None, monthly_input_tokens=volume)
    facts = simulated(facts_with(*ALL_MISS), inputs)
    costs, verdict = facts.estimate, advise(facts)
    assert costs is not None
    left = costs.saving_month * costs.payback_target_months - costs.one_off_usd
    is_little = left < inputs.people_usd_per_hour / 4
    assert (verdict.kind, verdict.rule) == ("no_go" if is_little else "unknown", "people's time")
