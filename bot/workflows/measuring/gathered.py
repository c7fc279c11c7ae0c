"""What was measured about a dataset, for an estimate and its advice: the newest ladder, curve and tuned model that
stand on the same holdout as the dataset does now."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bot.decisions.planning import Plan, plan_from_json
from bot.decisions.verdict.facts import Evidence
from bot.decisions.verdict.tasks import TaskKind, task_kind
from bot.results import RunResult
from bot.workflows.desk import Desk
from bot.workflows.targets import Target
from storage.records import AnswerRow, Dataset, Run
from trainers.dataset import Report
from trainers.evaluation import wilson
from trainers.measuring.bar import by_bar, judge_one, judged_by
from trainers.measuring.ladder import usd_per_1000
from trainers.measuring.scoring import is_unread
from trainers.measuring.values import DEFAULT_BAR, Arm, Curve, Ladder, Reply, Rung, Scoring
from trainers.pricing import PriceList


def evidence_of(
    desk: Desk,
    dataset: Dataset,
    report: Report,
    target: Target | None,
    *,
    bar: float | None = None,
    task: TaskKind | None = None,
) -> Evidence:
    """`target`: the tuned model is one of this base model; None: of any. `bar` and `task` None: as they are set."""
    wanted = desk.store.dataset_settings.get(dataset.name)
    bar = bar or (wanted.bar if wanted else None) or DEFAULT_BAR
    versions = tuple(one.id for one in desk.store.datasets.all() if one.name == dataset.name)
    holdout = str(report.holdout_sha256)
    without = Evidence(
        bar=bar,
        task_kind=task or (task_kind(wanted.task_kind) if wanted and wanted.task_kind else None),
        ladder=_ladder(desk, versions, holdout),
        curve=_curve(desk, versions, holdout),
    )
    return _with_tuned(desk, without, _newest_run(desk, versions, holdout, target))


def joined(evidence: Evidence, beside: Ladder) -> Evidence:
    """A run's own result put beside the ladder. The test of the two counts where that rung is still the same."""
    ladder, (tuned,) = evidence.ladder, beside.rung("tuned")
    others = [rung for rung in beside.rungs if rung is not tuned]
    same = [(rung.arm, rung.scores) for rung in ladder.rungs] if ladder else []
    if ladder and others and (others[0].arm, others[0].scores) in same:
        ladder = replace(ladder, pairs=(*ladder.pairs, *beside.pairs))
    return replace(evidence, ladder=ladder, tuned=_judged(tuned, beside.bar, evidence.bar))


def best_rung(evidence: Evidence) -> Rung | None:
    """Of the ladder and the tuned model, by the bar as it is now."""
    rungs = judged_by(evidence.ladder, evidence.bar).rungs if evidence.ladder else ()
    tuned = [evidence.tuned] if evidence.tuned else []
    return max([*rungs, *tuned], key=lambda rung: rung.score, default=None)


def _ladder(desk: Desk, versions: tuple[int, ...], holdout: str) -> Ladder | None:
    """The newest on which models were asked; a quick one of the classical rung alone does not hide it."""
    done = desk.store.measurements.done(versions, "ladder")
    ladders = [Ladder.from_json(one.result) for one in done if one.result]
    fitting = [ladder for ladder in ladders if ladder.holdout_sha256 == holdout]
    asked = (ladder for ladder in fitting if any(rung.arm.model for rung in ladder.rungs))
    newest = next(asked, fitting[0] if fitting else None)
    return judged_by(newest, newest.bar) if newest else None


def _curve(desk: Desk, versions: tuple[int, ...], holdout: str) -> Curve | None:
    done = desk.store.measurements.done(versions, "curve")
    curves = (Curve.from_json(one.result) for one in done if one.result)
    return next((curve for curve in curves if curve.holdout_sha256 == holdout), None)


def _newest_run(
    desk: Desk, versions: tuple[int, ...], holdout: str, target: Target | None
) -> tuple[Run, Plan] | None:
    runs = ((run, plan_from_json(run.plan)) for run in desk.store.runs.done(versions))
    return next(
        (
            (run, plan)
            for run, plan in runs
            if plan.holdout_sha256 == holdout
            and (target is None or (plan.provider, plan.base_model) == (target.row.name, target.model.name))
        ),
        None,
    )


def _with_tuned(desk: Desk, evidence: Evidence, found: tuple[Run, Plan] | None) -> Evidence:
    if found is None or found[0].result is None:
        return evidence
    beside = RunResult.from_json(found[0].result).ladder
    if beside is None:  # from a time when a result had no rung
        return replace(evidence, tuned=_rung(desk, *found, evidence.bar))
    return joined(evidence, beside)


def _judged(rung: Rung, judged_by: float, bar: float) -> Rung:
    """A tuned model by the bar as it is now: it was chosen before it was measured, so it stands alone."""
    return rung if judged_by == bar else by_bar((rung,), bar)[0]


def tuned_rung(desk: Desk, run: Run, plan: Plan, bar: float = DEFAULT_BAR) -> Rung | None:
    """What a run measured of its model; None where it has no result, or its dataset was deleted."""
    if run.result is None or desk.store.datasets.get(run.dataset_id).forgotten_at is not None:
        return None
    beside = RunResult.from_json(run.result).ladder
    return beside.rung("tuned")[0] if beside else _rung(desk, run, plan, bar)


def _rung(desk: Desk, run: Run, plan: Plan, bar: float) -> Rung | None:
    """The tuned arm of a run. A run has no macro F1 and no rows to decide: its worker did not work them out."""
    answers = desk.store.runs.answers(run.id, "tuned")
    if not answers:
        return None
    arm = Arm("tuned", f"{plan.provider}/{run.model}")
    right, n = sum(one.correct for one in answers), len(answers)
    likely, scores = wilson(right, n), tuple(float(one.correct) for one in answers)
    seconds = sorted(one.seconds for one in answers)
    scoring: Scoring = "label" if plan.labels else "f1"
    return Rung(
        arm=arm,
        scoring=scoring,
        scores=scores,
        score=right / n,
        low=likely.low,
        high=likely.high,
        standing=judge_one(scores, bar).standing,
        rows_to_decide=None,
        macro_f1=None,
        unread=sum(is_unread(scoring, one.text, plan.labels) for one in answers),
        empty=sum(not one.text.strip() for one in answers),
        prompt_tokens=sum(one.prompt_tokens for one in answers),
        completion_tokens=sum(one.completion_tokens for one in answers),
        p50_s=seconds[n // 2],
        p95_s=seconds[min(n * 95 // 100, n - 1)],
        usd_per_1000=usd_per_1000(
            arm, replies(answers), {str(arm.model): PriceList.from_json(plan.prices).rows[0]}
        ),
    )


def replies(answers: Sequence[AnswerRow]) -> tuple[Reply, ...]:
    return tuple(
        Reply(one.text, one.prompt_tokens, one.completion_tokens, one.seconds, one.came_at) for one in answers
    )
