"""Retrieval with the real encoder: the nearest rows and passages, how many are shown, and how often they help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.trainers.evaluation.builders import example, rows
from trainers.encoders.embedding import TextEncoder, load_encoder
from trainers.evaluation import retrieval
from trainers.evaluation.retrieval import Nearest, nearest_examples, nearest_passages, open_library

PASSAGES = (
    "We open at nine.",
    "Money is paid back within ten days of receiving the returned item.",
    "Cards are free.",
    "A broken device is repaired at no charge for two years.",
)


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_encoder()


def answers(nearest: Nearest) -> list[list[str]]:
    return [[row.answer for row in shown] for shown in nearest.rows]


def test_a_question_in_other_words_finds_its_row(encoder: TextEncoder) -> None:
    """No word but stop words is shared, so that words alone find nothing."""
    llama = example("do llamas eat grass", "zoo")
    question = example("which feed suits an alpaca", "?")

    nearest = nearest_examples((*rows(60), llama), [question], encoder, has_labels=False)

    assert nearest.rows[0][0] == llama
    library = open_library(["do llamas eat grass"], encoder)
    assert library._by_words(["which feed suits an alpaca"]) == [()]


def test_a_number_is_found_by_words(encoder: TextEncoder) -> None:
    texts = [f"order TP-{number} has not arrived" for number in range(81_400, 81_500)]

    assert open_library(texts, encoder).search(["what became of TP-81442?"])[0][0] == 42


def test_rows_with_tools_are_left_out_and_few_rows_are_enough(encoder: TextEncoder) -> None:
    tools = replace(example("call", "x"), row=b"{}")

    assert [
        len(shown)
        for shown in answers(nearest_examples((*rows(2), tools), rows(4), encoder, has_labels=True))
    ] == [2] * 4
    assert nearest_examples((), rows(2), encoder, has_labels=True).rows == ((), ())
    assert nearest_examples(rows(5), (), encoder, has_labels=True).rows == ()


@pytest.mark.parametrize("question", ["", "?!", "退款"])
def test_a_question_like_nothing_still_gets_rows(question: str, encoder: TextEncoder) -> None:
    (shown,) = nearest_examples(rows(5), [example(question, "?")], encoder, has_labels=False).rows

    assert len(set(shown)) == 5


@pytest.mark.parametrize(
    ("text", "query"), [("我想要退款", "退款"), ("返金してください", "返金は?"), ("ขอคืนเงิน", "คืนเงิน")]
)
def test_words_are_found_where_no_spaces_part_them(text: str, query: str, encoder: TextEncoder) -> None:
    library = open_library(["plain words", text, "退货地址", "注文の変更"], encoder)

    assert library._by_words([query])[0][0] == 1


def test_texts_without_words_are_no_trouble(encoder: TextEncoder) -> None:
    assert sorted(open_library(["", "?!", "  "], encoder).search(["hello"])[0]) == [0, 1, 2]


def test_how_often_the_right_label_is_among_the_rows_is_counted(encoder: TextEncoder) -> None:
    held = (*rows(9, seed=1), example("do llamas eat grass", "zoo"))

    nearest = nearest_examples(rows(60), held, encoder, has_labels=True)

    about = nearest.retrieval
    assert (about.kind, about.texts, about.read, about.hits, about.asked) == ("examples", 60, 60, 9, 10)
    assert [row.answer in shown for row, shown in zip(held, answers(nearest), strict=True)] == [True] * 9 + [
        False
    ]


def test_no_more_rows_are_shown_than_find_the_label(encoder: TextEncoder) -> None:
    """Each label has words of its own, so five rows find what twenty do; copies of a row's question don't count."""
    assert nearest_examples(rows(60), rows(3, seed=2), encoder, has_labels=True).retrieval.k == 5
    # answers by turns: which row is near says nothing, and more rows hit more labels
    mixed = [
        replace(row, messages=example(row.prompt[-1].content, f"l{n % 20}").messages)
        for n, row in enumerate(rows(60))
    ]
    assert nearest_examples(mixed, rows(3, seed=2), encoder, has_labels=True).retrieval.k == 20
    assert nearest_examples(rows(60), rows(3, seed=2), encoder, has_labels=False).retrieval.k == 10


def test_a_passage_in_other_words_is_found(encoder: TextEncoder) -> None:
    question = example("how long until I get my refund", "It takes a while.")

    nearest = nearest_passages(PASSAGES, rows(30), [question], encoder, has_labels=False)

    assert nearest.passages[0][0] == PASSAGES[1]
    assert (nearest.retrieval.texts, nearest.retrieval.asked) == (4, 0)


def test_passages_are_counted_where_they_hold_the_answer(encoder: TextEncoder) -> None:
    many = (*PASSAGES, *(f"Shop number {n} is in street {n}." for n in range(40)))
    held = [
        example("how long until I get my refund", "within ten days"),
        example("where do I find shop 7", "Street 7."),
        example("hello", "nobody wrote this"),
        example("which shop", "shop number"),  # stands nearly everywhere, so that it says nothing
    ]

    about = nearest_passages(many, [], held, encoder, has_labels=False).retrieval

    assert (about.hits, about.asked, about.k) == (2, 2, 4)
    assert nearest_passages(many, [], held, encoder, has_labels=True).retrieval.asked == 0


def test_held_out_questions_that_stand_in_the_documents_are_counted(encoder: TextEncoder) -> None:
    held = [
        example("How long is it until I get my refund?", "Ten days."),
        example("when does shop 7 open on Sundays", "At noon."),
        example("which shop", "Shop 7."),
    ]
    export = "Ticket 12\nhow long is it, until I get my refund\nTen days.\n\nWhich shop? Shop 7."

    about = nearest_passages((*PASSAGES, export), [], held, encoder, has_labels=False).retrieval

    assert about.copied == 1


def test_how_many_passages_is_chosen_on_training_rows(encoder: TextEncoder) -> None:
    many = tuple(f"Shop number {n} is in street {n}." for n in range(40))
    train = [example(f"in which street is shop number {n}?", f"street {n}") for n in range(40)]

    assert nearest_passages(many, train, [], encoder, has_labels=False).retrieval.k == 2


def test_what_is_too_much_to_read_is_compared_by_words_alone(
    encoder: TextEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "MOST_LETTERS", 1_000)

    nearest = nearest_examples(rows(60), rows(3, seed=3), encoder, has_labels=True)

    assert 10 < nearest.retrieval.read < 60 == nearest.retrieval.texts
    assert nearest == nearest_examples(rows(60), rows(3, seed=3), encoder, has_labels=True)
