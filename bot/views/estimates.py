"""The estimate card: the verdict first, then the numbers that carry it, then what they rest on; and the form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from bot.decisions.advice import Verdict, in_time
from bot.decisions.amounts import tokens
from bot.decisions.roi import Estimate, Monthly
from bot.views.blocks import Block, Message, context, divider, escape, fields, header, modal, plain, section
from bot.views.words import duration_range
from trainers.money import usd

ESTIMATE = "estimate"
MARKS = {"go": "for it", "no_go": "against it", "unknown": "open"}


@dataclass(frozen=True)
class Choices:
    """What the form offers. Empty where there is nothing to choose from yet."""

    datasets: Sequence[str]
    targets: Sequence[str]


def card(name: str, target: str, estimate: Estimate, verdict: Verdict) -> Message:
    return Message(
        f"{verdict.headline} {verdict.next_step}",
        (
            header(f"{name} on {target}"),
            section(f"*{escape(verdict.headline)}*"),
            fields(numbers(estimate)),
            section("\n".join(f"• _{MARKS[one.kind]}_: {one.text}" for one in verdict.reasons)),
            section(verdict.next_step),
            divider(),
            context("What this rests on\n" + "\n".join(_assumptions(estimate))),
        ),
    )


def numbers(estimate: Estimate) -> list[tuple[str, str]]:
    low, expected, high = estimate.training_usd
    cost = usd(expected) if low == high else f"{usd(expected)} ({usd(low)} to {usd(high)})"
    pairs = [
        ("Training, once", cost),
        ("Takes", duration_range(estimate.seconds[0], estimate.seconds[2])),
        ("Tokens trained", f"{estimate.training_tokens:,}"),
    ]
    if estimate.before and estimate.after and estimate.saving is not None:
        pairs += [
            ("Each month today", monthly(estimate.before)),
            ("Each month tuned", monthly(estimate.after)),
            ("Saves", f"{usd(estimate.saving)} a month"),
            (
                "Pays back in",
                in_time(estimate.payback_months) if estimate.payback_months else "never at this volume",
            ),
            ("Worth it from", _break_even(estimate)),
        ]
    elif estimate.before:
        pairs.append(("Each month today", monthly(estimate.before)))
    return pairs


def monthly(bill: Monthly) -> str:
    parts = [f"{usd(bill.input)} in", f"{usd(bill.output)} out"]
    if bill.hosting > Decimal(0):
        parts.append(f"{usd(bill.hosting)} machine")
    return f"{usd(bill.total)} ({', '.join(parts)})"


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


def _break_even(estimate: Estimate) -> str:
    if estimate.break_even_tokens is None:
        return "no volume"
    return f"{tokens(estimate.break_even_tokens)} input tokens a month (pays back in 3 months)"


def _assumptions(estimate: Estimate) -> list[str]:
    return [f"• {one.name}: {escape(one.value)}. {escape(one.why)}" for one in estimate.assumptions]


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
