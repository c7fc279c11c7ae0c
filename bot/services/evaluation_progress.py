"""An evaluation's questions and answers: which are missing, what they have cost, and saving how far it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from bot.context import AppContext
from bot.llm_client import Declined
from bot.rules.costs import max_evaluation_micros, max_judge_micros, paid_questions, spent_micros
from bot.services import evaluation_worker, judge_worker, measurements
from bot.services.datasets import SEED
from bot.services.evaluation_worker import ArmKeys
from bot.services.judge_worker import Questions
from bot.values.evaluations import ArmProgress, JudgeProgress, LadderPlan, LadderProgress
from storage.records import CachedAnswer, Measurement
from trainers.evaluation.results import NO_ANSWER, Candidate, Reply


def owner(measurement: Measurement) -> str:
    return f"m{measurement.id}"


def keys_of(
    context: AppContext, measurement: Measurement, plan: LadderPlan
) -> Mapping[Candidate, ArmKeys] | None:
    """None where its folder was lost: the same plan gives the same questions, which are being written again."""
    folder, work = measurements.folder_of(context, measurement), f"prepare m{measurement.id}"
    keys = None if context.workers.has(work) else evaluation_worker.read_keys(folder)
    return keys or context.workers.poll(
        work, evaluation_worker.prepare, plan, context.settings.files, folder, SEED
    )


def answered_keys(context: AppContext, keys: Mapping[Candidate, ArmKeys]) -> frozenset[str]:
    """Which questions have their answer, by one statement; the answers are not read."""
    return context.store.replies.answered([key for one in keys.values() for key in one.keys])


def answers(context: AppContext, keys: Mapping[Candidate, ArmKeys]) -> Mapping[str, CachedAnswer]:
    return context.store.replies.found([key for one in keys.values() for key in one.keys])


def replies(
    keys: Mapping[Candidate, ArmKeys], progress: LadderProgress, found: Mapping[str, CachedAnswer]
) -> dict[Candidate, list[Reply]]:
    """Of the arms that could be measured. A question that was declined counts as an empty answer."""
    return {
        one.arm: [_reply(found.get(key)) for key in keys[one.arm].keys]
        for one in progress.arms
        if one.failed is None
    }


def judged_questions(context: AppContext, measurement: Measurement) -> list[Questions]:
    """Those that the judge is asked, as far as they are written."""
    folder = measurements.folder_of(context, measurement)
    both = (
        judge_worker.read_questions(folder, name) for name in (judge_worker.ACCEPTABLE, judge_worker.BETTER)
    )
    return [one for one in both if one is not None]


def spent(
    context: AppContext,
    measurement: Measurement,
    plan: LadderPlan,
    progress: LadderProgress,
    under_way: frozenset[str] = frozenset(),
) -> int:
    """Micro-dollars. Questions that are `under_way` will be answered and paid: they count with the most that they
    can cost."""
    keys = evaluation_worker.read_keys(measurements.folder_of(context, measurement))
    if keys is None or progress.started_at is None:
        return 0
    known = frozenset(key for one in keys.values() for key in one.keys) - (
        under_way - answered_keys(context, keys)
    )
    by_arms = spent_by_arms(context, plan, keys, progress.started_at)
    by_arms += max_evaluation_micros(
        plan.price_of, keys, known, evaluation_worker.max_tokens(plan.labels), plan.thinking
    )
    return by_arms + _spent_on_judge(context, measurement, plan, progress.started_at, under_way)


def stop(context: AppContext, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> int:
    """Nothing more is asked; what it has cost, with the questions under way, which will be answered and paid."""
    return spent(context, measurement, plan, progress, context.askers.drop(owner(measurement)))


def spent_by_arms(
    context: AppContext, plan: LadderPlan, keys: Mapping[Candidate, ArmKeys], since: float
) -> int:
    """What the answers that came `since` then have cost. One that was there before is free."""
    prices, heard = plan.price_of, context.store.replies.heard
    asked = paid_questions(prices, keys)
    return spent_micros(
        prices, {model: heard(sorted(theirs), since=since) for model, theirs in asked.items()}
    )


def _spent_on_judge(
    context: AppContext, measurement: Measurement, plan: LadderPlan, since: float, under_way: frozenset[str]
) -> int:
    if plan.judge is None:
        return 0
    price, total, replies = plan.price_of[plan.judge], 0, context.store.replies
    for asked in judged_questions(context, measurement):
        known = asked.wanted - (under_way - replies.answered(asked.priced.keys))
        heard = replies.heard(asked.priced.keys, since=since)
        total += spent_micros(plan.price_of, {plan.judge: heard})
        total += max_judge_micros(price, asked.priced, known, judge_worker.max_verdict_tokens(plan))
    return total


def save_progress(
    context: AppContext, measurement: Measurement, progress: LadderProgress, before: LadderProgress | None
) -> None:
    """Written, and shown where there is something new to see."""
    if progress == before:
        return
    with context.store.transaction():
        moved = context.store.measurements.move(
            measurement, measurement.state, now=context.clock(), progress=progress.to_json(), tries=0
        )
        if moved:
            measurements.show(context, moved)


def _reply(kept: CachedAnswer | None) -> Reply:
    if kept is None:
        return NO_ANSWER
    return Reply(kept.text, kept.prompt_tokens, kept.completion_tokens, kept.seconds, kept.at)


# How far the arms of a ladder and its judge are, from the answers that are there and what was declined.
# Pure.


SURELY_DECLINED = 5  # so many refusals and not one answer: the model itself can't be asked


def count_arm(
    one: ArmProgress, keys: ArmKeys, found: Collection[str], declined: Sequence[Declined]
) -> ArmProgress:
    """An arm as it is now: what was answered, what was declined, and whether it can go on at all."""
    if one.failed is not None or one.is_whole:
        return one
    ours = [decline for decline in declined if decline.model == one.arm.model]
    rows = {decline.key for decline in ours if not decline.of_model} & set(keys.keys) - set(found)
    known = (*one.declined, *sorted(rows - set(one.declined)))
    there = count_answered(keys, found)
    why = one.why_declined or next((decline.why for decline in ours if decline.key in rows), None)
    failed = next((decline.why for decline in ours if decline.of_model), None)
    if there + len(known) >= one.of and there:
        failed = None  # all that it was to say is there, whatever became of the model since
    if failed is None and not there and len(known) >= min(SURELY_DECLINED, one.of):
        failed = next((decline.why for decline in ours), "It declined every question.")
    return replace(one, answered=there, declined=known, failed=failed, why_declined=why)


def count_answered(keys: ArmKeys, found: Collection[str]) -> int:
    return sum(key in found for key in keys.keys)


def missing(
    keys: Mapping[Candidate, ArmKeys], arms: tuple[ArmProgress, ...], found: Collection[str]
) -> Mapping[Candidate, frozenset[str]]:
    return {
        one.arm: frozenset(key for key in keys[one.arm].keys if key not in found and key not in one.declined)
        for one in arms
        if one.arm.model and one.failed is None
    }


def count_judge(
    judge: JudgeProgress, wanted: frozenset[str], found: Collection[str], declined: Sequence[Declined]
) -> tuple[JudgeProgress, str | None]:
    """The judge as it is now, and why it can't go on with these questions, if it can't."""
    rows = {one.key for one in declined if not one.of_model} & wanted - set(found)
    known = (*judge.declined, *sorted(rows - set(judge.declined)))
    there, refused = len(wanted & set(found)), len(wanted & set(known))
    closed = next((one.why for one in declined if one.of_model), None)
    if closed is None and not there and wanted and refused >= min(SURELY_DECLINED, len(wanted)):
        closed = next((one.why for one in declined), "It declined every question.")
    return replace(judge, answered=there + refused, declined=known), closed
