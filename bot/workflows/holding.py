"""What a freeze holds up: a run without a job, a curve's next training, a measurement that was paid for since.

What runs goes on. Asked where something is created, in the transaction of its intent, and where its card is made.
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
    return freeze if is_held(freeze, measurement) else None


def _holds_ladder(freeze: Freeze, measurement: Measurement) -> bool:
    known = LadderProgress.from_json(measurement.progress)
    return known.most_micros > 0 and (known.started_at or 0.0) >= freeze.at


def _holds_curve(freeze: Freeze, measurement: Measurement) -> bool:
    if not isinstance(plan_of(measurement.plan), TunedCurvePlan):
        return False
    known = TunedCurveProgress.from_json(measurement.progress)
    if known.at is None:
        return False
    is_paid_since = known.most_micros > 0 and known.started_at >= freeze.at
    return known.sizes[known.at].state in (
        ("waiting", "creating", "evaluating") if is_paid_since else ("waiting", "creating")
    )
