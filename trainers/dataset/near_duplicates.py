"""Finds questions that say nearly the same: MinHash in bands proposes pairs, an exact comparison of their shingles (all
runs of four characters) confirms each one.

Two texts are near where they share at least 0.8 of their shingles (Jaccard), with case, punctuation and runs of spaces
evened out. Shingles work for texts of three words and for languages without spaces. 24 bands of 4 miss one pair in
300,000 at that bound. Where very many rows are alike, each is compared with its closest neighbours only, and beyond a
bound a finding says so. numpy and rensa are imported at use.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

from trainers.dataset.checks import Fault, Findings, Rule
from trainers.dataset.rows import INSTRUCTION_ROLES, Example

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Sketches = NDArray[np.uint32]
    Units = NDArray[np.uint16]
    Numbers = NDArray[np.int64]

SHINGLE_LENGTH = 4  # UTF-16 units, which is 8 bytes: a shingle is a number of 64 bits, and no two share one
SKETCH_SIZE = 96
NO_SHINGLE = (1 << 32) - 1
_SEED = 20_240_229
_BATCH_BYTES = 200_000  # what stays in a core's cache: a third faster than 2 MB
_UNSEEN = frozenset({"P", "Z", "C"})


def compute_sketches(texts: Iterable[str]) -> Sketches:
    """Returns each text's MinHash, texts x SKETCH_SIZE. The share of equal places estimates how similar two texts are,
    with a standard error of 0.04 at 0.8. A text without a shingle has NO_SHINGLE everywhere."""
    places = array("I")
    sketch_into(places, texts)
    return to_sketch_array(places)


def sketch_into(places: array[int], texts: Iterable[str]) -> None:
    """Appends the texts' sketches to `places`. Takes the texts one by one."""
    from rensa import RMinHash

    def sketch(batch: list[bytes]) -> None:
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(*_hashes(batch), SKETCH_SIZE, _SEED)
        for row in matrix.to_rows():
            places.fromlist(row)

    batch: list[bytes] = []
    size = 0
    for text in texts:
        batch.append(_evened(text))
        size += len(batch[-1])
        if size > _BATCH_BYTES:
            sketch(batch)
            batch, size = [], 0
    if batch:
        sketch(batch)


def to_sketch_array(places: array[int]) -> Sketches:
    import numpy as np

    return np.frombuffer(places, dtype=np.uint32).reshape(-1, SKETCH_SIZE)


def shingles(texts: Sequence[str]) -> list[frozenset[int]]:
    """Returns each text's shingles: none for a text of fewer than two characters."""
    if not texts:
        return []
    hashes, offsets = _hashes([_evened(text) for text in texts])
    return [frozenset(hashes[a:b].tolist()) for a, b in pairwise(offsets.tolist())]


def similarity(shingles: frozenset[int], other: frozenset[int]) -> float:
    """Returns the Jaccard similarity, from 0 to 1; 0 where a text has no shingle."""
    common = len(shingles & other)
    return common / (len(shingles) + len(other) - common) if common else 0.0


