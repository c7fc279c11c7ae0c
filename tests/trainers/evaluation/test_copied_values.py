"""Values that stand in the text are copied: which run of words it is, is learnt from its shape and its neighbours."""

from __future__ import annotations

import json
import operator
import random
from typing import Any

import pytest

from tests.trainers.evaluation.builders import make_example
from trainers.dataset import Example
from trainers.evaluation.copied_values import fit_copiers
from trainers.evaluation.json_fields import MOST_LEARNED, classify_holdout
from trainers.evaluation.scores import json_share
from trainers.evaluation.spans import Spans, find_spans

PEOPLE = ("Ana Costa", "Ben Weber", "Cleo Ito", "Dora Silva", "Emil Novak", "Femi Young")
PHRASINGS = (
    "{name} here: order {order} of {day} is late, write to {mail}.",
    "Where is {order}? Ordered on {day}. {name}, {mail}",
    "Not {other} but {order} is the one I mean (bought {day}). {mail} {name}",
)


def make_mails(count: int, seed: int = 0) -> tuple[Example, ...]:
    chance = random.Random(seed)
    rows = []
    for _ in range(count):
        order, other = (f"A-{chance.randint(1000, 9999)}" for _ in range(2))
        name = chance.choice(PEOPLE)
        mail = f"{name.split()[0].lower()}{chance.randint(1, 99)}@post.example"
        day = f"2026-{chance.randint(1, 12):02}-{chance.randint(1, 28):02}"
        is_paid = chance.random() < 0.5
        text = chance.choice(PHRASINGS).format(name=name, order=order, other=other, mail=mail, day=day)
        paid = " It is paid." if is_paid else ""
        answer = {"order": order, "mail": mail, "day": day, "paid": is_paid}
        rows.append(make_example(f"{text}{paid}", json.dumps(answer)))
    return tuple(rows)


def share(rows: tuple[Example, ...], texts: list[str]) -> float:
    return sum(json_share(row.answer, text) for row, text in zip(rows, texts, strict=True)) / len(rows)


def test_numbers_addresses_and_days_are_copied_and_other_fields_classified() -> None:
    train, held = make_mails(150), make_mails(50, seed=1)
    replies = classify_holdout(train, held, 7)
    assert share(held, [reply.text for reply in replies]) > 0.95


def test_a_field_is_copied_though_the_first_answer_has_many_fields_of_its_own() -> None:
    first, *others = make_mails(150)
    own = {f"extra {number}": True for number in range(MOST_LEARNED)}
    first = make_example(first.messages[0].content, json.dumps(own | json.loads(first.answer)))
    held = make_mails(50, seed=1)
    replies = classify_holdout((first, *others), held, 7)
    right = [json.loads(row.answer)["order"] for row in held]
    copied = [json.loads(reply.text)["order"] for reply in replies]
    assert sum(map(operator.eq, copied, right)) > 0.9 * len(held)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("(delivered 2026-01-02).", "2026-01-02"),
        ("“A-1042”, please", "A-1042"),
        ("to ana@post.example, today", "ana@post.example"),
    ],
)
def test_a_span_has_no_punctuation_around_it(text: str, value: str) -> None:
    assert value in {span.value for span in find_spans(text).spans}


def learn(values: list[Any], texts: list[str]) -> dict[int, Any]:
    return fit_copiers({0: ["" if value == "" else json.dumps(value) for value in values]}, texts, 1)


def test_a_field_is_absent_where_nothing_looks_like_it() -> None:
    numbers = [f"A-{1000 + number}" if number % 2 else None for number in range(80)]
    texts = [f"order {value} is late" if value else "my lamp is broken" for value in numbers]
    (copier,) = learn(numbers, texts).values()
    questions: list[Spans] = [
        find_spans("order A-5555 is late"),
        find_spans("my lamp is broken"),
        find_spans(""),
    ]
    assert copier.values(questions, ["", "", ""]) == ['"A-5555"', "null", "null"]


def test_a_number_is_copied_as_a_number() -> None:
    texts = [f"{number + 11} pieces please, bay {number % 7}" for number in range(60)]
    (copier,) = learn([number + 11 for number in range(60)], texts).values()
    assert copier.values([find_spans("307 pieces please, bay 3")], ["1"]) == ["307"]


def test_values_that_stand_in_few_texts_are_not_learnt() -> None:
    texts = [f"text {number}" for number in range(40)]
    assert learn([f"elsewhere {number}" for number in range(40)], texts) == {}
    assert learn([[number] for number in range(40)], texts) == {}
