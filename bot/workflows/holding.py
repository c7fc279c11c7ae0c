"""What a freeze holds up: a run without a job, a paused one, a curve's next training, questions that cost money.

What trains goes on, and measuring its result. Asked where something is created, in the transaction of its intent, and
where its card is made.
"""

from __future__ import annotations

from bot.measured import LadderProgress
from bot.tuned_curves import TunedCurvePlan, TunedCurveProgress, plan_of
from bot.workflows.desk import Desk
from storage.freezes import Freeze
from storage.records import Measurement, Run

HOLD_S = 10.0


def on_run(desk: Desk, run: Run) -> Freeze | None:
    return desk.store.freezes.current() if run.state in ("approved", "creating") else None


def on_measurement(desk: Desk, measurement: Measurement) -> Freeze | None:
    """None for what costs nothing and trains nothing."""
    freeze = desk.store.freezes.current()
    if freeze is None or measurement.state != "running":
        return None
    is_held = _holds_ladder if measurement.kind == "ladder" else _holds_curve
    return freeze if is_held(measurement) else None


def _holds_ladder(measurement: Measurement) -> bool:
    known = LadderProgress.from_json(measurement.progress)
    return known.most_micros > 0 and known.stage in ("measuring", "consulting")


def _holds_curve(measurement: Measurement) -> bool:
    if not isinstance(plan_of(measurement.plan), TunedCurvePlan):
        return False
    known = TunedCurveProgress.from_json(measurement.progress)
    if known.at is None:
        return False
    held = ("waiting", "creating", "evaluating") if known.most_micros > 0 else ("waiting", "creating")
    return known.sizes[known.at].state in held


def on_question(desk: Desk, most_micros: int) -> Freeze | None:
    """Asking a model something that may cost so much. What is free goes on."""
    return desk.store.freezes.current() if most_micros else None


def on_promotion(desk: Desk) -> Freeze | None:
    """Putting another model to work. A rollback is not held up: going back is what stops harm."""
    return desk.store.freezes.current()


def on_resume(desk: Desk) -> Freeze | None:
    """Letting a paused training go on, which costs again."""
    return desk.store.freezes.current()
