"""Has a model judge a tuned model's free text and its base's, as part of the run: with the same judge, questions and
engine as the alternatives of a measurement.

If the judge can't be asked, may not read the rows, or would cost more than the plan allows, the answers are scored
without a judge, and the result says why.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from bot.context import AppContext
from bot.rules.plans import Plan
from bot.services import data_policy, evaluation_engine, judgements, notifications
from bot.services.evaluation_engine import Evaluation
from bot.services.judge_worker import JudgeAnswers
from bot.services.judgements import Consultation
from bot.values.evaluations import ArmProgress, JudgeProgress, LadderPlan
from bot.values.runs import Progress
from storage.records import Run
from trainers.evaluation.results import Candidate
from trainers.pricing import PriceList


@dataclass(frozen=True)
class ResultStep:
    """A run whose tuned model is being evaluated, at a tick."""

    context: AppContext
    run: Run
    plan: Plan

    @property
    def owner(self) -> str:
        return f"run {self.run.id}"

    @property
    def progress(self) -> Progress:
        return Progress.from_json(self.run.progress)

    @property
    def judge(self) -> JudgeProgress:
        return self.progress.judge or JudgeProgress()

    @property
    def folder(self) -> Path:
        """The folder of the run's plots and of the judge's questions. It is deleted with the dataset."""
        return self.context.settings.data / "plots" / f"run-{self.run.id}"


def take_step(step: ResultStep, evaluation: Evaluation, arms: list[ArmProgress], run_micros: int) -> bool:
    """Asks the judge the questions without a verdict, once both models have answered. Returns True once nothing is left
    to ask. `run_micros` is the cost of the training and of both models' answers."""
    context, run, plan, judge = step.context, step.run, step.plan, step.judge
    if plan.judge is None:
        return True
    if judge.failed or judge.unpaired:
        return not context.llm.drop(step.owner)  # questions under way will be billed, so wait for them
    ladder_plan = _ladder_plan(step, tuple(evaluation.keys))
    consultation = Consultation(step.owner, ladder_plan, step.folder / "judge", evaluation.keys, arms, judge)
    consulted = judgements.consult(context, consultation)
    if consulted is None or consulted.is_complete:
        return consulted is not None
    provider = plan.judge.partition("/")[0]
    # The rows must be scanned before it is known whether the judge may read them.
    scan_missing = data_policy.unscanned(context, run.dataset_id, [provider])
    so_far = run_micros + spent_micros(step)
    problem = consulted.answers.failed or judgements.cost_problem(
        ladder_plan, consulted, so_far, plan.maximum_micros
    )
    if problem is None and scan_missing is None:
        problem = data_policy.dataset_refusal(context, run.dataset_id, [provider], plan.overridden)
    judge = judgements.count_progress(consulted, ladder_plan, has_pair=True)
    if problem:
        judge = replace(judge, failed=problem) if consulted.is_first else replace(judge, unpaired=problem)
    note = scan_missing or (None if problem else evaluation_engine.waiting_note(context, [plan.judge]))
    answers, now = len(evaluation.all_keys), context.clock()
    progress = replace(
        step.progress,
        judge=judge,
        evaluated=answers + judge.answered,
        to_evaluate=answers + judge.of,
        note=note,
    )
    if progress != step.progress:
        with context.store.transaction():
            moved = context.store.runs.move(
                run, "evaluating", now=now, progress=progress.to_json(), next_at=now
            )
            if moved:
                notifications.show_progress(context, moved)
    if problem is None and scan_missing is None:
        consulted.ask(context)
    return False


def spent_micros(step: ResultStep) -> int:
    """Returns the judge's cost in micro-dollars."""
    if step.plan.judge is None:
        return 0
    folder, since = step.folder / "judge", step.run.state_since
    return judgements.spent_micros(step.context, _ladder_plan(step, ()), folder, since)


def judge_answers(step: ResultStep) -> JudgeAnswers | None:
    """Returns the judge's answers, None if there is no judge."""
    if step.plan.judge is None:
        return None
    folder = step.folder / "judge"
    return judgements.read_judge_answers(step.context, _ladder_plan(step, ()), folder, step.judge)


def _ladder_plan(step: ResultStep, arms: tuple[Candidate, ...]) -> LadderPlan:
    """Returns the plan that the judge's questions are made from, as if a measurement compared these candidates."""
    plan, judge = step.plan, str(step.plan.judge)
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
        thinking=(judge,) if step.context.settings.thinks(judge) else (),
    )
