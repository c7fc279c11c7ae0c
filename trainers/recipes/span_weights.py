"""Scores spans of a text with the weights of a linear classifier on hashed features, without scikit-learn. numpy is
imported inside functions.

The features are hashed as scikit-learn's FeatureHasher does it, with MurmurHash3 (x86, 32 bits, seed 0; Austin Appleby,
public domain).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.evaluation.copied_values import COLUMNS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Words = NDArray[np.uint32]

_FIRST = 0xCC9E_2D51
_SECOND = 0x1B87_3593


@dataclass(frozen=True)
class SpanWeights:
    """`columns` are those with a weight, in ascending order."""

    columns: Any
    weights: Any
    bias: float

    def scores(self, described: Sequence[Mapping[str, float]]) -> Any:
        """Returns a number for each span with these features."""
        import numpy as np

        places: dict[str, int] = {}
        owners = []
        names = []
        values = []
        for owner, features in enumerate(described):
            for name, value in features.items():
                owners.append(owner)
                names.append(places.setdefault(name, len(places)))
                values.append(value)
        weights = self._weights_of(list(places))
        products = np.array(values) * weights[names]
        return np.bincount(owners, products, minlength=len(described)) + self.bias

    def _weights_of(self, names: Sequence[str]) -> Any:
        """Returns the weight of each feature; 0 for one whose column has none."""
        import numpy as np

        hashes = murmur_hashes([name.encode() for name in names])
        columns = np.abs(hashes) % COLUMNS
        places = np.searchsorted(self.columns, columns).clip(max=len(self.columns) - 1)
        is_weighted = self.columns[places] == columns
        signs = np.where(hashes >= 0, 1.0, -1.0)
        return np.where(is_weighted, signs * self.weights[places], 0.0)


def murmur_hashes(names: Sequence[bytes]) -> Any:
    """Returns MurmurHash3 of each name as a signed number of 32 bits, in int64 so that its absolute value exists."""
    import numpy as np

    lengths = np.array([len(name) for name in names])
    # Zeros fill up a name's last block, and a block more, which changes nothing in the hash.
    width = 4 * (int(lengths.max()) // 4 + 1)
    padded = b"".join(name.ljust(width, b"\0") for name in names)
    blocks = np.frombuffer(padded, "<u4").reshape(len(names), -1)
    full_blocks = lengths // 4
    hashes = np.zeros(len(names), np.uint32)
    for place in range(width // 4):
        mixed = _rotated(blocks[:, place] * np.uint32(_FIRST), 15) * np.uint32(_SECOND)
        xored = hashes ^ mixed
        stirred = _rotated(xored, 13) * np.uint32(5) + np.uint32(0xE654_6B64)
        hashes = np.where(place < full_blocks, stirred, hashes)
        # The bytes after the last full block are mixed in, but not stirred.
        hashes = np.where(place == full_blocks, xored, hashes)
    hashes ^= lengths.astype(np.uint32)
    hashes = (hashes ^ (hashes >> np.uint32(16))) * np.uint32(0x85EB_CA6B)
    hashes = (hashes ^ (hashes >> np.uint32(13))) * np.uint32(0xC2B2_AE35)
    hashes ^= hashes >> np.uint32(16)
    return hashes.view(np.int32).astype(np.int64)


def _rotated(words: Words, bits: int) -> Words:
    import numpy as np

    return (words << np.uint32(bits)) | (words >> np.uint32(32 - bits))
