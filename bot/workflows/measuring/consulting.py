"""Free text judged by a model: its questions go to the askers as the arms' do, its verdicts come into the store.

Which answers would do is asked first, about every answer; then which of the best two arms' answers is better, in
both orders. Where it can't be asked, or would cost more than was agreed, the score is the one without a judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import ParamSpec

from bot.decisions.spending import most_of_judge
from bot.measured import JudgeProgress, LadderPlan, LadderProgress
from bot.work import climbing, verdicts
from bot.work.verdicts import Heard, Questions, Texts
from bot.workflows.desk import Desk
from bot.workflows.measuring import climb, consent, counting, measurements
from bot.workflows.rechecking import Forbidden
from storage.records import Measurement
from trainers.money import usd_micros

_P = ParamSpec("_P")


def most(desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> int | None:
    """The most that the judge can cost, in micro-dollars; None while that is worked out. Before all answers are
    there, each counts as long as an answer can be; what was judged before is free."""
    price = plan.price_of[str(plan.judge)]
    if all(one.answered == one.of for one in progress.arms):
        asked = _asked(desk, measurement, plan, progress, JudgeProgress())
        if asked is None:
            return None
        if len(asked) == 2:
            known = desk.store.replies.found(asked[1].priced.keys)
            return most_of_judge(price, asked[1].priced, known, verdicts.cap(plan))
    worst = desk.workers.poll(f"verdicts m{measurement.id}", verdicts.most, plan, desk.settings.files)
    return None if worst is None else most_of_judge(price, worst, (), verdicts.cap(plan))


def step(desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> None:
    """What is missing is asked for; once nothing is, the ladder is worked out."""
    judge = progress.judge or JudgeProgress()
    asked = _asked(desk, measurement, plan, progress, judge)
    if asked is None:
        return
    questions, is_first = asked[-1], len(asked) == 1
    found = desk.store.replies.found(questions.priced.keys)
    declined = desk.askers.collect(climb.owner(measurement))
    judge, trouble = counting.of_judge(judge, questions.wanted, found, declined)
    missing = questions.wanted - found.keys() - set(judge.declined)
    spent = climb.spent(desk, measurement, plan, progress)
    trouble = trouble or _too_dear(plan, progress, questions, missing, spent)
    against = consent.of_rows(desk, measurement) if missing else None
    if isinstance(against, Forbidden):
        trouble = against.said
    now_known = replace(
        progress,
        judge=_how_far(judge, plan, progress, asked),
        spent_micros=spent,
        note=_note(desk, plan) if missing else None,
    )
    if trouble and missing:
        _stop(desk, measurement, plan, now_known, trouble, is_first=is_first)
    elif not missing and not is_first:
        climb.keep(desk, measurement, replace(now_known, stage="judging"), progress)
    else:
        climb.keep(desk, measurement, now_known, progress)
        if against is None:
            _ask(desk, measurement, plan, missing)


def heard(desk: Desk, measurement: Measurement, plan: LadderPlan, judge: JudgeProgress) -> Heard:
    """All that it has said so far."""
    folder = measurements.folder_of(desk, measurement)
    acceptable, better = (
        verdicts.read_questions(folder, name) for name in (verdicts.ACCEPTABLE, verdicts.BETTER)
    )
    keys = [key for one in (acceptable, better) if one for key in one.priced.keys]
    said = {key: one.text for key, one in desk.store.replies.found(keys).items()}
    return Heard(str(plan.judge), said, acceptable, better, judge.failed, judge.unpaired)


def _asked(
    desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress, judge: JudgeProgress
) -> list[Questions] | None:
    """Its questions as far as they can be written: the second ones once all verdicts on single answers are there,
    or have been declined. None while they are being written."""
    keys = climb.keys_of(desk, measurement, plan)
    if keys is None:
        return None
    said = climb.replies(keys, progress, climb.answers(desk, keys))
    texts: Texts = {arm: [reply.text for reply in replies] for arm, replies in said.items()}
    files, folder = desk.settings.files, measurements.folder_of(desk, measurement)
    first = _written(
        desk, measurement, verdicts.ACCEPTABLE, verdicts.ask_acceptable, plan, texts, files, folder
    )
    if first is None:
        return None
    found = desk.store.replies.found(first.priced.keys)
    if first.wanted - found.keys() - set(judge.declined):
        return [first]
    so_far = heard(desk, measurement, plan, judge)
    second = _written(
        desk, measurement, verdicts.BETTER, verdicts.ask_better, plan, texts, so_far, files, folder
    )
    return None if second is None else [first, second]


def _written(
    desk: Desk,
    measurement: Measurement,
    name: str,
    work: Callable[_P, Questions],
    *args: _P.args,
    **kwargs: _P.kwargs,
) -> Questions | None:
    key = f"{name} m{measurement.id}"
    folder = measurements.folder_of(desk, measurement)
    there = None if desk.workers.has(key) else verdicts.read_questions(folder, name)
    return there or desk.workers.poll(key, work, *args, **kwargs)


def _too_dear(
    plan: LadderPlan, progress: LadderProgress, questions: Questions, missing: frozenset[str], spent: int
) -> str | None:
    """Answers may be longer in the judge's tokens than in those of who gave them."""
    known = questions.wanted - missing
    more = most_of_judge(plan.price_of[str(plan.judge)], questions.priced, known, verdicts.cap(plan))
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


def _note(desk: Desk, plan: LadderPlan) -> str | None:
    trouble = desk.askers.trouble(str(plan.judge).split("/", 1)[0])
    return f"{trouble} Measuring goes on by itself." if trouble else None


def _stop(
    desk: Desk,
    measurement: Measurement,
    plan: LadderPlan,
    progress: LadderProgress,
    why: str,
    *,
    is_first: bool,
) -> None:
    """Without verdicts on single answers none counts; without the second ones only the comparison is missing."""
    under_way = desk.askers.drop(climb.owner(measurement))
    judge = progress.judge or JudgeProgress()
    now_known = replace(
        progress,
        stage="judging",
        judge=replace(judge, failed=why) if is_first else replace(judge, unpaired=why),
        spent_micros=climb.spent(desk, measurement, plan, progress, under_way),
        note=None,
    )
    climb.keep(desk, measurement, now_known, None)


def _ask(desk: Desk, measurement: Measurement, plan: LadderPlan, missing: frozenset[str]) -> None:
    owner = climb.owner(measurement)
    if len(missing) <= desk.askers.waiting(owner):
        desk.askers.wake()
        return
    folder = measurements.folder_of(desk, measurement)
    for name in (verdicts.ACCEPTABLE, verdicts.BETTER):
        path = folder / f"{name}.jsonl"
        questions = climbing.questions_in(path, plan, missing, verdicts.MAX_TOKENS) if path.exists() else []
        desk.askers.ask(owner, str(plan.judge).split("/", 1)[0], questions)
