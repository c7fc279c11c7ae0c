"""The nearest rows and passages; documents cut into passages."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.trainers.measuring.made import example, rows
from trainers.evaluation.tfidf import nearest, nearest_passages, passages_of


def test_the_nearest_rows_come_first() -> None:
    train = (*rows(60), example("do llamas eat grass", "zoo"))

    (found,) = nearest(train, [example("llamas eating grass?", "?")], 3)

    assert found[0].answer == "zoo"
    assert len(found) == 3


def test_there_are_never_more_than_there_are_rows_and_none_with_tools() -> None:
    tools = replace(example("call", "x"), row=b"{}")

    assert [len(found) for found in nearest((*rows(2), tools), rows(4), 10)] == [2] * 4
    assert nearest((), rows(2), 3) == ((), ())
    assert nearest(rows(5), (), 3) == ()
    assert nearest(rows(5), rows(1), 0) == ((),)


@pytest.mark.parametrize("question", ["", "?!", "退款"])
def test_a_question_like_nothing_still_gets_rows(question: str) -> None:
    ((first, second),) = nearest(rows(5), [example(question, "?")], 2)

    assert first != second


def test_empty_rows_are_no_trouble() -> None:
    empty = tuple(example("", "a", line) for line in range(3))

    assert nearest(empty, [example("hello", "?")], 2) == ((empty[0], empty[1]),)


def test_the_nearest_passages_come_first() -> None:
    passages = ("We open at nine.", "Refunds take ten days.", "Cards are free.")

    (found,) = nearest_passages(passages, [example("how long does a refund take", "?")], 2)

    assert found[0] == "Refunds take ten days."
    assert nearest_passages((), rows(2), 2) == ((), ())


def test_short_paragraphs_share_a_passage_and_long_ones_do_not() -> None:
    short, long = "Opening hours.", "word " * 117 + "end."

    assert passages_of(f"{short}\r\n\r\n{short}\n \n{long}\n\n{short}") == (
        f"{short}\n\n{short}",
        f"{long}\n\n{short}",
    )


def test_a_long_paragraph_is_cut_between_sentences_and_a_long_sentence_between_words() -> None:
    sentence = "one two three four five six seven eight nine ten. "
    cut = passages_of(sentence * 30)
    assert [len(passage.split()) for passage in cut] == [120, 120, 60]
    assert all(passage.endswith("ten.") for passage in cut)

    endless = passages_of("word " * 1_000)
    assert [len(passage.split()) for passage in endless] == [120] * 8 + [40]


def test_no_word_is_lost_or_said_twice() -> None:
    text = "\n\n".join(" ".join(f"w{p}x{i}{'.' * (i % 7 == 0)}" for i in range(p * 13)) for p in range(1, 40))

    assert " ".join(passages_of(text)).split() == text.split()
    assert max(len(passage.split()) for passage in passages_of(text)) <= 120


@pytest.mark.parametrize("text", ["", " \n\n\t \n\n"])
def test_nothing_has_no_passages(text: str) -> None:
    assert passages_of(text) == ()
