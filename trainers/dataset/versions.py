"""Holdouts of dataset versions: drawn for the first version, kept for later ones, or frozen by a person.

The previous version's holdout is kept, so that results stay comparable. So is its sealed part: further rows on which
nothing is measured before a promotion. Once the sealed part has been opened, its rows join the next version's holdout.
Only new questions are drawn, by the rule of splits.py. A held-out question that the new file no longer has stays held
out, unless it contains a secret or personal data and was presumably removed for that. If its answer has changed, it is
held out with the new answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.reader import read
from trainers.dataset.row_facts import RowFacts, StoredRows
from trainers.dataset.rows import Example, Limits, Task, at, distinct_indices, normalise_text, question_keys
from trainers.dataset.sensitive_data import find_sensitive_rows
from trainers.dataset.splits import HOLDOUT_MOST, HOLDOUT_SHARE, ChatFile, draw_held_rows, strata_labels
from trainers.methods import MIN_TRAINING_EXAMPLES

_NO_LIMITS = Limits(max_bytes=1 << 40, max_rows=1 << 40)  # the file was within the limits before it was split


@dataclass(frozen=True)
class Previous:
    """The stored files of the previous version. If `draws_more` is False, no new questions join the holdout, because
    they were selected for being hard, or were labelled by a model: neither makes a fair test. `is_opened`: its `sealed`
    part was measured on."""

    train: Path
    holdout: Path
    draws_more: bool = True
    sealed: Path | None = None
    is_opened: bool = False


@dataclass(frozen=True)
class Diff:
    """Numbers of rows that changed since the previous version. `relabelled` rows have the same question and another
    answer.

    `held_out_missing` rows are held out and stay so, although the new file no longer has their questions;
    `held_out_dropped` rows had a secret or personal data and are no longer held out. `removed` includes both.
    `held_out_added` rows have new questions and joined the holdout. `by_label` has (label, rows before, rows in the new
    file), and is empty for free text.
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
    """A row's question_key, its normalised answer, and the label that is its stratum."""

    key: bytes
    label: str
    answer: str


@dataclass(frozen=True)
class PreviousRows:
    """The rows of the previous version, and the questions on either side. Those in `learnt` were training rows of some
    model, and so are for training even if the previous version didn't have them."""

    train: tuple[VersionRow, ...]
    holdout: tuple[VersionRow, ...]
    learnt: frozenset[bytes] = frozenset()

    @cached_property
    def held(self) -> frozenset[bytes]:
        return frozenset(row.key for row in self.holdout)

    @cached_property
    def trained(self) -> frozenset[bytes]:
        keys = frozenset(row.key for row in self.train)
        return (keys | self.learnt) - self.held

    @cached_property
    def labels(self) -> Counter[str]:
        return Counter(row.label for row in (*self.train, *self.holdout))

    def count_missing(self, rows: Iterable[VersionRow]) -> int:
        """Returns the number of held-out rows whose questions are not among these rows."""
        current = {row.key for row in rows}
        missing = self.held - current
        return sum(row.key in missing for row in self.holdout)


def read_stored(path: Path, action: str) -> tuple[Example, ...]:
    """Returns the rows of a file that `store_chat` wrote. Raises ValueError, whose message begins with `action`, if the
    file has changed."""
    if path.stat().st_size == 0:
        return ()  # there were too few rows to hold any out
    reading = read(path, path.name, limits=_NO_LIMITS)
    if reading.is_refused:
        raise ValueError(f"{action} '{path.name}': it is not the file that was written")
    return reading.examples


def read_learnt_questions(files: Iterable[Path]) -> frozenset[bytes]:
    """Returns the keys of the questions in these files, which are stored training rows of models."""
    keys: set[bytes] = set()
    for path in files:
        rows = read_stored(path, "reading the rows of a model")
        keys.update(question_keys(rows))
    return frozenset(keys)


