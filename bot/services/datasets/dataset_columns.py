"""Choosing the sheet and the columns of an uploaded file, in a form with its first rows. The file is then checked
again."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.common.blocks import code
from bot.cards.datasets import check_reports
from bot.context import AppContext
from bot.services.common import authorization
from bot.services.datasets import datasets
from bot.services.datasets.dataset_worker import load_first_rows
from bot.values.runs import Refusal
from storage.records import Dataset
from trainers.dataset import Columns, Report
from trainers.dataset.reader import FirstRows


def may_choose_columns(
    context: AppContext, dataset_id: int, person: str
) -> tuple[Dataset, Report, Sequence[FirstRows]] | Refusal:
    """Returns a version whose sheet and columns people may choose, its report, and its first rows if this person
    uploaded them; or why they can't be chosen."""
    dataset = context.store.datasets.get(dataset_id)
    refusal = authorization.dataset_button_refusal(context, "upload", dataset, person)
    if refusal:
        return refusal
    path = context.settings.files / str(dataset.sha256)
    report = Report.from_json(dataset.report) if dataset.report else None
    if report is None:
        return Refusal(f"The columns of {code(dataset.title)} were already chosen.")
    if dataset.state == "ready" and _is_used(context, dataset):
        return Refusal(
            f"A newer version, a measurement, a run, labels or a waiver depend on how {code(dataset.title)} was read. "
            "Upload the file under another name, and name the columns in the form."
        )
    if dataset.sha256 is None or not path.exists():
        return Refusal("The file was deleted. Upload it again, and name the columns in the form.")
    if person != dataset.uploaded_by:
        return dataset, report, ()
    return dataset, report, load_first_rows(datasets.folder_of(context, dataset))


def choose_columns(context: AppContext, dataset_id: int, chosen: Columns, person: str) -> Dataset | Refusal:
    """Has a version checked again with the columns and the sheet that a person chose. None keeps what was found, and
    the sheet '' stands for all that are alike. In another sheet the columns are found, since the form has listed those
    of the former one. The files that were made before are deleted."""
    allowed = may_choose_columns(context, dataset_id, person)
    if isinstance(allowed, Refusal):
        return allowed
    dataset, report, _ = allowed
    text = chosen.text or dataset.text_column
    label = chosen.label or dataset.label_column
    if not _is_same_sheet(dataset, report, chosen.sheet):
        text = None
        label = None
    elif text == label:
        return Refusal("The text and the label can't be the same column.")
    sheet = dataset.sheet
    if chosen.sheet is not None:
        sheet = chosen.sheet or None
    changes = {
        "text_column": text,
        "label_column": label,
        "sheet": sheet,
        "tries": 0,
        "next_at": 0,
        "report": None,
        "refusal": None,
    }
    with context.store.transaction():
        # Asked again here, because it may have come into use since it was asked above.
        if dataset.state == "ready" and _is_used(context, dataset):
            return Refusal(f"{code(dataset.title)} has come into use. Upload the file under another name.")
        only_here = context.store.deletions.files_of([dataset.id], documents_of=None).only_ours
        moved = context.store.datasets.move(dataset, "checking", now=context.clock(), **changes)
        if moved is None:
            return Refusal(f"The columns of {code(dataset.title)} were already chosen.")
        context.audit(person, "choose columns", f"dataset {moved.id}")
        datasets.show(context, moved, check_reports.received_card(moved))
    # Only once the move is committed: until then the version's report names these files.
    for sha256 in only_here.intersection(report.stored_files):
        (context.settings.files / f"{sha256}.jsonl").unlink(missing_ok=True)
        context.store.scans.drop(sha256)
    return moved


def _is_same_sheet(dataset: Dataset, report: Report, sheet: str | None) -> bool:
    """True if this sheet has the columns that were found before."""
    if sheet is None:
        return True
    if not sheet:
        return dataset.sheet is None
    return any(each.name == sheet and each.is_read for each in report.sheets)


def _is_used(context: AppContext, dataset: Dataset) -> bool:
    """True if something depends on how this version was read."""
    store = context.store
    for other in store.datasets.versions(dataset.name):
        if other.version > dataset.version and other.state != "refused":
            return True
    ids = (dataset.id,)
    return bool(
        store.deletions.of(dataset.name)
        or store.runs.on(ids)
        or store.measurements.on(ids)
        or store.labellings.on(ids)
        or store.waivers.of(dataset.id)
    )
