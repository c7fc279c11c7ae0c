"""Computes a run's result in a worker process once both models have answered: the base model against the tuned one, row
by row and label by label, the tuned model as a candidate beside the best alternative, and the plots. Asks no model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bot.charts.confusion import draw_confusion
from bot.charts.evaluations import draw_comparison
from bot.charts.training import draw_training
from bot.rules.training.results import SAME_MEASURE, best_alternative
from bot.services.datasets.dataset_worker import examples
from bot.services.evidence.evaluation_worker import right_answers
from bot.values.evaluations import JudgeProgress
from bot.values.runs import (
    ChangedRow,
    LabelChange,
    MeasuredScore,
    ModelScore,
    ScoreChange,
    TrainingCurves,
    training_curves,
)
from storage.records import AnswerRow, ComparedModel
from trainers.dataset import Example
from trainers.dataset.rows import at, distinct_example_indices
from trainers.evaluation.looks import FIRST_LOOK, Origin
from trainers.evaluation.quality_threshold import rejudge_comparison
from trainers.evaluation.results import Candidate, Comparison, MeasuredCandidate, Reply, find_best
from trainers.evaluation.scores import label_or_text
from trainers.evaluation.statistics import (
    Confusion,
    Interval,
    LabelLoss,
    compare,
    confusion,
    find_worse_labels,
    label_scores,
)
from trainers.providers.pricing import PriceRow
from trainers.types import Metric

SHARES_OF_A_ROW = ("json", "f1")  # scorings by which an answer may be partly right
BEFORE = Candidate("zero")  # what answered before training; its name is nowhere shown


@dataclass(frozen=True)
class RunReplies:
    """The replies of the `base` and the `tuned` model to the rows of `holdout`, in its order, and the `alternatives`
    that were measured on the same rows. `candidate` is the tuned model under the name that people use; `labels` is
    empty for free text. `floor` is that of the dataset's report. `verdicts` are a judge's verdicts on both models'
    replies, None if there are none that count. `origin` says how the tuned model came about, and `read` are the
    positions of the rows that people had read with a wrong answer before they made its training rows."""

    run_id: int
    candidate: Candidate
    base: Sequence[Reply]
    tuned: Sequence[Reply]
    labels: tuple[str, ...]
    bar: float
    is_bar_set: bool
    price: PriceRow
    dataset: str
    version: int
    holdout: Path
    alternatives: tuple[MeasuredCandidate, ...]
    judge: JudgeProgress | None = None
    floor: float | None = None
    verdicts: tuple[Sequence[float], Sequence[float]] | None = None
    origin: Origin = FIRST_LOOK
    read: tuple[int, ...] = ()


@dataclass(frozen=True)
class JudgedRun:
    """`answers` are both models' answers to all rows; everything else counts copies of a row once. `changed` are the
    rows that only one model got right, the losses first. `beside` is a comparison of the tuned model and the best
    alternative. `is_base_ahead` is True if the base model is shown to be better than that alternative, None if there is
    no alternative, or if the two are scored differently."""

    base: ModelScore
    tuned: ModelScore
    better: int
    worse: int
    p_value: float
    gain_low: float
    gain_high: float
    curves: TrainingCurves
    beside: Comparison
    is_base_ahead: bool | None
    answers: tuple[AnswerRow, ...]
    changed: tuple[ChangedRow, ...]
    labels: tuple[LabelChange, ...]
    worse_labels: tuple[LabelLoss, ...]
    judge: JudgeProgress | None
    partial: ScoreChange | None


def judge_run(
    run_replies: RunReplies, metrics: Sequence[Metric], *, title: str, folder: Path, now: float
) -> JudgedRun:
    """Compares both models on the same rows, and draws quality.png, (for labels) confusion.png and the charts of the
    training into `folder`. `now` is in unix seconds."""
    path = run_replies.holdout
    labels = run_replies.labels
    holdout = examples(path.parent, path.stem)
    base_verdicts, tuned_verdicts = run_replies.verdicts or (None, None)
    base_rows = _answer_rows(run_replies, "base", run_replies.base, holdout, base_verdicts)
    tuned_rows = _answer_rows(run_replies, "tuned", run_replies.tuned, holdout, tuned_verdicts)
    positions = distinct_example_indices(holdout)
    base = at(positions, base_rows)
    tuned = at(positions, tuned_rows)
    expected = at(positions, holdout)
    compared = compare([row.correct for row in base], [row.correct for row in tuned])
    folder.mkdir(parents=True, exist_ok=True)
    beside = _comparison_beside_best(run_replies, holdout, now)
    (tuned_candidate,) = beside.of_kind("tuned")
    base_by_shares = _base_by_shares(run_replies, holdout, tuned_candidate)
    is_base_ahead = _is_base_ahead(base, base_by_shares, beside)
    base_matrix = _confusion(labels, expected, base)
    matrix = _confusion(labels, expected, tuned)
    label_changes: tuple[LabelChange, ...] = ()
    worse_labels: tuple[LabelLoss, ...] = ()
    if base_matrix and matrix:
        draw_confusion(matrix, compared, title, folder / "confusion.png")
        label_changes = _label_changes(base_matrix, matrix)
        worse_labels = _worse_labels(expected, base, tuned, beside, is_base_ahead)
    draw_training(metrics, title, folder)
    all_measured = replace(beside, candidates=(*_comparable(run_replies, beside), tuned_candidate))
    draw_comparison(all_measured, folder / "quality.png")
    return JudgedRun(
        base=_model_score(base, compared.base_correct, compared.base, base_matrix),
        tuned=_model_score(tuned, compared.tuned_correct, compared.tuned, matrix),
        better=compared.gained,
        worse=compared.lost,
        p_value=compared.p,
        gain_low=compared.difference_interval.low,
        gain_high=compared.difference_interval.high,
        curves=training_curves(metrics),
        beside=beside,
        is_base_ahead=is_base_ahead,
        answers=(*base_rows, *tuned_rows),
        changed=_changed_rows(holdout, base_rows, tuned_rows),
        labels=label_changes,
        worse_labels=worse_labels,
        judge=run_replies.judge,
        partial=_partial_change(base_by_shares, tuned_candidate),
    )


def _base_by_shares(
    run_replies: RunReplies, holdout: Sequence[Example], tuned: MeasuredCandidate
) -> MeasuredCandidate | None:
    """Scores the base model by shares of a row like the tuned one, None if a row is right or wrong."""
    from trainers.evaluation import comparison as comparisons

    if tuned.scoring not in SHARES_OF_A_ROW:
        return None
    alone = comparisons.build_comparison(
        {BEFORE: run_replies.base},
        holdout,
        run_replies.labels,
        run_replies.bar,
        {},
        dataset=run_replies.dataset,
        version=run_replies.version,
        holdout_sha256=run_replies.holdout.stem,
        measured_at=0.0,
    )
    (base,) = alone.candidates
    return base


def _partial_change(base: MeasuredCandidate | None, tuned: MeasuredCandidate) -> ScoreChange | None:
    from trainers.evaluation import comparison as comparisons

    if base is None:
        return None
    # The comparison wants the better of the two first. Turned round, its interval has the other sign.
    if tuned.score >= base.score:
        pair = comparisons.compare_candidates(tuned, base)
        low = pair.low
        high = pair.high
    else:
        pair = comparisons.compare_candidates(base, tuned)
        low = -pair.high
        high = -pair.low
    return ScoreChange(
        before=MeasuredScore(base.score, base.low, base.high),
        after=MeasuredScore(tuned.score, tuned.low, tuned.high),
        gain=tuned.score - base.score,
        low=low,
        high=high,
        p=pair.p,
    )


def _answer_rows(
    run_replies: RunReplies,
    compared: ComparedModel,
    replies: Sequence[Reply],
    holdout: Sequence[Example],
    verdicts: Sequence[float] | None,
) -> list[AnswerRow]:
    if verdicts is None:
        texts = [reply.text for reply in replies]
        right: Sequence[bool] = right_answers(texts, holdout, run_replies.labels)
    else:
        right = [verdict == 1 for verdict in verdicts]
    rows = []
    for number, (reply, is_right) in enumerate(zip(replies, right, strict=True)):
        row = AnswerRow(run_id=run_replies.run_id, arm=compared, row=number, correct=is_right, **vars(reply))
        rows.append(row)
    return rows


def _confusion(
    labels: Sequence[str], holdout: Sequence[Example], rows: Sequence[AnswerRow]
) -> Confusion | None:
    """Returns the confusion matrix of the answers, None for free text."""
    if not labels:
        return None
    expected = [row.answer for row in holdout]
    answered = [label_or_text(row.text, labels) for row in rows]
    return confusion(expected, answered)


def _label_changes(base: Confusion, tuned: Confusion) -> tuple[LabelChange, ...]:
    changes = []
    for old, new in zip(label_scores(base), label_scores(tuned), strict=True):
        changes.append(LabelChange(old.label, old.expected, old.correct, new.correct))
    return tuple(changes)


def _is_base_ahead(
    base: Sequence[AnswerRow], by_shares: MeasuredCandidate | None, beside: Comparison
) -> bool | None:
    """Compares the base model with the best alternative by the rule for any later look: what is measured last has to be
    clearly ahead."""
    best = best_alternative(beside)
    if best is None:
        return None
    if by_shares is not None:
        scores = by_shares.scores
    elif best.scoring in SAME_MEASURE:
        scores = tuple(float(row.correct) for row in base)
    else:
        return None
    share = sum(scores) / len(scores)
    later = replace(best, identity=BEFORE, score=share, scores=scores, look=best.look + 1)
    return find_best([best, later]) is later


def _worse_labels(
    expected: Sequence[Example],
    base: Sequence[AnswerRow],
    tuned: Sequence[AnswerRow],
    beside: Comparison,
    is_base_ahead: bool | None,
) -> tuple[LabelLoss, ...]:
    """Returns the labels on which the tuned model is worse than the best alternative, or than the base model if that is
    better."""
    before = [row.correct for row in base]
    best = best_alternative(beside)
    if best and not is_base_ahead:
        before = [score == 1 for score in best.scores]
    return find_worse_labels([row.answer for row in expected], before, [row.correct for row in tuned])


def _changed_rows(
    holdout: Sequence[Example], base: Sequence[AnswerRow], tuned: Sequence[AnswerRow]
) -> tuple[ChangedRow, ...]:
    changed = [
        ChangedRow(example.prompt[-1].content, example.answer, before.text, after.text, after.correct)
        for example, before, after in zip(holdout, base, tuned, strict=True)
        if before.correct != after.correct
    ]
    return tuple(sorted(changed, key=lambda row: row.is_better))


def _comparison_beside_best(run_replies: RunReplies, holdout: Sequence[Example], now: float) -> Comparison:
    """Returns a comparison of the best comparable alternative and the tuned model, with the paired test of the two."""
    from trainers.evaluation import comparison as comparisons

    verdicts = None
    if run_replies.verdicts:
        _, of_tuned = run_replies.verdicts
        verdicts = {run_replies.candidate: of_tuned}
    alone = comparisons.build_comparison(
        {run_replies.candidate: run_replies.tuned},
        holdout,
        run_replies.labels,
        run_replies.bar,
        {str(run_replies.candidate.model): run_replies.price},
        dataset=run_replies.dataset,
        version=run_replies.version,
        holdout_sha256=run_replies.holdout.stem,
        measured_at=now,
        verdicts=verdicts,
        floor=run_replies.floor,
    )
    (only,) = alone.candidates
    origin = run_replies.origin
    only = replace(only, look=origin.look, choices=origin.choices, read=run_replies.read)
    alone = replace(alone, is_bar_set=run_replies.is_bar_set, candidates=(only,))
    alone = rejudge_comparison(alone, run_replies.bar)
    (tuned,) = alone.candidates
    best = find_best(_comparable(run_replies, alone))
    if best is None:
        return alone
    # As above, the better of the two first.
    if tuned.score >= best.score:
        pair = comparisons.compare_candidates(tuned, best)
    else:
        pair = comparisons.compare_candidates(best, tuned)
    return replace(alone, candidates=(best, tuned), pairs=(pair,))


def _comparable(run_replies: RunReplies, comparison: Comparison) -> list[MeasuredCandidate]:
    """Returns the alternatives that were scored in the same way as the tuned model, on the same number of rows."""
    (tuned,) = comparison.of_kind("tuned")
    return [
        candidate
        for candidate in run_replies.alternatives
        if (candidate.scoring, candidate.n) == (tuned.scoring, tuned.n)
    ]


def _model_score(
    rows: Sequence[AnswerRow], correct: int, likely: Interval, matrix: Confusion | None
) -> ModelScore:
    from trainers.evaluation.comparison import percentiles

    p50_s, p95_s = percentiles([row.seconds for row in rows])
    unlisted = 0
    if matrix:
        unlisted = sum(row[-1] for row in matrix.counts)  # the last column: answers that are no label
    return ModelScore(
        correct=correct,
        n=len(rows),
        low=likely.low,
        high=likely.high,
        prompt_tokens=sum(row.prompt_tokens for row in rows),
        completion_tokens=sum(row.completion_tokens for row in rows),
        p50_s=p50_s,
        p95_s=p95_s,
        unlisted=unlisted,
    )
