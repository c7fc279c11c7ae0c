"""How far the arms of a ladder and its judge are, from the answers that are there and what was declined. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from bot.asking.lanes import Declined
from bot.measured import ArmProgress, JudgeProgress
from bot.work.climbing import ArmKeys
from trainers.measuring.values import Arm

SURELY_DECLINED = 5  # so many refusals and not one answer: the model itself can't be asked


def counted(
    one: ArmProgress, keys: ArmKeys, found: Collection[str], declined: Sequence[Declined]
) -> ArmProgress:
    """An arm as it is now: what was answered, what was declined, and whether it can go on at all."""
    if one.failed is not None or one.is_whole:
        return one
    ours = [decline for decline in declined if decline.model == one.arm.model]
    rows = {decline.key for decline in ours if not decline.of_model} & set(keys.keys) - set(found)
    known = (*one.declined, *sorted(rows - set(one.declined)))
    there = answered(keys, found)
    why = one.why_declined or next((decline.why for decline in ours if decline.key in rows), None)
    failed = next((decline.why for decline in ours if decline.of_model), None)
    if there + len(known) >= one.of and there:
        failed = None  # all that it was to say is there, whatever became of the model since
    if failed is None and not there and len(known) >= min(SURELY_DECLINED, one.of):
        failed = next((decline.why for decline in ours), "It declined every question.")
    return replace(one, answered=there, declined=known, failed=failed, why_declined=why)


def answered(keys: ArmKeys, found: Collection[str]) -> int:
    return sum(key in found for key in keys.keys)


def missing(
    keys: Mapping[Arm, ArmKeys], arms: tuple[ArmProgress, ...], found: Collection[str]
) -> Mapping[Arm, frozenset[str]]:
    return {
        one.arm: frozenset(key for key in keys[one.arm].keys if key not in found and key not in one.declined)
        for one in arms
        if one.arm.model and one.failed is None
    }


def of_judge(
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
