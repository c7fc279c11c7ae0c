"""What changed between two versions of a dataset, and whether their results can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.common.blocks import CardBlock, Message, escape, escaped_name
from bot.cards.common.builder import Parts
from bot.cards.common.words import first_lines, listed, pluralize, shorten
from bot.rules.plans import TaughtRows
from storage.records import Dataset
from trainers.dataset.versions import Diff

SHOWN_LABELS = 10
SHOWN_TEACHERS = 4


def version_changes(dataset: Dataset, diff: Diff, n_holdout: int) -> Message:
    """What changed since the version before. `n_holdout` rows are held out now."""
    counts = ((diff.added, "added"), (diff.removed, "removed"), (diff.relabelled, "relabelled"))
    changes = [f"{count:,} {word}" for count, word in counts if count]
    if not changes:
        changes = ["the same rows as before"]
    title = f"{dataset.title}: {', '.join(changes)}"
    return Message.titled(title, *version_change_blocks(diff, n_holdout))


def version_change_blocks(diff: Diff, n_holdout: int) -> list[CardBlock]:
    held_out = f"{pluralize(n_holdout - diff.held_out_added, 'row')} as before"
    if diff.held_out_added:
        held_out += f", {diff.held_out_added:,} new"
    numbers = [
        ("Added", pluralize(diff.added, "row")),
        ("Removed", pluralize(diff.removed, "row")),
        ("Relabelled", pluralize(diff.relabelled, "row")),
        ("Held out for measuring", held_out),
    ]
    parts = Parts()
    parts.facts(numbers)
    parts.add(*_labels(diff))
    parts.add(*_comparison(diff))
    return parts


def _labels(diff: Diff) -> list[CardBlock]:
    """Labels whose count changed, largest change first. A label that never had two rows is left out: it may be a
    customer's sentence in the wrong column."""
    changes = []
    for label, before, now in diff.by_label:
        if before != now and max(before, now) > 1:
            line = f"• {escaped_name(label)}: {before:,} → {now:,}"
            changes.append((abs(now - before), line))
    if not changes:
        return []
    largest_first = sorted(changes, key=lambda change: -change[0])
    parts = Parts()
    parts.text("*Rows per label, before and now*")
    parts.lines(first_lines([line for _, line in largest_first], SHOWN_LABELS))
    return parts


def _comparison(diff: Diff) -> list[CardBlock]:
    """Says whether the results of both versions can be compared."""
    lines = []
    dropped = diff.held_out_dropped
    if dropped:
        were_replaced = f"{dropped:,} held-out rows were replaced"
        if dropped == 1:
            were_replaced = "1 held-out row was replaced"
        lines.append(
            f"*Measure again*: {were_replaced}, because of personal data or a secret, so the results of the two "
            "versions can't be compared."
        )
    missing = diff.held_out_missing
    if missing == 1:
        lines.append("1 held-out row that the new file no longer has stays held out.")
    elif missing:
        lines.append(f"{missing:,} held-out rows that the new file no longer has stay held out.")
    relabelled = diff.held_out_relabelled
    if relabelled == 1:
        lines.append("1 held-out row has a new label, so earlier results on it can't be compared.")
    elif relabelled:
        lines.append(
            f"{relabelled:,} held-out rows have a new label, so earlier results on them can't be compared."
        )
    parts = Parts()
    parts.lines(lines)
    if not dropped:
        parts.note("Results of both versions can be compared, because held-out rows stay held out.")
    return parts


def version_taught_facts(n_train: int, taught: Sequence[TaughtRows]) -> list[tuple[str, str]]:
    """Who labelled the training rows of a version, on which the teachers' accuracy may be measured later."""
    if not taught:
        return []
    rows = [f"{each.rows:,} by {escape(shorten(each.teacher, 60))}" for each in taught]
    teachers = listed(rows, SHOWN_TEACHERS)
    return [("Labelled by models", f"{teachers} ({n_train:,} training rows in all)")]
