"""Out-of-fold scores: all three classifiers find planted errors, as well as a plain logistic regression does."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from benchmarks._planted import make_texts, margins_of, mislabel, rank_by_margin
from tests.trainers.evaluation.builders import make_example, make_rows
from trainers.dataset.slow_checks import suspect_labels
from trainers.evaluation import out_of_fold as module
from trainers.evaluation.out_of_fold import out_of_fold
from trainers.types import Message

CLASSIFIERS = ("kernel", "svm", "ridge")


def use_classifier(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes `out_of_fold` take this classifier for any number of rows."""
    few = 10**6 if name == "kernel" else 0
    monkeypatch.setattr(module, "FEW_ROWS", few)
    monkeypatch.setattr(module, "FEW_LETTERS", few)
    if name == "ridge":
        monkeypatch.setattr(module, "MOST_FOR_SVM", 0)


@pytest.fixture(params=CLASSIFIERS)
def classifier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    use_classifier(request.param, monkeypatch)


@pytest.mark.usefixtures("classifier")
def test_a_row_is_scored_by_similar_rows_and_neither_by_itself_nor_by_its_copies() -> None:
    correct = make_rows(120)
    mislabelled = replace(correct[0], messages=(correct[0].messages[0], Message("assistant", "login")))
    copied = make_example("my card was stolen, a new card", "login")
    rows = (mislabelled, *correct[1:], copied, replace(copied, line=200))
    labels, scores = out_of_fold(rows, seed=7)
    assert labels == ("card", "login", "refund")
    assert [labels[i] for i in scores[:120].argmax(axis=1)] == [row.answer for row in correct]
    assert margins_of(scores[:120], [labels.index(row.answer) for row in rows[:120]]).argmin() == 0
    assert (scores[-2:].argmax(axis=1) != labels.index("login")).all()


@pytest.mark.usefixtures("classifier")
def test_a_label_that_only_the_rows_own_fold_has_is_not_judged() -> None:
    tax = (make_example("pay tax", "tax"), make_example("how much tax", "tax"))
    labels, scores = out_of_fold((*make_rows(60), make_example("llamas eat grass", "zoo"), *tax), seed=7)
    assert np.isinf(scores[60, labels.index("zoo")])
    assert np.isfinite(scores[61, labels.index("tax")])


@pytest.mark.usefixtures("classifier")
def test_very_few_rows_and_single_labels_are_scored() -> None:
    for rows in (
        make_rows(1),
        make_rows(5, ["refund"]),
        make_rows(10, "abcdefghij"),
        make_rows(2, ["a", "b"]),
    ):
        labels, scores = out_of_fold(rows, seed=7)
        assert scores.shape == (len(rows), len(labels))
        assert not np.isnan(scores).any()


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        out_of_fold((), seed=7)


def test_few_rows_have_the_features_that_scikit_learn_counts() -> None:
    texts = ["I am a card, a lost card", "a b", "C# is no card!"]
    rows = module._features(texts)
    assert module._products(texts) == pytest.approx((rows @ rows.T).toarray(), abs=1e-5)


@pytest.mark.parametrize(
    ("classifier", "labels", "rows_per_label"),
    [("kernel", 6, 40), ("svm", 2, 150), ("svm", 6, 50), ("ridge", 30, 10)],
)
def test_planted_errors_are_found_as_well_as_by_logistic_regression(
    classifier: str, labels: int, rows_per_label: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_classifier(classifier, monkeypatch)
    rows, wrong = mislabel(make_texts(labels, rows_per_label, seed=1), 0.05, seed=1)
    names, scores = out_of_fold(rows, seed=7)
    suspects, estimate = suspect_labels([row.answer for row in rows], names, scores)
    listed = {suspect.row for suspect in suspects}
    baseline = rank_by_margin(rows)[: len(listed)]
    assert len(wrong & listed) >= len(wrong & set(baseline)) > 0
    assert estimate.is_told
    assert estimate.expected == pytest.approx(len(wrong & listed), abs=0.15 * len(listed) + 3)


@pytest.mark.usefixtures("classifier")
def test_labels_that_have_nothing_to_do_with_the_texts_are_not_judged() -> None:
    chance = random.Random(3)
    rows = [make_example(row.prompt[-1].content, chance.choice("ab"), row.line) for row in make_rows(200)]
    names, scores = out_of_fold(rows, seed=7)
    _, estimate = suspect_labels([row.answer for row in rows], names, scores)
    assert not estimate.is_judged and not estimate.is_told
