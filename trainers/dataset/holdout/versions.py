"""A later version of a dataset: the holdout of the version before stays the holdout, so results compare.

Only questions that are new are drawn, by the rule of splitting.py. A held-out question that the new file no
longer has stays held out, unless it holds a secret or personal data: it was taken out for that. One with another
answer is held out with its new answer. Nothing is written here.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainers.dataset.holdout.splitting import choose, strata_labels
from trainers.dataset.reading import read
from trainers.dataset.values import (
    Example,
    Limits,
    Task,
    distinct_places,
    normalised,
    question_keys,
)

SHARE, MOST = 0.2, 1000
_OUR_OWN = Limits(max_bytes=1 << 40, max_rows=1 << 40)  # the file was within bounds before it was split


@dataclass(frozen=True)
class Previous:
    """The two files of the version before, as `store_chat` wrote them."""

    train: Path
    holdout: Path


@dataclass(frozen=True)
class Diff:
    """Rows, from the version before to this one. `relabelled` have the same question and another answer.

    `held_out_missing`: held-out rows whose question the new file no longer has; they stay held out and are
    in `removed` too. So are those `held_out_dropped`, which held a secret or personal data and don't stay.
    `held_out_added` are the new questions' rows that joined the holdout. `by_label`: label, rows before, rows in the
    new file; empty for free text.
    """

    added: int
    removed: int
    relabelled: int
    held_out_added: int
    held_out_relabelled: int
    held_out_missing: int
    by_label: tuple[tuple[str, int, int], ...]
    held_out_dropped: int = 0

    @property
    def is_empty(self) -> bool:
        return not (self.added or self.removed or self.relabelled)


@dataclass(frozen=True)
class Row:
    """What of a row matters here. `answer` is any text that equal answers share; `label` its stratum."""

    key: bytes
    label: str
    answer: str


@dataclass(frozen=True)
class Before:
    """The version before: all rows, and which questions are on which side."""

    train: tuple[Row, ...]
    holdout: tuple[Row, ...]

    @cached_property
    def held(self) -> frozenset[bytes]:
        return frozenset(row.key for row in self.holdout)

    @cached_property
    def trained(self) -> frozenset[bytes]:
        return frozenset(row.key for row in self.train) - self.held


def written(path: Path, doing: str) -> tuple[Example, ...]:
    """Rows of a file that `store_chat` wrote. ValueError, which says what was being done, where it is another."""
    if path.stat().st_size == 0:
        return ()  # so few rows that none were held out
    reading = read(path, path.name, limits=_OUR_OWN)
    if reading.refused:
        raise ValueError(f"{doing} '{path.name}': it is not the file that was written")
    return reading.examples


def rows_of(examples: Sequence[Example], task: Task, keys: Sequence[bytes] | None = None) -> tuple[Row, ...]:
    labels = strata_labels(examples, task)
    known = question_keys(examples) if keys is None else keys
    return tuple(
        Row(key, label, normalised(example.answer))
        for example, key, label in zip(examples, known, labels, strict=True)
    )


def held_rows(
    rows: Sequence[Row],
    before: Before,
    seed: int,
    groups: Sequence[int] | None = None,
    *,
    instead_of: int = 0,
) -> frozenset[int]:
    """Which of the rows to hold out, by their place: those of held-out questions, and the share of the new ones, or
    as many of them as were dropped, which they are drawn `instead_of`.

    One row a question, and in all at most MOST rows, or as many as were held out before, and one of each label that
    is new. A new question that nearly asks an old one goes where that one is; near both sides it is for training.
    """
    old = _old_groups(rows, before, groups)
    marks = groups or [0] * len(rows)
    places = distinct_places([row.key for row in rows], [row.answer for row in rows])
    held = {i for i in places if rows[i].key in before.held or _follows(rows[i], marks[i], before, old)}
    fresh = [i for i in places if i not in held and rows[i].key not in before.trained and marks[i] not in old]
    room = max(MOST, len(before.holdout)) - len(held) - _missing_rows(rows, before)
    drawn = choose(
        [rows[i].key for i in fresh],
        [rows[i].label for i in fresh],
        seed,
        groups=[groups[i] for i in fresh] if groups else None,
        share=SHARE,
        at_least=instead_of,
        at_most=max(room, 0),
        served={row.label for row in before.holdout},
    )
    return frozenset(held | {fresh[place] for place in drawn})


def _old_groups(rows: Sequence[Row], before: Before, groups: Sequence[int] | None) -> Mapping[int, bool]:
    """Of groups with an old question: whether all its old questions are held out."""
    old: dict[int, bool] = {}
    for row, group in zip(rows, groups or (), strict=groups is not None):
        if row.key in before.held or row.key in before.trained:
            old[group] = old.get(group, True) and row.key in before.held
    return old


def _follows(row: Row, group: int, before: Before, old: Mapping[int, bool]) -> bool:
    return row.key not in before.trained and old.get(group, False)


def _missing(rows: Iterable[Row], before: Before) -> frozenset[bytes]:
    return before.held - {row.key for row in rows}


def _missing_rows(rows: Iterable[Row], before: Before) -> int:
    missing = _missing(rows, before)
    return sum(row.key in missing for row in before.holdout)


def diff(rows: Sequence[Row], before: Before, held: frozenset[int], task: Task, dropped: int = 0) -> Diff:
    """`held` as `held_rows` said. `dropped` rows that were held out are no longer."""
    in_use = [
        row for place, row in enumerate(rows) if place in held or row.key not in before.held
    ]  # no copies
    old, new = _answers((*before.train, *before.holdout)), _answers(in_use)
    asked_before = before.held | before.trained
    changes = {key: _change(old[key], new[key]) for key in old.keys() | new.keys()}
    return Diff(
        added=sum(change.added for change in changes.values()),
        removed=sum(change.removed for change in changes.values()),
        relabelled=sum(change.relabelled for change in changes.values()),
        held_out_added=sum(rows[i].key not in asked_before for i in held),
        held_out_relabelled=sum(changes[key].relabelled for key in before.held),
        held_out_missing=_missing_rows(rows, before) - dropped,
        by_label=_by_label((*before.train, *before.holdout), in_use) if task == "labels" else (),
        held_out_dropped=dropped,
    )


@dataclass(frozen=True)
class _Change:
    added: int
    removed: int
    relabelled: int


_SAME = _Change(0, 0, 0)


def _answers(rows: Iterable[Row]) -> defaultdict[bytes, Counter[str]]:
    answers: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    for row in rows:
        answers[row.key][row.answer] += 1
    return answers


def _change(old: Counter[str], new: Counter[str]) -> _Change:
    """Of one question. Rows that differ in their answer are matched with each other as far as they go."""
    if old == new:
        return _SAME
    gone, come = (old - new).total(), (new - old).total()
    relabelled = min(gone, come)
    return _Change(come - relabelled, gone - relabelled, relabelled)


def _by_label(old: Iterable[Row], new: Iterable[Row]) -> tuple[tuple[str, int, int], ...]:
    before, after = Counter(row.label for row in old), Counter(row.label for row in new)
    return tuple((label, before[label], after[label]) for label in sorted(before.keys() | after.keys()))
