"""What a freeze stops: runs without a job, paused runs, and questions that cost money.

A job that trains continues, and so does measuring its result. This is checked in the transaction of an intent to create
something, and when a card is made. A promotion and a resume wait for any freeze; a rollback never waits, because it
limits damage.
"""

from __future__ import annotations

from bot.context import AppContext
from bot.values.evaluations import ComparisonProgress
from storage.money import Freeze
from storage.records import COMPARISON, Measurement, Run

HOLD_S = 10.0


def run_freeze(context: AppContext, run: Run) -> Freeze | None:
    """Returns the freeze that stops a run; None once its job exists."""
    if run.state not in ("approved", "creating"):
        return None
    return context.store.freezes.current()


def measurement_freeze(context: AppContext, measurement: Measurement) -> Freeze | None:
    """Returns the freeze that stops a measurement; None if it costs nothing."""
    freeze = context.store.freezes.current()
    if freeze is None or measurement.state != "running" or measurement.kind != COMPARISON:
        return None
    comparison = ComparisonProgress.from_json(measurement.progress)
    asks = comparison.stage in ("choosing", "searching", "measuring", "consulting")
    if not asks or comparison.most_micros <= 0:
        return None
    return freeze


def question_freeze(context: AppContext, most_micros: int) -> Freeze | None:
    """Returns the freeze that stops a question to a model; None if the question is free."""
    if not most_micros:
        return None
    return context.store.freezes.current()
