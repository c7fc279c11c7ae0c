"""Labelling by people: the card of a batch of rows, the form that shows one row after the other, and the form that asks
for rows. Only forms show a row's text, since only the person who opened one sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common import forms
from bot.cards.common.blocks import (
    Actions,
    Block,
    CardBlock,
    Facts,
    Message,
    Note,
    Text,
    actions,
    button,
    code,
    confirm,
    escape,
    plain,
    quote,
)
from bot.cards.common.builder import Parts
from bot.cards.common.general import details_modal, text_message
from bot.cards.common.judge_agreement import kappa_text
from bot.cards.common.words import capitalize, pluralize, shorten, shorten_apart
from bot.cards.datasets.findings import line_ranges
from bot.rules.data_policy import NoDelivery
from bot.rules.judge_agreement import MIN_LABELS
from bot.values.row_labels import USUAL_ROWS, BatchOutcome
from storage.records import Dataset, Labelling, LabellingRow
from trainers.dataset.formats import extensions

LABEL_DOUBTED = "label_doubted"
LABEL_ROWS = "label_rows"
LABEL_UNLABELLED = "label_unlabelled"
MAKE_VERSION = "labels_done"
DISCARD = "labels_discard"
KEEP = "label_keep"
CHANGE = "label_change"
CHOOSE = "label_choose"
DROP = "label_drop"
ANSWERS = (KEEP, CHANGE, CHOOSE, DROP)
FORM = "label_form"
# A section holds 3,000 characters, and quotation marks and escapes add to the text.
LONGEST_TEXT = 2_500
# Characters of a label. With many labels they are few, so that the form stays within Slack's size.
LONGEST_OPTION = 75
SHORT_OPTION = 40
MANY_LABELS = 200


@dataclass(frozen=True)
class RowToLabel:
    """The next row for one person, who has answered `done` of `of` rows. `labels` are the choices."""

    row: LabellingRow
    labels: tuple[str, ...]
    done: int
    of: int


@dataclass(frozen=True)
class OvertakenRows:
    """Rows that `version` no longer has with the label that people were shown: those at `lines` of its file have
    another label, and `missing` rows are gone."""

    version: Dataset
    lines: tuple[int, ...]
    missing: int

    @property
    def count(self) -> int:
        return len(self.lines) + self.missing


def started(dataset: str, count: int) -> str:
    return f"Choosing up to {pluralize(count, 'row')} of {code(dataset)}. A card will appear in its channel."


def open_card(labelling: Labelling, outcome: BatchOutcome) -> Message:
    """The open batch: how many rows are answered and, after the first answer, the button for the next version."""
    done = f"{outcome.answered:,} of {pluralize(outcome.rows, 'new row')} labelled"
    if labelling.source is None:
        done = f"{outcome.answered:,} of {pluralize(outcome.rows, 'doubtful label')} checked"
    is_complete = outcome.answered == outcome.rows

    parts = Parts()
    parts.add(*_numbers(outcome))
    if is_complete:
        parts.text("*Next*: make the new version.")
    else:
        parts.text("*Next*: label rows. Only you see the row that opens.")
    parts.add(_open_buttons(str(labelling.id), outcome, is_complete=is_complete))
    if labelling.left_out:
        lines = pluralize(labelling.left_out, "line")
        parts.note(f"{lines} of the file had no text or a question that the dataset already has.")
    return parts.titled(f"{labelling.dataset}: {done}")


def _open_buttons(number: str, outcome: BatchOutcome, *, is_complete: bool) -> Actions:
    sure = confirm("Make the new version?", _confirmation(outcome), "Make it", "Not yet")
    stop = confirm("Discard these rows?", "The answers so far won't be used.", "Discard", "Keep them")
    label = button("Label rows", LABEL_ROWS, number)
    make = button("Make the new version", MAKE_VERSION, number, confirm=sure)
    discard = button("Discard", DISCARD, number, confirm=stop)
    next_step = label
    if is_complete:
        next_step = make
    next_step["style"] = "primary"
    # Without any answer, the new version would be the old one again.
    if not outcome.answered:
        return actions(label, discard)
    return actions(label, make, discard)


def closing_card(labelling: Labelling) -> Message:
    who = f"<@{labelling.closed_by}>"
    return text_message(
        f"Writing the answers into the next version of {code(labelling.dataset)}, as {who} asked …"
    )


def done_card(
    labelling: Labelling,
    outcome: BatchOutcome,
    version: Dataset | None,
    overtaken: OvertakenRows | None = None,
) -> Message:
    """The batch after the end. `version` is None if the answers changed nothing."""
    parts = Parts()
    parts.add(*_numbers(outcome))
    parts.add(*_outcome(outcome, overtaken))
    if version:
        parts.text(f"They are in {code(version.title)}; its card shows what changed.")
    elif overtaken:
        parts.text("No new version was made, since no usable answer differs from its row's label.")
    else:
        parts.text("Nothing changes: every answer equals the row's label.")
    if overtaken:
        parts.text(f"*Not used*: {_overtaken_text(overtaken)}")
    rows = pluralize(outcome.answered, "row")
    return parts.titled(f"{labelling.dataset}: {rows} labelled by {_people(outcome)}")


def _overtaken_text(overtaken: OvertakenRows) -> str:
    reasons = []
    if overtaken.lines:
        reasons.append(f"has another label in {line_ranges(overtaken.lines)} of its file")
    if overtaken.missing:
        reasons.append(f"lacks {pluralize(overtaken.missing, 'row')}")
    answers = pluralize(overtaken.count, "answer")
    return f"{answers}, because the newer {code(overtaken.version.title)} {' and '.join(reasons)}."


def discarded_card(labelling: Labelling) -> Message:
    return text_message(
        f"<@{labelling.closed_by}> discarded the rows of {code(labelling.dataset)} that were waiting for labels."
    )


def failed_notice(labelling: Labelling, why: str) -> Message:
    return text_message(f"No rows of {code(labelling.dataset)} can be labelled now. {capitalize(why)}")


def under_way(dataset: Dataset) -> str:
    return (
        f"Rows of {code(dataset.name)} are already being labelled. Press *Label rows* on their card in "
        f"<#{dataset.owner}>, or *Discard* or *Cancel* there to start over."
    )


def not_shown(dataset: Dataset, why: NoDelivery) -> str:
    if why == "not in the channel":
        return "The rows contain customers' words from a channel that you are not in, so they are not shown to you."
    return (
        "The rows contain customers' words, and people outside the dataset's channel can read here, so only "
        f"<@{dataset.uploaded_by}>, who uploaded them, can label them here."
    )


def no_doubted_rows(dataset: str) -> str:
    return (
        f"None of its training rows has a doubtful label. {code(f'/finetune label {dataset}')} also takes a file of "
        "rows without labels."
    )


def no_new_rows(filename: str, sensitive: int = 0) -> str:
    """`sensitive` rows were left out because they may not leave this machine."""
    text = f"There are no new rows in {escape(shorten(filename))}: the dataset has these or very similar questions."
    if sensitive:
        text += f" {pluralize(sensitive, 'row')} with personal data or a secret may not be sent to a vendor."
    return text


def row_form(shown: RowToLabel) -> Block:
    """Shows a row with buttons to keep its label, to take the label of similar rows, or to drop it, and a list of all
    other labels."""
    row = shown.row
    # A row's number and never its text: buttons hold ids only.
    key = f"{row.labelling_id} {row.place}"
    rows = pluralize(shown.of, "row")
    blocks: list[CardBlock | Block] = [
        Text(quote(row.text, LONGEST_TEXT)),
        Text(_labels_text(row)),
        _buttons(row, key),
        *_other_labels(key, shown.labels),
        Note(f"{shown.done:,} of {rows} answered. Each answer is saved at once."),
    ]
    return details_modal("Which label is right?", blocks)


def finished_form(labelling: Labelling, of: int) -> Block:
    blocks: list[CardBlock] = [
        Text(f"You have answered all {pluralize(of, 'row')} of {code(labelling.dataset)}. Thank you."),
        Text("*Next*: make the new version on the card, or let somebody else label the same rows first."),
        Note("If two people answer the same rows, the card shows how far they agree."),
    ]
    return details_modal("All rows answered", blocks)


def choice_form(channel: str, dataset: str) -> Block:
    hint = "A CSV, XLSX or JSONL file with a column of texts. Empty: training rows with doubtful labels."
    blocks: list[CardBlock | Block] = [
        Text(f"For {code(shorten(dataset))}: the rows whose labels would help most, one after the other."),
        forms.text_input("count", "How many rows", str(USUAL_ROWS), optional=False, initial=str(USUAL_ROWS)),
        forms.file_input("file", "Rows without labels", extensions(asks=True), optional=True, hint=hint),
        Note("Rows that you label are used for training. The held-out rows stay unchanged."),
    ]
    return forms.modal("Label rows", FORM, blocks, submit="Choose rows", private=f"{channel} {dataset}")


def _labels_text(row: LabellingRow) -> str:
    if row.given is None:
        return f"Similar rows are *{escape(shorten(row.likely, 60))}*."
    before, likely = map(escape, shorten_apart((row.given, row.likely), 60))
    return f"Its label is *{before}*; similar rows are *{likely}*."


def _buttons(row: LabellingRow, key: str) -> Actions:
    drop = button("Drop the row", DROP, key)
    # A new row has no label that could be kept.
    if row.given is None:
        return actions(button(shorten(row.likely, 40), CHANGE, key), drop)
    # Shortened together, as two long labels may differ only in what would be cut off.
    before, likely = shorten_apart((row.given, row.likely), 40)
    keep = button(f"Keep {before}", KEEP, key)
    change = button(f"Change to {likely}", CHANGE, key)
    return actions(keep, change, drop)


def _other_labels(key: str, labels: tuple[str, ...]) -> list[Block]:
    """Selects of all labels. An option's value is the row's key and the label's index in the dataset. More labels than
    one select can have are divided by the alphabet."""
    longest = LONGEST_OPTION
    if len(labels) > MANY_LABELS:
        longest = SHORT_OPTION
    names = shorten_apart(labels, longest)
    indices = list(range(len(labels)))
    if len(labels) <= forms.MOST_OPTIONS:
        return [_label_select(key, indices, names, "Or another label:")]
    indices.sort(key=lambda index: labels[index].casefold())
    selects = []
    for start in range(0, len(indices), forms.MOST_OPTIONS):
        part = indices[start : start + forms.MOST_OPTIONS]
        first = shorten(labels[part[0]])
        last = shorten(labels[part[-1]])
        selects.append(_label_select(key, part, names, f"Or another label, {first} to {last}:"))
    return selects


def _label_select(key: str, indices: Sequence[int], names: Sequence[str], title: str) -> Block:
    """A select of the labels at these indices in the dataset. `names` are all labels, shortened."""
    options = []
    for index in indices:
        # By its index, as a label may be longer than the 150 characters of an option's value.
        options.append({"text": plain(names[index], LONGEST_OPTION), "value": f"{key} {index}"})
    select = {
        "type": "static_select",
        "action_id": CHOOSE,
        "placeholder": plain("Another label", 150),
        "options": options,
    }
    return {"type": "section", "text": plain(title, 150), "accessory": select}


def _numbers(outcome: BatchOutcome) -> list[CardBlock]:
    if not outcome.answered:
        return []
    pairs = [("Answered", f"{outcome.answered:,} of {outcome.rows:,} by {_people(outcome)}")]
    between = outcome.between
    if between:
        agree = f"{between.agreed:,} of {pluralize(between.n, 'pair')} of answers"
        # κ of a few answers says next to nothing.
        if between.kappa is not None and between.n >= MIN_LABELS:
            agree += f", {escape(kappa_text(between))}"
        pairs.append(("Two people agree on", agree))
    return [Facts(pairs)]


def _outcome(outcome: BatchOutcome, overtaken: OvertakenRows | None) -> list[CardBlock]:
    not_used = 0
    if overtaken:
        not_used = overtaken.count
    counts = (
        (outcome.changed, "changed"),
        (outcome.added, "added"),
        (outcome.dropped, "dropped"),
        (outcome.stay, "kept as labelled"),
        (outcome.disputed, "skipped, since people disagree"),
        (not_used, "not used"),
    )
    shown = [f"{count:,} {word}" for count, word in counts if count]
    if not shown:
        return []
    return [Text(f"{', '.join(shown)}.")]


def _confirmation(outcome: BatchOutcome) -> str:
    open_rows = outcome.rows - outcome.answered
    text = f"{pluralize(outcome.changes, 'row')} will change."
    if open_rows:
        text += f" {pluralize(open_rows, 'row')} without an answer will be skipped."
    if outcome.disputed:
        text += f" {pluralize(outcome.disputed, 'row')} on which people disagree will be skipped."
    return text


def _people(outcome: BatchOutcome) -> str:
    return pluralize(outcome.people, "person", "people")
