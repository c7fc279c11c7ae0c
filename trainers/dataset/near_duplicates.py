"""Finds questions that say nearly the same: MinHash in bands proposes pairs, an exact comparison of their
shingles confirms each one, so none is made up.

Two texts are near where they share at least 0.8 of all their runs of four characters (Jaccard), with case,
punctuation and runs of spaces evened out. Runs of characters work for texts of three words and for languages without
spaces. Pairs are found by MinHash in 24 bands of 4, which miss one pair in 300,000 at that bound, and then compared
exactly. Where very many rows are alike, each is compared with its closest neighbours only, and beyond a bound a
finding says so. numpy and rensa are imported at use.
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
from trainers.dataset.rows import Example

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Hashes = NDArray[np.uint64]
    Sketches = NDArray[np.uint32]
    Units = NDArray[np.uint16]

SHINGLE_LENGTH = 4  # UTF-16 units, which is 8 bytes: a run is a number of 64 bits, and no two runs share one
SKETCH_SIZE = 96
NO_SHINGLE = (1 << 32) - 1
_SEED = 20_240_229
_BATCH_BYTES = 200_000  # what stays in a core's cache: a third faster than 2 MB
_UNSEEN = frozenset({"P", "Z", "C"})


def sketches(texts: Iterable[str]) -> Sketches:
    """MinHash of each text, a row of SKETCH places. The share of equal places estimates how alike two texts are, with
    a standard error of 0.04 at 0.8. Takes the texts one by one. A text without a run has NO_RUN everywhere."""
    places = array("I")
    sketch_into(places, texts)
    return as_sketches(places)


def sketch_into(places: array[int], texts: Iterable[str]) -> None:
    """The same, after what is in `places` already."""
    from rensa import RMinHash

    for batch in _batches(texts):
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(*_hashes(batch), SKETCH_SIZE, _SEED)
        for row in matrix.to_rows():
            places.fromlist(row)


def as_sketches(places: array[int]) -> Sketches:
    import numpy as np

    return np.frombuffer(places, dtype=np.uint32).reshape(-1, SKETCH_SIZE)


def shingles(texts: Sequence[str]) -> list[frozenset[int]]:
    """Each text's. Empty for a text of fewer than two characters."""
    if not texts:
        return []
    hashes, offsets = _hashes([_evened(text) for text in texts])
    return [frozenset(hashes[a:b].tolist()) for a, b in pairwise(offsets.tolist())]


def similarity(values: frozenset[int], other: frozenset[int]) -> float:
    """From 0 to 1. Texts without a run are like no other."""
    common = len(values & other)
    return common / (len(values) + len(other) - common) if common else 0.0


