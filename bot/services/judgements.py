"""Free text judged by a model: its questions go through the engine like the candidates'.

It is asked first whether each answer is acceptable, then which of the best two candidates' answers is better, in both
orders. If it can't be asked, or would cost more than was agreed, the score is the one without a judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from bot.context import AppContext
from bot.services import (
    evaluation_engine,
    evaluation_progress,
    evaluation_worker,
    judge_worker,
    measurements,
)
from bot.services.data_policy import Forbidden
from bot.services.evaluation_engine import Asking, Evaluation
from bot.services.evaluation_worker import ArmKeys
from bot.services.judge_worker import ACCEPTABLE, BETTER, JudgeAnswers, Questions, Texts
from bot.values.evaluations import ArmProgress, JudgeProgress, LadderPlan, LadderProgress
from storage.records import Measurement
from trainers.money import usd_micros


def judge_maximum(
    context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress
) -> int | None:
    """Returns the judge's maximum cost in micro-dollars, None while that is computed. Until all answers are there, each
    counts as long as an answer can be; what was judged before is free. A search brings one candidate more."""
    if plan.search is None and all(arm.answered == arm.of for arm in progress.arms):
        questions = _asked(context, measurement, plan, progress, JudgeProgress())
        if questions is None:
            return None
        if len(questions) == 2:
            priced = questions[1].priced
            return judge_worker.max_micros(plan, priced, context.store.answers.answered(priced.keys))
    worst: ArmKeys | None = context.workers.poll(
        f"verdicts m{measurement.id}", judge_worker.longest_questions, plan, context.settings.files
    )
    return None if worst is None else judge_worker.max_micros(plan, worst, ())


def step(context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> None:
    """Asks what is missing; once nothing is, the ladder can be judged."""
    judge = progress.judge or JudgeProgress()
    so_far = _asked(context, measurement, plan, progress, judge)
    if so_far is None:
        return
    questions, is_first = so_far[-1], len(so_far) == 1
    owner, folder = evaluation_progress.owner(measurement), measurements.folder_of(context, measurement)
    evaluation = evaluation_of(owner, plan, questions, folder / f"{ACCEPTABLE if is_first else BETTER}.jsonl")
    answers = evaluation_engine.collect(context, evaluation, [arm_of(plan, questions, judge)])
    missing = answers.all_missing
    spent = evaluation_progress.spent(context, measurement, plan, progress)
    trouble = answers.failed or (_too_dear(plan, progress, questions, missing, spent) if missing else None)
    against = measurements.egress_refusal(context, measurement) if missing else None
    if isinstance(against, Forbidden):
        trouble = against.reason
    now_known = replace(
        progress,
        judge=_how_far(with_arm(judge, answers.arms[0]), plan, progress, so_far),
        spent_micros=spent,
        note=evaluation_engine.note(context, [str(plan.judge)]) if missing else None,
    )
    if trouble:
        _stop(context, measurement, plan, now_known, trouble, is_first=is_first)
    elif not missing and not is_first:
        evaluation_progress.save_progress(context, measurement, replace(now_known, stage="judging"), progress)
    else:
        evaluation_progress.save_progress(context, measurement, now_known, progress)
        if against is None:
            evaluation_engine.ask(context, evaluation, answers.unasked)


def evaluation_of(owner: str, plan: LadderPlan, questions: Questions, prompts: Path) -> Evaluation:
    """Returns the evaluation of these questions, which were written into `prompts`."""
    read = partial(evaluation_worker.questions_in, prompts, plan, longest=judge_worker.MAX_TOKENS)
    return Evaluation(owner, {judge_worker.candidate_of(plan): sorted(questions.wanted)}, read)


def arm_of(plan: LadderPlan, questions: Questions, judge: JudgeProgress) -> ArmProgress:
    """Returns the judge as a candidate of the engine, before it counts these questions."""
    declined = tuple(key for key in judge.declined if key in questions.wanted)
    return ArmProgress(judge_worker.candidate_of(plan), len(questions.wanted), declined=declined)


def with_arm(judge: JudgeProgress, arm: ArmProgress) -> JudgeProgress:
    """Returns the judge's progress after the engine has counted."""
    declined = tuple(dict.fromkeys((*judge.declined, *arm.declined)))
    return replace(judge, answered=arm.answered + len(arm.declined), declined=declined)


