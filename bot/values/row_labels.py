"""Tallies people's answers to a batch of rows: the label of each row, what changes, and how far people agree. Pure."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

from trainers.evaluation.statistics import Agreement, agreement

if TYPE_CHECKING:  # storage opens the database's library, which the command line need not load
    from storage.records import LabellingRow, RowLabel

DROPPED = ""  # can't be mistaken for a label: no label is empty
# Rows in a batch: an hour of work at most.
USUAL_ROWS = 20
MOST_ROWS = 200


@dataclass(frozen=True)
class BatchOutcome:
    """`answered` of `rows` rows have an answer. `decided` maps each row's number to the label that most people gave, or
    to None if most want to drop the row. The `disputed` rows have no majority and are left alone.

    `stay` rows keep the label they had. `changes` rows of the next version differ from this one. `between` compares
    people who answered the same rows, pair by pair; it is None if no row has two answers.
    """

    rows: int
    answered: int
    people: int
    decided: Mapping[int, str | None]
    disputed: int
    stay: int
    changed: int
    added: int
    dropped: int
    changes: int
    between: Agreement | None


def tally_answers(rows: Sequence[LabellingRow], answers: Sequence[RowLabel]) -> BatchOutcome:
    by_row: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for answer in answers:
        label = answer.label
        if label is None:
            label = DROPPED
        by_row[answer.place].append((answer.person, label))
    majorities = {}
    for number, of_row in by_row.items():
        majorities[number] = _majority([label for _, label in of_row])
    decided = {number: label or None for number, label in majorities.items() if label is not None}
    outcome = BatchOutcome(
        rows=len(rows),
        answered=len(by_row),
        people=len({answer.person for answer in answers}),
        decided=decided,
        disputed=len(majorities) - len(decided),
        stay=0,
        changed=0,
        added=0,
        dropped=0,
        changes=0,
        between=_between(list(by_row.values())),
    )
    return _count_decided(outcome, rows, decided)


def outcome_in_version(
    outcome: BatchOutcome, rows: Sequence[LabellingRow], overtaken: Collection[str], already: Collection[str]
) -> BatchOutcome:
    """Returns what a batch changes in a version that may be newer than the one its rows were chosen from: rows whose
    keys are `overtaken` are left alone, and those in `already` had the decided label before."""
    decided = {}
    for row in rows:
        if row.place in outcome.decided:
            decided[row.place] = outcome.decided[row.place]
    counted = []
    for row in rows:
        if row.key in overtaken:
            decided.pop(row.place, None)
        elif row.key in already and decided[row.place] is None:
            # Somebody else has dropped it.
            decided.pop(row.place)
        elif row.key in already:
            counted.append(replace(row, given=decided[row.place]))
        else:
            counted.append(row)
    return _count_decided(outcome, counted, decided)


def _count_decided(
    outcome: BatchOutcome, rows: Sequence[LabellingRow], decided: Mapping[int, str | None]
) -> BatchOutcome:
    counts: Counter[str] = Counter()
    changes = 0
    for row in rows:
        if row.place not in decided:
            continue
        before = row.given
        label = decided[row.place]
        if label != before:
            changes += 1
        if label is None:
            counts["dropped"] += 1
        elif before is None:
            counts["added"] += 1
        elif label == before:
            counts["stay"] += 1
        else:
            counts["changed"] += 1
    return replace(
        outcome,
        decided=decided,
        stay=counts["stay"],
        changed=counts["changed"],
        added=counts["added"],
        dropped=counts["dropped"],
        changes=changes,
    )


def _majority(labels: Sequence[str]) -> str | None:
    """Returns the most frequent label, None if two are equally frequent."""
    (most_frequent, count), *others = Counter(labels).most_common(2)
    if others:
        ((_, next_count),) = others
        if count == next_count:
            return None
    return most_frequent


def _between(answers: Sequence[Sequence[tuple[str, str]]]) -> Agreement | None:
    """Compares the answers of each two people on a row, ordered by name as in rules/judge_agreement.py."""
    labels = []
    others = []
    for of_row in answers:
        for (_, label), (_, other) in combinations(sorted(of_row), 2):
            labels.append(label)
            others.append(other)
    if not labels:
        return None
    return agreement(labels, others)
