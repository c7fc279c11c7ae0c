"""The rules on money: does the fine-tune pay back in time, how likely is that, and which input has to be known better
to tell?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal

from bot.rules.facts import LONGEST_PAYBACK_MONTHS, Facts, TaskKind
from bot.rules.forecast import LIKELY, UNKNOWN_HOURS, UNLIKELY, Outlook
from bot.rules.plans import VerdictKind
from bot.rules.prices import MissingPrice
from bot.rules.reasons import (
    AimWords,
    CheapModelUntried,
    FillGap,
    Measure,
    ModelEnd,
    OnlyWay,
    Payback,
    PinDown,
    PriceGap,
    PriceOfBetter,
    Reason,
    Step,
    answer_step,
)
from bot.rules.roi import Estimate, Succession
from trainers.model_list import strip_effort

# Our own estimate of the least time that somebody spends on reading the verdict, approving and deploying.
LEAST_HOURS = Decimal("0.25")
_AIMS: Mapping[TaskKind | None, AimWords] = {"latency": "faster answers", "style": "answers in your tone"}


def money_reasons(facts: Facts) -> tuple[Reason, ...]:
    """An unknown saving is an open question. Returns nothing for a model that has ended, and nothing if money is not
    the aim and the costs are unknown too."""
    estimate = facts.estimate
    if not facts.is_for_money:
        # The cost of better or faster answers doesn't weigh: the people who want them decide whether they are worth it.
        if estimate is None or estimate.months_left == 0:
            return ()
        aim = PriceOfBetter(estimate, _AIMS.get(facts.task_kind, "better answers"))
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
    evidence = facts.evidence
    estimate = facts.estimate
    others_meet = any(candidate.standing == "meets" for candidate in evidence.alternatives)
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


def _rule(estimate: Estimate) -> str:
    """'cost' if it would cost more than it saves, 'payback' if it saves too little to pay back in time."""
    if estimate.saving_month > 0:
        return "payback"
    return "cost"


def _reason_by_chance(estimate: Estimate, outlook: Outlook, facts: Facts) -> Reason:
    rule = _rule(estimate)
    pays = Payback(estimate, outlook, facts.evidence.is_good)
    if outlook.p_payback <= UNLIKELY:
        return Reason(rule, "no_go", replace(pays, caveat="unlikely"), step=stay_step(facts))
    if outlook.npv.p50 is not None and outlook.npv.p50 < 0:
        return _later_loss_reason(pays, outlook, facts)
    if estimate.bearable_hours is not None and estimate.bearable_hours < LEAST_HOURS:
        # Uses the expected hours, not the likely ones, because the sentence is about the expected saving on the card.
        little = replace(pays, caveat="too little at stake")
        return Reason("people's time", "no_go", little, step=stay_step(facts))
    if outlook.p_payback >= LIKELY:
        return _reason_if_likely(rule, pays, outlook)
    widest = max(outlook.tornado, key=lambda swing: swing.width, default=None)
    look = PinDown(widest.name if widest else "volume", facts.dataset, widest)
    return Reason(rule, "unknown", pays, step=answer_step(look))


def _later_loss_reason(pays: Payback, outlook: Outlook, facts: Facts) -> Reason:
    """Returns the reason if the fine-tune may pay back in time, and loses money over the horizon all the same."""
    kind: VerdictKind = "unknown"
    if outlook.p_gain <= UNLIKELY:
        kind = "no_go"
    step = answer_step(PinDown("price of the alternative", facts.dataset))
    if pays.estimate.loss_cause == "successor" or kind == "no_go":
        step = stay_step(facts)
    return Reason("net value", kind, replace(pays, caveat="loses later"), step=step)


def _reason_if_likely(rule: str, pays: Payback, outlook: Outlook) -> Reason:
    """Returns the reason if the fine-tune is likely to pay back in time. It is still open if a week of uncounted work
    would change the answer."""
    hours = outlook.bearable_hours
    if hours is None:
        hours = pays.estimate.bearable_hours
    if hours is None or hours >= UNKNOWN_HOURS:
        return Reason(rule, "go", pays)
    unsaid = replace(pays, caveat="hours are not said", hours=hours)
    return Reason("people's time", "unknown", unsaid, step=answer_step("say the hours"))


def _reason_by_expected_payback(estimate: Estimate, facts: Facts) -> Reason:
    """Returns the reason if nothing was simulated, by the expected time to pay back."""
    months = estimate.payback_months
    pays = Payback(estimate, None, facts.evidence.is_good)
    if months is None:
        return Reason(_rule(estimate), "no_go", pays, step=stay_step(facts))
    if months > LONGEST_PAYBACK_MONTHS:
        return Reason("payback", "no_go", replace(pays, caveat="longer than a year"), step=stay_step(facts))
    if months > estimate.payback_target_months:
        longer = replace(pays, caveat="longer than the target")
        return Reason("payback", "unknown", longer, step=answer_step(PinDown("volume", facts.dataset)))
    return Reason("payback", "go", pays)


def stay_step(facts: Facts) -> Step:
    """Returns the step to leave everything as it is. If the model that the saving is compared with will be shut down,
    its successor has to be measured before that."""
    measure = successor_step(facts)
    if measure is not None:
        return measure
    if facts.estimate is not None and is_against_today(facts.estimate):
        return Step("stay")
    return Step("use what is cheaper")


def successor_step(facts: Facts) -> Step | None:
    """Returns the step that measures the successor of the model that the saving is compared with. None if that has no
    near end, or no known successor, or if the successor was measured."""
    succession = facts.estimate.succession if facts.estimate else None
    if succession is None or succession.successor is None or facts.is_measured(succession.successor):
        return None
    name = succession.successor
    if facts.full_current:
        seller, _, _ = facts.full_current.partition("/")
        name = f"{seller}/{name}"
    follows = ModelEnd(succession.ends, succession.model)
    return facts.measure_step(Measure("successor", facts.dataset, models=(name,), follows=follows))


def is_successor(name: str, succession: Succession | None) -> bool:
    if succession is None or succession.successor is None:
        return False
    _, _, bare = name.partition("/")
    return succession.successor in (name, bare)


def cheap_model_reasons(facts: Facts) -> tuple[Reason, ...]:
    """A model that nobody measured costs so little that it would take more than half of the saving, if it is good
    enough. It is measured before anything is trained; once the tuned model is there, only if keeping it would lose
    that much."""
    estimate = facts.estimate
    offered = facts.offered
    if estimate is None or offered is None or not facts.is_for_money or estimate.saving_month <= 0:
        return ()
    if is_successor(offered.name, estimate.succession):
        return ()  # the rule on successors asks for the same measurement
    left = offered.monthly.total - estimate.monthly_after.total
    if 2 * left >= estimate.saving_month:
        return ()
    because = CheapModelUntried(offered.name, offered.monthly.total, estimate.saving_month, left)
    is_trained = facts.evidence.trained is not None
    weighs = not is_trained or 2 * -left > estimate.saving_month
    names = tuple(name for name in facts.to_measure if strip_effort(name) == offered.name) or (offered.name,)
    measure = Measure("cheap model", facts.dataset, models=names, usd=offered.measuring_usd)
    step = facts.measure_step(measure, offered.measuring_usd)
    return (Reason("cheap model", "unknown", because, weighs=weighs, step=step),)


def is_against_today(estimate: Estimate) -> bool:
    """True if the saving is compared with today's model, and false if with the cheapest candidate that meets the
    bar."""
    return estimate.monthly_alternative == estimate.monthly_before


def enough_volume(estimate: Estimate, outlook: Outlook | None) -> int | None:
    """Returns the input tokens per month that are likely to pay back in time, or without a simulation those that are
    expected to; None if no volume is enough."""
    if outlook:
        return outlook.likely_from
    return estimate.break_even_tokens_per_month
