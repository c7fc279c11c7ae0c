"""Free text judged by a model: its questions go to the askers as the arms' do, its verdicts come into the store.

Which answers would do is asked first, about every answer; then which of the best two arms' answers is better, in
both orders. Where it can't be asked, or would cost more than was agreed, the score is the one without a judge."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ParamSpec

from bot.context import AppContext
from bot.rules.costs import max_judge_micros
from bot.services import evaluation_progress, evaluation_worker, judge_worker, measurements
from bot.services.data_policy import Forbidden
from bot.services.judge_worker import JudgeAnswers, Questions, Texts
from bot.values.evaluations import JudgeProgress, LadderPlan, LadderProgress
from storage.records import Measurement
from trainers.money import usd_micros

_P = ParamSpec("_P")


def judge_maximum(
    context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress
) -> int | None:
    """The most that the judge can cost, in micro-dollars; None while that is worked out. Before all answers are
    there, each counts as long as an answer can be; what was judged before is free."""
    price = plan.price_of[str(plan.judge)]
    if all(one.answered == one.of for one in progress.arms):
        asked = _asked(context, measurement, plan, progress, JudgeProgress())
        if asked is None:
            return None
        if len(asked) == 2:
            known = context.store.replies.found(asked[1].priced.keys)
            return max_judge_micros(price, asked[1].priced, known, judge_worker.max_verdict_tokens(plan))
    worst = context.workers.poll(
        f"verdicts m{measurement.id}", judge_worker.longest_questions, plan, context.settings.files
    )
    return (
        None if worst is None else max_judge_micros(price, worst, (), judge_worker.max_verdict_tokens(plan))
    )


def step(context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> None:
    """What is missing is asked for; once nothing is, the ladder is worked out."""
    judge = progress.judge or JudgeProgress()
    asked = _asked(context, measurement, plan, progress, judge)
    if asked is None:
        return
    questions, is_first = asked[-1], len(asked) == 1
    found = context.store.replies.found(questions.priced.keys)
    declined = context.askers.collect(evaluation_progress.owner(measurement))
    judge, trouble = evaluation_progress.count_judge(judge, questions.wanted, found, declined)
    missing = questions.wanted - found.keys() - set(judge.declined)
    spent = evaluation_progress.spent(context, measurement, plan, progress)
    trouble = trouble or _too_dear(plan, progress, questions, missing, spent)
    against = measurements.egress_refusal(context, measurement) if missing else None
    if isinstance(against, Forbidden):
        trouble = against.said
    now_known = replace(
        progress,
        judge=_how_far(judge, plan, progress, asked),
        spent_micros=spent,
        note=_note(context, plan) if missing else None,
    )
    if trouble and missing:
        _stop(context, measurement, plan, now_known, trouble, is_first=is_first)
    elif not missing and not is_first:
        evaluation_progress.save_progress(context, measurement, replace(now_known, stage="judging"), progress)
    else:
        evaluation_progress.save_progress(context, measurement, now_known, progress)
        if against is None:
            _ask(context, measurement, plan, missing)


def heard(
    context: AppContext, measurement: Measurement, plan: LadderPlan, judge: JudgeProgress
) -> JudgeAnswers:
    """All that it has said so far."""
    folder = measurements.folder_of(context, measurement)
    acceptable, better = (
        judge_worker.read_questions(folder, name) for name in (judge_worker.ACCEPTABLE, judge_worker.BETTER)
    )
    keys = [key for one in (acceptable, better) if one for key in one.priced.keys]
    said = {key: one.text for key, one in context.store.replies.found(keys).items()}
    return JudgeAnswers(str(plan.judge), said, acceptable, better, judge.failed, judge.unpaired)


def _asked(
    context: AppContext,
    measurement: Measurement,
    plan: LadderPlan,
    progress: LadderProgress,
    judge: JudgeProgress,
) -> list[Questions] | None:
    """Its questions as far as they can be written: the second ones once all verdicts on single answers are there,
    or have been declined. None while they are being written."""
    keys = evaluation_progress.keys_of(context, measurement, plan)
    if keys is None:
        return None
    said = evaluation_progress.replies(keys, progress, evaluation_progress.answers(context, keys))
    texts: Texts = {arm: [reply.text for reply in replies] for arm, replies in said.items()}
    files, folder = context.settings.files, measurements.folder_of(context, measurement)
    first = _written(
        context, measurement, judge_worker.ACCEPTABLE, judge_worker.ask_acceptable, plan, texts, files, folder
    )
    if first is None:
        return None
    found = context.store.replies.found(first.priced.keys)
    if first.wanted - found.keys() - set(judge.declined):
        return [first]
    so_far = heard(context, measurement, plan, judge)
    second = _written(
        context, measurement, judge_worker.BETTER, judge_worker.ask_better, plan, texts, so_far, files, folder
    )
    return None if second is None else [first, second]


def _written(
    context: AppContext,
    measurement: Measurement,
    name: str,
    work: Callable[_P, Questions],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> Questions | None:
    key = f"{name} m{measurement.id}"
    folder = measurements.folder_of(context, measurement)
    there = None if context.workers.has(key) else judge_worker.read_questions(folder, name)
    return there or context.workers.poll(key, work, *args, **kwargs)


def _too_dear(
    plan: LadderPlan, progress: LadderProgress, questions: Questions, missing: frozenset[str], spent: int
) -> str | None:
    """Answers may be longer in the judge's tokens than in those of who gave them."""
    known = questions.wanted - missing
    more = max_judge_micros(
        plan.price_of[str(plan.judge)], questions.priced, known, judge_worker.max_verdict_tokens(plan)
    )
    if spent + more <= progress.most_micros:
        return None
    return (
        f"Asking {plan.judge} could cost more than the {usd_micros(progress.most_micros)} that were agreed."
    )


