"""Holdouts: drawn for a first version, kept for later ones, or frozen by a person.

The holdout of the version before stays the holdout, so that results compare. So does its sealed part, further rows set
aside that nothing is measured on before a promotion; once it was opened its rows join the holdout of the next version.
Only questions that are new are drawn, by the rule of splits.py. A held-out question that the new file no longer has
stays held out, unless it holds a secret or personal data: it was taken out for that. One with another answer is held
out with its new answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from trainers.dataset.checks import MINIMUM, Fault, Findings, Rule
from trainers.dataset.reader import read
from trainers.dataset.row_facts import Facts, StoredRows
from trainers.dataset.rows import Example, Limits, Task, at, distinct_places, normalise_text, question_keys
from trainers.dataset.sensitive_data import find_sensitive_rows
from trainers.dataset.splits import ChatFile, draw_held_rows, strata_labels

HOLDOUT_SHARE, HOLDOUT_MOST = 0.2, 1000
_NO_LIMITS = Limits(max_bytes=1 << 40, max_rows=1 << 40)  # the file was within bounds before it was split


@dataclass(frozen=True)
class Previous:
    """The files of the version before, as `store_chat` wrote them. `draws_more` False: none of the new questions joins
    the holdout. They were chosen because they are hard, or answered by a model: neither is a fair test. `is_opened`:
    its `sealed` part was measured on."""

    train: Path
    holdout: Path
    draws_more: bool = True
    sealed: Path | None = None
    is_opened: bool = False


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
class VersionRow:
    """A row's question_key, its normalised answer, and the label by which rows are drawn."""

    key: bytes
    label: str
    answer: str


@dataclass(frozen=True)
class PreviousRows:
    """The rows of the version before, and which questions are on which side."""

    train: tuple[VersionRow, ...]
    holdout: tuple[VersionRow, ...]

    @cached_property
    def held(self) -> frozenset[bytes]:
        return frozenset(row.key for row in self.holdout)

    @cached_property
    def trained(self) -> frozenset[bytes]:
        return frozenset(row.key for row in self.train) - self.held

    @cached_property
    def labels(self) -> Counter[str]:
        return Counter(row.label for row in (*self.train, *self.holdout))

    def count_missing(self, rows: Iterable[VersionRow]) -> int:
        """Returns the number of held-out rows whose question is none of these rows'."""
        missing = self.held - {row.key for row in rows}
        return sum(row.key in missing for row in self.holdout)


def read_stored(path: Path, action: str) -> tuple[Example, ...]:
    """Returns the rows of a file that `store_chat` wrote. Raises ValueError, which says what was being done, where
    it is another."""
    if path.stat().st_size == 0:
        return ()  # so few rows that none were held out
    reading = read(path, path.name, limits=_NO_LIMITS)
    if reading.refused:
        raise ValueError(f"{action} '{path.name}': it is not the file that was written")
    return reading.examples


def to_version_rows(
    examples: Sequence[Example], task: Task, keys: Sequence[bytes] | None = None
) -> tuple[VersionRow, ...]:
    labels = strata_labels(examples, task)
    row_keys = question_keys(examples) if keys is None else keys
    return tuple(
        VersionRow(key, label, normalise_text(example.answer))
        for example, key, label in zip(examples, row_keys, labels, strict=True)
    )


def continue_held_rows(
    rows: Sequence[VersionRow],
    before: PreviousRows,
    seed: int,
    groups: Sequence[int] | None = None,
    *,
    instead_of: int = 0,
    draws_more: bool = True,
) -> frozenset[int]:
    """Returns which of the rows to hold out, by their place: those of held-out questions, and the share of the new
    ones, or as many of them as were dropped, which they are drawn `instead_of`.

    One row a question, and in all at most HOLDOUT_MOST rows, or as many as were held out before, and one of each label
    that is new. A new question that nearly asks an old one goes where that one is; near both sides it is for training.
    """
    # Of near-copy groups with an old question: whether all their old questions are held out.
    old_groups: dict[int, bool] = {}
    for row, group in zip(rows, groups or (), strict=groups is not None):
        if row.key in before.held or row.key in before.trained:
            old_groups[group] = old_groups.get(group, True) and row.key in before.held

    held: set[int] = set()
    fresh: list[int] = []
    for i in distinct_places([row.key for row in rows], [row.answer for row in rows]):
        is_near_held = old_groups.get(groups[i]) if groups else None
        if rows[i].key in before.held or (rows[i].key not in before.trained and is_near_held):
            held.add(i)
        elif rows[i].key not in before.trained and is_near_held is None:
            fresh.append(i)
    if not draws_more:
        return frozenset(place for place in held if rows[place].key in before.held)
    room = max(HOLDOUT_MOST, len(before.holdout)) - len(held) - before.count_missing(rows)
    drawn = draw_held_rows(
        [rows[i].key for i in fresh],
        [rows[i].label for i in fresh],
        seed,
        groups=[groups[i] for i in fresh] if groups else None,
        share=HOLDOUT_SHARE,
        at_least=instead_of,
        at_most=max(room, 0),
        served={row.label for row in before.holdout},
    )
    return frozenset(held | {fresh[place] for place in drawn})


