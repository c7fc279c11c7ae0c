"""Cards, lists and forms about datasets: upload and check, versions, deletion. They show counts and line numbers, never
values found in rows."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace

from bot.cards.common import forms
from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Elsewhere,
    Facts,
    Headline,
    Lines,
    Listing,
    Message,
    Note,
    Table,
    Text,
    actions,
    button,
    code,
    cut,
    escape,
    escaped_name,
    plain,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import bar_share, floor_text, looks_suffix, quality, table_name
from bot.cards.common.forms import modal
from bot.cards.common.general import text_message, unchecked_notes, unchecked_text
from bot.cards.common.words import first_lines, listed, more_line, pluralize, shorten
from bot.cards.datasets.dataset_columns import choose_button, has_choices
from bot.cards.datasets.dataset_versions import version_change_blocks, version_taught_facts
from bot.cards.datasets.findings import (
    CLEAN,
    LISTED_PARTS,
    WORDS,
    Group,
    can_be_cleaned,
    count_by_severity,
    counts_text,
    duplicate_cost_text,
    finding_blocks,
    group_findings,
    line_ranges,
    need_file,
    summed_up,
)
from bot.cards.datasets.row_labels import LABEL_DOUBTED, LABEL_UNLABELLED
from bot.rules.budgets import DuplicateCost
from bot.rules.facts import Looks
from bot.rules.plans import TaughtRows
from bot.values.row_labels import USUAL_ROWS
from storage.records import Dataset
from trainers.dataset import LabelCount, Report
from trainers.dataset.file_checks import NOT_YET_ENOUGH
from trainers.dataset.formats import extensions, is_table
from trainers.dataset.rows import to_printable
from trainers.dataset.slow_checks import LABEL_DOUBTED as DOUBTED
from trainers.evaluation.results import MeasuredCandidate, Standing

SHOWN_RULES = 4
LISTED_LABELS = 30
MOST_OF_A_FINDING = 160  # characters of its text, and of its cure
STANDS: dict[Standing, str] = {
    "meets": "meets {bar}",
    "misses": "misses {bar}",
    "undecided": "too few held-out rows to tell whether it meets {bar}",
}
UPLOAD = "upload"
MEASURE = "measure_dataset"
ESTIMATE = "estimate_dataset"
UPLOAD_AGAIN = "upload_again"
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


def received_card(dataset: Dataset) -> Message:
    text = f"Checking {escape(shorten(dataset.filename))} as {code(dataset.name)}"
    return Message(text, (Text(f"{text}, uploaded by <@{dataset.uploaded_by}> …"),))


def checked_card(
    dataset: Dataset,
    report: Report,
    *,
    days: int = 0,
    may_show_row: bool = False,
    missing_bases: Sequence[str] = (),
    taught: Sequence[TaughtRows] = (),
) -> Message:
    """Ready or refused, with the findings and the buttons of the next step. A refused file is deleted after `days`; 0
    keeps it. `may_show_row`: everybody who can read the card may see the dataset's rows. `missing_bases` are base
    models of this installation whose folder has no model, `taught` are training rows that models labelled."""

    def card(*, may_show_row: bool) -> Message:
        if report.is_blocked:
            return _blocked_card(dataset, report, days, may_show_row=may_show_row)
        return _ready_card(dataset, report, missing_bases, taught, may_show_row=may_show_row)

    if may_show_row and report.example:
        elsewhere = Elsewhere(dataset.channel, card(may_show_row=False).parts)
        return replace(card(may_show_row=True), elsewhere=elsewhere)
    return card(may_show_row=False)


def _ready_card(
    dataset: Dataset,
    report: Report,
    missing_bases: Sequence[str],
    taught: Sequence[TaughtRows],
    *,
    may_show_row: bool,
) -> Message:
    parts = Parts()
    parts.facts([*_numbers(report), *version_taught_facts(report.n_train, taught)])
    example = _example(dataset, report, may_show_row=may_show_row)
    if example:
        parts.add(example)
    parts.add(*_findings(report))
    if report.pairs:
        parts.text(f"`/finetune start {dataset.name} method=dpo` trains on both answers.")
    parts.text(f"*Next*: {_next_step(report)}")
    measure = button("Measure", MEASURE, dataset.name, style="primary")
    parts.buttons(measure, *_further_buttons(dataset, report))
    if missing_bases:
        parts.note(_missing_text(missing_bases))
    parts.note(_file(dataset, report))
    return parts.titled(_headline(dataset.title, report), notice=_found(report))


def _missing_text(names: Sequence[str]) -> str:
    """Says it before anybody plans a training; the reasons are for the log, the doctor and the plan's refusal."""
    models = listed([code(name) for name in names], 3)
    return f"⚠ {models} can't be trained or measured: see `finetune doctor`, and `[trainer.models]` in finetune.toml."


