"""Finds nearly identical questions: banded MinHash proposes pairs, and an exact comparison of their shingles (all runs
of four characters) confirms each.

Two texts are near copies if the Jaccard similarity of their shingles is at least 0.8, ignoring case, punctuation and
repeated spaces. Shingles also work for texts of three words and for languages without spaces. At that similarity, 24
bands of 4 miss one pair in 300,000. If very many rows are alike, each is compared only with its closest neighbours, and
above a limit a finding says so. numpy and rensa are imported when needed.
"""

from __future__ import annotations

import unicodedata
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain, pairwise
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

RowPair = tuple[int, int]

SHINGLE_LENGTH = 4  # UTF-16 units, or 8 bytes: a shingle is a 64-bit number, without collisions
SKETCH_SIZE = 96
NO_SHINGLE = (1 << 32) - 1
_SEED = 20_240_229
_MIXER = 0x9E37_79B9_7F4A_7C15  # 2^64 / the golden ratio, which spreads neighbouring numbers (Knuth, volume 3, 6.4)
_BATCH_BYTES = 200_000  # fits into a core's cache, which is a third faster than 2 MB
_UNSEEN = frozenset({"P", "Z", "C"})


def compute_sketches(texts: Iterable[str]) -> Sketches:
    """Returns the MinHash of each text, texts x SKETCH_SIZE. The share of positions with equal numbers estimates the
    similarity of two texts, with a standard error of 0.04 at 0.8. A text without shingles has NO_SHINGLE everywhere."""
    numbers = array("I")
    sketch_into(numbers, texts)
    return to_sketch_array(numbers)


def sketch_into(numbers: array[int], texts: Iterable[str]) -> None:
    """Appends the sketches of texts to `numbers`. The texts are consumed one by one."""
    from rensa import RMinHash

    def sketch(batch: list[bytes]) -> None:
        hashes, offsets = _hashes(batch)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(hashes, offsets, SKETCH_SIZE, _SEED)
        for row in matrix.to_rows():
            numbers.fromlist(row)

    batch: list[bytes] = []
    size = 0
    for text in texts:
        encoded = _to_utf16(text)
        batch.append(encoded)
        size += len(encoded)
        if size > _BATCH_BYTES:
            sketch(batch)
            batch = []
            size = 0
    if batch:
        sketch(batch)


def to_sketch_array(numbers: array[int]) -> Sketches:
    import numpy as np

    flat = np.frombuffer(numbers, dtype=np.uint32)
    return flat.reshape(-1, SKETCH_SIZE)


def shingles(texts: Sequence[str]) -> list[frozenset[int]]:
    """Returns the shingles of each text. Texts of fewer than two characters have none."""
    if not texts:
        return []
    encoded = [_to_utf16(text) for text in texts]
    hashes, offsets = _hashes(encoded)
    by_text: list[frozenset[int]] = []
    for begin, end in pairwise(offsets.tolist()):
        numbers = hashes[begin:end].tolist()
        by_text.append(frozenset(numbers))
    return by_text


def similarity(shingles: frozenset[int], other: frozenset[int]) -> float:
    """Returns the Jaccard similarity, from 0 to 1. It is 0 if a text has no shingles."""
    common = len(shingles & other)
    if common == 0:
        return 0.0
    either = len(shingles) + len(other) - common
    return common / either


