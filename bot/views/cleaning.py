"""The cleaned copy of a file: the button that asks for it, where it goes, what was left out and why."""

from __future__ import annotations

from collections.abc import Sequence
from typing import assert_never

from bot.decisions.sharing import Place
from bot.views.blocks import Block, actions, button, code, escape
from bot.views.findings import Group, compact, groups, in_words
from bot.views.words import counted
from storage.records import Dataset
from trainers.dataset import Finding
from trainers.dataset.cleaning import Cleaned, LeftOut, NotCleaned

CLEAN = "post_cleaned"
SHOWN_PAIRS = 10


def offer(dataset: Dataset, findings: Sequence[Finding]) -> list[Block]:
    """A button, where `clean` would leave lines out: copies, and rows that can't be used."""
    if not any(group.rows and _is_left_out(group) for group in groups(findings)):
        return []
    return [actions(button("Post a cleaned file", CLEAN, str(dataset.id)))]


def _is_left_out(group: Group) -> bool:
    return group.severity == "blocks" or group.code == "duplicate"


def coming(dataset: Dataset, place: Place) -> str:
    match place:
        case "thread":
            return (
                f"A cleaned copy of {code(dataset.title)} is being written; it comes into the card's thread."
            )
        case "direct":
            return (
                f"A cleaned copy of {code(dataset.title)} is being written. It holds customers' words and "
                "everybody can read this channel, so it comes to you as a direct message."
            )
        case _:
            assert_never(place)


def waits(dataset: Dataset) -> str:
    return f"A cleaned copy of {code(dataset.title)} is being written for you already."


def not_cleaned(dataset: Dataset, refused: NotCleaned) -> str:
    return f"There is no cleaned copy of {code(dataset.title)}: {escape(refused.said)}"


def title(dataset: Dataset) -> str:
    return f"{dataset.title}, cleaned"


def filename(dataset: Dataset, cleaned: Cleaned) -> str:
    return f"{dataset.name}-cleaned.{cleaned.written_as}"


def said(dataset: Dataset, cleaned: Cleaned) -> str:
    """Beside the file: what was left out and why, what stayed, what to do with it."""
    lines = [
        f"{code(dataset.title)}, cleaned: {counted(cleaned.kept, 'row')}.",
        *map(escape, left_out(cleaned)),
    ]
    next_step = (
        f"Look it through, then upload it under the name {code(dataset.name)} with `/finetune upload`."
    )
    return "\n".join([*lines, next_step])


def left_out(cleaned: Cleaned) -> list[str]:
    """A sentence for each reason; lines are those of the file that was sent, which stays as it is."""
    if not cleaned.left_out:
        return ["Nothing had to be left out.", *_contradictions(cleaned)]
    return [
        f"Left out: {counted(cleaned.n_left_out, 'line')}.",
        *(f"• {_reason(reason)}" for reason in cleaned.left_out),
        *_contradictions(cleaned),
    ]


def _reason(reason: LeftOut) -> str:
    more = reason.count - len(reason.lines)
    rest = f" and {more:,} more" if more > 0 else ""
    words = "asks what the test asks" if reason.code == "overlap" else in_words(reason.code)
    return f"{reason.count:,} × {words}: {compact(reason.lines)}{rest}"


def _contradictions(cleaned: Cleaned) -> list[str]:
    if not cleaned.contradicting:
        return []
    pairs = ", ".join(f"{pair.earlier} and {pair.later}" for pair in cleaned.contradictions[:SHOWN_PAIRS])
    more = ", …" if cleaned.contradicting > SHOWN_PAIRS else ""
    return [
        f"Still in it, since only you can decide: {counted(cleaned.contradicting, 'line')} with another answer to "
        f"the same question (lines {pairs}{more})."
    ]
