"""Rows that people label in Slack. A batch is recorded at once, and the ticks choose its rows; each answer is stored at
the click, and all answers together become the dataset's next version.

| state | what happens |
| --- | --- |
| received | the file of unlabelled rows is fetched |
| choosing | a worker chooses the rows that teach most, or whose label is in doubt |
| open | people answer, each in a form that only they see |
| closing | a worker writes the next version's file, which is checked like an upload |

Rows hold customers' words, so only people who may see the dataset's rows may answer (rules/data_policy.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

from bot import logs
from bot.cards.common.blocks import Block, Message, code
from bot.cards.datasets import row_labels as views
from bot.cards.evidence import distillations as distillation_views
from bot.context import AppContext, FetchLater
from bot.rules.facts import NO_CHECKS, LabelChecks
from bot.services.common import authorization, messages
from bot.services.datasets import datasets, row_labels_worker
from bot.services.datasets.datasets import CheckedDataset
from bot.services.datasets.row_labels_worker import (
    DatasetParts,
    DecidedRow,
    QuestionFile,
    VersionFile,
    WrittenFile,
)
from bot.values.row_labels import (
    MOST_ROWS,
    USUAL_ROWS,
    BatchOutcome,
    outcome_in_version,
    tally_answers,
)
from bot.values.runs import Refusal
from bot.worker_pool import WorkerStopped
from storage.datasets import NewDataset
from storage.records import Dataset, Labelling, LabellingRow, RowLabel
from storage.row_labels import NewLabelling
from trainers.dataset import DEFAULT_LIMITS, Columns, Report

TRIES = 8

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowsToLabel:
    """A request for a batch of `count` rows: from the file `file_id` of unlabelled rows or, if that is None, training
    rows whose label is in doubt."""

    dataset: str
    channel: str
    person: str
    count: int
    file_id: str | None = None
    filename: str | None = None


@dataclass(frozen=True)
class NextVersion:
    """The file of the version that follows `before`."""

    before: Dataset
    written: WrittenFile


def ask(
    context: AppContext, dataset: str, count: int | None, person: str, channel: str
) -> Block | str | Refusal:
    """Answers the command. If a batch is open, returns the form with its next row. Otherwise begins a batch of `count`
    doubted rows or, without a count, returns the form that asks which rows to label."""
    checked = _may_label(context, dataset, person, channel)
    if isinstance(checked, Refusal):
        return checked
    labelling = context.store.labellings.under_way(dataset)
    if labelling and labelling.state == "open" and labelling.teacher is None:
        return next_row(context, labelling.id, person)
    if labelling is None and count is None:
        return views.choice_form(channel, dataset)
    return begin(context, RowsToLabel(dataset, channel, person, count or USUAL_ROWS))


def begin_doubted(context: AppContext, dataset_id: int, person: str) -> str | Refusal:
    """Handles the button on a dataset's card: begins a batch of doubted rows."""
    dataset = context.store.datasets.get(dataset_id)
    return begin(context, RowsToLabel(dataset.name, dataset.channel, person, USUAL_ROWS))


def begin_unlabelled(context: AppContext, dataset_id: int, person: str) -> str | Refusal:
    """Handles the button on a dataset's card: begins a batch of the rows of its own file that have no label. The file
    is fetched again like any file of rows without labels, and the labelled rows in it are left out as known. Of a
    version that labels have made, it is the file that was uploaded before. It may be a version with recorded calls,
    whose questions have no labels."""
    dataset = context.store.datasets.get(dataset_id)
    upload = dataset
    for version in context.store.datasets.versions(dataset.name):  # newest first
        is_read = version.state == "ready" or version.id == dataset.id
        is_upload = version.origin is None and version.version <= dataset.version
        if is_read and is_upload:
            upload = version
            break
    request = RowsToLabel(dataset.name, dataset.channel, person, USUAL_ROWS, upload.source, upload.filename)
    return begin(context, request)


def begin(context: AppContext, request: RowsToLabel) -> str | Refusal:
    """Records a batch; the ticks choose its rows. Returns the text for the person who asked."""
    checked = _may_label(context, request.dataset, request.person, request.channel)
    if isinstance(checked, Refusal):
        return checked
    if not 1 <= request.count <= MOST_ROWS:
        return Refusal(f"A batch has 1 to {MOST_ROWS} rows.", "count")
    dataset = checked.dataset
    new = NewLabelling(
        dataset.name,
        dataset.id,
        dataset.owner,
        request.person,
        request.count,
        request.file_id,
        request.filename,
    )
    detail = f"up to {request.count} rows"
    if request.file_id:
        detail += " of a file without labels"
    with context.store.transaction():
        labelling = context.store.labellings.add(new, now=context.clock())
        if labelling is None:
            return Refusal(views.under_way(dataset))
        context.audit(request.person, "label", f"dataset {labelling.dataset_id}", detail)
    return views.started(dataset.name, request.count)


