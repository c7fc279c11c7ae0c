"""Writes a dataset's newest version again without some rows, and adds the result as the next version.

It is written into a folder of its own. Its files are moved to the others once the version is recorded; until then the
next attempt, or the nightly retention, deletes what a kill leaves behind.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bot.cards.common.blocks import code
from bot.cards.common.words import pluralize
from bot.cards.datasets import check_reports
from bot.cards.datasets import dataset_deletion as views
from bot.context import CoreContext
from bot.services.common.targets import default_row_limit
from bot.services.datasets import datasets, taught_rows
from bot.services.datasets.dataset_worker import FULL_LIST, SEED, Inspection, inspect
from bot.services.datasets.pairs import judged_model
from bot.services.datasets.row_labels_worker import as_unanswered, write_table
from bot.values.runs import Refusal
from storage.datasets import NewDataset
from storage.records import Dataset
from trainers.dataset import Columns, Report, read
from trainers.dataset.conversion import open_converted
from trainers.dataset.rows import Example, question_key
from trainers.dataset.versions import Previous, store_without_questions


@dataclass(frozen=True)
class RewrittenDataset:
    """The version `before` without `rows` rows, `rows_held_out` of which were held out. `inspected` is the check of the
    remaining rows, which are in these `columns` of its file. `named` are the rows that were to be deleted."""

    before: Dataset
    inspected: Inspection
    rows: int
    rows_held_out: int
    columns: Columns
    named: tuple[Example, ...]


def rewrite_without_rows(
    context: CoreContext, dataset: str, lines: Collection[int]
) -> RewrittenDataset | Refusal:
    """Writes the newest usable version again, without the rows that ask the same questions as the rows at these lines
    of its file."""
    before = context.store.datasets.newest(dataset)
    report = None
    if before is not None:
        report = datasets.report_of(before)
    if before is None or report is None:
        return Refusal(f"{code(dataset)} has no usable version, so no row can be deleted from it.")
    row_by_line = _rows_by_line(context, before)
    unknown = sorted(set(lines) - row_by_line.keys())
    if unknown:
        listed = ", ".join(str(line) for line in unknown)
        return Refusal(
            f"No row of {code(before.name)}, version {before.version}, begins at line {listed}. Use the line numbers "
            f"of {before.filename}, as its card and `finetune check` show them."
        )
    named = tuple(row_by_line[line] for line in lines)
    return _rewrite(context, before, report, named)


def add_version(context: CoreContext, new: RewrittenDataset, person: str) -> Dataset:
    """Records the new version as ready, since it is checked already. Call it in the transaction that records the
    deletion."""
    now = context.clock()
    before = new.before
    report = new.inspected.report
    values = NewDataset(
        before.name,
        before.owner,
        before.uploaded_by,
        report.name,
        source="",
        text_column=new.columns.text,
        label_column=new.columns.label,
    )
    received = context.store.datasets.receive(values, now=now)
    assert received is not None  # noqa: S101 - its channel's own name
    changes = {"sha256": report.source_sha256, "report": report.to_json()}
    added = context.store.datasets.move(received, "ready", now=now, **changes)
    assert added is not None  # noqa: S101 - received in this transaction
    datasets.store_scans(context, new.inspected.scans)
    rows = f"{pluralize(new.rows, 'row')}, {new.rows_held_out} held out"
    detail = f"{rows}, of version {before.version}: version {added.version} has the others"
    context.audit(person, "take out rows", f"dataset {added.id}", detail)
    taught = taught_rows.count_taught_in(context, before.name, report)
    judged = None
    if report.pairs:
        judged = judged_model(context, added)
    card = check_reports.checked_card(added, report, taught=taught, judged=judged)
    datasets.show(context, added, card)
    datasets.post_findings(context, added, report)
    notice = views.rows_deleted_notice(before.version, new.rows, new.rows_held_out)
    datasets.post_in_thread(context, added, notice)
    return added


def move_rewritten_files(context: CoreContext, dataset: str) -> None:
    """Moves the files of a new version that is recorded to those of the other datasets."""
    folder = _folder(context, dataset)
    newest = context.store.datasets.newest(dataset)
    report = None
    if newest is not None:
        report = datasets.report_of(newest)
    if report is not None:
        parts = [f"{sha256}.jsonl" for sha256 in report.stored_files]
        for name in (report.source_sha256, *parts):
            path = folder / name
            # An attempt before a kill may have moved some already.
            if path.exists():
                path.replace(context.settings.files / name)
    discard_rewrite(context, dataset)


def discard_rewrite(context: CoreContext, dataset: str) -> None:
    """Deletes the folder of a new version that will not be recorded, or whose files were moved."""
    folder = _folder(context, dataset)
    if folder.exists():
        shutil.rmtree(folder)


def tidy_rewrites(context: CoreContext) -> None:
    """Deletes the folders of new versions that a kill kept from being recorded."""
    for folder in (context.settings.data / "rewritten").glob("*"):
        if not context.store.deletions.of(folder.name):
            discard_rewrite(context, folder.name)


def _folder(context: CoreContext, dataset: str) -> Path:
    return context.settings.data / "rewritten" / dataset


def _rows_by_line(context: CoreContext, version: Dataset) -> dict[int, Example]:
    """Returns the row for each line of the version's file at which one begins."""
    columns = datasets.columns_of(version)
    path = context.settings.files / str(version.sha256)
    reading = read(path, version.filename, columns=columns, limits=FULL_LIST)
    rows = {example.line: example for example in reading.examples}
    return rows | {row.line: as_unanswered(row.text) for row in reading.unlabelled}


