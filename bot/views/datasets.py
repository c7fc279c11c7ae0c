"""Cards, lists and the form about datasets. Found values are never shown: counts and lines are."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

from bot.views import inputs
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
from bot.views.cleaning import offer
from bot.views.findings import WORDS, Group, compact, counts_text, fill_a_file, groups
from bot.views.rungs import arm_name, bar_share, quality
from bot.views.words import counted, short
from storage.records import Dataset
from trainers.dataset import Report
from trainers.measuring.values import Rung, Standing

SHOWN_RULES = 8
STANDS: dict[Standing, str] = {
    "meets": "meets {bar}",
    "misses": "misses {bar}",
    "undecided": "too few held-out rows to tell whether it meets {bar}",
}
UPLOAD = "upload"
COLUMN = "For a table only. Empty: found by its name."
TABLES = ("csv", "xlsx", "parquet")
KINDS = ("csv", "tsv", "txt", "json", "jsonl", "xlsx", "parquet")


@dataclass(frozen=True)
class Best:
    """The best of what was measured, None where nothing was; `bar` is what is good enough."""

    rung: Rung | None
    bar: float


@dataclass(frozen=True)
class Listed:
    """`best` where there is something to say about it."""

    dataset: Dataset
    report: Report | None
    best: Best | None = None


def received(dataset: Dataset) -> Message:
    text = f"Checking {escape(short(dataset.filename))} as {code(dataset.name)}"
    return Message(text, (section(f"{text}, handed over by <@{dataset.uploaded_by}> …"),))


def checked(dataset: Dataset, report: Report, *, days: int = 0) -> Message:
    """Ready or refused, with what was found. `days`: after which a refused file is deleted; 0: it is kept."""
    headline = _headline(dataset, report)
    blocks = [header(headline), fields(_numbers(dataset, report)), *_findings(report)]
    blocks += [section(f"*Next*: {_next_step(dataset, report)}"), *offer(dataset, report.findings)]
    if report.blocked and days:
        blocks.append(context(f"The file is deleted here after {counted(days, 'day')}."))
    return Message(f"{escape(headline)}. {_found(report)}", tuple(blocks))


def refused(dataset: Dataset, why: str) -> Message:
    headline = f"{dataset.title} can't be used"
    said = (section(escape(why)), context(f"{escape(dataset.filename)}, from <@{dataset.uploaded_by}>"))
    return Message(f"{escape(headline)}: {escape(why)}", (header(headline), *said))


def refusal_sentence(report: Report) -> str:
    """The first thing that blocks, and how many more."""
    blocking = [finding for finding in report.findings if finding.blocks]
    more = f" ({len(blocking) - 1:,} more must be mended.)" if len(blocking) > 1 else ""
    return f"{blocking[0].message} {blocking[0].cure}{more}"


def listing(datasets: Sequence[Listed]) -> Message:
    if not datasets:
        text = (
            "No datasets yet. `/finetune upload` takes a file: CSV with a text and a label column, or JSONL."
        )
        return Message(text, (section(text),))
    title = counted(len(datasets), "dataset")
    return Message(title, (header(title), listed([_line(one) for one in datasets])))


def no_such_dataset(name: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    if near:
        return f"There is no dataset {code(name)}. Did you mean {code(near[0])}?"
    there = ", ".join(code(one) for one in list(dict.fromkeys(known))[:10])
    return f"There is no dataset {code(name)}." + (
        f" There are {there}." if there else " `/finetune upload` makes the first one."
    )


def upload_modal(channel: str, *, file_id: str | None = None, filename: str | None = None) -> Block:
    """`file_id`: the file is known already, from a message of `channel`; else the form asks for it. The dataset
    belongs to the channel of that message; the form asks for one where there is none, or nobody but the bot in it."""
    is_asked = not file_id or channel.startswith("D")
    asked = [] if file_id else [inputs.file("file", "File: a table with text and label, or JSONL", KINDS)]
    shown = [section(f"The file: {escape(cut(filename or '', 200))}")] if file_id else []
    blocks = [
        *shown,
        *asked,
        inputs.text("name", "Name", "tickets", hint="How people will call it. Empty: from the file's name."),
        inputs.text("text", "Column with the text", "text", hint=COLUMN),
        inputs.text("label", "Column with the label", "label", hint=COLUMN),
        *([_belongs_to(channel)] if is_asked else []),
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


def _belongs_to(channel: str) -> Block:
    here = {"initial_conversation": channel} if channel else {}
    return {
        "type": "input",
        "block_id": "channel",
        "label": plain("Report in", 75),
        "hint": plain(
            "The dataset belongs to this channel. Where it is private, only its members see it.", 150
        ),
        "element": {
            "type": "conversations_select",
            "action_id": "value",
            **here,
            "filter": {"include": ["public", "private"], "exclude_bot_users": True},
        },
    }


def _headline(dataset: Dataset, report: Report) -> str:
    if report.blocked:
        return f"{dataset.title} can't be used yet"
    return f"{dataset.title} is ready: {counted(report.rows, 'row')}{_of_labels(report)}"


def _next_step(dataset: Dataset, report: Report) -> str:
    if report.blocked:
        return "Mend these lines and upload the file again under the same name. Nothing left this machine."
    return (
        f"`/finetune baseline {dataset.name}` measures what prompts and cheaper models get right already; after that "
        f"`/finetune estimate {dataset.name} current=gpt-4o volume=10M` tells what training would cost and save."
    )


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
    if report.format in TABLES and report.columns.text and report.columns.label:
        pairs.append(("Columns", f"{_name(report.columns.text)} → {_name(report.columns.label)}"))
    return [*pairs, ("File", f"{escape(cut(dataset.filename, 120))}, from <@{dataset.uploaded_by}>")]


def _per_label(report: Report) -> str:
    most, least = report.labels[0], report.labels[-1]
    if most.label == least.label:
        return f"{most.rows:,} ({_name(most.label)})"
    # a label that one row has may be a customer's sentence in the wrong column
    rarest = f" ({_name(least.label)})" if least.rows > 1 else ""
    return f"{most.rows:,} ({_name(most.label)}) to {least.rows:,}{rarest}"


def _name(out_of_data: str) -> str:
    return escape(short(out_of_data, 60)).strip() or "(empty)"


def _findings(report: Report) -> list[Block]:
    """Rule by rule, the worst first: one example each. Everything stands in the file in the thread."""
    met = groups(report.findings)
    lines = [_finding(group) for group in met[:SHOWN_RULES]]
    hidden = len(met) - SHOWN_RULES
    if hidden > 0:
        lines.append(f"… and {counted(hidden, 'more kind')} of thing.")
    where = " Each line and its cure: in the thread." if fill_a_file(report.findings) else ""
    return [section(f"*{_found(report)}*{where}"), listed(lines)] if lines else []


def _finding(group: Group) -> str:
    first = group.parts[0]
    said = f"{compact(first.lines[:1]).capitalize()} {first.said}." if first.lines else first.said
    others = f" And {counted(group.rows - 1, 'more row')} like it." if group.rows > 1 and first.lines else ""
    return f"• *{WORDS[group.severity].capitalize()}*: {escape(cut(said, 250))}{others} {escape(cut(group.cure, 250))}"


def _found(report: Report) -> str:
    said = counts_text(report.findings)
    return f"Found: {said}." if said else "Nothing wrong was found."


def _line(one: Listed) -> str:
    dataset, report = one.dataset, one.report
    name = f"• {code(dataset.name)} version {dataset.version}"
    if report:
        return f"{name}: {counted(report.rows, 'row')}{_of_labels(report)}, ready{_measured(one.best)}"
    if dataset.state == "refused":
        return f"{name}: can't be used. {escape(cut(dataset.refusal or '', 200))}".rstrip()
    return f"{name}: being checked"


def _measured(best: Best | None) -> str:
    if best is None:
        return ""
    if best.rung is None:
        return ". Nothing measured yet"
    stands = STANDS[best.rung.standing].format(bar=bar_share(best.bar))
    return f". Best measured: {escape(arm_name(best.rung.arm, 40))}, {quality(best.rung)}, {stands}"