def _next_step(report: Report) -> str:
    if is_small(report):
        return "measure what works without training, and collect more rows before you train."
    return "measure what works without training, then estimate the cost and saving of training."


def _example(dataset: Dataset, report: Report, *, may_show_row: bool) -> Text | None:
    """One row as it was read, with the button that reads a table's other columns instead. Where other people can read
    the card, only the columns are named."""
    choose = None
    if (len(report.column_names) > 1 or len(report.sheets) > 1) and dataset.origin is None:
        choose = choose_button(dataset, report)
    if report.example and may_show_row:
        text, label = escape(report.example.text), escape(report.example.label)
        return Text(f"*For example*: “{text}” → *{label}*", choose)
    if report.columns.text and report.columns.label and choose:
        return Text(
            f"*Columns*: {_columns(report)}. No row is shown in a channel that others can read.", choose
        )
    return None


def _columns(report: Report) -> str:
    return f"{escaped_name(report.columns.text or '')} → {escaped_name(report.columns.label or '')}"


def is_small(report: Report) -> bool:
    """True if the file can be used, but has too few rows to train on."""
    return any(finding.code == NOT_YET_ENOUGH.code for finding in report.findings)


def _further_buttons(dataset: Dataset, report: Report) -> list[Block]:
    """At most two. Fixing rows comes before "Estimate", which needs a measurement first anyway."""
    fixes = []
    if report.n_unlabelled and report.labels:
        count = min(report.n_unlabelled, USUAL_ROWS)
        words = f"Label {count:,} of {pluralize(report.n_unlabelled, 'row')} without a label"
        fixes.append(button(words, LABEL_UNLABELLED, str(dataset.id)))
    doubted = sum(finding.count for finding in report.findings if finding.code == DOUBTED.code)
    if doubted:
        words = f"Check {pluralize(min(doubted, USUAL_ROWS), 'doubtful label')}"
        fixes.append(button(words, LABEL_DOUBTED, str(dataset.id)))
    if can_be_cleaned(report):
        fixes.append(button("Post a cleaned file", CLEAN, str(dataset.id)))
    if len(fixes) > 1:
        return fixes[:2]
    return [button("Estimate", ESTIMATE, dataset.name), *fixes]


def _blocked_card(dataset: Dataset, report: Report, days: int, *, may_show_row: bool) -> Message:
    """What has to be fixed, and the button that helps. A cleaned file is offered only if it would have rows left."""
    headline = _headline(f'Dataset "{dataset.title}"', report)
    again = button("Upload again", UPLOAD_AGAIN, dataset.name)
    if has_choices(report) or _may_be_another_sheet(report):
        buttons = [choose_button(dataset, report, "primary")]
    elif can_be_cleaned(report):
        buttons = [button("Post a cleaned file", CLEAN, str(dataset.id), style="primary"), again]
    else:
        buttons = [{**again, "style": "primary"}]

    about = [f"{_file(dataset, report)}."]
    if report.rows:
        about.append(f"{pluralize(report.rows, 'row')} can be read.")
    about.append("Nothing was sent to a vendor.")
    if days:
        about.append(f"The file is deleted here after {pluralize(days, 'day')}.")

    parts = Parts()
    example = _example(dataset, report, may_show_row=may_show_row)
    if example and not has_choices(report):
        parts.add(example)
    parts.add(*_findings(report))
    parts.text(f"*Next*: {_cure(report)}")
    parts.buttons(*buttons)
    parts.note(" ".join(about))
    return parts.titled(headline, notice=escape(refusal_sentence(report)))


def _may_be_another_sheet(report: Report) -> bool:
    """True if no row could be read and the workbook has other sheets."""
    return not report.rows and len(report.sheets) > 1


