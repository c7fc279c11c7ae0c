"""Who did what to a run, for full members of the workspace."""

from __future__ import annotations

from bot.results import Refusal
from bot.views.audits import History
from bot.workflows import permits, runs
from bot.workflows.desk import Desk


def look(desk: Desk, number: int, person: str, channel: str) -> History | Refusal:
    refused = permits.may(desk, person, "read")
    if refused:
        return refused
    run = desk.store.runs.get(number)
    if run is None or not runs.may_look(desk, run, person, channel):
        return runs.no_such_run(number)
    return History(number, desk.store.audit.entries(f"run {number}"))
