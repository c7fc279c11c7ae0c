"""Who did what to a run, for full members of the workspace."""

from __future__ import annotations

from bot.results import Refusal
from bot.views.audits import History
from bot.workflows import permits
from bot.workflows.desk import Desk


def look(desk: Desk, number: int, person: str) -> History | Refusal:
    refused = permits.may(desk, person, "read")
    if refused:
        return refused
    if desk.store.runs.get(number) is None:
        return Refusal(f"There is no run {number}. `/finetune runs` lists them.")
    return History(number, desk.store.audit.entries(f"run {number}"))
