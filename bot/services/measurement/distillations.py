"""Distillation: a model that meets the bar on the test rows labels other rows for training.

The rows are a labelling (services/datasets/row_labels.py) whose answers come from a model, the teacher. Asking it is a
measurement with the rows in the holdout's place, so that pricing, agreeing, asking and cancelling are shared. Each row
is asked with the prompt that was measured, and paid for once. The teacher's labels become the dataset's next version;
none of the rows joins the test.

| labelling | measurement | |
| --- | --- | --- |
| received, choosing | | the file is fetched; a worker leaves out rows that the teacher may not see |
| open | asked, running | a person agrees to the cost; the teacher is asked |
| closing, done | done | the next version is written |
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bot.cards.common.blocks import Block
from bot.cards.datasets import row_labels as row_label_views
from bot.cards.evidence import distillations as views
from bot.context import AppContext
from bot.services.common import authorization, candidates
from bot.services.datasets import data_policy, datasets, row_labels, row_labels_worker
from bot.services.datasets.data_policy import EgressPermission
from bot.services.datasets.datasets import CheckedDataset
from bot.services.datasets.row_labels_worker import DatasetParts, TeacherQuestions
from bot.services.evidence import evaluation_worker
from bot.services.evidence.measured_candidates import load_measured
from bot.services.measurement import evaluation_engine, measurements
from bot.services.measurement.evaluation_progress import ComparisonStep
from bot.values.evaluations import ComparisonPlan
from bot.values.requests import Baseline
from bot.values.runs import Refusal
from bot.worker_pool import WorkerStopped
from storage.evaluations import NewMeasurement
from storage.records import COMPARISON, Labelling, LabellingRow, RowLabel
from storage.row_labels import NewLabelling
from trainers.evaluation.results import MeasuredCandidate, find_best
from trainers.providers.providers import ProviderRow

ACCEPT = "accept terms"


@dataclass(frozen=True)
class RowsToTeach:
    """What a person entered in the form. `accepts` is True if they accept the provider's terms."""

    dataset: str
    teacher: str
    channel: str
    person: str
    file_id: str
    filename: str
    accepts: bool


@dataclass(frozen=True)
class Teacher:
    """A model that may label. `plan` asks it as it was measured, at today's prices. `terms` is the address of the
    provider's terms that somebody must accept first, None if they are accepted or there are none."""

    row: ProviderRow
    candidate: MeasuredCandidate
    plan: ComparisonPlan
    terms: str | None
    permission: EgressPermission


def ask(context: AppContext, dataset: str, teacher: str, person: str, channel: str) -> Block | Refusal:
    """Returns the form that asks for the rows."""
    checked = _may_distil(context, dataset, person, channel)
    if isinstance(checked, Refusal):
        return checked
    measured = _find_teacher(context, checked, teacher)
    if isinstance(measured, Refusal):
        return measured
    terms = (measured.row.title, measured.terms) if measured.terms else None
    return views.form(channel, dataset, measured.candidate, measured.plan.bar, terms)


def receive(context: AppContext, request: RowsToTeach) -> Labelling | Refusal:
    """Records the rows to label, and who accepted the terms of the teacher's provider."""
    checked = _may_distil(context, request.dataset, request.person, request.channel)
    if isinstance(checked, Refusal):
        return checked
    teacher = _find_teacher(context, checked, request.teacher)
    if isinstance(teacher, Refusal):
        return teacher
    if teacher.terms and not request.accepts:
        return Refusal(views.terms_not_accepted(teacher.row.title), "terms")
    now = context.clock()
    dataset = checked.dataset
    new = NewLabelling(
        dataset.name,
        dataset.id,
        request.channel,
        request.person,
        0,
        request.file_id,
        request.filename,
        str(teacher.candidate.model),
    )
    with context.store.transaction():
        labelling = context.store.labellings.add(new, now=now)
        if labelling is None:
            return Refusal(row_label_views.under_way(dataset))
        context.audit(request.person, "distil", f"dataset {dataset.id}", str(labelling.teacher))
        if teacher.terms:
            # The log is where the next labelling looks for the acceptance (`_open_terms`).
            context.audit(request.person, ACCEPT, _subject(teacher.row), teacher.terms)
    return labelling


def step(context: AppContext, labelling: Labelling) -> None:
    """Takes a teacher's labelling one step further."""
    match labelling.state:
        case "choosing":
            _prepare(context, labelling)
        case "open":  # ends if its measurement does; that one's card says why
            measurement = context.store.measurements.get(labelling.measurement_id or 0)
            if measurement is None or measurement.state in ("failed", "cancelled"):
                context.store.labellings.move(labelling, "cancelled", now=context.clock())
        case _:
            row_labels.step(context, labelling)


