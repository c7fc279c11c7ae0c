"""The estimate card: the verdict first, then the numbers that carry it, then what they rest on; and the form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from bot.decisions.advice import Verdict
from bot.decisions.amounts import tokens
from bot.decisions.assumptions import payback
from bot.decisions.roi import Assumption, Estimate, MonthlyCost, Range, Training
from bot.views.blocks import Block, Message, context, escape, fields, header, modal, plain, section
from bot.views.words import duration_range
from trainers.dataset import Report
from trainers.money import usd

ESTIMATE = "estimate"
MARKS = {"go": "for it", "no_go": "against it", "unknown": "open"}


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
    rests_on = (
        [context("*What this rests on*\n" + _listed(estimated.assumptions))] if estimated.assumptions else []
    )
    return Message(
        f"{verdict.headline} {verdict.next_step}",
        (
            header(f"{estimated.name} on {target}"),
            section(f"*{escape(verdict.headline)}*"),
            fields(numbers(estimated)),
            section("\n".join(f"• _{MARKS[one.kind]}_: {one.text}" for one in verdict.reasons)),
            section(verdict.next_step),
            *rests_on,
        ),
    )


def numbers(estimated: Estimated) -> list[tuple[str, str]]:
    low, high = estimated.minutes.low * 60, estimated.minutes.high * 60
    pairs = [
        ("Training, once", _training(estimated)),
        ("Takes", duration_range(float(low), float(high))),
    ]
    made = estimated.estimate
    if made:
        pairs += [
            ("Each month today", monthly(made.monthly_before)),
            ("Each month tuned", monthly(made.monthly_after)),
            ("Saves a month", _range(made.saving_month_range)),
            ("Pays back in", payback(made.payback_months)),
            ("Worth it from", _break_even(made)),
        ]
    return pairs


def monthly(bill: MonthlyCost) -> str:
    parts = [f"{usd(bill.input)} in", f"{usd(bill.output)} out"]
    if bill.hosting:
        parts.append(f"{usd(bill.hosting)} machine")
    return f"{usd(bill.total)} ({', '.join(parts)})"


def _training(estimated: Estimated) -> str:
    training = estimated.training
    if training is None:
        return "unknown"
    return f"{_range(training.usd)} for {training.billed_tokens:,} tokens"


def _range(amounts: Range) -> str:
    expected, low, high = usd(amounts.expected), usd(amounts.low), usd(amounts.high)
    return expected if low == high else f"{expected} ({low} to {high})"


def _break_even(made: Estimate) -> str:
    if made.break_even_tokens_per_month is None:
        return "no volume"
    within = payback(made.payback_target_months)
    return f"{tokens(made.break_even_tokens_per_month)} input tokens a month (pays back in {within})"


def _listed(assumed: Sequence[Assumption]) -> str:
    return "\n".join(f"• {one.name}: {escape(one.value)}" for one in assumed)


def form(channel: str, choices: Choices) -> Block:
    blocks: list[Block] = [
        _select("dataset", "Dataset", choices.datasets),
        _text("current", "Model that you prompt today", "gpt-4o", optional=True),
        _text("volume", "Input tokens a month", "10M", optional=True),
        _select("target", "Model to train", choices.targets),
    ]
    return modal("Estimate a fine-tune", ESTIMATE, blocks, submit="Estimate", private=channel)


def typed(values: Mapping[str, str | None]) -> str:
    """The form as the command that says the same."""
    options = [f"{key}={values[key]}" for key in ("current", "volume", "target") if values.get(key)]
    return " ".join(["estimate", values.get("dataset") or "", *options])


def _select(name: str, label: str, options: Sequence[str]) -> Block:
    made = [{"text": plain(option, 75), "value": option} for option in options[:100] if len(option) <= 150]
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
