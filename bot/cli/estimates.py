"""Computes and prints `finetune estimate` and `finetune prices`, as text and as JSON. Uses no Slack, and the store only
to look up a tuned model that a training goes on from."""

from __future__ import annotations

import json
import math
import os
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

from bot.cards.common import advice
from bot.cards.common.blocks import CardBlock, Note
from bot.cards.common.candidates import alternative_name, alternative_text
from bot.cards.common.prices import listing
from bot.cards.common.terminal import Tone, terminal_sentence
from bot.cards.common.words import TerminalSpelling
from bot.cards.datasets import traces
from bot.cards.datasets.traces import TraceImport
from bot.cards.decisions import estimates
from bot.cards.decisions.assumptions import assumptions, machines_assumption
from bot.cards.decisions.estimate_details import details
from bot.cli.options import utc_today
from bot.cli.output import text_block
from bot.rules.advice import Verdict, enough_volume
from bot.rules.alternatives import Alternative, UnmeasuredModel
from bot.rules.estimate_inputs import Question
from bot.rules.estimates import EstimateResult
from bot.rules.facts import NOTHING_MEASURED, Evidence, TaskKind
from bot.rules.forecast import Outlook, Quantiles
from bot.rules.models.starting_models import StartingModel
from bot.rules.plans import VerdictKind
from bot.rules.roi import Estimate, Range
from bot.services.common.starting_models import start_refusal, starting_model
from bot.services.common.targets import find_target, with_rental_price
from bot.services.decisions.estimates import make_estimate
from bot.settings import Settings
from bot.values.runs import Refusal
from storage.backup import open_copy
from trainers.client.client import find_key
from trainers.dataset import Report
from trainers.evaluation.comparison import merge_comparisons
from trainers.evaluation.quality_threshold import rejudge_comparison
from trainers.evaluation.results import Comparison, Scoring
from trainers.hyperparameters import sweep_to_lists
from trainers.providers.pricing import (
    PriceRow,
    UnknownPrice,
    find_prompted_price,
    tuned_price,
    tuned_prices,
)


def estimate(
    settings: Settings, name: str, report: Report, question: Question, evidence: Evidence = NOTHING_MEASURED
) -> EstimateResult | Refusal:
    start = _find_start(settings, question.target)
    if isinstance(start, Refusal):
        return start
    target = find_target(settings.providers, question.target, start)
    if isinstance(target, Refusal):
        return target
    rented = with_rental_price(settings, target)
    if isinstance(rented, Refusal):
        return rented
    reachable = {row.name for row in settings.providers if find_key(os.environ, row.provider)}
    return make_estimate(
        rented, name, report, question, utc_today(), evidence, reachable=reachable, start=start
    )


def _find_start(settings: Settings, wanted: str | None) -> StartingModel | Refusal | None:
    """Returns the bot's tuned model of this name, None if a base model has the name or the bot has no such model. That
    no held-out row is among those that it was trained on is checked when a plan is made."""
    is_base = True
    if wanted is not None:
        target = find_target(settings.providers, wanted)
        is_base = not isinstance(target, Refusal)
    if is_base or not settings.database.exists():
        return None
    # A copy, as a running bot has the database open.
    with open_copy(settings.database) as store:
        model = store.model(str(wanted))
        if model is None:
            return None
        return start_refusal(store, settings, model) or starting_model(store, model)


def read_evidence(
    baselines: Sequence[Path], bar: float | None, task: TaskKind | None, usual_bar: float
) -> Evidence | Refusal:
    """Returns the measured evidence, each candidate by its newest baseline. A `bar` that differs from the newest
    baseline's judges them again. Without one, that baseline's bar counts; without a baseline, `usual_bar`."""
    read: list[_Baseline] = []
    for file in baselines:
        baseline = _read_baseline(file)
        if isinstance(baseline, Refusal):
            return baseline
        read.append(baseline)
    if not read:
        return Evidence(bar or usual_bar, task)
    newest, *others = sorted(read, key=lambda each: -each.comparison.measured_at)
    for other in others:
        if other.measures != newest.measures:
            return Refusal(
                f"{other.file} and {newest.file} can't be joined: they were measured on other held-out rows, or scored "
                "in another way. Measure all alternatives on the same file, with the same judge."
            )
    bar = bar or newest.comparison.bar
    if others:
        comparison = merge_comparisons([newest.comparison, *(other.comparison for other in others)], bar)
    elif bar != newest.comparison.bar:
        comparison = rejudge_comparison(newest.comparison, bar)
    else:
        comparison = newest.comparison
    return Evidence(bar, task, comparison, judge=newest.judge)


