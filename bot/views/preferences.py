"""Which of two answers is better? Customers' words: for private channels only. Who answered what is not shown."""

from __future__ import annotations

from typing import Literal

from bot.views.blocks import Block, Message, actions, button, context, cut, escape, header, section
from bot.views.words import counted

FIRST, SECOND, SAME = "prefer_first", "prefer_second", "prefer_same"
Choice = Literal["first", "second", "tie"]
CHOSEN: dict[Choice, str] = {
    "first": "finds the first better",
    "second": "finds the second better",
    "tie": "finds both the same",
}
LONGEST = 900


def ask(key: str, question: str, first: str, second: str, *, done: int, wanted: int) -> Message:
    """`key` says which pair it is and goes back with the button."""
    title = "Which answer is better?"
    buttons = actions(button("First", FIRST, key), button("Second", SECOND, key), button("Same", SAME, key))
    count = f"{done:,} of {counted(wanted, 'pair')} judged. Your choices show how far the judge model can be trusted."
    return Message(title, (header(title), *_pair(question, first, second), buttons, context(count)))


def chosen(question: str, first: str, second: str, choice: Choice, person: str) -> Message:
    """The buttons give way to who chose what."""
    said = f"<@{person}> {CHOSEN[choice]}."
    return Message(said, (*_pair(question, first, second), context(said)))


def agreement(kappa: float | None, n: int) -> str:
    """A sentence about the judge model beside people, for the result's notes. κ: Cohen's."""
    if not n:
        return "Nobody has compared answers yet, so how far the judge model can be trusted is not known."
    if kappa is None:
        return f"The judge model and people compared {counted(n, 'pair')}: too few to say how far they agree."
    return f"The judge model agrees with people {_degree(kappa)}: κ {kappa:.2f} over {counted(n, 'pair')}."


def _degree(kappa: float) -> str:
    """Landis and Koch 1977, doi.org/10.2307/2529310, in fewer steps."""
    if kappa >= 0.6:
        return "well"
    if kappa >= 0.4:
        return "fairly"
    return (
        "little, so its scores say little" if kappa >= 0 else "less than by chance, so its scores say nothing"
    )


def _pair(question: str, first: str, second: str) -> tuple[Block, ...]:
    return (
        section(f"*The text*\n>{_quoted(question)}"),
        section(f"*First*\n>{_quoted(first)}"),
        section(f"*Second*\n>{_quoted(second)}"),
    )


def _quoted(text: str) -> str:
    return escape(cut(text.strip(), LONGEST) or "(nothing)").replace("\n", "\n>")
