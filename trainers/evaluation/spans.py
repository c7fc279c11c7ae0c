"""The runs of words of a text that could be a field's value, and the choice of one by weights, without scikit-learn.
numpy is imported inside functions.

The features of a span are hashed as scikit-learn's FeatureHasher does it, with MurmurHash3 (x86, 32 bits, seed 0;
Austin Appleby, public domain). This file is copied into exports, so it must not import anything of this project.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words = NDArray[np.uint32]

LONGEST_VALUE = 4  # words
MOST_WORDS = 300  # of a text; what comes later is not looked at
COLUMNS = 2**18
_WORD = re.compile(r"\S+")
_AROUND = " \t\n\"'`*“”‘’«»()[]{}<>,;:!?|."
_FIRST = 0xCC9E_2D51
_SECOND = 0x1B87_3593


@dataclass(frozen=True)
class Span:
    """A run of words of a text, from word `first` to word `last`. `value` has no punctuation around it."""

    value: str
    first: int
    last: int


@dataclass(frozen=True)
class Spans:
    """The spans of a text that could be a value, with the text's words."""

    words: tuple[str, ...]
    spans: tuple[Span, ...]

    @cached_property
    def bare(self) -> tuple[str, ...]:
        return tuple(word.lower().strip(_AROUND) for word in self.words)

    def describe(self, span: Span) -> dict[str, float]:
        """The span's features: its shape, its own words, and what stands around it."""
        shape = _shape(span.value)
        before = self._word(span.first - 1)
        second_before = self._word(span.first - 2)
        after = self._word(span.last + 1)
        second_after = self._word(span.last + 2)
        first_word = self.words[span.first]
        last_word = self.words[span.last]
        opening = _punctuation(first_word[:1])
        closing = _punctuation(last_word[-1:])
        names = [
            f"shape {shape}",
            f"length {span.last - span.first}",
            f"before {before}",
            f"before {second_before} {before}",
            f"after {after}",
            f"after {after} {second_after}",
            f"before {before}, shape {shape}",
            f"after {after}, shape {shape}",
            f"shape before {_shape(before)}, shape {shape}",
            f"shape after {_shape(after)}, shape {shape}",
            f"opening {opening}",
            f"closing {closing}",
        ]
        own_words = self.bare[span.first : span.last + 1]
        names += [f"word {word}" for word in own_words]
        described = dict.fromkeys(names, 1.0)
        # The name is hashed into the weights of stored classifiers, so it stays.
        described["place"] = span.first / len(self.words)
        return described

    def _word(self, index: int) -> str:
        if index < 0:
            return "<start>"
        if index >= len(self.words):
            return "<end>"
        return self.bare[index]


def find_spans(text: str) -> Spans:
    words = _WORD.findall(text)[:MOST_WORDS]
    spans = []
    for first in range(len(words)):
        end = min(first + LONGEST_VALUE, len(words))
        for last in range(first, end):
            run = words[first : last + 1]
            value = " ".join(run).strip(_AROUND)
            if value:
                spans.append(Span(value, first, last))
    return Spans(tuple(words), tuple(spans))


class SpanScorer(Protocol):
    def scores(self, described: Sequence[Mapping[str, float]]) -> Any:
        """Returns a number for each span with these features, above 0 if it is likely to be the value."""


Scorer = TypeVar("Scorer", bound=SpanScorer, covariant=True)


@dataclass(frozen=True)
class Copier(Generic[Scorer]):
    """Copies one field. `absent` is its value, as JSON, where no span is likely to be it; None if it is never absent.
    `share` is the share of training rows that a copier gets right without having seen them."""

    scorer: Scorer
    absent: str | None
    is_number: bool
    share: float = 0.0

    def values(self, texts: Sequence[Spans], otherwise: Sequence[str]) -> list[str]:
        """Returns the field's value in each text, as JSON; `otherwise` where nothing can be copied."""
        copied_values = []
        for text, instead in zip(texts, otherwise, strict=True):
            copied = self._value(text)
            if copied is None:
                copied = instead
            copied_values.append(copied)
        return copied_values

    def _value(self, text: Spans) -> str | None:
        if not text.spans:
            return self.absent
        described = [text.describe(span) for span in text.spans]
        scores = self.scorer.scores(described)
        best = int(scores.argmax())
        is_unlikely = scores[best] < 0
        if is_unlikely and self.absent is not None:
            return self.absent
        best_span = text.spans[best]
        return _as_json(best_span.value, is_number=self.is_number)


