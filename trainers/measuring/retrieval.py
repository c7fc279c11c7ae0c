"""Finds what is most like a question: labelled examples, or passages of documents. TF-IDF and cosine, no service.

For worker processes and the terminal: scikit-learn is imported at use.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from trainers.dataset.values import Example
from trainers.measuring.classical import features, is_short, text_of

WORDS_A_PASSAGE = 120
_AT_ONCE = 5_000_000  # similarities held at a time: 40 MB
_PARAGRAPHS = re.compile(r"\n\s*\n")
_SENTENCES = re.compile(r"(?<=[.!?…。！？])\s+")


def nearest(train: Sequence[Example], asked: Sequence[Example], k: int) -> tuple[tuple[Example, ...], ...]:
    """For each of `asked` the k rows most like it, the nearest first; fewer where there are fewer. Rows with
    tools are left out: not every model can be shown them."""
    shown = [example for example in train if example.row is None]
    found = _nearest([text_of(e) for e in shown], [text_of(e) for e in asked], k)
    return tuple(tuple(shown[i] for i in places) for places in found)


def nearest_passages(
    passages: Sequence[str], asked: Sequence[Example], k: int
) -> tuple[tuple[str, ...], ...]:
    """For each of `asked` the k passages most like it, the nearest first."""
    found = _nearest(passages, [text_of(e) for e in asked], k)
    return tuple(tuple(passages[i] for i in places) for places in found)


def passages_of(text: str) -> tuple[str, ...]:
    """About 120 words each, in order, without overlap: whole paragraphs together while they fit, a longer one
    cut between sentences, a longer sentence between words."""
    passages: list[str] = []
    kept: list[str] = []
    for paragraph in _PARAGRAPHS.split(text.replace("\r\n", "\n")):
        for piece in _pieces(paragraph.strip()):
            if kept and sum(map(_words, kept)) + _words(piece) > WORDS_A_PASSAGE:
                passages.append("\n\n".join(kept))
                kept = []
            kept.append(piece)
    if kept:
        passages.append("\n\n".join(kept))
    return tuple(passages)


def _nearest(known: Sequence[str], asked: Sequence[str], k: int) -> list[tuple[int, ...]]:
    """Places in `known`, the most alike first; of equals the first."""
    import numpy as np

    if k < 1 or not any(text.strip() for text in known):
        return [tuple(range(min(max(k, 0), len(known))))] * len(asked)
    vectors = features(is_short(known))
    library = vectors.fit_transform(known).T.tocsc()
    some = max(_AT_ONCE // len(known), 1)
    found: list[tuple[int, ...]] = []
    for start in range(0, len(asked), some):
        alike = (vectors.transform(asked[start : start + some]) @ library).toarray()
        order = np.argsort(-alike, axis=1, kind="stable")[:, :k]
        found.extend(tuple(map(int, places)) for places in order)
    return found


def _pieces(paragraph: str) -> Iterator[str]:
    """A paragraph, or its parts of at most 120 words."""
    if not paragraph:
        return
    if _words(paragraph) <= WORDS_A_PASSAGE:
        yield paragraph
        return
    kept: list[str] = []
    for sentence in _SENTENCES.split(paragraph):
        words = sentence.split()
        if kept and len(kept) + len(words) > WORDS_A_PASSAGE:
            yield " ".join(kept)
            kept = []
        kept.extend(words)
        while len(kept) > WORDS_A_PASSAGE:
            yield " ".join(kept[:WORDS_A_PASSAGE])
            kept = kept[WORDS_A_PASSAGE:]
    if kept:
        yield " ".join(kept)


def _words(text: str) -> int:
    return len(text.split())