def _cure(report: Report) -> str:
    if _may_be_another_sheet(report):
        return "choose the sheet with the rows, or the columns; the file is then checked again."
    if has_choices(report):
        return "choose the columns; the file is then checked again."
    again = "upload the file again under the same name"
    if can_be_cleaned(report):
        return f"post a copy without these lines, or fix them and {again}."
    has_lines = all(group.rows for group in group_findings(report.findings) if group.severity == "blocks")
    if has_lines:
        return f"fix these lines and {again}."
    return f"fix this and {again}."


def _file(dataset: Dataset, report: Report) -> str:
    """The file's name, its columns if it is a table, and who uploaded it, as mrkdwn."""
    columns = report.columns
    name = escape(cut(dataset.filename, 120))
    if is_table(report.format) and columns.text and columns.label:
        name += f", {_columns(report)}"
    return f"{name}, from <@{dataset.uploaded_by}>"


def full_report(
    report: Report,
    waste: DuplicateCost | None = None,
    *,
    most: int | None = LISTED_PARTS,
    shows_labels: bool = True,
) -> Message:
    """Everything that a check found, for a terminal or a file. Lists `most` sentences per rule, all if None. Readers
    who may not see rows get no labels (`shows_labels`), since a rare label may be a sentence in the wrong column."""
    numbers = _numbers(report, shows_labels=shows_labels)
    if is_table(report.format) and report.columns.text and report.columns.label:
        numbers.append(("Columns", _columns(report)))
    if report.example and shows_labels:
        numbers.append(("For example", f"“{escape(report.example.text)}” → {escape(report.example.label)}"))
    if report.rows:
        assumed = ", assumed" if report.tokens.assumed else ""
        total = f"{report.tokens.rows.total:,} ({report.tokens.encoding}{assumed})"
        numbers.append(("Tokens in total", total))
    if waste:
        numbers.append(("Copies", duplicate_cost_text(waste)))

    parts = Parts([Headline(_headline(report.name, report)), Facts(numbers)])
    if report.diff and shows_labels:
        parts.add(*version_change_blocks(report.diff, report.n_holdout))
    if shows_labels:
        parts.add(*_label_table(report.labels))
    parts.text(_found(report))
    parts.add(*finding_blocks(report.findings, most))
    return Message(_found(report), tuple(parts))


def refused_card(dataset: Dataset, why: str) -> Message:
    headline = f"{dataset.title} can't be used"
    source = Note(f"{escape(dataset.filename)}, from <@{dataset.uploaded_by}>")
    again = actions(button("Upload again", UPLOAD_AGAIN, dataset.name, style="primary"))
    return Message(
        f"{escape(headline)}: {escape(why)}", (Headline(headline), Text(escape(why)), again, source)
    )


def refusal_sentence(report: Report) -> str:
    """The first blocking problem with its cure, and how many more there are."""
    blocking = [finding for finding in report.findings if finding.blocks]
    first = f"{blocking[0].message} {blocking[0].cure}"
    if len(blocking) == 1:
        return first
    return f"{first} ({pluralize(len(blocking) - 1, 'more problem')} to fix.)"


def listing(datasets: Listing[DatasetEntry]) -> Message:
    if not datasets.total and datasets.unchecked:
        return text_message(unchecked_text(datasets.unchecked))
    if not datasets.total:
        return text_message(
            "No datasets yet. Upload one with `/finetune upload`: CSV with a text and a label column, or JSONL."
        )
    title = pluralize(datasets.total, "dataset")
    lines = Lines([_line(dataset) for dataset in datasets.entries], datasets.left_out)
    return Message.titled(title, lines, *unchecked_notes(datasets.unchecked))


