"""What people found better beside what a judge model found better, and beside each other. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Protocol

from bot.decisions.judges import LEAST_LABELS, TRUSTED_FROM
from trainers.measuring.agreement import Agreement, agreement
from trainers.measuring.reading import Choice

TURNED: Mapping[Choice, Choice] = {"first": "second", "second": "first", "tie": "tie"}


class Label(Protocol):
    """One person's choice on one row, in the order in which the two answers were shown."""

    @property
    def row(self) -> int: ...

    @property
    def first_arm(self) -> str: ...

    @property
    def person(self) -> str: ...

    @property
    def choice(self) -> Choice: ...


@dataclass(frozen=True)
class People:
    """`first` and so on count choices for the arm that was measured as the better one, for the other, for neither.

    `beside_judge` is over the labels on rows where the judge has a verdict, `between` over rows that two people
    judged, pair by pair of people; each None below ten.
    """

    labels: int
    people: int
    first: int
    second: int
    same: int
    beside_judge: Agreement | None
    between: Agreement | None

    @property
    def kappa(self) -> float | None:
        """Of the judge."""
        return self.beside_judge.kappa if self.beside_judge else None

    @property
    def distrusts(self) -> bool:
        return self.kappa is not None and self.kappa < TRUSTED_FROM


def gathered(labels: Sequence[Label], first_arm: str, judged: Mapping[int, Choice | None]) -> People:
    """`first_arm` is the better arm's key; `judged` the judge's verdicts by row, for that arm or the other."""
    said = [
        (one.row, one.person, one.choice if one.first_arm == first_arm else TURNED[one.choice])
        for one in labels
    ]
    choices = [choice for _, _, choice in said]
    beside = [(verdict, choice) for row, _, choice in said if (verdict := judged.get(row)) is not None]
    return People(
        labels=len(said),
        people=len({person for _, person, _ in said}),
        first=choices.count("first"),
        second=choices.count("second"),
        same=choices.count("tie"),
        beside_judge=_agreement(beside),
        between=_agreement(_pairs(said)),
    )


def _agreement(pairs: Sequence[tuple[Choice, Choice]]) -> Agreement | None:
    if len(pairs) < LEAST_LABELS:
        return None
    return agreement([one for one, _ in pairs], [other for _, other in pairs])


def _pairs(said: Sequence[tuple[int, str, Choice]]) -> list[tuple[Choice, Choice]]:
    """Who is named first is settled by name: kappa is the same with both turned, and must not hang on who was
    quicker."""
    by_row: dict[int, list[tuple[str, Choice]]] = defaultdict(list)
    for row, person, choice in said:
        by_row[row].append((person, choice))
    return [(one[1], other[1]) for each in by_row.values() for one, other in combinations(sorted(each), 2)]
