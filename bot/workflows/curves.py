"""Is more data worth it? The classical rung's learning curve, measured by a worker: free and at once."""

from __future__ import annotations

import logging
from pathlib import Path

from bot import climbing
from bot.climbing import JudgedCurve
from bot.decisions.approval import may_take_part
from bot.measured import CurvePlan
from bot.parsing import Curve
from bot.results import Refusal
from bot.views import curves as views
from bot.workflows import datasets, measurements
from bot.workflows.datasets import SEED, Checked
from bot.workflows.desk import Desk
from storage.measurements import NewMeasurement
from storage.records import Measurement

FEWEST_ROWS = 12

log = logging.getLogger(__name__)


def ask(desk: Desk, command: Curve, person: str, channel: str) -> Measurement | Refusal:
    denied = may_take_part(desk.directory.person(person))
    if denied:
        return Refusal(denied.reason)
    if command.target is not None:
        return Refusal(
            "The curve of a tuned model would need several trainings, which are runs of their own. Without "
            f"`target=`, `/finetune curve {command.dataset}` shows the classical rung's at once, for free."
        )
    checked = datasets.ready(desk, command.dataset)
    if isinstance(checked, Refusal):
        return checked
    plan = _plan(checked)
    if isinstance(plan, Refusal):
        return plan
    same = next((one for one in desk.store.measurements.open() if one.plan == plan.to_json()), None)
    if same:
        return Refusal(f"This very curve is being measured already: it is m{same.id}.")
    now = desk.clock()
    with desk.store.transaction():
        new = NewMeasurement("curve", checked.dataset.id, channel, person, plan.to_json(), "running")
        measurement = desk.store.measurements.add(new, now=now)
        desk.store.audit.add(at=now, who=person, action="curve", subject=f"measurement {measurement.id}")
        measurements.show(desk, measurement)
    return measurement


def step(desk: Desk, measurement: Measurement) -> None:
    plan = CurvePlan.from_json(measurement.plan)
    if measurement.cancel_asked_by:
        by = f"Cancelled by <@{measurement.cancel_asked_by}>."
        measurements.end(desk, measurement, "cancelled", by)
        return
    judged = desk.workers.poll(
        f"curve m{measurement.id}",
        climbing.judge_curve,
        plan,
        desk.settings.files,
        _folder(desk, measurement),
        SEED,
    )
    if judged is not None:
        _finish(desk, measurement, judged)


def after_trouble(desk: Desk, measurement: Measurement) -> None:
    measurements.again_or_fail(desk, measurement, 0)


def _plan(checked: Checked) -> CurvePlan | Refusal:
    dataset, report = checked.dataset, checked.report
    if report is None or report.task != "labels":
        return Refusal("A curve is drawn for labels, and this dataset's answers are free text.")
    if report.n_train < FEWEST_ROWS or not report.n_holdout:
        return Refusal(
            f"`{dataset.name}` has {report.n_train} rows to train on; a curve needs {FEWEST_ROWS} at least."
        )
    return CurvePlan(
        dataset=dataset.name,
        version=dataset.version,
        train_sha256=str(report.train_sha256),
        holdout_sha256=str(report.holdout_sha256),
        predict=(round(1.5 * report.n_train), 2 * report.n_train, 4 * report.n_train),
    )


def _finish(desk: Desk, measurement: Measurement, judged: JudgedCurve) -> None:
    now, curve = desk.clock(), judged.curve
    with desk.store.transaction():
        moved = desk.store.measurements.move(
            measurement, "done", now=now, result=curve.to_json(), actual_micros=0
        )
        if moved is None:
            return
        desk.store.audit.add(at=now, who="finetune", action="measured", subject=f"measurement {moved.id}")
        measurements.show(desk, moved)
        measurements.plot(desk, moved, measurements.card_of(moved), judged.plot, views.alt_text(curve))


def _folder(desk: Desk, measurement: Measurement) -> Path:
    return desk.settings.data / "measurements" / f"m{measurement.id}"
