"""One live plan for a dataset and target: a new one takes the place of those that wait, approved or not.

A plan whose job may exist is none that waits: it is a run, and goes on.
"""

from __future__ import annotations

from bot.decisions.budget import Budget
from bot.decisions.planning import Plan, plan_from_json
from bot.views import plans as plan_views
from bot.views import replacing as views
from bot.views.blocks import Message, escape
from bot.workflows import telling, training
from bot.workflows.desk import Desk
from storage.records import Run


def waiting(desk: Desk, plan: Plan) -> list[Run]:
    """Runs on any version of its dataset, for its target, that have no job and none on its way."""
    waits = [run for run in desk.store.runs.open() if run.state in ("awaiting_approval", "approved")]
    return [run for run in waits if _same_aim(plan_from_json(run.plan), plan)]


def replace_by(desk: Desk, former: Run, new: Run, money: Budget) -> None:
    """Call it inside the transaction that found it waiting and added the new run."""
    now, said = desk.clock(), views.replaced(new.id, new.requester)
    if former.state == "approved":
        training.end(desk, former, "cancelled", said)
    else:
        desk.store.runs.move(former, "cancelled", now=now, error=said)
        what = escape(plan_views.what(plan_from_json(former.plan)))
        text = f"Your run {former.id} ({what}) was cancelled. {said}"
        telling.to_requester(desk, former, text, once=f"decision {former.id}")
    desk.store.replacements.add(former.id, new.id)
    desk.store.audit.add(
        at=now, who=new.requester, action="replace", subject=f"run {former.id}", detail=f"run {new.id}"
    )
    show(desk, former.id, said, money)


def noted(desk: Desk, run: Run, card: Message) -> Message:
    return views.replacing(card, desk.store.replacements.of(run.id))


def show(desk: Desk, number: int, said: str, money: Budget) -> None:
    """On the former plan's card, instead of its buttons."""
    former = desk.store.runs.get(number)
    if former is not None:
        card = plan_views.decided_card(former, plan_from_json(former.plan), money, said)
        telling.decided(desk, former, card)


def _same_aim(one: Plan, other: Plan) -> bool:
    return (one.dataset, one.provider, one.base_model) == (other.dataset, other.provider, other.base_model)
