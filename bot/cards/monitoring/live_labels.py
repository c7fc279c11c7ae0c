"""The form in which people label sampled calls, one after the other. Only the person who opened it sees the text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common import forms
from bot.cards.common.blocks import Block, CardBlock, Note, Text, actions, button, code, escape, plain, quote
from bot.cards.common.general import details_modal
from bot.cards.common.words import pluralize, shorten, shorten_apart

CHOOSE = "call_label"
RIGHT = "call_right"
WRONG = "call_wrong"
UNCLEAR = "call_unclear"
ANSWERS = (CHOOSE, RIGHT, WRONG, UNCLEAR)
JUDGED = "call"  # the value of the buttons, which say all by their names
LONGEST_TEXT = 2_500
LONGEST_OPTION = 75


@dataclass(frozen=True)
class CallToLabel:
    """A sampled call. `labels` are the choices, those of the dataset's version `version_id`; empty if answers are no
    labels, and then the person judges the `answer`. `left` calls wait, with this one."""

    id: str
    question: str
    answer: str
    labels: tuple[str, ...]
    version_id: int
    left: int


@dataclass(frozen=True)
class PreviousCall:
    """The answer to the call that the person has labelled just now, and whether it was right; None if they couldn't
    tell."""

    answer: str
    is_right: bool | None


def call_form(call: CallToLabel, previous: PreviousCall | None) -> Block:
    """The form's metadata are the version and the call, whose id is too long for an option."""
    blocks: list[CardBlock | Block] = []
    if previous is not None:
        blocks.append(Note(_previous_text(previous)))
    blocks.append(Text(quote(call.question, LONGEST_TEXT)))
    unclear = button("Can't tell", UNCLEAR, JUDGED)
    if call.labels:
        blocks += label_selects(call.labels, CHOOSE)
        blocks.append(actions(unclear))
    else:
        blocks.append(Text(f"*Its answer*\n{quote(call.answer, LONGEST_TEXT)}"))
        blocks.append(actions(button("Right", RIGHT, JUDGED), button("Wrong", WRONG, JUDGED), unclear))
    left = pluralize(call.left, "call")
    blocks.append(
        Note(f"{left} left, chosen at random. Each answer is saved at once and used to measure only.")
    )
    form = details_modal("What is right?", blocks)
    form["private_metadata"] = f"{call.version_id} {call.id}"
    return form


def read_metadata(metadata: str) -> tuple[int, str]:
    """Returns the version and the call of a form."""
    version_id, call = metadata.split()
    return int(version_id), call


def finished_form(dataset: str, previous: PreviousCall | None) -> Block:
    blocks: list[CardBlock | Block] = []
    if previous is not None:
        blocks.append(Note(_previous_text(previous)))
    blocks.append(
        Text(
            f"No more calls of {code(shorten(dataset))} wait for a label. Thank you. The week's card shows what the "
            "labels say."
        )
    )
    return details_modal("All calls labelled", blocks)


def _previous_text(previous: PreviousCall) -> str:
    answer = escape(shorten(previous.answer.strip() or "nothing", 60))
    if previous.is_right is None:
        return f"The answer to the last one was “{answer}”; it isn't counted."
    verdict = "right" if previous.is_right else "wrong"
    return f"The answer to the last one was “{answer}”: {verdict}."


def label_selects(labels: Sequence[str], action: str) -> list[Block]:
    """Selects of all labels. An option's value is the label's index, as a label may be longer than a value may be."""
    names = shorten_apart(labels, LONGEST_OPTION)
    selects = []
    for start in range(0, len(names), forms.MOST_OPTIONS):
        options = []
        for index in range(start, min(start + forms.MOST_OPTIONS, len(names))):
            options.append({"text": plain(names[index], LONGEST_OPTION), "value": f"{index}"})
        select = {
            "type": "static_select",
            "action_id": action,
            "placeholder": plain("The right label", 150),
            "options": options,
        }
        selects.append({"type": "section", "text": plain("Which label is right?", 150), "accessory": select})
    return selects
