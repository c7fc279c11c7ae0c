"""Chooses the rows that a person should label: training rows with doubtful labels, or unlabelled rows whose labels
would teach the model most. For worker processes; numpy, scikit-learn and the encoder are imported when needed.

A row is worth labelling if a classifier on its embedding is unsure and if it differs from the rows already chosen. The
most uncertain rows alone are often variants of one question (Ash and others 2020, arxiv.org/abs/1906.03671).
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

# An encoder takes about 20 ms of a core per row, so two minutes in total.
MOST_FITTED = 2_000
MOST_CHOSEN_FROM = 4_000


class Encoder(Protocol):
    def embed(self, texts: Sequence[str]) -> Vectors: ...


@dataclass(frozen=True)
class ChosenRow:
    """A row to label. `key` is its question_key, `given` its present label or None, and `likely` the label of similar
    rows."""

    key: bytes
    text: str
    given: str | None
    likely: str


def choose_doubted(
    train: Sequence[Example], count: int, seed: int, encoder: Encoder
) -> tuple[ChosenRow, ...]:
    """Chooses among the training rows whose labels are probably wrong. Empty if there are none."""
    rows = [row for row in train if not row.uses_tools]
    labels = [label_of(row) for row in rows]
    sample = sample_rows(labels, question_keys(rows), seed)
    judged = at(sample.rows, rows)
    if len({label_of(row) for row in judged}) < 2:
        return ()
    names, scores = out_of_fold(judged, seed)
    suspects, _ = suspect_labels([label_of(row) for row in judged], names, scores)
    if not suspects:
        return ()
    suspects = suspects[:MOST_CHOSEN_FROM]
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
    """Returns the questions, each once, that are not in the dataset and are not near copies of rows that were set
    aside."""
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
    """Chooses the unlabelled rows whose labels would teach most, judging by a linear classifier on embeddings that is
    fitted to the training rows."""
    import numpy as np

    from trainers.encoders.classifier import fit_head

    fitted = sample_examples(train, seed, MOST_FITTED)
    unlabelled = sample_examples(questions, seed, MOST_CHOSEN_FROM)
    vectors = encoder.embed([text_of(row) for row in (*fitted, *unlabelled)])
    head = fit_head(vectors[: len(fitted)], [label_of(row) for row in fitted], seed=seed)
    chances = head.probabilities(vectors[len(fitted) :])
    best_two = np.sort(chances, axis=1)[:, -2:]
    doubts = 1 - (best_two[:, -1] - best_two[:, 0])
    keys = question_keys(unlabelled)
    chosen = []
    for place in choose_diverse(vectors[len(fitted) :], doubts, count):
        likely = head.labels[int(chances[place].argmax())]
        chosen.append(ChosenRow(keys[place], question_text(unlabelled[place]), None, likely))
    return tuple(chosen)


def sample_examples(rows: Sequence[Example], seed: int, most: int) -> tuple[Example, ...]:
    """Selects at most `most` rows by a hash of seed and question, and keeps their order."""
    if len(rows) <= most:
        return tuple(rows)
    salt = str(seed).encode()
    keys = question_keys(rows)
    drawn = sorted(range(len(rows)), key=lambda row: hashlib.blake2b(keys[row], key=salt).digest())[:most]
    return at(sorted(drawn), rows)


def choose_diverse(vectors: Vectors, doubts: Any, count: int) -> list[int]:
    """Returns the indices of `count` rows: first the most doubtful one, then always the row with the greatest product
    of doubt and distance from the chosen rows. `vectors` must have length 1."""
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