def _to_utf16(text: str) -> bytes:
    """Returns the text in UTF-16 between two spaces, with its case and punctuation."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    between_spaces = f" {text} "
    return between_spaces.encode("utf-16-le", "surrogatepass")


def _hashes(batch: list[bytes]) -> tuple[Hashes, Hashes]:
    """Returns the hashed shingles of all texts one after another, and the offsets at which each text's shingles begin,
    followed by the end of the last."""
    import numpy as np

    # Remove case, turn punctuation and invisible characters into spaces, and collapse repeated spaces.
    sizes = [len(text) // 2 for text in batch]
    ends = np.cumsum(sizes)
    joined = b"".join(batch)
    written = np.frombuffer(joined, dtype="<u2")
    small_letters = _small_letters()
    units = small_letters[written]
    stored = units != 32
    # Of spaces in a row only the first stays. The copy is needed since numpy would read what it has just written.
    stored[1:] |= stored[:-1].copy()
    begins = ends - sizes
    stored[begins] = True  # keep the space in front of each text
    units = units[stored]
    stored_until = np.cumsum(stored)
    ends = stored_until[ends - 1]

    starts = np.ones(len(units), dtype=bool)
    for before in range(1, SHINGLE_LENGTH):
        crossing = np.maximum(ends - before, 0)
        starts[crossing] = False  # shingles must not reach into the next text
    count = max(len(units) - SHINGLE_LENGTH + 1, 0)

    # With a stride of one unit, the same bytes read as overlapping numbers of four units: every shingle at once.
    overlapping = np.ndarray(count, "<u8", units.tobytes(), strides=(2,))
    hashes = overlapping[starts[:count]]
    hashes *= np.uint64(_MIXER)
    hashes ^= hashes >> np.uint64(32)

    stored_sizes = np.diff(ends, prepend=0)
    lengths = np.maximum(stored_sizes - SHINGLE_LENGTH + 1, 0)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    return hashes, offsets.astype(np.uint64)


@cache
def _small_letters() -> Units:
    """Returns a table from each UTF-16 unit to its lower-case unit, or to a space for punctuation, separators and
    control characters."""
    import numpy as np

    table = np.arange(1 << 16, dtype=np.uint16)
    for unit in range(1 << 16):
        if 0xD800 <= unit < 0xE000:
            continue  # half of a character
        character = chr(unit)
        small = character.casefold()
        category = unicodedata.category(character)
        if category[0] in _UNSEEN:
            table[unit] = 32
        elif len(small) == 1:
            table[unit] = ord(small)
    return table


class UnionFind:
    """Disjoint sets of the numbers below `count`. At first each number is a set of its own."""

    def __init__(self, count: int) -> None:
        self._above = list(range(count))

    def first(self, number: int) -> int:
        """Returns the smallest number in the set of `number`."""
        above = self._above
        while above[number] != number:
            # Shortens the way for later calls.
            parent = above[number]
            above[number] = above[parent]
            number = above[number]
        return number

    def join(self, number: int, other: int) -> bool:
        """Joins the sets of two numbers. Returns False if they were in one set already."""
        first = self.first(number)
        other_first = self.first(other)
        # The smallest number names a set, whatever the order in which sets are joined.
        smaller = min(first, other_first)
        larger = max(first, other_first)
        self._above[larger] = smaller
        return first != other_first


NEAR_SIMILARITY = 0.8
_BANDS = 24
_NEIGHBOURS = 4  # rows that each row is compared with in a band, besides the first of the band
_LIKELY = 62  # of 96 positions; near copies have fewer equal ones only once in 10,000
_COMPARED_PER_ROW = 2
_COMPARED_AT_LEAST = 20_000  # covers all pairs of 200 rows, in 0.1 s
_TRIED = 8
_AT_ONCE = 4_096
_PAIRS_AT_ONCE = 10_000

NEAR_DUPLICATE = Rule(
    "near_duplicate",
    "warns",
    "Keep one of them, or reword one: nearly equal rows teach little and cost tokens.",
)
NEAR_CONTRADICTION = Rule(
    "near_contradiction", "warns", "Decide which answer is right, or make the difference clearer."
)
NEAR_OVERLAP = Rule(
    "near_overlap",
    "warns",
    "Delete the line: training on near copies of test questions makes the result look too good.",
)
NOT_ALL_COMPARED = Rule(
    "near_not_all_compared", "tells", "Delete the near duplicates that are listed, if any, and check again."
)


@dataclass(frozen=True, slots=True)
class NearPair:
    """Two rows by number, from 0, the earlier one first, and their similarity from 0 to 1."""

    earlier: int
    later: int
    similarity: float


@dataclass(frozen=True)
class NearCopies:
    """Groups of rows with nearly the same question.

    `groups[i]` is the first row of row i's group, or i itself; two rows of a group may be near copies only by way of
    others. `pairs` has at most one pair with each row as the later one, and none for exact copies. `all_compared` is
    False if so many rows looked alike that some pairs were not compared.
    """

    groups: tuple[int, ...]
    pairs: tuple[NearPair, ...]
    all_compared: bool


def question_text(example: Example) -> str:
    """Returns the text before the answer, without instructions. `question_key` covers the same text."""
    turns = []
    for message in example.prompt:
        if message.role not in INSTRUCTION_ROLES:
            turns.append(message.content)
    return "\n".join(turns)


def find_near_copies(
    texts: Sequence[str],
    keys: Sequence[bytes],
    sketched: Sequence[Sketches] | None = None,
) -> NearCopies:
    """Finds near copies. `keys` are the rows' question_keys; of exact copies, which share a key, only the first is
    compared. The groups don't depend on the order of the rows.

    `texts` may be lazy. It is read once in order, unless `sketched` has the sketches of all rows, in one or more parts.
    After that, only texts of rows that look alike are read, one by one.
    """
    first: dict[bytes, int] = {}
    for row, key in enumerate(keys):
        first.setdefault(key, row)
    rows = [first[key] for key in sorted(first)]  # by key, so that the order of the file has no influence
    if sketched is None:
        lazy_texts = (texts[row] for row in range(len(texts)))
        sketched = [compute_sketches(lazy_texts)]

    search = _Search(texts, rows)
    bands = _bands(sketched, rows)
    for pairs in _candidates(bands):
        search.compare(pairs)
    groups = search.groups()
    pairs_by_row = search.pairs(groups)

    group_of: dict[int, int] = {}
    for group in groups:
        first_row = group[0]
        group_of.update(dict.fromkeys(group, first_row))
    return NearCopies(
        groups=tuple(group_of[first[key]] for key in keys),
        pairs=tuple(pairs_by_row),
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
    """Reports near copies. `lines` and `answers` have an entry for each compared row, in order; without answers no
    contradictions are reported. The first `held` rows are those of an earlier holdout, with that file's line
    numbers."""
    for pair in near.pairs:
        if pair.later < held:
            continue
        line = lines[pair.earlier]
        contradicts = False
        if answers is not None:
            contradicts = answers[pair.earlier] != answers[pair.later]
        if pair.earlier < held:
            fault = Fault(NEAR_OVERLAP, f"asks nearly what the holdout asks in line {line}")
        elif contradicts:
            fault = Fault(NEAR_CONTRADICTION, f"says nearly the same as line {line} but has another answer")
        else:
            fault = Fault(NEAR_DUPLICATE, f"says nearly the same as line {line}")
        findings.add_for_line(lines[pair.later], fault)
    if not near.all_compared:
        text = "So many rows look alike that not all pairs were compared."
        findings.add_for_file(NOT_ALL_COMPARED, text)


@dataclass(frozen=True)
class _Bands:
    """`numbers` has a hash for each band of each row, rows x _BANDS. `low` has the low bits of each sketch, rows x
    SKETCH_SIZE, which suffice to count equal positions. `filled` are the rows that have any shingles."""

    numbers: NDArray[np.uint64]
    low: NDArray[np.uint8]
    filled: Numbers


def _bands(parts: Sequence[Sketches], rows: Sequence[int]) -> _Bands:
    """Computes the bands of these rows, a few thousand at a time, since the sketches of all rows take four times as
    much memory."""
    import numpy as np

    full = parts[0]
    if len(parts) > 1:  # concatenating a single part would copy it
        full = np.concatenate(parts)
    indices = np.array(rows, dtype=np.int64)
    n_rows = len(rows)
    numbers = np.empty((n_rows, _BANDS), dtype=np.uint64)
    low = np.empty((n_rows, SKETCH_SIZE), dtype=np.uint8)
    filled = np.empty(n_rows, dtype=bool)
    for begin in range(0, n_rows, _AT_ONCE):
        part = slice(begin, begin + _AT_ONCE)
        sketched = full[indices[part]]  # part x SKETCH_SIZE
        low[part] = sketched  # keeps the low 8 bits
        has_shingle = sketched != NO_SHINGLE
        filled[part] = has_shingle.any(axis=1)
        numbers[part] = _band_hashes(sketched)
    return _Bands(numbers, low, np.flatnonzero(filled))


def _band_hashes(sketched: Sketches) -> NDArray[np.uint64]:
    """Returns a hash of each band, rows x _BANDS. Different bands rarely get the same one, and a collision only costs a
    comparison."""
    import numpy as np

    mixer = np.uint64(_MIXER)
    n_rows = len(sketched)
    width = SKETCH_SIZE // _BANDS
    by_band = sketched.reshape(n_rows, _BANDS, width)
    mixed = np.zeros((n_rows, _BANDS), dtype=np.uint64)
    for position in range(width):
        mixed = (mixed ^ by_band[:, :, position]) * mixer
        mixed ^= mixed >> np.uint64(29)  # multiplying alone never brings high bits down
    return mixed


def _candidates(bands: _Bands) -> Iterator[Numbers]:
    """Yields, for each band, pairs (n x 2) of rows that are equal in this band and in at least _LIKELY positions."""
    import numpy as np

    for number in range(_BANDS):
        # Keep only rows that share their hash with another one: few, unless many rows are alike.
        hashes = bands.numbers[bands.filled, number]
        ordered = np.sort(hashes)
        later = ordered[1:]
        shared = later[later == ordered[:-1]]
        rows = bands.filled[np.isin(hashes, shared)]

        # Among rows with the same hash, those that are also equal in the next band become neighbours.
        band = bands.numbers[rows, number]
        next_number = (number + 1) % _BANDS
        beside = bands.numbers[rows, next_number]
        order = np.lexsort((beside, band))
        for neighbours in _neighbours(rows[order], band[order]):
            pairs = np.sort(neighbours, axis=1)
            equal = _equal_positions(bands, pairs)
            yield pairs[equal >= _LIKELY]


def _equal_positions(bands: _Bands, pairs: Numbers) -> Numbers:
    """Counts the equal positions of the sketches of each pair, some at a time to keep memory small."""
    import numpy as np

    equal = np.empty(len(pairs), dtype=np.int64)
    for begin in range(0, len(pairs), _PAIRS_AT_ONCE):
        part = slice(begin, begin + _PAIRS_AT_ONCE)
        rows = pairs[part, 0]
        others = pairs[part, 1]
        is_equal = bands.low[rows] == bands.low[others]  # pairs x SKETCH_SIZE
        equal[part] = np.count_nonzero(is_equal, axis=1)
    return equal


def _neighbours(rows: Numbers, band: NDArray[np.uint64]) -> Iterator[Numbers]:
    """Yields pairs of rows that share a band: each row with the first one, and with some that follow it. Both arrays
    are sorted by the band's hashes."""
    import numpy as np

    # The complement of the first hash differs from it, so the first row counts as a start too.
    changes = np.diff(band, prepend=~band[:1])
    starts = np.flatnonzero(changes)
    lengths = np.diff(starts, append=len(rows))
    firsts = np.repeat(rows[starts], lengths)
    with_first = np.stack((firsts, rows), axis=1)
    yield with_first[firsts != rows]

    most = min(_NEIGHBOURS, len(rows) - 1)
    for step in range(1, most + 1):
        same = band[step:] == band[:-step]
        earlier = rows[:-step][same]
        later = rows[step:][same]
        yield np.stack((earlier, later), axis=1)