@dataclass(frozen=True)
class _Baseline:
    """A file with measured alternatives. `judge` is the model whose verdicts are their scores."""

    file: Path
    comparison: Comparison
    judge: str | None

    @property
    def measures(self) -> tuple[str, int, Scoring, str | None]:
        """What has to be the same in two files for their scores to be comparable."""
        return self.comparison.holdout_sha256, self.comparison.n, self.comparison.scoring, self.judge


def _read_baseline(file: Path) -> _Baseline | Refusal:
    """Reads what `finetune baseline … --json` printed."""
    again = "Create it with `finetune baseline FILE --json > baseline.json`."
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
        # The key has its old name, so that files of earlier versions can be read.
        comparison = Comparison.from_json(json.dumps(raw["ladder"]))
        judge = None
        if comparison.scoring == "judge":
            judge = raw["judge"]["model"]
        return _Baseline(file, comparison, judge)
    except OSError as error:
        return Refusal(f"{file} can't be read: {error.strerror}.")
    except (ValueError, ArithmeticError):
        # ArithmeticError is Decimal's, for a figure that is not a number.
        return Refusal(f"{file} is not valid JSON. {again}")
    except (KeyError, TypeError, AttributeError) as error:
        return Refusal(f"{file} is not a baseline's output ({type(error).__name__}: {error}). {again}")


TONES: Mapping[VerdictKind, Tone] = {"go": "good", "unknown": "warning", "no_go": "bad"}


def estimate_parts(
    estimated: EstimateResult, file: Path, *, is_detailed: bool = False
) -> tuple[CardBlock, ...]:
    """Returns the estimate's card; `is_detailed` adds what Slack shows behind its Details button."""
    spelling = TerminalSpelling(str(file))
    card = estimates.card(estimated, estimated.target.title, spelling=spelling)
    if is_detailed:
        return (*card.parts, *details(estimated, estimated.target.title, spelling))
    return (*card.parts, Note("Add --why for every reason, exact sums, and their assumptions."))


def estimate_json(estimated: EstimateResult, file: Path) -> dict[str, Any]:
    """Money is in dollars. `monthly_before_usd` is the bill for input tokens; output and total have their own keys."""
    estimate = estimated.estimate
    return {
        "dataset": estimated.name,
        "target": estimated.target.title,
        **_today(estimated),
        "rows": estimated.report.rows,
        "sweep": sweep_to_lists(estimated.question.sweep) or None,
        **_training(estimated),
        "training_minutes": _minutes(estimated.minutes),
        "training_minutes_guessed": estimated.is_guess,
        "memory": estimated.memory,
        **_volume(estimated),
        **_sums(estimate),
        **_savings(estimated),
        **_machines(estimated),
        "verdict": verdict_json(estimated.verdict, str(file)),
        "bar": estimated.evidence.bar,
        "alternative": _alternative(estimated.alternative, estimate),
        "offered": _offered(estimated.offered),
        "outlook": _outlook(estimated.outlook),
        "prices": prices_json(estimated.prices),
        "assumptions": _assumptions(estimated),
    }


def verdict_json(verdict: Verdict, file: str) -> dict[str, Any]:
    """A reason whose `weighs` is false is reported, but did not affect the verdict."""
    spelling = TerminalSpelling(file)
    return {
        "kind": verdict.kind,
        "headline": terminal_sentence(advice.headline(verdict, spelling)),
        "reasons": [
            {
                "rule": reason.rule,
                "kind": reason.kind,
                "weighs": reason.weighs,
                "text": terminal_sentence(advice.reason_text(verdict, reason, spelling)),
            }
            for reason in verdict.reasons
        ],
        "next_step": terminal_sentence(advice.next_step(verdict, spelling)),
    }


