"""This month's budget: what is left, what is reserved, who asked for it and where; and the warnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bot.cards.blocks import CardBlock, Facts, Headline, Lines, Message, Note, Text, escape
from bot.cards.words import money, pluralize, shorten
from bot.rules.budgets import Budget
from storage.money import Commitment

SHOWN, SHOWN_TOTALS = 12, 8


@dataclass(frozen=True)
class Month:
    """`name` like 'November 2026'. `held`: newest first; what they reserve and spent is the budget's `committed`.
    `own`: the limits of the channel and the person that this is for."""

    name: str
    budget: Budget
    held: Sequence[Commitment]
    own: Sequence[Budget] = ()


def card(month: Month) -> Message:
    budget = month.budget
    if not budget.limit_micros:
        text = (
            "No budget is set, so only what costs nothing can start: "
            "`monthly_usd` under [budget] in finetune.toml sets one."
        )
        return Message(text, (Text(text), *_own(month), *_details(month)))
    title = f"{month.name}: {money(max(budget.left_micros, 0))} of {money(budget.limit_micros)} left"
    return Message(
        title, (Headline(title), Facts(_facts(month)), *_own(month), *_details(month), Note(_how()))
    )


def warning(month: Month, budget: Budget, percent: int) -> Message:
    """Once a month for each of a few percents of each budget."""
    name = f"budget of {month.name}{budget.owner}"
    if percent >= 100:
        cure = f"What costs money is refused until next month, or until {budget.setting} in finetune.toml is raised."
        said = f"*The {name} is used up*: {_of(budget)}. {cure}"
    else:
        said = f"*{percent}% of the {name} is used*: {_of(budget)}."
    text = f"{said} `/finetune budget` shows by what."
    return Message(text, (Text(text),))


def _of(budget: Budget) -> str:
    committed, limit = money(budget.committed_micros), money(budget.limit_micros)
    return f"{committed} of {limit} is spent or reserved"


def _facts(month: Month) -> list[tuple[str, str]]:
    budget = month.budget
    return [
        ("Limit", money(budget.limit_micros)),
        ("Spent", money(sum(one.spent_micros for one in month.held))),
        ("Reserved", money(sum(one.reserved_micros for one in month.held))),
        ("Left", money(max(budget.left_micros, 0))),
    ]


def _own(month: Month) -> list[CardBlock]:
    """The tightest of all limits holds."""
    lines = [
        f"• This month{one.owner}: {money(max(one.left_micros, 0))} of {money(one.limit_micros)} left"
        for one in month.own
    ]
    return [Text("*Limits of your own; the tightest holds*"), Lines(lines)] if lines else []


def _details(month: Month) -> list[CardBlock]:
    if not month.held:
        return []
    more = len(month.held) - SHOWN
    newest = [*map(_line, month.held[:SHOWN]), *([f"… and {more:,} more"] if more > 0 else [])]
    return [
        *(Text("*Newest first*"), Lines(newest)),
        *(Text("*By person*"), Lines(_totals(month.held, lambda one: f"<@{one.person}>"))),
        *(Text("*By channel*"), Lines(_totals(month.held, lambda one: f"<#{one.channel}>"))),
    ]


def _line(one: Commitment) -> str:
    match one.kind:
        case "run":
            name = f"Run {one.number}"
        case "measurement":
            name = f"Measurement m{one.number}"
        case "questions":
            name = pluralize(one.number, "question to a model", "questions to models")
    amount = (
        f"{money(one.reserved_micros)} reserved"
        if one.reserved_micros
        else f"{money(one.spent_micros)} spent"
    )
    what = f" on {escape(shorten(one.dataset))}" if one.dataset else ""
    return f"• *{name}*{what}: {amount}, for <@{one.person}> in <#{one.channel}>"


def _totals(held: Sequence[Commitment], whose: Callable[[Commitment], str]) -> list[str]:
    """The greatest first."""
    sums: dict[str, int] = {}
    for one in held:
        sums[whose(one)] = sums.get(whose(one), 0) + one.micros
    ranked = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))
    more = len(ranked) - SHOWN_TOTALS
    lines = [f"• {name}: {money(micros)}" for name, micros in ranked[:SHOWN_TOTALS]]
    return [*lines, f"… and {more:,} more"] if more > 0 else lines


def _how() -> str:
    return "The most that each may cost is reserved; what it did cost counts once it is over."
