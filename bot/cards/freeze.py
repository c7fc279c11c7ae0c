"""A spending freeze in words: in the channel, on the cards it holds up, in the status."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from bot.cards.blocks import Message, Text, escape
from bot.cards.general import text_message
from bot.rules.permissions import UNFREEZERS
from storage.money import Freeze


def frozen_card(freeze: Freeze, held_runs: int) -> Message:
    """Posted in the channel at once."""
    waits = {0: "", 1: " One run waits."}.get(held_runs, f" {held_runs} runs wait.")
    return text_message(
        f"*Frozen by <@{freeze.person}>*{_because(freeze)} Nothing new starts from now on, and models that run by the "
        f"hour are stopped; what already trains goes on, and nothing is lost.{waits} {UNFREEZERS} approvers lift it "
        "with `/finetune unfreeze`."
    )


def status_line(freeze: Freeze, against: Sequence[str]) -> str:
    """A line of the status card."""
    so_far = (
        f" <@{against[-1]}> has typed `/finetune unfreeze`; one more approver is needed." if against else ""
    )
    return f"*Frozen by <@{freeze.person}>*{_because(freeze)} Nothing new starts.{so_far}"


def unfreeze_requested(person: str, others: Collection[str]) -> Message:
    """The first word of two. `others` may say the second."""
    whom = ", ".join(f"<@{name}>" for name in sorted(others)[:10])
    cure = "nobody else is named: add an approver under [people] in finetune.toml"
    return text_message(
        f"<@{person}> wants to lift the freeze. One more approver has to type `/finetune unfreeze`: {whom or cure}."
    )


def unfrozen_card(freeze: Freeze, by: Sequence[str]) -> Message:
    people = " and ".join(f"<@{name}>" for name in by)
    return text_message(
        f"The freeze by <@{freeze.person}> was lifted by {people}. What waited goes on by itself."
    )


def add_freeze_notice(card: Message, freeze: Freeze) -> Message:
    """The card of a run or a measurement that waits, with a line that says why."""
    why = Text(
        f"*Waits: frozen by <@{freeze.person}>*{_because(freeze)} It goes on by itself after `/finetune unfreeze`."
    )
    return replace(card, parts=(*card.parts[:-1], why, *card.parts[-1:]))


def refusal(freeze: Freeze, what: str) -> str:
    """A refusal for a person who wants something that costs money. `what` begins the sentence."""
    return f"{what}: frozen by <@{freeze.person}>{_because(freeze)} Try again after `/finetune unfreeze`."


def _because(freeze: Freeze) -> str:
    reason = escape(freeze.reason.strip()).rstrip(".")
    return f": {reason}." if reason else "."