def next_row(context: AppContext, number: int, person: str) -> Block | Refusal:
    """Returns the form with the next row that this person has not answered."""
    labelling = _may_answer(context, number, person)
    if isinstance(labelling, Refusal):
        return labelling
    return _next_form(context, labelling, person)


def answer(context: AppContext, button: str, value: str, person: str) -> Block | Refusal:
    """Records an answer and returns the form with the next row. `value` has the number of the batch, the row's number
    in it and, for a label picked from the list, its index among the dataset's labels."""
    number, row_number, *chosen = map(int, value.split())
    labelling = _may_answer(context, number, person)
    if isinstance(labelling, Refusal):
        return labelling
    labellings = context.store.labellings
    row_by_number = {row.place: row for row in labellings.rows(labelling)}
    row = row_by_number.get(row_number)
    if row is None:
        return Refusal("This row no longer needs a label.")
    if chosen:
        label: str | None = _label_names(context, labelling)[chosen[0]]
    else:
        label_by_button = {views.KEEP: row.given, views.CHANGE: row.likely, views.DROP: None}
        label = label_by_button[button]
    with context.store.transaction():
        # Read again here: a batch that was closed meanwhile would lose the answer.
        current = labellings.get(number)
        if current is None or current.state != "open":
            return _not_open(current)
        labellings.answer(RowLabel(number, row_number, person, label, context.clock()))
        # Which row, but not which label: labels are customers' words, and the log is kept for good.
        detail = f"row {row_number}, {_verdict(row.given, label)}"
        context.audit(person, "label row", f"batch {number}", detail)
        show(context, current, views.open_card(current, outcome_of(context, current)))
    return _next_form(context, labelling, person)


def _verdict(shown: str | None, label: str | None) -> str:
    if label is None:
        return "dropped"
    if label == shown:
        return "kept"
    return "labelled"


def close(context: AppContext, number: int, person: str) -> Labelling | Refusal:
    """Ends a batch: its answers become the dataset's next version at a later tick."""
    return _end_batch(context, number, person, "closing", views.closing_card)


def discard(context: AppContext, number: int, person: str) -> Labelling | Refusal:
    return _end_batch(context, number, person, "cancelled", views.discarded_card)


def step(context: AppContext, labelling: Labelling) -> None:
    match labelling.state:
        case "received":
            _fetch(context, labelling)
        case "choosing":
            _choose(context, labelling)
        case "closing":
            _close(context, labelling)
        case _:
            pass  # it is waiting for people, or is over


def handle_step_failure(context: AppContext, labelling: Labelling) -> None:
    retry_or_fail(context, labelling, f"Something in the bot went wrong. {logs.sorry()}")


def outcome_of(context: AppContext, labelling: Labelling) -> BatchOutcome:
    """Returns the tally of the answers. A teacher's answer doesn't count if people have labelled the same question."""
    rows = context.store.labellings.rows(labelling)
    labels = context.store.labellings.labels(labelling)
    if labelling.teacher:
        rows = [row for row in rows if row.given is None]
        numbers = {row.place for row in rows}
        labels = [label for label in labels if label.place in numbers]
    return tally_answers(rows, labels)


def count_checks(context: AppContext, newest: int, versions: Collection[int]) -> LabelChecks:
    """Counts people's answers to doubted labels of these versions of a dataset, of which `newest` is judged today."""
    store = context.store.labellings
    checks = NO_CHECKS
    for labelling in store.on(versions):
        by_people = labelling.source is None and labelling.teacher is None
        if not by_people or labelling.state not in ("open", "closing", "done"):
            continue
        outcome = outcome_of(context, labelling)
        checks = _add_checks(checks, outcome, is_newest=labelling.dataset_id == newest)
    return checks


def _add_checks(checks: LabelChecks, outcome: BatchOutcome, *, is_newest: bool) -> LabelChecks:
    wrong = outcome.changed + outcome.dropped
    checked = outcome.stay + wrong
    # In a later version the wrong ones are corrected, and those that people kept are doubted again.
    done = outcome.stay
    uncorrected = 0
    if is_newest:
        done = checked
        uncorrected = wrong
    return LabelChecks(
        checked=checks.checked + checked,
        wrong=checks.wrong + wrong,
        done=checks.done + done,
        uncorrected=checks.uncorrected + uncorrected,
    )


