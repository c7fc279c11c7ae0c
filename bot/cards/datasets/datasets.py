"""Lists of datasets and the form to upload one. What the check of a file found is in check_reports.py."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common import forms
from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Lines,
    Listing,
    Message,
    Note,
    Text,
    button,
    code,
    cut,
    escape,
    plain,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import bar_share, looks_suffix, quality, table_name
from bot.cards.common.forms import modal
from bot.cards.common.general import text_message, unchecked_notes, unchecked_text
from bot.cards.common.words import pluralize
from bot.rules.facts import Looks
from storage.records import Dataset
from trainers.dataset import Report
from trainers.dataset.formats import extensions
from trainers.evaluation.results import MeasuredCandidate, Standing

STANDS: dict[Standing, str] = {
    "meets": "meets {bar}",
    "misses": "misses {bar}",
    "undecided": "too few held-out rows to tell whether it meets {bar}",
}
UPLOAD = "upload"
MEASURE = "measure_dataset"
ESTIMATE = "estimate_dataset"
UPLOAD_AGAIN = "upload_again"
WITH_BUTTON = (
    15  # datasets of a list that have a button beside them; each is a block, of which a message takes 50
)
COLUMN = "For a table only. Empty: found by its name."
SHEET = "Empty: the first with a table, and all with the same columns."
SEALED = "More held-out rows, used once: before a promotion. Empty: as in the policy, else none."


@dataclass(frozen=True)
class Best:
    """The best measured candidate, None if nothing was measured, and the quality bar."""

    candidate: MeasuredCandidate | None
    bar: float


@dataclass(frozen=True)
class DatasetEntry:
    """A dataset in a list. `best` and `looks` are None unless it is the newest usable version."""

    dataset: Dataset
    report: Report | None
    best: Best | None = None
    looks: Looks | None = None


def listing(datasets: Listing[DatasetEntry], *, is_full: bool = False) -> Message:
    """The newest versions, each with its next step; with `is_full` also the versions before a usable one."""
    # “No datasets yet” would be wrong: Slack did not say which ones the person may know about.
    if not datasets.total and datasets.unchecked:
        return text_message(unchecked_text(datasets.unchecked))
    if not datasets.total:
        return text_message(
            "No datasets yet. Upload one with `/finetune upload`: CSV with a text and a label column, or JSONL."
        )
    shown = datasets.entries
    if not is_full:
        shown = _without_earlier_versions(shown)
    parts = Parts()
    for entry in shown[:WITH_BUTTON]:
        parts.add(Text(_line(entry), button=_next_button(entry)))
    lines = [_line(entry) for entry in shown[WITH_BUTTON:]]
    if lines or datasets.left_out:
        parts.add(Lines(lines, datasets.left_out))
    hidden = len(datasets.entries) - len(shown)
    if hidden:
        parts.note(f"{pluralize(hidden, 'earlier version')}: `/finetune datasets all`")
    parts.add(*unchecked_notes(datasets.unchecked))
    return parts.titled(_title(datasets))


def _title(datasets: Listing[DatasetEntry]) -> str:
    if datasets.left_out:
        return f"{pluralize(datasets.total, 'version')} of datasets"
    return pluralize(len({entry.dataset.name for entry in datasets.entries}), "dataset")


def _without_earlier_versions(entries: Sequence[DatasetEntry]) -> list[DatasetEntry]:
    """`entries` are newest first. What is newer than the newest usable version stays: it is being checked, or can't be
    used."""
    usable: set[str] = set()
    newest = []
    for entry in entries:
        if entry.dataset.name not in usable:
            newest.append(entry)
        if entry.report:
            usable.add(entry.dataset.name)
    return newest


def _next_button(entry: DatasetEntry) -> Block | None:
    """The next step for a dataset; None while it is being checked, and for an earlier version."""
    name = entry.dataset.name
    if entry.dataset.state == "refused":
        return button("Upload again", UPLOAD_AGAIN, name)
    if entry.best is None:
        return None
    if entry.best.candidate is None:
        return button("Measure", MEASURE, name)
    return button("Estimate", ESTIMATE, name)


def _line(entry: DatasetEntry) -> str:
    dataset = entry.dataset
    report = entry.report
    name = f"• {code(dataset.name)} version {dataset.version}"
    if report:
        rows = f"{pluralize(report.rows, 'row')}{rows_text(report)}"
        return f"{name}: {rows}, ready{_measured(entry.best)}{looks_suffix(entry.looks)}"
    if dataset.state == "refused":
        why = escape(cut(dataset.refusal or "", 100))
        return f"{name}: can't be used. {why}".rstrip()
    return f"{name}: being checked"


def _measured(best: Best | None) -> str:
    if best is None:
        return ""
    if best.candidate is None:
        return ". Nothing measured yet"
    name = escape(table_name(best.candidate.identity, 40))
    stands = STANDS[best.candidate.standing].format(bar=bar_share(best.bar))
    return f". Best measured: {name}, {quality(best.candidate)}, {stands}"


def rows_text(report: Report) -> str:
    """What the rows hold, after their number: ', 3 labels', ', which call 2 functions'."""
    return f"{_of_labels(report)}{_of_calls(report)}"


def _of_labels(report: Report) -> str:
    if report.labels and report.n_combined:
        return f", {len(report.labels):,} combinations of {pluralize(report.n_combined, 'label')}"
    if report.labels:
        return f", {pluralize(len(report.labels), 'label')}"
    if report.scoring == "json":
        return ", answers in JSON"
    return ""


def _of_calls(report: Report) -> str:
    if not report.n_calling:
        return ""
    functions = pluralize(report.n_functions, "function")
    if report.n_calling == report.rows:
        return f", which call {functions}"
    if report.n_calling == 1:
        return f", of which 1 calls {functions}"
    return f", of which {report.n_calling:,} call {functions}"


def no_such_dataset(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"There is no dataset {code(name)}. Did you mean {code(near[0])}?"
    others = list(dict.fromkeys(names))[:10]
    if others:
        return f"There is no dataset {code(name)}. There are: {', '.join(map(code, others))}."
    return f"There is no dataset {code(name)}. `/finetune upload` adds the first one."


def unchecked_dataset(dataset: str) -> str:
    """Says no more than that: the dataset may be another channel's, or not exist."""
    return (
        f"Slack did not say just now which channels you are in, so I can't tell whether you may use {code(dataset)}. "
        "Try again in a minute."
    )


