"""Reads and checks files of rows and documents, and draws their charts. Runs in a worker process, the only place where
matplotlib is imported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import orjson

from bot.cards.datasets.documents import why_unreadable
from bot.cards.datasets.traces import TracedUpload
from bot.charts import datasets
from bot.services.datasets import traced_questions
from bot.values.runs import Refusal
from trainers.client import uploads
from trainers.dataset import CheckSettings, Columns, Example, Limits, Report, check_file, read
from trainers.dataset.reader import FirstRows, read_first_rows
from trainers.dataset.rows import to_printable
from trainers.dataset.sensitive_data import SECRET, Scan, faults_in, scan_file
from trainers.dataset.versions import Previous
from trainers.documents import Unreadable, read_document, split_passages, store_text
from trainers.json_values import from_object
from trainers.models.tokens import Encoding

FULL_LIST = Limits(listed=500)
FIRST_ROWS = "first_rows.jsonl"
SHOWN_ROWS = 3
SHOWN_COLUMNS = 5
SHOWN_CELL = 40  # characters
SEED = 20261124  # for the split into training and test rows, and for everything that is drawn from them


@dataclass(frozen=True)
class Inspection:
    """`traced` is what recorded calls say, if the file has those instead of rows."""

    report: Report
    plots: tuple[Path, ...]
    scans: tuple[Scan, ...] = ()
    traced: TracedUpload | None = None


def examples(files: Path, sha256: str) -> tuple[Example, ...]:
    """Returns the rows of one part of a dataset. Raises FileChanged if the file no longer has this hash."""
    path = files / f"{sha256}.jsonl"
    uploads.check_sha256(path, sha256)
    return read(path, path.name).examples


def inspect(
    path: Path,
    name: str,
    columns: Columns,
    files: Path,
    seed: int,
    *,
    previous: Previous | None,
    drawings: Path,
    longest: int | None,
    lengths_by: Encoding | None,
    presidio: bool,
    local_models: Mapping[str, Path],
    n_sealed: int = 0,
    learnt_files: Sequence[Path] = (),
) -> Inspection:
    """Checks a file in both stages. If it can be used, writes its parts into `files`, scans them, and draws lengths.png
    and labels.png into `drawings`.

    The first rows of a table are stored beside the pictures, for the form in which people choose its columns.

    `longest` is the number of tokens in the longest row that the model takes; longer rows are a finding. `lengths_by`
    is that model's own tokenizer, None if this machine doesn't have it. `learnt_files` are the training rows of models,
    whose questions are not held out.
    """
    limits = FULL_LIST
    if longest is not None:
        limits = replace(FULL_LIST, max_row_tokens=longest)
    report = check_file(
        path,
        name,
        columns,
        files,
        seed,
        CheckSettings(
            limits=limits,
            previous=previous,
            deep=True,
            local_models=local_models,
            lengths_by=lengths_by,
            presidio=presidio,
            n_sealed=n_sealed,
            learnt_files=learnt_files,
        ),
    )
    if report.column_names:
        _store_first_rows(path, drawings)
    if report.is_blocked:
        return Inspection(report, (), traced=traced_questions.read_upload(path, name))
    stored = [files / f"{sha256}.jsonl" for sha256 in report.stored_files]
    scans = tuple(scan_file(file, presidio=presidio) for file in stored)
    return Inspection(report, _draw_plots(report, longest, drawings), scans)


def _draw_plots(report: Report, longest: int | None, folder: Path) -> tuple[Path, ...]:
    tokens: list[int] = []
    for length, rows in report.token_lengths:
        tokens += [length] * rows
    # A label that only one row has may be a customer's sentence in the wrong column, so it is not drawn.
    shared = [count for count in report.labels if count.rows > 1]
    lengths = datasets.draw_row_lengths(tokens, longest, folder / "lengths.png")
    labels = datasets.draw_label_counts(shared, folder / "labels.png")
    return tuple(filter(None, (lengths, labels)))


def _store_first_rows(path: Path, folder: Path) -> None:
    """Stores what the form shows of a table: as few and as short cells as it has room for."""
    lines = []
    for table in read_first_rows(path, SHOWN_ROWS):
        records = [shown_cells(record) for record in table.records]
        lines.append(orjson.dumps({"sheet": table.sheet, "records": records}))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / FIRST_ROWS).write_bytes(b"\n".join(lines))


def shown_cells(record: Sequence[str]) -> list[str]:
    return [to_printable(cell, SHOWN_CELL) for cell in record[:SHOWN_COLUMNS]]


def load_first_rows(folder: Path) -> tuple[FirstRows, ...]:
    """Returns the first rows that the check has stored in a version's folder; none if its check stored none."""
    path = folder / FIRST_ROWS
    if not path.exists():
        return ()
    tables = []
    for line in path.read_bytes().splitlines():
        tables.append(from_object(FirstRows, orjson.loads(line)))
    return tuple(tables)


def read_passages(path: Path) -> int | Refusal:
    """Returns the number of passages of a document, or why it can't be used. Stores its text if it can."""
    text = read_document(path)
    if isinstance(text, Unreadable):
        return Refusal(why_unreadable(text))
    passages = split_passages(text)
    for passage in passages:
        for fault in faults_in(passage):
            if fault.rule == SECRET:
                return Refusal(f"It {fault.text}. {fault.rule.cure}")
    store_text(path, text)
    return len(passages)