def _may_label(context: AppContext, name: str, person: str, channel: str) -> CheckedDataset | Refusal:
    checked = datasets.load_usable(context, name, person, channel)
    if isinstance(checked, Refusal):
        return checked
    refusal = labelling_refusal(context, checked.dataset, person)
    if refusal is None:
        refusal = free_text_refusal(checked)
    return refusal or checked


def free_text_refusal(checked: CheckedDataset) -> Refusal | None:
    """Refuses a dataset whose answers are free text, None if they are labels."""
    if checked.report.task == "labels" and not checked.report.pairs:
        return None
    name = code(checked.dataset.name)
    return Refusal(f"{name} has free-text answers: only rows with one label each can be labelled here.")


def labelling_refusal(context: AppContext, dataset: Dataset, person: str) -> Refusal | None:
    """Returns why this person may not label the dataset's rows, None if they may."""
    refusal = authorization.refusal(context, person, "upload", dataset.owner)
    if refusal:
        return refusal
    delivery = authorization.row_delivery(context, dataset, person)
    if delivery == "thread" or delivery == "direct":
        return None
    return Refusal(views.not_shown(dataset, delivery))


def _may_answer(context: AppContext, number: int, person: str) -> Labelling | Refusal:
    labelling = context.store.labellings.get(number)
    if labelling is None or labelling.state != "open" or labelling.teacher:
        return _not_open(labelling)
    # Who was in the channel when the form opened may have left it.
    dataset = context.store.datasets.get(labelling.dataset_id)
    return labelling_refusal(context, dataset, person) or labelling


def _not_open(labelling: Labelling | None) -> Refusal:
    if labelling is None:
        return Refusal("These rows were deleted with their dataset.")
    match labelling.state:
        case "cancelled":
            done = "were discarded"
        case "failed":
            done = "can't be labelled"
        case _:
            done = "are in a version by now"
    return Refusal(f"These rows of {code(labelling.dataset)} {done}.")


def _next_form(context: AppContext, labelling: Labelling, person: str) -> Block:
    rows = context.store.labellings.rows(labelling)
    labels = context.store.labellings.labels(labelling)
    answered = {label.place for label in labels if label.person == person}
    for row in rows:
        if row.place not in answered:
            names = _label_names(context, labelling)
            return views.row_form(views.RowToLabel(row, names, len(answered), len(rows)))
    return views.finished_form(labelling, len(rows))


def _label_names(context: AppContext, labelling: Labelling) -> tuple[str, ...]:
    """Returns the labels of the version that the rows were chosen for, the most frequent first."""
    dataset = context.store.datasets.get(labelling.dataset_id)
    report = datasets.report_of(dataset)
    if report is None:
        return ()
    return tuple(count.label for count in report.labels)


def _end_batch(
    context: AppContext,
    number: int,
    person: str,
    state: Literal["closing", "cancelled"],
    card: Callable[[Labelling], Message],
) -> Labelling | Refusal:
    labelling = _may_answer(context, number, person)
    if isinstance(labelling, Refusal):
        return labelling
    now = context.clock()
    action = "discard labels"
    if state == "closing":
        action = "end labels"
    changes = {"closed_by": person, "next_at": now, "tries": 0}
    with context.store.transaction():
        moved = context.store.labellings.move(labelling, state, now=now, **changes)
        if moved is None:
            return _not_open(context.store.labellings.get(number))
        context.audit(person, action, f"dataset {moved.dataset_id}")
        show(context, moved, card(moved))
    return moved


def _fetch(context: AppContext, labelling: Labelling) -> None:
    folder = context.settings.files
    try:
        file = context.files.fetch(str(labelling.source), folder, DEFAULT_LIMITS.max_bytes)
    except FetchLater as trouble:
        retry_or_fail(context, labelling, f"{trouble}.")
        return
    if isinstance(file, Refusal):
        fail(context, labelling, file.text)
        return
    changes = {"sha256": file.sha256, "filename": file.name, "tries": 0, "next_at": 0}
    context.store.labellings.move(labelling, "choosing", now=context.clock(), **changes)


