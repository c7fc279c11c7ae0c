"""Learning curves, which show whether more data is worth it: the classical model's, which is free and quick, and a
tuned model's, whose cost a person has to agree to first."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from pathlib import Path

from bot.cards import learning_curves as views
from bot.cards.candidates import answers_name
from bot.cards.prices import missing_price_text
from bot.command_parser import parse_question
from bot.context import AppContext
from bot.rules.bills import MILLION
from bot.rules.estimate_inputs import Question
from bot.rules.plans import plan_from_json
from bot.rules.prices import MissingPrice
from bot.services import (
    data_policy,
    datasets,
    estimates,
    evaluation_worker,
    measurements,
    notifications,
    plans,
    tuned_learning_curves,
)
from bot.services.data_policy import EgressPermission
from bot.services.dataset_worker import SEED
from bot.services.datasets import CheckedDataset
from bot.services.estimates import EstimateResult
from bot.services.evaluation_worker import report_max_tokens
from bot.services.hardware import Target, find_target
from bot.services.measured_candidates import folder_of
from bot.services.tuned_learning_curves import CurveStep, save_step, stop
from bot.values.evaluations import CurvePlan
from bot.values.learning_curves import (
    FEWEST_TUNED_ROWS,
    PlannedSize,
    SizeProgress,
    TunedCurvePlan,
    TunedCurveProgress,
    curve_sizes,
    key_of,
    plan_of,
)
from bot.values.requests import Curve
from bot.values.runs import Refusal
from storage.evaluations import NewMeasurement
from storage.records import Measurement, MeasurementState
from trainers.chat_parameters import thinking_tokens
from trainers.dataset import Report
from trainers.evaluation.results import Curve as MeasuredCurve
from trainers.money import to_micros
from trainers.pricing import PriceList, tuned_price
from trainers.providers import model_verdict

# The rows of a part may be longer than average, and the model's own tokenizer may count more tokens than ours.
TOKEN_MARGIN = Decimal("1.25")
FEWEST_ROWS = 12
UNREADABLE_PAUSE_S = 600.0


def ask(context: AppContext, command: Curve, person: str, channel: str) -> Measurement | Refusal:
    """Records the curve to measure and posts its card in the channel; the ticks do the rest."""
    checked = measurements.dataset_to_measure(context, command.dataset, person, channel)
    if isinstance(checked, Refusal):
        return checked
    plan = _plan(context, checked, command)
    if isinstance(plan, Refusal):
        return plan
    row = context.settings.provider(plan.provider) if isinstance(plan, TunedCurvePlan) else None
    permission: EgressPermission | Refusal = EgressPermission()
    if row is not None:
        permission = data_policy.decide_egress(
            context, checked.dataset, checked.report, [row], command.because
        )
    if isinstance(permission, Refusal):
        return permission
    state: MeasurementState = "running" if isinstance(plan, CurvePlan) else "asked"
    new = NewMeasurement("curve", checked.dataset.id, channel, person, plan.to_json(), state)
    with context.store.transaction():
        if same := measurements.find_open_duplicate(context, new.plan):
            return Refusal(f"The same curve is being measured already: m{same.id}.")
        return measurements.add(context, new, permission, action="curve")


def step(context: AppContext, measurement: Measurement) -> None:
    """Takes an open curve one step further."""
    plan = plan_of(measurement.plan)
    if isinstance(plan, TunedCurvePlan):
        _step_tuned(context, measurement, plan)
        return
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
    """Repeats a step that stopped with an error of the bot; after a few attempts the measurement fails. A plan that
    can't be read waits, because the newer version that stored it can go on with it."""
    try:
        is_tuned = isinstance(plan_of(measurement.plan), TunedCurvePlan)
    except (TypeError, ValueError):
        now = context.clock()
        context.store.measurements.move(
            measurement, measurement.state, now=now, next_at=now + UNREADABLE_PAUSE_S
        )
        return
    spent = TunedCurveProgress.from_json(measurement.progress).booked_micros if is_tuned else 0
    measurements.retry_or_fail(context, measurement, lambda: spent)


