"""What the check of an uploaded file says: the cards while it is checked, once it is ready or refused, and the full
report. They show counts and line numbers, never values found in rows, except the example of a private channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Elsewhere,
    Headline,
    Message,
    Table,
    Text,
    button,
    code,
    cut,
    escape,
    escaped_name,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import floor_text
from bot.cards.common.general import Attachment
from bot.cards.common.words import first_lines, listed, more_line, pluralize, shorten
from bot.cards.datasets.dataset_columns import choose_button, has_choices
from bot.cards.datasets.dataset_versions import version_change_blocks, version_taught_facts
from bot.cards.datasets.datasets import ESTIMATE, MEASURE, UPLOAD_AGAIN, rows_text
from bot.cards.datasets.findings import (
    CLEAN,
    LISTED_PARTS,
    WORDS,
    Group,
    can_be_cleaned,
    count_by_severity,
    counts_text,
    duplicate_cost_text,
    file_title,
    finding_blocks,
    group_findings,
    line_ranges,
    need_file,
    summed_up,
)
from bot.cards.datasets.row_labels import LABEL_DOUBTED, LABEL_UNLABELLED
from bot.rules.budgets import DuplicateCost
from bot.rules.plans import TaughtRows
from bot.values.row_labels import USUAL_ROWS
from storage.records import Dataset
from trainers.dataset import Finding, LabelCount, Report
from trainers.dataset.file_checks import ENOUGH_ROWS, NOT_YET_ENOUGH, WORTH_A_TRY
from trainers.dataset.formats import is_table
from trainers.dataset.rows import to_printable
from trainers.dataset.slow_checks import LABEL_DOUBTED as DOUBTED

# The file in the card's thread lists all rules; the card has room for the worst.
SHOWN_RULES = 4
# What a good file is told; the headline says the same.
PRAISE = frozenset({WORTH_A_TRY.code, ENOUGH_ROWS.code})
LISTED_LABELS = 30
MOST_OF_A_FINDING = 160  # characters of its text, and of its cure


DETAILS = "dataset_details"  # its value: the id of the version
START_FROM_PAIRS = "start_from_pairs"  # its value: the dataset of pairs, and the model that was judged
ADD_BETTER = "add_better_answers"  # its value: the version of the dataset behind the pairs


@dataclass(frozen=True)
class JudgedModel:
    """The tuned model whose answers people judged in a dataset of pairs, '' if no training by pairs can go on from it.
    `dataset` is the one that it was trained on, whose newest version is `dataset_id`."""

    name: str
    dataset: str
    dataset_id: int


def received_card(dataset: Dataset) -> Message:
    filename = escape(shorten(dataset.filename))
    text = f"Checking {filename} as {code(dataset.name)}"
    sentence = Text(f"{text}, uploaded by <@{dataset.uploaded_by}> …")
    return Message(text, (sentence,))


def refused_card(dataset: Dataset, why: str) -> Message:
    headline = f"{dataset.title} can't be used"
    parts = Parts()
    parts.add(Headline(headline))
    parts.text(escape(why))
    parts.buttons(button("Upload again", UPLOAD_AGAIN, dataset.name, style="primary"))
    parts.note(f"{escape(dataset.filename)}, from <@{dataset.uploaded_by}>")
    # A notification shows only this text, so the reason has to be in it.
    return Message(f"{escape(headline)}: {escape(why)}", tuple(parts))


def refusal_sentence(report: Report) -> str:
    """The first blocking problem with its cure, and how many more there are."""
    blocking = [finding for finding in report.findings if finding.blocks]
    worst = blocking[0]
    first = f"{worst.message} {worst.cure}"
    n_more = len(blocking) - 1
    if not n_more:
        return first
    return f"{first} ({pluralize(n_more, 'more problem')} to fix.)"


def checked_card(
    dataset: Dataset,
    report: Report,
    *,
    days: int = 0,
    may_show_row: bool = False,
    missing_bases: Sequence[str] = (),
    taught: Sequence[TaughtRows] = (),
    judged: JudgedModel | None = None,
) -> Message:
    """Ready or refused, with the findings and the buttons of the next step. A refused file is deleted after `days`; 0
    keeps it. `may_show_row`: everybody who can read the card may see the dataset's rows. `missing_bases` are base
    models of this installation whose folder has no model, `taught` are training rows that models labelled. `judged` is
    the model whose answers became preference pairs, None for other datasets."""

    # Built twice if it shows a row: the fallback channel gets the form without it.
    def card(*, may_show_row: bool) -> Message:
        if report.is_blocked:
            return _blocked_card(dataset, report, days, may_show_row=may_show_row)
        return _ready_card(dataset, report, missing_bases, taught, judged, may_show_row=may_show_row)

    if not may_show_row or not report.example:
        return card(may_show_row=False)
    # The sender may have to post it in the fallback channel, whose readers may not see the row.
    without_row = card(may_show_row=False)
    elsewhere = Elsewhere(dataset.channel, without_row.parts)
    return replace(card(may_show_row=True), elsewhere=elsewhere)


def _ready_card(
    dataset: Dataset,
    report: Report,
    missing_bases: Sequence[str],
    taught: Sequence[TaughtRows],
    judged: JudgedModel | None,
    *,
    may_show_row: bool,
) -> Message:
    findings = [finding for finding in report.findings if finding.code not in PRAISE]
    parts = Parts()
    example = _example(dataset, report, may_show_row=may_show_row)
    if example:
        parts.add(example)
    parts.add(_rows_with_details(dataset, report))
    parts.facts(version_taught_facts(report.n_train, taught))
    parts.add(*_findings(findings))
    if judged and judged.name:
        parts.add(*_train_judged(dataset, judged))
    else:
        if report.pairs:
            parts.text(f"`/finetune start {dataset.name} method=dpo` trains on both answers.")
        parts.text(f"*Next*: {_next_step(report)}")
        measure = button("Measure", MEASURE, dataset.name, style="primary")
        further = _further_buttons(dataset, report)
        if judged:
            further = [_better_button(judged)]
        parts.buttons(measure, *further)
    if missing_bases:
        parts.note(_missing_text(missing_bases))
    parts.note(_file(dataset, report))
    return parts.titled(_headline(dataset.title, report), notice=_found(findings))


def _rows_with_details(dataset: Dataset, report: Report) -> Text:
    """How the rows are split, with the button that shows all other numbers."""
    lines = [f"*{name}*: {rows}" for name, rows in _split(report)]
    return Text("\n".join(lines), button("Details", DETAILS, str(dataset.id)))


def _train_judged(dataset: Dataset, judged: JudgedModel) -> Parts:
    """The next step for pairs: to train the model that was judged."""
    parts = Parts()
    parts.text(f"*Next*: let {code(judged.name)} learn from these pairs, which are about its own answers.")
    value = f"{dataset.name} {judged.name}"
    words = f"Train {shorten(judged.name, 30)} further"
    train = button(words, START_FROM_PAIRS, value, style="primary")
    measure = button("Measure", MEASURE, dataset.name)
    parts.buttons(train, _better_button(judged), measure)
    parts.note(f"The same as `/finetune start {dataset.name} target={judged.name} method=dpo`.")
    return parts


def _better_button(judged: JudgedModel) -> Block:
    words = f"Add better answers to {shorten(judged.dataset, 30)}"
    return button(words, ADD_BETTER, str(judged.dataset_id))


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
    has_others = len(report.column_names) > 1 or len(report.sheets) > 1
    # A version that was written here has the columns that we gave it.
    if has_others and dataset.origin is None:
        choose = choose_button(dataset, report)
    if report.example and may_show_row:
        text = escape(report.example.text)
        label = escape(report.example.label)
        return Text(f"*For example*: “{text}” → *{label}*", choose)
    # Without the button, the line would only repeat the columns in the note at the card's end.
    if report.columns.text and report.columns.label and choose:
        columns = f"*Columns*: {_columns(report)}."
        return Text(f"{columns} No row is shown in a channel that others can read.", choose)
    return None


def _columns(report: Report) -> str:
    text = escaped_name(report.columns.text or "")
    label = escaped_name(report.columns.label or "")
    return f"{text} → {label}"


def is_small(report: Report) -> bool:
    """True if the file can be used, but has too few rows to train on."""
    return any(finding.code == NOT_YET_ENOUGH.code for finding in report.findings)


def _further_buttons(dataset: Dataset, report: Report) -> list[Block]:
    """At most two. Fixing rows comes before "Estimate", which needs a measurement first anyway."""
    fixes = []
    if report.n_unlabelled and report.labels:
        # A click chooses one batch, so the button promises no more rows than a batch has.
        count = min(report.n_unlabelled, USUAL_ROWS)
        words = f"Label {count:,} of {pluralize(report.n_unlabelled, 'row')} without a label"
        # By id, as these rows belong to this version; the dataset's name would mean the newest one.
        fixes.append(button(words, LABEL_UNLABELLED, str(dataset.id)))
    doubted = sum(finding.count for finding in report.findings if finding.code == DOUBTED.code)
    if doubted:
        count = min(doubted, USUAL_ROWS)
        words = f"Check {pluralize(count, 'doubtful label')}"
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
    # Until the right columns are read, the other findings are about the wrong cells.
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
    # An example read by columns that may be the wrong ones would mislead.
    if example and not has_choices(report):
        parts.add(example)
    parts.add(*_findings(report.findings))
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
    # A problem of the whole file has no lines that could be named.
    blocking = [group for group in group_findings(report.findings) if group.severity == "blocks"]
    if all(group.rows for group in blocking):
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
        text = escape(report.example.text)
        label = escape(report.example.label)
        numbers.append(("For example", f"“{text}” → {label}"))
    if report.rows:
        counted_by = report.tokens.encoding
        if report.tokens.assumed:
            # The model to train is not chosen yet.
            counted_by += ", assumed"
        total = report.tokens.rows.total
        numbers.append(("Tokens in total", f"{total:,} ({counted_by})"))
    if waste:
        numbers.append(("Copies", duplicate_cost_text(waste)))

    parts = Parts()
    parts.add(Headline(_headline(report.name, report)))
    parts.facts(numbers)
    if report.diff and shows_labels:
        parts.add(*version_change_blocks(report.diff, report.n_holdout))
    if shows_labels:
        parts.add(*_label_table(report.labels))
    parts.text(_found(report.findings))
    parts.add(*finding_blocks(report.findings, most))
    return Message(_found(report.findings), tuple(parts))


def _headline(title: str, report: Report) -> str:
    # Unclear columns block the file as well, but a count of problems would not say what to do.
    if has_choices(report):
        roles = [role for role in ("text", "label") if getattr(report.choices, role)]
        columns = " and the ".join(roles)
        return f"{title} can't be used yet: choose the {columns} column"
    if report.is_blocked:
        count = count_by_severity(report.findings)["blocks"]
        return f"{title} can't be used yet: {pluralize(count, 'problem')} to fix"
    # With the number of rows, so that a notification says how much of the file was read.
    rows = f"{pluralize(report.rows, 'row')}{rows_text(report)}"
    if is_small(report):
        return f"{title} is readable, but too small to train: {rows}"
    return f"{title} is ready: {rows}"


def _left_out(report: Report) -> str:
    """The rows of the file that are neither trained nor measured on, with the reason. Empty if there are none."""
    parts = []
    if report.n_copies:
        # A model that has seen a held-out row in training would look better than it is.
        parts.append(f"{pluralize(report.n_copies, 'copy', 'copies')} of held-out rows")
    if report.n_unlabelled:
        parts.append(f"{report.n_unlabelled:,} unlabelled")
    return ", ".join(parts)


def _rows_set_aside(rows: int, earlier: int) -> str:
    """Counts separately the rows that only an earlier version has: the file's own rows don't include them."""
    if not earlier:
        return pluralize(rows, "row")
    return f"{pluralize(rows, 'row')}, {earlier:,} only in an earlier version"


def _split(report: Report) -> list[tuple[str, str]]:
    pairs = [
        ("To train on", pluralize(report.n_train, "row")),
        ("Held out for measuring", _rows_set_aside(report.n_holdout, report.n_earlier)),
    ]
    if report.n_sealed:
        sealed = _rows_set_aside(report.n_sealed, report.n_earlier_sealed)
        pairs.append(("Sealed until a promotion", sealed))
    left_out = _left_out(report)
    if left_out:
        in_file = report.rows + report.n_unlabelled
        pairs.append((f"Left out of {pluralize(in_file, 'row')} in the file", left_out))
    return pairs


def _numbers(report: Report, *, shows_labels: bool = True) -> list[tuple[str, str]]:
    pairs = []
    if report.n_train:
        pairs += _split(report)
    elif report.rows:
        # A blocked file is not split, so no row is trained on or held out yet.
        pairs.append(("Rows that can be read", f"{report.rows:,}"))
    if report.labels and shows_labels:
        pairs.append(("Rows per label", _per_label(report)))
    if report.scoring == "json" and report.floor is not None:
        floor = floor_text(report.scoring, report.floor)
        pairs.append(("Answers", f"JSON objects. {floor}"))
    if report.rows:
        pairs.append(("Tokens per row", _tokens_a_row(report)))
    return pairs


def attachment(path: Path, dataset: str, report: Report) -> Attachment:
    """A file for the card's thread, with what it shows if it is a plot. `dataset` is its title."""
    finding = ""
    if path.stem == "lengths":
        finding = f"{_tokens_a_row(report)}, over {pluralize(report.rows, 'row')}"
    elif path.stem == "labels":
        finding = f"{pluralize(len(report.labels), 'label')}: {_per_label(report)}"
    return Attachment(path, file_title(path.stem, dataset), finding)