def _choose(context: AppContext, labelling: Labelling) -> None:
    dataset = context.store.datasets.get(labelling.dataset_id)
    report = datasets.report_of(dataset)
    if report is None:
        fail(context, labelling, "That version was deleted.")
        return
    file = None
    if labelling.sha256:
        file = question_file(context, labelling, report)
    try:
        choice = context.workers.poll(
            f"choice {labelling.id}",
            row_labels_worker.choose,
            labelling.dataset,
            DatasetParts.of(context.settings.files, report),
            file,
            labelling.count,
            context.settings.encoder,
        )
    except WorkerStopped as stopped:
        retry_or_fail(context, labelling, f"Choosing them {stopped}.")
        return
    if choice is None:
        return
    if isinstance(choice, Refusal):
        fail(context, labelling, choice.text)
        return
    rows = []
    for number, chosen in enumerate(choice.rows):
        key = chosen.key.hex()
        row = LabellingRow(labelling.id, number, key, chosen.text, chosen.given, chosen.likely)
        rows.append(row)
    changes = {"left_out": choice.left_out, "tries": 0, "next_at": 0}
    with context.store.transaction():
        moved = context.store.labellings.move(labelling, "open", now=context.clock(), **changes)
        if moved is None:
            return
        context.store.labellings.add_rows(rows)
        show(context, moved, views.open_card(moved, outcome_of(context, moved)))


def question_file(context: AppContext, labelling: Labelling, report: Report) -> QuestionFile:
    """Returns a batch's file, with the column and the sheet that have its texts."""
    columns = _columns_of_questions(context, labelling, report)
    path = context.settings.files / str(labelling.sha256)
    return QuestionFile(path, str(labelling.filename), columns.text, columns.sheet)


def _columns_of_questions(context: AppContext, labelling: Labelling, report: Report) -> Columns:
    """Returns where a file's texts are: as in the version that was uploaded as this file. In other files they are
    expected in a column of the same name as the dataset's."""
    for version in context.store.datasets.versions(labelling.dataset):
        if version.sha256 != labelling.sha256:
            continue
        uploaded = datasets.report_of(version)
        if uploaded:
            return uploaded.columns
    return Columns(report.columns.text)


def _close(context: AppContext, labelling: Labelling) -> None:
    """Writes the answers into the newest version. Waits while a version is being checked, whose changes would be lost
    otherwise."""
    versions = context.store.datasets.versions(labelling.dataset)
    before = context.store.datasets.newest(labelling.dataset)
    report = None
    if before is not None:
        report = datasets.report_of(before)
    if before is None or report is None:
        fail(context, labelling, "No version of the dataset can be used.")
        return
    if any(version.state in ("received", "checking") for version in versions):
        return
    outcome = outcome_of(context, labelling)
    # In another version than the one that people were shown, even answers that changed nothing may change something.
    if not outcome.changes and before.id == labelling.dataset_id:
        _finish(context, labelling, outcome, None)
        return
    rows = context.store.labellings.rows(labelling)
    decided = []
    for row in rows:
        if row.place in outcome.decided:
            label = outcome.decided[row.place]
            decided.append(DecidedRow(row.key, row.text, row.given, label, labelling.teacher))
    file = VersionFile(
        files=context.settings.files,
        sha256=str(before.sha256),
        name=before.filename,
        columns=datasets.columns_of(before),
        system=report.system,
    )
    work = f"labels {labelling.id}"  # the same for each version, so that no file is forgotten
    try:
        written = context.workers.poll(work, row_labels_worker.write_version, file, decided)
    except WorkerStopped as stopped:
        retry_or_fail(context, labelling, f"Writing the new version {stopped}.")
        return
    if written is not None and written.before != file.sha256:
        # A newer version came meanwhile: the next tick writes the answers into that one.
        _discard(context, written)
    elif written is not None:
        overtaken = {row.key for row in written.overtaken}
        outcome = outcome_in_version(outcome, rows, overtaken, written.already)
        _finish(context, labelling, outcome, NextVersion(before, written))


def _finish(
    context: AppContext, labelling: Labelling, outcome: BatchOutcome, following: NextVersion | None
) -> None:
    """Adds the version that was written and ends the batch. `following` is None if no answer changes anything."""
    with context.store.transaction():
        version = None
        if following:
            newest = context.store.datasets.newest(labelling.dataset)
            if newest is None or newest.id != following.before.id:
                # A newer version was added meanwhile: the next tick writes the answers into that one.
                _discard(context, following.written)
                return
            version = _add_version(context, labelling, outcome, following.written)
        version_id = version.id if version else None
        now = context.clock()
        moved = context.store.labellings.move(labelling, "done", now=now, version_id=version_id)
        if moved:
            card = _done_card(context, moved, outcome, version, following)
            show(context, moved, card)