def to_version_rows(
    examples: Sequence[Example],
    task: Task,
    keys: Sequence[bytes] | None = None,
) -> tuple[VersionRow, ...]:
    if keys is None:
        keys = question_keys(examples)
    labels = strata_labels(examples, task)
    answers = [normalise_text(example.answer) for example in examples]
    rows = zip(keys, labels, answers, strict=True)
    return tuple(VersionRow(key, label, answer) for key, label, answer in rows)


def continue_held_rows(
    rows: Sequence[VersionRow],
    before: PreviousRows,
    seed: int,
    groups: Sequence[int] | None = None,
    *,
    instead_of: int = 0,
    draws_more: bool = True,
) -> frozenset[int]:
    """Returns the numbers of the rows to hold out: those with held-out questions, and a share of the new questions. At
    least `instead_of` new ones are drawn, to replace rows that were dropped.

    Holds out one row per question, and at most HOLDOUT_MOST rows (or as many as were held out before) plus one of each
    new label. A new question that is a near copy of an old one goes to the same side; if it is near questions on both
    sides, it is for training.
    """
    old_groups: dict[int, bool] = {}
    if groups is not None:
        old_groups = _find_old_groups(rows, before, groups)

    held: set[int] = set()
    fresh: list[int] = []
    for index in _distinct_indices(rows):
        key = rows[index].key
        is_near_held: bool | None = None  # None: near no old question
        if groups:
            is_near_held = old_groups.get(groups[index])
        if key in before.held:
            held.add(index)
        elif key in before.trained:
            continue
        elif is_near_held:
            held.add(index)
        elif is_near_held is None:
            fresh.append(index)
    if not draws_more:
        # Not even near copies of held-out questions, which are new questions too.
        return frozenset(index for index in held if rows[index].key in before.held)

    most = max(HOLDOUT_MOST, len(before.holdout))
    room = most - len(held) - before.count_missing(rows)
    fresh_rows = at(fresh, rows)
    fresh_groups: Sequence[int] | None = None
    if groups:
        fresh_groups = at(fresh, groups)
    drawn = draw_held_rows(
        [row.key for row in fresh_rows],
        [row.label for row in fresh_rows],
        seed,
        groups=fresh_groups,
        share=HOLDOUT_SHARE,
        at_least=instead_of,
        at_most=max(room, 0),
        served={row.label for row in before.holdout},
    )
    held.update(fresh[index] for index in drawn)
    return frozenset(held)


def _find_old_groups(
    rows: Sequence[VersionRow],
    before: PreviousRows,
    groups: Sequence[int],
) -> dict[int, bool]:
    """Returns the near-copy groups with old questions, and for each of them whether all of these are held out."""
    all_held: dict[int, bool] = {}
    for row, group in zip(rows, groups, strict=True):
        if row.key in before.held:
            all_held.setdefault(group, True)
        elif row.key in before.trained:
            all_held[group] = False
    return all_held


def _distinct_indices(rows: Sequence[VersionRow]) -> list[int]:
    keys = [row.key for row in rows]
    answers = [row.answer for row in rows]
    return distinct_indices(keys, answers)


