"""What people ask about runs, and their wish to cancel one."""

from __future__ import annotations

from dataclasses import replace

from bot.decisions.approval import Request, may
from bot.decisions.planning import plan_from_json
from bot.results import Progress, Refusal, RunResult
from bot.views.runs import SAID, Look
from bot.workflows import calibrating, plans
from bot.workflows.desk import Desk
from storage.records import OPEN_RUN_STATES, Run

LATEST = 15


def open_runs(desk: Desk) -> list[Look]:
    return [_look(desk, run) for run in desk.store.runs.open()]


def latest(desk: Desk) -> list[Look]:
    return [_look(desk, run) for run in desk.store.runs.newest(LATEST)]


def look(desk: Desk, number: int) -> Look | Refusal:
    run = desk.store.runs.get(number)
    if run is None:
        return _no_such_run(number)
    return replace(_look(desk, run), running=calibrating.running(desk) if run.result else ())


def ask_cancel(desk: Desk, number: int, person: str) -> str | Refusal:
    """Note the wish; the next tick carries it out at the trainer."""
    run = desk.store.runs.get(number)
    if run is None:
        return _no_such_run(number)
    if run.state not in OPEN_RUN_STATES:
        return Refusal(f"Run {number} is over already: it {SAID[run.state]}.")
    plan = plan_from_json(run.plan)
    request = Request(run.requester, plan.uploaded_by, run.created_at)
    denied = may(desk.directory.person(person), "cancel", request, plans.policy(desk))
    if denied:
        return Refusal(denied.reason)
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.runs.move(run, run.state, now=now, cancel_asked_by=person, next_at=now)
        if moved:
            desk.store.audit.add(at=now, who=person, action="cancel", subject=f"run {run.id}")
    return f"Cancelling run {number} …" if moved else Refusal(f"Run {number} moved on just now; try again.")


def _look(desk: Desk, run: Run) -> Look:
    return Look(
        run=run,
        plan=plan_from_json(run.plan),
        progress=Progress.from_json(run.progress),
        result=RunResult.from_json(run.result) if run.result else None,
        now=desk.clock(),
    )


def _no_such_run(number: int) -> Refusal:
    return Refusal(f"There is no run {number}. `/finetune runs` lists them.")
