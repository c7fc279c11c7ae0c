"""What a plan costs, saves and leaves in the budget: rounded for its card, exact for its details."""

from __future__ import annotations

from decimal import Decimal

from bot.cards.common.blocks import cut, escape
from bot.cards.common.budgets import owner_text
from bot.cards.common.calibration import alternative_bill
from bot.cards.common.payback import (
    hours_caveat,
    net_value_name,
    net_value_text,
    payback_condition,
    share_of_draws,
)
from bot.cards.common.words import about_usd, charge, duration, money, requests_text, volume_text
from bot.rules.budgets import Budget
from bot.rules.models.deployments import Hosting, TokenTerms
from bot.rules.plans import NetValue, Plan
from bot.rules.units import format_months
from bot.values.runs import Progress
from storage.records import Run
from trainers.money import from_micros, usd, usd_micros

UNKNOWN_BILLS = "unknown: ask again with `current=` and `volume=`"
# People who approve against the verdict must not do so for an amount that the verdict doesn't expect.
NO_SAVING = "No saving is shown, because the verdict is against training"


def budget_left(budget: Budget) -> str:
    if not budget.limit_micros:
        return "no budget is set, so only free work can start"
    # A budget that was lowered can be overdrawn, and nothing more is left of it than of a budget that is used up.
    left = money(max(budget.left_micros, 0))
    limit = money(budget.limit_micros)
    return f"{left} of {limit} this month{owner_text(budget)}"


def short_cost(plan: Plan) -> str:
    text = "no charge"
    if plan.maximum_micros:
        expected = about_usd(from_micros(plan.expected_micros))
        text = f"{expected}, at most {money(plan.maximum_micros)}"
    advised = plan.advised
    if advised is None:
        return text
    work_micros = advised.people_micros + advised.labels_micros
    if work_micros:
        work = about_usd(from_micros(work_micros))
        text += f"; {work} of staff time and labels on top"
    return text


def exact_cost(plan: Plan) -> str:
    """The cost of the run, and of staff time and labels on top of it."""
    text = charge(plan.expected_micros)
    most = charge(plan.maximum_micros)
    if text != most:
        text += f" expected, at most {most}"
    advised = plan.advised
    if plan.predicted is None or advised is None or plan.monthly_before_micros is None:
        return text
    work = []
    if advised.people_micros:
        work.append(f"staff time {money(advised.people_micros)}")
    if advised.labels_micros:
        work.append(f"labels {money(advised.labels_micros)}")
    if work:
        text += f"; {' and '.join(work)} on top"
    if not plan.predicted.is_time_said:
        text += "; staff time was not given"
    return text


def vendor_estimate(run: Run, plan: Plan) -> str:
    """The vendor's own estimate of the training's cost; '' if there is none."""
    estimate = Progress.from_json(run.progress).vendor
    if estimate is None:
        return ""
    name = escape(cut(run.provider, 40))
    if estimate.micros is None:
        why = escape(cut(estimate.why, 160))
        return f"; {name} gives no price: {why}"
    amount = about_usd(from_micros(estimate.micros))
    text = f"; {name}'s own estimate for the training is {amount}"
    if estimate.micros > plan.maximum_micros:
        text += ", above this plan's maximum"
    if not estimate.is_affordable:
        text += ", more than your account there holds: add credit"
    return text


def short_saving(plan: Plan) -> tuple[str, str]:
    before = plan.monthly_before_micros
    after = plan.monthly_after_micros
    foreseen = plan.predicted
    if before is None or after is None:
        return "Saves", UNKNOWN_BILLS
    today = about_usd(from_micros(before))
    if plan.withholds_saving:
        return "Each month", f"{today} today. {NO_SAVING}"
    if foreseen is None or foreseen.saving_micros is None:
        then = about_usd(from_micros(after))
        return "Each month", f"{today} → {then}, if it is good enough"
    saved = foreseen.saving_micros
    if not saved:
        return "Saves", "nothing"
    amount = about_usd(from_micros(abs(saved)), per="a month")
    requests = _at_requests(plan)
    if saved < 0:
        return "Costs more", f"{amount}{requests}"
    condition = payback_condition(is_good=False, is_time_said=foreseen.is_time_said)
    return "Saves", f"{amount}{saves_until(plan)}{condition}{requests}"


def saves_until(plan: Plan) -> str:
    """' until 2027-01-14', when a saving ends with today's model; '' if it goes on."""
    if plan.advised is None or not plan.advised.saves_until:
        return ""
    return f" until {plan.advised.saves_until}"


def monthly_text(plan: Plan) -> str:
    if plan.monthly_before_micros is None:
        return UNKNOWN_BILLS
    today = money(plan.monthly_before_micros)
    if plan.withholds_saving:
        return f"{today} today. {NO_SAVING}"
    bills = f"{today} → {money(plan.monthly_after_micros)}"
    saved = _saved_micros(plan)
    if saved is None:
        return f"{bills}, if it is good enough"
    volume = _at_volume(plan)
    if not saved:
        return f"{bills}; saves nothing{volume}"
    if saved < 0:
        return f"{bills}; costs {money(-saved)} more{volume}"
    saves = f"saves {money(saved)}{saves_until(plan)} if it is good enough"
    return f"{bills}; {saves}{volume}{_in_total(plan)}"


