"""The details of an estimate: exact figures, monthly bills side by side, what moves the result most, and the
assumptions. The card with the decision is in estimates.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal

from bot.cards.common import advice
from bot.cards.common.blocks import (
    CardBlock,
    Facts,
    Figure,
    Table,
    cut,
    escape,
    sentence,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import alternative_name, alternative_text
from bot.cards.common.payback import (
    hours_caveat,
    payback_condition,
    payback_range_text,
    payback_text,
    share_of_draws,
)
from bot.cards.common.prices import vendor_prices
from bot.cards.common.reasons import unknown_successor
from bot.cards.common.words import SLACK, Spelling, about_usd, enough_text, planned_time, shorten
from bot.cards.decisions.assumptions import assumptions
from bot.rules.advice import enough_volume
from bot.rules.bills import MonthlyCost
from bot.rules.estimates import EstimateSummary
from bot.rules.forecast import LIKELY, Outlook
from bot.rules.roi import Estimate, Range
from bot.rules.units import format_months, format_tokens
from trainers.money import usd
from trainers.providers.pricing import PriceRow
from trainers.types import Price

ZERO = Decimal(0)
UNKNOWN = Price(None, None, None, None)
PER_SECTION = 6  # assumptions in a section, which holds 3,000 characters
_OPTION = re.compile(r"--([a-z][a-z-]+)")
PARTS: Mapping[str, Callable[[MonthlyCost], Decimal]] = {
    "Input": lambda bill: bill.input,
    "Output": lambda bill: bill.output,
    "Machine": lambda bill: bill.hosting,
    "Requests": lambda bill: bill.requests,
    "Upkeep": lambda bill: bill.upkeep,
    "Total": lambda bill: bill.total,
}
OPTIONAL_PARTS = ("Machine", "Requests", "Upkeep")  # rows left out of the bill if all are zero


def details(summary: EstimateSummary, target: str, spelling: Spelling = SLACK) -> list[CardBlock]:
    """Everything behind the verdict: exact figures, all reasons, what moves the result, assumptions, price sources."""
    alternative = summary.alternative
    headline = advice.headline(summary.verdict, spelling)

    parts = Parts()
    parts.text(f"*{escape(headline)}*")
    parts.add(*_numbers(summary, target))
    if alternative and not summary.hides_savings:
        parts.text(escape(cut(alternative_text(alternative), 900)))
    parts.add(*advice.reason_blocks(summary.verdict, spelling))
    parts.add(*_basis(summary, spelling))

    sources = dict.fromkeys(_source(row) for row in summary.prices if _has_price(row))
    if sources:
        parts.note(f"Prices: {'; '.join(sources)}.")
    return parts


def _has_price(row: PriceRow) -> bool:
    """False for a row that has nothing that its source could have said."""
    if row.price != UNKNOWN:
        return True
    return row.usd_per_hour is not None or row.hosted_usd_per_hour is not None


def _source(row: PriceRow) -> str:
    model = shorten(row.model)
    source = escape(cut(row.said_by, 120))
    return f"{escape(model)} from {source}"


def _numbers(summary: EstimateSummary, target: str) -> list[CardBlock]:
    """The figures, the most important first."""
    estimate = summary.estimate
    if estimate is None:
        pairs = []
        if summary.today:
            pairs.append(("Each month today", monthly(summary.today)))
        pairs += _one_off_facts(summary)
        pairs += _offered(summary)
        return [escaped_facts(pairs)]

    bill_today = monthly(estimate.monthly_before)
    today = [("Each month today", bill_today), *other_bill(summary)]
    # A saving would argue for a model that must not or need not be used.
    if summary.hides_savings:
        return [escaped_facts([*today, *_one_off_facts(summary)])]

    bill_tuned = monthly(estimate.monthly_after)
    if estimate.rests_on_one_machine:
        bill_tuned += ", if one machine is enough"
    tuned = ("Each month tuned", bill_tuned)
    bills = Table(
        _bills(summary, estimate),
        f"Cost a month: {shorten(summary.name)} on {shorten(target, 60)}",
        # Clients without the newest table block show the totals as facts.
        otherwise=(escaped_facts([*today, tuned]),),
    )
    saved = [_saving(estimate, summary.outlook), *_succession(estimate), *_machines(estimate)]
    worth = estimate.errors_avoided_usd  # part of the saving, beside the difference between the bills
    if worth > 0:
        saved.append(("Fewer wrong answers, a month", usd(worth)))
    elif worth < 0:
        saved.append(("More wrong answers, a month", usd(-worth)))
    rest = [*_chances(summary), *_one_off_facts(summary), *_offered(summary)]
    return [escaped_facts(saved), bills, escaped_facts(rest)]


def _offered(summary: EstimateSummary) -> list[tuple[str, str]]:
    """The bill of a cheaper model without training, which nobody has measured."""
    offered = summary.offered
    if offered is None:
        return []
    _, _, name = offered.name.rpartition("/")
    label = f"Each month, {shorten(name, 30)}"
    return [(label, f"{monthly(offered.monthly)}, not measured")]


def monthly(bill: MonthlyCost) -> str:
    if not bill.total:
        return "no charge"
    lines = []
    for name, part in PARTS.items():
        amount = part(bill)
        if amount and name != "Total":
            lines.append(f"{usd(amount)} {name.lower()}")
    # The total would be the same amount once more.
    if len(lines) == 1:
        return lines[0]
    return f"{usd(bill.total)} ({', '.join(lines)})"


def _one_off_facts(summary: EstimateSummary) -> list[tuple[str, str]]:
    """One-off costs, times and the payback."""
    pairs = [("Training, one-off", _training(summary))]
    if summary.measuring_usd:
        measuring = usd(summary.measuring_usd)
        if summary.machine_usd:
            measuring += f", of which {usd(summary.machine_usd)} for its machine"
        pairs.append(("Measuring, one-off", measuring))
    pairs += price_facts(summary)
    pairs.append(("Training takes", training_time(summary)))
    if summary.memory:
        pairs.append(("Memory", summary.memory))

    estimate = summary.estimate
    if estimate is None or summary.hides_savings:
        return pairs
    pays_back = payback_text(estimate.payback_months)
    pairs.append(("Pays back", f"{pays_back}{payback_range_text(summary.outlook)}"))

    enough = enough_volume(estimate, summary.outlook)
    if enough is None:
        pairs.append(("Break-even volume", "none: each token costs as much or more"))
    elif enough:
        # 0 would say that it pays at any volume, which the saving above says already.
        volume = enough_text(enough, estimate.tokens_per_request)
        if summary.outlook:
            volume += f", in {LIKELY:.0%} of simulations"
        pairs.append(("Break-even volume", volume))
    return pairs


def by_token_facts(summary: EstimateSummary) -> list[tuple[str, str]]:
    """What a month would cost without the machine by the hour."""
    served = summary.by_token
    if served is None:
        return []
    amount = about_usd(served.monthly.total, per="a month")
    text = (
        f"{amount}, trained by our own trainer with `target=hf/…` or `local/…` and `serve={served.provider}`"
    )
    return [("Served by the token", text)]


def price_facts(summary: EstimateSummary, *, is_short: bool = False) -> list[tuple[str, str]]:
    """The vendor's prices of the tuned model, whose row is the first."""
    if not summary.prices:
        return []
    row = summary.prices[0]
    asks_vendor = summary.asks_vendor and not is_short
    text = vendor_prices(row, summary.made_on, asks_vendor=asks_vendor, is_short=is_short)
    if not text:
        return []
    return [("Prices", text)]


