"""How a run waits, fails, ends or comes to need a person: each in one transaction with what people are told."""

from __future__ import annotations

from bot.context import AppContext
from bot.rules import units
from bot.services import notifications
from bot.services.provider_jobs import MAX_PAUSE_S
from bot.values.runs import Progress
from storage.records import Run


def wait_for_key(context: AppContext, run: Run) -> None:
    """Waits for the provider's key. The job exists, so the run is not given up."""
    wait(context, run, MAX_PAUSE_S / 2, note=lost_key_text(context, run.provider))


def lost_key_text(context: AppContext, provider: str) -> str:
    """Says that a provider's key is gone, and where to put it."""
    row = context.settings.provider(provider)
    where = f"Set {row.provider.variables} where the bot runs" if row else "Put it back into finetune.toml"
    return f"There is no key for {provider} any more. {where}."


def end(
    context: AppContext, run: Run, state: notifications.EndState, why: str, *, actual_micros: int = 0
) -> None:
    """Ends a run without a result: the reservation is settled with what was spent, what its model
    has cost by the hour apart: that has rows of its own."""
    now, hosting = context.clock(), context.store.deployments.of_runs(run.id)
    with context.store.transaction():
        in_all = actual_micros + hosting
        moved = context.store.runs.move(run, state, now=now, error=why, actual_micros=in_all)
        if moved is None:
            return
        context.store.runs.book(moved, "settle", actual_micros, month=units.month_of(now), now=now)
        # a trainer's own words about a failure may quote a row: the log can't be deleted, `runs.error` can
        context.audit("finetune", state, f"run {run.id}", "" if state == "failed" else why)
        notifications.show_end(context, moved, why)


def hand_to_people(context: AppContext, run: Run, why: str) -> None:
    """Stops with money in doubt: the reservation stays until people have decided (interventions.py)."""
    now = context.clock()
    with context.store.transaction():
        moved = context.store.runs.move(run, "needs_human", now=now, error=why)
        if moved:
            context.audit("finetune", "needs human", f"run {run.id}")
            notifications.post_intervention(context, moved, why)


def wait(context: AppContext, run: Run, seconds: float, *, note: str | None = None) -> None:
    before = Progress.from_json(run.progress)
    now, progress = context.clock(), before.unseen(note).to_json()
    with context.store.transaction():
        next_at = due_unless_wished(context, run, now + seconds)
        moved = context.store.runs.move(run, run.state, now=now, next_at=next_at, progress=progress)
        if moved and note and note != before.note:
            notifications.show_progress(context, moved)


def due_unless_wished(context: AppContext, run: Run, next_at: float) -> float:
    """Returns when the next step is due: at once if somebody wished something while the provider was asked."""
    latest = context.store.runs.get(run.id)
    return next_at if latest is None or latest.next_at == run.next_at else latest.next_at
