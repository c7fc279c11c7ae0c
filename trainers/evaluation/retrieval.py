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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from trainers.dataset.rows import Example, question_keys
from trainers.evaluation.results import Retrieval
from trainers.evaluation.tfidf import label_of, text_of

if TYPE_CHECKING:
    from trainers.encoders.embedding import StoredVectors, TextEncoder, Vectors

    Encoder = TextEncoder | StoredVectors

Order = tuple[int, ...]

EXAMPLE_COUNTS = (5, 10, 20)
PASSAGE_COUNTS = (2, 4, 8)
# Used if the rows don't show which number is best.
USUAL_EXAMPLES = 10
USUAL_PASSAGES = 4
FEWEST_WORDS = 5  # of a question that counts as copied; "where is my parcel" may occur anywhere
# Training rows used to choose the number of texts.
FEWEST_ASKED = 20
MOST_ASKED = 500
NEGLIGIBLE = 0.01  # share of hits that doesn't justify more texts, which cost tokens in every prompt
DEPTH = 100  # ranks of each order that count
# Measured on our support tickets. With the usual constant of 60 and equal weights, common words outweigh meaning: of
# paraphrased tickets, 12% are among the ten nearest, and 65% with these values; of tickets with a rare word, 69% and
# 76%.
FUSION = 5
WORDS_WEIGHT = 0.7
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
        vectors = self.encoder.embed(queries)
        return self._combine(queries, vectors)

    def search_own(self, indices: Sequence[int], texts: Sequence[str]) -> list[Order]:
        """Like `search`, for texts of the library itself, which must be among those `read`. Each finds itself too."""
        queries = [texts[index] for index in indices]
        # They were embedded when the library was opened.
        row_of = {index: row for row, index in enumerate(self.read)}
        rows = [row_of[index] for index in indices]
        vectors = self.vectors[rows]
        return self._combine(queries, vectors)

    def _combine(self, queries: Sequence[str], vectors: Vectors) -> list[Order]:
        by_words = self._by_words(queries)
        by_meaning = self._by_meaning(vectors)
        orders = []
        for words, meaning in zip(by_words, by_meaning, strict=True):
            orders.append(_fuse(words, meaning))
        return orders

    def _by_words(self, queries: Sequence[str]) -> list[Order]:
        if self.words is None or not queries:
            return [()] * len(queries)
        tokens = [_words_of(query) for query in queries]
        depth = min(DEPTH, self.size)
        results = self.words.retrieve(tokens, k=depth, show_progress=False)
        orders: list[Order] = []
        for indices, scores in zip(*results, strict=True):
            has_word = scores > 0  # texts without a word of the query have a score of 0
            nearest = indices[has_word].tolist()
            orders.append(tuple(nearest))
        return orders

    def _by_meaning(self, vectors: Vectors) -> list[Order]:
        import numpy as np

        columns = max(len(self.read), 1)
        at_once = max(_AT_ONCE // columns, 1)
        orders: list[Order] = []
        for start in range(0, len(vectors), at_once):
            queries = vectors[start : start + at_once]
            # queries x texts; cosines, because all vectors have the length 1
            likeness = queries @ self.vectors.T
            # Stable, so that equal texts keep the library's order on every machine.
            descending = np.argsort(-likeness, axis=1, kind="stable")
            nearest = descending[:, :DEPTH]
            for rows in nearest:
                order = tuple(self.read[row] for row in rows)
                orders.append(order)
        return orders


def open_library(texts: Sequence[str], encoder: Encoder, vectors: Vectors | None = None) -> Library:
    """Indexes texts. The same texts and encoder give the same library. `vectors` are those of an earlier library of the
    same texts; None has the encoder read them. Raises ValueError if there are no texts."""
    if not texts:
        raise ValueError("indexing texts for retrieval: there are none")
    import bm25s

    tokens = [_words_of(text) for text in texts]
    words = None
    if any(tokens):  # an index needs at least one word
        words = bm25s.BM25()
        words.index(tokens, show_progress=False)
    read = _readable(texts)
    if vectors is None:
        read_texts = [texts[index] for index in read]
        vectors = encoder.embed(read_texts)
    return Library(
        size=len(texts),
        encoder=encoder,
        words=words,
        read=read,
        vectors=vectors,
    )


def showable_rows(train: Sequence[Example]) -> list[Example]:
    """Returns the rows that can be shown in a prompt. Those that offer or call tools are left out, because not every
    model supports these."""
    return [example for example in train if not example.uses_tools]


def nearest_examples(
    train: Sequence[Example], holdout: Sequence[Example], encoder: Encoder, *, has_labels: bool
) -> Nearest:
    """Finds the training rows that are most similar to each held-out row."""
    rows = showable_rows(train)
    if not rows:
        about = Retrieval("examples", k=0, texts=0, read=0)
        return Nearest(about, rows=((),) * len(holdout))

    texts = [text_of(row) for row in rows]
    library = open_library(texts, encoder)
    k = USUAL_EXAMPLES
    if has_labels:
        k = _example_count(library, rows, texts)
    questions = [text_of(row) for row in holdout]
    shown = []
    for order in library.search(questions):
        nearest = tuple(rows[index] for index in order[:k])
        shown.append(nearest)

    about = Retrieval(
        "examples",
        k=min(k, len(rows)),
        texts=len(rows),
        read=len(library.read),
    )
    if has_labels:
        hits = _count_shown_labels(holdout, shown)
        about = replace(about, hits=hits, asked=len(holdout))
    return Nearest(about, rows=tuple(shown))


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
    k = USUAL_PASSAGES
    located: dict[int, frozenset[int]] = {}
    if not has_labels:
        k = _passage_count(library, train, plain)
        located = _located(holdout, plain)
    questions = [text_of(row) for row in holdout]
    orders = [order[:k] for order in library.search(questions)]
    shown = []
    for order in orders:
        nearest = tuple(passages[index] for index in order)
        shown.append(nearest)

    about = Retrieval(
        "passages",
        k=min(k, len(passages)),
        texts=len(passages),
        read=len(library.read),
        hits=_count_shown_answers(located, orders),
        asked=len(located),
        copied=_copied(holdout, passages),
    )
    return Nearest(about, passages=tuple(shown))


def _count_shown_labels(holdout: Sequence[Example], shown: Sequence[Sequence[Example]]) -> int:
    """Counts the held-out rows whose label one of the rows that are shown with them has."""
    count = 0
    for row, nearest in zip(holdout, shown, strict=True):
        labels = {label_of(near) for near in nearest}
        if label_of(row) in labels:
            count += 1
    return count


def _count_shown_answers(located: Mapping[int, frozenset[int]], orders: Sequence[Order]) -> int:
    """Counts the rows whose answer is in a passage that is shown with them; see `_located`."""
    count = 0
    for row, answers in located.items():
        if not answers.isdisjoint(orders[row]):
            count += 1
    return count


def _example_count(library: Library, rows: Sequence[Example], texts: Sequence[str]) -> int:
    """Chooses the number of rows to show, by searching for the label of some training rows among the other rows,
    without copies of the same question."""
    keys = question_keys(rows)
    drawn = _drawn(library.read)
    orders = library.search_own(drawn, texts)
    ranks = []
    for index, order in zip(drawn, orders, strict=True):
        # A row finds itself and its copies, too, which would give its label away.
        others = [near for near in order if keys[near] != keys[index]]
        own_label = label_of(rows[index])
        hits = (label_of(rows[near]) == own_label for near in others)
        rank = _first_rank(hits)
        ranks.append(rank)
    return _fewest(ranks, EXAMPLE_COUNTS, USUAL_EXAMPLES)


def _passage_count(library: Library, train: Sequence[Example], plain: Sequence[str]) -> int:
    """Chooses the number of passages to show, by training rows whose answer is in a passage."""
    everything = tuple(range(len(train)))
    rows = [train[index] for index in _drawn(everything)]
    located = _located(rows, plain)
    questions = [text_of(rows[index]) for index in located]
    orders = library.search(questions)
    ranks = []
    for order, answers in zip(orders, located.values(), strict=True):
        hits = (passage in answers for passage in order)
        rank = _first_rank(hits)
        ranks.append(rank)
    return _fewest(ranks, PASSAGE_COUNTS, USUAL_PASSAGES)


def _first_rank(hits: Iterable[bool]) -> int | None:
    for rank, is_hit in enumerate(hits):
        if is_hit:
            return rank
    return None


def _fewest(ranks: Sequence[int | None], counts: Sequence[int], usual: int) -> int:
    """Returns the smallest of the ascending `counts` that finds the right answer almost as often as the largest.
    `ranks` has the rank, from 0, of the first right text for each row, or None."""
    if len(ranks) < FEWEST_ASKED:
        return usual
    hit_ranks = [rank for rank in ranks if rank is not None]
    *smaller, largest = counts
    most = _hits_among(hit_ranks, largest)
    enough = most - NEGLIGIBLE * len(ranks)
    for k in smaller:
        if _hits_among(hit_ranks, k) >= enough:
            return k
    return largest


def _hits_among(hit_ranks: Iterable[int], k: int) -> int:
    """Counts the rows whose right text is among the first `k`."""
    return sum(rank < k for rank in hit_ranks)


def _located(rows: Sequence[Example], plain: Sequence[str]) -> dict[int, frozenset[int]]:
    """Returns the rows whose answer is in passages, with the indices of these. An answer that is in more than a tenth
    of all passages ("yes") doesn't show which passage is right."""
    most = max(len(plain) // 10, 1)
    located: dict[int, frozenset[int]] = {}
    for number, row in enumerate(rows):
        answer = _plain(row.answer)
        if not answer.strip():  # without words it would be in every passage
            continue
        indices = set()
        for index, passage in enumerate(plain):
            if answer in passage:
                indices.add(index)
        if 0 < len(indices) <= most:
            located[number] = frozenset(indices)
    return located


def _copied(rows: Sequence[Example], passages: Sequence[str]) -> int:
    """Counts the rows whose question occurs word for word in the passages, which makes them an unfair test."""
    text = _plain("\n".join(passages))
    count = 0
    for row in rows:
        question = _plain(text_of(row))
        is_long_enough = len(question.split()) >= FEWEST_WORDS
        if is_long_enough and question in text:
            count += 1
    return count


def _plain(text: str) -> str:
    """Returns only the words, surrounded by spaces, so that a search for it matches complete words only."""
    words = " ".join(_PLAIN_WORDS.findall(text.casefold()))
    return f" {words} "


def _drawn(indices: Order) -> Order:
    """Returns all of `indices`, or MOST_ASKED random ones, the same in each run."""
    if len(indices) <= MOST_ASKED:
        return indices
    drawn = random.Random(0).sample(indices, MOST_ASKED)  # noqa: S311
    return tuple(sorted(drawn))


def _readable(texts: Sequence[str]) -> Order:
    """Returns the indices of all texts, or of as many random ones as MOST_LETTERS allows."""
    indices = range(len(texts))
    all_letters = sum(map(len, texts))
    if all_letters <= MOST_LETTERS:
        return tuple(indices)
    order = random.Random(0).sample(indices, len(texts))  # noqa: S311
    letters = 0
    read = []
    for index in order:
        letters += len(texts[index])
        if letters > MOST_LETTERS:
            break
        read.append(index)
    return tuple(sorted(read))


def _words_of(text: str) -> list[str]:
    words: list[str] = []
    for unspaced, word in _WORDS.findall(text.casefold()):
        if not unspaced:
            words.append(word)
            continue
        count = max(len(unspaced) - 1, 1)  # a single letter is a word too
        for start in range(count):
            pair = unspaced[start : start + 2]
            words.append(pair)
    return words


def _fuse(by_words: Order, by_meaning: Order) -> Order:
    """Combines two rankings by reciprocal rank fusion. Ties are broken by the order in the library."""
    scores: dict[int, float] = defaultdict(float)
    for rank, index in enumerate(by_words, 1):
        scores[index] += WORDS_WEIGHT / (FUSION + rank)
    for rank, index in enumerate(by_meaning, 1):
        scores[index] += 1 / (FUSION + rank)
    best_first = sorted(scores, key=lambda index: (-scores[index], index))
    return tuple(best_first)