def heard(
    context: Asking,
    plan: LadderPlan,
    acceptable: Questions | None,
    better: Questions | None,
    judge: JudgeProgress,
) -> JudgeAnswers:
    """Returns everything that the judge has answered so far."""
    keys = [key for questions in (acceptable, better) if questions for key in questions.priced.keys]
    texts = {key: answer.text for key, answer in context.store.answers.read(keys).items()}
    return JudgeAnswers(str(plan.judge), texts, acceptable, better, judge.failed, judge.unpaired)


def heard_of(
    context: AppContext, measurement: Measurement, plan: LadderPlan, judge: JudgeProgress
) -> JudgeAnswers:
    """As `heard`, with the questions in the measurement's folder."""
    folder = measurements.folder_of(context, measurement)
    acceptable, better = (judge_worker.read_questions(folder, name) for name in (ACCEPTABLE, BETTER))
    return heard(context, plan, acceptable, better, judge)


def _asked(
    context: AppContext,
    measurement: Measurement,
    plan: LadderPlan,
    progress: LadderProgress,
    judge: JudgeProgress,
) -> Sequence[Questions] | None:
    """Returns the judge's questions that can be written: the second ones once every single answer is judged or
    declined. Returns None while a worker writes them."""
    keys = evaluation_progress.keys_of(context, measurement, plan)
    if keys is None:
        return None
    files, folder = context.settings.files, measurements.folder_of(context, measurement)

    def texts() -> Texts:
        replies_by_candidate = evaluation_engine.replies(
            context, evaluation_worker.only_keys(keys), progress.arms
        )
        return {arm: [reply.text for reply in replies] for arm, replies in replies_by_candidate.items()}

    def ask_first() -> Questions | None:
        work = f"{ACCEPTABLE} m{measurement.id}"
        return context.workers.poll(work, judge_worker.ask_acceptable, plan, texts(), files, folder)

    first = _written(context, measurement, ACCEPTABLE, ask_first)
    if first is None:
        return None
    if first.wanted - context.store.answers.answered(first.priced.keys) - set(judge.declined):
        return [first]

    def ask_second() -> Questions | None:
        work, so_far = f"{BETTER} m{measurement.id}", heard_of(context, measurement, plan, judge)
        return context.workers.poll(work, judge_worker.ask_better, plan, texts(), so_far, files, folder)

    second = _written(context, measurement, BETTER, ask_second)
    return None if second is None else [first, second]


def _written(
    context: AppContext, measurement: Measurement, name: str, write: Callable[[], Questions | None]
) -> Questions | None:
    """Returns the questions, read if they are written already."""
    folder = measurements.folder_of(context, measurement)
    is_at_work = context.workers.has(f"{name} m{measurement.id}")
    return (None if is_at_work else judge_worker.read_questions(folder, name)) or write()


def _too_dear(
    plan: LadderPlan, progress: LadderProgress, questions: Questions, missing: frozenset[str], spent: int
) -> str | None:
    """Returns why it would cost too much: answers may be longer in the judge's tokens than in their model's."""
    if (
        spent + judge_worker.max_micros(plan, questions.priced, questions.wanted - missing)
        <= progress.most_micros
    ):
        return None
    return (
        f"Asking {plan.judge} could cost more than the {usd_micros(progress.most_micros)} that were agreed."
    )


def _how_far(
    judge: JudgeProgress, plan: LadderPlan, progress: LadderProgress, questions: Sequence[Questions]
) -> JudgeProgress:
    """Returns how many questions are answered. The number of second questions isn't known at first."""
    first = len(questions[0].wanted)
    if len(questions) == 2:
        return replace(judge, of=first + len(questions[1].wanted), answered=first + judge.answered)
    has_pair = sum(arm.failed is None for arm in progress.arms) > 1
    return replace(judge, of=first + 2 * plan.n_holdout * has_pair)


def _stop(
    context: AppContext,
    measurement: Measurement,
    plan: LadderPlan,
    progress: LadderProgress,
    why: str,
    *,
    is_first: bool,
) -> None:
    """Goes on without the judge: without verdicts on single answers none counts; without the second ones only the
    comparison is missing."""
    under_way = context.llm.drop(evaluation_progress.owner(measurement))
    judge = progress.judge or JudgeProgress()
    now_known = replace(
        progress,
        stage="judging",
        judge=replace(judge, failed=why) if is_first else replace(judge, unpaired=why),
        spent_micros=evaluation_progress.spent(context, measurement, plan, progress, under_way),
        note=None,
    )
    evaluation_progress.save_progress(context, measurement, now_known, None)
