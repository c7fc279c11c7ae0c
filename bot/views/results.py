"""The result: base against tuned on rows that neither has seen, and the actual beside the estimate."""

from __future__ import annotations

from collections.abc import Sequence

from bot.decisions.planning import Plan
from bot.results import ChangedRow, RunResult
from bot.views.blocks import Message, context, cut, divider, escape, fields, header, section
from bot.views.words import duration, duration_range, money, p_value, percent, points, with_interval
from storage.records import Run

SIGNIFICANT = 0.05
SHOWN_CHANGES = 8


def card(run: Run, plan: Plan, result: RunResult) -> Message:
    headline = f"Run {run.id}: {_verdict(result)}"
    return Message(
        f"{headline}. {in_short(result)}",
        (
            header(headline),
            fields(
                [
                    (f"{escape(plan.base_model)}, prompted", with_interval(result.base)),
                    ("Tuned", with_interval(result.tuned)),
                    ("Difference", _difference(result)),
                    (
                        "Rows that changed",
                        f"{result.better} better, {result.worse} worse, {p_value(result.p_value)}",
                    ),
                ]
            ),
            divider(),
            fields(_actuals(plan, result)),
            section(f"Ask it: `/finetune try {run.model} your text`"),
            context(_method(plan, result)),
        ),
    )


def in_short(result: RunResult) -> str:
    return f"{percent(result.base.share)} → {percent(result.tuned.share)} on {result.tuned.n} held-out rows"


def changed(rows: Sequence[ChangedRow]) -> Message:
    """Customers' words: for private channels only."""
    worse = [row for row in rows if not row.is_better]
    better = [row for row in rows if row.is_better]
    parts = [_changes("Worse", worse), _changes("Better", better)]
    return Message(
        f"{len(better)} rows got better, {len(worse)} worse", tuple(section(p) for p in parts if p)
    )


def alt_text(plot: str, plan: Plan) -> str:
    if plot == "loss":
        return f"Training loss by step, {plan.base_model} on {plan.dataset}"
    return f"Expected labels against the tuned model's answers, {plan.dataset}"


def _verdict(result: RunResult) -> str:
    gain = points(result.gain).removeprefix("+")
    if result.p_value >= SIGNIFICANT:
        return f"no difference shown between base and tuned on {result.tuned.n} rows"
    return (
        f"the tuned model is {gain} better"
        if result.gain > 0
        else f"the tuned model is {gain.removeprefix('−')} worse"
    )


def _difference(result: RunResult) -> str:
    return f"{points(result.gain)} ({100 * result.gain_low:+.0f} to {100 * result.gain_high:+.0f})"


def _actuals(plan: Plan, result: RunResult) -> list[tuple[str, str]]:
    return [
        ("Cost", f"{money(result.actual_micros)}, estimated {money(result.estimated_micros)}"),
        (
            "Time",
            f"{duration(result.train_seconds)}, estimated {duration_range(plan.seconds_low, plan.seconds_high)}",
        ),
        ("Tokens trained", f"{result.trained_tokens:,}, estimated {plan.training_tokens:,}"),
        (
            "An answer takes",
            f"{result.tuned.p50_s:.1f} s (median), {result.tuned.prompt_tokens / result.tuned.n:.0f} tokens "
            f"instead of {result.base.prompt_tokens / result.base.n:.0f}",
        ),
    ]


def _method(plan: Plan, result: RunResult) -> str:
    told = "with the labels listed in its prompt" if result.labelled else "with the same prompt"
    return (
        f"Right means the exact answer. Both answered the same {result.tuned.n} rows, which were set aside before "
        f"training; the base model {told}. Ranges are 95% intervals (Wilson; Newcombe for the difference), p is "
        f"McNemar's exact test."
    )


def _changes(title: str, rows: Sequence[ChangedRow]) -> str:
    if not rows:
        return ""
    lines = [
        f"• {escape(cut(row.text, 120))}\n      expected {escape(row.expected)}; base: {escape(cut(row.base, 40))}; "
        f"tuned: {escape(cut(row.tuned, 40))}"
        for row in rows[:SHOWN_CHANGES]
    ]
    more = f"\n… and {len(rows) - SHOWN_CHANGES} more" if len(rows) > SHOWN_CHANGES else ""
    return f"*{title}* ({len(rows)})\n" + "\n".join(lines) + more
