"""The output of `finetune baseline` and `finetune curve`, as text and as JSON; that of `finetune compare` as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

from bot.cards.common import judge_agreement
from bot.cards.common.blocks import CardBlock
from bot.cards.common.candidates import LONG_NAMES, bar_share, several_labels_text
from bot.cards.common.words import TerminalSpelling, pluralize
from bot.cards.evidence import evaluation_details, evaluation_results, learning_curves, prompt_search
from bot.cards.evidence.evaluations import declined, fewer_examples, left_out
from bot.cli.datasets import EvaluationRows, holdout_notes
from bot.cli.estimates import verdict_json
from bot.cli.evaluations import EvaluationResult
from bot.cli.output import text_block
from bot.rules.fit import dollars_per_point
from bot.rules.judge_agreement import UNCHECKED
from bot.rules.training.compared_results import CommonScores, ResultPair, ResultsCompared
from bot.values.evaluations import JudgedPair
from trainers.evaluation.results import Curve, MeasuredCandidate
from trainers.evaluation.scores import HOW_READ
from trainers.money import from_micros


def baseline_parts(measured: EvaluationResult, rows: EvaluationRows, file: Path) -> tuple[CardBlock, ...]:
    comparison = measured.comparison
    spelling = TerminalSpelling(str(file))
    judged = judge_agreement.judge_notes(
        measured.plan.judge,
        judge_agreement.judged_models(measured.plan),
        measured.judge,
        comparison,
        UNCHECKED,  # people judge only in Slack
        spelling,
    )
    # Of the judge's notes the first says how far to trust it; the others are details.
    notes = [
        *_notes(measured, rows),
        *judged[:1],
        *fewer_examples(measured.plan),
        *left_out(measured.candidates),
    ]
    several_labels = several_labels_text(rows.report.n_combined)
    if several_labels:
        notes.append(several_labels)
    how_read = None
    if comparison.candidates and comparison.candidates[0].scoring == "label":
        how_read = HOW_READ
    verdict = measured.estimated.verdict
    card = evaluation_results.card(comparison, verdict=verdict, notes=notes, spelling=spelling)
    details = evaluation_details.details(
        comparison, how_read=how_read, notes=[*judged[1:], *declined(measured.candidates)]
    )
    parts = (*card.parts, *details, *prompt_search.details(measured.plan, measured.search))
    if measured.estimated.question.current:
        return parts
    estimate = (
        "To estimate cost and savings, add --json > baseline.json to this command, then run finetune estimate "
        f"{file} --baseline baseline.json --current MODEL --volume '20k requests'"
    )
    return (*parts, text_block(estimate))


def _notes(measured: EvaluationResult, rows: EvaluationRows) -> list[str]:
    """The bar, how the search for a prompt went, what was not measured, and what the user's own holdout changed."""
    rows_to_learn = pluralize(rows.report.n_train, "row")
    notes = [f"The bar is {_bar(measured)}; {rows_to_learn} to learn from and to take examples from."]
    if measured.search:
        notes.append(prompt_search.outcome(measured.search))
    if measured.skipped:
        names = ", ".join(LONG_NAMES[kind] for kind in measured.skipped)
        notes.append(
            f"Not measured: {names}, as no model is configured. Name one with --model, like openai/gpt-4o-mini, whose "
            "key is in .env, or add a base model under [trainer.models] in finetune.toml."
        )
    return [*notes, *holdout_notes(rows)]


def _bar(measured: EvaluationResult) -> str:
    """'the usual 85% (--bar sets another)', or the bar that was given."""
    share = bar_share(measured.comparison.bar)
    if measured.plan.is_bar_set:
        return share
    return f"the usual {share} (--bar sets another)"


def baseline_json(measured: EvaluationResult, rows: EvaluationRows, file: Path) -> dict[str, Any]:
    """Money is in dollars."""
    comparison = measured.comparison
    cheapest = None
    if comparison.cheapest:
        cheapest = comparison.cheapest.key
    return {
        "dataset": comparison.dataset,
        "n": comparison.n,
        "bar": comparison.bar,
        "rows_trained_on": rows.report.n_train,
        "rows_left_out": rows.left_out,
        "rows_nearly_held_out": len(rows.near),
        "rows_with_foreign_labels": rows.foreign,
        # Scripts read this key, so it keeps its old name.
        "rungs": [_candidate(candidate) for candidate in comparison.candidates],
        "failed": [
            {"name": candidate.identity.kind, "model": candidate.identity.model, "why": candidate.failed}
            for candidate in measured.candidates
            if candidate.failed is not None
        ],
        "declined": [
            {
                "name": candidate.identity.kind,
                "model": candidate.identity.model,
                "questions": len(candidate.declined),
                "why": candidate.why_declined,
            }
            for candidate in measured.candidates
            if candidate.declined and candidate.failed is None
        ],
        "skipped": list(measured.skipped),
        "search": _search(measured),
        "judge": _judge(measured),
        "cheapest": cheapest,
        "detectable_gap": comparison.detectable_gap,
        "verdict": verdict_json(measured.estimated.verdict, str(file)),
        # `finetune estimate` looks for it under this old name.
        "ladder": json.loads(comparison.to_json()),
    }


def curve_parts(curve: Curve, file: Path, label_usd: Decimal | None = None) -> tuple[CardBlock, ...]:
    """`label_usd` is the cost of one labelled row, None if unknown."""
    card = learning_curves.card(curve, label_usd=label_usd)
    return (*card.parts, *learning_curves.details(curve, label_usd, TerminalSpelling(str(file))))


