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

Places = tuple[int, ...]


@dataclass(frozen=True)
class ScoredRows:
    """Held-out rows without copies: their positions in the file, and a hash of each question with its answer."""

    positions: Places = ()
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


def find_common_places(files: Path, scored: Sequence[ScoredOn]) -> tuple[Places, ...]:
    """Returns, for each candidate, the places among its scores of the rows that all of them answered, in one order. All
    are empty if they share no row, or if a file that would tell is gone."""
    first = scored[0]
    if all((each.holdout, each.measured.n) == (first.holdout, first.measured.n) for each in scored):
        everywhere = tuple(range(first.measured.n))
        return tuple(everywhere for _ in scored)
    place_by_key = [_place_by_key(files, each) for each in scored]
    # In the order of the first candidate's rows.
    common = [key for key in place_by_key[0] if all(key in places for places in place_by_key)]
    return tuple(tuple(places[key] for key in common) for places in place_by_key)


def _place_by_key(files: Path, scored: ScoredOn) -> dict[bytes, int]:
    keys = load_scored_rows(files, scored.holdout).keys
    if len(keys) != scored.measured.n:
        return {}
    return {key: place for place, key in enumerate(keys)}


# A file's name is the hash of its content, so it never has to be read again. Only hashes of its rows are cached, so
# that no customer's words stay in memory.
@lru_cache(maxsize=16)
def _read_scored_rows(holdout: Path) -> ScoredRows:
    rows = read(holdout, holdout.name).examples
    positions = tuple(distinct_example_indices(rows))
    texts = (f"{row.prompt[-1].content}\0{row.answer}" for row in at(positions, rows))
    keys = tuple(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest() for text in texts)
    return ScoredRows(positions, keys)
