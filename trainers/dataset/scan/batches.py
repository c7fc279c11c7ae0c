"""Many texts at once: those of one message of many rows, and all of them as one to search. Knows nothing of what
is searched for."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import TypeVar

Value = TypeVar("Value")
_LOOK = 32


@dataclass(frozen=True, slots=True)
class Column:
    """One message's text in each of many rows. `texts` are `raws`, which are UTF-8, decoded. `which` says for each
    row which of them it has; None where each row has one of its own."""

    raws: Sequence[bytes]
    texts: Sequence[str]
    which: Sequence[int] | None

    def by_row(self, values: Sequence[Value]) -> Sequence[Value]:
        """`values` has one for each of `raws`."""
        if self.which is None:
            return values
        if len(values) == 1:
            return [values[0]] * len(self.which)
        return list(map(values.__getitem__, self.which))

    def cut(self, rows: int) -> Column:
        """The first ones."""
        if self.which is None:
            return Column(self.raws[:rows], self.texts[:rows], None)
        return Column(self.raws, self.texts, self.which[:rows])

    def rows_of(self, text: int) -> Sequence[int]:
        return (
            [text] if self.which is None else [row for row, which in enumerate(self.which) if which == text]
        )


def column_of(raws: Sequence[bytes]) -> Column:
    """UnicodeDecodeError where one is no UTF-8. Equal texts are looked for where the first ones have some."""
    first = raws[:_LOOK]
    if len(set(first)) == len(first):
        return Column(raws, list(map(bytes.decode, raws)), None)
    place = {raw: number for number, raw in enumerate(dict.fromkeys(raws))}
    return Column(list(place), list(map(bytes.decode, place)), list(map(place.__getitem__, raws)))


class Joined:
    """Texts as one, a zero byte between them."""

    def __init__(self, raws: Sequence[bytes]) -> None:
        self.raws, self.whole = raws, b"\0".join(raws)

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate([len(raw) + 1 for raw in self.raws[:-1]], initial=0))

    def holding(self, search: Callable[[int], int]) -> list[int]:
        """Places of texts. `search` gives where in `whole` something stands, at or after a place; -1: nowhere."""
        places: list[int] = []
        at = search(0)
        while at >= 0:
            place = bisect_right(self._starts, at) - 1
            places.append(place)
            at = search(self._starts[place + 1]) if place + 1 < len(self._starts) else -1
        return places
