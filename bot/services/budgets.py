"""The month's limits of team, channels and people with what is reserved and spent, and the warnings as each
is used up."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal
from typing import Literal

from bot.cards import budgets as views
from bot.cards.blocks import Message
from bot.context import AppContext
from bot.rules import budgets as rules
from bot.rules import units
from bot.rules.budgets import Budget
from bot.services import authorization
from storage.records import Draft, Run
from trainers.money import to_micros


def team_budget(context: AppContext) -> Budget:
    limit = to_micros(context.settings.budget.monthly_usd)
    return Budget(limit, context.store.committed(units.month_of(context.clock())))


def all_budgets(context: AppContext, channel: str, person: str) -> tuple[Budget, ...]:
    """All that a run or measurement has to fit into, the team's first."""
    limits = context.settings.budget
    own = (
        _own(context, "channel", channel, limits.of_channel(channel)),
        _own(context, "person", person, limits.of_person(person)),
    )
    return (team_budget(context), *(budget for budget in own if budget is not None))


def tightest(context: AppContext, channel: str, person: str) -> Budget:
    return rules.tightest(all_budgets(context, channel, person))


def refusal(context: AppContext, channel: str, person: str, asked_micros: int) -> str | None:
    """Why so much may not be spent now; None where it fits."""
    return rules.refusal(all_budgets(context, channel, person), asked_micros)


def refusal_in_a_new_month(context: AppContext, run: Run) -> str | None:
    """Why a run that was approved in a month that is over may not be created in this one; None where it may."""
    if context.store.runs.reserved_in(run) in (None, units.month_of(context.clock())):
        return None
    why = refusal(context, run.channel, run.requester, run.reserved_micros)
    return f"It was approved in a month that is over. {why}" if why else None


def budgets_in_use(context: AppContext) -> tuple[Budget, ...]:
    """The team's, and of every channel and person with a limit that holds money this month."""
    limits = context.settings.budget
    if not limits.has_own:
        return (team_budget(context),)
    held = context.store.ledger.held(units.month_of(context.clock()))
    own = [
        *(
            _own(context, "channel", name, limits.of_channel(name))
            for name in sorted({commitment.channel for commitment in held})
        ),
        *(
            _own(context, "person", name, limits.of_person(name))
            for name in sorted({commitment.person for commitment in held})
        ),
    ]
    return (team_budget(context), *(budget for budget in own if budget is not None))


def _own(
    context: AppContext, kind: Literal["channel", "person"], name: str, limit: Decimal | None
) -> Budget | None:
    if limit is None:
        return None
    month = units.month_of(context.clock())
    return Budget(to_micros(limit), context.store.ledger.committed(month, kind, name), kind, name)


# The month's budgets for people to see, and the warnings as each is used up: once a month each, by the
# tick.


def month_for(context: AppContext, person: str, channel: str) -> views.Month:
    """This month, UTC, with the limits that concern who asks where. All amounts are shown, and no name of a dataset
    that the person may not know of."""
    _, *own = all_budgets(context, channel, person)
    month, names = _month(context, tuple(own)), authorization.visible_datasets(context, person, channel)
    held = [
        commitment if commitment.dataset in names else replace(commitment, dataset="")
        for commitment in month.held
    ]
    return replace(month, held=held)


def warn(context: AppContext) -> None:
    """Of several that were passed at once, the highest is said; none is said twice, and no lower one later."""
    for budget in budgets_in_use(context):
        _warn(context, budget)


def _warn(context: AppContext, budget: Budget) -> None:
    month, now = units.month_of(context.clock()), context.clock()
    passed = budget.warnings()
    if set(passed) <= context.store.ledger.warned(month, budget.whose):
        return
    with context.store.transaction():
        new = [value for value in passed if context.store.ledger.warn(month, value, budget.whose, now=now)]
        if new:
            _say(context, month, budget, max(new))


def _say(context: AppContext, month: str, budget: Budget, percent: int) -> None:
    previous_month = _month(context)
    whose = "" if budget.kind == "team" else f" of {budget.whose}"
    context.store.audit.add(
        at=context.clock(),
        who="finetune",
        action="budget warning",
        subject=f"budget {month}",
        detail=f"{percent}%{whose}",
    )
    once = f"budget {month} {percent}{whose}"
    draft = _draft(context, previous_month, budget, views.warning(previous_month, budget, percent), once)
    if draft:
        context.store.outbox.put(draft, now=context.clock())


def _draft(
    context: AppContext, month: views.Month, budget: Budget, message: Message, once: str
) -> Draft | None:
    """To whose budget it is; the team's to the fallback channel, else where the newest request was."""
    body, newest = message.letter(), next((commitment.channel for commitment in month.held), None)
    match budget.kind:
        case "channel":
            return Draft(kind="post", channel=budget.id, body=body, dedupe=once)
        case "person":
            place = newest or budget.id
            return Draft(kind="direct", channel=place, person=budget.id, body=body, dedupe=once)
        case "team":
            channel = context.settings.slack.fallback_channel or newest
            return Draft(kind="post", channel=channel, body=body, dedupe=once) if channel else None


def _month(context: AppContext, own: tuple[Budget, ...] = ()) -> views.Month:
    now = context.clock()
    name = datetime.fromtimestamp(now, UTC).strftime("%B %Y")
    return views.Month(name, team_budget(context), context.store.ledger.held(units.month_of(now)), own)
