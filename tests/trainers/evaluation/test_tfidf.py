"""Rung 0: the agreed figures, the same answer twice, and data that is hardly any."""

from __future__ import annotations

import random
from collections import defaultdict
from dataclasses import replace

import pytest

from tests.trainers.evaluation.builders import banking, example, needs_banking, rows
from trainers.dataset import Example
from trainers.evaluation import tfidf
from trainers.evaluation.tfidf import classify_holdout
from trainers.types import Message


def texts(train: tuple[Example, ...], asked: tuple[Example, ...]) -> list[str]:
    return [reply.text for reply in classify_holdout(train, asked, seed=7)]


@pytest.mark.slow
@needs_banking
def test_all_rows_of_banking77_give_the_published_share() -> None:
    test = banking("test.csv")

    said = texts(banking("train.csv"), test)

    right = sum(text == row.answer for text, row in zip(said, test, strict=True))
    assert right / len(test) == pytest.approx(0.912, abs=0.008)


@needs_banking
def test_ten_rows_a_label_of_banking77_give_the_published_share() -> None:
    by_label = defaultdict(list)
    for row in banking("train.csv"):
        by_label[row.answer].append(row)
    test, shares = banking("test.csv"), []
    for seed in range(3):
        chance = random.Random(seed)
        few = [row for label in sorted(by_label) for row in chance.sample(by_label[label], 10)]
        said = classify_holdout(few, test, seed)
        shares.append(sum(r.text == e.answer for r, e in zip(said, test, strict=True)) / len(test))

    assert sum(shares) / 3 == pytest.approx(0.729, abs=0.015)


def test_it_learns_what_words_tell_and_says_so_twice_alike() -> None:
    train, asked = rows(90), rows(30, seed=1)

    first = classify_holdout(train, asked, seed=7)

    assert [reply.text for reply in first] == [e.answer for e in asked] == texts(train, asked)
    assert all(reply.prompt_tokens == reply.completion_tokens == 0 for reply in first)
    assert all(0 < reply.seconds < 1 for reply in first)


def test_of_one_label_it_says_that_one() -> None:
    assert texts(rows(5, ["refund"]), rows(3)) == ["refund"] * 3


def test_a_label_with_a_single_row_can_be_answered() -> None:
    train = (*rows(60), example("llamas eat grass", "zoo"))

    assert texts(train, (example("do llamas eat?", "zoo"),)) == ["zoo"]


def test_empty_questions_get_the_most_frequent_label() -> None:
    empty = tuple(example("", label) for label in ("b", "a", "a", "b", "b"))

    assert texts(empty, (example("", "?"), example("hello", "?"))) == ["b", "b"]
    assert len(texts((*rows(30), *empty), (example(" \n", "?"),))) == 1


@pytest.mark.parametrize("question", ["?!", "退款 在 哪里", "🙂", "a"])
def test_any_writing_is_a_question(question: str) -> None:
    train = (example(question, "odd"), example(question * 2, "odd"), example("9", "even"))

    assert texts(train, (example(question, "?"),)) == ["odd"]


def test_instructions_are_no_part_of_the_question() -> None:
    train = tuple(
        replace(row, messages=(Message("system", "refund refund refund"), *row.messages)) for row in rows(60)
    )

    assert texts(train, (example("card stolen", "?", system="refund refund"),)) == ["card"]


def test_very_much_text_is_looked_at_by_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfidf, "MOST_IN_PIECES", 100)

    assert texts(rows(90), rows(30, seed=1)) == [e.answer for e in rows(30, seed=1)]
    assert texts((example("?!", "odd"), example("a", "even")), (example("!", "?"),)) == ["odd"]


def test_nobody_asked_is_nobody_answered_and_no_rows_are_refused() -> None:
    assert texts(rows(9), ()) == []
    with pytest.raises(ValueError, match="no rows to train on"):
        classify_holdout((), rows(1), seed=7)
