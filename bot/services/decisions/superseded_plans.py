"""Plans that a newer one supersedes, because it tries the same: which they are, how they end, and the link from their
cards to the new one. Plans that try something else wait side by side (plan_requests.py)."""

from __future__ import annotations

from bot.cards.common.blocks import escape
from bot.cards.decisions import plans as plan_views
from bot.cards.decisions.plan_refusals import superseded_by
from bot.context import AppContext
from bot.rules.budgets import Budget
from bot.rules.plan_settings import tries_the_same
from bot.rules.plans import Plan, plan_from_json
from bot.services.common import budgets
from bot.services.evidence import notifications, run_states
from storage.records import Run

LOOK_FOR_CARDS_S = 3600.0


def find_superseded(context: AppContext, plan: Plan) -> list[Run]:
    """Returns the runs that try the same as the plan and have no job yet, nor are about to have one."""
    waiting = []
    for run in context.store.runs.open():
        if run.state not in ("awaiting_approval", "approved"):
            continue
        if tries_the_same(plan_from_json(run.plan), plan):
            waiting.append(run)
    return waiting


def supersede(context: AppContext, former: Run, new: Run, money: Budget) -> None:
    """Cancels the former run in favour of the new one. Call this in the transaction that found the former run waiting
    and added the new run."""
    sentence = superseded_by(new.id, new.requester)
    if former.state == "approved":
        run_states.end(context, former, "cancelled", sentence)
    else:
        context.store.runs.move(former, "cancelled", now=context.clock(), error=sentence)
        card = notifications.link_to(context, former)
        title = plan_views.plan_title(plan_from_json(former.plan))
        text = f"Your {card} ({escape(title)}) was cancelled. {sentence}"
        once = f"decision {former.id}"
        notifications.tell_requester(context, former, text, topic="approvals", once=once)
    context.store.replacements.add(former.id, new.id)
    context.audit(new.requester, "replace", f"run {former.id}", f"run {new.id}")
    show_superseded(context, former.id, sentence, money)


def link_superseded(context: AppContext) -> None:
    """Adds links from superseded plans' cards to the new cards, which have an address only once they are posted. Tries
    for an hour."""
    now = context.clock()
    since = now - LOOK_FOR_CARDS_S
    for replacement in context.store.replacements.unlinked(since):
        where = context.directory.permalink(replacement.channel, replacement.ts)
        new = context.store.runs.get(replacement.by_run_id)
        if where is None or new is None:
            continue
        with context.store.transaction():
            # In one transaction with the card's edit, so that a kill leaves both to the next tick.
            if context.store.replacements.mark_linked(replacement.run_id, now=now):
                text = superseded_by(new.id, new.requester, where)
                show_superseded(context, replacement.run_id, text, budgets.team_budget(context))


def show_superseded(context: AppContext, number: int, text: str, money: Budget) -> None:
    """Edits the former plan's card: it gets the text and loses its buttons."""
    former = context.store.runs.get(number)
    if former is None:
        return
    plan = plan_from_json(former.plan)
    card = plan_views.decided_card(former, plan, money, text)
    notifications.show_plan(context, former, card)
