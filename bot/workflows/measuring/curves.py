"""Is more data worth it? The classical rung's learning curve, measured by a worker: free and at once. A tuned
model's (tuned_curves.py) is asked for and stepped here too."""

from __future__ import annotations

from decimal import Decimal

from bot import commands, parsing
from bot.commands import Curve
from bot.measured import CurvePlan
from bot.results import Refusal
from bot.tuned_curves import TunedCurvePlan, plan_of
from bot.views import curves as views
from bot.work import climbing
from bot.work.climbing import JudgedCurve
from bot.workflows import datasets, leaving, permits
from bot.workflows.datasets import SEED, Checked
from bot.workflows.desk import Desk
from bot.workflows.leaving import Leave
from bot.workflows.measuring import curve_plans, measurements, tuned_curves
from storage.measurements import NewMeasurement
from storage.records import Measurement, MeasurementState

FEWEST_ROWS = 12


def ask(desk: Desk, command: Curve, person: str, channel: str) -> Measurement | Refusal:
    refused = permits.may(desk, person, "measure", channel) or permits.unreachable(desk, channel)
    if refused:
        return refused
    checked = datasets.ready(desk, command.dataset, person, channel, is_posted=True)
    if isinstance(checked, Refusal):
        return checked
    plan = _plan(desk, checked, command)
    if isinstance(plan, Refusal):
        return plan
    leave = _leave(desk, checked, plan, command.because)
    if isinstance(leave, Refusal):
        return leave
    same = next((one for one in desk.store.measurements.open() if one.plan == plan.to_json()), None)
    if same:
        return Refusal(f"This very curve is being measured already: it is m{same.id}.")
    now = desk.clock()
    with desk.store.transaction():
        state: MeasurementState = "running" if isinstance(plan, CurvePlan) else "asked"
        new = NewMeasurement("curve", checked.dataset.id, channel, person, plan.to_json(), state)
        measurement = desk.store.measurements.add(new, now=now)
        desk.store.audit.add(at=now, who=person, action="curve", subject=f"measurement {measurement.id}")
        measurements.show(desk, measurement)
        measurements.let_leave(desk, measurement, leave)
    return measurement


def step(desk: Desk, measurement: Measurement) -> None:
    plan = plan_of(measurement.plan)
    if isinstance(plan, TunedCurvePlan):
        tuned_curves.step(desk, measurement, plan)
        return
    if measurement.cancel_asked_by:
        by = f"Cancelled by <@{measurement.cancel_asked_by}>."
        measurements.end(desk, measurement, "cancelled", by)
        return
    judged = desk.workers.poll(
        f"curve m{measurement.id}",
        climbing.judge_curve,
        plan,
        desk.settings.files,
        measurements.folder_of(desk, measurement),
        SEED,
    )
    if judged is not None:
        _finish(desk, measurement, judged)


def after_trouble(desk: Desk, measurement: Measurement) -> None:
    if isinstance(plan_of(measurement.plan), TunedCurvePlan):
        tuned_curves.after_trouble(desk, measurement)
    else:
        measurements.again_or_fail(desk, measurement, lambda: 0)


def _plan(desk: Desk, checked: Checked, command: Curve) -> CurvePlan | TunedCurvePlan | Refusal:
    dataset, report = checked.dataset, checked.report
    if report is None or report.task != "labels":
        return Refusal("A curve is drawn for labels, and this dataset's answers are free text.")
    if report.n_train < FEWEST_ROWS or not report.n_holdout:
        return Refusal(
            f"`{dataset.name}` has {report.n_train} rows to train on; a curve needs {FEWEST_ROWS} at least."
        )
    usual = (round(1.5 * report.n_train), 2 * report.n_train, 4 * report.n_train)
    predict = command.predict or usual
    label_usd = _label_usd(desk, dataset.name) if command.label_usd is None else command.label_usd
    if command.target is not None:
        return curve_plans.make(desk, checked, report, command.target, predict, label_usd)
    return CurvePlan(
        dataset=dataset.name,
        version=dataset.version,
        train_sha256=str(report.train_sha256),
        holdout_sha256=str(report.holdout_sha256),
        predict=predict,
        label_usd=None if label_usd is None else f"{label_usd:f}",
    )


def _leave(
    desk: Desk, checked: Checked, plan: CurvePlan | TunedCurvePlan, because: str | None
) -> Leave | Refusal:
    """The classical model asks nobody."""
    row = desk.settings.provider(plan.provider) if isinstance(plan, TunedCurvePlan) else None
    if row is None or checked.report is None:
        return Leave()
    return leaving.ask(desk, checked.dataset, checked.report, [row], because)


def _label_usd(desk: Desk, dataset: str) -> Decimal | None:
    """What somebody said last that a label costs, when they asked for an estimate."""
    for kept in desk.store.estimates.newest(dataset):
        asked = parsing.parse(f"estimate {dataset} {kept.asked}")
        if isinstance(asked, commands.Estimate) and asked.figures.label_usd is not None:
            return asked.figures.label_usd
    return None


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