def _put_plot(context: AppContext, measurement: Measurement, curve: MeasuredCurve, plot: Path | None) -> None:
    """Posts the plot in the card's thread, with a comment that notifies the person who asked for the curve."""
    comment = views.finished_notice(measurement, curve)
    plots = [(plot, views.alt_text(curve))] if plot else []
    notifications.put_files(
        context,
        measurements.card_of(measurement),
        measurement.channel,
        plots,
        once=f"curve of measurement {measurement.id}",
        comment=comment,
        concerns=measurement.requested_by,
    )


def _plan(
    context: AppContext, checked: CheckedDataset, command: Curve
) -> CurvePlan | TunedCurvePlan | Refusal:
    dataset, report = checked.dataset, checked.report
    if report.task != "labels":
        return Refusal(f"Learning curves need labels, and this dataset's answers are {answers_name(report)}.")
    if report.n_train < FEWEST_ROWS or not report.n_holdout:
        return Refusal(
            f"`{dataset.name}` has {report.n_train} rows to train on; a curve needs at least {FEWEST_ROWS}."
        )
    usual = (round(1.5 * report.n_train), 2 * report.n_train, 4 * report.n_train)
    predict = command.predict or usual
    label_usd = _label_usd(context, dataset.name) if command.label_usd is None else command.label_usd
    if command.target is not None:
        return _tuned_plan(context, checked, command.target, predict, label_usd)
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


def _tuned_plan(
    context: AppContext,
    checked: CheckedDataset,
    model: str,
    predict: tuple[int, ...],
    label_usd: Decimal | None,
) -> TunedCurvePlan | Refusal:
    """Plans a curve of `model`, for a dataset with labels and a holdout."""
    report, target = checked.report, find_target(context.settings.providers, model)
    if isinstance(target, Refusal):
        return target
    refusal = _training_refusal(context, checked, target)
    if refusal:
        return refusal
    planned: list[PlannedSize] = []
    for rows in curve_sizes(report.n_train):
        estimate = _estimate_size(context, checked, target, rows)
        if isinstance(estimate, Refusal):
            return estimate
        if isinstance(estimate.cost, MissingPrice):
            return Refusal(
                f"The cost of training is unknown, so nobody can agree to it. {missing_price_text(estimate.cost)}"
            )
        training = to_micros(estimate.cost.training.usd.high)
        planned.append(
            PlannedSize(rows, estimate.hyperparameters, training, _asking_micros(report, estimate))
        )
    return TunedCurvePlan(
        dataset=checked.dataset.name,
        version=checked.dataset.version,
        train_sha256=str(report.train_sha256),
        holdout_sha256=str(report.holdout_sha256),
        n_holdout=report.n_holdout,
        labels=tuple(sorted(count.label for count in report.labels)),
        provider=target.row.name,
        base_model=target.model.name,
        sizes=tuple(planned),
        seed=SEED,
        prices=PriceList((tuned_price(target.row, target.model),), context.today()).to_json(),
        predict=predict,
        label_usd=None if label_usd is None else f"{label_usd:f}",
        destination=plans.current_destination(context, target.row, target.model.name),
    )


