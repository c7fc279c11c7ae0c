"""How good our estimates have been, over the newest runs that ended with a result."""

from __future__ import annotations

import math

from bot.decisions.calibration import Actual, RunningError, of_run, running_error
from bot.decisions.planning import Plan, plan_from_json
from bot.results import RunResult
from bot.workflows.desk import Desk
from storage.records import Run

NEWEST = 100  # a bound to what is read before somebody gets an answer


def running(desk: Desk, ended: Run | None = None) -> tuple[RunningError, ...]:
    """`ended`: a run that has its result and is not written down as done yet."""
    done = desk.store.runs.done(limit=NEWEST)
    runs = done if ended is None else [ended, *done[: NEWEST - 1]]
    return running_error(pair for run in runs for pair in _actuals(run))


def pairs(run: Run, plan: Plan, result: RunResult) -> tuple[Actual, ...]:
    """What this run came to beside what was estimated; quality where the plan predicted one."""
    foreseen, seconds = plan.predicted.quality if plan.predicted else None, _seconds(plan)
    return of_run(
        run.id,
        tokens=(plan.training_tokens, result.trained_tokens) if result.trained_tokens else None,
        micros=(plan.expected_micros, result.actual_micros),
        seconds=None if seconds is None else (seconds, result.train_seconds),
        quality=None if foreseen is None else (foreseen, result.quality),
    )


def _seconds(plan: Plan) -> float | None:
    """An older plan has only a range, from half to twice as long: its middle is the geometric one. None: not known."""
    if plan.predicted and plan.predicted.seconds is not None:
        return plan.predicted.seconds
    if plan.seconds_low is None or plan.seconds_high is None:
        return None
    return math.sqrt(max(plan.seconds_low, 0) * max(plan.seconds_high, 0))


def _actuals(run: Run) -> tuple[Actual, ...]:
    if run.result is None:
        return ()
    return pairs(run, plan_from_json(run.plan), RunResult.from_json(run.result))
