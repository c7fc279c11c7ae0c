"""Has people label calls unlike all earlier ones, so that the next version teaches what is new.

They were chosen for being unusual, so they never measure; and calls that measure, or are to be labelled for that, are
left out here, so that no model is taught what it is judged by.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence

from bot.cards.datasets import row_labels as row_label_views
from bot.cards.monitoring import weeks as views
from bot.context import AppContext
from bot.services.common import authorization
from bot.services.datasets import datasets, row_labels
from bot.services.datasets.datasets import CheckedDataset
from bot.services.datasets.row_labels_worker import store_lines
from bot.services.monitoring import live_accuracy
from bot.services.monitoring.week_worker import question_of
from bot.values.monitoring import USUAL_LABELS, WeekFacts
from bot.values.runs import Refusal
from storage.monitoring.watches import Watch
from storage.row_labels import NewLabelling
from trainers.recipes import samples

FILE_NAME = "unusual-calls.csv"
SOURCE = "sampled calls"


def begin(context: AppContext, dataset: str, person: str) -> str | Refusal:
    """Handles the button: begins a batch of the week's unusual calls. Returns the text for the person."""
    gone = Refusal(views.no_unusual_calls(dataset))
    refusal = authorization.button_refusal(context, dataset, person, gone)
    if refusal:
        return refusal
    watch = context.store.watches.current(dataset)
    checked = _checked(context, dataset)
    if watch is None or checked is None:
        return gone
    refusal = row_labels.labelling_refusal(context, checked.dataset, person)
    refusal = refusal or row_labels.free_text_refusal(checked)
    if refusal:
        return refusal
    texts = _unusual_texts(context, watch)
    if not texts:
        return gone
    file = _write(context, checked.report.columns.text or "text", texts)
    return _record(context, checked, person, file)


def _checked(context: AppContext, name: str) -> CheckedDataset | None:
    dataset = context.store.datasets.newest(name)
    report = datasets.report_of(dataset) if dataset else None
    if dataset is None or report is None:
        return None
    return CheckedDataset(dataset, report)


def _unusual_texts(context: AppContext, watch: Watch) -> list[str]:
    """Returns the texts of the last week's unusual calls that are still stored and don't measure."""
    stored = context.store.watched_weeks.of(watch.dataset)
    if not stored:
        return []
    shift = WeekFacts.from_json(stored[-1].facts).shift
    if shift is None:
        return []
    labelled = [label.call for label in context.store.live_labels.of(watch.dataset)]
    to_label = live_accuracy.open_calls(context, watch)
    measuring = set(_texts_of(context, [*to_label, *labelled]))
    # By text, as another call may have asked the same.
    texts = [text for text in _texts_of(context, shift.unusual) if text not in measuring]
    return texts[:USUAL_LABELS]


def _texts_of(context: AppContext, calls: Sequence[str]) -> Iterator[str]:
    """Yields the texts of those calls that are still stored."""
    for number in calls:
        call = samples.get(context.settings.recipes, number)
        if call is not None:
            yield question_of(call)


def _write(context: AppContext, column: str, texts: list[str]) -> str:
    """Writes a table with the texts among the files of uploads. Returns its sha256."""
    table = io.StringIO(newline="")
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow([column, "call"])  # a table of one column could be any text
    for number, text in enumerate(texts, 1):
        writer.writerow([text, number])
    lines = table.getvalue().removesuffix("\n").encode().split(b"\n")
    return store_lines(context.settings.files, lines)


def _record(context: AppContext, checked: CheckedDataset, person: str, file: str) -> str | Refusal:
    dataset = checked.dataset
    new = NewLabelling(
        dataset=dataset.name,
        dataset_id=dataset.id,
        channel=dataset.owner,
        person=person,
        count=USUAL_LABELS,
        source=SOURCE,
        filename=FILE_NAME,
        sha256=file,
    )
    with context.store.transaction():
        labelling = context.store.labellings.add(new, now=context.clock())
        if labelling is None:
            return Refusal(row_label_views.under_way(dataset))
        context.audit(person, "label", f"dataset {dataset.id}", "unusual calls")
    return row_label_views.started(dataset.name, USUAL_LABELS)
