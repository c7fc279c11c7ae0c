"""Which of two answers is better? Customers' words: for private channels only. Who answered what is not shown."""

from __future__ import annotations

from bot.decisions.people import People
from bot.views.blocks import Block, Message, actions, button, context, cut, escape, header, listed, section
from bot.views.rungs import arm_name
from bot.views.verdicts import kappa
from bot.views.words import counted
from trainers.measuring.reading import Choice
from trainers.measuring.values import Arm

FIRST, SECOND, SAME = "prefer_first", "prefer_second", "prefer_same"
JUDGE_SOME, JUDGE_SOME_WORDS = "judge_some", "Judge a few yourself"
CHOICES: dict[str, Choice] = {FIRST: "first", SECOND: "second", SAME: "tie"}
CHOSEN: dict[Choice, str] = {
    "first": "finds the first better",
    "second": "finds the second better",
    "tie": "finds both the same",
}
LONGEST = 900
WHAT_KAPPA_SAYS = (
    "κ (Cohen's) is agreement beyond chance: 1 is always, 0 is no more than chance. Below 0.4 a judge is not to be "
    "trusted. In brackets its 95% interval; with few choices it is wide."
)


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


def agreement(number: int, judge: str | None, found: People, first: Arm, second: Arm) -> Message:
    """How far the judge can be trusted, once enough pairs were judged; `judge` is None where there was none.
    `first` is the arm that was measured as the better one."""
    title = _trust(found) if judge else "What people found better"
    lines = [*(_beside(judge, found) if judge else []), _tally(found, first, second), *_between(found)]
    told = context(f"Measurement m{number}. {WHAT_KAPPA_SAYS}")
    return Message(escape(title), (header(title), listed([f"• {line}" for line in lines]), told))


def _trust(found: People) -> str:
    if found.kappa is None:
        return "How far the judge can be trusted is not known yet"
    return "Don't trust this judge" if found.distrusts else "The judge agrees with people"


def _beside(judge: str, found: People) -> list[str]:
    beside = found.beside_judge
    if beside is None:
        return [
            f"{escape(judge)} has a verdict that holds in both orders on too few of these pairs to be compared."
        ]
    agreed = f"{beside.agreed:,} of {counted(beside.n, 'choice')}"
    if beside.kappa is None:
        return [
            f"{escape(judge)} and people agree on {agreed}, but all say one and the same thing: κ can't be told."
        ]
    said = f"{escape(judge)} and people agree on {agreed}: {escape(kappa(beside))}."
    return [f"{said} Below 0.4: its scores say little."] if found.distrusts else [said]


def _tally(found: People, first: Arm, second: Arm) -> str:
    one, other = escape(arm_name(first, 40)), escape(arm_name(second, 40))
    who = counted(found.people, "person", "people")
    return (
        f"{counted(found.labels, 'choice')} of {who}: {found.first:,} for {one}, {found.second:,} for {other}, "
        f"{found.same:,} for neither."
    )


def _between(found: People) -> list[str]:
    between = found.between
    if between is None:
        return []
    agreed = f"{between.agreed:,} of {between.n:,}"
    return [f"Where two people judged the same pair, they agree on {agreed}: {escape(kappa(between))}."]


def _pair(question: str, first: str, second: str) -> tuple[Block, ...]:
    return (
        section(f"*The text*\n>{_quoted(question)}"),
        section(f"*First*\n>{_quoted(first)}"),
        section(f"*Second*\n>{_quoted(second)}"),
    )


def _quoted(text: str) -> str:
    return escape(cut(text.strip(), LONGEST) or "(nothing)").replace("\n", "\n>")