def no_such_dataset(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return f"There is no dataset {code(name)}. Did you mean {code(near[0])}?"
    others = ", ".join(code(other) for other in list(dict.fromkeys(names))[:10])
    if others:
        return f"There is no dataset {code(name)}. There are: {others}."
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
    is_asked = not file_id or channel.startswith("D")
    file: CardBlock | Block = forms.file_input(
        "file", "File: a table with text and label, or JSONL", extensions()
    )
    if file_id:
        file = Text(f"File: {escape(cut(filename or '', 200))}")
    blocks: list[CardBlock | Block] = [
        file,
        forms.text_input("name", "Dataset name", "tickets", hint="Empty: the file's name.", initial=name),
        forms.text_input("text", "Column with the text", "text", hint=COLUMN),
        forms.text_input("label", "Column with the label", "label", hint=COLUMN),
        forms.text_input("sheet", "Sheet of a workbook", "Tickets", hint=SHEET, initial=sheet),
        forms.text_input("sealed", "Rows to seal", "200", hint=SEALED, initial=sealed),
    ]
    if is_asked:
        blocks.append(_belongs_to(channel))
    blocks.append(
        Note(
            "Checked on the machine that runs this bot. A fifth to a third of the rows are held out: no model trains "
            "on them."
        )
    )
    return modal(
        "Use as training data",
        UPLOAD,
        blocks,
        submit="Check it",
        private=f"{channel} {file_id or ''} {cut(filename or '', 200)}".rstrip(),
    )


def _belongs_to(channel: str) -> Block:
    here = {"initial_conversation": channel} if channel else {}
    return {
        "type": "input",
        "block_id": "channel",
        "label": plain("Channel for the report", 75),
        "hint": plain(
            "The dataset belongs to this channel. If the channel is private, only its members see it.", 150
        ),
        "element": {
            "type": "conversations_select",
            "action_id": "value",
            **here,
            "filter": {"include": ["public", "private"], "exclude_bot_users": True},
        },
    }


def _headline(title: str, report: Report) -> str:
    if has_choices(report):
        roles = [role for role in ("text", "label") if getattr(report.choices, role)]
        return f"{title} can't be used yet: choose the {' and the '.join(roles)} column"
    if report.is_blocked:
        count = count_by_severity(report.findings)["blocks"]
        return f"{title} can't be used yet: {pluralize(count, 'problem')} to fix"
    state = "is readable, but too small to train" if is_small(report) else "is ready"
    return f"{title} {state}: {pluralize(report.rows, 'row')}{_of_rows(report)}"


def _of_rows(report: Report) -> str:
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
    call = "calls" if report.n_calling == 1 else "call"
    return f", of which {report.n_calling:,} {call} {functions}"


def _left_out(report: Report) -> str:
    """The rows of the file that are neither trained nor measured on, with the reason. Empty if there are none."""
    parts = []
    if report.n_copies:
        copies = "copy" if report.n_copies == 1 else "copies"
        parts.append(f"{report.n_copies:,} {copies} of held-out rows")
    if report.n_unlabelled:
        parts.append(f"{report.n_unlabelled:,} unlabelled")
    return ", ".join(parts)


def _rows_set_aside(rows: int, earlier: int) -> str:
    """Counts separately the rows that only an earlier version has: the file's own rows don't include them."""
    if not earlier:
        return pluralize(rows, "row")
    return f"{pluralize(rows, 'row')}, {earlier:,} only in an earlier version"


def _numbers(report: Report, *, shows_labels: bool = True) -> list[tuple[str, str]]:
    pairs = []
    if report.n_train:
        pairs.append(("To train on", pluralize(report.n_train, "row")))
        pairs.append(("Held out for measuring", _rows_set_aside(report.n_holdout, report.n_earlier)))
        if report.n_sealed:
            sealed = _rows_set_aside(report.n_sealed, report.n_earlier_sealed)
            pairs.append(("Sealed until a promotion", sealed))
        left_out = _left_out(report)
        if left_out:
            in_file = report.rows + report.n_unlabelled
            pairs.append((f"Left out of {pluralize(in_file, 'row')} in the file", left_out))
    elif report.rows:
        pairs.append(("Rows that can be read", f"{report.rows:,}"))
    if report.labels and shows_labels:
        pairs.append(("Rows per label", _per_label(report)))
    if report.scoring == "json" and report.floor is not None:
        pairs.append(("Answers", f"JSON objects. {floor_text(report.scoring, report.floor)}"))
    if report.rows:
        pairs.append(
            (
                "Tokens per row",
                f"{report.tokens.rows.mean:,.0f} on average, {report.tokens.rows.max:,} at most",
            )
        )
    return pairs


def _label_table(counts: Sequence[LabelCount]) -> list[CardBlock]:
    """Rows by label. Labels with a single row are only counted: they may be sentences in the wrong column."""
    shared = [count for count in counts if count.rows > 1][:LISTED_LABELS]
    parts = Parts()
    if shared:
        rows = [(to_printable(count.label), f"{count.rows:,}") for count in shared]
        parts.add(Table([("Label", "Rows"), *rows]))
    hidden = len(counts) - len(shared)
    alone = sum(count.rows == 1 for count in counts)
    if hidden:
        more = more_line(hidden)
        if alone == hidden:
            more += ", with a single row"
        elif alone:
            more += f", {alone:,} of them with a single row"
        parts.note(more)
    return parts


def _per_label(report: Report) -> str:
    most = report.labels[0]
    least = report.labels[-1]
    if most.label == least.label:
        return f"{most.rows:,} ({escaped_name(most.label)})"
    if most.rows == least.rows:
        return f"{most.rows:,} each"
    # A label with a single row may be a customer's sentence in the wrong column.
    rarest = f"{least.rows:,}"
    if least.rows > 1:
        rarest += f" ({escaped_name(least.label)})"
    return f"{most.rows:,} ({escaped_name(most.label)}) to {rarest}"


def _findings(report: Report) -> list[CardBlock]:
    """One line per rule, worst first, with one example each. The file in the thread lists all findings."""
    groups = group_findings(report.findings)
    examples = summed_up(groups)
    repeated = [group.code for group in examples.values()]
    shown = [group for group in groups if group.code not in repeated]
    lines = first_lines([_finding(group, examples.get(group.code)) for group in shown], SHOWN_RULES)
    if need_file(report.findings):
        lines.append("The file in the thread lists every line and how to fix it.")
    parts = Parts()
    parts.lines(lines)
    return parts


def _finding(group: Group, example: Group | None = None) -> str:
    """`example` is the group of lines that this one sums up, None if it sums up none."""
    first = group.parts[0]
    text = first.text
    if first.lines:
        text = f"{line_ranges(first.lines[:1]).capitalize()} {first.text}."
    sentences = [escape(_shortened(text))]
    if group.rows > 1 and first.lines:
        have = "has" if group.rows == 2 else "have"
        sentences.append(f"{pluralize(group.rows - 1, 'more row')} {have} the same problem.")
    if example:
        sentences.append(f"For example: {escape(cut(_example_text(example), MOST_OF_A_FINDING))}")
    sentences.append(escape(cut(group.cure, MOST_OF_A_FINDING)))
    return f"• *{WORDS[group.severity].capitalize()}*: {' '.join(sentences)}"


def _shortened(text: str) -> str:
    """The text up to the last sentence that fits, else up to the last item of a list."""
    if len(text) <= MOST_OF_A_FINDING:
        return text
    stop = text.rfind(". ", 0, MOST_OF_A_FINDING)
    if stop > 0:
        return text[: stop + 1]
    comma = text.rfind(", ", 0, MOST_OF_A_FINDING)
    if comma > 0:
        return f"{text[:comma]}, …"
    return cut(text, MOST_OF_A_FINDING)


def _example_text(group: Group) -> str:
    first = group.parts[0]
    return f"{line_ranges(first.lines[:1])} {first.text}."


def _found(report: Report) -> str:
    text = counts_text(report.findings)
    if not text:
        return "Nothing wrong was found."
    return f"Found: {text}."


def _line(entry: DatasetEntry) -> str:
    dataset = entry.dataset
    report = entry.report
    name = f"• {code(dataset.name)} version {dataset.version}"
    if report:
        rows = f"{pluralize(report.rows, 'row')}{_of_rows(report)}"
        return f"{name}: {rows}, ready{_measured(entry.best)}{looks_suffix(entry.looks)}"
    if dataset.state == "refused":
        return f"{name}: can't be used. {escape(cut(dataset.refusal or '', 200))}".rstrip()
    return f"{name}: being checked"


def _measured(best: Best | None) -> str:
    if best is None:
        return ""
    if best.candidate is None:
        return ". Nothing measured yet"
    stands = STANDS[best.candidate.standing].format(bar=bar_share(best.bar))
    return f". Best measured: {escape(table_name(best.candidate.identity, 40))}, {quality(best.candidate)}, {stands}"
