"""What a freeze stops: a run without a job, a paused one, a curve's next training, questions that cost money.

What trains continues, and so does measuring its result. This is asked where something is created, in the transaction of
its intent, and where its card is made. A promotion and a resume wait for every freeze; a rollback limits damage, so it
waits for none.
"""

from __future__ import annotations

from bot.context import AppContext
from bot.values.evaluations import LadderProgress
from bot.values.learning_curves import TunedCurvePlan, TunedCurveProgress, plan_of
from storage.money import Freeze
from storage.records import Measurement, Run

HOLD_S = 10.0


def run_freeze(context: AppContext, run: Run) -> Freeze | None:
    return context.store.freezes.current() if run.state in ("approved", "creating") else None


def measurement_freeze(context: AppContext, measurement: Measurement) -> Freeze | None:
    """Returns the freeze that stops a measurement; None for one that costs and trains nothing."""
    freeze = context.store.freezes.current()
    if freeze is None or measurement.state != "running":
        return None
    if measurement.kind == "ladder":
        ladder = LadderProgress.from_json(measurement.progress)
        is_stopped = ladder.most_micros > 0 and ladder.stage in ("measuring", "consulting")
        return freeze if is_stopped else None
    curve = TunedCurveProgress.from_json(measurement.progress)
    if not isinstance(plan_of(measurement.plan), TunedCurvePlan) or curve.at is None:
        return None
    stopped = ("waiting", "creating", "evaluating") if curve.most_micros > 0 else ("waiting", "creating")
    return freeze if curve.sizes[curve.at].state in stopped else None


def question_freeze(context: AppContext, most_micros: int) -> Freeze | None:
    """Returns the freeze that stops a question to a model. What is free goes on."""
    return context.store.freezes.current() if most_micros else None
