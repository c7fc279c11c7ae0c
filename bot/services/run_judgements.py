"""A tuned model's free text, judged beside its base's in the run's own step: by the same judge, the same questions and
the same engine as the alternatives of a measurement.

Where the judge can't be asked, may not read the rows, or would cost more than the plan allows, the score is the one
without a judge, and the result says why.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bot.context import AppContext
from bot.rules.plans import Plan
from bot.services import data_policy, evaluation_engine, judgements, notifications
from bot.services.evaluation_engine import Evaluation
from bot.services.judge_worker import JudgeAnswers
from bot.services.judgements import Consultation, Consulted
from bot.values.evaluations import ArmProgress, JudgeProgress, LadderPlan
from bot.values.runs import Progress
from storage.records import Run
from trainers.evaluation.results import Candidate
from trainers.pricing import PriceList


def step(
    context: AppContext,
    run: Run,
    plan: Plan,
    evaluation: Evaluation,
    arms: list[ArmProgress],
    spent_micros: int,
) -> bool:
    """Asks the judge what has no verdict, once both models have answered. Returns whether nothing is left to ask it.
    `spent_micros`: by training and answers."""
    progress = Progress.from_json(run.progress)
    judge = progress.judge or JudgeProgress()
    if plan.judge is None:
        return True
    if judge.failed or judge.unpaired:
        return not context.llm.drop(evaluation.owner)  # what is under way has to be paid: it is waited for
    of_judge = _ladder_plan(context, plan, tuple(evaluation.keys))
    consultation = Consultation(
        evaluation.owner, of_judge, folder_of(context, run), evaluation.keys, arms, judge
    )
    consulted = judgements.consult(context, consultation)
    if consulted is None or consulted.is_complete:
        return consulted is not None
    waits = data_policy.unscanned(context, run.dataset_id, [plan.judge.partition("/")[0]])
    trouble = _trouble(context, run, plan, of_judge, consulted, spent_micros, is_scanned=waits is None)
    progressed = judgements.how_far(consulted, of_judge, has_pair=True)
    if trouble and consulted.is_first:
        progressed = replace(progressed, failed=trouble)
    elif trouble:
        progressed = replace(progressed, unpaired=trouble)
    _save(context, run, progress, progressed, evaluation, note=waits or _note(context, plan, progressed))
    if trouble is None and waits is None:
        consulted.ask(context)
    return False


def spent(context: AppContext, run: Run, plan: Plan) -> int:
    """Returns what the judge has cost in micro-dollars."""
    if plan.judge is None:
        return 0
    of_judge = _ladder_plan(context, plan, ())
    return judgements.spent_micros(context, of_judge, folder_of(context, run), run.state_since)


def judge_answers(context: AppContext, run: Run, plan: Plan) -> JudgeAnswers | None:
    """Returns the judge's answers, None if there is no judge."""
    if plan.judge is None:
        return None
    judge = Progress.from_json(run.progress).judge or JudgeProgress()
    return judgements.read_judge_answers(
        context, _ladder_plan(context, plan, ()), folder_of(context, run), judge
    )


def folder_of(context: AppContext, run: Run) -> Path:
    """Returns the folder of the judge's questions: inside the run's, which goes when its dataset is deleted."""
    return context.settings.data / "plots" / f"run-{run.id}" / "judge"


def _ladder_plan(context: AppContext, plan: Plan, arms: tuple[Candidate, ...]) -> LadderPlan:
    """Returns what a judge's questions rest on, as for a measurement of these two."""
    judge = str(plan.judge)
    listed = PriceList.from_json(plan.prices)
    price = next(price for price in reversed(listed.rows) if price.model == judge)
    return LadderPlan(
        dataset=plan.dataset,
        version=plan.dataset_version,
        task="free_text",
        train_sha256=plan.train_sha256,
        holdout_sha256=plan.holdout_sha256,
        n_holdout=plan.n_holdout,
        labels=(),
        arms=arms,
        prompt=None,
        bar=0.0,
        documents=(),
        prices=PriceList((price,), listed.read_on).to_json(),
        judge=judge,
        thinking=(judge,) if context.settings.thinks(judge) else (),
    )


def _trouble(
    context: AppContext,
    run: Run,
    plan: Plan,
    of_judge: LadderPlan,
    consulted: Consulted,
    spent_micros: int,
    *,
    is_scanned: bool,
) -> str | None:
    """Returns why the judge is asked nothing more. The rows have to be scanned before it is known whether it may read
    them."""
    if consulted.failed:
        return consulted.failed
    so_far = spent_micros + spent(context, run, plan)
    dear = judgements.too_dear(of_judge, consulted, so_far, plan.maximum_micros)
    return dear or (data_policy.judge_refusal(context, plan) if is_scanned else None)


def _note(context: AppContext, plan: Plan, judge: JudgeProgress) -> str | None:
    return None if judge.failed or judge.unpaired else evaluation_engine.note(context, [str(plan.judge)])


def _save(
    context: AppContext,
    run: Run,
    before: Progress,
    judge: JudgeProgress,
    evaluation: Evaluation,
    note: str | None,
) -> None:
    """Stores and shows how far the judge is, if there is anything new."""
    answers = len(evaluation.all_keys)
    progress = replace(
        before,
        judge=judge,
        evaluated=answers + judge.answered,
        to_evaluate=answers + judge.of,
        note=note,
    )
    if progress == before:
        return
    now = context.clock()
    with context.store.transaction():
        moved = context.store.runs.move(run, "evaluating", now=now, progress=progress.to_json(), next_at=now)
        if moved:
            notifications.show_progress(context, moved)
