"""The score of an answer, and the kind of score that fits the data."""

from __future__ import annotations

import json

import pytest

from tests.trainers.evaluation.builders import make_example, make_rows
from trainers.dataset import Example
from trainers.evaluation.results import Scoring
from trainers.evaluation.scores import is_unread, score, scoring_of

LABELS = ("card", "login", "refund")


@pytest.mark.parametrize(
    ("examples", "expected"),
    [
        (make_rows(30), "label"),
        ([make_example("q", '{"a": 1}')] * 10, "json"),
        ([*[make_example("q", ' {"a": 1}')] * 9, make_example("q", "none")], "json"),
        ([*[make_example("q", '{"a": 1}')] * 8, *make_rows(2)], "label"),
        ([make_example("q", '{"a": 1} and more')] * 10, "label"),
        ([make_example("q", "[1]")] * 10, "label"),
        ((), "label"),
    ],
)
def test_json_is_scored_by_its_fields_and_labels_by_match(examples: list[Example], expected: Scoring) -> None:
    assert scoring_of(examples, "labels") == expected


def test_free_text_is_scored_by_its_words() -> None:
    assert scoring_of(make_rows(3), "free_text") == "f1"


@pytest.mark.parametrize(
    ("text", "expected"),
    [("refund", 1.0), ("Label: Refund.", 1.0), ("card", 0.0), ("refund or card", 0.0), ("", 0.0)],
)
def test_a_label_is_right_or_wrong(text: str, expected: float) -> None:
    assert score("label", "refund", text, LABELS) == expected


def test_an_expected_answer_outside_the_known_labels_can_be_right() -> None:
    assert score("label", "chargeback", "Chargeback", LABELS) == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1, "b": {"c": "x", "d": [1, 2]}}', 1.0),
        ('```json\n{"b": {"d": [1, 2], "c": " X "}, "a": 1.0}\n```', 1.0),
        ('{"a": 2, "b": {"c": "x", "d": [1, 2]}}', 2 / 3),
        ('{"a": 1, "b": {"c": "x", "d": [2, 1]}}', 2 / 3),
        ('{"a": true, "b": {"c": "x"}}', 1 / 3),
        ('{"a": "1"}', 0.0),
        ('{"a": 1, "e": 5}', 1 / 4),
        ("I'm sorry, I can't.", 0.0),
        ("", 0.0),
    ],
)
def test_json_scores_the_share_of_its_fields(text: str, expected: float) -> None:
    assert score("json", '{"a": 1, "b": {"c": "x", "d": [1, 2]}}', text, ()) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "expected"), [("None.", 1.0), ("no order", 0.0), ('{"a": 1}', 0.0), ("", 0.0)]
)
def test_a_row_that_expects_no_object_among_rows_of_json_can_be_right(text: str, expected: float) -> None:
    assert score("json", "none", text, ()) == expected


def test_an_empty_object_is_right_only_if_it_is_expected() -> None:
    assert score("json", "{}", "{}", ()) == 1.0
    assert score("json", "{}", '{"a": {}}', ()) == 0.0


@pytest.mark.parametrize(
    ("expected", "text", "share"),
    [
        ("The Eiffel Tower!", "eiffel tower", 1.0),
        ("in Paris", "Paris, France", 0.5),
        # as in SQuAD: without articles, and shared words count as often as both have them
        ("a b b c", "b b b", 2 * 2 / 6),
        ("yes", "no", 0.0),
        ("", "", 1.0),
        ("the", "...", 1.0),
        ("yes", "", 0.0),
        ("退款需要十天", "退款十天", 2 * 4 / 10),
    ],
)
def test_free_text_scores_shared_words_as_squad_does(expected: str, text: str, share: float) -> None:
    assert score("f1", expected, text, ()) == pytest.approx(share)


def test_thoughts_do_not_count_as_words_of_the_answer() -> None:
    assert score("f1", "It is on its way.", "<think>Which order?</think>It is on its way.", ()) == 1.0


def test_a_judges_score_cannot_be_computed_without_its_verdict() -> None:
    with pytest.raises(ValueError, match=r"needs the judge.s verdicts"):
        score("judge", "a", "a", ())


@pytest.mark.parametrize(
    ("scoring", "text", "expected"),
    [
        ("label", "no idea", True),
        ("label", "refund", False),
        ("json", "no idea", True),
        ("json", "{}", False),
        ("f1", "no idea", False),
    ],
)
def test_answers_that_cannot_be_read_are_detected(scoring: Scoring, text: str, expected: bool) -> None:
    assert is_unread(scoring, text, LABELS) is expected


def make_call(name: str, arguments: str, text: str = "") -> str:
    call = {"id": "other", "type": "function", "function": {"name": name, "arguments": arguments}}
    return f"{text}\n{json.dumps([call])}".lstrip("\n")


CALL = make_call("order", '{"id": 7, "full": true}', "Let me look.")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (CALL, 1.0),
        (make_call("order", '{"full": true, "id": 7.0}'), 1.0),
        (make_call("order", '{"id": 8, "full": true}'), 0.0),
        (make_call("order", '{"id": 7}'), 0.0),
        (make_call("orders", '{"id": 7, "full": true}'), 0.0),
        (make_call("order", "not JSON"), 0.0),
        (f"{json.dumps(json.loads(make_call('order', '{}')) * 2)}", 0.0),
        ("Order 7 is on its way.", 0.0),
        ("", 0.0),
    ],
)
def test_a_call_is_right_in_its_name_and_all_its_arguments(text: str, expected: float) -> None:
    assert score("calls", CALL, text, ()) == score("f1", CALL, text, ()) == expected


def test_calls_may_come_in_any_order_and_no_call_is_right_if_none_is_expected() -> None:
    first, second = (json.loads(make_call("order", f'{{"id": {number}}}'))[0] for number in (1, 2))
    assert score("calls", json.dumps([first, second]), json.dumps([second, first]), ()) == 1.0
    assert score("calls", json.dumps([first, first]), json.dumps([first, second]), ()) == 0.0
    assert score("calls", "Which order?", "Tell me its number.", ()) == 1.0
    assert score("calls", "Which order?", CALL, ()) == 0.0


def test_rows_of_calls_are_scored_as_calls() -> None:
    assert (
        scoring_of([make_example("q", CALL)] * 9 + [make_example("q", "Which order?")], "free_text")
        == "calls"
    )
    assert (
        scoring_of([make_example("q", CALL)] * 5 + [make_example("q", "Which order?")] * 5, "free_text")
        == "f1"
    )
    assert is_unread("calls", "Order 7 is on its way.", ()) and not is_unread("calls", CALL, ())
