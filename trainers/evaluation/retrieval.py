"""Finds the labelled rows, or passages of documents, that are most similar to a question.

Texts are ranked by words (BM25) and by meaning (an encoder's vectors), and the two rankings are combined by reciprocal
rank fusion: words find names and numbers, meaning finds paraphrases. The number of texts to show is chosen on training
rows, whose right answers are known, so no model has to be paid for that. For worker processes and the terminal; bm25s
and numpy are imported when needed.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainers.dataset.rows import Example, question_keys
from trainers.evaluation.results import Retrieval
from trainers.evaluation.tfidf import label_of, text_of

if TYPE_CHECKING:
    from trainers.encoders.embedding import StoredVectors, TextEncoder, Vectors

    Encoder = TextEncoder | StoredVectors

Order = tuple[int, ...]

EXAMPLE_COUNTS, PASSAGE_COUNTS = (5, 10, 20), (2, 4, 8)
USUAL_EXAMPLES, USUAL_PASSAGES = 10, 4  # used if the rows don't show which number is best
FEWEST_WORDS = 5  # of a question that counts as copied; "where is my parcel" may occur anywhere
FEWEST_ASKED, MOST_ASKED = 20, 500  # training rows used to choose the number of texts
NEGLIGIBLE = 0.01  # share of hits that doesn't justify more texts, which cost tokens in every prompt
DEPTH = 100  # ranks of each order that count
# Measured on our support tickets. With the usual constant of 60 and equal weights, common words outweigh meaning: of
# paraphrased tickets, 12% are among the ten nearest, and 65% with these values; of tickets with a rare word, 69% and
# 76%.
FUSION, WORDS_WEIGHT = 5, 0.7
MOST_LETTERS = 3_000_000  # embedded by an encoder, which takes a few minutes of one core
_AT_ONCE = 5_000_000  # similarities held in memory at a time: 20 MB
# These scripts have no spaces between words, or attach endings to them, so every two adjacent letters count as a word.
_UNSPACED = "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_WORDS = re.compile(rf"([{_UNSPACED}]+)|([^\W{_UNSPACED}]+)")
_PLAIN_WORDS = re.compile(r"[^\W_]+")


@dataclass(frozen=True)
class Nearest:
    """The rows or passages to put into each held-out row's prompt, the nearest first."""

    retrieval: Retrieval
    rows: tuple[tuple[Example, ...], ...] = ()
    passages: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Library:
    """Texts that can be searched. `words` is a BM25 index, or None if no text has words. `vectors` are the embeddings
    of the texts at the indices `read`: all texts, or as many random ones as an encoder can embed in a few minutes."""

    size: int
    encoder: Encoder
    words: Any
    read: Order
    vectors: Vectors

    def search(self, queries: Sequence[str]) -> list[Order]:
        """Returns for each query the indices of up to 2 * DEPTH texts, the nearest first."""
        return self._combine(queries, self.encoder.embed(queries))

    def search_own(self, places: Sequence[int], texts: Sequence[str]) -> list[Order]:
        """Like `search`, for texts of the library itself, which must be among those `read`. Each finds itself too."""
        row = {place: row for row, place in enumerate(self.read)}
        queries = [texts[place] for place in places]
        return self._combine(queries, self.vectors[[row[place] for place in places]])

    def _combine(self, queries: Sequence[str], vectors: Vectors) -> list[Order]:
        orders = zip(self._by_words(queries), self._by_meaning(vectors), strict=True)
        return [_fuse(*both) for both in orders]

    def _by_words(self, queries: Sequence[str]) -> list[Order]:
        if self.words is None or not queries:
            return [()] * len(queries)
        tokens = [_words_of(query) for query in queries]
        depth = min(DEPTH, self.size)
        places, scores = self.words.retrieve(tokens, k=depth, show_progress=False)
        # texts without a word of the query have a score of 0
        return [
            tuple(int(place) for place, score in zip(*both, strict=True) if score > 0)
            for both in zip(places, scores, strict=True)
        ]

    def _by_meaning(self, vectors: Vectors) -> list[Order]:
        import numpy as np

        at_once = max(_AT_ONCE // max(len(self.read), 1), 1)
        orders: list[Order] = []
        for start in range(0, len(vectors), at_once):
            likeness = vectors[start : start + at_once] @ self.vectors.T
            best = np.argsort(-likeness, axis=1, kind="stable")[:, :DEPTH]
            orders.extend(tuple(self.read[row] for row in of_query) for of_query in best)
        return orders


def open_library(texts: Sequence[str], encoder: Encoder) -> Library:
    """Indexes texts. The same texts and encoder give the same library. Raises ValueError if there are no texts."""
    if not texts:
        raise ValueError("indexing texts for retrieval: there are none")
    import bm25s

    tokens, words = [_words_of(text) for text in texts], None
    if any(tokens):
        words = bm25s.BM25()
        words.index(tokens, show_progress=False)
    read = _readable(texts)
    vectors = encoder.embed([texts[place] for place in read])
    return Library(len(texts), encoder, words, read, vectors)


def nearest_examples(
    train: Sequence[Example], holdout: Sequence[Example], encoder: Encoder, *, has_labels: bool
) -> Nearest:
    """Finds the training rows that are most similar to each held-out row. Rows that offer or call tools are left out,
    because not every model supports these."""
    rows = [example for example in train if not example.uses_tools]
    if not rows:
        return Nearest(Retrieval("examples", 0, 0, 0), ((),) * len(holdout))
    texts = [text_of(row) for row in rows]
    library = open_library(texts, encoder)
    k = _example_count(library, rows, texts) if has_labels else USUAL_EXAMPLES
    orders = library.search([text_of(row) for row in holdout])
    shown = tuple(tuple(rows[place] for place in order[:k]) for order in orders)
    about = Retrieval("examples", min(k, len(rows)), len(rows), len(library.read))
    if has_labels:
        labels = ({label_of(near) for near in near_row} for near_row in shown)
        hits = sum(label_of(row) in theirs for row, theirs in zip(holdout, labels, strict=True))
        about = replace(about, hits=hits, asked=len(holdout))
    return Nearest(about, shown)


def nearest_passages(
    passages: Sequence[str],
    train: Sequence[Example],
    holdout: Sequence[Example],
    encoder: Encoder,
    *,
    has_labels: bool,
) -> Nearest:
    """Finds the passages that are most similar to each held-out row. Whether a passage contains the answer is counted
    only if answers are not labels. Raises ValueError if there are no passages."""
    library = open_library(passages, encoder)
    plain = [_plain(passage) for passage in passages]
    k = USUAL_PASSAGES if has_labels else _passage_count(library, train, plain)
    orders = library.search([text_of(row) for row in holdout])
    located = {} if has_labels else _located(holdout, plain)
    hits = sum(not answers.isdisjoint(orders[row][:k]) for row, answers in located.items())
    about = Retrieval("passages", min(k, len(passages)), len(passages), len(library.read), hits, len(located))
    about = replace(about, copied=_copied(holdout, passages))
    return Nearest(about, passages=tuple(tuple(passages[p] for p in order[:k]) for order in orders))


def _example_count(library: Library, rows: Sequence[Example], texts: Sequence[str]) -> int:
    """Chooses the number of rows to show, by searching for the label of some training rows among the other rows,
    without copies of the same question."""
    keys = question_keys(rows)
    drawn = _drawn(library.read)
    firsts = []
    for place, order in zip(drawn, library.search_own(drawn, texts), strict=True):
        others = (near for near in order if keys[near] != keys[place])
        firsts.append(_first(label_of(rows[near]) == label_of(rows[place]) for near in others))
    return _fewest(firsts, EXAMPLE_COUNTS, USUAL_EXAMPLES)


def _passage_count(library: Library, train: Sequence[Example], plain: Sequence[str]) -> int:
    """Chooses the number of passages to show, by training rows whose answer is in a passage."""
    rows = [train[place] for place in _drawn(tuple(range(len(train))))]
    located = _located(rows, plain)
    orders = library.search([text_of(rows[place]) for place in located])
    answers = zip(orders, located.values(), strict=True)
    firsts = [_first(place in theirs for place in order) for order, theirs in answers]
    return _fewest(firsts, PASSAGE_COUNTS, USUAL_PASSAGES)


def _fewest(firsts: Sequence[int | None], counts: Sequence[int], usual: int) -> int:
    """Returns the smallest number that finds the right answer almost as often as the largest. `firsts` has the rank of
    the first right text for each row, or None."""
    if len(firsts) < FEWEST_ASKED:
        return usual
    hits = {k: sum(first is not None and first < k for first in firsts) for k in counts}
    enough = hits[counts[-1]] - NEGLIGIBLE * len(firsts)
    return next(k for k in counts if hits[k] >= enough)


def _located(rows: Sequence[Example], plain: Sequence[str]) -> dict[int, frozenset[int]]:
    """Returns the rows whose answer is in passages, with the indices of these. An answer that is in more than a tenth
    of all passages ("yes") doesn't show which passage is right."""
    most = max(len(plain) // 10, 1)
    located: dict[int, frozenset[int]] = {}
    for number, row in enumerate(rows):
        answer = _plain(row.answer)
        places = frozenset(place for place, passage in enumerate(plain) if answer in passage)
        if answer.strip() and 0 < len(places) <= most:
            located[number] = places
    return located


def _copied(rows: Sequence[Example], passages: Sequence[str]) -> int:
    """Counts the rows whose question occurs word for word in the passages, which makes them an unfair test."""
    text, questions = _plain("\n".join(passages)), (_plain(text_of(row)) for row in rows)
    return sum(len(question.split()) >= FEWEST_WORDS and question in text for question in questions)


def _plain(text: str) -> str:
    """Returns only the words, surrounded by spaces, so that a search for it matches complete words only."""
    words = " ".join(_PLAIN_WORDS.findall(text.casefold()))
    return f" {words} "


def _first(hits: Iterable[bool]) -> int | None:
    return next((place for place, is_hit in enumerate(hits) if is_hit), None)


def _drawn(places: Order) -> Order:
    if len(places) <= MOST_ASKED:
        return places
    return tuple(sorted(random.Random(0).sample(places, MOST_ASKED)))  # noqa: S311


def _readable(texts: Sequence[str]) -> Order:
    """Returns the indices of all texts, or of as many random ones as MOST_LETTERS allows."""
    if sum(map(len, texts)) <= MOST_LETTERS:
        return tuple(range(len(texts)))
    order = random.Random(0).sample(range(len(texts)), len(texts))  # noqa: S311
    letters, read = 0, []
    for place in order:
        letters += len(texts[place])
        if letters > MOST_LETTERS:
            break
        read.append(place)
    return tuple(sorted(read))


def _words_of(text: str) -> list[str]:
    words: list[str] = []
    for unspaced, word in _WORDS.findall(text.casefold()):
        pairs = [unspaced[at : at + 2] for at in range(max(len(unspaced) - 1, 1))] if unspaced else []
        words.extend(pairs or [word])
    return words


def _fuse(by_words: Order, by_meaning: Order) -> Order:
    """Combines two rankings by reciprocal rank fusion. Ties are broken by the order in the library."""
    scores: dict[int, float] = defaultdict(float)
    for order, weight in ((by_words, WORDS_WEIGHT), (by_meaning, 1.0)):
        for rank, place in enumerate(order, 1):
            scores[place] += weight / (FUSION + rank)
    return tuple(sorted(scores, key=lambda place: (-scores[place], place)))
