"""Texts about a spending freeze: in the channel, on cards that wait, and in the status."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from bot.cards.common.blocks import Message, Text, escape
from bot.cards.common.general import text_message
from bot.rules.permissions import UNFREEZERS
from storage.money import Freeze


def frozen_card(freeze: Freeze, held_runs: int) -> Message:
    """Posted in the channel at once."""
    waits = ""
    if held_runs == 1:
        waits = " One run is waiting."
    elif held_runs:
        waits = f" {held_runs} runs are waiting."
    return text_message(
        f"*Spending frozen by <@{freeze.person}>*{_because(freeze)} Nothing new starts, and models that run by the "
        f"hour are stopped. Trainings in progress continue, and nothing is lost.{waits} {UNFREEZERS} approvers can "
        "lift the freeze with `/finetune unfreeze`."
    )


def status_line(freeze: Freeze, against: Sequence[str]) -> str:
    """A line of the status card."""
    text = f"*Spending frozen by <@{freeze.person}>*{_because(freeze)} Nothing new starts."
    if against:
        text += f" <@{against[-1]}> has typed `/finetune unfreeze`; one more approver is needed."
    return text


def unfreeze_requested(person: str, others: Collection[str] | None) -> Message:
    """The first of two votes. `others` can cast the second, None means every full member."""
    return text_message(f"<@{person}> wants to lift the freeze. {one_more_vote_text(others)}")


def one_more_vote_text(others: Collection[str] | None) -> str:
    if others is None:
        return "One more person has to type `/finetune unfreeze`: every full member may."
    vote = "One more approver has to type `/finetune unfreeze`"
    if not others:
        return f"{vote}, but there is none. Add one under [people] in finetune.toml."
    people = ", ".join(f"<@{name}>" for name in sorted(others)[:10])
    return f"{vote}: {people}."


def unfrozen_card(freeze: Freeze, by: Sequence[str]) -> Message:
    people = " and ".join(f"<@{name}>" for name in by)
    return text_message(
        f"The freeze by <@{freeze.person}> was lifted by {people}. Everything that was waiting continues automatically."
    )


def add_freeze_notice(card: Message, freeze: Freeze) -> Message:
    """Adds a line to the card of a waiting run or measurement that says why it waits."""
    why = Text(
        f"*Waiting: spending was frozen by <@{freeze.person}>*{_because(freeze)} It continues after "
        "`/finetune unfreeze`."
    )
    # Above the last part, which has the buttons or the note that cards end with.
    return replace(card, parts=(*card.parts[:-1], why, *card.parts[-1:]))


def refusal(freeze: Freeze, what: str) -> str:
    """A refusal of something that costs money. `what` begins the sentence."""
    return f"{what}: spending was frozen by <@{freeze.person}>{_because(freeze)} Try again after `/finetune unfreeze`."


def _because(freeze: Freeze) -> str:
    reason = escape(freeze.reason.strip()).rstrip(".")
    if not reason:
        return "."
    return f": {reason}."
