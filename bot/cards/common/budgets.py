"""This month's budget: what is left, what is reserved and for whom, the refusal if it is too small, and warnings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import CardBlock, Message, escape
from bot.cards.common.builder import Parts
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
    cost = usd_micros(asked_micros)
    left = usd_micros(max(budget.left_micros, 0))
    month = f"of this month's {usd_micros(budget.limit_micros)}{owner_text(budget)}"
    remains = f"only {left} {month} is left"
    if cost == left:
        # They differ by less than a cent, and 'may cost $1.20, but only $1.20 is left' would look like a fault.
        remains = f"slightly less than that is left {month}"
    cure = f"Raise {_setting(budget)} in finetune.toml, or wait for next month."
    return f"This {what} may cost {at_most(asked_micros)}, but {remains}. {cure}"


def owner_text(budget: Budget) -> str:
    """' for #channel' or ' for @person', as mrkdwn; '' for the team's budget."""
    match budget.kind:
        case "team":
            return ""
        case "channel":
            return f" for <#{budget.id}>"
        case "person":
            return f" for <@{budget.id}>"


def _setting(budget: Budget) -> str:
    match budget.kind:
        case "team":
            return "`monthly_usd` under [budget]"
        case "channel":
            return f"{budget.id} under [budget.channels], or `per_channel_usd` under [budget],"
        case "person":
            return f"{budget.id} under [budget.people], or `per_person_usd` under [budget],"


def card(month: Month) -> Message:
    budget = month.budget
    parts = Parts()
    if not budget.limit_micros:
        text = "No budget is set, so only free work can start. Set `monthly_usd` under [budget] in finetune.toml."
        parts.text(text)
        parts.add(*_own(month), *_details(month))
        return Message(text, tuple(parts))
    spent = sum(commitment.spent_micros for commitment in month.commitments)
    reserved = sum(commitment.reserved_micros for commitment in month.commitments)
    parts.facts(
        [
            ("Limit", money(budget.limit_micros)),
            ("Spent", money(spent)),
            ("Reserved", money(reserved)),
            ("Left", money(max(budget.left_micros, 0))),
        ]
    )
    parts.add(*_own(month), *_details(month))
    parts.note("Each item reserves its maximum cost; once it ends, only the actual cost counts.")
    return parts.titled(f"{month.name}: {_left(budget)}")


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
    if not month.own:
        return []
    parts = Parts()
    parts.text("*Your limits; the tightest counts*")
    parts.lines([f"• This month{owner_text(budget)}: {_left(budget)}" for budget in month.own])
    return parts


def _details(month: Month) -> list[CardBlock]:
    commitments = month.commitments
    if not commitments:
        return []
    parts = Parts()
    parts.text("*Newest first*")
    parts.lines(first_lines([*map(_line, commitments)], SHOWN))
    parts.text("*By person*")
    parts.lines(_totals(commitments, lambda commitment: f"<@{commitment.person}>"))
    parts.text("*By channel*")
    parts.lines(_totals(commitments, lambda commitment: f"<#{commitment.channel}>"))
    return parts


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
        case "live_test":
            name = f"Live test {commitment.number}"
        case "plain_questions":
            name = pluralize(commitment.number, "question in plain words", "questions in plain words")
    what = f"*{name}*"
    if commitment.dataset:
        what += f" on {escape(shorten(commitment.dataset))}"
    amount = f"{money(commitment.spent_micros)} spent"
    if commitment.reserved_micros:
        amount = f"{money(commitment.reserved_micros)} reserved"
    return f"• {what}: {amount}, for <@{commitment.person}> in <#{commitment.channel}>"


def _totals(commitments: Sequence[Commitment], whose: Callable[[Commitment], str]) -> list[str]:
    """A line for each person or channel, the largest sum first."""
    sums: Counter[str] = Counter()
    for commitment in commitments:
        sums[whose(commitment)] += commitment.micros
    ranked = sorted(sums.items(), key=lambda pair: (-pair[1], pair[0]))
    lines = [f"• {name}: {money(micros)}" for name, micros in ranked]
    return first_lines(lines, SHOWN_TOTALS)
