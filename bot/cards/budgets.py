"""This month's budget: what is left, what is reserved, who asked for it and where; and the warnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bot.cards.blocks import CardBlock, Facts, Lines, Message, Note, Text, escape
from bot.cards.general import text_message
from bot.cards.words import first_lines, money, pluralize, shorten
from bot.rules.budgets import Budget
from storage.money import Commitment
from trainers.money import usd_micros

SHOWN, SHOWN_TOTALS = 12, 8


@dataclass(frozen=True)
class Month:
    """`name` like 'November 2026'. `commitments`, newest first: what they reserve and have spent is the budget's
    `committed`. `own`: the limits of the channel and the person that this is for."""

    name: str
    budget: Budget
    commitments: Sequence[Commitment]
    own: Sequence[Budget] = ()


def budget_refusal(budget: Budget, asked_micros: int, what: str = "run") -> str:
    """The refusal with its cure, as mrkdwn."""
    cost, left = usd_micros(asked_micros), usd_micros(max(budget.left_micros, 0))
    month = f"of this month's {usd_micros(budget.limit_micros)}{owner_text(budget)}"
    # Rounded, the two may sound the same.
    remains = f"a little less than that is left {month}" if cost == left else f"{left} {month} are left"
    cure = f"Raise {_setting(budget)} in finetune.toml, or wait for next month."
    return f"This {what} may cost up to {cost}, and {remains}. {cure}"


def owner_text(budget: Budget) -> str:
    """' for …', as mrkdwn; '' for the team's."""
    return {"team": "", "channel": f" for <#{budget.id}>", "person": f" for <@{budget.id}>"}[budget.kind]


def _setting(budget: Budget) -> str:
    return {
        "team": "`monthly_usd` under [budget]",
        "channel": f"{budget.id} under [budget.channels], or `per_channel_usd` under [budget],",
        "person": f"{budget.id} under [budget.people], or `per_person_usd` under [budget],",
    }[budget.kind]


def card(month: Month) -> Message:
    budget = month.budget
    if not budget.limit_micros:
        text = (
            "No budget is set, so only what costs nothing can start: "
            "`monthly_usd` under [budget] in finetune.toml sets one."
        )
        return Message(text, (Text(text), *_own(month), *_details(month)))
    title = f"{month.name}: {_left(budget)}"
    facts = [
        ("Limit", money(budget.limit_micros)),
        ("Spent", money(sum(commitment.spent_micros for commitment in month.commitments))),
        ("Reserved", money(sum(commitment.reserved_micros for commitment in month.commitments))),
        ("Left", money(max(budget.left_micros, 0))),
    ]
    how = "The most that each may cost is reserved; what it did cost counts once it is over."
    return Message.titled(title, Facts(facts), *_own(month), *_details(month), Note(how))


def warning(month: Month, budget: Budget, percent: int) -> Message:
    """Posted once a month for each of a few percents of each budget."""
    name = f"budget of {month.name}{owner_text(budget)}"
    used = f"{money(budget.committed_micros)} of {money(budget.limit_micros)} is spent or reserved"
    text = f"*{percent}% of the {name} is used*: {used}."
    if percent >= 100:
        cure = f"What costs money is refused until next month, or until {_setting(budget)} in finetune.toml is raised."
        text = f"*The {name} is used up*: {used}. {cure}"
    return text_message(f"{text} `/finetune budget` shows by what.")


def _left(budget: Budget) -> str:
    return f"{money(max(budget.left_micros, 0))} of {money(budget.limit_micros)} left"


def _own(month: Month) -> list[CardBlock]:
    """The limits of the channel and the person; the tightest of all holds."""
    lines = [f"• This month{owner_text(budget)}: {_left(budget)}" for budget in month.own]
    return [Text("*Your limits; the tightest counts*"), Lines(lines)] if lines else []


def _details(month: Month) -> list[CardBlock]:
    commitments = month.commitments
    if not commitments:
        return []
    return [
        *(Text("*Newest first*"), Lines(first_lines([*map(_line, commitments)], SHOWN))),
        *(Text("*By person*"), Lines(_totals(commitments, lambda commitment: f"<@{commitment.person}>"))),
        *(Text("*By channel*"), Lines(_totals(commitments, lambda commitment: f"<#{commitment.channel}>"))),
    ]


def _line(commitment: Commitment) -> str:
    match commitment.kind:
        case "run":
            name = f"Run {commitment.number}"
        case "measurement":
            name = f"Measurement m{commitment.number}"
        case "deployment":
            name = f"Running model of run {commitment.number}"
        case "questions":
            name = pluralize(commitment.number, "question to a model", "questions to models")
    reserved, spent = commitment.reserved_micros, commitment.spent_micros
    amount = f"{money(reserved)} reserved" if reserved else f"{money(spent)} spent"
    what = f" on {escape(shorten(commitment.dataset))}" if commitment.dataset else ""
    return f"• *{name}*{what}: {amount}, for <@{commitment.person}> in <#{commitment.channel}>"


def _totals(commitments: Sequence[Commitment], whose: Callable[[Commitment], str]) -> list[str]:
    """A line for each, the greatest sum first."""
    sums: dict[str, int] = {}
    for commitment in commitments:
        sums[whose(commitment)] = sums.get(whose(commitment), 0) + commitment.micros
    ranked = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))
    return first_lines([f"• {name}: {money(micros)}" for name, micros in ranked], SHOWN_TOTALS)