def _as_json(value: str, *, is_number: bool) -> str | None:
    """None if the span is not the number that it should be."""
    if not is_number:
        return json.dumps(value, ensure_ascii=False)
    try:
        number = float(value)
    except ValueError:
        return None
    if not abs(number) < 1e15:  # neither infinite nor nan
        return None
    if number.is_integer():  # JSON would tell 12.0 from 12
        return json.dumps(int(number))
    return json.dumps(number)


def _punctuation(character: str) -> str:
    if character not in _AROUND:
        return ""
    return character


def _shape(text: str) -> str:
    """'A-0' for 'A-1042', 'a.a@a.a' for an e-mail address."""
    with_letters = re.sub(r"[^\W\d_]+", _shape_of_letters, text)
    with_digits = re.sub(r"\d+", "0", with_letters)
    return with_digits[:24]


def _shape_of_letters(run: re.Match[str]) -> str:
    is_capitalised = run[0][0].isupper()
    if is_capitalised:
        return "A"
    return "a"


@dataclass(frozen=True)
class SpanWeights:
    """`columns` are those with a weight, in ascending order."""

    columns: Any
    weights: Any
    bias: float

    def scores(self, described: Sequence[Mapping[str, float]]) -> Any:
        """Returns a number for each span with these features."""
        import numpy as np

        # Most spans share features: each is hashed once.
        index_of: dict[str, int] = {}
        owners = []
        indices = []
        values = []
        for owner, features in enumerate(described):
            for name, value in features.items():
                index = index_of.setdefault(name, len(index_of))
                owners.append(owner)
                indices.append(index)
                values.append(value)
        weights = self._weights_of(list(index_of))
        products = np.array(values) * weights[indices]
        sums = np.bincount(owners, products, minlength=len(described))
        return sums + self.bias

    def _weights_of(self, names: Sequence[str]) -> Any:
        """Returns the weight of each feature; 0 for one whose column has none."""
        import numpy as np

        encoded = [name.encode() for name in names]
        hashes = murmur_hashes(encoded)
        # As FeatureHasher does it: the hash names the column, and its sign says whether the feature adds or subtracts.
        columns = np.abs(hashes) % COLUMNS
        last = len(self.columns) - 1
        positions = np.searchsorted(self.columns, columns).clip(max=last)
        is_weighted = self.columns[positions] == columns
        signs = np.where(hashes >= 0, 1.0, -1.0)
        signed_weights = signs * self.weights[positions]
        return np.where(is_weighted, signed_weights, 0.0)


def read_weights(arrays: Mapping[str, Any], field: int) -> SpanWeights:
    """Reads the weights of the field with this index from the arrays of a classifier.npz."""
    return SpanWeights(
        arrays[f"copier_{field}_columns"],
        arrays[f"copier_{field}_weights"],
        float(arrays[f"copier_{field}_bias"]),
    )


def murmur_hashes(names: Sequence[bytes]) -> Any:
    """Returns MurmurHash3 of each name as a signed number of 32 bits, in int64 so that its absolute value exists."""
    import numpy as np

    lengths = np.array([len(name) for name in names])
    # Zeros fill up a name's last block, and a block more, which changes nothing in the hash.
    longest = int(lengths.max())
    width = 4 * (longest // 4 + 1)
    padded = b"".join(name.ljust(width, b"\0") for name in names)
    numbers = np.frombuffer(padded, "<u4")
    blocks = numbers.reshape(len(names), -1)  # names x blocks of four bytes
    full_blocks = lengths // 4
    hashes = np.zeros(len(names), np.uint32)
    for number in range(width // 4):
        block = blocks[:, number]
        mixed = _rotated(block * np.uint32(_FIRST), 15) * np.uint32(_SECOND)
        xored = hashes ^ mixed
        stirred = _rotated(xored, 13) * np.uint32(5) + np.uint32(0xE654_6B64)
        hashes = np.where(number < full_blocks, stirred, hashes)
        # The bytes after the last full block are mixed in, but not stirred.
        hashes = np.where(number == full_blocks, xored, hashes)
    hashes ^= lengths.astype(np.uint32)
    hashes = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EB_CA6B)
    hashes = (hashes ^ (hashes >> np.uint32(13))) * np.uint32(0xC2B2_AE35)
    hashes ^= hashes >> np.uint32(16)
    return hashes.view(np.int32).astype(np.int64)


def _rotated(words: Words, bits: int) -> Words:
    import numpy as np

    high = words << np.uint32(bits)
    low = words >> np.uint32(32 - bits)
    return high | low
