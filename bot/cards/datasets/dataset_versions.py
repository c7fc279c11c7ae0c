"""What changed between two versions of a dataset, and whether their results can be compared."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.common.blocks import CardBlock, Facts, Lines, Message, Note, Text, escape, escaped_name
from bot.cards.common.words import first_lines, listed, pluralize, shorten
from bot.rules.plans import TaughtRows
from storage.records import Dataset
from trainers.dataset.versions import Diff

SHOWN_LABELS = 10
SHOWN_TEACHERS = 4


def version_changes(dataset: Dataset, diff: Diff, n_holdout: int) -> Message:
    """What changed since the version before. `n_holdout` rows are held out now."""
    counts = ((diff.added, "added"), (diff.removed, "removed"), (diff.relabelled, "relabelled"))
    changes = ", ".join(f"{count:,} {word}" for count, word in counts if count) or "the same rows as before"
    return Message.titled(f"{dataset.title}: {changes}", *version_change_blocks(diff, n_holdout))


def version_change_blocks(diff: Diff, n_holdout: int) -> list[CardBlock]:
    stored = f"{pluralize(n_holdout - diff.held_out_added, 'row')} as before"
    held_out = f"{stored}, {diff.held_out_added:,} new" if diff.held_out_added else stored
    numbers = [
        ("Added", pluralize(diff.added, "row")),
        ("Removed", pluralize(diff.removed, "row")),
        ("Relabelled", pluralize(diff.relabelled, "row")),
        ("Held out for measuring", held_out),
    ]
    return [Facts(numbers), *_labels(diff), *_comparison(diff)]


def _labels(diff: Diff) -> list[CardBlock]:
    """Labels whose count changed, largest change first. A label that never had two rows is left out: it may be a
    customer's sentence in the wrong column."""
    moved = [pair for pair in diff.by_label if pair[1] != pair[2] and max(pair[1:]) > 1]
    if not moved:
        return []
    ordered = sorted(moved, key=lambda pair: -abs(pair[2] - pair[1]))
    lines = [f"• {escaped_name(label)}: {before:,} → {now:,}" for label, before, now in ordered]
    return [Text("*Rows per label, before and now*"), Lines(first_lines(lines, SHOWN_LABELS))]


def _comparison(diff: Diff) -> list[CardBlock]:
    """Says whether the results of both versions can be compared."""
    lines = []
    if diff.held_out_dropped:
        were = "row was" if diff.held_out_dropped == 1 else "rows were"
        lines.append(
            f"*Measure again*: {diff.held_out_dropped:,} held-out {were} replaced, because of personal data or a "
            "secret, so the results of the two versions can't be compared."
        )
    if diff.held_out_missing:
        stay = "stays" if diff.held_out_missing == 1 else "stay"
        missing = pluralize(diff.held_out_missing, "held-out row")
        lines.append(f"{missing} that the new file no longer has {stay} held out.")
    if diff.held_out_relabelled:
        is_one = diff.held_out_relabelled == 1
        changed = (
            f"{pluralize(diff.held_out_relabelled, 'held-out row')} {'has' if is_one else 'have'} a new label"
        )
        lines.append(f"{changed}, so earlier results on {'it' if is_one else 'them'} can't be compared.")
    blocks: list[CardBlock] = [Lines(lines)] if lines else []
    if not diff.held_out_dropped:
        blocks.append(Note("Results of both versions can be compared, because held-out rows stay held out."))
    return blocks


def version_taught_facts(n_train: int, taught: Sequence[TaughtRows]) -> list[tuple[str, str]]:
    """Who labelled the training rows of a version, on which the teachers' accuracy may be measured later."""
    if not taught:
        return []
    teachers = listed(
        [f"{each.rows:,} by {escape(shorten(each.teacher, 60))}" for each in taught], SHOWN_TEACHERS
    )
    return [("Labelled by models", f"{teachers} ({n_train:,} training rows in all)")]
