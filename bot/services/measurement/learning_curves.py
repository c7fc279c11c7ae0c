"""Learning curves of the classical model, which are free and quick: would more labelled rows help?"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

from bot.cards.common.candidates import answers_name
from bot.cards.evidence import learning_curves as views
from bot.command_parser import parse_question
from bot.context import AppContext
from bot.rules.estimate_inputs import Question
from bot.services.common import messages, provider_jobs
from bot.services.datasets.data_policy import EgressPermission
from bot.services.datasets.dataset_worker import SEED
from bot.services.datasets.datasets import CheckedDataset
from bot.services.evidence import evaluation_worker
from bot.services.evidence.measured_candidates import folder_of
from bot.services.measurement import measurements
from bot.values.evaluations import CurvePlan
from bot.values.learning_curves import TrainedCurve, plan_of, trained_curve
from bot.values.requests import Curve
from bot.values.runs import Refusal
from storage.evaluations import NewMeasurement
from storage.records import Measurement
from trainers.evaluation.results import Curve as MeasuredCurve

FEWEST_ROWS = 12


def ask(context: AppContext, command: Curve, person: str, channel: str) -> Measurement | Refusal:
    """Records the curve to measure and posts its card in the channel; the ticks do the rest."""
    checked = measurements.dataset_to_measure(context, command.dataset, person, channel)
    if isinstance(checked, Refusal):
        return checked
    plan = _plan(context, checked, command)
    if isinstance(plan, Refusal):
        return plan
    # Running from the start, because it costs nothing that somebody would have to agree to.
    new = NewMeasurement("curve", checked.dataset.id, channel, person, plan.to_json(), "running")
    with context.store.transaction():
        same = measurements.find_open_duplicate(context, new.plan)
        if same:
            return Refusal(f"The same curve is being measured already: m{same.id}.")
        # Its rows stay on this machine, so no rule about data applies.
        return measurements.add(context, new, EgressPermission(), action="curve")


def step(context: AppContext, measurement: Measurement) -> None:
    """Takes an open curve one step further."""
    old = trained_curve(measurement.plan, measurement.progress)
    if old is not None:
        _end_trained_curve(context, measurement, old)
        return
    plan = plan_of(measurement.plan)
    if measurement.cancel_asked_by:
        measurements.cancel(context, measurement)
        return
    judged = context.workers.poll(
        f"curve m{measurement.id}",
        evaluation_worker.judge_curve,
        plan,
        context.settings.files,
        folder_of(context, measurement),
        SEED,
    )
    if judged is not None:
        with context.store.transaction():
            if measurements.finish(context, measurement, judged.curve.to_json(), spent_micros=0):
                _put_plot(context, measurement, judged.curve, judged.plot)


def handle_step_failure(context: AppContext, measurement: Measurement) -> None:
    """Repeats a step that stopped with an error of the bot; after a few attempts the measurement fails."""
    measurements.retry_or_fail(context, measurement, lambda: 0)


def _end_trained_curve(context: AppContext, measurement: Measurement, curve: TrainedCurve) -> None:
    """Ends a curve of a tuned model that an earlier version began. A job of it that is still under way is cancelled by
    the look for stray jobs (orphan_jobs.py), which knows its key; until then it may cost as much as was agreed."""
    trainer = context.trainers.get(curve.provider)
    if trainer is not None:
        hashes = {size.sha256 for size in curve.own_sizes}
        provider_jobs.delete_uploads(context, trainer, hashes, f"m{measurement.id}")
    spent_micros = curve.most_micros if measurement.state == "running" else 0
    why = views.trained_curve_ended(spent_micros)
    measurements.end(context, measurement, "cancelled", why, actual_micros=spent_micros)


def _put_plot(context: AppContext, measurement: Measurement, curve: MeasuredCurve, plot: Path | None) -> None:
    """Posts the plot in the card's thread, with a comment that notifies the person who asked for the curve."""
    comment = views.finished_notice(measurement, curve)
    plots = [views.chart(plot, curve)] if plot else []
    messages.put_files(
        context,
        measurements.card_of(measurement),
        measurement.channel,
        plots,
        topic="results",
        once=f"curve of measurement {measurement.id}",
        comment=comment,
        concerns=measurement.requested_by,
    )
    measurements.tell_result_directly(context, measurement, views.headline(curve))


def _plan(context: AppContext, checked: CheckedDataset, command: Curve) -> CurvePlan | Refusal:
    dataset = checked.dataset
    report = checked.report
    if report.task != "labels":
        return Refusal(f"Learning curves need labels, and this dataset's answers are {answers_name(report)}.")
    if report.n_train < FEWEST_ROWS or not report.n_holdout:
        return Refusal(
            f"`{dataset.name}` has {report.n_train} rows to train on; a curve needs at least {FEWEST_ROWS}."
        )
    predict = command.predict
    if not predict:
        predict = (round(1.5 * report.n_train), 2 * report.n_train, 4 * report.n_train)
    label_usd = command.label_usd
    if label_usd is None:
        label_usd = _label_usd(context, dataset.name)
    return CurvePlan(
        dataset=dataset.name,
        version=dataset.version,
        train_sha256=str(report.train_sha256),
        holdout_sha256=str(report.holdout_sha256),
        predict=predict,
        label_usd=None if label_usd is None else f"{label_usd:f}",
    )


def _label_usd(context: AppContext, dataset: str) -> Decimal | None:
    """Returns the price of a label that somebody stated last in a shared estimate, None if nobody has."""
    for estimate in context.store.estimates.newest_shared(dataset):
        question = parse_question(estimate.asked)
        if isinstance(question, Question) and question.label_usd is not None:
            return question.label_usd
    return None