def curve_json(curve: Curve, label_usd: Decimal | None = None) -> dict[str, Any]:
    """`predictions` are by rows, and `predicted` is the last of them. `usd_per_point` is in dollars; null if the price
    of a label is unknown, or if more rows may bring nothing."""
    a_point = None
    if label_usd is not None:
        a_point = _number(dollars_per_point(curve, label_usd))
    predictions = [
        {"n": prediction.rows, "score": prediction.score, "low": prediction.low, "high": prediction.high}
        for prediction in curve.predicted
    ]
    last = None
    if predictions:
        last = predictions[-1]
    return {
        "dataset": curve.dataset,
        "points": [
            {"n": point.rows, "score": point.score, "draws": list(point.draws)} for point in curve.points
        ],
        "fit": {"a": curve.a, "b": curve.b, "c": curve.c},
        "predicted": last,
        "predictions": predictions,
        "points_per_100": curve.points_per_100,
        "gain": _gain(curve),
        "usd_per_point": a_point,
        "needs": [
            {"label": need.label, "rows": need.rows, "held": need.held, "right": need.right}
            for need in curve.needs
        ],
    }


def _search(measured: EvaluationResult) -> dict[str, Any] | None:
    """`prompt` is null if no better one was found. The shares are of `rows` training rows."""
    search = measured.search
    if search is None:
        return None
    return {
        "prompt": measured.plan.optimised,
        "before": search.start,
        "rows": search.rows,
        "share": search.share,
        "share_before": search.start_share,
        "tried": search.tried,
        "usd": float(from_micros(search.spent_micros)),
        "ended": search.ended,
    }


def _judge(measured: EvaluationResult) -> dict[str, Any] | None:
    """`failed` says why the judge's verdicts don't count; `pair` counts rows by whose answer the judge prefers."""
    judge = measured.judge
    if judge is None:
        return None
    models = judge_agreement.judged_models(measured.plan)
    return {
        "model": measured.plan.judge,
        "failed": judge.failed,
        "warning": judge_agreement.bias_warning(measured.plan.judge, models),
        "judged": judge.judged,
        "without_verdict": judge.unread,
        "pair": _pair(judge.pair),
    }


def _pair(pair: JudgedPair | None) -> dict[str, Any] | None:
    if pair is None:
        return None
    return {
        "first": pair.first.key,
        "second": pair.second.key,
        "first_better": pair.count("first"),
        "second_better": pair.count("second"),
        "same": pair.count("tie"),
        "without_verdict": pair.count(None),
    }


def _gain(curve: Curve) -> dict[str, Any] | None:
    """The gain in points from today's score to that of the largest predicted size. If `told` is false, it may be
    chance; `next_useful` is the number of rows that would show a gain."""
    far = curve.farthest
    if far is None:
        return None
    next_useful = None
    if not far.is_certain:
        next_useful = curve.next_useful_size
    return {
        "n": far.rows,
        "points": far.points,
        "low": far.low,
        "high": far.high,
        "told": far.is_certain,
        "next_useful": next_useful,
    }


def _number(amount: Decimal | None) -> float | None:
    """For JSON only, which has no decimal type."""
    if amount is None:
        return None
    return float(amount)


def _candidate(candidate: MeasuredCandidate) -> dict[str, Any]:
    retrieval = None
    if candidate.retrieval:
        retrieval = asdict(candidate.retrieval)
    return {
        "name": candidate.kind,
        "model": candidate.model,
        "n": candidate.n,
        "score": candidate.score,
        "low": candidate.low,
        "high": candidate.high,
        "standing": candidate.standing,
        "rows_to_decide": candidate.rows_to_decide,
        "macro_f1": candidate.macro_f1,
        "usd_per_1000": _number(candidate.usd_per_1000),
        "p50_s": candidate.p50_s,
        "p95_s": candidate.p95_s,
        "unread": candidate.unread,
        "empty": candidate.empty,
        "retrieval": retrieval,
    }


def compared_json(compared: ResultsCompared) -> dict[str, Any]:
    """Money is in micro-dollars, `usd_per_1000` in dollars as text. Differences are shares from -1 to 1."""
    winner = None
    if compared.winner is not None:
        winner = compared.winner.name
    return {
        "outcome": compared.outcome,
        "winner": winner,
        "rows": compared.rows,
        "scoring": compared.scoring,
        "results": [_result_json(common) for common in compared.compared],
        "pairs": [_pair_json(pair) for pair in compared.pairs],
        "left_out": [{"name": each.result.name, "why": each.why} for each in compared.left_out],
    }


def _result_json(common: CommonScores) -> dict[str, Any]:
    result = common.result
    usd = None
    if result.usd is not None:
        usd = str(result.usd)
    return {
        "name": result.name,
        "dataset": result.dataset,
        "version": result.version,
        "answered_by": result.answered_by,
        "score": common.score,
        "cost_micros": result.cost_micros,
        "train_seconds": result.train_seconds,
        "usd_per_1000": usd,
        "settings": dict(result.settings),
    }


def _pair_json(pair: ResultPair) -> dict[str, Any]:
    difference = pair.difference
    return {
        "first": pair.first.name,
        "other": pair.other.name,
        "difference": difference.difference,
        "low": difference.low,
        "high": difference.high,
        "is_better": difference.is_better,
        "only_first": pair.only_first,
        "only_other": pair.only_other,
    }
