"""The rules on money: does the fine-tune pay back in time, how likely is that, and which input has to be known better
to tell?"""

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

# Our own estimate of the least time that somebody spends on reading the verdict, approving and deploying.
LEAST_HOURS = Decimal("0.25")


def money_reasons(facts: Facts) -> tuple[Reason, ...]:
    """An unknown saving is an open question. Returns nothing for a model that has ended, and nothing if money is not
    the aim and the costs are unknown too."""
    estimate = facts.estimate
    if not facts.is_for_money:
        # The cost of better or faster answers doesn't weigh: the people who want them decide whether they are worth it.
        if estimate is None or estimate.months_left == 0:
            return ()
        aim = PriceOfBetter(estimate, "faster answers" if facts.task_kind == "latency" else "better answers")
        return (Reason("price", "unknown", aim, weighs=False),)
    if estimate is None:
        missing = facts.missing or MissingPrice("today")
        gap = PriceGap(missing, is_free=facts.run_usd == 0)
        return (Reason("cost", "unknown", gap, step=answer_step(FillGap(missing))),)
    if estimate.months_left == 0:
        return ()  # the rule on the end date reports it
    if estimate.monthly_input_tokens == 0:
        return (Reason("cost", "no_go", "no volume", step=answer_step("say the volume")),)
    if facts.outlook is not None:
        by_money = _reason_by_chance(estimate, facts.outlook, facts)
    else:
        by_money = _reason_by_expected_payback(estimate, facts)
    return (_excuse_only_way(by_money, facts),)


def _excuse_only_way(by_money: Reason, facts: Facts) -> Reason:
    """Turns a no because of money into an open question if only the tuned model is shown to meet the bar. Its cost is
    no reason against it until somebody has said what a wrong answer costs."""
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
        return Reason(rule, "no_go", replace(pays, caveat="unlikely"), step=_stay_step(estimate))
    if estimate.bearable_hours is not None and estimate.bearable_hours < LEAST_HOURS:
        # Uses the expected hours, not the likely ones, because the sentence is about the expected saving on the card.
        little = replace(pays, caveat="too little at stake")
        return Reason("people's time", "no_go", little, step=_stay_step(estimate))
    if outlook.p_payback >= LIKELY:
        return _reason_if_likely(rule, pays, outlook, facts.dataset)
    widest = max(outlook.tornado, key=lambda swing: swing.width, default=None)
    look = PinDown(widest.name if widest else "volume", facts.dataset, widest)
    return Reason(rule, "unknown", pays, step=answer_step(look))


def _reason_if_likely(rule: str, pays: Payback, outlook: Outlook, dataset: str) -> Reason:
    """Returns the reason if the fine-tune is likely to pay back in time. It is still open if the alternative's falling
    price soon turns the saving into a loss, or if a week of uncounted work would change the answer."""
    net, estimate = outlook.npv.p50, pays.estimate
    hours = estimate.bearable_hours if outlook.bearable_hours is None else outlook.bearable_hours
    if net is not None and net < 0:
        look = answer_step(PinDown("price of the alternative", dataset))
        return Reason("net value", "unknown", replace(pays, caveat="loses later", amount=-net), step=look)
    if hours is None or hours >= UNKNOWN_HOURS:
        return Reason(rule, "go", pays)
    unsaid = replace(pays, caveat="hours are not said", amount=hours)
    return Reason("people's time", "unknown", unsaid, step=answer_step("say the hours"))


def _reason_by_expected_payback(estimate: Estimate, facts: Facts) -> Reason:
    """Returns the reason if nothing was simulated, by the expected time to pay back."""
    months, pays = estimate.payback_months, Payback(estimate, None, facts.evidence.is_good)
    if months is None:
        return Reason("cost", "no_go", pays, step=_stay_step(estimate))
    if estimate.months_left is not None and months > estimate.months_left:
        too_late = replace(pays, caveat="model ends before", amount=estimate.months_left)
        return Reason("payback", "no_go", too_late, step=Step("stay"))
    if months > LONGEST_PAYBACK_MONTHS:
        return Reason("payback", "no_go", replace(pays, caveat="longer than a year"), step=Step("stay"))
    if months > estimate.payback_target_months:
        longer = replace(pays, caveat="longer than the target")
        return Reason("payback", "unknown", longer, step=answer_step(PinDown("volume", facts.dataset)))
    return Reason("payback", "go", pays)


def _stay_step(estimate: Estimate) -> Step:
    return Step("stay" if is_against_today(estimate) else "use what is cheaper")


def is_against_today(estimate: Estimate) -> bool:
    """True if the saving is compared with today's model, and false if with the cheapest candidate that meets the
    bar."""
    return estimate.monthly_alternative == estimate.monthly_before


def enough_volume(estimate: Estimate, outlook: Outlook | None) -> int | None:
    """Returns the input tokens per month that are likely to pay back in time, or without a simulation those that are
    expected to; None if no volume is enough."""
    return outlook.likely_from if outlook else estimate.break_even_tokens_per_month