def training_time(summary: EstimateSummary) -> str:
    minutes = summary.minutes
    if minutes is None:
        return planned_time(None, None, is_guess=summary.is_guess)
    least_s = float(minutes.low) * 60
    most_s = float(minutes.high) * 60
    return planned_time(least_s, most_s, is_guess=summary.is_guess)


def _bills(summary: EstimateSummary, estimate: Estimate) -> list[tuple[str, ...]]:
    """The monthly bills side by side, as rows of a table."""
    bills = {"Today": estimate.monthly_before}
    if summary.alternative and other_bill(summary):
        other = shorten(alternative_name(summary.alternative))
        bills[other] = estimate.monthly_alternative
    bills["Tuned"] = estimate.monthly_after

    rows: list[tuple[str, ...]] = [("A month", *bills)]
    for name, part in PARTS.items():
        amounts = [part(bill) for bill in bills.values()]
        if any(amounts) or name not in OPTIONAL_PARTS:
            # Figures, as Slack would sort amounts in plain cells by their letters.
            figures = [Figure(usd(amount), amount) for amount in amounts]
            rows.append((name, *figures))
    return rows


def _training(summary: EstimateSummary) -> str:
    training = summary.training
    if training is None:
        return "unknown"
    cost = "no charge"
    if training.usd.high:
        cost = _range(training.usd)
    tokens = format_tokens(training.billed_tokens)
    if training.is_estimated:
        tokens = f"about {tokens}"
    text = f"{cost} for {tokens} tokens{summary.sweep_note}"
    if training.runs > 1:
        text += f" in {training.runs} runs"

    estimate = summary.estimate
    if estimate is None:
        return text
    work = estimate.people_usd + estimate.labels_usd
    if work:
        text += f"; staff time and labels {usd(work)}"
    return text


def _saving(estimate: Estimate, outlook: Outlook | None) -> tuple[str, str]:
    """The monthly saving. A loss is shown as a cost, since "saves minus $48.00" is hard to read."""
    a_month = saving_range(estimate, outlook)
    if estimate.saving_month > 0:
        return "Saves a month", _range(a_month)
    if estimate.saving_month == 0:
        return "Saves a month", "nothing"
    loss = Range(-a_month.high, -a_month.expected, -a_month.low)
    return "Costs more a month", _range(loss)


