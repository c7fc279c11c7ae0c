"""Recorded questions become rows that the reader of unlabelled rows takes, without secrets."""

from __future__ import annotations

import json
from pathlib import Path

from tests.trainers.dataset.test_sensitive_data import SECRETS
from tests.trainers.traces.exports import SYSTEM, call
from trainers.dataset import read
from trainers.dataset.reader import Questions, read_questions
from trainers.traces.rows import make_rows
from trainers.types import Message

SEVERAL_TURNS = (Message("user", "Hello"), Message("assistant", "Hi"), Message("user", "Where is it?"))
CARD = "My card is 4111 1111 " + "1111 1111"
SECRET = f"My key is {SECRETS['OpenAI key']}, is it valid?"


def test_different_questions_become_rows_without_labels(tmp_path: Path) -> None:
    calls = [
        *[call(f"Where is parcel {number}?") for number in range(30)],
        call("where is  PARCEL 3?"),
        call(is_error=True),
        call(messages=SEVERAL_TURNS),
        call(messages=()),
        call(SECRET),
        call("Write to anna@example.com"),
    ]
    rows = make_rows(calls)
    assert len(rows.lines) == 31
    assert (rows.failed, rows.without_question, rows.repeated, rows.secret) == (1, 2, 1, 1)
    assert (rows.personal, rows.personal_kinds) == (1, (("holds an e-mail address", 1),))
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(rows.lines))
    questions = read_questions(path, path.name, None)
    assert isinstance(questions, Questions)
    assert (len(questions.examples), questions.unread) == (31, 0)
    texts = [example.prompt[0].content for example in questions.examples]
    assert set(texts) == {
        *[f"Where is parcel {number}?" for number in range(30)],
        "Write to anna@example.com",
    }
    assert texts[:30] != sorted(texts[:30])
    assert make_rows(calls).lines == rows.lines


def test_answers_are_written_only_if_wanted_and_name_their_model(tmp_path: Path) -> None:
    calls = [
        call("Where is it?", answer="delivery"),
        call("Where is it?", answer="billing"),
        call("Where is it?", answer="billing"),
        call("Refund me", answer=None),
        call("Hello", answer=CARD),
        call("Key?", answer=SECRET),
    ]
    assert not any(b"billing" in line for line in make_rows(calls).lines)
    rows = make_rows(calls, with_answers=True)
    assert (rows.without_answer, rows.repeated, rows.disagreeing, rows.secret, rows.personal) == (
        1,
        2,
        1,
        1,
        1,
    )
    written = [json.loads(line) for line in rows.lines]
    assert {row["teacher"] for row in written} == {"gpt-4o"}
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(rows.lines))
    examples = read(path, path.name).examples
    assert sorted(example.answer for example in examples) == [CARD, "billing"]
    assert {example.system for example in examples} == {SYSTEM}


def test_a_secret_in_the_instructions_leaves_no_labelled_row() -> None:
    messages = (Message("system", SECRET), Message("user", "Where is it?"))
    assert make_rows([call(messages=messages)], with_answers=True).lines == ()
    assert len(make_rows([call(messages=messages)]).lines) == 1


def test_placeholders_stand_for_personal_data() -> None:
    calls = [call("Write to anna@example.com"), call("Hello"), call(SECRET)]
    rows = make_rows(calls, masks=True)
    assert (rows.masked, rows.personal, rows.secret) == (1, 0, 1)
    assert {json.loads(line)["text"] for line in rows.lines} == {"Hello", "Write to [e-mail address]"}
    (labelled,) = make_rows([call("Hello", answer="Call +49 30 901820")], with_answers=True, masks=True).lines
    assert json.loads(labelled)["messages"][-1]["content"] == "Call [phone number]"
