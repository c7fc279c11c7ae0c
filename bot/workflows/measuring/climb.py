"""What the steps of a ladder share: its answers, what they have cost, and writing down how far it is."""

from __future__ import annotations

from collections.abc import Mapping

from bot.decisions.spending import most_micros, most_of_judge, paid_questions, spent_micros
from bot.measured import LadderPlan, LadderProgress
from bot.work import climbing, verdicts
from bot.work.climbing import ArmKeys
from bot.work.verdicts import Questions
from bot.workflows.datasets import SEED
from bot.workflows.desk import Desk
from bot.workflows.measuring import measurements
from storage.records import KeptReply, Measurement
from trainers.measuring.values import NO_ANSWER, Arm, Reply


def owner(measurement: Measurement) -> str:
    return f"m{measurement.id}"


def keys_of(desk: Desk, measurement: Measurement, plan: LadderPlan) -> Mapping[Arm, ArmKeys] | None:
    """None where its folder was lost: the same plan gives the same questions, which are being written again."""
    folder, work = measurements.folder_of(desk, measurement), f"prepare m{measurement.id}"
    keys = None if desk.workers.has(work) else climbing.read_keys(folder)
    return keys or desk.workers.poll(work, climbing.prepare, plan, desk.settings.files, folder, SEED)


def answered(desk: Desk, keys: Mapping[Arm, ArmKeys]) -> frozenset[str]:
    """Which questions have their answer, by one statement; the answers are not read."""
    return desk.store.replies.answered([key for one in keys.values() for key in one.keys])


def answers(desk: Desk, keys: Mapping[Arm, ArmKeys]) -> Mapping[str, KeptReply]:
    return desk.store.replies.found([key for one in keys.values() for key in one.keys])


def replies(
    keys: Mapping[Arm, ArmKeys], progress: LadderProgress, found: Mapping[str, KeptReply]
) -> dict[Arm, list[Reply]]:
    """Of the arms that could be measured. A question that was declined counts as an empty answer."""
    return {
        one.arm: [_reply(found.get(key)) for key in keys[one.arm].keys]
        for one in progress.arms
        if one.failed is None
    }


def judged_questions(desk: Desk, measurement: Measurement) -> list[Questions]:
    """Those that the judge is asked, as far as they are written."""
    folder = measurements.folder_of(desk, measurement)
    both = (verdicts.read_questions(folder, name) for name in (verdicts.ACCEPTABLE, verdicts.BETTER))
    return [one for one in both if one is not None]


def spent(
    desk: Desk,
    measurement: Measurement,
    plan: LadderPlan,
    progress: LadderProgress,
    under_way: frozenset[str] = frozenset(),
) -> int:
    """Micro-dollars. Questions that are `under_way` will be answered and paid: they count with the most that they
    can cost."""
    keys = climbing.read_keys(measurements.folder_of(desk, measurement))
    if keys is None or progress.started_at is None:
        return 0
    known = frozenset(key for one in keys.values() for key in one.keys) - (under_way - answered(desk, keys))
    by_arms = spent_by_arms(desk, plan, keys, progress.started_at)
    by_arms += most_micros(plan.price_of, keys, known, climbing.max_tokens(plan.labels), plan.thinking)
    return by_arms + _spent_on_judge(desk, measurement, plan, progress.started_at, under_way)


def stopped(desk: Desk, measurement: Measurement, plan: LadderPlan, progress: LadderProgress) -> int:
    """Nothing more is asked; what it has cost, with the questions under way, which will be answered and paid."""
    return spent(desk, measurement, plan, progress, desk.askers.drop(owner(measurement)))


def spent_by_arms(desk: Desk, plan: LadderPlan, keys: Mapping[Arm, ArmKeys], since: float) -> int:
    """What the answers that came `since` then have cost. One that was there before is free."""
    prices, heard = plan.price_of, desk.store.replies.heard
    asked = paid_questions(prices, keys)
    return spent_micros(
        prices, {model: heard(sorted(theirs), since=since) for model, theirs in asked.items()}
    )


def _spent_on_judge(
    desk: Desk, measurement: Measurement, plan: LadderPlan, since: float, under_way: frozenset[str]
) -> int:
    if plan.judge is None:
        return 0
    price, total, replies = plan.price_of[plan.judge], 0, desk.store.replies
    for asked in judged_questions(desk, measurement):
        known = asked.wanted - (under_way - replies.answered(asked.priced.keys))
        heard = replies.heard(asked.priced.keys, since=since)
        total += spent_micros(plan.price_of, {plan.judge: heard})
        total += most_of_judge(price, asked.priced, known, verdicts.cap(plan))
    return total


def keep(
    desk: Desk, measurement: Measurement, progress: LadderProgress, before: LadderProgress | None
) -> None:
    """Written, and shown where there is something new to see."""
    if progress == before:
        return
    with desk.store.transaction():
        moved = desk.store.measurements.move(
            measurement, measurement.state, now=desk.clock(), progress=progress.to_json(), tries=0
        )
        if moved:
            measurements.show(desk, moved)


def _reply(kept: KeptReply | None) -> Reply:
    if kept is None:
        return NO_ANSWER
    return Reply(kept.text, kept.prompt_tokens, kept.completion_tokens, kept.seconds, kept.at)
