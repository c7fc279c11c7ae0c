"""Moves a run to waiting, to an end, or to people's decision, each in one transaction with the messages about it."""

from __future__ import annotations

from bot.context import AppContext
from bot.rules import units
from bot.services.common.provider_jobs import MAX_PAUSE_S
from bot.services.evidence import notifications
from bot.values.runs import Progress
from storage.records import Run


def wait_for_key(context: AppContext, run: Run) -> None:
    """Waits for the provider's key. A job may exist, so the run is not ended."""
    pause_s = MAX_PAUSE_S / 2
    note = lost_key_text(context, run.provider)
    wait(context, run, pause_s, note=note)


def lost_key_text(context: AppContext, provider: str) -> str:
    """Returns a sentence about a missing key, with where to set it."""
    row = context.settings.provider(provider)
    cure = "Put it back into finetune.toml"
    if row:
        cure = f"Set {row.provider.variables} where the bot runs"
    return f"There is no key for {provider} any more. {cure}."


def end(
    context: AppContext, run: Run, state: notifications.EndState, why: str, *, actual_micros: int = 0
) -> None:
    """Ends a run without a result, and settles the reservation with what was spent. The hourly cost of its model is not
    part of `actual_micros`, because deployments have rows of their own in the ledger."""
    now = context.clock()
    store = context.store
    in_all = actual_micros + store.deployments.cost_of_run(run.id)
    with store.transaction():
        moved = store.runs.move(run, state, now=now, error=why, actual_micros=in_all)
        if moved is None:
            return
        store.runs.book(moved, "settle", actual_micros, month=units.month_of(now), now=now)
        # A trainer's message about a failure may quote a row. `runs.error` can be deleted, the audit log can't.
        detail = "" if state == "failed" else why
        context.audit("finetune", state, f"run {run.id}", detail)
        notifications.show_end(context, moved, why)


def hand_to_people(context: AppContext, run: Run, why: str) -> None:
    """Stops the run while it is unclear whether money is being spent. The reservation stays until people have decided
    (interventions.py)."""
    now = context.clock()
    with context.store.transaction():
        moved = context.store.runs.move(run, "needs_human", now=now, error=why)
        if moved:
            context.audit("finetune", "needs human", f"run {run.id}")
            notifications.post_intervention(context, moved, why)


def wait(context: AppContext, run: Run, seconds: float, *, note: str | None = None) -> None:
    before = Progress.from_json(run.progress)
    progress = before.with_unseen_job(note).to_json()
    now = context.clock()
    with context.store.transaction():
        next_at = due_unless_wished(context, run, now + seconds)
        runs = context.store.runs
        moved = runs.move(run, run.state, now=now, next_at=next_at, progress=progress)
        # While a trainer is away, each attempt has the same note; one edit of the card is enough.
        if moved and note and note != before.note:
            notifications.show_progress(context, moved)


def due_unless_wished(context: AppContext, run: Run, next_at: float) -> float:
    """Returns `next_at`, or the run's own due time if somebody changed it (by a wish) while the provider was asked."""
    latest = context.store.runs.get(run.id)
    if latest is None or latest.next_at == run.next_at:
        return next_at
    return latest.next_at