def conclude(step: ComparisonStep) -> None:
    """Ends the measurement once the teacher has answered. Later ticks write its labels into the next version."""
    context = step.context
    plan = step.plan
    keys = step.load_keys()
    if keys is None:
        return
    answer_keys = evaluation_worker.keys_by_candidate(keys)
    answers = evaluation_engine.replies(context, answer_keys, step.progress.candidates)
    rows = context.workers.poll(
        f"taught {step.owner}",
        row_labels_worker.read_teacher,
        context.settings.files,
        plan.holdout_sha256,
        plan.labels,
        answers[plan.candidates[0]],
    )
    if rows is None:
        return
    now = context.clock()
    with context.store.transaction():
        # In one transaction with the labels: ended without them, the answers would be paid for in vain.
        moved = context.store.measurements.move(
            step.measurement, "done", now=now, actual_micros=step.progress.booked_micros
        )
        labelling = context.store.labellings.get(plan.teaches or 0)
        if moved is None or labelling is None or labelling.state != "open":
            return
        labelled = [(row, row.label) for row in rows if row.label is not None]
        context.store.labellings.add_rows(
            LabellingRow(labelling.id, number, row.key, row.text, row.given, label)
            for number, (row, label) in enumerate(labelled)
        )
        for number, (_, label) in enumerate(labelled):
            context.store.labellings.answer(
                RowLabel(labelling.id, number, str(labelling.teacher), label, now)
            )
        left_out = labelling.left_out + len(rows) - len(labelled)
        context.store.labellings.move(
            labelling, "closing", now=now, closed_by=labelling.person, left_out=left_out, tries=0, next_at=0
        )
        context.audit("finetune", "labelled", f"measurement {moved.id}")
        measurements.show(context, moved)


def contradictions(context: AppContext, number: int, person: str) -> Block | Refusal:
    """Returns the form with the questions that the teacher and people labelled differently."""
    labelling = context.store.labellings.get(number)
    if labelling is None:
        return Refusal("These rows were deleted with their dataset.")
    refusal = row_labels.labelling_refusal(context, context.store.datasets.get(labelling.dataset_id), person)
    return refusal or views.contradictions_form(
        str(labelling.teacher), row_labels.contradictions_of(context, labelling)
    )


def _may_distil(context: AppContext, dataset: str, person: str, channel: str) -> CheckedDataset | Refusal:
    checked = measurements.dataset_to_measure(context, dataset, person, channel)
    if isinstance(checked, Refusal):
        return checked
    refusal = authorization.refusal(context, person, "upload", checked.dataset.owner)
    return refusal or row_labels.free_text_refusal(checked) or checked


def _find_teacher(context: AppContext, checked: CheckedDataset, name: str) -> Teacher | Refusal:
    """Returns the model with its best candidate on this holdout, or why it may not label: it was not measured, misses
    the bar, may not see the rows, or its provider's terms forbid it."""
    dataset = checked.dataset
    report = checked.report
    command = Baseline(dataset.name, models=(name,))
    line_up = candidates.line_up(context.settings, context.trainers, command, report, context.today())
    if isinstance(line_up, Refusal):
        return line_up
    model = line_up.models[0]
    bar = datasets.bar_of(context, dataset.name)
    holdout = str(report.holdout_sha256)
    measured = load_measured(context.store, context.settings.files, dataset.name, holdout, bar)
    if measured is None:
        return Refusal(views.not_measured(model.name, dataset.name))
    of_model = [candidate for candidate in measured.comparison.candidates if candidate.model == model.name]
    candidate = find_best(of_model)
    if candidate is None:
        return Refusal(views.not_measured(model.name, dataset.name))
    before = measured.plan_of(candidate.identity)
    if candidate.standing != "meets":
        return Refusal(views.below_the_bar(candidate, bar))
    permission = data_policy.decide_egress(context, dataset, report, [model.row], None)
    if isinstance(permission, Refusal):
        return permission
    refusal = data_policy.typed_text_refusal(
        context, before.prompt or "", "The teacher's prompt", dataset.id, [model.row]
    )
    if refusal:
        return refusal
    if not model.row.stays_here and not model.row.outputs_terms:
        return Refusal(views.unknown_terms(model.row.name))
    now = line_up.plan(dataset.name, dataset.version, report, context.today(), prompt=before.prompt, bar=bar)
    plan = replace(
        before,
        version=dataset.version,
        candidates=(candidate.identity,),
        bar=bar,
        prices=now.prices,
        thinking=now.thinking,
        # The answers become labels and are not scored; the prompt was found when the teacher was measured.
        judge=None,
        search=None,
    )
    return Teacher(model.row, candidate, plan, _open_terms(context, model.row), permission)


def _open_terms(context: AppContext, row: ProviderRow) -> str | None:
    """Returns the address of the provider's terms if nobody has accepted these yet, else None."""
    if row.stays_here:
        return None
    for entry in context.store.audit.entries(_subject(row)):
        if entry.action == ACCEPT and entry.detail == row.outputs_terms:
            return None
    return row.outputs_terms


def _subject(row: ProviderRow) -> str:
    return f"provider {row.name}"


def _prepare(context: AppContext, labelling: Labelling) -> None:
    """Has a worker write the questions for the teacher, then opens the labelling with a measurement that asks them."""
    dataset = context.store.datasets.get(labelling.dataset_id)
    report = datasets.report_of(dataset)
    if report is None:
        row_labels.fail(context, labelling, "That version was deleted.")
        return
    # Looked for again, because the bar, the rules or the prices may have changed since it was asked for.
    teacher = _find_teacher(context, CheckedDataset(dataset, report), str(labelling.teacher))
    if isinstance(teacher, Refusal):
        row_labels.fail(context, labelling, teacher.text)
        return
    file = row_labels.question_file(context, labelling, report)
    try:
        questions = context.workers.poll(
            f"choice {labelling.id}",
            row_labels_worker.write_questions,
            DatasetParts.of(context.settings.files, report),
            file,
            teacher.plan.labels,
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
    new = NewMeasurement(
        COMPARISON, labelling.dataset_id, labelling.channel, labelling.person, plan.to_json()
    )
    with context.store.transaction():
        # In one transaction: after a kill in between, the next tick would add a second measurement.
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