def saving_range(estimate: Estimate, outlook: Outlook | None) -> Range:
    if outlook is None:
        return estimate.saving_month_range
    low = outlook.saving_month.p5
    high = outlook.saving_month.p95
    if low is None or high is None:
        return estimate.saving_month_range
    return Range(low, estimate.saving_month, high)


def _machines(estimate: Estimate) -> list[tuple[str, str]]:
    count = estimate.machines
    if estimate.machines_range:
        low, high = estimate.machines_range
        about = f"about {count:,}"
        if low != high:
            about += f" ({low:,} to {high:,})"
        return [("Machines", f"{about} of the vendor's, guessed from the model's size")]
    if not estimate.on_own_machine:
        if not count:
            return []
        return [("Machines", f"{count:,} of the vendor's")]
    if count is None:
        return [("Machines", "number unknown, because the speed of yours is not measured")]
    if count == 1:
        return [("Machines", "one like yours is enough")]
    return [("Machines", f"{count:,} like yours")]


def _succession(estimate: Estimate) -> list[tuple[str, str]]:
    """The saving from the day on which the model that it is compared with ends."""
    succession = estimate.succession
    if succession is None:
        return []
    name = f"From {succession.ends}"
    saving = succession.saving_month
    if saving is None:
        unknown = unknown_successor(succession.successor)
        return [(name, f"unknown: {succession.model} ends, and {unknown}")]
    difference = f"saves {usd(saving)} a month"
    if saving < 0:
        difference = f"costs {usd(-saving)} a month more"
    successor = f"{succession.successor}, the successor of {succession.model}"
    return [(name, f"{difference}, compared with {successor}")]


def _chances(summary: EstimateSummary) -> list[tuple[str, str]]:
    """How likely it pays back, and the net value, from the simulations."""
    outlook = summary.outlook
    if outlook is None:
        return []
    rests_on = payback_condition(is_good=summary.evidence.is_good, is_time_said=outlook.is_time_said)
    within = format_months(outlook.target_months)
    label = f"Pays back within {within}"
    caveat_of = ""
    if summary.estimate is not None and not summary.estimate.one_off_usd:
        # Nothing has to be paid back, unless staff time is counted.
        label = "Saves money"
        caveat_of = f"paid back within {within} "
    end = hours_caveat(outlook.bearable_hours, caveat_of)
    share = share_of_draws(outlook.p_payback, outlook.draws)
    pairs = [(label, f"in {share}{rests_on}{end}")]
    npv = outlook.npv
    if npv.p5 is None or npv.p50 is None or npv.p95 is None:
        return pairs
    over = format_months(outlook.horizon_months)
    net_value = f"{usd(npv.p50)} ({usd(npv.p5)} to {usd(npv.p95)})"
    pairs.append((f"Net value over {over}", net_value))
    return pairs


def other_bill(summary: EstimateSummary) -> list[tuple[str, str]]:
    """The bill of the alternative that the saving is compared with, unless that is today's model."""
    estimate = summary.estimate
    other = summary.alternative
    if estimate is None or other is None:
        return []
    if estimate.monthly_alternative == estimate.monthly_before:
        return []
    label = f"Each month, {shorten(alternative_name(other), 60)}"
    return [(label, monthly(estimate.monthly_alternative))]


def escaped_facts(pairs: Sequence[tuple[str, str]]) -> Facts:
    return Facts([(escape(name), sentence(value)) for name, value in pairs])


def _range(amounts: Range) -> str:
    expected = usd(amounts.expected)
    low = usd(amounts.low)
    high = usd(amounts.high)
    if low == high:
        return expected
    return f"{expected} ({low} to {high})"


def _basis(summary: EstimateSummary, spelling: Spelling) -> list[CardBlock]:
    """What moves the result most, and the assumptions with their reasons."""
    parts = Parts()
    if summary.outlook and summary.outlook.swings:
        over = format_months(summary.outlook.horizon_months)
        swings = []
        for swing in summary.outlook.swings:
            low = f"{usd(swing.at_low)} at {swing.low_value}"
            high = f"{usd(swing.at_high)} at {swing.high_value}"
            swings.append(escape(f"• {swing.name}: {low}, {high}"))
        parts.text(f"*What moves the net value over {over} most, one at a time*")
        parts.lines(swings)
    if summary.inputs:
        lines = []
        for assumption in assumptions(summary.inputs, summary.volume):
            why = _with_spelling(assumption.why, spelling)
            lines.append(sentence(f"• {assumption.name}: {assumption.value}. {why}"))
        parts.text("*Assumptions*")
        for start in range(0, len(lines), PER_SECTION):
            parts.lines(lines[start : start + PER_SECTION])
    return parts


def _with_spelling(text: str, spelling: Spelling) -> str:
    """Returns the text with its options as they are typed where it is read."""

    def spelled(option: re.Match[str]) -> str:
        name = option[1].replace("-", "_")
        return spelling.option(name)

    return _OPTION.sub(spelled, text)