def diff(
    rows: Sequence[VersionRow],
    before: PreviousRows,
    held: frozenset[int],
    sealed: frozenset[int],
    task: Task,
    dropped: int,
) -> Diff:
    """Compares the previous version with this one. `held` and `sealed` are the rows that are set aside now; `dropped`
    is the number of rows that no longer are."""
    # Rows with a question that was set aside count only if they are set aside now; the others are copies.
    aside = held | sealed
    in_use: list[VersionRow] = []
    for index, row in enumerate(rows):
        if index in aside or row.key not in before.held:
            in_use.append(row)
    old = _answers_by_key([*before.train, *before.holdout])
    new = _answers_by_key(in_use)

    # Among rows of the same question, each removed answer and each added one make a relabelled row.
    added = removed = relabelled = held_relabelled = 0
    for key in old.keys() | new.keys():
        if old[key] == new[key]:  # nearly always
            continue
        gone = (old[key] - new[key]).total()
        come = (new[key] - old[key]).total()
        both = min(gone, come)
        added += come - both
        removed += gone - both
        relabelled += both
        if key in before.held:
            held_relabelled += both

    by_label: list[tuple[str, int, int]] = []
    if task == "labels":
        labels = Counter(row.label for row in in_use)
        names = before.labels.keys() | labels.keys()
        for name in sorted(names):
            by_label.append((name, before.labels[name], labels[name]))
    asked_before = before.held | before.trained
    held_out_added = sum(rows[index].key not in asked_before for index in held)
    return Diff(
        added=added,
        removed=removed,
        relabelled=relabelled,
        held_out_added=held_out_added,
        held_out_relabelled=held_relabelled,
        held_out_missing=before.count_missing(rows) - dropped,
        by_label=tuple(by_label),
        held_out_dropped=dropped,
    )


def _answers_by_key(rows: Sequence[VersionRow]) -> defaultdict[bytes, Counter[str]]:
    """Counts the rows with each answer to each question. A question that is not asked has no answers."""
    answers: defaultdict[bytes, Counter[str]] = defaultdict(Counter)
    for row in rows:
        answers[row.key][row.answer] += 1
    return answers


OVERLAP = Rule("overlap", "blocks", "Delete the line: a test whose questions were trained on proves nothing.")
NO_HOLDOUT = Rule(
    "no_holdout",
    "blocks",
    "Add rows, at least three different questions for some label: without a test, nothing can be measured.",
)


ALL_LEARNT = Rule(
    "all_learnt",
    "blocks",
    "Add rows with at least three questions that no tuned model of this dataset was trained on. The other rows can't "
    "test such a model, because it has learnt their answers.",
)


@dataclass(frozen=True)
class Parts:
    """How rows are divided. `held` are the numbers of held-out rows, without copies. `earlier` are rows of an earlier
    holdout that are no longer in the file, and are stored after them. `copies` are rows with the question of a held-out
    row: holding them out as well would count evidence twice, and training on them would reveal the answers. `sealed`
    and `earlier_sealed` are the same for the sealed part."""

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


def labels_by_row(facts: RowFacts, rows: StoredRows, task: Task) -> list[str]:
    """Returns the label of each row, or "" for free text."""
    if task != "labels":
        return [""] * len(facts)
    labels: list[str] = []
    for row, label in enumerate(facts.given_labels()):
        if label is None:  # a long answer, which the first pass did not keep
            label = rows[row].answer.strip()
        labels.append(label)
    return labels


def draw_holdout(
    facts: RowFacts,
    labels: Sequence[str],
    seed: int,
    groups: Sequence[int] | None,
    findings: Findings,
    n_sealed: int = 0,
    learnt: frozenset[bytes] = frozenset(),
) -> Parts:
    """Draws the holdout of a first version, and about `n_sealed` further rows to be sealed. Neither has a question in
    `learnt`, which some model was trained on, or a near copy of one."""
    fresh = _find_fresh(facts.keys, groups, learnt)
    fresh_groups: Sequence[int] | None = None
    if groups:
        fresh_groups = at(fresh, groups)
    fresh_keys = at(fresh, facts.keys)
    fresh_labels = at(fresh, labels)
    drawn = draw_held_rows(fresh_keys, fresh_labels, seed, groups=fresh_groups)
    held = frozenset(at(drawn, fresh))
    if len(facts.keys) >= MIN_TRAINING_EXAMPLES and not held:
        rule = NO_HOLDOUT
        if len(fresh) < len(facts.keys):
            rule = ALL_LEARNT
        findings.add_for_file(rule, "No rows can be set aside as a test.")
    held_keys = {facts.keys[index] for index in held}
    rest = [index for index in fresh if facts.keys[index] not in held_keys]
    sealed = _draw_sealed(n_sealed, rest, facts.keys, labels, seed, groups)
    copies = _find_copies(held | sealed, facts.keys)
    return Parts(held, copies=copies, sealed=sealed)


