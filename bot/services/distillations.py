"""Distillation: a model that meets the bar on the test labels rows for training.

The rows are a labelling (services/row_labels.py) whose answers come from a model. What it costs, the agreement to it,
asking and cancelling are a measurement's, with the rows in the holdout's place: each is asked with the prompt that was
measured, and paid once. Where it is over, its labels become the dataset's next version; none joins the test.

| labelling | measurement | |
| --- | --- | --- |
| received, choosing | | the file is fetched; a worker leaves out what may not be asked |
| open | asked, running | a person agrees to the cost; the model is asked |
| closing, done | done | the next version is written |
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bot.cards import distillations as views
from bot.cards import row_labels as row_label_views
from bot.cards.blocks import Block
from bot.context import AppContext
from bot.services import (
    authorization,
    candidates,
    data_policy,
    datasets,
    evaluation_engine,
    evaluation_worker,
    measurements,
    row_labels,
    row_labels_worker,
)
from bot.services.data_policy import EgressPermission
from bot.services.datasets import CheckedDataset
from bot.services.evaluation_progress import LadderStep
from bot.services.row_labels_worker import QuestionFile, TeacherQuestions
from bot.values.evaluations import LadderPlan
from bot.values.requests import Baseline
from bot.values.runs import Refusal
from bot.worker_pool import WorkerStopped
from storage.evaluations import NewMeasurement
from storage.records import Labelling, LabellingRow, RowLabel
from storage.row_labels import NewLabelling
from trainers.evaluation.quality_threshold import rejudge_ladder
from trainers.evaluation.results import Ladder, Rung
from trainers.providers import ProviderRow

ACCEPT = "accept terms"


@dataclass(frozen=True)
class RowsToTeach:
    """What a person entered in the form. `accepts`: the provider's terms."""

    dataset: str
    teacher: str
    channel: str
    person: str
    file_id: str
    filename: str
    accepts: bool


@dataclass(frozen=True)
class Teacher:
    """A model that may label: `plan` asks it as it was measured, at today's prices. `terms`: the address of those that
    nobody has accepted yet."""

    row: ProviderRow
    rung: Rung
    plan: LadderPlan
    terms: str | None
    permission: EgressPermission


def ask(context: AppContext, dataset: str, teacher: str, person: str, channel: str) -> Block | Refusal:
    """Returns the form that asks for the rows."""
    checked = _may_distil(context, dataset, person, channel)
    measured = checked if isinstance(checked, Refusal) else _teacher(context, checked, teacher)
    if isinstance(measured, Refusal):
        return measured
    terms = (measured.row.title, measured.terms) if measured.terms else None
    return views.form(channel, dataset, measured.rung, measured.plan.bar, terms)


def receive(context: AppContext, wanted: RowsToTeach) -> Labelling | Refusal:
    """Records the rows to label, and who accepted the terms of the teacher's provider."""
    checked = _may_distil(context, wanted.dataset, wanted.person, wanted.channel)
    if isinstance(checked, Refusal):
        return checked
    teacher = _teacher(context, checked, wanted.teacher)
    if isinstance(teacher, Refusal):
        return teacher
    if teacher.terms and not wanted.accepts:
        return Refusal(views.terms_not_accepted(teacher.row.title), "terms")
    now, dataset = context.clock(), checked.dataset
    new = NewLabelling(
        dataset.name,
        dataset.id,
        wanted.channel,
        wanted.person,
        0,
        wanted.file_id,
        wanted.filename,
        str(teacher.rung.arm.model),
    )
    with context.store.transaction():
        labelling = context.store.labellings.add(new, now=now)
        if labelling is None:
            return Refusal(row_label_views.under_way(dataset))
        context.audit(wanted.person, "distil", f"dataset {dataset.id}", str(labelling.teacher))
        if teacher.terms:
            context.audit(wanted.person, ACCEPT, _subject(teacher.row), teacher.terms)
    return labelling


def step(context: AppContext, labelling: Labelling) -> None:
    match labelling.state:
        case "choosing":
            _prepare(context, labelling)
        case "open":  # it ends with its measurement, whose card says why
            measurement = context.store.measurements.get(labelling.measurement_id or 0)
            if measurement is None or measurement.state in ("failed", "cancelled"):
                context.store.labellings.move(labelling, "cancelled", now=context.clock())
        case _:
            row_labels.step(context, labelling)


def conclude(step: LadderStep) -> None:
    """Ends the measurement once the teacher has answered; its labels are then written into the next version."""
    context, plan, keys = step.context, step.plan, step.keys()
    if keys is None:
        return
    answers = evaluation_engine.replies(
        context, evaluation_worker.keys_by_candidate(keys), step.progress.arms
    )
    rows = context.workers.poll(
        f"taught {step.owner}",
        row_labels_worker.read_teacher,
        context.settings.files,
        plan.holdout_sha256,
        plan.labels,
        answers[plan.arms[0]],
    )
    if rows is None:
        return
    now = context.clock()
    with context.store.transaction():
        moved = context.store.measurements.move(
            step.measurement, "done", now=now, actual_micros=step.progress.spent_micros
        )
        labelling = context.store.labellings.get(plan.teaches or 0)
        if moved is None or labelling is None or labelling.state != "open":
            return
        labelled = [row for row in rows if row.label is not None]
        for place, row in enumerate(labelled):
            likely = str(row.label)
            context.store.labellings.add_rows(
                [LabellingRow(labelling.id, place, row.key, row.text, row.given, likely)]
            )
            context.store.labellings.answer(
                RowLabel(labelling.id, place, str(labelling.teacher), likely, now)
            )
        left_out = labelling.left_out + len(rows) - len(labelled)
        context.store.labellings.move(
            labelling, "closing", now=now, closed_by=labelling.person, left_out=left_out, tries=0, next_at=0
        )
        context.audit("finetune", "labelled", f"measurement {moved.id}")
        measurements.show(context, moved)