def _how_far(
    judge: JudgeProgress, plan: LadderPlan, progress: LadderProgress, asked: list[Questions]
) -> JudgeProgress:
    """Of the second questions it is not known at first how many there are."""
    first = len(asked[0].wanted)
    if len(asked) == 2:
        return replace(judge, of=first + len(asked[1].wanted), answered=first + judge.answered)
    has_pair = sum(one.failed is None for one in progress.arms) > 1
    return replace(judge, of=first + 2 * plan.n_holdout * has_pair)


def _note(context: AppContext, plan: LadderPlan) -> str | None:
    trouble = context.askers.trouble(str(plan.judge).split("/", 1)[0])
    return f"{trouble} Measuring goes on by itself." if trouble else None


def _stop(
    context: AppContext,
    measurement: Measurement,
    plan: LadderPlan,
    progress: LadderProgress,
    why: str,
    *,
    is_first: bool,
) -> None:
    """Without verdicts on single answers none counts; without the second ones only the comparison is missing."""
    under_way = context.askers.drop(evaluation_progress.owner(measurement))
    judge = progress.judge or JudgeProgress()
    now_known = replace(
        progress,
        stage="judging",
        judge=replace(judge, failed=why) if is_first else replace(judge, unpaired=why),
        spent_micros=evaluation_progress.spent(context, measurement, plan, progress, under_way),
        note=None,
    )
    evaluation_progress.save_progress(context, measurement, now_known, None)


def _ask(context: AppContext, measurement: Measurement, plan: LadderPlan, missing: frozenset[str]) -> None:
    owner = evaluation_progress.owner(measurement)
    if len(missing) <= context.askers.waiting(owner):
        context.askers.wake()
        return
    folder = measurements.folder_of(context, measurement)
    for name in (judge_worker.ACCEPTABLE, judge_worker.BETTER):
        path = folder / f"{name}.jsonl"
        questions = (
            evaluation_worker.questions_in(path, plan, missing, judge_worker.MAX_TOKENS)
            if path.exists()
            else []
        )
        context.askers.ask(owner, str(plan.judge).split("/", 1)[0], questions)
