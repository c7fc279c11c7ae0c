"""Rows judged by the others: all three ways find what was planted, better than a plain logistic regression."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest

from benchmarks._planted import make_texts, margins_of, mislabel, rank_by_margin
from tests.trainers.evaluation.builders import example, rows
from trainers.dataset import Example
from trainers.dataset.slow_checks import suspect_labels
from trainers.evaluation import tfidf as judging
from trainers.evaluation.tfidf import out_of_fold
from trainers.types import Message


@pytest.fixture(params=["kernel", "svm", "ridge"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    few = 10**6 if request.param == "kernel" else 0
    monkeypatch.setattr(judging, "FEW_ROWS", few)
    monkeypatch.setattr(judging, "FEW_LETTERS", few)
    if request.param == "ridge":
        monkeypatch.setattr(judging, "MOST_FOR_SVM", 0)


def test_a_row_gets_the_label_of_its_like_and_a_wrong_one_has_the_worst_margin() -> None:
    train = list(rows(120))
    train[0] = replace(train[0], messages=(train[0].messages[0], Message("assistant", "login")))

    labels, scores = out_of_fold(train, seed=7)

    assert labels == ("card", "login", "refund")
    assert [labels[i] for i in scores.argmax(axis=1)] == [e.answer for e in rows(120)]
    assert margins_of(scores, [labels.index(e.answer) for e in train]).argmin() == 0


def test_copies_of_a_question_do_not_vouch_for_each_other() -> None:
    wrong = example("my card was stolen, a new card", "login")

    labels, scores = out_of_fold((*rows(120), wrong, replace(wrong, line=200)), seed=7)

    assert (scores[-2:].argmax(axis=1) != labels.index("login")).all()


def test_a_label_that_only_the_rows_own_fold_has_is_not_judged() -> None:
    lonely = (example("llamas eat grass", "zoo"), example("pay tax", "tax"), example("how much tax", "tax"))

    labels, scores = out_of_fold((*rows(60), *lonely), seed=7)

    assert np.isinf(scores[60, labels.index("zoo")])
    assert np.isfinite(scores[61, labels.index("tax")])


@pytest.mark.parametrize("few", [rows(1), rows(5, ["refund"]), rows(10, "abcdefghij"), rows(2, ["a", "b"])])
def test_it_takes_whatever_there_is(few: tuple[Example, ...]) -> None:
    labels, scores = out_of_fold(few, seed=7)

    assert scores.shape == (len(few), len(labels))
    assert not np.isnan(scores).any()


def test_nothing_to_judge_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        out_of_fold((), seed=7)


@pytest.mark.parametrize(("labels", "of_each"), [(2, 250), (6, 80), (150, 10)])
def test_planted_errors_are_found_as_well_as_by_logistic_regression(labels: int, of_each: int) -> None:
    made, wrong = mislabel(make_texts(labels, of_each, seed=1), 0.05, seed=1)

    names, scores = out_of_fold(made, seed=7)
    found, errors = suspect_labels([e.answer for e in made], names, scores)

    listed = [doubt.row for doubt in found]
    theirs = rank_by_margin(made)[: len(listed)]
    assert len(wrong & set(listed)) >= len(wrong & set(theirs))
    assert errors.is_told
    assert errors.expected == pytest.approx(len(wrong & set(listed)), abs=0.15 * len(listed) + 3)


def test_labels_that_say_nothing_of_the_texts_are_not_judged() -> None:
    chance = random.Random(3)
    made = [example(row.prompt[-1].content, chance.choice("ab"), row.line) for row in rows(400)]

    names, scores = out_of_fold(made, seed=7)
    _, errors = suspect_labels([e.answer for e in made], names, scores)

    assert not errors.is_told
