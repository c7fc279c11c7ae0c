"""The plain instruction for answers in JSON: names and kinds of fields, the most frequent first, and never a value."""

from __future__ import annotations

import json

import pytest

from tests.trainers.evaluation.builders import make_example, make_orders
from trainers.dataset.rows import REPLY
from trainers.evaluation.answer_format import (
    ANSWER,
    LONGEST_SHAPE,
    MOST_FIELDS,
    SOME_FIELDS,
    answer_format,
)
from trainers.evaluation.prompt_search import search_task
from trainers.evaluation.prompts import k_shot, trained_prompt, with_passages, zero_shot
from trainers.types import Message


def shape_of(*answers: object) -> str:
    return answer_format(map(json.dumps, answers)).splitlines()[1]


def test_the_fields_of_nested_objects_are_named_and_no_value_is_given() -> None:
    text = answer_format(row.answer for row in make_orders(100))
    shape = (
        '{"order": number, "goods": {"item": text, "colour": text}, "quantity": number, '
        '"urgent": true or false}'
    )
    assert text == f"{ANSWER}\n{shape}\n{SOME_FIELDS}"


def test_the_most_frequent_fields_come_first() -> None:
    assert shape_of({"a": 1}, {"b": 1, "a": 2}, {"b": 2}, {"b": 3}) == '{"b": number, "a": number}'


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("x", "text"),
        (1.5, "number"),
        (False, "true or false"),
        (None, "null"),
        ([], "[…]"),
        (["x", "y"], "[text, …]"),
        ([{"sku": "x", "count": 2}], '[{"sku": text, "count": number}, …]'),
        ({}, "{}"),
    ],
)
def test_the_kind_of_a_value_is_given(value: object, kind: str) -> None:
    assert shape_of({"it": value}) == f'{{"it": {kind}}}'


def test_the_commonest_kind_counts_and_null_only_if_there_is_no_other() -> None:
    assert shape_of({"it": None}, {"it": None}, {"it": 3}) == '{"it": number}'
    assert shape_of({"it": "x"}, {"it": "y"}, {"it": 3}) == '{"it": text}'


def test_fields_that_all_answers_have_are_not_optional() -> None:
    assert SOME_FIELDS not in answer_format(['{"a": 1}', '{"a": 2}'])


def test_answers_without_an_object_say_nothing() -> None:
    assert answer_format([]) == answer_format(["none", "no order"]) == answer_format(["{}"]) == ""
    call = '[{"type": "function", "function": {"name": "find", "arguments": "{}"}}]'
    assert answer_format([call]) == ""


def test_names_are_limited_in_number_and_length_and_rare_ones_are_left_out() -> None:
    many = shape_of({f"field {number}": number for number in range(200)})
    assert many.count(": number") == MOST_FIELDS
    keys_of_people = [{"total": 1, f"customer {number}": 2} for number in range(100)]
    assert shape_of(*keys_of_people) == '{"total": number}'
    assert "x" * 81 not in shape_of({"x" * 81: 1, "y": 2})


def test_deep_and_wide_objects_stay_short() -> None:
    value: object = 1
    for level in range(6):
        value = {f"level {level} field {number}": value for number in range(12 if level < 4 else 1)}
    assert len(shape_of(value)) <= LONGEST_SHAPE


FORMAT = answer_format(row.answer for row in make_orders(20))


def test_a_row_without_instructions_of_its_own_gets_the_format_in_every_kind_of_prompt() -> None:
    row = make_example("one desk", "{}")
    assert zero_shot(row, (), None, FORMAT) == (Message("system", FORMAT), Message("user", "one desk"))
    assert k_shot(row, (), None, make_orders(2), FORMAT)[0].content.startswith(f"{FORMAT}\n\n")
    assert with_passages(row, (), None, ["We sell desks."], FORMAT)[0].content.startswith(f"{FORMAT}\n\n")
    assert trained_prompt(row) == (Message("user", "one desk"),)


def test_our_default_instruction_of_a_tables_rows_gives_way_to_the_format() -> None:
    row = make_example("one desk", "{}", system=REPLY)
    assert zero_shot(row, (), None, FORMAT) == (Message("system", FORMAT), Message("user", "one desk"))


def test_instructions_of_a_row_and_a_typed_prompt_stay() -> None:
    row = make_example("one desk", "{}", system="Extract the order.")
    assert zero_shot(row, (), None, FORMAT) == row.prompt
    assert zero_shot(row, (), "Be brief.", FORMAT)[0].content == "Be brief."


def test_a_search_for_a_better_prompt_starts_from_the_format() -> None:
    rows = make_orders(40)
    assert search_task(None, rows, (), 7, FORMAT).start == FORMAT
    assert search_task("Extract it.", rows, (), 7, FORMAT).start == "Extract it."