def upload_modal(
    channel: str,
    *,
    file_id: str | None = None,
    filename: str | None = None,
    name: str = "",
    sealed: str = "",
    sheet: str = "",
) -> Block:
    """The upload form. `name` is preset for a new version, `sealed` is the preset number of rows to seal and `sheet`
    the preset sheet of a workbook. With a `file_id`, from a message in `channel`, the form asks for no file. The
    dataset belongs to that channel; the form asks for a channel if there is none or it is a direct message."""
    # It travels in the form's private metadata, whose length Slack limits.
    filename = cut(filename or "", 200)
    blocks: list[CardBlock | Block] = []
    if file_id:
        blocks.append(Text(f"File: {escape(filename)}"))
    else:
        blocks.append(forms.file_input("file", "File: a table with text and label, or JSONL", extensions()))
    blocks += [
        forms.text_input("name", "Dataset name", "tickets", hint="Empty: the file's name.", initial=name),
        forms.text_input("text", "Column with the text", "text", hint=COLUMN),
        forms.text_input("label", "Column with the label", "label", hint=COLUMN),
        forms.text_input("sheet", "Sheet of a workbook", "Tickets", hint=SHEET, initial=sheet),
        forms.text_input("sealed", "Rows to seal", "200", hint=SEALED, initial=sealed),
    ]
    # In a direct message nobody else could see the dataset's cards.
    if not file_id or channel.startswith("D"):
        blocks.append(_belongs_to(channel))
    blocks.append(
        Note(
            "Checked on the machine that runs this bot. A fifth to a third of the rows are held out: no model trains "
            "on them."
        )
    )
    # The filename is last, since only it may have spaces.
    private = f"{channel} {file_id or ''} {filename}".rstrip()
    return modal("Use as training data", UPLOAD, blocks, submit="Check it", private=private)


def _belongs_to(channel: str) -> Block:
    hint = "The dataset belongs to this channel. If the channel is private, only its members see it."
    element: Block = {
        "type": "conversations_select",
        "action_id": "value",
        "filter": {"include": ["public", "private"], "exclude_bot_users": True},
    }
    if channel:
        element["initial_conversation"] = channel
    return {
        "type": "input",
        "block_id": "channel",
        "label": plain("Channel for the report", 75),
        "hint": plain(hint, 150),
        "element": element,
    }
