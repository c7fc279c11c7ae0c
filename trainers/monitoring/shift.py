"""Whether recent calls differ from earlier ones: in what they ask (the mean of their vectors), in how they are answered
(the shares of labels), and by which words. Also which of them are unlike all earlier ones.

Both tests permute: they draw who is "recent" at random again and again, and count how often the calls then differ as
much. So p is exact for any number of calls and any vectors, if calls don't depend on each other; of a conversation,
pass one call. An alarm needs p <= `alarm_level`, so that all the weekly tests of a year together are wrong with 5% at
most, although they share one reference. Drawing stops early when p is clearly large.

The reference are the calls of the first REFERENCE_WEEKS, not the training rows: these are often balanced by label, and
would differ from any real week. Recent are those of the last RECENT_WEEKS: with twice the calls of a week, a new
kind of call is seen within four weeks in 9 of 10 cases instead of 7, and that weeks overlap costs nothing, as the level
allows for any dependence. Figures are in docs/watching.md; `python benchmarks/watch.py` measures them.

numpy is imported when needed.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.evaluation.statistics import normalise

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]
    Numbers = NDArray[np.float64]

REFERENCE_WEEKS = 4
RECENT_WEEKS = 2
FEWEST_CALLS = 200  # of each side
MOST_CALLS = 1_000  # of each side that are compared; more are thinned evenly
FALSE_ALARMS = 0.05  # of years, all datasets and tests together
WEEKS = 52
MOST_TESTS = 100  # a week; for more, the draws would take too long
FEWEST_DRAWS = 20_000
_ENOUGH = 10  # draws that differ as much end the drawing
_AT_ONCE = 2_000_000  # random numbers at a time: 16 MB
_FIRST_DRAWS = 200
_ROWS_AT_ONCE = 1_000
_USUAL = 0.95  # share of earlier calls that have an earlier one this near
_FEWEST_SOURCES = 3
_WORD_LEVEL = 0.05
_COMMON = 0.1  # of the texts
_MOST_OF = 0.8
_READ_LETTERS = 4_000
# Letters only, joined by apostrophes and hyphens, with punctuation around them.
_WORD = re.compile(
    r"""(?P<before>["'(„“«¿¡]{0,9}+)"""
    r"""(?P<word>[^\W\d_]{2,30}+(?:['’-][^\W\d_]{1,30}+){0,3}+)"""
    r"""(?P<after>["')”»,.;:!?…]{0,9}+)"""
)


@dataclass(frozen=True)
class TooFewCalls:
    """Nothing was compared: fewer than `needed` calls on one side."""

    reference: int
    recent: int
    needed: int = FEWEST_CALLS


@dataclass(frozen=True)
class Shift:
    """A comparison of `recent` calls with `reference` ones. `distance` is how far their means, or label shares, are
    apart, in multiples of what is usual for calls that don't differ: 1 is nothing. It is an alarm if `p` is at most
    `level`."""

    reference: int
    recent: int
    distance: float
    p: float
    level: float
    draws: int

    @property
    def is_alarm(self) -> bool:
        return self.p <= self.level


@dataclass(frozen=True)
class ChangedWord:
    """A word, or two in a row, that `share` of the recent texts have, and at most `share_before` of the earlier
    ones."""

    words: str
    share_before: float
    share: float


@dataclass(frozen=True)
class WordCounts:
    """How many of the `texts` have a word, or two in a row. Only `frequent` ones, which at least three texts have:
    rarer ones may be somebody's own, and are forgotten with the texts."""

    texts: int
    frequent: Mapping[str, int]

    def __add__(self, other: WordCounts) -> WordCounts:
        frequent = Counter(self.frequent)
        frequent.update(other.frequent)
        return WordCounts(self.texts + other.texts, frequent)

    def count(self, words: str) -> int:
        """Returns in how many texts the words are; of rare ones, in how many they may be."""
        return self.frequent.get(words, min(_FEWEST_SOURCES - 1, self.texts))


def alarm_level(datasets: int, tests: int = 1) -> float:
    """Returns the p-value at which each of the weekly `tests` of each watched dataset alarms. Raises ValueError for
    fewer than 1 or more than MOST_TESTS tests a week."""
    each_week = datasets * tests
    if datasets < 1 or tests < 1 or each_week > MOST_TESTS:
        raise ValueError(
            f"watching {datasets} datasets with {tests} tests each: from 1 to {MOST_TESTS} tests a week are possible"
        )
    return FALSE_ALARMS / (WEEKS * each_week)


def vector_shift(reference: Vectors, recent: Vectors, level: float, seed: int = 0) -> Shift | TooFewCalls:
    """Compares the means of the vectors (n, d) of calls from before and of recent ones. Raises ValueError unless both
    are matrices of finite numbers with the same width."""
    import numpy as np

    _check_vectors(reference, recent)
    if min(len(reference), len(recent)) < FEWEST_CALLS:
        return TooFewCalls(len(reference), len(recent))
    earlier = _thin(reference)
    later = _thin(recent)
    vectors = np.concatenate([earlier, later]).astype(np.float32)
    vectors -= vectors.mean(axis=0)
    # All vectors add up to 0, so the sum of the recent ones alone says how far the two means are apart.
    observed = float(np.square(vectors[len(earlier) :].sum(axis=0)).sum())
    generator = np.random.default_rng(seed)

    def draw(count: int) -> Numbers:
        luck = generator.random((count, len(vectors)))
        limit = np.partition(luck, len(later), axis=1)[:, len(later), None]
        is_recent = (luck < limit).astype(np.float32)
        sums = is_recent @ vectors
        squares: Numbers = np.einsum("ij,ij->i", sums, sums)
        return squares

    drawn = _permute(observed, draw, level, len(vectors))
    return Shift(len(earlier), len(later), drawn.distance, drawn.p, level, drawn.count)


def label_shift(
    before: Mapping[str, int], now: Mapping[str, int], level: float, seed: int = 0
) -> Shift | TooFewCalls:
    """Compares how many calls got which label, by Pearson's chi-squared statistic. It is compared with tables of the
    same totals that are drawn at random, so rare labels need no minimum. Raises ValueError for a negative count."""
    import numpy as np

    earlier, later = _align(before, now)
    n_before = int(earlier.sum())
    n_now = int(later.sum())
    if min(n_before, n_now) < FEWEST_CALLS:
        return TooFewCalls(n_before, n_now)
    totals = earlier + later
    expected = totals * n_now / totals.sum()
    generator = np.random.default_rng(seed)

    def measure(counts: Any) -> Numbers:
        # The other row differs by as much, so that this is proportional to the statistic of both.
        parts: Numbers = np.square(counts - expected) / expected
        sums: Numbers = parts.sum(axis=-1)
        return sums

    def draw(count: int) -> Numbers:
        tables = generator.multivariate_hypergeometric(totals, n_now, size=count, method="marginals")
        return measure(tables)

    drawn = _permute(float(measure(later)), draw, level, len(totals))
    return Shift(n_before, n_now, drawn.distance, drawn.p, level, drawn.count)


def count_words(texts: Sequence[str]) -> WordCounts:
    """Counts the words of texts, for a comparison with later ones."""
    counted = Counter(words for text in texts for words in _words_of(text))
    frequent = {words: count for words, count in counted.items() if count >= _FEWEST_SOURCES}
    return WordCounts(len(texts), frequent)


def changed_words(
    before: WordCounts, recent: Sequence[str], sources: Sequence[str] | None = None, count: int = 5
) -> tuple[ChangedWord, ...]:
    """Returns up to `count` words, or two in a row, whose share of the texts grew most, if chance doesn't explain it:
    Fisher's exact one-sided test with Bonferroni's correction over all words that were tested.

    A word counts only if recent texts from at least three `sources` (one for each recent text: who or which
    conversation it is from) have it, so that nobody's own words are shown; without sources, if three different texts
    have it. Words are case-folded; those with digits, addresses and links are left out. Raises ValueError if the
    sources are not as many as the recent texts.
    """
    if sources is not None and len(sources) != len(recent):
        raise ValueError(f"comparing words: {len(recent)} texts have {len(sources)} sources; each needs one")
    if not before.texts or not recent:
        return ()
    now: Counter[str] = Counter()
    seen_in: dict[str, set[str]] = defaultdict(set)
    for place, text in enumerate(recent):
        source = text.casefold()
        if sources is not None:
            source = sources[place]
        for words in _words_of(text):
            now[words] += 1
            seen_in[words].add(source)
    tested = [
        ChangedWord(words, before.count(words) / before.texts, texts / len(recent))
        for words, texts in now.items()
        if len(seen_in[words]) >= _FEWEST_SOURCES and not _has_common_part(words, before)
    ]
    grown = [word for word in tested if word.share > word.share_before]
    certain = [
        word
        for word in grown
        if _tail(now[word.words], before.count(word.words), len(recent), before.texts)
        <= _WORD_LEVEL / len(grown)
    ]
    return _choose_words(certain, count)


def _has_common_part(words: str, before: WordCounts) -> bool:
    """True for two words of which one was common before, such as 'the': the other one says as much alone."""
    parts = words.split()
    return len(parts) > 1 and any(before.count(part) >= _COMMON * before.texts for part in parts)


def choose_new(reference: Vectors, recent: Vectors, count: int = 20) -> list[int]:
    """Returns the indices of up to `count` recent calls that are unlike every earlier one, and unlike each other, the
    most unusual first. A call counts as new if its nearest earlier call is farther away than that of 95% of the earlier
    ones themselves.

    They are an uncertain sample: their labels teach a model what it doesn't know, and never measure it, because they
    were chosen for being unusual. Raises ValueError as `vector_shift` does, and if there is no earlier call.
    """
    import numpy as np

    from trainers.evaluation.row_choice import choose_diverse  # it imports much that the tests don't need

    _check_vectors(reference, recent)
    if not len(reference):
        raise ValueError("looking for new calls: there are no earlier ones to compare them with")
    if not len(recent):
        return []
    earlier = _unit(_thin(reference))
    later = _unit(recent)
    usual = np.quantile(_distances(earlier, earlier, skip_self=True), _USUAL)
    distances = _distances(later, earlier)
    new = np.flatnonzero(distances > usual)
    places = choose_diverse(later[new], distances[new], count)
    return [int(new[place]) for place in places]


@dataclass(frozen=True)
class _Drawn:
    p: float
    count: int
    distance: float


def _permute(observed: float, draw: Callable[[int], Numbers], level: float, width: int) -> _Drawn:
    """Draws until enough draws are as large as `observed`, which makes p their share (J. Besag and P. Clifford,
    Sequential Monte Carlo p-values, Biometrika 78 (1991) 301-304), or until two would be expected at `level`; then p
    counts the observed value as a draw too."""
    import numpy as np

    # Rounding makes sums that are equal differ slightly; counting them as equal keeps p safe.
    least = observed * (1 - 1e-5)
    most = max(FEWEST_DRAWS, math.ceil(2 / level))
    count = _FIRST_DRAWS
    drawn = 0
    as_large = 0
    total = 0.0
    while drawn < most:
        count = min(count, most - drawn, max(_AT_ONCE // width, 1))
        values = draw(count)
        total += float(values.sum())
        larger = np.flatnonzero(values >= least)
        if as_large + len(larger) >= _ENOUGH:
            last = int(larger[_ENOUGH - as_large - 1]) + 1
            distance = _times_as_far(observed, total / (drawn + count))
            return _Drawn(_ENOUGH / (drawn + last), drawn + last, distance)
        as_large += len(larger)
        drawn += count
        count *= 4
    return _Drawn((as_large + 1) / (drawn + 1), drawn, _times_as_far(observed, total / drawn))


def _times_as_far(observed: float, usual: float) -> float:
    """Returns the ratio of two squared distances as one of distances; 1 if all calls are equal."""
    if usual == 0:
        return 1.0
    return math.sqrt(observed / usual)


def _check_vectors(reference: Vectors, recent: Vectors) -> None:
    import numpy as np

    shapes = f"{reference.shape} and {recent.shape}"
    if reference.ndim != 2 or recent.ndim != 2 or reference.shape[1] != recent.shape[1]:
        raise ValueError(
            f"comparing vectors of the shapes {shapes}: two matrices of the same width are needed"
        )
    if not (np.isfinite(reference).all() and np.isfinite(recent).all()):
        raise ValueError(f"comparing vectors of the shapes {shapes}: some of their numbers are not finite")


def _thin(vectors: Vectors) -> Vectors:
    """Returns at most MOST_CALLS of the vectors, evenly spread over their order."""
    import numpy as np

    if len(vectors) <= MOST_CALLS:
        return vectors
    places = np.linspace(0, len(vectors) - 1, MOST_CALLS).round().astype(np.int64)
    return vectors[places]


def _align(before: Mapping[str, int], now: Mapping[str, int]) -> tuple[Any, Any]:
    """Returns both counts as arrays, of labels that either has, spellings of a label together."""
    import numpy as np

    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for side, labels in enumerate((before, now)):
        for label, count in labels.items():
            if count < 0:
                raise ValueError(f"comparing labels: a label has {count} calls; there can't be fewer than 0")
            counts[normalise(label)][side] += count
    used = [counts[label] for label in sorted(counts) if sum(counts[label])]
    table = np.array(used, dtype=np.int64).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def _words_of(text: str) -> set[str]:
    """Returns the words of a text and each two in a row, without those with digits, addresses and links."""
    words: set[str] = set()
    last = ""
    for piece in text[:_READ_LETTERS].casefold().split():
        match = _WORD.fullmatch(piece)
        if match is None:
            last = ""
            continue
        word = match["word"]
        words.add(word)
        if last and not match["before"]:
            words.add(f"{last} {word}")
        # A comma or a full stop ends what belongs together.
        last = "" if match["after"] else word
    return words


def _tail(now: int, before: int, n_now: int, n_before: int) -> float:
    """Returns the probability that at least `now` of the recent texts have a word which now + before of all have, if
    it is as frequent in both: Fisher's exact test."""
    total = n_now + n_before
    having = now + before
    all_ways = _log_ways(total, having)
    chances = [
        math.exp(_log_ways(n_now, count) + _log_ways(n_before, having - count) - all_ways)
        for count in range(now, min(having, n_now) + 1)
        if having - count <= n_before
    ]
    return math.fsum(chances)


def _log_ways(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _choose_words(words: Sequence[ChangedWord], count: int) -> tuple[ChangedWord, ...]:
    """Chooses those that grew most, of which none has a word in common with another. Two words stand for each of them
    if they have most of its growth."""

    def growth(word: ChangedWord) -> tuple[float, int, int, str]:
        gain = word.share - word.share_before
        is_pair = " " in word.words
        if is_pair:
            gain /= _MOST_OF
        # Of those that grew alike, longer ones say more.
        return -gain, -is_pair, -len(word.words), word.words

    chosen: list[ChangedWord] = []
    used: set[str] = set()
    for word in sorted(words, key=growth):
        parts = set(word.words.split())
        if len(chosen) < count and not parts & used:
            chosen.append(word)
            used |= parts
    return tuple(chosen)


def _unit(vectors: Vectors) -> Vectors:
    """Returns the vectors with length 1, and zeros as they are."""
    import numpy as np

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def _distances(vectors: Vectors, earlier: Vectors, skip_self: bool = False) -> Numbers:
    """Returns 1 less the cosine of each vector and its nearest earlier one."""
    import numpy as np

    parts = []
    for start in range(0, len(vectors), _ROWS_AT_ONCE):
        cosines = vectors[start : start + _ROWS_AT_ONCE] @ earlier.T
        if skip_self:
            rows = np.arange(len(cosines))
            cosines[rows, start + rows] = -1
        parts.append(1 - cosines.max(axis=1))
    return np.concatenate(parts).astype(np.float64)
