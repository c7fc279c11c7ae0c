"""The held-out rows that scores count, each by a hash of its question with its answer, so that scores of different
versions of a dataset can be compared on the rows that they share. Copies of a row count once. Writes nothing."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from trainers.dataset import read
from trainers.dataset.rows import at, distinct_example_indices
from trainers.evaluation.results import MeasuredCandidate

Positions = tuple[int, ...]


@dataclass(frozen=True)
class ScoredRows:
    """Held-out rows without copies: their positions in the file, and a hash of each question with its answer."""

    positions: Positions = ()
    keys: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class ScoredOn:
    """A measured candidate, and the holdout (its sha256) on which it was scored."""

    holdout: str
    measured: MeasuredCandidate


def load_scored_rows(files: Path, holdout: str) -> ScoredRows:
    """Returns the rows of a holdout that are scored, none if its file is gone."""
    path = files / f"{holdout}.jsonl"
    if not path.is_file():
        return ScoredRows()
    return _read_scored_rows(path)


def find_common_positions(files: Path, scored: Sequence[ScoredOn]) -> tuple[Positions, ...]:
    """Returns, for each candidate, the positions among its scores of the rows that all of them answered, in one order.
    All are empty if they share no row, or if a file that would tell is gone."""
    if _are_on_the_same_rows(scored):
        everywhere = tuple(range(scored[0].measured.n))
        return tuple(everywhere for _ in scored)
    first, *others = (_position_by_key(files, each) for each in scored)
    # In the order of the first candidate's rows.
    common = [key for key in first if all(key in positions for positions in others)]
    in_one_order = []
    for positions in (first, *others):
        in_one_order.append(tuple(positions[key] for key in common))
    return tuple(in_one_order)


def _are_on_the_same_rows(scored: Sequence[ScoredOn]) -> bool:
    holdouts = {each.holdout for each in scored}
    counts = {each.measured.n for each in scored}
    return len(holdouts) == 1 and len(counts) == 1


def _position_by_key(files: Path, scored: ScoredOn) -> dict[bytes, int]:
    keys = load_scored_rows(files, scored.holdout).keys
    # The file is gone, or other rows were scored than those that count now.
    if len(keys) != scored.measured.n:
        return {}
    return {key: position for position, key in enumerate(keys)}


# A file's name is the hash of its content, so it never has to be read again. Only hashes of its rows are cached, so
# that no customer's words stay in memory.
@lru_cache(maxsize=16)
def _read_scored_rows(holdout: Path) -> ScoredRows:
    rows = read(holdout, holdout.name).examples
    positions = tuple(distinct_example_indices(rows))
    keys = []
    for row in at(positions, rows):
        text = f"{row.prompt[-1].content}\0{row.answer}"
        keys.append(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest())
    return ScoredRows(positions, tuple(keys))
