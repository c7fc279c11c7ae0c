"""Guesses at how an answer goes on, from what the same model has answered before.

A pass over one token and a pass over a few take about as long, since both move all weights. So the guessed tokens are
read in the pass that the newest token needs anyway, and those that the model would have said itself are kept:
speculative decoding (Leviathan et al. 2023), with a memory in the place of the smaller model. A label is said in two
passes, however many tokens it has. Answers are the same with and without, but for rounding below float32. Pure.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence

LONGEST = 16  # tokens of an answer that is worth remembering: labels and short phrases come again
MOST_BEGINNINGS = 4096  # some 200 kB; then the memory begins anew
END = -1

Ids = tuple[int, ...]


class Drafts:
    """Of one model. Counts what followed on each beginning of an answer."""

    def __init__(self) -> None:
        self._next: defaultdict[Ids, Counter[int]] = defaultdict(Counter)

    def remember(self, answer: Sequence[int]) -> None:
        """`answer`: its tokens without the one that ends it."""
        if len(answer) > LONGEST:
            return
        if len(self._next) >= MOST_BEGINNINGS:
            self._next.clear()
        for place, token in enumerate((*answer, END)):
            self._next[tuple(answer[:place])][token] += 1

    def guess(self, begun: Sequence[int]) -> Ids:
        """What follows on `begun`, as far as one continuation was more often right than wrong."""
        whole, start = tuple(begun), len(begun)
        while (token := self._likeliest(whole)) is not None:
            whole += (token,)
        return whole[start:]

    def _likeliest(self, begun: Ids) -> int | None:
        followed = self._next.get(begun)
        if followed is None:
            return None
        ((token, times),) = followed.most_common(1)
        return token if token != END and 2 * times > followed.total() else None


def agreeing(guess: Sequence[int], chosen: Sequence[int]) -> int:
    """How many tokens of `guess` are those that were `chosen` at their places."""
    pairs = enumerate(zip(guess, chosen, strict=False))
    return next((place for place, (guessed, own) in pairs if guessed != own), len(guess))