def _find_fresh(
    keys: Sequence[bytes],
    groups: Sequence[int] | None,
    old_keys: frozenset[bytes],
) -> list[int]:
    """Returns the rows whose questions are not among the old ones, nor near copies of these."""
    fresh = [index for index, key in enumerate(keys) if key not in old_keys]
    if not groups:
        return fresh
    old_groups = set()
    for key, group in zip(keys, groups, strict=True):
        if key in old_keys:
            old_groups.add(group)
    return [index for index in fresh if groups[index] not in old_groups]


def _draw_sealed(
    wanted: int,
    rows: Sequence[int],
    keys: Sequence[bytes],
    labels: Sequence[str],
    seed: int,
    groups: Sequence[int] | None,
) -> frozenset[int]:
    """Draws about `wanted` of these rows, by the same rule as the holdout: at most a third of them."""
    if wanted <= 0:
        return frozenset()
    if groups is not None:
        groups = at(rows, groups)
    drawn = draw_held_rows(
        at(rows, keys),
        at(rows, labels),
        seed,
        groups=groups,
        share=0.0,
        at_least=wanted,
        at_most=wanted,
    )
    return frozenset(rows[index] for index in drawn)


def _find_copies(held: frozenset[int], keys: Sequence[bytes]) -> frozenset[int]:
    held_keys = {keys[index] for index in held}
    same_question = frozenset(index for index, key in enumerate(keys) if key in held_keys)
    return same_question - held


def split_against(frozen: Sequence[Example], facts: RowFacts, findings: Findings) -> Parts:
    """Keeps `frozen` as the holdout. All rows of the file are for training, and none may have one of its questions."""
    frozen_lines = [example.line for example in frozen]
    held = dict(zip(question_keys(frozen), frozen_lines, strict=True))
    for line, key in zip(facts.lines, facts.keys, strict=True):
        if key in held:
            fault = Fault(OVERLAP, f"asks what the holdout asks in line {held[key]}")
            findings.add_for_line(line, fault)
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
    learnt: frozenset[bytes] = frozenset(),
) -> Parts:
    """Keeps the holdout and the sealed part of the previous version. Adds a share of the new questions to the holdout,
    and fills the sealed part up to `n_sealed`. `keys` are the rows' question_keys. Rows that were set aside and are no
    longer in the file are dropped if they have a secret or personal data. Questions in `learnt`, which some model was
    trained on, are not new.

    Raises ValueError if a stored file of the previous version has changed.
    """
    stored = _read_previous(previous, task, learnt)
    missing = stored.find_missing(keys)
    sensitive = find_sensitive_rows(at(missing, stored.aside), presidio=presidio)
    dropped = {missing[index] for index in sensitive}
    stored_only = [index for index in missing if index not in dropped]
    earlier, earlier_sealed = stored.divide(stored_only)

    before = stored.rows
    remaining = [row for index, row in enumerate(before.holdout) if index not in dropped]
    rest = PreviousRows(before.train, tuple(remaining), learnt)
    current = to_version_rows(rows, task, keys)
    aside = continue_held_rows(
        current,
        rest,
        seed,
        groups,
        instead_of=len(dropped),
        draws_more=previous.draws_more,
    )

    continued = _find_sealed_rows(aside, keys, stored.sealed_keys, groups, before)
    fresh = _find_new_rows(current, before, groups, aside)
    lacking = n_sealed - len(continued) - len(earlier_sealed)
    labels = [row.label for row in current]
    drawn = _draw_sealed(lacking, fresh, keys, labels, seed, groups)
    held = aside - continued
    sealed = continued | drawn
    return Parts(
        held=held,
        earlier=earlier,
        diff=diff(current, before, held, sealed, task, len(dropped)),
        copies=_find_copies(held | sealed, keys),
        sealed=sealed,
        earlier_sealed=earlier_sealed,
    )