def prices(settings: Settings, names: Sequence[str]) -> tuple[PriceRow | UnknownPrice, ...]:
    """Returns each name's price for prompting, and its price for tuning if a provider tunes it. The name of a provider
    stands for all models that it tunes. Without names, returns the user's own prices and every model that can be
    tuned."""
    if not names:
        tuned = [price for provider in settings.providers for price in tuned_prices(provider)]
        return (*settings.prices, *tuned)
    rows: list[PriceRow | UnknownPrice] = []
    for name in dict.fromkeys(names):
        named = settings.provider(name)
        if named is not None and named.models:
            rows += tuned_prices(named)
            continue
        tuned = []
        for provider in settings.providers:
            model = provider.model(name.removeprefix(f"{provider.name}/"))
            if model:
                tuned.append(tuned_price(provider, model))
        prompted = find_prompted_price(name, settings.providers, settings.prices, utc_today())
        if isinstance(prompted, UnknownPrice):
            # A model that can only be tuned has no price for prompting.
            rows += tuned or [prompted]
        else:
            rows += [prompted, *(row for row in tuned if row.model != prompted.model)]
    return tuple(rows)


def prices_parts(
    settings: Settings, rows: Sequence[PriceRow | UnknownPrice], shown_by: str = ""
) -> tuple[CardBlock, ...]:
    """`shown_by` is the command that shows what is left out; '' if nothing is."""
    return listing(
        rows, utc_today(), is_detailed=True, shown_by=shown_by, tried_with=settings.tried_with
    ).parts


def prices_json(rows: Sequence[PriceRow | UnknownPrice]) -> list[dict[str, Any]]:
    """Prices are in USD per 1M tokens. `as_of` is the date of our own list; null for prices from a library, whose
    version is in `source`."""
    return [_price(row) for row in rows]


def _today(estimated: EstimateResult) -> dict[str, Any]:
    """Today's model, and what follows it."""
    current = estimated.current
    if current is None:
        return {"current": estimated.question.current, "current_ends": None, "successor": None}
    return {
        "current": estimated.question.current,
        "current_ends": _day(current.ends),
        "successor": current.successor,
    }


def _volume(estimated: EstimateResult) -> dict[str, Any]:
    typed = None
    if estimated.question.volume:
        typed = estimated.question.volume.text
    volume = estimated.volume
    if volume is None:
        return {"volume": typed, "monthly_requests": None, "monthly_input_tokens": None}
    return {
        "volume": typed,
        "monthly_requests": volume.requests,
        "monthly_input_tokens": volume.input_tokens,
    }


def _assumptions(estimated: EstimateResult) -> list[dict[str, Any]]:
    if estimated.inputs is None:
        return []
    return [
        {
            "name": assumption.name,
            "value": assumption.value,
            "why": terminal_sentence(assumption.why),
        }
        for assumption in assumptions(estimated.inputs, estimated.volume)
    ]


def _training(estimated: EstimateResult) -> dict[str, Any]:
    training = estimated.training
    if training is None:
        # Scripts read the keys without asking whether they are there.
        return {
            "training_tokens": None,
            "training_tokens_estimated": None,
            "training_usd": None,
            "measuring_machine_usd": None,
        }
    return {
        "training_tokens": training.billed_tokens,
        "training_tokens_estimated": training.is_estimated,
        "training_usd": _number(training.usd.expected),
        "measuring_machine_usd": _number(estimated.machine_usd),
    }


def _minutes(minutes: Range | None) -> list[float] | None:
    if minutes is None:
        return None
    return [float(round(amount, 1)) for amount in (minutes.low, minutes.expected, minutes.high)]


def _offered(offered: UnmeasuredModel | None) -> dict[str, Any] | None:
    if offered is None:
        return None
    return {"model": offered.name, "monthly_usd": _number(offered.monthly.total)}


def _saving_then(estimate: Estimate) -> Decimal | None:
    """The saving after the model that it is compared with has ended."""
    if estimate.succession is None:
        return None
    return estimate.succession.saving_month


