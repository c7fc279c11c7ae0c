"""The second stage of a check, which takes longer: near copies, labels that are probably wrong, presidio if asked for.

Rows are read again by their places. numpy and scikit-learn are imported at use.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import overload

from trainers.dataset.findings import Findings
from trainers.dataset.rules.doubts import LabelErrors, check_doubts, judged, tell_unjudged
from trainers.dataset.rules.near import check_near, near_copies, question_text
from trainers.dataset.rules.presidio import check_presidio
from trainers.dataset.rules.shingles import sketches
from trainers.dataset.scan.stored import StoredRows
from trainers.dataset.values import Example, question_keys


@dataclass(frozen=True)
class Looked:
    """`groups[i]` is the first row that row i nearly repeats, itself where there is none; None: nobody looked.
    `label_errors` is None where there are no labels to judge."""

    found: tuple[Findings, ...] = ()
    groups: tuple[int, ...] | None = None
    label_errors: LabelErrors | None = None


NOT_LOOKED = Looked()


def look_deep(
    rows: StoredRows,
    labels: Sequence[str],
    holdout: Sequence[Example],
    seed: int,
    listed: int,
    tell: Callable[[str], None],
    *,
    presidio: bool,
) -> Looked:
    """`labels` has one for each row, all empty for free text. Rows near those of a frozen `holdout` are found,
    too."""
    if not len(rows):
        return NOT_LOOKED
    near, doubted, personal = Findings(listed), Findings(listed), Findings(listed)
    tell(f"Looking for near copies among {len(rows):,} rows")
    groups = _near(rows, labels, holdout, near)
    tell("Looking for labels that are probably wrong")
    errors = _doubt(rows, labels, seed, doubted) if len(set(labels)) > 1 else None
    if presidio:
        tell("Presidio looks for personal data")
        check_presidio(rows, rows.facts.lines, seed, personal)
    return Looked((near, doubted, personal), groups, errors)


def _near(
    rows: StoredRows, labels: Sequence[str], held: Sequence[Example], found: Findings
) -> tuple[int, ...]:
    texts = _Questions(held, rows)
    sketched = [sketches(map(question_text, held))] if held else []
    sketched.append(rows.facts.take_sketches())
    near = near_copies(texts, [*question_keys(held), *rows.facts.keys], sketched)
    answers = [*(example.answer.strip() for example in held), *labels] if any(labels) else None
    check_near(near, [*(example.line for example in held), *rows.facts.lines], answers, found, held=len(held))
    return tuple(group - len(held) for group in near.groups[len(held) :])


def _doubt(rows: StoredRows, labels: Sequence[str], seed: int, found: Findings) -> LabelErrors | None:
    """What the rest of the rows say of each row's label."""
    from trainers.measuring.out_of_fold import out_of_fold

    asked = judged(labels, rows.facts.keys, seed)
    if len({labels[row] for row in asked.rows}) < 2:
        tell_unjudged(asked, found)
        return None
    names, scores = out_of_fold([rows[row] for row in asked.rows], seed)
    lines = [rows.facts.lines[row] for row in asked.rows]
    return check_doubts(lines, [labels[row] for row in asked.rows], asked, names, scores, found)


class _Questions(Sequence[str]):
    """What each row asks, read when it is wanted: those held out, then the file's."""

    def __init__(self, held: Sequence[Example], rows: StoredRows) -> None:
        self._held, self._rows = held, rows

    def __len__(self) -> int:
        return len(self._held) + len(self._rows)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [self[i] for i in range(*place.indices(len(self)))]
        row = place - len(self._held)
        return question_text(self._rows[row] if row >= 0 else self._held[place])
