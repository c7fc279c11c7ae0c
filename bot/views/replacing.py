"""One plan takes another's place, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bot.views.blocks import Message, section


def replaced(by: int, requester: str, link: str | None = None) -> str:
    """On the former plan's card. `link`: the address of the new one's."""
    which = f"<{link}|run {by}>" if link else f"run {by}"
    return f"Replaced by {which}, which <@{requester}> asked for. Approvals of this plan count no longer."


def too_late(number: int, by: int) -> str:
    """For who still clicks on the former plan's card."""
    return f"Run {number} was replaced by run {by}, so nothing was done. The message of run {by} asks for approval."


def replacing(card: Message, former: Sequence[int]) -> Message:
    """The new plan's card says whose place it takes, above its buttons."""
    if not former:
        return card
    whose = " and ".join(f"run {one}" for one in former)
    note = section(f"It replaces {whose} on the same dataset and target, whose approvals count no longer.")
    return replace(card, blocks=(*card.blocks[:-2], note, *card.blocks[-2:]))
