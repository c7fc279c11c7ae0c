"""What the terminal's commands compute and print; no Slack, no store, nothing kept."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from bot.results import Refusal
from bot.settings import Settings
from bot.views.datasets import WORDS
from bot.views.estimates import MARKS, numbers
from bot.workflows.datasets import SEED
from bot.workflows.estimating import Estimated, Question, make_estimate
from trainers.dataset import NO_MODELS, Columns, Report, check_file

LISTED = 30


def check(
    file: Path, text: str | None, label: str | None, local_models: Mapping[str, Path] = NO_MODELS
) -> Report:
    """The split files are made and thrown away."""
    with tempfile.TemporaryDirectory() as folder:
        return check_file(
            file, file.name, Columns(text, label), Path(folder), SEED, local_models=local_models
        )


def estimate(settings: Settings, name: str, report: Report, question: Question) -> Estimated | Refusal:
    return make_estimate(settings, name, report, question, datetime.now(UTC).date())


def report_text(report: Report) -> str:
    lines = [
        f"{report.name}: {report.rows:,} rows, {len(report.labels)} labels" if report.labels else report.name
    ]
    if report.n_train:
        lines.append(f"{report.n_train:,} rows to train on, {report.n_holdout:,} held out as the test")
    if report.rows:
        tokens = report.tokens
        lines.append(
            f"{tokens.rows.total:,} tokens ({tokens.encoding}), a row {tokens.rows.mean:.0f} on average, "
            f"{tokens.rows.max:,} at most"
        )
    lines += [f"  {count.rows:>6,}  {count.label}" for count in report.labels[:LISTED]]
    lines += [f"{WORDS[one.severity]}: {one.message} {one.cure}" for one in report.findings]
    lines.append("It can't be used until this is mended." if report.blocked else "It can be used.")
    return "\n".join(lines)


def estimate_text(estimated: Estimated) -> str:
    verdict = estimated.verdict
    parts = [f"{estimated.name} on {estimated.target.name}", "", verdict.headline, ""]
    parts += [f"  {name + ':':<20} {value}" for name, value in numbers(estimated)]
    parts += ["", *(f"  {MARKS[one.kind]:>10}: {one.text}" for one in verdict.reasons), "", verdict.next_step]
    if estimated.assumptions:
        parts += ["", "What this rests on"]
        parts += [f"  {one.name}: {one.value}. {one.why}" for one in estimated.assumptions]
    return "\n".join(parts).replace("`", "")


def estimate_json(estimated: Estimated) -> dict[str, Any]:
    """Money in dollars; `monthly_before_usd` is the bill for input tokens, output and total stand beside it."""
    made, training, verdict = estimated.estimate, estimated.training, estimated.verdict
    return {
        "dataset": estimated.name,
        "target": estimated.target.name,
        "current": estimated.question.current,
        "rows": estimated.report.rows,
        "training_tokens": training.billed_tokens if training else None,
        "training_usd": _number(training.usd.expected) if training else None,
        "training_minutes": [float(round(m, 1)) for m in _range(estimated)],
        "monthly_input_tokens": estimated.question.volume,
        "monthly_before_usd": _number(made.monthly_before.input) if made else None,
        "monthly_before_output_usd": _number(made.monthly_before.output) if made else None,
        "monthly_before_total_usd": _number(made.monthly_before.total) if made else None,
        "monthly_after_usd": _number(made.monthly_after.input) if made else None,
        "monthly_after_output_usd": _number(made.monthly_after.output) if made else None,
        "monthly_after_hosting_usd": _number(made.monthly_after.hosting) if made else None,
        "monthly_after_total_usd": _number(made.monthly_after.total) if made else None,
        "saving_month_usd": _number(made.saving_month) if made else None,
        "one_off_usd": _number(made.one_off_usd) if made else None,
        "payback_months": _number(made.payback_months) if made and made.payback_months is not None else None,
        "break_even_tokens_per_month": made.break_even_tokens_per_month if made else None,
        "verdict": {
            "kind": verdict.kind,
            "headline": verdict.headline,
            "reasons": [{"rule": one.rule, "kind": one.kind, "text": one.text} for one in verdict.reasons],
            "next_step": verdict.next_step,
        },
        "assumptions": [
            {"name": one.name, "value": one.value, "why": one.why} for one in estimated.assumptions
        ],
    }


def _range(estimated: Estimated) -> tuple[Decimal, Decimal, Decimal]:
    return estimated.minutes.low, estimated.minutes.expected, estimated.minutes.high


def _number(amount: Decimal) -> float:
    """For JSON only, whose numbers have no decimals of their own: six digits behind the point."""
    return float(round(amount, 6))
