"""How far each arm of a ladder is, from the answers that are there and the questions that were declined. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from bot.askers import Declined
from bot.climbing import ArmKeys
from bot.measured import ArmProgress
from storage.records import KeptReply
from trainers.measuring.values import Arm

SURELY_DECLINED = 5  # so many refusals and not one answer: the model itself can't be asked


def counted(
    one: ArmProgress, keys: ArmKeys, found: Mapping[str, KeptReply], declined: Sequence[Declined]
) -> ArmProgress:
    """An arm as it is now: what was answered, what was declined, and whether it can go on at all."""
    if one.failed is not None:
        return one
    ours = [decline for decline in declined if decline.model == one.arm.model]
    rows = {decline.key for decline in ours if not decline.of_model} & set(keys.keys) - set(found)
    known = (*one.declined, *sorted(rows - set(one.declined)))
    there = answered(keys, found)
    failed = next((decline.why for decline in ours if decline.of_model), None)
    if failed is None and not there and len(known) >= min(SURELY_DECLINED, one.of):
        failed = next((decline.why for decline in ours), "It declined every question.")
    return replace(one, answered=there, declined=known, failed=failed)


def answered(keys: ArmKeys, found: Mapping[str, KeptReply]) -> int:
    return sum(key in found for key in keys.keys)


def missing(
    keys: Mapping[Arm, ArmKeys], arms: tuple[ArmProgress, ...], found: Mapping[str, KeptReply]
) -> Mapping[Arm, frozenset[str]]:
    return {
        one.arm: frozenset(key for key in keys[one.arm].keys if key not in found and key not in one.declined)
        for one in arms
        if one.arm.model and one.failed is None
    }
