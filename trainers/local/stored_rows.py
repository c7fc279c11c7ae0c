"""Rows of token ids in an Arrow table: 4 bytes and a bit for each token, where Python lists take 55 bytes.

A row becomes lists only when it is read, and these are freed with it. If the table is a file, it is mapped into memory,
so that the processes of a machine share it. Knows nothing of chats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

R = TypeVar("R")
Numbers = npt.NDArray[np.int64]
# Makes a row of its line, its token ids, and whether each of these is learnt.
Make = Callable[[int, Sequence[int], Sequence[bool]], R]


@dataclass(frozen=True, eq=False)
class StoredRows(Sequence[R], Generic[R]):
    """`table` has the columns line, ids and supervised, and `places` are positions in it. For each row, `lengths` are
    the tokens that are read, `firsts` the first learnt one, and `ends` the one after the last learnt one, or 0 if
    nothing is learnt."""

    table: pa.Table
    make: Make[R]
    places: Numbers
    lengths: Numbers
    firsts: Numbers
    ends: Numbers

    @classmethod
    def of(cls, table: pa.Table, make: Make[R]) -> StoredRows[R]:
        parts = [_measure_rows(batch["ids"], batch["supervised"]) for batch in table.to_batches()]
        nothing = np.zeros((3, 0), np.int64)
        lengths, firsts, ends = np.concatenate([nothing, *parts], axis=1)
        return cls(table, make, np.arange(len(lengths)), lengths, firsts, ends)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> R: ...

    @overload
    def __getitem__(self, index: slice) -> StoredRows[R]: ...

    def __getitem__(self, index: int | slice) -> R | StoredRows[R]:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        return self._read(int(self.places[index]), int(self.lengths[index]))

    def __iter__(self) -> Iterator[R]:
        return map(self._read, self.places.tolist(), self.lengths.tolist())

    def take(self, order: npt.NDArray[Any]) -> StoredRows[R]:
        """Returns the rows at these indices in this order, or those where a mask is True."""
        numbers = (self.places, self.lengths, self.firsts, self.ends)
        places, lengths, firsts, ends = (each[order] for each in numbers)
        return StoredRows(self.table, self.make, places, lengths, firsts, ends)

    def cut_to(self, lengths: Numbers) -> StoredRows[R]:
        """Returns the same rows, of which so many tokens are read."""
        return StoredRows(self.table, self.make, self.places, lengths, self.firsts, self.ends)

    @property
    def lines(self) -> Numbers:
        return np.asarray(self.table["line"].to_numpy()[self.places], np.int64)

    @property
    def largest_id(self) -> int:
        """The largest token id of the whole table."""
        return max(_largest(batch["ids"]) for batch in self.table.to_batches())

    def _read(self, place: int, length: int) -> R:
        ids = self.table["ids"][place].values.to_numpy()
        supervised = self.table["supervised"][place].values.to_numpy(zero_copy_only=False)
        line: int = self.table["line"][place].as_py()
        return self.make(line, ids[:length].tolist(), supervised[:length].tolist())


def _measure_rows(ids: pa.ListArray, supervised: pa.ListArray) -> Numbers:
    """Returns lengths, firsts and ends (3, rows)."""
    lengths = np.diff(ids.offsets.to_numpy())
    starts = supervised.offsets.to_numpy()
    first = starts[0]
    inside = supervised.values.slice(first, starts[-1] - first)
    places = first + np.flatnonzero(inside.to_numpy(zero_copy_only=False))
    # In `places`, each row's learnt tokens lie between these two.
    begins = np.searchsorted(places, starts[:-1])
    ends = np.searchsorted(places, starts[1:])
    has_learnt = begins < ends
    numbers = np.zeros((3, len(lengths)), np.int64)
    numbers[0] = lengths
    numbers[1, has_learnt] = places[begins[has_learnt]] - starts[:-1][has_learnt]
    numbers[2, has_learnt] = places[ends[has_learnt] - 1] - starts[:-1][has_learnt] + 1
    return numbers


def _largest(ids: pa.ListArray) -> int:
    flat = ids.flatten().to_numpy()
    return int(flat.max(initial=0))