def contradictions(context: AppContext, number: int, person: str) -> Block | Refusal:
    """Returns the form with the questions to which teacher and people gave different labels."""
    labelling = context.store.labellings.get(number)
    if labelling is None:
        return Refusal("These rows were deleted with their dataset.")
    refusal = row_labels.not_allowed(context, context.store.datasets.get(labelling.dataset_id), person)
    return refusal or views.contradictions_form(
        str(labelling.teacher), row_labels.contradictions_of(context, labelling)
    )


def _may_distil(context: AppContext, dataset: str, person: str, channel: str) -> CheckedDataset | Refusal:
    checked = measurements.dataset_to_measure(context, dataset, person, channel)
    if isinstance(checked, Refusal):
        return checked
    refusal = authorization.refusal(context, person, "upload", checked.dataset.owner)
    return refusal or row_labels.only_labels(checked) or checked


def _teacher(context: AppContext, checked: CheckedDataset, name: str) -> Teacher | Refusal:
    """Returns the model by its best rung on this test, where that meets the bar, or why it may not label."""
    dataset, report = checked.dataset, checked.report
    command = Baseline(dataset.name, models=(name,))
    line_up = candidates.line_up(context.settings, context.trainers, command, report, context.today())
    if isinstance(line_up, Refusal):
        return line_up
    model = line_up.models[0]
    bar = datasets.bar_of(context, dataset.name)
    measured = _measured(context, dataset.name, str(report.holdout_sha256), model.name, bar)
    if measured is None:
        return Refusal(views.not_measured(model.name, dataset.name))
    before, rung = measured
    if rung.standing != "meets":
        return Refusal(views.below_the_bar(rung, bar))
    permission = data_policy.decide_egress(context, dataset, report, [model.row], None)
    if isinstance(permission, Refusal):
        return permission
    if not model.row.stays_here and not model.row.outputs_terms:
        return Refusal(views.unknown_terms(model.row.name))
    now = line_up.plan(dataset.name, dataset.version, report, context.today(), prompt=before.prompt, bar=bar)
    plan = replace(
        before,
        version=dataset.version,
        arms=(rung.arm,),
        bar=bar,
        prices=now.prices,
        thinking=now.thinking,
        judge=None,
        search=None,
    )
    return Teacher(model.row, rung, plan, _open_terms(context, model.row), permission)


def _measured(
    context: AppContext, dataset: str, holdout: str, model: str, bar: float
) -> tuple[LadderPlan, Rung] | None:
    """Returns the model's best rung in the newest measurement of it on this test, with what it was asked by."""
    versions = tuple(version.id for version in context.store.datasets.versions(dataset))
    for measurement in context.store.measurements.done(versions, "ladder"):
        ladder = Ladder.from_json(measurement.result) if measurement.result else None
        if ladder is None or ladder.holdout_sha256 != holdout:
            continue
        rungs = [rung for rung in rejudge_ladder(ladder, bar).rungs if rung.arm.model == model]
        if rungs:
            return LadderPlan.from_json(measurement.plan), max(rungs, key=lambda rung: rung.score)
    return None


def _open_terms(context: AppContext, row: ProviderRow) -> str | None:
    """Returns the address of terms that nobody has accepted as they are."""
    accepted = {
        entry.detail for entry in context.store.audit.entries(_subject(row)) if entry.action == ACCEPT
    }
    return None if row.stays_here or row.outputs_terms in accepted else row.outputs_terms


def _subject(row: ProviderRow) -> str:
    return f"provider {row.name}"


def _prepare(context: AppContext, labelling: Labelling) -> None:
    dataset = context.store.datasets.get(labelling.dataset_id)
    report = datasets.report_of(dataset)
    if report is None:
        row_labels.fail(context, labelling, "That version was deleted.")
        return
    teacher = _teacher(context, CheckedDataset(dataset, report), str(labelling.teacher))
    if isinstance(teacher, Refusal):
        row_labels.fail(context, labelling, teacher.text)
        return
    file = QuestionFile(
        context.settings.files / str(labelling.sha256), str(labelling.filename), report.columns.text
    )
    try:
        questions = context.workers.poll(
            f"choice {labelling.id}",
            row_labels_worker.write_questions,
            row_labels.parts_of(context, report),
            file,
            leaves=not teacher.row.stays_here,
            presidio=context.settings.presidio,
        )
    except WorkerStopped as stopped:
        row_labels.retry_or_fail(context, labelling, f"Reading them {stopped}.")
        return
    if isinstance(questions, Refusal):
        row_labels.fail(context, labelling, questions.text)
    elif questions is not None:
        _begin(context, labelling, teacher, questions)


def _begin(context: AppContext, labelling: Labelling, teacher: Teacher, questions: TeacherQuestions) -> None:
    plan = replace(
        teacher.plan, holdout_sha256=questions.sha256, n_holdout=questions.rows, teaches=labelling.id
    )
    new = NewMeasurement("ladder", labelling.dataset_id, labelling.channel, labelling.person, plan.to_json())
    with context.store.transaction():
        measurement = measurements.add(context, new, teacher.permission, action="measure")
        context.store.labellings.move(
            labelling,
            "open",
            now=context.clock(),
            measurement_id=measurement.id,
            left_out=questions.left_out,
            tries=0,
            next_at=0,
        )
