"""The month's budget for people to see, and the warnings as it is used up: once a month each, by the tick."""

from __future__ import annotations

from datetime import UTC, datetime

from bot.views import budgets as views
from bot.workflows import plans, telling
from bot.workflows.desk import Desk


def look(desk: Desk) -> views.Month:
    """This month, UTC."""
    now = desk.clock()
    name = datetime.fromtimestamp(now, UTC).strftime("%B %Y")
    return views.Month(name, plans.budget(desk), desk.store.ledger.held(telling.month(now)))


def warn(desk: Desk) -> None:
    """Of several that were passed at once, the highest is said; none is said twice, and no lower one later."""
    month, now = telling.month(desk.clock()), desk.clock()
    passed = plans.budget(desk).warnings()
    if set(passed) <= desk.store.ledger.warned(month):
        return
    with desk.store.transaction():
        new = [one for one in passed if desk.store.ledger.warn(month, one, now=now)]
        if new:
            _say(desk, month, max(new))


def _say(desk: Desk, month: str, percent: int) -> None:
    known = look(desk)
    channel = desk.settings.slack.fallback_channel or next((one.channel for one in known.held), None)
    desk.store.audit.add(
        at=desk.clock(),
        who="finetune",
        action="budget warning",
        subject=f"budget {month}",
        detail=f"{percent}%",
    )
    if channel:
        body = views.warning(known, percent).letter()
        desk.say(channel, body, dedupe=f"budget {month} {percent}")
