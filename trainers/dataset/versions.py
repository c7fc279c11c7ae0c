"""Later versions of a dataset: the holdout of the version before stays the holdout, so that results compare.

Only questions that are new are drawn, by the rule of splits.py. A held-out question that the new file no longer has
stays held out, unless it holds a secret or personal data: it was taken out for that. One with another answer is held
out with its new answer.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from trainers.dataset.checks import MINIMUM, Fault, Findings, Rule
from trainers.dataset.reader import read
from trainers.dataset.row_facts import Facts
from trainers.dataset.rows import Example, Limits, Task, at, distinct_places, normalised, question_keys
from trainers.dataset.sensitive_data import sensitive_rows
from trainers.dataset.splits import choose, strata_labels
from trainers.dataset.stored_rows import ChatFile, StoredRows

HOLDOUT_SHARE, HOLDOUT_MOST = 0.2, 1000
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
class VersionRow:
    """What of a row matters here. `answer` is any text that equal answers share; `label` its stratum."""

    key: bytes
    label: str
    answer: str


@dataclass(frozen=True)
class PreviousRows:
    """The version before: all rows, and which questions are on which side."""

    train: tuple[VersionRow, ...]
    holdout: tuple[VersionRow, ...]

    @cached_property
    def held(self) -> frozenset[bytes]:
        return frozenset(row.key for row in self.holdout)

    @cached_property
    def trained(self) -> frozenset[bytes]:
        return frozenset(row.key for row in self.train) - self.held


def read_stored(path: Path, doing: str) -> tuple[Example, ...]:
    """Rows of a file that `store_chat` wrote. ValueError, which says what was being done, where it is another."""
    if path.stat().st_size == 0:
        return ()  # so few rows that none were held out
    reading = read(path, path.name, limits=_OUR_OWN)
    if reading.refused:
        raise ValueError(f"{doing} '{path.name}': it is not the file that was written")
    return reading.examples


def rows_of(
    examples: Sequence[Example], task: Task, keys: Sequence[bytes] | None = None
) -> tuple[VersionRow, ...]:
    labels = strata_labels(examples, task)
    row_keys = question_keys(examples) if keys is None else keys
    return tuple(
        VersionRow(key, label, normalised(example.answer))
        for example, key, label in zip(examples, row_keys, labels, strict=True)
    )


def held_rows(
    rows: Sequence[VersionRow],
    before: PreviousRows,
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
    room = max(HOLDOUT_MOST, len(before.holdout)) - len(held) - _missing_rows(rows, before)
    drawn = choose(
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


def _old_groups(
    rows: Sequence[VersionRow], before: PreviousRows, groups: Sequence[int] | None
) -> Mapping[int, bool]:
    """Of groups with an old question: whether all its old questions are held out."""
    old: dict[int, bool] = {}
    for row, group in zip(rows, groups or (), strict=groups is not None):
        if row.key in before.held or row.key in before.trained:
            old[group] = old.get(group, True) and row.key in before.held
    return old


def _follows(row: VersionRow, group: int, before: PreviousRows, old: Mapping[int, bool]) -> bool:
    return row.key not in before.trained and old.get(group, False)


def _missing(rows: Iterable[VersionRow], before: PreviousRows) -> frozenset[bytes]:
    return before.held - {row.key for row in rows}


def _missing_rows(rows: Iterable[VersionRow], before: PreviousRows) -> int:
    missing = _missing(rows, before)
    return sum(row.key in missing for row in before.holdout)


def diff(
    rows: Sequence[VersionRow], before: PreviousRows, held: frozenset[int], task: Task, dropped: int = 0
) -> Diff:
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


def _answers(rows: Iterable[VersionRow]) -> defaultdict[bytes, Counter[str]]:
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


def _by_label(old: Iterable[VersionRow], new: Iterable[VersionRow]) -> tuple[tuple[str, int, int], ...]:
    before, after = Counter(row.label for row in old), Counter(row.label for row in new)
    return tuple((label, before[label], after[label]) for label in sorted(before.keys() | after.keys()))


OVERLAP = Rule("overlap", "blocks", "Delete the line: who trains on the test's questions measures nothing.")
NO_HOLDOUT = Rule(
    "no_holdout",
    "blocks",
    "Add rows, three different questions for a label at least: without a test nothing is known.",
)


@dataclass(frozen=True)
class Parts:
    """`held` are places of rows, no two of them copies. `kept` are rows of an earlier holdout that the file
    doesn't have, to be held out after them. `copies` are places of rows that ask what a held-out row asks: as
    further held-out rows they would be evidence counted twice, and for training they would give the answer away."""

    held: frozenset[int]
    kept: tuple[Example, ...] = ()
    diff: Diff | None = None
    copies: frozenset[int] = frozenset()

    @property
    def not_trained(self) -> frozenset[int]:
        return self.held | self.copies


def labels_of(facts: Facts, rows: StoredRows, task: Task) -> list[str]:
    """For each row its label; all empty for free text."""
    if task != "labels":
        return [""] * len(facts)
    return [
        rows[i].answer.strip() if label is None else label for i, label in enumerate(facts.given_labels())
    ]


def draw_holdout(
    facts: Facts, labels: Sequence[str], seed: int, groups: Sequence[int] | None, findings: Findings
) -> Parts:
    held = choose(facts.keys, labels, seed, groups=groups)
    if len(facts.keys) >= MINIMUM and not held:
        findings.about_file(NO_HOLDOUT, "No row can be set aside as the test.")
    return Parts(held, copies=_copies(held, facts.keys))


def _copies(held: frozenset[int], keys: Sequence[bytes]) -> frozenset[int]:
    held_keys = {keys[place] for place in held}
    return frozenset(place for place, key in enumerate(keys) if key in held_keys and place not in held)


def split_against(frozen: Sequence[Example], facts: Facts, findings: Findings) -> Parts:
    """`frozen` is the holdout since earlier: every row is for training, and none may ask what it asks."""
    held = dict(zip(question_keys(frozen), (example.line for example in frozen), strict=True))
    for line, key in zip(facts.lines, facts.keys, strict=True):
        if key in held:
            findings.at(line, Fault(OVERLAP, f"asks what the holdout asks in line {held[key]}"))
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
) -> Parts:
    """The holdout of the version before stays held out; a share of the new questions joins it. `keys` are the rows'
    question_keys. A held-out row that the file no longer has is dropped where it holds a secret or personal data.

    ValueError where a file of it is not what was written.
    """
    doing = "reading the version before"
    train, holdout = rows_of(read_stored(previous.train, doing), task), read_stored(previous.holdout, doing)
    before = PreviousRows(train, rows_of(holdout, task))
    now = rows_of(rows, task, keys)
    current_keys = set(keys)
    missing = [place for place, row in enumerate(before.holdout) if row.key not in current_keys]
    sensitive = sensitive_rows([holdout[place] for place in missing], presidio=presidio)
    dropped = {missing[place] for place in sensitive}
    rest = PreviousRows(train, tuple(row for place, row in enumerate(before.holdout) if place not in dropped))
    held = held_rows(now, rest, seed, groups, instead_of=len(dropped))
    stay = [place for place in missing if place not in dropped]
    one_each = distinct_places(
        [before.holdout[place].key for place in stay], [before.holdout[place].answer for place in stay]
    )
    examples = at(at(one_each, stay), holdout)
    return Parts(held, examples, diff(now, before, held, task, len(dropped)), _copies(held, keys))


def store_without(folder: Path, sha256: str, keys: Collection[bytes]) -> str:
    """Write the part FOLDER/SHA256.jsonl again without the rows that ask these questions (their `question_key`).

    Returns the sha256 of the new file. The rows that stay keep their bytes and order; the old file stays too.
    """
    path = folder / f"{sha256}.jsonl"
    rows = read_stored(path, "taking rows out of")
    asking = dict(zip((row.line for row in rows), question_keys(rows), strict=True))
    with path.open("rb") as old, ChatFile(folder) as new:
        for number, line in enumerate(old, 1):
            if asking.get(number) not in keys:
                new.write_part(line)
        return new.close()
