"""The estimate card: the verdict first, then the numbers that carry it, then what they rest on; and the form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Protocol

from bot.decisions.advice import Verdict
from bot.decisions.amounts import HOURS_PER_MONTH, duration, tokens
from bot.decisions.roi import Assumption, Estimate, MonthlyCost, Range, Training
from bot.views.blocks import (
    Block,
    Message,
    context,
    data_table,
    escape,
    fields,
    header,
    listed,
    modal,
    plain,
    section,
)
from bot.views.words import duration_range, short
from trainers.dataset import Report
from trainers.money import usd

ESTIMATE = "estimate"
MARKS = {"go": "for it", "no_go": "against it", "unknown": "open"}
# What carries the sum and what a reader can change: shown with its value. The others are named only.
WITH_VALUE = frozenset({"volume", "prompt", "price today", "price once tuned", "hosting", "people's time"})
NOT_NOW = {
    "rows": "Not now: too few rows",
    "end date": "Not now: the model to train is at its end",
    "cost": "Not now: it would cost more than it saves",
    "payback": "Not now: it pays back too late",
}


@dataclass(frozen=True)
class Choices:
    """What the form offers. Empty where there is nothing to choose from yet."""

    datasets: Sequence[str]
    targets: Sequence[str]


class Estimated(Protocol):
    """What the card shows; see bot/workflows/estimating.py."""

    @property
    def name(self) -> str: ...
    @property
    def report(self) -> Report: ...
    @property
    def training(self) -> Training | None: ...
    @property
    def minutes(self) -> Range: ...
    @property
    def estimate(self) -> Estimate | None: ...
    @property
    def assumptions(self) -> Sequence[Assumption]: ...
    @property
    def verdict(self) -> Verdict: ...


def card(estimated: Estimated, target: str) -> Message:
    verdict = estimated.verdict
    top = (header(_headline(estimated)), context(_subject(estimated, target)))
    reasons = listed([f"• _{MARKS[one.kind]}_: {escape(one.text)}" for one in verdict.reasons])
    rests_on = [context(_rests_on(estimated.assumptions))] if estimated.assumptions else []
    end = (reasons, section(f"*Next*: {escape(verdict.next_step)}"), *rests_on)
    return Message(
        f"{escape(verdict.headline)} {escape(verdict.next_step)}",
        (*top, fields(numbers(estimated)), *end),
        newest=(*top, *_months(estimated, target), fields(_once(estimated)), *end)
        if estimated.estimate
        else (),
    )


def numbers(estimated: Estimated) -> list[tuple[str, str]]:
    """What carries the verdict comes first. Without markup: the terminal prints the same."""
    made = estimated.estimate
    if made is None:
        return _once(estimated)
    return [
        _saving(made.saving_month_range),
        ("Each month today", monthly(made.monthly_before)),
        ("Each month tuned", monthly(made.monthly_after)),
        *_once(estimated),
    ]


def monthly(bill: MonthlyCost) -> str:
    if not bill.total:
        return "no charge"
    parts = ((bill.input, "input"), (bill.output, "output"), (bill.hosting, "machine"))
    said = [f"{usd(amount)} {name}" for amount, name in parts if amount]
    return f"{usd(bill.total)} ({', '.join(said)})" if len(said) > 1 else said[0]


def _headline(estimated: Estimated) -> str:
    verdict, made = estimated.verdict, estimated.estimate
    against = next((one.rule for one in verdict.reasons if one.kind == "no_go"), None)
    if against:
        return NOT_NOW.get(against, "Not now")
    if made is None:
        return "Worth measuring; what it saves is not known yet"
    return f"Worth measuring: it would save {usd(made.saving_month)} a month"


def _subject(estimated: Estimated, target: str) -> str:
    said = f"{escape(short(estimated.name))} on {escape(short(target, 60))}"
    made = estimated.estimate
    return f"{said}, {tokens(made.monthly_input_tokens)} input tokens a month" if made else said


def _once(estimated: Estimated) -> list[tuple[str, str]]:
    """What does not come back every month."""
    low, high = estimated.minutes.low * 60, estimated.minutes.high * 60
    pairs = [
        ("Training, once", _training(estimated)),
        ("Training takes", duration_range(float(low), float(high))),
    ]
    made = estimated.estimate
    if made:
        pairs.append(("Pays back", pays_back(made.payback_months)))
    if made and made.break_even_tokens_per_month != 0:
        pairs.append(("Worth it from", _break_even(made)))
    return pairs


def pays_back(months: Decimal | None) -> str:
    """What stands after "Pays back"."""
    if months is None:
        return "never at this volume"
    if not months:
        return "at once"
    is_soon = months * HOURS_PER_MONTH < 24
    return "within a day" if is_soon else f"in {duration(months)}"


def _months(estimated: Estimated, target: str) -> list[Block]:
    """The two bills beside each other."""
    made = estimated.estimate
    if made is None:
        return []
    before, after = made.monthly_before, made.monthly_after
    rows = [
        ("A month", "Today", "Tuned"),
        ("Input", usd(before.input), usd(after.input)),
        ("Output", usd(before.output), usd(after.output)),
        ("Machine", usd(before.hosting), usd(after.hosting)),
        ("Total", usd(before.total), usd(after.total)),
    ]
    name, value = _saving(made.saving_month_range)
    shown = [row for row in rows if row[0] != "Machine" or before.hosting or after.hosting]
    return [
        data_table(f"Cost a month: {short(estimated.name)} on {short(target, 60)}", shown),
        section(f"*{name}*: {value}"),
    ]


def _training(estimated: Estimated) -> str:
    training = estimated.training
    if training is None:
        return "unknown"
    cost = _range(training.usd) if training.usd.high else "no charge"
    return f"{cost} for {tokens(training.billed_tokens)} tokens"


def _saving(a_month: Range) -> tuple[str, str]:
    """A loss is said as a cost: "minus $48.00" saved is hard to read."""
    if a_month.expected >= 0:
        return "Saves a month", _range(a_month)
    return "Costs more a month", _range(Range(-a_month.high, -a_month.expected, -a_month.low))


def _range(amounts: Range) -> str:
    expected, low, high = usd(amounts.expected), usd(amounts.low), usd(amounts.high)
    return expected if low == high else f"{expected} ({low} to {high})"


def _break_even(made: Estimate) -> str:
    if made.break_even_tokens_per_month is None:
        return "no volume: each token costs more than today"
    within = duration(made.payback_target_months)
    return f"{tokens(made.break_even_tokens_per_month)} input tokens a month, to pay back within {within}"


def _rests_on(assumed: Sequence[Assumption]) -> str:
    shown = [f"{one.name}: {escape(one.value)}" for one in assumed if one.name in WITH_VALUE]
    named = ", ".join(one.name for one in assumed if one.name not in WITH_VALUE)
    more = f"Taken for granted as well: {named}. `finetune estimate` in a terminal says why, for each."
    return "\n".join(["*What this rests on*", *(f"• {line}" for line in shown), *([more] if named else [])])


def form(channel: str, choices: Choices) -> Block:
    blocks: list[Block] = [
        _select("dataset", "Dataset", choices.datasets),
        _text("current", "Model that you prompt today", "gpt-4o", optional=True),
        _text("volume", "Input tokens a month", "10M", optional=True),
        _select("target", "Model to train", choices.targets),
    ]
    return modal("Estimate a fine-tune", ESTIMATE, blocks, submit="Estimate", private=channel)


def typed(values: Mapping[str, str | None]) -> str:
    """The form as the command that says the same: '10 million' is one word there."""
    words = {key: "".join((values.get(key) or "").split()) for key in ("current", "volume", "target")}
    options = [f"{key}={word}" for key, word in words.items() if word]
    return " ".join(["estimate", values.get("dataset") or "", *options])


def _select(name: str, label: str, options: Sequence[str]) -> Block:
    """What can't be an option (a longer name, or none at all) can still be typed."""
    made = [{"text": plain(short(one, 75), 75), "value": one} for one in options if 0 < len(one) <= 150][:100]
    if not made:
        return _text(name, label, "as it is called", optional=False)
    element = {"type": "static_select", "action_id": "value", "options": made, "initial_option": made[0]}
    return {"type": "input", "block_id": name, "label": plain(label, 75), "element": element}


def _text(name: str, label: str, example: str, *, optional: bool) -> Block:
    element = {
        "type": "plain_text_input",
        "action_id": "value",
        "placeholder": plain(example, 75),
        "max_length": 80,
    }
    return {
        "type": "input",
        "block_id": name,
        "optional": optional,
        "label": plain(label, 75),
        "element": element,
    }