SUMS: Mapping[str, Callable[[Estimate], Decimal | None]] = {
    "monthly_before_usd": lambda estimate: estimate.monthly_before.input,
    "monthly_before_output_usd": lambda estimate: estimate.monthly_before.output,
    "monthly_before_total_usd": lambda estimate: estimate.monthly_before.total,
    "monthly_alternative_total_usd": lambda estimate: estimate.monthly_alternative.total,
    "monthly_after_usd": lambda estimate: estimate.monthly_after.input,
    "monthly_after_output_usd": lambda estimate: estimate.monthly_after.output,
    "monthly_after_hosting_usd": lambda estimate: estimate.monthly_after.hosting,
    "monthly_after_upkeep_usd": lambda estimate: estimate.monthly_after.upkeep,
    "monthly_after_total_usd": lambda estimate: estimate.monthly_after.total,
    "people_usd": lambda estimate: estimate.people_usd,
    "labels_usd": lambda estimate: estimate.labels_usd,
    "evaluation_usd": lambda estimate: estimate.evaluation_usd,
    "one_off_usd": lambda estimate: estimate.one_off_usd,
    "horizon_months": lambda estimate: estimate.horizon_months,
    "months_left": lambda estimate: estimate.months_left,
    "saving_then_month_usd": _saving_then,
}


def _sums(estimate: Estimate | None) -> dict[str, float | None]:
    if estimate is None:
        return dict.fromkeys(SUMS)
    return {name: _or_none(amount(estimate)) for name, amount in SUMS.items()}


def _savings(estimated: EstimateResult) -> dict[str, Any]:
    """`savings_withheld` says why the savings are null: the verdict is against the model, whatever it would save."""
    estimate = estimated.estimate
    withheld = None
    if estimated.verdict.withholds_saving:
        withheld = advice.NO_SAVING
    if withheld or estimate is None:
        return {
            "savings_withheld": withheld,
            "errors_avoided_month_usd": None,
            "saving_month_usd": None,
            "payback_months": None,
            "break_even_requests_per_month": None,
            "break_even_tokens_per_month": None,
            "npv_usd": None,
        }
    enough = enough_volume(estimate, estimated.outlook)
    return {
        "savings_withheld": None,
        "errors_avoided_month_usd": _number(estimate.errors_avoided_usd),
        "saving_month_usd": _number(estimate.saving_month),
        "payback_months": _or_none(estimate.payback_months),
        "break_even_requests_per_month": _requests(estimate, enough),
        "break_even_tokens_per_month": enough,
        "npv_usd": _number(estimate.npv_usd),
    }


def _requests(estimate: Estimate, input_tokens: int | None) -> int | None:
    if input_tokens is None:
        return None
    return math.ceil(input_tokens / estimate.tokens_per_request)


def _machines(estimated: EstimateResult) -> dict[str, Any]:
    needed = None
    if estimated.estimate:
        needed = estimated.estimate.machines
    return {"machines_needed": needed, "machines_reason": _machines_reason(estimated)}


def _machines_reason(estimated: EstimateResult) -> str:
    if estimated.inputs:
        machines = machines_assumption(estimated.inputs)
        if machines:
            return terminal_sentence(machines.why)
    target = estimated.target
    if target.model.usd_per_hour is None:
        return f"{target.row.title} serves it."
    return "The volume is unknown: give --current and --volume."


def _alternative(alternative: Alternative | None, estimate: Estimate | None) -> dict[str, Any] | None:
    if alternative is None or estimate is None:
        return None
    candidate = alternative.candidate
    measured: dict[str, Any] = {
        # Scripts read this key, so it keeps its old name.
        "rung": None,
        "model": alternative.rates.model,
        "score": None,
        "n": None,
    }
    if candidate:
        measured |= {"rung": candidate.kind, "score": candidate.score, "n": candidate.n}
    return {
        "name": alternative_name(alternative),
        "sentence": alternative_text(alternative),
        **measured,
        "monthly_usd": _number(estimate.monthly_alternative.total),
        "priced_by": alternative.rates.said_by,
    }


def _outlook(outlook: Outlook | None) -> dict[str, Any] | None:
    if outlook is None:
        return None
    return {
        "draws": outlook.draws,
        "seed": outlook.seed,
        "target_months": _number(outlook.target_months),
        "horizon_months": _number(outlook.horizon_months),
        "p_payback": outlook.p_payback,
        "people_time_said": outlook.is_time_said,
        "bearable_hours": _or_none(outlook.bearable_hours),
        "payback_months": _quantiles(outlook.payback_months),
        "saving_month_usd": _quantiles(outlook.saving_month),
        "npv_usd": _quantiles(outlook.npv),
        "tornado": [
            {
                "name": swing.name,
                "low_value": swing.low_value,
                "high_value": swing.high_value,
                "at_low_usd": _number(swing.at_low),
                "at_high_usd": _number(swing.at_high),
            }
            for swing in outlook.swings
        ],
        "months": [
            {
                "month": _number(month.month),
                "p5": _number(month.p5),
                "p50": _number(month.p50),
                "p95": _number(month.p95),
            }
            for month in outlook.months
        ],
    }


