"""Numbers from 0 that belong together, joined pair by pair (union-find). Knows no rows."""

from __future__ import annotations


class Sets:
    """At first each of `count` numbers stands alone."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def first(self, number: int) -> int:
        """The smallest number that `number` belongs together with."""
        above = self._above
        while above[number] != number:
            above[number] = above[above[number]]
            number = above[number]
        return number

    def join(self, one: int, other: int) -> bool:
        """False where they belonged together already."""
        smaller, greater = sorted((self.first(one), self.first(other)))
        self._above[greater] = smaller
        return smaller != greater