def diff(
    rows: Sequence[VersionRow], before: PreviousRows, held: frozenset[int], task: Task, dropped: int = 0
) -> Diff:
    """Compares the version before with this one. `held` as `continue_held_rows` returns it; `dropped` rows that were
    held out are no longer."""
    # Of rows whose question was held out only those count that are held out now: the others are copies.
    in_use = [row for place, row in enumerate(rows) if place in held or row.key not in before.held]
    old: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    new: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    for answers, version_rows in ((old, (*before.train, *before.holdout)), (new, in_use)):
        for row in version_rows:
            answers[row.key][row.answer] += 1

    # The rows of one question that differ in their answer are matched with each other as far as they go.
    added = removed = relabelled = held_relabelled = 0
    for key in old.keys() | new.keys():
        if old[key] == new[key]:
            continue
        gone, come = (old[key] - new[key]).total(), (new[key] - old[key]).total()
        both = min(gone, come)
        added, removed, relabelled = added + come - both, removed + gone - both, relabelled + both
        held_relabelled += both if key in before.held else 0

    labels = Counter(row.label for row in in_use)
    names = sorted(before.labels.keys() | labels.keys()) if task == "labels" else ()
    asked_before = before.held | before.trained
    return Diff(
        added=added,
        removed=removed,
        relabelled=relabelled,
        held_out_added=sum(rows[i].key not in asked_before for i in held),
        held_out_relabelled=held_relabelled,
        held_out_missing=before.count_missing(rows) - dropped,
        by_label=tuple((name, before.labels[name], labels[name]) for name in names),
        held_out_dropped=dropped,
    )


OVERLAP = Rule("overlap", "blocks", "Delete the line: who trains on the test's questions measures nothing.")
NO_HOLDOUT = Rule(
    "no_holdout",
    "blocks",
    "Add rows, three different questions for a label at least: without a test nothing is known.",
)


@dataclass(frozen=True)
class Parts:
    """`held` are places of rows, no two of them copies. `earlier` are rows of an earlier holdout that the file doesn't
    have, to be held out after them. `copies` are places of rows that ask what a held-out row asks: as further held-out
    rows they would be evidence counted twice, and for training they would give the answer away. `sealed` and
    `earlier_sealed`: the same of the sealed part."""

    held: frozenset[int]
    earlier: tuple[Example, ...] = ()
    diff: Diff | None = None
    copies: frozenset[int] = frozenset()
    sealed: frozenset[int] = frozenset()
    earlier_sealed: tuple[Example, ...] = ()

    @property
    def not_trained(self) -> frozenset[int]:
        return self.held | self.copies | self.sealed

    @property
    def n_sealed(self) -> int:
        return len(self.sealed) + len(self.earlier_sealed)


def labels_by_row(facts: Facts, rows: StoredRows, task: Task) -> list[str]:
    """Returns each row's label; all empty for free text."""
    if task != "labels":
        return [""] * len(facts)
    return [
        rows[i].answer.strip() if label is None else label for i, label in enumerate(facts.given_labels())
    ]


def draw_holdout(
    facts: Facts,
    labels: Sequence[str],
    seed: int,
    groups: Sequence[int] | None,
    findings: Findings,
    n_sealed: int = 0,
) -> Parts:
    """Draws the holdout of a first version, and beside it `n_sealed` rows to be sealed."""
    held = draw_held_rows(facts.keys, labels, seed, groups=groups)
    if len(facts.keys) >= MINIMUM and not held:
        findings.add_for_file(NO_HOLDOUT, "No row can be set aside as the test.")
    held_keys = {facts.keys[place] for place in held}
    rest = [place for place, key in enumerate(facts.keys) if key not in held_keys]
    sealed = _draw_sealed(n_sealed, rest, facts.keys, labels, seed, groups)
    return Parts(held, copies=_copies(held | sealed, facts.keys), sealed=sealed)


def _draw_sealed(
    wanted: int,
    places: Sequence[int],
    keys: Sequence[bytes],
    labels: Sequence[str],
    seed: int,
    groups: Sequence[int] | None,
) -> frozenset[int]:
    """Draws about so many of the rows at these places, by the holdout's rule: at most a third of them."""
    if wanted <= 0:
        return frozenset()
    drawn = draw_held_rows(
        at(places, keys),
        at(places, labels),
        seed,
        groups=at(places, groups) if groups is not None else None,
        share=0.0,
        at_least=wanted,
        at_most=wanted,
    )
    return frozenset(places[place] for place in drawn)


def _copies(held: frozenset[int], keys: Sequence[bytes]) -> frozenset[int]:
    held_keys = {keys[place] for place in held}
    return frozenset(place for place, key in enumerate(keys) if key in held_keys and place not in held)