def _batches(texts: Iterable[str]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for text in texts:
        units = _evened(text)
        batch.append(units)
        size += len(units)
        if size > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _evened(text: str) -> bytes:
    """UTF-16 between two spaces; case and punctuation are still there."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    return f" {text} ".encode("utf-16-le", "surrogatepass")


def _hashes(batch: list[bytes]) -> tuple[Hashes, Hashes]:
    """The runs of all texts one after another, mixed, and where each text's begin, and the last one's end."""
    import numpy as np

    ends = np.cumsum([len(units) // 2 for units in batch])
    units = _small_letters()[np.frombuffer(b"".join(batch), dtype="<u2")]
    stored = units != 32
    stored[1:] |= units[:-1] != 32
    stored[np.concatenate(([0], ends[:-1]))] = True  # each text's own space before it
    units, ends = units[stored], np.cumsum(stored)[ends - 1]
    starts = np.ones(len(units), dtype=bool)
    for before in range(1, SHINGLE_LENGTH):
        starts[np.maximum(ends - before, 0)] = False  # a run doesn't go on into the next text
    count = max(len(units) - SHINGLE_LENGTH + 1, 0)
    hashes = np.ndarray(count, "<u8", units.tobytes(), strides=(2,))[starts[:count]]
    hashes *= np.uint64(0x9E37_79B9_7F4A_7C15)
    hashes ^= hashes >> np.uint64(32)
    lengths = np.maximum(np.diff(ends, prepend=0) - SHINGLE_LENGTH + 1, 0)
    return hashes, np.concatenate(([0], np.cumsum(lengths))).astype(np.uint64)


@cache
def _small_letters() -> Units:
    """For each UTF-16 unit its small letter, or a space where it is punctuation, a separator or a control."""
    import numpy as np

    return np.array([_small_letter(unit) for unit in range(1 << 16)], dtype=np.uint16)


def _small_letter(unit: int) -> int:
    if 0xD800 <= unit < 0xE000:
        return unit  # half of a character
    if unicodedata.category(chr(unit))[0] in _UNSEEN:
        return 32
    small = chr(unit).casefold()
    return ord(small) if len(small) == 1 else unit


class UnionFind:
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

    def join(self, value: int, other: int) -> bool:
        """False where they belonged together already."""
        smaller, greater = sorted((self.first(value), self.first(other)))
        self._above[greater] = smaller
        return smaller != greater


if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Numbers = NDArray[np.int64]

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
    """Two rows by their place, from 0, the earlier one first. `alike` is from NEAR to 1."""

    earlier: int
    later: int
    alike: float


@dataclass(frozen=True)
class NearCopies:
    """`groups[i]` is the first row that row i asks the same as or nearly so, itself where there is none; two rows
    of a group may be near by way of others. `pairs` has one pair at most for each row as the later one, none
    for copies. `all_compared` is False where so many looked alike that some were left out."""

    groups: tuple[int, ...]
    pairs: tuple[NearPair, ...]
    all_compared: bool


def question_text(example: Example) -> str:
    """All before the answer, instructions left aside: what `question_key` is made of."""
    return "\n".join(m.content for m in example.prompt if m.role not in ("system", "developer"))


def find_near_copies(
    texts: Sequence[str], keys: Sequence[bytes], sketched: Sequence[Sketches] | None = None
) -> NearCopies:
    """`keys` are the rows' question_keys; rows that share one are copies, and only the first is looked at.

    `texts` may be lazy: it is read once in order, unless `sketched` has all rows' sketches already, one part after
    the other, and then row by row for those that look alike. The groups are the same in whatever order the rows are.
    """
    first: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    rows = [first[key] for key in sorted(first)]
    search, bands = _Search(texts, rows), _bands(texts, rows, sketched)
    for pairs in _candidates(bands):
        search.compare(pairs)
    groups = search.groups()
    firsts = {row: group[0] for group in groups for row in group}
    return NearCopies(
        groups=tuple(firsts[first[key]] for key in keys),
        pairs=tuple(search.pairs(groups)),
        all_compared=search.left > 0,
    )


def check_near(
    near: NearCopies,
    lines: Sequence[int],
    answers: Sequence[str | bytes] | None,
    findings: Findings,
    *,
    held: int = 0,
) -> None:
    """`lines` and `answers` are the rows', in the order in which they were compared; without answers no
    contradiction is looked for. The first `held` rows are those of an earlier holdout, with its own lines."""
    for pair in near.pairs:
        if pair.later >= held:
            fault = _fault(pair, lines[pair.earlier], answers, held)
            findings.at(lines[pair.later], fault)
    if not near.all_compared:
        text = "So many rows look alike that not all of them were compared with each other."
        findings.about_file(NOT_ALL_COMPARED, text)


def _fault(pair: NearPair, line: int, answers: Sequence[str | bytes] | None, held: int) -> Fault:
    if pair.earlier < held:
        return Fault(NEAR_OVERLAP, f"asks nearly what the holdout asks in line {line}")
    if answers is not None and answers[pair.earlier] != answers[pair.later]:
        return Fault(NEAR_CONTRADICTION, f"says nearly the same as line {line} and has another answer")
    return Fault(NEAR_DUPLICATE, f"says nearly the same as line {line}")


@dataclass(frozen=True)
class _Bands:
    """Of each row: a number for each of its _BANDS bands, and the low bits of its sketch, which are enough to count
    equal places by. `some` are the rows that have a run of letters at all."""

    numbers: NDArray[np.uint64]
    low: NDArray[np.uint8]
    some: Numbers


def _bands(texts: Sequence[str], rows: Sequence[int], sketched: Sequence[Sketches] | None) -> _Bands:
    """Worked out some thousand rows at a time: the sketches of all are four times as large."""
    import numpy as np

    parts = [sketches(texts[row] for row in range(len(texts)))] if sketched is None else sketched
    full = parts[0] if len(parts) == 1 else np.concatenate(parts)
    wanted = np.array(rows, dtype=np.int64)
    numbers = np.empty((len(rows), _BANDS), dtype=np.uint64)
    low, has_runs = np.empty((len(rows), SKETCH_SIZE), dtype=np.uint8), np.empty(len(rows), dtype=bool)
    for begin in range(0, len(rows), _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        of = full[wanted[part]]
        numbers[part], low[part], has_runs[part] = _numbered(of), of, (of != NO_SHINGLE).any(axis=1)
    return _Bands(numbers, low, np.flatnonzero(has_runs))


def _candidates(bands: _Bands) -> Iterator[Numbers]:
    """Two columns of places that are equal in a band and in at least _LIKELY places; band after band."""
    import numpy as np

    for number in range(_BANDS):
        rows = _with_others(bands.some, bands.numbers[bands.some, number])
        band, beside = bands.numbers[rows, number], bands.numbers[rows, (number + 1) % _BANDS]
        order = np.lexsort((beside, band))
        for pairs in _neighbours(rows[order], band[order]):
            yield _likely(bands.low, np.sort(pairs, axis=1))


def _with_others(rows: Numbers, band: NDArray[np.uint64]) -> Numbers:
    """Those that have their number in common with another row: few, where rows are not alike."""
    import numpy as np

    ordered = np.sort(band)
    several = ordered[1:][ordered[1:] == ordered[:-1]]
    result: Numbers = rows[np.isin(band, several)] if len(several) else rows[:0]
    return result


def _numbered(sketched: Sketches) -> NDArray[np.uint64]:
    """A number for each of a row's _BANDS bands. Two bands hardly ever share one, and that costs a look only."""
    import numpy as np

    parts = sketched.reshape(len(sketched), _BANDS, SKETCH_SIZE // _BANDS)
    mixed = np.zeros(parts.shape[:2], dtype=np.uint64)
    for part in range(parts.shape[2]):
        mixed = (mixed ^ parts[:, :, part]) * np.uint64(0x9E37_79B9_7F4A_7C15)
        mixed ^= mixed >> np.uint64(29)
    return mixed


def _neighbours(rows: Numbers, band: NDArray[np.uint64]) -> Iterator[Numbers]:
    """Rows of one band: each with the first, and with some next to it. Both arrays are in the band's order."""
    import numpy as np

    starts = np.flatnonzero(np.diff(band, prepend=~band[:1]))
    firsts = np.repeat(rows[starts], np.diff(starts, append=len(rows)))
    yield np.stack((firsts, rows), axis=1)[firsts != rows]
    for step in range(1, min(_NEIGHBOURS + 1, len(rows))):
        same = band[step:] == band[:-step]
        yield np.stack((rows[:-step][same], rows[step:][same]), axis=1)


def _likely(low: NDArray[np.uint8], pairs: Numbers) -> Numbers:
    import numpy as np

    parts = [pairs[begin : begin + 10_000] for begin in range(0, len(pairs), 10_000)]
    equal = [np.count_nonzero(low[part[:, 0]] == low[part[:, 1]], axis=1) for part in parts]
    return pairs[np.concatenate(equal) >= _LIKELY] if parts else pairs


class _Search:
    """Joins the rows that are near indeed. `rows` are places in `texts`; pairs are of places in `rows`."""

    def __init__(self, texts: Sequence[str], rows: Sequence[int]) -> None:
        self._texts, self._rows = texts, rows
        self._number = {row: number for number, row in enumerate(rows)}
        self._sets = UnionFind(len(rows))
        self._compared: set[tuple[int, int]] = set()
        self._joined: dict[int, NearPair] = {}
        self.left = max(_COMPARED_PER_ROW * len(rows), _COMPARED_AT_LEAST) + 1

    def compare(self, pairs: Numbers) -> None:
        """Passing over rows that are known to belong together, and pairs that were compared before."""
        for pair in self._pairs(self._open(self._apart(pairs))):
            if pair.alike >= NEAR_SIMILARITY:
                self._sets.join(self._number[pair.earlier], self._number[pair.later])
                self._joined.setdefault(pair.later, pair)

    def _apart(self, pairs: Numbers) -> Numbers:
        """All at once: of many rows that are alike nearly all pairs go here."""
        import numpy as np

        if len(pairs) < 1_000:
            return pairs
        firsts = np.array([self._sets.first(number) for number in range(len(self._rows))])
        apart: Numbers = pairs[firsts[pairs[:, 0]] != firsts[pairs[:, 1]]]
        return apart

    def _open(self, pairs: Numbers) -> Iterator[tuple[int, int]]:
        for item, other in pairs.tolist():
            if self.left == 0:
                return
            if self._sets.first(item) != self._sets.first(other) and (item, other) not in self._compared:
                self.left -= 1
                self._compared.add((item, other))
                yield self._rows[item], self._rows[other]

    def groups(self) -> list[list[int]]:
        """Of places in `texts`, each in order, and they by their first."""
        groups: dict[int, list[int]] = defaultdict(list)
        for number, row in enumerate(self._rows):
            groups[self._sets.first(number)].append(row)
        return sorted(sorted(group) for group in groups.values())

    def pairs(self, groups: Iterable[Sequence[int]]) -> list[NearPair]:
        """For each row but a group's first the earliest that it is near; of a large group some are tried."""
        unpaired = {later: group for group in groups for later in group[1:]}
        paired: dict[int, NearPair] = {}
        for place in range(_TRIED):
            tried = [
                (g[place], later) for later, g in unpaired.items() if len(g) > place and g[place] < later
            ]
            paired |= {pair.later: pair for pair in self._pairs(tried) if pair.alike >= NEAR_SIMILARITY}
            unpaired = {later: group for later, group in unpaired.items() if later not in paired}
        paired |= {later: self._joined[later] for later in unpaired if later in self._joined}
        return [paired[later] for later in sorted(paired)]

    def _pairs(self, pairs: Iterable[tuple[int, int]]) -> Iterator[NearPair]:
        for some in self._some(pairs):
            rows = list({row for pair in some for row in pair})
            shingles_by_row = dict(zip(rows, shingles([self._texts[row] for row in rows]), strict=True))
            for value, other in some:
                yield NearPair(
                    min(value, other),
                    max(value, other),
                    similarity(shingles_by_row[value], shingles_by_row[other]),
                )

    def _some(self, pairs: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
        """As many at once as keep numpy busy and memory small."""
        some: list[tuple[int, int]] = []
        size = 0
        for value, other in pairs:
            some.append((value, other))
            size += len(self._texts[value]) + len(self._texts[other])
            if size > 100_000:
                yield some
                some, size = [], 0
        if some:
            yield some
