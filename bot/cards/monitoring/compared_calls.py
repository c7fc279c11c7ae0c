"""The form in which a person says which of two answers to a call is right, without learning whose they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bot.cards.common.blocks import Block, CardBlock, Note, Text, actions, button, quote
from bot.cards.common.general import details_modal
from bot.cards.common.words import pluralize
from bot.cards.monitoring.live_labels import LONGEST_TEXT, label_selects
from bot.rules.monitoring.live_tests import Position

CHOOSE = "compared_label"
FIRST = "first_is_right"
SECOND = "second_is_right"
NEITHER = "neither_is_better"
POSITIONS: Mapping[str, Position] = {FIRST: "first", SECOND: "second", NEITHER: "neither"}
ANSWERS = (CHOOSE, *POSITIONS)
CHOSEN = "answer"  # the value of the buttons, which say all by their names
NO_ANSWER = "_no answer_"


@dataclass(frozen=True)
class CallToCompare:
    """A call of the live test with the number `test`, and the two answers, in an order that says nothing; None is no
    answer. `labels` are the choices, those of the dataset's version `version_id`; empty if answers are no labels, and
    then the person compares the answers. `left` calls wait, with this one."""

    test: int
    id: str
    question: str
    first: str | None
    second: str | None
    labels: tuple[str, ...]
    version_id: int
    left: int


def comparison_form(call: CallToCompare) -> Block:
    """The form's metadata are the live test, the version and the call, whose id is too long for an option. Labels are
    chosen before either answer is seen."""
    blocks: list[CardBlock | Block] = [Text(quote(call.question, LONGEST_TEXT))]
    if call.labels:
        blocks += label_selects(call.labels, CHOOSE)
        blocks.append(actions(button("Can't tell", NEITHER, CHOSEN)))
    else:
        blocks.append(Text(f"*First answer*\n{_shown(call.first)}"))
        blocks.append(Text(f"*Second answer*\n{_shown(call.second)}"))
        blocks.append(
            actions(
                button("First is right", FIRST, CHOSEN),
                button("Second is right", SECOND, CHOSEN),
                button("Both, neither, can't tell", NEITHER, CHOSEN),
            )
        )
    left = pluralize(call.left, "call")
    blocks.append(
        Note(
            f"{left} left on which the two differ, in the order of their arrival. Each answer is saved at once."
        )
    )
    form = details_modal("What is right?", blocks)
    form["private_metadata"] = f"{call.test} {call.version_id} {call.id}"
    return form


def read_metadata(metadata: str) -> tuple[int, int, str]:
    """Returns the live test, the version and the call of a form."""
    test, version_id, call = metadata.split()
    return int(test), int(version_id), call


def finished_form() -> Block:
    text = "No call waits any more. The card of the live test shows what your answers say."
    return details_modal("What is right?", [Text(text)])


def _shown(answer: str | None) -> str:
    if answer is None:
        return NO_ANSWER
    return quote(answer, LONGEST_TEXT // 2)
