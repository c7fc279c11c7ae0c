"""By which words recent calls differ from earlier ones, without showing words that may be one person's own."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
        most_if_rare = min(_FEWEST_SOURCES - 1, self.texts)
        return self.frequent.get(words, most_if_rare)


def count_words(texts: Sequence[str]) -> WordCounts:
    """Counts the words of texts, for a comparison with later ones."""
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_words_of(text))
    frequent = {words: count for words, count in counts.items() if count >= _FEWEST_SOURCES}
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
    if sources is None:
        sources = [text.casefold() for text in recent]
    now: Counter[str] = Counter()
    seen_in: dict[str, set[str]] = defaultdict(set)
    for text, source in zip(recent, sources, strict=True):
        for words in _words_of(text):
            now[words] += 1
            seen_in[words].add(source)
    grown = []
    for words, texts in now.items():
        if len(seen_in[words]) < _FEWEST_SOURCES:
            continue
        if _has_common_part(words, before):
            continue
        share_before = before.count(words) / before.texts
        share = texts / len(recent)
        if share > share_before:
            grown.append(ChangedWord(words, share_before, share))
    certain = []
    for word in grown:
        n_now = now[word.words]
        n_before = before.count(word.words)
        p = _tail(n_now, n_before, len(recent), before.texts)
        if p <= _WORD_LEVEL / len(grown):
            certain.append(word)
    return _choose_words(certain, count)


def _has_common_part(words: str, before: WordCounts) -> bool:
    """True for two words of which one was common before, such as 'the': the other one says as much alone."""
    parts = words.split()
    if len(parts) == 1:
        return False
    common = _COMMON * before.texts
    return any(before.count(part) >= common for part in parts)


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
        last = word
        if match["after"]:  # a comma or a full stop ends what belongs together
            last = ""
    return words


def _tail(now: int, before: int, n_now: int, n_before: int) -> float:
    """Returns the probability that at least `now` of the recent texts have a word which now + before of all have, if
    it is as frequent in both: Fisher's exact test."""
    total = n_now + n_before
    having = now + before
    all_ways = _log_ways(total, having)
    most = min(having, n_now)
    chances = []
    for count in range(now, most + 1):
        # Of the earlier ones, so many have it then.
        others = having - count
        if others > n_before:
            continue
        ways = _log_ways(n_now, count) + _log_ways(n_before, others)
        chances.append(math.exp(ways - all_ways))
    return math.fsum(chances)


def _log_ways(n: int, k: int) -> float:
    """The logarithm of the number of ways to choose k of n."""
    chosen = math.lgamma(k + 1)
    left = math.lgamma(n - k + 1)
    return math.lgamma(n + 1) - chosen - left


def _choose_words(words: Sequence[ChangedWord], count: int) -> tuple[ChangedWord, ...]:
    """Chooses those that grew most, of which none has a word in common with another. Two words stand for each of them
    if they have most of its growth."""

    def growth(word: ChangedWord) -> tuple[float, int, int, str]:
        gain = word.share - word.share_before
        is_pair = " " in word.words
        if is_pair:
            gain /= _MOST_OF
        # Of those that grew alike, longer ones say more.
        length = len(word.words)
        return -gain, -is_pair, -length, word.words

    chosen: list[ChangedWord] = []
    used: set[str] = set()
    for word in sorted(words, key=growth):
        parts = set(word.words.split())
        if len(chosen) < count and parts.isdisjoint(used):
            chosen.append(word)
            used |= parts
    return tuple(chosen)