def _rewrite(
    context: CoreContext, before: Dataset, report: Report, named: tuple[Example, ...]
) -> RewrittenDataset | Refusal:
    """Writes and checks the version without the questions of the `named` rows."""
    keys = frozenset(map(question_key, named))
    # An attempt that a kill ended may have left files.
    discard_rewrite(context, before.name)
    folder = _folder(context, before.name)
    folder.mkdir(parents=True, exist_ok=True)
    parts = _write_parts(context, report, folder, keys)
    joined = folder / "joined"
    columns = _join(context, before, report, parts, keys, joined)
    opened_before = datasets.is_opened(context, before.name, report)
    training, held_out, *others = parts
    sealed = others[0] if report.sealed_sha256 else None
    previous = Previous(training, held_out, sealed=sealed, is_opened=opened_before)
    inspection = _inspect(context, joined, f"{before.name}.jsonl", previous, columns)
    if columns == Columns():
        # The rows contain their instructions already. The report keeps these for models that are trained on the rows.
        inspection = replace(inspection, report=replace(inspection.report, system=report.system))
    new = inspection.report
    refusal = _why_unusable(before.name, new)
    if refusal:
        return refusal
    # A version's file is named by its content, which is known only now.
    joined.rename(joined.with_name(new.source_sha256))
    held_before = report.n_holdout + report.n_sealed
    held = held_before - new.n_holdout - new.n_sealed
    unlabelled = report.n_unlabelled - new.n_unlabelled
    rows = report.n_train - new.n_train + held + unlabelled
    return RewrittenDataset(before, inspection, rows, held, columns, named)


def _write_parts(
    context: CoreContext, report: Report, folder: Path, keys: frozenset[bytes]
) -> Sequence[Path]:
    """Writes the training rows, the held-out rows and, if there are any, the sealed ones without the questions in
    `keys`."""
    parts = []
    for sha256 in filter(None, (report.train_sha256, report.holdout_sha256, report.sealed_sha256)):
        name = f"{sha256}.jsonl"
        # A copy, because the version before stays as it is until the new one is recorded.
        shutil.copyfile(context.settings.files / name, folder / name)
        without = store_without_questions(folder, sha256, keys)
        parts.append(folder / f"{without}.jsonl")
    return parts


def _why_unusable(dataset: str, remaining: Report) -> Refusal | None:
    if remaining.is_blocked:
        worst = next(finding for finding in remaining.findings if finding.blocks)
        return Refusal(
            f"Without these rows {code(dataset)} can't be used: {worst.message} Delete the whole dataset, or "
            "upload a file without them first."
        )
    if not remaining.n_holdout:
        return Refusal(f"Without these rows {code(dataset)} has no test rows left. Upload more rows first.")
    return None


def _join(
    context: CoreContext,
    before: Dataset,
    report: Report,
    parts: Sequence[Path],
    keys: Collection[bytes],
    joined: Path,
) -> Columns:
    """Writes the file of the version without the questions in `keys`, and returns its columns. It is made of the parts,
    except for what they lack: the rejected answers of pairs, and rows without a label."""
    source = context.settings.files / str(before.sha256)
    if report.pairs:
        row_by_line = _rows_by_line(context, before)
        gone = {number for number, row in row_by_line.items() if question_key(row) in keys}
        with open_converted(source, FULL_LIST) as converted, joined.open("wb") as file:
            converted.file.seek(0)
            lines = enumerate(converted.file, 1)
            file.writelines(line for number, line in lines if number not in gone)
        return Columns()
    if report.n_unlabelled and report.system is not None:
        return write_table(before.filename, source, datasets.columns_of(before), parts, keys, joined)
    with joined.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())
    return Columns()


def _inspect(context: CoreContext, path: Path, name: str, previous: Previous, columns: Columns) -> Inspection:
    """Checks the file like an upload."""
    settings = context.settings
    tokens = None
    lengths_by = None
    limit = default_row_limit(settings)
    if limit is not None:
        tokens = limit.tokens
        lengths_by = limit.own
    return inspect(
        path,
        name,
        columns,
        path.parent,
        SEED,
        previous=previous,
        drawings=path.parent,
        longest=tokens,
        lengths_by=lengths_by,
        presidio=settings.presidio,
        local_models=settings.trainer.folders,
    )
