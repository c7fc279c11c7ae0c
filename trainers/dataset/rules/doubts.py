"""Labels that are probably wrong: confident learning over what the other rows say of each row.

The probabilities come from outside (rung 0's, out of fold), so that nothing here knows a classifier. First
`judged` says which rows to ask them for. cleanlab is imported at use: it takes two seconds.
Method: Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, 2021.
"""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trainers.dataset.findings import Fault, Findings, Rule
from trainers.dataset.values import shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Probabilities = NDArray[np.float64]

FEWEST = 5
MOST = 20_000
# Confident learning alone doubts a fifth of a file that rung 0 finds hard. With 4 to 5% of the labels made wrong,
# this bound raises the share of real errors among the doubted from 12 to 42% (945 tickets) and from 73 to 87%
# (5,000 rows of banking77).
HARDLY_BELIEVED = 0.02

LABEL_DOUBTED = Rule("label_doubted", "warns", "Look at the row, and correct its label if it is wrong.")
FEW_TO_JUDGE = Rule("labels_not_judged", "tells", "Add rows for these labels, or check their rows by hand.")
SAMPLE_JUDGED = Rule("labels_sampled", "tells", "Correct what is listed and check again, or check a part.")


@dataclass(frozen=True)
class Judged:
    """The rows to ask about, by place and in order. `rare` rows have a label with fewer than FEWEST rows."""

    rows: tuple[int, ...]
    rare: int
    sampled_from: int | None


@dataclass(frozen=True, slots=True)
class Doubt:
    """`confidence` in the given label, from 0 to 1; `likely` is the label of rows like it."""

    row: int
    given: str
    likely: str
    confidence: float


def judged(labels: Sequence[str], keys: Sequence[bytes], seed: int, most: int = MOST) -> Judged:
    """Of more than `most` rows a sample, by a hash of seed and question: the same in any order of the rows."""
    counts = Counter(labels)
    rows = [row for row, label in enumerate(labels) if counts[label] >= FEWEST]
    rare = len(labels) - len(rows)
    if len(rows) <= most:
        return Judged(tuple(rows), rare, None)
    salt = str(seed).encode()[:64]
    drawn = sorted(rows, key=lambda row: hashlib.blake2b(keys[row], key=salt, digest_size=16).digest())[:most]
    counts = Counter(labels[row] for row in drawn)
    kept = tuple(sorted(row for row in drawn if counts[labels[row]] >= FEWEST))
    return Judged(kept, rare + most - len(kept), len(rows))


def doubts(labels: Sequence[str], names: Sequence[str], probabilities: Probabilities) -> tuple[Doubt, ...]:
    """The least believed first. `probabilities` has a row for each label given and a column for each name."""
    import numpy as np

    if len(set(labels)) < 2:
        return ()
    number = {name: place for place, name in enumerate(names)}
    given = np.array([number[label] for label in labels])
    likely = probabilities.argmax(axis=1)
    return tuple(
        Doubt(row, names[given[row]], names[likely[row]], float(probabilities[row, given[row]]))
        for row in _issues(given, probabilities)
        if likely[row] != given[row] and probabilities[row, given[row]] < HARDLY_BELIEVED
    )


def _issues(given: NDArray[np.int64], probabilities: Probabilities) -> list[int]:
    """Rows that another label claims with at least its usual confidence. cleanlab's own default rounds a few
    errors among few rows down to none."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of labels with few rows; FEWEST has said so
        from cleanlab.filter import find_label_issues

        ranked = find_label_issues(
            given,
            probabilities,
            filter_by="confident_learning",
            return_indices_ranked_by="self_confidence",
            n_jobs=1,
        )
    return [int(row) for row in ranked]


def check_doubts(
    lines: Sequence[int],
    labels: Sequence[str],
    rows: Judged,
    names: Sequence[str],
    probabilities: Probabilities,
    found: Findings,
) -> None:
    """`lines` and `labels` are of the rows judged, in their order. Shows labels, which FEWEST rows share, and
    no texts."""
    for doubt in doubts(labels, names, probabilities):
        given, likely = shown(doubt.given, 40), shown(doubt.likely, 40)
        said = f"is labelled '{given}', but rows like it are '{likely}'"
        found.at(lines[doubt.row], Fault(LABEL_DOUBTED, said))
    tell_unjudged(rows, found)


def tell_unjudged(rows: Judged, found: Findings) -> None:
    """Which rows nobody judged."""
    if rows.rare:
        have = "row has a label" if rows.rare == 1 else "rows have labels"
        said = f"{rows.rare:,} {have} with fewer than {FEWEST} rows: too few to tell whether they are right."
        found.about_file(FEW_TO_JUDGE, said, rows.rare)
    if rows.sampled_from is not None:
        said = f"The labels of {len(rows.rows):,} of {rows.sampled_from:,} rows were judged, a fixed sample."
        found.about_file(SAMPLE_JUDGED, said, len(rows.rows))