def _saved_micros(plan: Plan) -> int | None:
    """What was expected to be saved a month; None in plans that don't know it."""
    if plan.predicted is None:
        return None
    return plan.predicted.saving_micros


def _at_requests(plan: Plan) -> str:
    """The requests that the amounts are for; '' for plans that don't know them."""
    if plan.predicted is None or plan.predicted.volume is None:
        return ""
    return f"; at {requests_text(plan.predicted.volume)} a month"


def _at_volume(plan: Plan) -> str:
    """Like `_at_requests`, with the tokens."""
    if plan.predicted is None or plan.predicted.volume is None:
        return ""
    return f"; at {volume_text(plan.predicted.volume)}"


def foreseen_text(plan: Plan) -> str:
    """What the approvers saw, for lists: 'over 12 months it loses about $350 ($220 to $450), after $73 a month for its
    machine'. The monthly saving of plans older than that; '' if no saving was shown."""
    net = _shown_net(plan)
    if net is not None:
        return f"over {format_months(Decimal(net.months))} it {_net_text(plan, net)}"
    saved = _saved_micros(plan)
    if saved is None or plan.withholds_saving:
        return ""
    if saved < 0:
        return f"costs {money(-saved)} more a month"
    return f"saves {money(saved)} a month"


def net_value(plan: Plan) -> list[tuple[str, str]]:
    """What is gained or lost in all, after the costs; the monthly saving alone may hide a later loss."""
    net = _shown_net(plan)
    if net is None:
        return []
    return [(_net_name(net), _net_text(plan, net))]


def _in_total(plan: Plan) -> str:
    """The net value, beside the monthly saving, since a section has no room for more fields."""
    net = _shown_net(plan)
    if net is None:
        return ""
    return f". {_net_name(net)}, it {_net_text(plan, net)}"


def _shown_net(plan: Plan) -> NetValue | None:
    if plan.advised is None or plan.withholds_saving:
        return None
    return plan.advised.net


def _net_name(net: NetValue) -> str:
    price_fall = Decimal(net.price_fall or 0)  # plans of earlier versions don't know it
    return net_value_name(Decimal(net.months), price_fall)


def _net_text(plan: Plan, net: NetValue) -> str:
    low, middle, high = map(from_micros, (net.low_micros, net.micros, net.high_micros))
    text = net_value_text(low, middle, high)
    return f"{text}{_after_machine(plan)}"


def _after_machine(plan: Plan) -> str:
    """The monthly bill of the machines that would serve the model, which the run's own cost doesn't include."""
    if plan.advised is None or not plan.advised.machine_micros:
        return ""
    bill = from_micros(plan.advised.machine_micros)
    a_month = about_usd(bill, per="a month").removeprefix("about ")
    return f", after {a_month} for its machine"


def forecast(plan: Plan) -> list[tuple[str, str]]:
    """How likely it pays back, and the alternative that this is compared with."""
    foreseen = plan.predicted
    if foreseen is None or foreseen.p_payback is None or foreseen.target_months is None:
        return []
    target = format_months(Decimal(foreseen.target_months))
    name = f"Pays back within {target}"
    rests_on = payback_condition(is_good=False, is_time_said=foreseen.is_time_said)
    likely = f"in {share_of_draws(foreseen.p_payback)}{rests_on}"
    if foreseen.advised and foreseen.advised.bearable_hours:
        likely += hours_caveat(Decimal(foreseen.advised.bearable_hours))
    return [(name, likely), *alternative_bill(plan)]


def hosting_line(hosting: Hosting) -> str:
    """The running costs that approvers agree to."""
    if hosting.by_token is not None:
        return token_line(hosting.by_token)
    price = an_hour(hosting.micros_per_hour)
    idle = duration(hosting.idle_stop_s)
    most = money(hosting.day_micros)
    stops = f"stopped after {idle} without a question"
    if hosting.scales_to_zero:
        # The vendor takes such a machine away while it is idle, and starts it again for the next question.
        stops = f"free after {idle} without a question"
    return f"{price} while it runs, {stops}, at most {most} a day"


def token_line(terms: TokenTerms) -> str:
    """What approvers agree to if the model is to be served by the token."""
    return f"served by {escape(terms.provider)} at {token_price(terms)}, nothing while nobody asks"


def leaves_line(terms: TokenTerms) -> str:
    """What leaves the building if the model is served by the token, and under whose terms."""
    under = ""
    if terms.data_terms:
        under = f". Its terms on data: {terms.data_terms}"
    provider = escape(terms.provider)
    if not terms.is_uploaded:
        return f"The weights, which have learned from the rows, stay at {provider}, and each question goes there{under}"
    return f"The weights, which have learned from the rows, and each question go to {provider}{under}"


def token_price(terms: TokenTerms) -> str:
    """The price of a million tokens."""
    read = usd(Decimal(terms.input))
    written = usd(Decimal(terms.output))
    if read == written:
        return f"{read} per million tokens"
    return f"{read} per million tokens in and {written} out"


def an_hour(micros_per_hour: int) -> str:
    return f"{usd_micros(micros_per_hour)} an hour"
