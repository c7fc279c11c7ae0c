"""The month's budgets for people to see, and the warnings as each is used up: once a month each, by the tick."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from bot.decisions.budget import Budget
from bot.views import budgets as views
from bot.views.blocks import Message
from bot.workflows import money, sharing, telling
from bot.workflows.desk import Desk
from storage.records import Draft


def look(desk: Desk, person: str, channel: str) -> views.Month:
    """This month, UTC, with the limits that concern who asks where. All amounts are shown, and no name of a dataset
    that the person may not know of."""
    _, *own = money.budgets(desk, channel, person)
    month, known = _month(desk, tuple(own)), sharing.visible(desk, person, channel)
    held = [one if one.dataset in known else replace(one, dataset="") for one in month.held]
    return replace(month, held=held)


def warn(desk: Desk) -> None:
    """Of several that were passed at once, the highest is said; none is said twice, and no lower one later."""
    for budget in money.in_use(desk):
        _warn(desk, budget)


def _warn(desk: Desk, budget: Budget) -> None:
    month, now = telling.month(desk.clock()), desk.clock()
    passed = budget.warnings()
    if set(passed) <= desk.store.ledger.warned(month, budget.whose):
        return
    with desk.store.transaction():
        new = [one for one in passed if desk.store.ledger.warn(month, one, budget.whose, now=now)]
        if new:
            _say(desk, month, budget, max(new))


def _say(desk: Desk, month: str, budget: Budget, percent: int) -> None:
    known = _month(desk)
    whose = "" if budget.kind == "team" else f" of {budget.whose}"
    desk.store.audit.add(
        at=desk.clock(),
        who="finetune",
        action="budget warning",
        subject=f"budget {month}",
        detail=f"{percent}%{whose}",
    )
    once = f"budget {month} {percent}{whose}"
    draft = _draft(desk, known, budget, views.warning(known, budget, percent), once)
    if draft:
        desk.store.outbox.put(draft, now=desk.clock())


def _draft(desk: Desk, month: views.Month, budget: Budget, message: Message, once: str) -> Draft | None:
    """To whose budget it is; the team's to the fallback channel, else where the newest request was."""
    body, newest = message.letter(), next((one.channel for one in month.held), None)
    match budget.kind:
        case "channel":
            return Draft(kind="post", channel=budget.id, body=body, dedupe=once)
        case "person":
            place = newest or budget.id
            return Draft(kind="direct", channel=place, person=budget.id, body=body, dedupe=once)
        case "team":
            channel = desk.settings.slack.fallback_channel or newest
            return Draft(kind="post", channel=channel, body=body, dedupe=once) if channel else None


def _month(desk: Desk, own: tuple[Budget, ...] = ()) -> views.Month:
    now = desk.clock()
    name = datetime.fromtimestamp(now, UTC).strftime("%B %Y")
    return views.Month(name, money.team(desk), desk.store.ledger.held(telling.month(now)), own)
