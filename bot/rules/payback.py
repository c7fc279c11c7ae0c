"""The rules on money: does it pay back in time, how likely is that, and which input would have to be known better to
say so?"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

from bot.rules.facts import LONGEST_PAYBACK_MONTHS, Facts
from bot.rules.forecast import LIKELY, UNKNOWN_HOURS, UNLIKELY, Outlook
from bot.rules.prices import MissingPrice
from bot.rules.reasons import (
    FillGap,
    Measure,
    OnlyWay,
    Payback,
    PinDown,
    PriceGap,
    PriceOfBetter,
    Reason,
    Step,
    answer_step,
)
from bot.rules.roi import Estimate

# Our own: reading this, approving and putting to work take somebody so long at least.
LEAST_HOURS = Decimal("0.25")


def money_reasons(facts: Facts) -> tuple[Reason, ...]:
    """A saving that is not known is an open question. No reason for a model that has ended, nor where money is not the
    aim and the costs are not known either."""
    estimate = facts.estimate
    if not facts.is_for_money:
        # What better or faster answers cost decides nothing: it is left to those who want them.
        if estimate is None or estimate.months_left == 0:
            return ()
        aim = PriceOfBetter(estimate, "faster answers" if facts.task_kind == "latency" else "better answers")
        return (Reason("price", "unknown", aim, weighs=False),)
    if estimate is None:
        missing = facts.missing or MissingPrice("today")
        gap = PriceGap(missing, is_free=facts.run_usd == 0)
        return (Reason("cost", "unknown", gap, step=answer_step(FillGap(missing))),)
    if estimate.months_left == 0:
        return ()  # the rule on the end date says it
    if estimate.monthly_input_tokens == 0:
        return (Reason("cost", "no_go", "no volume", step=answer_step("say the volume")),)
    if facts.outlook is not None:
        by_money = _reason_by_chance(estimate, facts.outlook, facts)
    else:
        by_money = _reason_by_expected_payback(estimate, facts)
    return (_excuse_only_way(by_money, facts),)


def _excuse_only_way(by_money: Reason, facts: Facts) -> Reason:
    """Opens a no where the tuned model is the only way: where nothing else is shown to meet the bar, what it costs
    is no reason against the one way that does, until somebody has said what a wrong answer costs."""
    evidence, estimate = facts.evidence, facts.estimate
    others_meet = any(rung.standing == "meets" for rung in evidence.alternatives)
    is_priced = estimate is not None and estimate.errors_avoided_usd != 0
    if by_money.kind != "no_go" or not evidence.is_good or others_meet or is_priced:
        return by_money
    if not isinstance(by_money.because, Payback):
        return by_money
    step = answer_step("say what a wrong answer costs")
    if not facts.is_today_measured:
        step = facts.measure_step(
            Measure("today alone", facts.dataset, models=facts.to_measure, today=facts.current)
        )
    return Reason("only way", "unknown", OnlyWay(by_money.because, evidence.bar), step=step)


def _reason_by_chance(estimate: Estimate, outlook: Outlook, facts: Facts) -> Reason:
    rule = "cost" if estimate.payback_months is None else "payback"
    pays = Payback(estimate, outlook, facts.evidence.is_good)
    if outlook.p_payback <= UNLIKELY:
        return Reason(rule, "no_go", replace(pays, but="unlikely"), step=_stay_step(estimate))
    if estimate.bearable_hours is not None and estimate.bearable_hours < LEAST_HOURS:
        # As expected, not as is likely: it is said of the very saving that is shown.
        little = replace(pays, but="too little at stake")
        return Reason("people's time", "no_go", little, step=_stay_step(estimate))
    if outlook.p_payback >= LIKELY:
        return _reason_if_likely(rule, pays, outlook, facts.dataset)
    widest = max(outlook.tornado, key=lambda swing: swing.width, default=None)
    look = PinDown(widest.name if widest else "volume", facts.dataset, widest)
    return Reason(rule, "unknown", pays, step=answer_step(look))


def _reason_if_likely(rule: str, pays: Payback, outlook: Outlook, dataset: str) -> Reason:
    """The reason where it pays back in time. That is not yet worth it where the saving is gone soon after, as the
    alternative's price falls, nor where a week of work that nobody counted would change the answer."""
    net, estimate = outlook.npv.p50, pays.estimate
    hours = estimate.bearable_hours if outlook.bearable_hours is None else outlook.bearable_hours
    if net is not None and net < 0:
        look = answer_step(PinDown("price of the alternative", dataset))
        return Reason("net value", "unknown", replace(pays, but="loses later", amount=-net), step=look)
    if hours is None or hours >= UNKNOWN_HOURS:
        return Reason(rule, "go", pays)
    unsaid = replace(pays, but="hours are not said", amount=hours)
    return Reason("people's time", "unknown", unsaid, step=answer_step("say the hours"))


def _reason_by_expected_payback(estimate: Estimate, facts: Facts) -> Reason:
    """The reason where nothing was simulated: how long the expected sum takes to pay back."""
    months, pays = estimate.payback_months, Payback(estimate, None, facts.evidence.is_good)
    if months is None:
        return Reason("cost", "no_go", pays, step=_stay_step(estimate))
    if estimate.months_left is not None and months > estimate.months_left:
        too_late = replace(pays, but="model ends before", amount=estimate.months_left)
        return Reason("payback", "no_go", too_late, step=Step("stay"))
    if months > LONGEST_PAYBACK_MONTHS:
        return Reason("payback", "no_go", replace(pays, but="longer than a year"), step=Step("stay"))
    if months > estimate.payback_target_months:
        longer = replace(pays, but="longer than the target")
        return Reason("payback", "unknown", longer, step=answer_step(PinDown("volume", facts.dataset)))
    return Reason("payback", "go", pays)


def _stay_step(estimate: Estimate) -> Step:
    return Step("stay" if is_against_today(estimate) else "use what is cheaper")


def is_against_today(estimate: Estimate) -> bool:
    """Whether the saving is against today's model; else it is against the cheapest way that is good enough."""
    return estimate.monthly_alternative == estimate.monthly_before


def enough_volume(estimate: Estimate, outlook: Outlook | None) -> int | None:
    """Input tokens a month that make it likely to pay back in time; without draws, those that are expected to."""
    return outlook.likely_from if outlook else estimate.break_even_tokens_per_month
