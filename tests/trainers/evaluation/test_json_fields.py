"""The free candidates for answers in JSON: what a field is, what is learned of it, and what an answer looks like."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.trainers.evaluation.builders import make_example, make_orders
from trainers.dataset import Example
from trainers.encoders import json_fields as of_encoder
from trainers.encoders.embedding import TextEncoder, load_encoder
from trainers.evaluation.json_fields import MOST_LEARNED, classify_holdout, read_fields
from trainers.evaluation.scores import json_share

SEED = 7


@pytest.fixture(scope="module")
def encoder() -> TextEncoder:
    return load_encoder()


def row(text: str, answer: Any) -> Example:
    return make_example(text, answer if isinstance(answer, str) else json.dumps(answer))


def share(rows: tuple[Example, ...], texts: list[str]) -> float:
    return sum(json_share(row.answer, text) for row, text in zip(rows, texts, strict=True)) / len(rows)


def test_fields_are_learned_from_words_and_an_orders_own_number_is_copied() -> None:
    train, held = make_orders(200), make_orders(60, seed=1)
    replies = classify_holdout(train, held, SEED)
    answers = [json.loads(reply.text) for reply in replies]
    wanted = [json.loads(row.answer) for row in held]
    for name in ("order", "goods", "quantity", "urgent"):
        right = sum(
            answer.get(name) == right.get(name) for answer, right in zip(answers, wanted, strict=True)
        )
        assert right >= 0.9 * len(held), name
    assert all(reply.prompt_tokens == reply.completion_tokens == 0 for reply in replies)
    floor = share(held, [read_fields(train).usual_answer] * len(held))
    assert floor < 0.5 < share(held, [reply.text for reply in replies])


def test_the_same_rows_and_seed_give_the_same_answers() -> None:
    train, held = make_orders(90), make_orders(30, seed=1)
    first, again = (classify_holdout(train, held, SEED) for _ in range(2))
    assert [reply.text for reply in first] == [reply.text for reply in again]


@pytest.mark.deep
def test_the_encoder_learns_the_same_fields(encoder: TextEncoder) -> None:
    train, held = make_orders(70), make_orders(30, seed=1)
    texts = [reply.text for reply in of_encoder.classify_holdout(encoder, train, held, SEED)]
    assert share(held, texts) > 0.7
    assert all(type(json.loads(text)["quantity"]) is int for text in texts)


@pytest.mark.parametrize("value", [3, 3.5, True, False, None, "3", "", [], ["a", "b"], [{"a": 1}], {}])
def test_a_value_keeps_its_type(value: Any) -> None:
    table = read_fields([row(f"text {number}", {"field": value}) for number in range(3)])
    assert json.loads(table.usual_answer) == {"field": value}
    assert type(json.loads(table.usual_answer)["field"]) is type(value)


def test_true_1_and_the_text_1_are_three_values_and_1_and_1_0_are_one() -> None:
    values: list[Any] = [True, 1, "1", 1.0, 1.0]
    (field,) = read_fields([row("text", {"field": value}) for value in values]).fields
    assert field.values == ("true", "1.0", '"1"', "1.0", "1.0")


def test_texts_that_count_as_equal_get_their_commonest_spelling() -> None:
    answers = ["Paid", "paid", "PAID", "paid", "open"]
    (field,) = read_fields([row("text", {"state": answer}) for answer in answers]).fields
    assert field.values == ('"paid"',) * 4 + ('"open"',)


def test_a_missing_field_is_a_value_and_nested_fields_are_apart() -> None:
    rows = [
        row("text", {"to": {"city": "Ulm", "zip": None}}),
        row("text", {"to": {"city": "Ulm"}}),
        row("text", {}),
    ]
    table = read_fields(rows)
    assert {field.path: field.values for field in table.fields} == {
        ("to", "city"): ('"Ulm"', '"Ulm"', ""),
        ("to", "zip"): ("null", "", ""),
    }
    assert table.usual_answer == '{"to": {"city": "Ulm"}}'


def test_an_answer_without_an_object_is_learned_as_it_is() -> None:
    rows = [row("nothing here", "none")] * 12 + [row("a parcel for Ulm", {"city": "Ulm"})] * 12
    questions = (row("nothing here", "none"), row("a parcel for Ulm", {"city": "Ulm"}))
    assert [reply.text for reply in classify_holdout(rows, questions, SEED)] == ["none", '{"city": "Ulm"}']


def test_what_is_inside_a_field_outweighs_that_the_field_is_null() -> None:
    rows = [row("text", {"to": None}), row("text", {"to": {"city": "Ulm"}})]
    assert read_fields(rows).answer(["null", '"Ulm"']) == '{"to": {"city": "Ulm"}}'
    assert read_fields(rows[::-1]).answer(['"Ulm"', "null"]) == '{"to": {"city": "Ulm"}}'


def test_a_field_that_the_text_says_nothing_about_gets_its_commonest_value() -> None:
    rows = [
        row(f"word{number % 9} again", {"coin": "heads" if number % 3 else "tails"}) for number in range(90)
    ]
    noise = [
        row(f"unlike{number}", {"coin": "tails" if number % 10 == 0 else "heads"}) for number in range(60)
    ]
    assert {reply.text for reply in classify_holdout(noise, rows[:20], SEED)} == {'{"coin": "heads"}'}


def test_answers_with_a_key_of_their_own_in_each_row_stay_within_bounds() -> None:
    rows = [
        row(f"text {number}", {f"key {number}": 1, "kind": "a" if number % 2 else "b"})
        for number in range(80)
    ]
    table = read_fields(rows)
    assert len(table.fields) > MOST_LEARNED and json.loads(table.usual_answer) == {"kind": "a"}
    (reply,) = classify_holdout(rows, rows[:1], SEED)
    assert json.loads(reply.text).keys() == {"kind"}


def test_texts_without_a_word_get_the_commonest_values() -> None:
    rows = [row(" ", {"a": 1}), row("", {"a": 1}), row("", {"a": 2})]
    assert [reply.text for reply in classify_holdout(rows, rows[:2], SEED)] == ['{"a": 1}'] * 2


def test_without_rows_there_is_nothing_to_learn() -> None:
    with pytest.raises(ValueError, match="no rows to train on"):
        classify_holdout((), make_orders(1), SEED)
