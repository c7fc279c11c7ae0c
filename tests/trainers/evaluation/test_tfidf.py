"""Rung 0: the published scores of banking77, the same answer twice, and very few rows."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import pytest

from tests.trainers.dataset.builders import needs_banking77, read_banking77
from tests.trainers.evaluation.builders import make_example, make_rows
from trainers.dataset import Example
from trainers.evaluation import tfidf
from trainers.evaluation.tfidf import classify_holdout
from trainers.types import Message


def classify(train: Sequence[Example], holdout: Sequence[Example], seed: int = 7) -> list[str]:
    return [reply.text for reply in classify_holdout(train, holdout, seed)]


def measure_share(train: Sequence[Example], holdout: Sequence[Example], seed: int = 7) -> float:
    answers = classify(train, holdout, seed)
    return sum(a == row.answer for a, row in zip(answers, holdout, strict=True)) / len(holdout)


@pytest.mark.slow
@needs_banking77
def test_all_rows_of_banking77_give_the_published_share() -> None:
    share = measure_share(read_banking77("train"), read_banking77("test"))
    assert share == pytest.approx(0.912, abs=0.008)


@pytest.mark.deep
@needs_banking77
def test_ten_rows_per_label_of_banking77_give_the_published_share() -> None:
    by_label = defaultdict(list)
    for row in read_banking77("train"):
        by_label[row.answer].append(row)
    shares = []
    for seed in range(3):
        chance = random.Random(seed)
        few = [row for label in sorted(by_label) for row in chance.sample(by_label[label], 10)]
        shares.append(measure_share(few, read_banking77("test")[::3], seed))
    assert sum(shares) / 3 == pytest.approx(0.729, abs=0.015)


def test_it_learns_which_words_go_with_a_label_and_repeats_its_answers() -> None:
    train, holdout = make_rows(90), make_rows(30, seed=1)
    replies = classify_holdout(train, holdout, seed=7)
    assert [reply.text for reply in replies] == [row.answer for row in holdout] == classify(train, holdout)
    assert all(reply.prompt_tokens == reply.completion_tokens == 0 for reply in replies)
    assert all(0 < reply.seconds < 1 for reply in replies)


def test_a_single_label_and_a_label_with_a_single_row_can_be_answered() -> None:
    assert classify(make_rows(5, ["refund"]), make_rows(3)) == ["refund"] * 3
    train = (*make_rows(60), make_example("llamas eat grass", "zoo"))
    assert classify(train, (make_example("do llamas eat?", "zoo"),)) == ["zoo"]


def test_empty_questions_get_the_most_frequent_label() -> None:
    empty = tuple(make_example("", label) for label in ("b", "a", "a", "b", "b"))
    assert classify(empty, (make_example("", "?"), make_example("hello", "?"))) == ["b", "b"]
    assert len(classify((*make_rows(30), *empty), (make_example(" \n", "?"),))) == 1


@pytest.mark.parametrize("question", ["?!", "退款 在 哪里", "🙂", "a"])
def test_questions_in_any_script_are_told_apart(question: str) -> None:
    train = (make_example(question, "odd"), make_example(question * 2, "odd"), make_example("9", "even"))
    assert classify(train, (make_example(question, "?"),)) == ["odd"]


def test_instructions_are_no_part_of_the_question() -> None:
    instructions = Message("system", "refund refund refund")
    train = tuple(replace(row, messages=(instructions, *row.messages)) for row in make_rows(60))
    assert classify(train, (make_example("card stolen", "?", system="refund refund"),)) == ["card"]


def test_very_much_text_is_compared_by_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tfidf, "MOST_IN_PIECES", 100)
    holdout = make_rows(30, seed=1)
    assert classify(make_rows(90), holdout) == [row.answer for row in holdout]
    train = (make_example("?!", "odd"), make_example("a", "even"))
    assert classify(train, (make_example("!", "?"),)) == ["odd"]


def test_without_questions_there_are_no_answers_and_without_rows_a_refusal() -> None:
    assert classify(make_rows(9), ()) == []
    with pytest.raises(ValueError, match="no rows to train on"):
        classify_holdout((), make_rows(1), seed=7)