def _tokens_a_row(report: Report) -> str:
    tokens = report.tokens.rows
    return f"{tokens.mean:,.0f} on average, {tokens.max:,} at most"


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


def _findings(findings: Sequence[Finding]) -> list[CardBlock]:
    """One line per rule, worst first, with one example each. The file in the thread lists all findings."""
    groups = group_findings(findings)
    examples = summed_up(groups)
    repeated = [group.code for group in examples.values()]
    # The summary's line quotes such a rule as its example, so a line of its own would repeat it.
    shown = [group for group in groups if group.code not in repeated]
    sentences = [_finding(group, examples.get(group.code)) for group in shown]
    lines = first_lines(sentences, SHOWN_RULES)
    if need_file(findings):
        lines.append("The file in the thread lists every line and how to fix it.")
    parts = Parts()
    parts.lines(lines)
    return parts


def _finding(group: Group, example: Group | None = None) -> str:
    """`example` is the group of lines that this one sums up, None if it sums up none."""
    first = group.parts[0]
    text = first.text
    if first.lines:
        first_line = line_ranges(first.lines[:1]).capitalize()
        text = f"{first_line} {first.text}."
    sentences = [escape(_shortened(text))]
    if group.rows == 2 and first.lines:
        sentences.append("1 more row has the same problem.")
    elif group.rows > 2 and first.lines:
        sentences.append(f"{group.rows - 1:,} more rows have the same problem.")
    if example:
        example_text = cut(_example_text(example), MOST_OF_A_FINDING)
        sentences.append(f"For example: {escape(example_text)}")
    sentences.append(escape(cut(group.cure, MOST_OF_A_FINDING)))
    severity = WORDS[group.severity].capitalize()
    return f"• *{severity}*: {' '.join(sentences)}"


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


def _found(findings: Sequence[Finding]) -> str:
    text = counts_text(findings)
    if not text:
        return "Nothing wrong was found."
    return f"Found: {text}."