def _quantiles(quantiles: Quantiles) -> dict[str, float | None]:
    return {"p5": _or_none(quantiles.p5), "p50": _or_none(quantiles.p50), "p95": _or_none(quantiles.p95)}


def _price(row: PriceRow | UnknownPrice) -> dict[str, Any]:
    if isinstance(row, UnknownPrice):
        return {"model": row.name, "unknown": row.sentence, "nearest": list(row.nearest)}
    price = row.price
    usd_per_hour = row.hosted_usd_per_hour
    if usd_per_hour is None:
        usd_per_hour = row.usd_per_hour
    return {
        "model": row.model,
        "kind": row.kind,
        "input": _or_none(price.input),
        "cached_input": _or_none(price.cached_input),
        "output": _or_none(price.output),
        "training": _or_none(price.training),
        "usd_per_hour": _or_none(usd_per_hour),
        "batch_discount": _or_none(row.batch_discount),
        "source": row.source,
        "as_of": _day(row.as_of),
        "is_old": row.is_old(utc_today()),
        "prices_from": row.prices_from or None,
        "note": row.note,
        "ends": _day(row.ends),
        "has_ended": row.has_ended(utc_today()),
        "successor": row.successor,
        "ends_said_by": row.ends_said_by,
        "is_successor_doubtful": row.is_successor_doubtful,
        "closed_since": _day(row.closed_since),
        "is_closed": row.is_closed(utc_today()),
    }


def _day(day: date | None) -> str | None:
    if day is None:
        return None
    return day.isoformat()


def _or_none(amount: Decimal | None) -> float | None:
    if amount is None:
        return None
    return _number(amount)


def _number(amount: Decimal) -> float:
    """Rounds to six decimal places. For JSON only, which has no decimal type."""
    return float(round(amount, 6))


# Facts for an estimate from calls that other tools recorded.


def traces_parts(imported: TraceImport, out: Path | None) -> tuple[CardBlock, ...]:
    """Returns the card of `finetune import-traces` with its next step. `out` is the file of rows, if one was
    written."""
    parts = list(traces.facts_card(imported).parts)
    if out is not None:
        written = traces.rows_lines(imported.rows, str(out), imported.group.model)
        parts.append(written)
    lines = []
    if out is None:
        lines.append(f"Next: add --out rows.jsonl to write {len(imported.rows.lines):,} questions as rows.")
    elif not imported.rows.has_answers:
        lines.append(f"Next: upload labelled rows in Slack, then /finetune label DATASET with {out}.")
    estimate_it = "Then estimate, with your labelled rows as FILE:"
    if imported.rows.has_answers and out is not None:
        estimate_it = "Next: estimate."
    lines += [estimate_it, f"  {estimate_command(imported, out)}"]
    return (*parts, text_block("\n".join(lines)))


def estimate_command(imported: TraceImport, out: Path | None) -> str:
    """Returns the command that estimates with what the calls say: 'finetune estimate FILE current=gpt-4o …'."""
    file = "FILE"
    if out is not None and imported.rows.has_answers:
        file = str(out)
    options = [f"{key}={value}" for key, value in traces.estimate_options(imported).items()]
    return shlex.join(["finetune", "estimate", file, *options])


def traces_json(imported: TraceImport, out: Path | None) -> dict[str, Any]:
    """Rows are counted, not printed: they are in `out`."""
    rows = asdict(imported.rows)
    rows["lines"] = len(imported.rows.lines)
    return {
        "name": imported.file.name,
        "format": imported.file.format,
        "facts": asdict(imported.facts),
        "group": {
            "model": imported.group.model,
            "prompt": imported.group.prompt,
            "left_out": [asdict(each) for each in imported.group.left_out],
            "facts": asdict(imported.group_facts),
        },
        "rows": {**rows, "file": str(out) if out else None},
        "findings": [asdict(finding) for finding in imported.file.findings],
        "estimate": dict(traces.estimate_options(imported)),
        "command": estimate_command(imported, out),
    }
