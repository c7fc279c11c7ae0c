"""The details of an estimate: exact figures, bills beside each other, what moves the result and what it rests on. The
card with the decision is in estimates.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from bot.cards import advice
from bot.cards.assumptions import assumptions
from bot.cards.blocks import (
    CardBlock,
    Facts,
    Figure,
    Lines,
    Note,
    Table,
    Text,
    cut,
    escape,
    sentence,
)
from bot.cards.candidates import alternative_name, alternative_text
from bot.cards.payback import hours_caveat, payback_condition, share_of_draws
from bot.cards.prices import vendor_prices
from bot.cards.reasons import unknown_successor
from bot.cards.words import SLACK, Spelling, planned_time, shorten
from bot.rules.advice import Verdict
from bot.rules.alternatives import Alternative, OfferedModel
from bot.rules.bills import MonthlyCost
from bot.rules.facts import Evidence
from bot.rules.forecast import LIKELY, Outlook
from bot.rules.payback import enough_volume
from bot.rules.roi import Estimate, Inputs, Range, Training
from bot.rules.units import HOURS_PER_MONTH, duration, tokens
from trainers.dataset import Report
from trainers.money import usd
from trainers.pricing import PriceRow
from trainers.types import Price

ZERO = Decimal(0)
UNKNOWN = Price(None, None, None, None)
A_SECTION = 6  # assumptions in a section, which takes 3,000 letters
_OPTION = re.compile(r"--([a-z][a-z-]+)")
PARTS: Mapping[str, Callable[[MonthlyCost], Decimal]] = {
    "Input": lambda bill: bill.input,
    "Output": lambda bill: bill.output,
    "Machine": lambda bill: bill.hosting,
    "Requests": lambda bill: bill.requests,
    "Upkeep": lambda bill: bill.upkeep,
    "Total": lambda bill: bill.total,
}
SELDOM = ("Machine", "Requests", "Upkeep")  # rows of the bill that are left out where all are nothing


@dataclass(frozen=True, kw_only=True)
class EstimateSummary:
    """What the card shows. `prices`: the tuned model's row, its base's, and today's model's.

    `estimate`, `outlook`, `alternative` and `inputs` are None where a price is missing, and where today's bill is not
    known. `outlook` is None as well where the verdict withholds what would be saved. `today`: the bill of today's
    model, which may be known all the same. `training`, `measuring_usd` (both models' answers to the held-out rows, and
    their judge's) and `machine_usd`, the part of it for a machine by the hour, are of all expected runs. `is_guess`:
    the minutes are, by the model's size. `memory`: whether it fits, in a line. `sweep_note`: the words that follow the
    tokens of a sweep. `offered`: the cheapest capable model, where it costs less than today's and nobody has measured
    it.
    """

    name: str
    report: Report
    training: Training | None
    minutes: Range | None
    estimate: Estimate | None
    outlook: Outlook | None
    alternative: Alternative | None
    prices: tuple[PriceRow, ...]
    evidence: Evidence
    inputs: Inputs | None
    verdict: Verdict
    memory: str | None = None
    sweep_note: str = ""
    is_guess: bool = False
    offered: OfferedModel | None = None
    measuring_usd: Decimal = ZERO
    machine_usd: Decimal = ZERO
    asks_vendor: bool = False
    today: MonthlyCost | None = None


def details(estimated: EstimateSummary, target: str, spelling: Spelling = SLACK) -> list[CardBlock]:
    """All that the verdict rests on: exact figures, every reason, what moves the result, each assumption, prices."""
    alternative = estimated.alternative
    parts = [Text(f"*{escape(advice.headline(estimated.verdict, spelling))}*"), *_numbers(estimated, target)]
    if alternative and not hides_savings(estimated):
        parts.append(Text(escape(cut(alternative_text(alternative), 900))))
    parts += [*advice.reason_blocks(estimated.verdict, spelling), *_basis(estimated, spelling)]
    sources = [
        f"{escape(shorten(row.model))} from {escape(cut(row.said_by, 120))}"
        for row in estimated.prices
        if row.price != UNKNOWN or row.usd_per_hour is not None or row.hosted_usd_per_hour is not None
    ]
    if sources:
        parts.append(Note(f"Prices: {'; '.join(dict.fromkeys(sources))}."))
    return parts


def _numbers(estimated: EstimateSummary, target: str) -> list[CardBlock]:
    """The figures; those that carry the verdict come first."""
    estimate = estimated.estimate
    if estimate is None:
        bill = [("Each month today", monthly(estimated.today))] if estimated.today else []
        return [escaped_facts([*bill, *_once(estimated), *_offered(estimated)])]
    today = [("Each month today", monthly(estimate.monthly_before)), *other_bill(estimated)]
    if hides_savings(estimated):
        return [escaped_facts([*today, *_once(estimated)])]
    if_enough = ", if one machine is enough" if rests_on_one_machine(estimate) else ""
    tuned = ("Each month tuned", f"{monthly(estimate.monthly_after)}{if_enough}")
    bills = Table(
        _bills(estimated, estimate),
        f"Cost a month: {shorten(estimated.name)} on {shorten(target, 60)}",
        otherwise=(escaped_facts([*today, tuned]),),
    )
    worth = estimate.errors_avoided_usd  # with it the saving is the difference of the bills
    saved = [
        _saving(estimate, estimated.outlook),
        *_succession(estimate),
        *_machines(estimate),
        *([(f"{'Fewer' if worth > 0 else 'More'} wrong answers, a month", usd(abs(worth)))] if worth else []),
    ]
    rest = [*_chances(estimated), *_once(estimated), *_offered(estimated)]
    return [escaped_facts(saved), bills, escaped_facts(rest)]


def _offered(estimated: EstimateSummary) -> list[tuple[str, str]]:
    """The bill of a cheaper model as it is, which nobody has measured."""
    offered = estimated.offered
    name = shorten(offered.name.rpartition("/")[2], 30) if offered else ""
    return [(f"Each month, {name}", f"{monthly(offered.monthly)}, not measured")] if offered else []


def hides_savings(estimated: EstimateSummary) -> bool:
    """Whether no saving is shown: one by a model that may not, or need not, be used is none."""
    estimate = estimated.estimate
    return estimated.verdict.withholds_saving or (estimate is not None and estimate.months_left == 0)


def rests_on_one_machine(estimate: Estimate) -> bool:
    """Whether the bill of a machine is counted once, as nobody knows how many the volume takes."""
    return bool(estimate.monthly_after.hosting) and estimate.on_own_machine and estimate.machines is None


def monthly(bill: MonthlyCost) -> str:
    if not bill.total:
        return "no charge"
    amounts = {name.lower(): part(bill) for name, part in PARTS.items() if name != "Total"}
    lines = [f"{usd(amount)} {name}" for name, amount in amounts.items() if amount]
    return f"{usd(bill.total)} ({', '.join(lines)})" if len(lines) > 1 else lines[0]


def _once(estimated: EstimateSummary) -> list[tuple[str, str]]:
    """The facts that do not come back every month."""
    pairs = [("Training, once", _training(estimated))]
    if estimated.measuring_usd:
        machine = f", {usd(estimated.machine_usd)} of it for its machine" if estimated.machine_usd else ""
        pairs.append(("Measuring it, once", f"{usd(estimated.measuring_usd)}{machine}"))
    pairs += [*price_facts(estimated), ("Training takes", training_time(estimated))]
    if estimated.memory:
        pairs.append(("Memory", estimated.memory))
    estimate = estimated.estimate
    if estimate is None or hides_savings(estimated):
        return pairs
    pairs.append(("Pays back", payback_text(estimate.payback_months) + paid_between(estimated.outlook)))
    enough = enough_volume(estimate, estimated.outlook)
    if enough is None:
        pairs.append(("Pays from", "no volume: a token costs as much or more"))
    elif enough:
        likely = f" (in {LIKELY:.0%} of draws)" if estimated.outlook else ""
        pairs.append(("Pays from", f"{tokens(enough)} input tokens a month{likely}"))
    return pairs


def price_facts(estimated: EstimateSummary, *, is_short: bool = False) -> list[tuple[str, str]]:
    row = estimated.prices[0] if estimated.prices else None
    text = vendor_prices(row, asks_vendor=estimated.asks_vendor and not is_short) if row else None
    return [("Prices", text)] if text else []


def training_time(estimated: EstimateSummary) -> str:
    minutes = estimated.minutes
    low, high = (float(minutes.low) * 60, float(minutes.high) * 60) if minutes else (None, None)
    return planned_time(low, high, is_guess=estimated.is_guess)


def payback_text(months: Decimal | None) -> str:
    """What stands after "Pays back"."""
    if months is None:
        return "never at this volume"
    if not months:
        return "at once"
    is_soon = months * HOURS_PER_MONTH < 24
    return "within a day" if is_soon else f"in {duration(months)}"


def paid_between(outlook: Outlook | None) -> str:
    """The range in which 9 in 10 draws pay back."""
    if outlook is None or outlook.payback_months.p5 is None:
        return ""
    early, late = outlook.payback_months.p5, outlook.payback_months.p95
    soon = duration(early) if early else "at once"
    return f" ({soon} to {'never' if late is None else duration(late)})" if early != late else ""


def _bills(estimated: EstimateSummary, estimate: Estimate) -> list[tuple[str, ...]]:
    """A month's bills beside each other, as a table's rows."""
    alternative = estimated.alternative if other_bill(estimated) else None
    bills = {"Today": estimate.monthly_before, "Tuned": estimate.monthly_after}
    if alternative:
        other = shorten(alternative_name(alternative))
        bills = {
            "Today": estimate.monthly_before,
            other: estimate.monthly_alternative,
            "Tuned": estimate.monthly_after,
        }
    rows: list[tuple[str, ...]] = [("A month", *bills)]
    for name, part in PARTS.items():
        amounts = [part(bill) for bill in bills.values()]
        if any(amounts) or name not in SELDOM:
            rows.append((name, *(Figure(usd(amount), amount) for amount in amounts)))
    return rows


def _training(estimated: EstimateSummary) -> str:
    training = estimated.training
    if training is None:
        return "unknown"
    cost = _range(training.usd) if training.usd.high else "no charge"
    in_runs = f" in {training.runs} runs" if training.runs > 1 else ""
    count = f"{'about ' if training.is_estimated else ''}{tokens(training.billed_tokens)}"
    text = f"{cost} for {count} tokens{estimated.sweep_note}{in_runs}"
    estimate = estimated.estimate
    work = estimate.people_usd + estimate.labels_usd if estimate else ZERO
    return f"{text}; people and labels {usd(work)}" if work else text


def _saving(estimate: Estimate, outlook: Outlook | None) -> tuple[str, str]:
    """The saving a month; a loss is shown as a cost: "minus $48.00" saved is hard to read."""
    a_month = saving_range(estimate, outlook)
    if estimate.saving_month >= 0:
        return "Saves a month", _range(a_month) if estimate.saving_month else "nothing"
    return "Costs more a month", _range(Range(-a_month.high, -a_month.expected, -a_month.low))


def saving_range(estimate: Estimate, outlook: Outlook | None) -> Range:
    if outlook and outlook.saving_month.p5 is not None and outlook.saving_month.p95 is not None:
        return Range(outlook.saving_month.p5, estimate.saving_month, outlook.saving_month.p95)
    return estimate.saving_month_range


def _machines(estimate: Estimate) -> list[tuple[str, str]]:
    if not estimate.on_own_machine:
        return []
    count = estimate.machines
    if count is None:
        return [("Machines", "how many it takes is not known: the speed of yours is not measured")]
    return [("Machines", "1 like yours is enough" if count == 1 else f"{count:,} like yours")]


def _succession(estimate: Estimate) -> list[tuple[str, str]]:
    """The saving from the day on which the model that it is held against has ended."""
    succession = estimate.succession
    if succession is None:
        return []
    name, saving = f"From {succession.ends} on", succession.saving_month
    if saving is None:
        unknown = unknown_successor(succession.successor)
        return [(name, f"not known: {succession.model} ends, and {unknown}")]
    difference = f"saves {usd(saving)}" if saving >= 0 else f"costs {usd(-saving)} more"
    successor = f"{succession.successor}, the successor of {succession.model}"
    return [(name, f"{difference} a month against {successor}")]


def _chances(estimated: EstimateSummary) -> list[tuple[str, str]]:
    """How likely it pays back, and the net value, over the draws of everything uncertain."""
    outlook = estimated.outlook
    if outlook is None:
        return []
    rests_on = payback_condition(is_good=estimated.evidence.is_good, is_time_said=outlook.is_time_said)
    is_free = estimated.estimate is not None and not estimated.estimate.one_off_usd
    end = hours_caveat(
        outlook.bearable_hours, f"back within {duration(outlook.target_months)} " if is_free else ""
    )
    within = f"in {share_of_draws(outlook.p_payback, outlook.draws)}{rests_on}{end}"
    pairs = [("Saves money" if is_free else f"Back within {duration(outlook.target_months)}", within)]
    npv = outlook.npv
    if npv.p5 is None or npv.p50 is None or npv.p95 is None:
        return pairs
    over = duration(outlook.horizon_months)
    return [*pairs, (f"Net over {over}", f"{usd(npv.p50)} ({usd(npv.p5)} to {usd(npv.p95)})")]


def other_bill(estimated: EstimateSummary) -> list[tuple[str, str]]:
    """The bill of what the saving is held against, where that is not today's model."""
    estimate, other = estimated.estimate, estimated.alternative
    if estimate is None or other is None or estimate.monthly_alternative == estimate.monthly_before:
        return []
    return [(f"Each month, {shorten(alternative_name(other), 60)}", monthly(estimate.monthly_alternative))]


def escaped_facts(pairs: Sequence[tuple[str, str]]) -> Facts:
    return Facts([(escape(name), sentence(value)) for name, value in pairs])


def _range(amounts: Range) -> str:
    expected, low, high = usd(amounts.expected), usd(amounts.low), usd(amounts.high)
    return expected if low == high else f"{expected} ({low} to {high})"


def _basis(estimated: EstimateSummary, spelling: Spelling) -> list[CardBlock]:
    """What moves the result, and each assumption with its reason."""
    blocks: list[CardBlock] = []
    if estimated.outlook and estimated.outlook.tornado:
        over = duration(estimated.outlook.horizon_months)
        swings = [
            f"• {swing.name}: {usd(swing.at_low)} at {swing.low_value}, {usd(swing.at_high)} at {swing.high_value}"
            for swing in estimated.outlook.tornado
        ]
        blocks += [
            Text(f"*What moves the net value over {over} most, each alone*"),
            Lines([*map(escape, swings)]),
        ]
    if estimated.inputs:
        lines = []
        for assumption in assumptions(estimated.inputs):
            # Options as they are typed where the sentence is read.
            why = _OPTION.sub(lambda option: spelling.option(option[1].replace("-", "_")), assumption.why)
            lines.append(f"• {assumption.name}: {assumption.value}. {why}")
        blocks.append(Text("*What this rests on*"))
        blocks += [
            Lines([*map(sentence, lines[at : at + A_SECTION])]) for at in range(0, len(lines), A_SECTION)
        ]
    return blocks
