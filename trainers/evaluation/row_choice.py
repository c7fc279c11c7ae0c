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
from trainers.evaluation.out_of_fold import out_of_fold
from trainers.evaluation.tfidf import label_of, text_of

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
    keys_of_rows = question_keys(rows)
    sample = sample_rows(labels, keys_of_rows, seed)
    judged = at(sample.rows, rows)
    judged_labels = [label_of(row) for row in judged]
    if len(set(judged_labels)) < 2:
        return ()
    names, scores = out_of_fold(judged, seed)
    suspects, _ = suspect_labels(judged_labels, names, scores)
    if not suspects:
        return ()
    suspects = suspects[:MOST_CHOSEN_FROM]
    doubted = [judged[suspect.row] for suspect in suspects]
    texts = [text_of(row) for row in doubted]
    vectors = encoder.embed(texts)
    doubts = [suspect.chance for suspect in suspects]
    keys = question_keys(doubted)
    chosen = []
    for index in choose_diverse(vectors, doubts, count):
        suspect = suspects[index]
        row = ChosenRow(
            key=keys[index],
            text=question_text(doubted[index]),
            given=suspect.given,
            likely=suspect.likely,
        )
        chosen.append(row)
    return tuple(chosen)


def exclude_known_questions(
    questions: Sequence[Example], train: Sequence[Example], set_aside: Sequence[Example]
) -> tuple[Example, ...]:
    """Returns the questions, each once, that are not in the dataset and are not near copies of rows that were set
    aside."""
    in_use = {*question_keys(train), *question_keys(set_aside)}
    fresh: dict[bytes, Example] = {}
    for key, row in zip(question_keys(questions), questions, strict=True):
        if key not in in_use:
            fresh[key] = row
    # The rows set aside come first: a group that one of them is in is closed to the rest.
    rows = [*set_aside, *fresh.values()]
    texts = [question_text(row) for row in rows]
    keys = question_keys(rows)
    groups = find_near_copies(texts, keys).groups
    count = len(set_aside)
    groups_set_aside = set(groups[:count])
    unknown = []
    for row, group in zip(fresh.values(), groups[count:], strict=True):
        if group not in groups_set_aside:
            unknown.append(row)
    return tuple(unknown)


def choose_unlabelled(
    questions: Sequence[Example], train: Sequence[Example], count: int, seed: int, encoder: Encoder
) -> tuple[ChosenRow, ...]:
    """Chooses the unlabelled rows whose labels would teach most, judging by a linear classifier on embeddings that is
    fitted to the training rows."""
    import numpy as np

    from trainers.encoders.classifier import fit_head

    fitted = sample_examples(train, seed, MOST_FITTED)
    unlabelled = sample_examples(questions, seed, MOST_CHOSEN_FROM)
    texts = [text_of(row) for row in (*fitted, *unlabelled)]
    vectors = encoder.embed(texts)
    fitted_vectors = vectors[: len(fitted)]
    unlabelled_vectors = vectors[len(fitted) :]
    labels = [label_of(row) for row in fitted]
    head = fit_head(fitted_vectors, labels, seed=seed)
    chances = head.probabilities(unlabelled_vectors)
    # A row is doubtful if its likeliest label is hardly likelier than the next one.
    ascending = np.sort(chances, axis=1)
    likeliest = ascending[:, -1]
    next_likeliest = ascending[:, -2]
    doubts = 1 - (likeliest - next_likeliest)
    keys = question_keys(unlabelled)
    chosen = []
    for index in choose_diverse(unlabelled_vectors, doubts, count):
        best = int(chances[index].argmax())
        row = ChosenRow(
            key=keys[index],
            text=question_text(unlabelled[index]),
            given=None,
            likely=head.labels[best],
        )
        chosen.append(row)
    return tuple(chosen)


def sample_examples(rows: Sequence[Example], seed: int, most: int) -> tuple[Example, ...]:
    """Selects at most `most` rows by a hash of seed and question, and keeps their order."""
    if len(rows) <= most:
        return tuple(rows)
    salt = str(seed).encode()
    keys = question_keys(rows)

    def salted(row: int) -> bytes:
        hashed = hashlib.blake2b(keys[row], key=salt)
        return hashed.digest()

    by_hash = sorted(range(len(rows)), key=salted)
    drawn = by_hash[:most]
    return at(sorted(drawn), rows)


def choose_diverse(vectors: Vectors, doubts: Any, count: int) -> list[int]:
    """Returns the indices of `count` rows: first the most doubtful one, then always the row with the greatest product
    of doubt and distance from the chosen rows. `vectors` must have length 1."""
    import numpy as np

    # The small numbers let distance decide among rows without doubt, and doubt among copies of chosen rows.
    doubt = np.asarray(doubts, dtype=np.float64) + 1e-9  # rows
    distance = np.ones(len(doubt))  # rows; of each from the nearest chosen one
    chosen: list[int] = []
    for _ in range(min(count, len(doubt))):
        worth = doubt * np.maximum(distance, 1e-6)
        worth[chosen] = -1
        index = int(worth.argmax())
        chosen.append(index)
        likeness = vectors @ vectors[index]
        distance = np.minimum(distance, 1 - likeness)
    return chosen
