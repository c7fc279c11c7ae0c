"""Retrieval with the real encoder: the nearest rows and passages, how many are shown, and how often they help."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.trainers.evaluation.builders import make_example, make_rows
from trainers.encoders.embedding import StoredVectors, load_encoder
from trainers.evaluation import retrieval
from trainers.evaluation.retrieval import Nearest, nearest_examples, nearest_passages, open_library

PASSAGES = (
    "We open at nine.",
    "Money is paid back within ten days of receiving the returned item.",
    "Cards are free.",
    "A broken device is repaired at no charge for two years.",
)
SHOPS = tuple(f"Shop number {n} is in street {n}." for n in range(24))
ROWS, QUESTIONS = make_rows(36), make_rows(3, seed=2)
LLAMA = make_example("do llamas eat grass", "zoo")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> StoredVectors:
    """Reads each text once for all tests."""
    return StoredVectors(load_encoder(), tmp_path_factory.mktemp("vectors") / "vectors.npz")


def shown_answers(nearest: Nearest) -> list[list[str]]:
    return [[row.answer for row in rows] for rows in nearest.rows]


@pytest.mark.deep
def test_a_paraphrased_question_finds_its_row(encoder: StoredVectors) -> None:
    """The texts share no words but stop words, so that words alone find nothing."""
    question = make_example("which feed suits an alpaca", "?")
    nearest = nearest_examples((*ROWS, LLAMA), [question], encoder, has_labels=False)
    assert nearest.rows[0][0] == LLAMA
    assert open_library([LLAMA.prompt[-1].content], encoder)._by_words(["which feed suits an alpaca"]) == [()]


def test_a_number_is_found_by_words(encoder: StoredVectors) -> None:
    texts = [f"order TP-{number} has not arrived" for number in range(81_430, 81_446)]
    assert open_library(texts, encoder).search(["what became of TP-81442?"])[0][0] == 12


def test_rows_with_tools_are_left_out_and_few_rows_are_enough(encoder: StoredVectors) -> None:
    with_tools = replace(make_example("call", "x"), row=b"{}", uses_tools=True)
    nearest = nearest_examples((*ROWS[:2], with_tools), QUESTIONS, encoder, has_labels=True)
    assert [len(rows) for rows in nearest.rows] == [2] * 3
    assert nearest_examples((), QUESTIONS[:2], encoder, has_labels=True).rows == ((), ())
    assert nearest_examples(ROWS[:5], (), encoder, has_labels=True).rows == ()


@pytest.mark.parametrize("question", ["", "?!", "退款"])
def test_a_question_unlike_any_row_still_gets_rows(question: str, encoder: StoredVectors) -> None:
    (rows,) = nearest_examples(ROWS[:5], [make_example(question, "?")], encoder, has_labels=False).rows
    assert len(set(rows)) == 5


@pytest.mark.parametrize(
    ("text", "query"), [("我想要退款", "退款"), ("返金してください", "返金は?"), ("ขอคืนเงิน", "คืนเงิน")]
)
def test_words_are_found_in_scripts_without_spaces(text: str, query: str, encoder: StoredVectors) -> None:
    library = open_library(["plain words", text, "退货地址", "注文の変更"], encoder)
    assert library._by_words([query])[0][0] == 1


def test_texts_without_words_can_be_searched(encoder: StoredVectors) -> None:
    assert sorted(open_library(["", "?!", "  "], encoder).search(["hello"])[0]) == [0, 1, 2]


def test_questions_whose_label_is_among_the_shown_rows_are_counted(encoder: StoredVectors) -> None:
    holdout = (*QUESTIONS, LLAMA)
    nearest = nearest_examples(ROWS, holdout, encoder, has_labels=True)
    about = nearest.retrieval
    assert (about.kind, about.texts, about.read, about.hits, about.asked) == ("examples", 36, 36, 3, 4)
    hits = [row.answer in answers for row, answers in zip(holdout, shown_answers(nearest), strict=True)]
    assert hits == [True, True, True, False]


def test_as_few_rows_are_shown_as_find_the_label(encoder: StoredVectors) -> None:
    """Each label has its own words, so five rows find what twenty do. Copies of a row's question don't count."""
    assert nearest_examples(ROWS, QUESTIONS, encoder, has_labels=True).retrieval.k == 5
    assert nearest_examples(ROWS, QUESTIONS, encoder, has_labels=False).retrieval.k == 10
    # The labels have nothing to do with the texts, so more rows hit more labels.
    mixed = [make_example(row.prompt[-1].content, f"l{n % 12}") for n, row in enumerate(ROWS)]
    assert nearest_examples(mixed, QUESTIONS, encoder, has_labels=True).retrieval.k == 20


def test_a_passage_is_found_by_a_paraphrase(encoder: StoredVectors) -> None:
    question = make_example("how long until I get my refund", "It takes a while.")
    nearest = nearest_passages(PASSAGES, ROWS[:30], [question], encoder, has_labels=False)
    assert nearest.passages[0][0] == PASSAGES[1]
    assert (nearest.retrieval.texts, nearest.retrieval.asked) == (4, 0)


def test_questions_whose_answer_is_in_a_shown_passage_are_counted(encoder: StoredVectors) -> None:
    passages = (*PASSAGES, *SHOPS)
    holdout = [
        make_example("how long until I get my refund", "within ten days"),
        make_example("where do I find shop 7", "Street 7."),
        make_example("hello", "nobody wrote this"),
        make_example("which shop", "shop number"),  # is in nearly all passages, so that it says nothing
    ]

    about = nearest_passages(passages, [], holdout, encoder, has_labels=False).retrieval

    assert (about.hits, about.asked, about.k) == (2, 2, 4)
    assert nearest_passages(passages, [], holdout, encoder, has_labels=True).retrieval.asked == 0


def test_held_out_questions_that_the_documents_contain_are_counted(encoder: StoredVectors) -> None:
    holdout = [
        make_example("How long is it until I get my refund?", "Ten days."),
        make_example("when does shop 7 open on Sundays", "At noon."),
        make_example("which shop", "Shop 7."),
    ]
    export = "Ticket 12\nhow long is it, until I get my refund\nTen days.\n\nWhich shop? Shop 7."
    about = nearest_passages((*PASSAGES, export), [], holdout, encoder, has_labels=False).retrieval
    assert about.copied == 1


def test_the_number_of_passages_is_chosen_on_training_rows(encoder: StoredVectors) -> None:
    train = [make_example(f"in which street is shop number {n}?", f"street {n}") for n in range(24)]
    assert nearest_passages(SHOPS, train, [], encoder, has_labels=False).retrieval.k == 2


def test_texts_beyond_the_limit_are_compared_by_words_alone(
    encoder: StoredVectors, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retrieval, "MOST_LETTERS", 1_000)
    nearest = nearest_examples(ROWS, QUESTIONS, encoder, has_labels=True)
    assert 10 < nearest.retrieval.read < 36 == nearest.retrieval.texts
    assert nearest == nearest_examples(ROWS, QUESTIONS, encoder, has_labels=True)