def _evened(text: str) -> bytes:
    """Returns UTF-16 between two spaces; case and punctuation are still there."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return f" {text} ".encode("utf-16-le", "surrogatepass")


def _hashes(batch: list[bytes]) -> tuple[Hashes, Hashes]:
    """Returns the shingles of all texts one after another, mixed, and the offsets where each text's begin, with the end
    of the last one's."""
    import numpy as np

    # Case goes, what is not seen becomes a space, and of several spaces one stays.
    ends = np.cumsum([len(units) // 2 for units in batch])
    units = _small_letters()[np.frombuffer(b"".join(batch), dtype="<u2")]
    stored = units != 32
    stored[1:] |= units[:-1] != 32
    stored[np.concatenate(([0], ends[:-1]))] = True  # each text's own space before it
    units, ends = units[stored], np.cumsum(stored)[ends - 1]

    starts = np.ones(len(units), dtype=bool)
    for before in range(1, SHINGLE_LENGTH):
        starts[np.maximum(ends - before, 0)] = False  # a shingle doesn't go on into the next text
    count = max(len(units) - SHINGLE_LENGTH + 1, 0)
    hashes = np.ndarray(count, "<u8", units.tobytes(), strides=(2,))[starts[:count]]
    hashes *= np.uint64(0x9E37_79B9_7F4A_7C15)
    hashes ^= hashes >> np.uint64(32)
    lengths = np.maximum(np.diff(ends, prepend=0) - SHINGLE_LENGTH + 1, 0)
    return hashes, np.concatenate(([0], np.cumsum(lengths))).astype(np.uint64)


@cache
def _small_letters() -> Units:
    """Returns for each UTF-16 unit its small letter, or a space where it is punctuation, a separator or a control."""
    import numpy as np

    table = np.arange(1 << 16, dtype=np.uint16)
    for unit in range(1 << 16):
        if 0xD800 <= unit < 0xE000:
            continue  # half of a character
        if unicodedata.category(chr(unit))[0] in _UNSEEN:
            table[unit] = 32
        elif len(small := chr(unit).casefold()) == 1:
            table[unit] = ord(small)
    return table


class UnionFind:
    """Joins numbers below `count` into sets; at first each is a set by itself."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def first(self, number: int) -> int:
        """Returns the smallest number of the set that `number` is in."""
        above = self._above
        while above[number] != number:
            above[number] = above[above[number]]
            number = above[number]
        return number

    def join(self, number: int, other: int) -> bool:
        """Joins two sets; returns False where they were one already."""
        smaller, greater = sorted((self.first(number), self.first(other)))
        self._above[greater] = smaller
        return smaller != greater


NEAR_SIMILARITY = 0.8
_BANDS = 24
_NEIGHBOURS = 4  # that a row is compared with in each band, beside the band's first
_LIKELY = 62  # equal places of 96: near copies have fewer once in 10,000
_COMPARED_PER_ROW, _COMPARED_AT_LEAST = 2, 20_000  # of 200 rows all pairs, in a tenth of a second
_TRIED = 8
_AT_ONCE = 4_096

NEAR_DUPLICATE = Rule(
    "near_duplicate", "warns", "Keep one of them, or reword: nearly equal rows teach little and cost tokens."
)
NEAR_CONTRADICTION = Rule(
    "near_contradiction", "warns", "Decide which answer is right, or make the difference plainer."
)
NEAR_OVERLAP = Rule(
    "near_overlap", "warns", "Delete the line: nearly a test question makes the result look too good."
)
NOT_ALL_COMPARED = Rule(
    "near_not_all_compared", "tells", "Delete near duplicates that are listed, if any are, and check again."
)


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two rows by their place, from 0, the earlier one first, and their similarity from 0 to 1."""

    earlier: int
    later: int
    similarity: float


@dataclass(frozen=True)
class NearCopies:
    """`groups[i]` is the first row that row i asks the same as or nearly so, itself where there is none; two rows of a
    group may be near by way of others. `pairs` has one pair at most for each row as the later one, none for copies.
    `all_compared` is False where so many looked alike that some were left out."""

    groups: tuple[int, ...]
    pairs: tuple[NearPair, ...]
    all_compared: bool


def question_text(example: Example) -> str:
    """Returns all before the answer, instructions left aside: what `question_key` is made of."""
    return "\n".join(m.content for m in example.prompt if m.role not in INSTRUCTION_ROLES)


def find_near_copies(
    texts: Sequence[str], keys: Sequence[bytes], sketched: Sequence[Sketches] | None = None
) -> NearCopies:
    """Finds near copies. `keys` are the rows' question_keys; of rows that share one, which are copies, only the first
    is compared. The groups are the same in whatever order the rows are.

    `texts` may be lazy: it is read once in order, unless `sketched` has all rows' sketches already, one part after the
    other, and then row by row for those that look alike.
    """
    first: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    rows = [first[key] for key in sorted(first)]
    search = _Search(texts, rows)
    parts = [compute_sketches(texts[row] for row in range(len(texts)))] if sketched is None else sketched
    for pairs in _candidates(_bands(parts, rows)):
        search.compare(pairs)
    groups = search.groups()
    firsts = {row: group[0] for group in groups for row in group}
    return NearCopies(
        groups=tuple(firsts[first[key]] for key in keys),
        pairs=tuple(search.pairs(groups)),
        all_compared=search.left > 0,
    )


def report_near_pairs(
    near: NearCopies,
    lines: Sequence[int],
    answers: Sequence[str | bytes] | None,
    findings: Findings,
    *,
    held: int = 0,
) -> None:
    """Reports the pairs. `lines` and `answers` are the rows', in the order in which they were compared; without answers
    no contradiction is reported. The first `held` rows are those of an earlier holdout, with its own lines."""
    for pair in near.pairs:
        if pair.later < held:
            continue
        line = lines[pair.earlier]
        if pair.earlier < held:
            fault = Fault(NEAR_OVERLAP, f"asks nearly what the holdout asks in line {line}")
        elif answers is not None and answers[pair.earlier] != answers[pair.later]:
            fault = Fault(NEAR_CONTRADICTION, f"says nearly the same as line {line} and has another answer")
        else:
            fault = Fault(NEAR_DUPLICATE, f"says nearly the same as line {line}")
        findings.add_for_line(lines[pair.later], fault)
    if not near.all_compared:
        text = "So many rows look alike that not all of them were compared with each other."
        findings.add_for_file(NOT_ALL_COMPARED, text)


@dataclass(frozen=True)
class _Bands:
    """`numbers` has one for each of a row's bands, rows x _BANDS; `low` the low bits of each sketch, rows x
    SKETCH_SIZE, which are enough to count equal places by. `filled` are the rows that have a shingle at all."""

    numbers: NDArray[np.uint64]
    low: NDArray[np.uint8]
    filled: Numbers


def _bands(parts: Sequence[Sketches], rows: Sequence[int]) -> _Bands:
    """Computes the bands of these rows. Some thousand rows at a time: the sketches of all are four times as large."""
    import numpy as np

    full = parts[0] if len(parts) == 1 else np.concatenate(parts)
    places = np.array(rows, dtype=np.int64)
    numbers = np.empty((len(rows), _BANDS), dtype=np.uint64)
    low, filled = np.empty((len(rows), SKETCH_SIZE), dtype=np.uint8), np.empty(len(rows), dtype=bool)
    for begin in range(0, len(rows), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        sketched = full[places[part]]
        low[part], filled[part] = sketched, (sketched != NO_SHINGLE).any(axis=1)

        # Two bands hardly ever share a number, and where they do, that costs a comparison only.
        by_band = sketched.reshape(len(sketched), _BANDS, SKETCH_SIZE // _BANDS)
        mixed = np.zeros(by_band.shape[:2], dtype=np.uint64)
        for place in range(by_band.shape[2]):
            mixed = (mixed ^ by_band[:, :, place]) * np.uint64(0x9E37_79B9_7F4A_7C15)
            mixed ^= mixed >> np.uint64(29)
        numbers[part] = mixed
    return _Bands(numbers, low, np.flatnonzero(filled))


def _candidates(bands: _Bands) -> Iterator[Numbers]:
    """Yields pairs, n x 2, of rows that are equal in a band and in at least _LIKELY places; band after band."""
    import numpy as np

    for number in range(_BANDS):
        # Only rows that have their number in common with another go on: few, where rows are not alike.
        ordered = np.sort(bands.numbers[bands.filled, number])
        shared = ordered[1:][ordered[1:] == ordered[:-1]]
        rows = bands.filled[np.isin(bands.numbers[bands.filled, number], shared)]
        band, beside = bands.numbers[rows, number], bands.numbers[rows, (number + 1) % _BANDS]
        order = np.lexsort((beside, band))
        for neighbours in _neighbours(rows[order], band[order]):
            pairs = np.sort(neighbours, axis=1)
            parts = [pairs[begin : begin + 10_000] for begin in range(0, len(pairs), 10_000)]
            equal = [
                np.count_nonzero(bands.low[part[:, 0]] == bands.low[part[:, 1]], axis=1) for part in parts
            ]
            yield pairs[np.concatenate(equal) >= _LIKELY] if parts else pairs


def _neighbours(rows: Numbers, band: NDArray[np.uint64]) -> Iterator[Numbers]:
    """Yields pairs of rows of one band: each with the first, and with some next to it. Both arrays are in the band's
    order."""
    import numpy as np

    starts = np.flatnonzero(np.diff(band, prepend=~band[:1]))
    firsts = np.repeat(rows[starts], np.diff(starts, append=len(rows)))
    yield np.stack((firsts, rows), axis=1)[firsts != rows]
    for step in range(1, min(_NEIGHBOURS + 1, len(rows))):
        same = band[step:] == band[:-step]
        yield np.stack((rows[:-step][same], rows[step:][same]), axis=1)


class _Search:
    """Joins the rows that are near indeed. `rows` are places in `texts`; candidates are pairs of places in `rows`."""

    def __init__(self, texts: Sequence[str], rows: Sequence[int]) -> None:
        self._texts, self._rows = texts, rows
        self._number = {row: number for number, row in enumerate(rows)}
        self._sets = UnionFind(len(rows))
        self._compared: set[tuple[int, int]] = set()
        self._joined: dict[int, NearPair] = {}
        self.left = max(_COMPARED_PER_ROW * len(rows), _COMPARED_AT_LEAST) + 1

    def compare(self, candidates: Numbers) -> None:
        """Compares candidates that are not joined yet and were not compared before."""
        import numpy as np

        # Of many rows that are alike nearly all pairs are joined already: those are dropped at once.
        if len(candidates) >= 1_000:
            firsts = np.array([self._sets.first(number) for number in range(len(self._rows))])
            candidates = candidates[firsts[candidates[:, 0]] != firsts[candidates[:, 1]]]
        for pair in self._compared_pairs(self._open(candidates)):
            if pair.similarity >= NEAR_SIMILARITY:
                self._sets.join(self._number[pair.earlier], self._number[pair.later])
                self._joined.setdefault(pair.later, pair)

    def _open(self, candidates: Numbers) -> Iterator[tuple[int, int]]:
        for number, other in candidates.tolist():
            if self.left == 0:
                return
            if self._sets.first(number) != self._sets.first(other) and (number, other) not in self._compared:
                self.left -= 1
                self._compared.add((number, other))
                yield self._rows[number], self._rows[other]

    def groups(self) -> list[list[int]]:
        """Returns groups of places in `texts`, each in order, and the groups by their first."""
        groups: dict[int, list[int]] = defaultdict(list)
        for number, row in enumerate(self._rows):
            groups[self._sets.first(number)].append(row)
        return sorted(sorted(group) for group in groups.values())

    def pairs(self, groups: Iterable[Sequence[int]]) -> list[NearPair]:
        """Returns for each row but a group's first the earliest that it is near; of a large group some are tried."""
        unpaired = {later: group for group in groups for later in group[1:]}
        paired: dict[int, NearPair] = {}
        for place in range(_TRIED):
            tried = [
                (g[place], later) for later, g in unpaired.items() if len(g) > place and g[place] < later
            ]
            paired |= {
                pair.later: pair for pair in self._compared_pairs(tried) if pair.similarity >= NEAR_SIMILARITY
            }
            unpaired = {later: group for later, group in unpaired.items() if later not in paired}
        paired |= {later: self._joined[later] for later in unpaired if later in self._joined}
        return [paired[later] for later in sorted(paired)]

    def _compared_pairs(self, pairs: Iterable[tuple[int, int]]) -> Iterator[NearPair]:
        """Compares pairs of places in `texts`, as many at once as keep numpy busy and memory small."""
        for batch in self._batches(pairs):
            rows = list({row for pair in batch for row in pair})
            shingles_by_row = dict(zip(rows, shingles([self._texts[row] for row in rows]), strict=True))
            for row, other in batch:
                share = similarity(shingles_by_row[row], shingles_by_row[other])
                yield NearPair(min(row, other), max(row, other), share)

    def _batches(self, pairs: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        batch: list[tuple[int, int]] = []
        size = 0
        for row, other in pairs:
            batch.append((row, other))
            size += len(self._texts[row]) + len(self._texts[other])
            if size > 100_000:
                yield batch
                batch, size = [], 0
        if batch:
            yield batch