class _Search:
    """Confirms candidates and joins near copies. `rows` are positions in `texts`; candidates are pairs of positions in
    `rows`."""

    def __init__(self, texts: Sequence[str], rows: Sequence[int]) -> None:
        self._texts = texts
        self._rows = rows
        self._number = {row: number for number, row in enumerate(rows)}
        self._sets = UnionFind(len(rows))
        self._compared: set[RowPair] = set()
        self._joined: dict[int, NearPair] = {}
        most = max(_COMPARED_PER_ROW * len(rows), _COMPARED_AT_LEAST)
        # One more than may be compared: if it is left over, no pair was left out.
        self.left = most + 1

    def compare(self, candidates: Numbers) -> None:
        """Compares the candidates that are neither joined nor compared yet."""
        import numpy as np

        # If many rows are alike, most pairs are already joined; drop these at once.
        if len(candidates) >= 1_000:
            numbers = range(len(self._rows))
            firsts = np.array([self._sets.first(number) for number in numbers])
            earlier = firsts[candidates[:, 0]]
            later = firsts[candidates[:, 1]]
            candidates = candidates[earlier != later]
        pending = self._pending(candidates)
        for pair in self._compare_pairs(pending):
            if pair.similarity < NEAR_SIMILARITY:
                continue
            earlier_number = self._number[pair.earlier]
            later_number = self._number[pair.later]
            self._sets.join(earlier_number, later_number)
            self._joined.setdefault(pair.later, pair)

    def _pending(self, candidates: Numbers) -> Iterator[RowPair]:
        first = self._sets.first
        for number, other in candidates.tolist():
            if self.left == 0:
                return
            is_joined = first(number) == first(other)
            if is_joined or (number, other) in self._compared:
                continue
            self.left -= 1
            self._compared.add((number, other))
            yield self._rows[number], self._rows[other]

    def groups(self) -> list[list[int]]:
        """Returns the groups as sorted positions in `texts`, ordered by their first row."""
        groups: dict[int, list[int]] = defaultdict(list)
        for number, row in enumerate(self._rows):
            first = self._sets.first(number)
            groups[first].append(row)
        for group in groups.values():
            group.sort()
        return sorted(groups.values())

    def pairs(self, groups: Iterable[Sequence[int]]) -> list[NearPair]:
        """Pairs each row, except the first of a group, with the earliest row that it is near to. In a large group only
        the first few rows are tried."""
        unpaired: dict[int, Sequence[int]] = {}
        for group in groups:
            unpaired.update(dict.fromkeys(group[1:], group))
        paired: dict[int, NearPair] = {}
        for index in range(_TRIED):
            tried: list[tuple[int, int]] = []
            for later, group in unpaired.items():
                if index >= len(group):
                    continue
                earlier = group[index]
                if earlier < later:
                    tried.append((earlier, later))
            for pair in self._compare_pairs(tried):
                if pair.similarity >= NEAR_SIMILARITY:
                    paired[pair.later] = pair
                    del unpaired[pair.later]

        # The others are named with the row through which they came into the group.
        for later in unpaired:
            if later in self._joined:
                paired[later] = self._joined[later]
        return [paired[later] for later in sorted(paired)]

    def _compare_pairs(self, pairs: Iterable[RowPair]) -> Iterator[NearPair]:
        """Compares pairs of positions in `texts`, in batches that keep numpy busy and memory small."""
        for batch in self._batches(pairs):
            rows = list(set(chain.from_iterable(batch)))
            texts = [self._texts[row] for row in rows]
            of_texts = shingles(texts)
            shingles_by_row = dict(zip(rows, of_texts, strict=True))
            for row, other in batch:
                earlier = min(row, other)
                later = max(row, other)
                share = similarity(shingles_by_row[earlier], shingles_by_row[later])
                yield NearPair(earlier, later, share)

    def _batches(self, pairs: Iterable[RowPair]) -> Iterator[list[RowPair]]:
        batch: list[RowPair] = []
        size = 0
        for row, other in pairs:
            batch.append((row, other))
            size += len(self._texts[row])
            size += len(self._texts[other])
            if size > 100_000:
                yield batch
                batch = []
                size = 0
        if batch:
            yield batch
