"""This month's budget: what is left, what is reserved and for whom, the refusal if it is too small, and warnings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import CardBlock, Facts, Lines, Message, Note, Text, escape
from bot.cards.common.general import text_message
from bot.cards.common.words import at_most, first_lines, money, pluralize, shorten
from bot.rules.budgets import Budget
from storage.money import Commitment
from trainers.money import usd_micros

SHOWN = 12
SHOWN_TOTALS = 8


@dataclass(frozen=True)
class Month:
    """`name` is like 'November 2026'. `commitments`, newest first, add up to the budget's `committed`. `own` has the
    budgets of the channel and the person who asked."""

    name: str
    budget: Budget
    commitments: Sequence[Commitment]
    own: Sequence[Budget] = ()


def budget_refusal(budget: Budget, asked_micros: int, what: str = "run") -> str:
    """A refusal with its cure, as mrkdwn."""
    cost, left = usd_micros(asked_micros), usd_micros(max(budget.left_micros, 0))
    month = f"of this month's {usd_micros(budget.limit_micros)}{owner_text(budget)}"
    # The two may round to the same amount.
    remains = f"slightly less than that is left {month}" if cost == left else f"only {left} {month} is left"
    cure = f"Raise {_setting(budget)} in finetune.toml, or wait for next month."
    return f"This {what} may cost {at_most(asked_micros)}, but {remains}. {cure}"


def owner_text(budget: Budget) -> str:
    """' for #channel' or ' for @person', as mrkdwn; '' for the team's budget."""
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
        text = "No budget is set, so only free work can start. Set `monthly_usd` under [budget] in finetune.toml."
        return Message(text, (Text(text), *_own(month), *_details(month)))
    title = f"{month.name}: {_left(budget)}"
    facts = [
        ("Limit", money(budget.limit_micros)),
        ("Spent", money(sum(commitment.spent_micros for commitment in month.commitments))),
        ("Reserved", money(sum(commitment.reserved_micros for commitment in month.commitments))),
        ("Left", money(max(budget.left_micros, 0))),
    ]
    how = "Each item reserves its maximum cost; once it ends, only the actual cost counts."
    return Message.titled(title, Facts(facts), *_own(month), *_details(month), Note(how))


def warning(month: Month, budget: Budget, percent: int) -> Message:
    """Posted once a month for each budget and warning level (`percent`)."""
    name = f"budget of {month.name}{owner_text(budget)}"
    used = f"{money(budget.committed_micros)} of {money(budget.limit_micros)} is spent or reserved"
    text = f"*{percent}% of the {name} is used*: {used}."
    if percent >= 100:
        until = f"until you raise {_setting(budget)} in finetune.toml"
        cure = f"Anything that costs money is refused until next month, or {until}."
        text = f"*The {name} is used up*: {used}. {cure}"
    return text_message(f"{text} `/finetune budget` shows on what.")


def _left(budget: Budget) -> str:
    return f"{money(max(budget.left_micros, 0))} of {money(budget.limit_micros)} left"


def _own(month: Month) -> list[CardBlock]:
    """The limits of the channel and the person. The tightest of all limits counts."""
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
            name = f"Running the model of run {commitment.number}"
        case "questions":
            name = pluralize(commitment.number, "question to a model", "questions to models")
    reserved = commitment.reserved_micros
    spent = commitment.spent_micros
    amount = f"{money(reserved)} reserved" if reserved else f"{money(spent)} spent"
    what = f" on {escape(shorten(commitment.dataset))}" if commitment.dataset else ""
    return f"• *{name}*{what}: {amount}, for <@{commitment.person}> in <#{commitment.channel}>"


def _totals(commitments: Sequence[Commitment], whose: Callable[[Commitment], str]) -> list[str]:
    """A line for each person or channel, the largest sum first."""
    sums: dict[str, int] = {}
    for commitment in commitments:
        sums[whose(commitment)] = sums.get(whose(commitment), 0) + commitment.micros
    ranked = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))
    return first_lines([f"• {name}: {money(micros)}" for name, micros in ranked], SHOWN_TOTALS)
