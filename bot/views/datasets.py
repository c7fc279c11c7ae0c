"""Cards, lists and the form about datasets. Found values are never shown: counts and lines are."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Protocol

from bot.views.blocks import (
    Block,
    Message,
    code,
    context,
    cut,
    escape,
    fields,
    header,
    listed,
    modal,
    plain,
    section,
)
from bot.views.words import counted, short
from storage.records import Dataset
from trainers.dataset import Finding, Report, Severity

SHOWN_FINDINGS = 8
UPLOAD = "upload"
WORDS: Mapping[Severity, str] = {"blocks": "must be mended", "warns": "worth a look", "tells": "good to know"}


class Checked(Protocol):
    @property
    def dataset(self) -> Dataset: ...

    @property
    def report(self) -> Report | None: ...


def received(dataset: Dataset) -> Message:
    text = f"Checking {escape(short(dataset.filename))} as {code(dataset.name)}"
    return Message(text, (section(f"{text}, handed over by <@{dataset.uploaded_by}> …"),))


def checked(dataset: Dataset, report: Report) -> Message:
    """Ready or refused, with what was found."""
    headline = _headline(dataset, report)
    blocks = [header(headline), fields(_numbers(dataset, report)), *_findings(report)]
    return Message(
        f"{escape(headline)}. {_found(report)}", (*blocks, section(f"*Next*: {_next_step(dataset, report)}"))
    )


def refused(dataset: Dataset, why: str) -> Message:
    headline = f"{dataset.title} can't be used"
    said = (section(escape(why)), context(f"{escape(dataset.filename)}, from <@{dataset.uploaded_by}>"))
    return Message(f"{escape(headline)}: {escape(why)}", (header(headline), *said))


def refusal_sentence(report: Report) -> str:
    """The first thing that blocks, and how many more."""
    blocking = [finding for finding in report.findings if finding.blocks]
    more = f" ({len(blocking) - 1:,} more must be mended.)" if len(blocking) > 1 else ""
    return f"{blocking[0].message} {blocking[0].cure}{more}"


def listing(datasets: Sequence[Checked]) -> Message:
    if not datasets:
        text = (
            "No datasets yet. `/finetune upload` takes a file: CSV with a text and a label column, or JSONL."
        )
        return Message(text, (section(text),))
    title = counted(len(datasets), "dataset")
    return Message(title, (header(title), listed([_line(checked) for checked in datasets])))


def no_such_dataset(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"There is no dataset {code(name)}. Did you mean {code(near[0])}?"
    there = ", ".join(code(one) for one in list(dict.fromkeys(known))[:10])
    return f"There is no dataset {code(name)}." + (
        f" There are {there}." if there else " `/finetune upload` makes the first one."
    )


def upload_modal(channel: str, *, file_id: str | None = None, filename: str | None = None) -> Block:
    """`file_id`: the file is known already, from a message; else the form asks for it. `channel` '': ask."""
    here = {"initial_conversation": channel} if channel else {}
    asked = [] if file_id else [_file_input()]
    shown = [section(f"The file: {escape(cut(filename or '', 200))}")] if file_id else []
    blocks = [
        *shown,
        *asked,
        _text_input("name", "Name", "tickets", hint="How people will call it. Empty: from the file's name."),
        _text_input("text", "Column with the text", "text", hint="For CSV only. Empty: found by its name."),
        _text_input(
            "label", "Column with the label", "label", hint="For CSV only. Empty: found by its name."
        ),
        {
            "type": "input",
            "block_id": "channel",
            "label": plain("Report in", 75),
            "element": {
                "type": "conversations_select",
                "action_id": "value",
                **here,
                "filter": {"include": ["public", "private"], "exclude_bot_users": True},
            },
        },
        context(
            "The file stays on the machine that runs this bot. It is checked there, and a fifth of it is set "
            "aside as a test that no model ever trains on."
        ),
    ]
    return modal(
        "Use as training data",
        UPLOAD,
        blocks,
        submit="Check it",
        private=f"{channel} {file_id or ''} {cut(filename or '', 200)}",
    )


def _file_input() -> Block:
    return {
        "type": "input",
        "block_id": "file",
        "label": plain("File: CSV with text and label, or JSONL", 75),
        "element": {
            "type": "file_input",
            "action_id": "value",
            "filetypes": ["csv", "tsv", "txt", "json", "jsonl"],
            "max_files": 1,
        },
    }


def _text_input(name: str, label: str, example: str, *, hint: str) -> Block:
    return {
        "type": "input",
        "block_id": name,
        "optional": True,
        "label": plain(label, 75),
        "hint": plain(hint, 150),
        "element": {
            "type": "plain_text_input",
            "action_id": "value",
            "placeholder": plain(example, 75),
            "max_length": 80,
        },
    }


def _headline(dataset: Dataset, report: Report) -> str:
    if report.blocked:
        return f"{dataset.title} can't be used yet"
    return f"{dataset.title} is ready: {counted(report.rows, 'row')}{_of_labels(report)}"


def _next_step(dataset: Dataset, report: Report) -> str:
    if report.blocked:
        return "Mend these lines and upload the file again under the same name. Nothing left this machine."
    return f"`/finetune estimate {dataset.name} current=gpt-4o volume=10M` tells what training would cost and save."


def _of_labels(report: Report) -> str:
    return f", {counted(len(report.labels), 'label')}" if report.labels else ""


def _numbers(dataset: Dataset, report: Report) -> list[tuple[str, str]]:
    pairs = []
    if report.n_train:
        pairs.append(("To train on", counted(report.n_train, "row")))
        pairs.append(("Held out as the test", counted(report.n_holdout, "row")))
    elif report.rows:
        pairs.append(("Rows that can be read", f"{report.rows:,}"))
    if report.labels:
        pairs.append(("Rows per label", _per_label(report)))
    if report.rows:
        pairs.append(
            ("Tokens a row", f"{report.tokens.rows.mean:,.0f} on average, {report.tokens.rows.max:,} at most")
        )
    if report.format == "csv" and report.columns.text and report.columns.label:
        pairs.append(("Columns", f"{_name(report.columns.text)} → {_name(report.columns.label)}"))
    return [*pairs, ("File", f"{escape(cut(dataset.filename, 120))}, from <@{dataset.uploaded_by}>")]


def _per_label(report: Report) -> str:
    most, least = report.labels[0], report.labels[-1]
    if most.label == least.label:
        return f"{most.rows:,} ({_name(most.label)})"
    return f"{most.rows:,} ({_name(most.label)}) to {least.rows:,} ({_name(least.label)})"


def _name(out_of_data: str) -> str:
    return escape(short(out_of_data, 60)).strip() or "(empty)"


def _findings(report: Report) -> list[Block]:
    """The worst first. The rest is counted; `finetune check` lists it in a terminal."""
    lines = [_finding(finding) for finding in report.findings[:SHOWN_FINDINGS]]
    hidden = len(report.findings) - SHOWN_FINDINGS
    if hidden > 0:
        lines.append(f"… and {hidden:,} more; `finetune check FILE` in a terminal lists them all.")
    return [listed(lines)] if lines else []


def _finding(finding: Finding) -> str:
    return f"• *{WORDS[finding.severity].capitalize()}*: {escape(cut(finding.message, 250))} {escape(finding.cure)}"


def _found(report: Report) -> str:
    counts = Counter(finding.severity for finding in report.findings)
    said = [f"{counts[severity]:,} {words}" for severity, words in WORDS.items() if counts[severity]]
    return ("Found: " + ", ".join(said) + ".") if said else "Nothing wrong was found."


def _line(checked: Checked) -> str:
    dataset, report = checked.dataset, checked.report
    name = f"• {code(dataset.name)} version {dataset.version}"
    if report:
        return f"{name}: {counted(report.rows, 'row')}{_of_labels(report)}, ready"
    if dataset.state == "refused":
        return f"{name}: can't be used. {escape(cut(dataset.refusal or '', 200))}".rstrip()
    return f"{name}: being checked"
