"""A new version of a dataset beside the one before: rows that came, went or changed, and what stays the test."""

from __future__ import annotations

from bot.views.blocks import Block, Message, context, cut, escape, fields, header, listed, section
from bot.views.words import counted, short
from storage.records import Dataset
from trainers.dataset.holdout.versions import Diff

SHOWN_LABELS = 10


def changed(dataset: Dataset, diff: Diff, n_holdout: int) -> Message:
    """`n_holdout` rows are held out now."""
    headline = f"{dataset.title}: {_in_short(diff)}"
    numbers = [
        ("Added", counted(diff.added, "row")),
        ("Removed", counted(diff.removed, "row")),
        ("Labelled otherwise", counted(diff.relabelled, "row")),
        ("Held out as the test", _held_out(diff, n_holdout)),
    ]
    return Message(
        escape(headline), (header(headline), fields(numbers), *_labels(diff), context(_why_it_compares(diff)))
    )


def _in_short(diff: Diff) -> str:
    parts = ((diff.added, "added"), (diff.removed, "removed"), (diff.relabelled, "labelled otherwise"))
    said = [f"{count:,} {word}" for count, word in parts if count]
    return ", ".join(said) if said else "the same rows as before"


def _held_out(diff: Diff, n_holdout: int) -> str:
    kept = f"{counted(n_holdout - diff.held_out_added, 'row')} as before"
    return f"{kept}, {diff.held_out_added:,} new" if diff.held_out_added else kept


def _labels(diff: Diff) -> list[Block]:
    """Those whose count changed, the largest change first. None that one row alone has or had: that may be a
    customer's sentence in the wrong column."""
    moved = [one for one in diff.by_label if one[1] != one[2] and max(one[1:]) > 1]
    if not moved:
        return []
    ordered = sorted(moved, key=lambda one: -abs(one[2] - one[1]))
    lines = [_label(*one) for one in ordered[:SHOWN_LABELS]]
    hidden = len(ordered) - SHOWN_LABELS
    more = [f"… and {counted(hidden, 'more label')}"] if hidden > 0 else []
    return [section("*Rows per label, before and now*"), listed([*lines, *more])]


def _label(label: str, before: int, now: int) -> str:
    return f"• {escape(cut(short(label, 60), 60)).strip() or '(empty)'}: {before:,} → {now:,}"


def _why_it_compares(diff: Diff) -> str:
    if diff.held_out_dropped:
        said = [
            f"{counted(diff.held_out_dropped, 'held-out row')} with personal data or a secret, which the new file no "
            "longer has, dropped out of the test; new questions take their place. So results of both versions can't "
            "be compared: measure again."
        ]
    else:
        said = [
            "What was held out stays held out, so results of both versions can be compared; new questions join it by "
            "the same rule."
        ]
    if diff.held_out_missing:
        gone = counted(diff.held_out_missing, "held-out row")
        said.append(
            f"{gone} that the new file no longer has stay{'s' if diff.held_out_missing == 1 else ''} too."
        )
    if diff.held_out_relabelled:
        changed = counted(diff.held_out_relabelled, "held-out row")
        said.append(f"{changed} got a new answer, so earlier results on them do not compare.")
    return " ".join(said)