@dataclass(frozen=True)
class _StoredVersion:
    """The previous version as it is stored. `aside` are the rows that it set aside, held out or sealed, in the order of
    `rows.holdout`. `sealed_keys` are the questions that stay sealed."""

    rows: PreviousRows
    aside: tuple[Example, ...]
    sealed_keys: frozenset[bytes]

    def find_missing(self, keys: Iterable[bytes]) -> list[int]:
        """Returns the rows in `aside` whose questions are not among these."""
        current = set(keys)
        return [index for index, row in enumerate(self.rows.holdout) if row.key not in current]

    def divide(self, indices: Sequence[int]) -> tuple[tuple[Example, ...], tuple[Example, ...]]:
        """Returns these rows of `aside` without copies: those to hold out, and those that stay sealed."""
        rows = at(indices, self.rows.holdout)
        held: list[Example] = []
        sealed: list[Example] = []
        for number in _distinct_indices(rows):
            example = self.aside[indices[number]]
            if rows[number].key in self.sealed_keys:
                sealed.append(example)
            else:
                held.append(example)
        return tuple(held), tuple(sealed)


def _read_previous(previous: Previous, task: Task, learnt: frozenset[bytes]) -> _StoredVersion:
    action = "reading the previous version"
    trained = read_stored(previous.train, action)
    train = to_version_rows(trained, task)
    aside = read_stored(previous.holdout, action)
    sealed_keys: frozenset[bytes] = frozenset()
    if previous.sealed:
        sealed = read_stored(previous.sealed, action)
        aside = (*aside, *sealed)
        if not previous.is_opened:  # once opened, its rows are held out like all others
            sealed_keys = frozenset(question_keys(sealed))
    holdout = to_version_rows(aside, task)
    rows = PreviousRows(train, holdout, learnt)
    return _StoredVersion(rows, aside, sealed_keys)


def _find_sealed_rows(
    held: Collection[int],
    keys: Sequence[bytes],
    sealed_keys: Collection[bytes],
    groups: Sequence[int] | None,
    before: PreviousRows,
) -> frozenset[int]:
    """Returns the rows whose questions were sealed, and new rows that are near copies of these and were set aside with
    them."""
    sealed = {index for index in held if keys[index] in sealed_keys}
    if groups:
        near = {groups[index] for index, key in enumerate(keys) if key in sealed_keys}
        for index in held:
            is_new = keys[index] not in before.held
            if is_new and groups[index] in near:
                sealed.add(index)
    return frozenset(sealed)


def _find_new_rows(
    rows: Sequence[VersionRow],
    before: PreviousRows,
    groups: Sequence[int] | None,
    held: Collection[int],
) -> list[int]:
    """Returns the rows that are for training and whose questions are new, as are all their near copies."""
    keys = [row.key for row in rows]
    held_keys = {keys[index] for index in held}
    fresh = _find_fresh(keys, groups, before.held | before.trained)
    return [index for index in fresh if keys[index] not in held_keys]


def store_without_questions(folder: Path, sha256: str, keys: Collection[bytes]) -> str:
    """Writes a copy of FOLDER/SHA256.jsonl without the rows that have these question_keys, and returns its sha256.

    The remaining rows keep their bytes and order. The old file is not deleted.
    """
    path = folder / f"{sha256}.jsonl"
    rows = read_stored(path, "removing rows from")
    lines = [row.line for row in rows]
    keys_by_line = dict(zip(lines, question_keys(rows), strict=True))
    with path.open("rb") as old, ChatFile(folder) as new:
        for number, line in enumerate(old, 1):
            if keys_by_line.get(number) not in keys:
                new.write_part(line)
        return new.close()
