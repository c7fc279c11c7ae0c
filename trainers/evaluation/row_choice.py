"""Which rows a person should label: doubted training rows, or rows without labels whose label would teach most. For
worker processes; numpy, scikit-learn and the encoder are imported at use.

A row teaches much where a classifier on its embedding is unsure, and where it is unlike the rows chosen before it: the
most uncertain rows alone are often the same question many times (Ash and others 2020, arxiv.org/abs/1906.03671).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from trainers.dataset.near_duplicates import find_near_copies, question_text
from trainers.dataset.rows import Example, at, question_keys
from trainers.dataset.slow_checks import sample_rows, suspect_labels
from trainers.evaluation.tfidf import label_of, out_of_fold, text_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

# A row takes an encoder about 20 ms of a core: two minutes in all.
MOST_FITTED, MOST_CANDIDATES = 2_000, 4_000


class Encoder(Protocol):
    def embed(self, texts: Sequence[str]) -> Vectors: ...


@dataclass(frozen=True)
class ChosenRow:
    """`key` is its question_key. `given`: the label that it has, None where it has none; `likely`: that of rows like
    it."""

    key: bytes
    text: str
    given: str | None
    likely: str


def choose_doubted(
    train: Sequence[Example], count: int, seed: int, encoder: Encoder
) -> tuple[ChosenRow, ...]:
    """Chooses among the training rows whose label is probably wrong. Empty where none is doubted."""
    rows = [row for row in train if row.row is None]
    labels = [label_of(row) for row in rows]
    sample = sample_rows(labels, question_keys(rows), seed)
    judged = at(sample.rows, rows)
    if len({label_of(row) for row in judged}) < 2:
        return ()
    names, scores = out_of_fold(judged, seed)
    suspects, _ = suspect_labels([label_of(row) for row in judged], names, scores)
    if not suspects:
        return ()
    suspects = suspects[:MOST_CANDIDATES]
    doubted = [judged[suspect.row] for suspect in suspects]
    vectors = encoder.embed([text_of(row) for row in doubted])
    places = choose_diverse(vectors, [suspect.chance for suspect in suspects], count)
    keys = question_keys(doubted)
    chosen = ((keys[place], doubted[place], suspects[place]) for place in places)
    return tuple(
        ChosenRow(key, question_text(row), suspect.given, suspect.likely) for key, row, suspect in chosen
    )


def exclude_known_questions(
    questions: Sequence[Example], train: Sequence[Example], set_aside: Sequence[Example]
) -> tuple[Example, ...]:
    """Returns the questions, each once, that the dataset does not ask, and that do not nearly ask what is held out or
    sealed."""
    in_use = {*question_keys(train), *question_keys(set_aside)}
    fresh = {
        key: row for key, row in zip(question_keys(questions), questions, strict=True) if key not in in_use
    }
    rows = [*set_aside, *fresh.values()]
    groups = find_near_copies([question_text(row) for row in rows], question_keys(rows)).groups
    held = set(groups[: len(set_aside)])
    return tuple(
        row for row, group in zip(fresh.values(), groups[len(set_aside) :], strict=True) if group not in held
    )


def choose_unlabelled(
    questions: Sequence[Example], train: Sequence[Example], count: int, seed: int, encoder: Encoder
) -> tuple[ChosenRow, ...]:
    """Chooses among rows without labels those whose label would teach most, for a linear classifier on embeddings that
    is fitted to the training rows."""
    import numpy as np

    from trainers.encoders.classifier import fit_head

    fitted, candidates = (
        sample_examples(train, seed, MOST_FITTED),
        sample_examples(questions, seed, MOST_CANDIDATES),
    )
    vectors = encoder.embed([text_of(row) for row in (*fitted, *candidates)])
    head = fit_head(vectors[: len(fitted)], [label_of(row) for row in fitted], seed=seed)
    chances = head.probabilities(vectors[len(fitted) :])
    best_two = np.sort(chances, axis=1)[:, -2:]
    doubts = 1 - (best_two[:, -1] - best_two[:, 0])
    keys = question_keys(candidates)
    return tuple(
        ChosenRow(
            keys[place], question_text(candidates[place]), None, head.labels[int(chances[place].argmax())]
        )
        for place in choose_diverse(vectors[len(fitted) :], doubts, count)
    )


def sample_examples(rows: Sequence[Example], seed: int, most: int) -> tuple[Example, ...]:
    """Samples `most` rows where there are more, by a hash of seed and question, in the rows' order."""
    if len(rows) <= most:
        return tuple(rows)
    salt, keys = str(seed).encode(), question_keys(rows)
    drawn = sorted(range(len(rows)), key=lambda row: hashlib.blake2b(keys[row], key=salt).digest())[:most]
    return at(sorted(drawn), rows)


def choose_diverse(vectors: Vectors, doubts: Any, count: int) -> list[int]:
    """Returns the places of `count` rows: the most doubtful, then each time the one whose doubt times its distance
    from those chosen is greatest. `vectors` have length 1."""
    import numpy as np

    doubt = np.asarray(doubts, dtype=np.float64) + 1e-9
    distance = np.ones(len(doubt))
    places: list[int] = []
    for _ in range(min(count, len(doubt))):
        worth = doubt * np.maximum(distance, 1e-6)
        worth[places] = -1
        place = int(worth.argmax())
        places.append(place)
        distance = np.minimum(distance, 1 - vectors @ vectors[place])
    return places