def _discard(context: AppContext, written: WrittenFile) -> None:
    """Deletes the file, unless a version has the same bytes: it is named by them."""
    sha256 = written.sha256
    if sha256 and not context.store.datasets.has_file(sha256):
        path = context.settings.files / sha256
        path.unlink(missing_ok=True)


def _done_card(
    context: AppContext,
    labelling: Labelling,
    outcome: BatchOutcome,
    version: Dataset | None,
    following: NextVersion | None,
) -> Message:
    if labelling.teacher is None:
        return views.done_card(labelling, outcome, version, _overtaken_in(following))
    contradictions = contradictions_of(context, labelling)
    return distillation_views.done_card(labelling, outcome.added, contradictions, version)


def contradictions_of(context: AppContext, labelling: Labelling) -> distillation_views.Contradictions:
    """Compares a teacher's labels with people's, on the questions that both labelled."""
    labels = {label.place: label.label for label in context.store.labellings.labels(labelling)}
    compared = 0
    contradictions = []
    for row in context.store.labellings.rows(labelling):
        if row.given is None or row.place not in labels:
            continue
        compared += 1
        label = labels[row.place] or ""
        if label != row.given:
            contradictions.append((row, label))
    return distillation_views.Contradictions(compared, contradictions)


def _overtaken_in(following: NextVersion | None) -> views.OvertakenRows | None:
    if following is None or not following.written.overtaken:
        return None
    overtaken = following.written.overtaken
    lines = tuple(row.line for row in overtaken if row.line is not None)
    # Without a line, the row is no longer in the version.
    gone = len(overtaken) - len(lines)
    return views.OvertakenRows(following.before, lines, gone)


def _add_version(
    context: AppContext, labelling: Labelling, outcome: BatchOutcome, written: WrittenFile
) -> Dataset | None:
    """Returns None if the answers change nothing."""
    if written.sha256 is None:
        return None
    new = NewDataset(
        labelling.dataset,
        context.store.datasets.owners()[labelling.dataset],
        str(labelling.closed_by),
        f"{labelling.dataset}-labels-{labelling.id}.jsonl",
        source="",
        text_column=written.columns.text,
        label_column=written.columns.label,
        origin="teacher" if labelling.teacher else "people",
    )
    who = labelling.teacher or f"{outcome.people} people"
    detail = f"labels of {who}: {outcome.changes} rows differ"
    return datasets.add_generated_version(context, new, written.sha256, action="add labels", detail=detail)


def retry_or_fail(context: AppContext, labelling: Labelling, trouble: str) -> None:
    tries = labelling.tries + 1
    if tries >= TRIES:
        fail(context, labelling, f"{trouble} Gave up after {TRIES} attempts.")
        return
    now = context.clock()
    pause = min(2**labelling.tries, 120)
    context.store.labellings.move(labelling, labelling.state, now=now, tries=tries, next_at=now + pause)


def fail(context: AppContext, labelling: Labelling, why: str) -> None:
    """Ends a batch that can't continue. If people have answered it, it is opened again instead, so that no answer is
    lost."""
    now = context.clock()
    with context.store.transaction():
        if labelling.state == "closing" and labelling.teacher is None:
            moved = context.store.labellings.move(labelling, "open", now=now, tries=0, next_at=0)
        else:
            moved = context.store.labellings.move(labelling, "failed", now=now)
        if moved is None:
            return
        if moved.state == "open":
            show(context, moved, views.open_card(moved, outcome_of(context, moved)))
        person = labelling.closed_by or labelling.person
        # One batch can fail to close several times, and people hear of each.
        once = f"labelling {moved.id} {moved.state} {now}"
        message = views.failed_notice(moved, why)
        messages.tell_person(context, once, person, moved.channel, message, topic="answers")


def show(context: AppContext, labelling: Labelling, message: Message) -> None:
    """Posts or edits the batch's card. A teacher's is below the measurement that asked it, so that the channel has one
    message of a distillation and one of the new version."""
    thread = None
    if labelling.teacher is not None and labelling.measurement_id is not None:
        thread = f"measurement {labelling.measurement_id}"  # as measurements.card_of names it
    context.show(
        f"labelling {labelling.id}", labelling.channel, message, concerns=labelling.person, thread=thread
    )
