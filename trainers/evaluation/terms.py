"""Scores texts with the weights of a linear classifier on TF-IDF features, without scikit-learn: words, pairs of words
and pieces of words, as `tfidf.features` has them. numpy is imported inside functions.

This file is copied into exports, so it must not import anything of this project.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Scores = NDArray[np.float64]

WORDS = r"(?u)\w+|[^\w\s]"
PIECES = (2, 5)  # letters
_WORD = re.compile(WORDS)


@dataclass(frozen=True)
class TermWeights:
    """`words` and `pieces` have the row of each term in `weights` (terms x columns) and in `rarities`."""

    words: Mapping[str, int]
    pieces: Mapping[str, int]
    rarities: Any
    weights: Any
    biases: Any

    def scores(self, texts: Sequence[str]) -> Scores:
        """Returns texts x columns."""
        import numpy as np

        scores = np.empty((len(texts), len(self.biases)))
        for row, text in enumerate(texts):
            scores[row] = self._scores_of(text.lower())
        return scores

    def _scores_of(self, text: str) -> Any:
        result = self.biases
        terms = ((self.words, words_and_pairs(text)), (self.pieces, pieces_of(text, PIECES)))
        for rows, of_text in terms:
            if rows:
                counts = Counter(map(rows.get, of_text))
                result = result + self._sum(counts)
        return result

    def _sum(self, counts: Counter[int | None]) -> Any:
        """Returns what the terms in these rows, with their numbers, add to the scores."""
        import numpy as np

        del counts[None]  # terms that the training rows don't have
        if not counts:
            return 0.0
        rows = np.array(list(counts))
        times = np.array(list(counts.values()))
        values = (1 + np.log(times)) * self.rarities[rows]
        values /= np.sqrt(values @ values)
        return values @ self.weights[rows]


def read_scorer(arrays: Mapping[str, Any]) -> TermWeights:
    """Reads the arrays of a classifier.npz."""
    words = unpack_texts(arrays["words"])
    pieces = unpack_texts(arrays["pieces"])
    return TermWeights(
        words={word: row for row, word in enumerate(words)},
        pieces={piece: len(words) + row for row, piece in enumerate(pieces)},
        rarities=arrays["rarities"],
        weights=arrays["weights"],
        biases=arrays["biases"],
    )


def unpack_texts(packed: Any) -> list[str]:
    joined: str = packed.tobytes().decode()
    if not joined:
        return []
    return joined.split("\n")


def words_and_pairs(text: str) -> list[str]:
    words = _WORD.findall(text)
    pairs = [f"{word} {after}" for word, after in pairwise(words)]
    return words + pairs


def pieces_of(text: str, sizes: tuple[int, int]) -> list[str]:
    """Returns the runs of characters of each word, including the spaces around it. `sizes` are the fewest and the most
    characters of a run."""
    shortest, longest = sizes
    pieces: list[str] = []
    for word in text.split():
        spaced = f" {word} "
        for size in range(shortest, longest + 1):
            if len(spaced) <= size:
                pieces.append(spaced)  # once, whatever size it falls short of
                break
            pieces += [spaced[at : at + size] for at in range(len(spaced) - size + 1)]
    return pieces