def split_against(frozen: Sequence[Example], facts: Facts, findings: Findings) -> Parts:
    """Keeps `frozen` as the holdout: every row of the file is for training, and none may ask what it asks."""
    held = dict(zip(question_keys(frozen), (example.line for example in frozen), strict=True))
    for line, key in zip(facts.lines, facts.keys, strict=True):
        if key in held:
            findings.add_for_line(line, Fault(OVERLAP, f"asks what the holdout asks in line {held[key]}"))
    return Parts(frozenset(), tuple(frozen))


def continue_holdout(
    previous: Previous,
    rows: Sequence[Example],
    keys: Sequence[bytes],
    task: Task,
    seed: int,
    groups: Sequence[int] | None = None,
    *,
    presidio: bool = False,
    n_sealed: int = 0,
) -> Parts:
    """Keeps the holdout and the sealed part of the version before and adds a share of the new questions; to the sealed
    part as many as it lacks to `n_sealed`. `keys` are the rows' question_keys. A row set aside that the file no longer
    has is dropped where it holds a secret or personal data.

    Raises ValueError where a file of the version before is not what was written.
    """
    action = "reading the version before"
    train, holdout = (
        to_version_rows(read_stored(previous.train, action), task),
        read_stored(previous.holdout, action),
    )
    sealed_before = read_stored(previous.sealed, action) if previous.sealed else ()
    sealed_keys = frozenset(question_keys(() if previous.is_opened else sealed_before))
    holdout = (*holdout, *sealed_before)
    before = PreviousRows(train, to_version_rows(holdout, task))
    current_keys = set(keys)
    missing = [place for place, row in enumerate(before.holdout) if row.key not in current_keys]
    sensitive = find_sensitive_rows([holdout[place] for place in missing], presidio=presidio)
    dropped = {missing[place] for place in sensitive}
    rest = PreviousRows(train, tuple(row for place, row in enumerate(before.holdout) if place not in dropped))

    current = to_version_rows(rows, task, keys)
    more = previous.draws_more
    held = continue_held_rows(current, rest, seed, groups, instead_of=len(dropped), draws_more=more)
    stay = [place for place in missing if place not in dropped]
    stay_rows = at(stay, before.holdout)
    distinct = distinct_places([row.key for row in stay_rows], [row.answer for row in stay_rows])
    sides: dict[bool, list[Example]] = {True: [], False: []}
    for place in at(distinct, stay):
        sides[before.holdout[place].key in sealed_keys].append(holdout[place])

    sealed = _still_sealed(held, keys, sealed_keys, groups, before)
    fresh = _fresh_places(current, before, groups, held)
    lacking = n_sealed - len(sealed) - len(sides[True])
    sealed |= _draw_sealed(lacking, fresh, keys, [row.label for row in current], seed, groups)
    aside = held | sealed
    changes = diff(current, before, aside, task, len(dropped))
    asked_before = before.held | before.trained
    added = sum(keys[place] not in asked_before for place in held - sealed)
    return Parts(
        held=held - sealed,
        earlier=tuple(sides[False]),
        diff=replace(changes, held_out_added=added),
        copies=_copies(aside, keys),
        sealed=frozenset(sealed),
        earlier_sealed=tuple(sides[True]),
    )


def _still_sealed(
    held: Collection[int],
    keys: Sequence[bytes],
    sealed_keys: Collection[bytes],
    groups: Sequence[int] | None,
    before: PreviousRows,
) -> set[int]:
    """Returns the places of the questions that were sealed, and of new ones that nearly ask them and were set aside
    with them."""
    near = {groups[place] for place, key in enumerate(keys) if key in sealed_keys} if groups else set()
    return {
        place
        for place in held
        if keys[place] in sealed_keys or (groups and groups[place] in near and keys[place] not in before.held)
    }


def _fresh_places(
    rows: Sequence[VersionRow], before: PreviousRows, groups: Sequence[int] | None, held: Collection[int]
) -> list[int]:
    """Returns the places of new questions that are for training: neither they nor their near copies stood on any side
    before."""
    is_old = [row.key in before.held or row.key in before.trained for row in rows]
    old_groups = {group for group, old in zip(groups, is_old, strict=True) if old} if groups else set()
    held_keys = {rows[place].key for place in held}
    return [
        place
        for place, old in enumerate(is_old)
        if not old and rows[place].key not in held_keys and not (groups and groups[place] in old_groups)
    ]


def store_without_questions(folder: Path, sha256: str, keys: Collection[bytes]) -> str:
    """Writes the part FOLDER/SHA256.jsonl again without the rows that ask these questions (their `question_key`).

    Returns the sha256 of the new file. The rows that stay keep their bytes and order; the old file stays too.
    """
    path = folder / f"{sha256}.jsonl"
    rows = read_stored(path, "taking rows out of")
    keys_by_line = dict(zip((row.line for row in rows), question_keys(rows), strict=True))
    with path.open("rb") as old, ChatFile(folder) as new:
        for number, line in enumerate(old, 1):
            if keys_by_line.get(number) not in keys:
                new.write_part(line)
        return new.close()
