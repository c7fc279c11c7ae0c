"""What a plan costs, saves and leaves in the budget: rounded for its card, exact for its details."""

from __future__ import annotations

from decimal import Decimal

from bot.cards.blocks import cut, escape
from bot.cards.budgets import owner_text
from bot.cards.calibration import alternative_bill
from bot.cards.payback import hours_caveat, net_value_text, payback_condition, share_of_draws
from bot.cards.words import about_usd, charge, money, requests_text, volume_text
from bot.rules.budgets import Budget
from bot.rules.plans import Plan
from bot.rules.units import format_months
from bot.values.runs import Progress
from storage.records import Run
from trainers.money import from_micros


def budget_left(budget: Budget) -> str:
    if not budget.limit_micros:
        return "no budget is set, so only free work can start"
    return (
        f"{money(max(budget.left_micros, 0))} of {money(budget.limit_micros)} this month{owner_text(budget)}"
    )


def short_cost(plan: Plan) -> str:
    most, advised = plan.maximum_micros, plan.advised
    run = f"{about_usd(from_micros(plan.expected_micros))}, at most {money(most)}" if most else "no charge"
    work = advised.people_micros + advised.labels_micros if advised else 0
    return f"{run}; {about_usd(from_micros(work))} of staff time and labels on top" if work else run


def exact_cost(plan: Plan) -> str:
    """The cost of the run, and of staff time and labels on top of it."""
    expected, most = charge(plan.expected_micros), charge(plan.maximum_micros)
    run = expected if expected == most else f"{expected} expected, at most {most}"
    advised = plan.advised
    if plan.predicted is None or advised is None or plan.monthly_before_micros is None:
        return run
    parts = [f"staff time {money(advised.people_micros)}"] if advised.people_micros else []
    parts += [f"labels {money(advised.labels_micros)}"] if advised.labels_micros else []
    work = f"; {' and '.join(parts)} on top" if parts else ""
    unknown = "" if plan.predicted.is_time_said else "; staff time was not given"
    return f"{run}{work}{unknown}"


def vendor_estimate(run: Run, plan: Plan) -> str:
    """The vendor's own estimate of the training's cost; '' if there is none."""
    estimate = Progress.from_json(run.progress).vendor
    if estimate is None:
        return ""
    name = escape(cut(run.provider, 40))
    if estimate.micros is None:
        return f"; {name} gives no price: {escape(cut(estimate.why, 160))}"
    high = ", above this plan's maximum" if estimate.micros > plan.maximum_micros else ""
    short = "" if estimate.is_affordable else ", more than your account there holds: add credit"
    return (
        f"; {name}'s own estimate for the training is {about_usd(from_micros(estimate.micros))}{high}{short}"
    )


def short_saving(plan: Plan) -> tuple[str, str]:
    before, after, foreseen = plan.monthly_before_micros, plan.monthly_after_micros, plan.predicted
    if before is None or after is None:
        return "Saves", "unknown: ask again with `current=` and `volume=`"
    today = about_usd(from_micros(before))
    if plan.withholds_saving:
        return "Each month", f"{today} today. No saving is shown, because the verdict is against training"
    if foreseen is None or foreseen.saving_micros is None:
        return "Each month", f"{today} → {about_usd(from_micros(after))}, if it is good enough"
    saved = foreseen.saving_micros
    if saved <= 0:
        more = f"{about_usd(from_micros(-saved))} a month"
        return ("Costs more", f"{more}{_at_requests(plan)}") if saved else ("Saves", "nothing")
    until = f" until {plan.advised.saves_until}" if plan.advised and plan.advised.saves_until else ""
    condition = payback_condition(is_good=False, is_time_said=foreseen.is_time_said)
    return "Saves", f"{about_usd(from_micros(saved))} a month{until}{condition}{_at_requests(plan)}"


def monthly_text(plan: Plan) -> str:
    if plan.monthly_before_micros is None:
        return "unknown: ask again with `current=` and `volume=`"
    if plan.withholds_saving:
        return f"{money(plan.monthly_before_micros)} today. No saving is shown, because the verdict is against training"
    bills = f"{money(plan.monthly_before_micros)} → {money(plan.monthly_after_micros)}"
    saved = plan.predicted.saving_micros if plan.predicted else None
    if saved is None:
        return f"{bills}, if it is good enough"
    if saved <= 0:
        loses = f"costs {money(-saved)} more" if saved else "saves nothing"
        return f"{bills}; {loses}{_at_volume(plan)}"
    until = f" until {plan.advised.saves_until}" if plan.advised and plan.advised.saves_until else ""
    return f"{bills}; saves {money(saved)}{until} if it is good enough{_at_volume(plan)}{_in_total(plan)}"


def _at_requests(plan: Plan) -> str:
    """The requests that the amounts are for; '' for plans that don't know them."""
    volume = plan.predicted.volume if plan.predicted else None
    return f"; at {requests_text(volume)} a month" if volume else ""


def _at_volume(plan: Plan) -> str:
    """Like `_at_requests`, with the tokens."""
    volume = plan.predicted.volume if plan.predicted else None
    return f"; at {volume_text(volume)}" if volume else ""


def foreseen_text(plan: Plan) -> str:
    """What the approvers saw, for lists: 'over 12 months it loses about $350 ($220 to $450), after $73 a month for its
    machine'. The monthly saving of plans older than that; '' if no saving was shown."""
    for name, value in net_value(plan):
        return f"{name[:1].lower()}{name[1:]} it {value}"
    saved = plan.predicted.saving_micros if plan.predicted else None
    if saved is None or plan.withholds_saving:
        return ""
    if saved < 0:
        return f"costs {money(-saved)} more a month"
    return f"saves {money(saved)} a month"


def net_value(plan: Plan) -> list[tuple[str, str]]:
    """What is gained or lost in all, after the costs; the monthly saving alone may hide a later loss."""
    net = plan.advised.net if plan.advised else None
    if net is None or plan.withholds_saving:
        return []
    points = map(from_micros, (net.low_micros, net.micros, net.high_micros))
    in_total = f"{net_value_text(*points)}{_after_machine(plan)}"
    return [(f"Over {format_months(Decimal(net.months))}", in_total)]


def _in_total(plan: Plan) -> str:
    """The net value, beside the monthly saving, since a section has no room for more fields."""
    return "".join(f". {name} it {value}" for name, value in net_value(plan))


def _after_machine(plan: Plan) -> str:
    """The monthly bill of the machines that would serve the model, which the run's own cost doesn't include."""
    bill = plan.advised.machine_micros if plan.advised else 0
    a_month = about_usd(from_micros(bill), per="a month").removeprefix("about ")
    return f", after {a_month} for its machine" if bill else ""


def forecast(plan: Plan) -> list[tuple[str, str]]:
    """How likely it pays back, and the alternative that this is compared with."""
    foreseen = plan.predicted
    if foreseen is None or foreseen.p_payback is None or foreseen.target_months is None:
        return []
    months = Decimal(foreseen.target_months)
    rests_on = payback_condition(is_good=False, is_time_said=foreseen.is_time_said)
    hours = foreseen.advised.bearable_hours if foreseen.advised else ""
    end = hours_caveat(Decimal(hours)) if hours else ""
    likely = f"in {share_of_draws(foreseen.p_payback)}{rests_on}{end}"
    return [(f"Pays back within {format_months(months)}", likely), *alternative_bill(plan)]