def _training_refusal(context: AppContext, checked: CheckedDataset, target: Target) -> Refusal | None:
    """Returns why a curve of this target can't be trained on the dataset, None if it can."""
    row, report = target.row, checked.report
    if report.n_train < FEWEST_TUNED_ROWS:
        return Refusal(
            f"`{checked.dataset.name}` has {report.n_train} rows to train on; a curve of a tuned model needs at least "
            f"{FEWEST_TUNED_ROWS}, since its first training uses a quarter of them and trainers ask for 10."
        )
    if not row.provider.can("chat") or row.is_hosted:
        return Refusal(
            f"{row.title} can't serve a curve's models: it has no chat, or only machines by the hour. "
            "Choose a target that starts with `local/`, or another trainer."
        )
    if row.rents:
        return Refusal(
            f"A curve trains several times, and {row.title} rents a machine for each training. Choose a target that "
            "starts with `local/`.",
            "target",
        )
    if row.name not in context.trainers:
        return plans.no_key_refusal(row)
    verdict = model_verdict(row, target.model, context.today())
    if not verdict.may_train:
        return Refusal(" ".join(filter(None, (*verdict.reasons, verdict.way_out))))
    if closed := plans.closed_to_us_text(context, row):
        return Refusal(closed)
    return datasets.needs_waiver(context, checked.dataset, report, row)


def _estimate_size(
    context: AppContext, checked: CheckedDataset, target: Target, rows: int
) -> EstimateResult | Refusal:
    """Estimates a run on this many of the rows, with its hyperparameters."""
    report = checked.report
    part = replace(
        report,
        n_train=rows,
        tokens=replace(report.tokens, train=_most_tokens(report.tokens.train, rows, report.n_train)),
        trained_tokens=tuple(
            (name, _most_tokens(tokens, rows, report.n_train)) for name, tokens in report.trained_tokens
        ),
    )
    question = Question(target=target.name)
    return estimates.make_estimate(context.settings, checked.dataset.name, part, question, context.today())


def _most_tokens(tokens: int, rows: int, of: int) -> int:
    """Returns the most tokens that `rows` of the `of` rows may have, which have `tokens` in total."""
    return int(TOKEN_MARGIN * tokens * rows / of) + 1


def _asking_micros(report: Report, estimate: EstimateResult) -> int:
    """Returns the maximum cost, in micro-dollars, of asking the model every held-out row; 0 on a machine that is billed
    by the hour."""
    tuned, target = estimate.prices[0], estimate.target
    if tuned.usd_per_hour is not None:
        return 0
    most = report_max_tokens(report) + thinking_tokens(target.row.thinks(target.model.name))
    sent = TOKEN_MARGIN * Decimal(report.tokens.prompt_mean) * (tuned.price.input or 0)
    return to_micros(report.n_holdout * (sent + most * (tuned.price.output or 0)) / MILLION)


def _step_tuned(context: AppContext, measurement: Measurement, plan: TunedCurvePlan) -> None:
    stored = TunedCurveProgress.from_json(measurement.progress)
    lost = tuned_learning_curves.lost_micros(context, measurement, plan, stored)
    progress = replace(stored, lost_micros=lost)
    match progress.stage:
        case "preparing" | "asking" | "judging" if measurement.cancel_asked_by:
            measurements.cancel(context, measurement, spent_micros=progress.booked_micros)
        case "preparing":
            _prepare(context, measurement, plan)
        case "asking":
            measurements.expire_or_wait(context, measurement)
        case "training":
            at = progress.current_index
            here = CurveStep(context, measurement, plan, progress, progress.sizes[-1 if at is None else at])
            if at is not None:
                tuned_learning_curves.advance(here)
            elif here.is_stopped:
                stop(here)
            else:
                save_step(replace(here, progress=replace(progress, stage="judging", note=None)))
        case "judging":
            _judge(context, measurement, plan, progress)


def _prepare(context: AppContext, measurement: Measurement, plan: TunedCurvePlan) -> None:
    """Writes the training files, computes the maximum cost of what is not trained and answered yet, and asks people to
    agree to it."""
    hashes = context.workers.poll(
        f"sizes m{measurement.id}", evaluation_worker.write_sizes, plan, context.settings.files
    )
    if hashes is None:
        return
    sizes, most_micros = list[SizeProgress](), 0
    for planned, sha256 in zip(plan.sizes, hashes, strict=True):
        size = _start_size(context, measurement, plan, planned, sha256)
        sizes.append(size)
        if size.model is None:
            most_micros += planned.most_micros
        else:
            keys = tuned_learning_curves.evaluation_of(context, measurement, plan, size.model).all_keys
            is_answered = set(keys) <= context.store.answers.answered(keys)
            most_micros += 0 if is_answered else planned.asking_micros
    measurements.settle_cost(context, measurement, TunedCurveProgress("asking", tuple(sizes), most_micros))


