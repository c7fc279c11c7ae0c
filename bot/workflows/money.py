"""The month's limits, the team's and those of channels and people, with what is reserved and spent of each.

Read inside the transaction that reserves, it cannot be passed by two at once.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Literal

from bot.decisions import budget as rules
from bot.decisions.budget import Budget
from bot.workflows import telling
from bot.workflows.desk import Desk
from storage.records import Run
from trainers.money import to_micros


def team(desk: Desk) -> Budget:
    limit = to_micros(desk.settings.budget.monthly_usd)
    return Budget(limit, desk.store.committed(telling.month(desk.clock())))


def budgets(desk: Desk, channel: str, person: str) -> tuple[Budget, ...]:
    """All that a run or measurement has to fit into, the team's first."""
    limits = desk.settings.budget
    own = (
        _own(desk, "channel", channel, limits.of_channel(channel)),
        _own(desk, "person", person, limits.of_person(person)),
    )
    return (team(desk), *(one for one in own if one is not None))


def tightest(desk: Desk, channel: str, person: str) -> Budget:
    return rules.tightest(budgets(desk, channel, person))


def refusal(desk: Desk, channel: str, person: str, asked_micros: int) -> str | None:
    """Why so much may not be spent now; None where it fits."""
    return rules.refusal(budgets(desk, channel, person), asked_micros)


def refusal_in_a_new_month(desk: Desk, run: Run) -> str | None:
    """Why a run that was approved in a month that is over may not be created in this one; None where it may."""
    if desk.store.runs.reserved_in(run) in (None, telling.month(desk.clock())):
        return None
    why = refusal(desk, run.channel, run.requester, run.reserved_micros)
    return f"It was approved in a month that is over. {why}" if why else None


def in_use(desk: Desk) -> tuple[Budget, ...]:
    """The team's, and of every channel and person with a limit that holds money this month."""
    limits = desk.settings.budget
    if not limits.has_own:
        return (team(desk),)
    held = desk.store.ledger.held(telling.month(desk.clock()))
    own = [
        *(
            _own(desk, "channel", one, limits.of_channel(one))
            for one in sorted({one.channel for one in held})
        ),
        *(_own(desk, "person", one, limits.of_person(one)) for one in sorted({one.person for one in held})),
    ]
    return (team(desk), *(one for one in own if one is not None))


def _own(desk: Desk, kind: Literal["channel", "person"], name: str, limit: Decimal | None) -> Budget | None:
    if limit is None:
        return None
    month = telling.month(desk.clock())
    return Budget(to_micros(limit), desk.store.ledger.committed(month, kind, name), kind, name)