def _start_size(
    context: AppContext, measurement: Measurement, plan: TunedCurvePlan, planned: PlannedSize, sha256: str
) -> SizeProgress:
    """Returns the progress of a size at its start. A model that was trained earlier on the same rows in the same way is
    reused."""
    fresh = SizeProgress(planned.rows, sha256, key_of(measurement.id, plan, sha256))
    trained = _trained_by_run(context, plan, planned, sha256)
    trained = trained or _trained_by_curve(context, plan, planned, sha256)
    if trained is None:
        return fresh
    model, from_before = trained
    return fresh.with_state("evaluating", context.clock(), model=model, from_before=from_before)


def _trained_by_run(
    context: AppContext, plan: TunedCurvePlan, planned: PlannedSize, sha256: str
) -> tuple[str, str] | None:
    """Returns the provider's name of a model that a run trained in the same way, and the run; None if there is none."""
    planned_training = (sha256, plan.provider, plan.base_model, planned.hyperparameters, plan.seed)
    for run in context.store.runs.trained_on(sha256):
        other = plan_from_json(run.plan)
        trained = (other.train_sha256, other.provider, other.base_model, other.hyperparameters, other.seed)
        model = context.store.model(run.model or "")
        is_usable = model is not None and model.gone_at is None
        if model and is_usable and trained == planned_training and other.validation_split is None:
            return model.provider_model, f"run {run.id}"
    return None


def _trained_by_curve(
    context: AppContext, plan: TunedCurvePlan, planned: PlannedSize, sha256: str
) -> tuple[str, str] | None:
    """Returns the provider's name of a model that an earlier curve trained in the same way, and the run or measurement
    that trained it; None if there is none. A failed curve's model counts only if it has answered something."""
    for measurement in context.store.measurements.newest(200):
        other = plan_of(measurement.plan) if measurement.kind == "curve" else None
        if not isinstance(other, TunedCurvePlan):
            continue
        same = (other.target, other.seed) == (plan.target, plan.seed)
        for size, other_size in zip(
            TunedCurveProgress.from_json(measurement.progress).sizes, other.sizes, strict=False
        ):
            is_alike = (size.sha256, other_size.hyperparameters) == (sha256, planned.hyperparameters)
            is_usable = size.answered or measurement.state != "failed"
            if same and is_alike and size.model and is_usable and not _is_gone(context, size.model):
                return size.model, size.from_before or f"m{measurement.id}"
    return None


def _is_gone(context: AppContext, provider_model: str) -> bool:
    """True if a run's model of this name no longer exists at its provider."""
    return any(model.gone_at is not None for model in context.store.models_at_provider(provider_model))


def _judge(
    context: AppContext, measurement: Measurement, plan: TunedCurvePlan, progress: TunedCurveProgress
) -> None:
    texts = [
        tuned_learning_curves.texts_of(context, measurement, plan, str(size.model)) for size in progress.sizes
    ]
    judged = context.workers.poll(
        f"judge m{measurement.id}",
        evaluation_worker.judge_tuned_curve,
        plan,
        texts,
        context.settings.files,
        folder_of(context, measurement),
        plan.seed,
    )
    if judged is not None:
        result = judged.curve.to_json()
        final = replace(progress, beside=judged.beside.to_json() if judged.beside else None).to_json()
        with context.store.transaction():
            moved = measurements.finish(
                context, measurement, result, spent_micros=progress.booked_micros, progress=final
            )
            if moved:
                _put_plot(context, moved, judged.curve, judged.plot)
