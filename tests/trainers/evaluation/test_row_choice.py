"""The choice of rows for a person to label, and files of rows without labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.trainers.dataset.builders import chat_line
from trainers.dataset import Example
from trainers.dataset.reader import Questions, read_questions
from trainers.evaluation.row_choice import choose_diverse, exclude_known_questions
from trainers.types import Message


def row(text: str, label: str = "") -> Example:
    return Example(1, (Message("user", text), Message("assistant", label)))


def test_the_most_uncertain_row_is_chosen_first_and_its_copies_last() -> None:
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0.6, 0.8]], np.float32)
    assert choose_diverse(vectors, [0.9, 0.8, 0.5, 0.4], 4) == [0, 2, 3, 1]
    assert choose_diverse(vectors, [0.9, 0.8, 0.5, 0.4], 1) == [0]
    assert set(choose_diverse(vectors[:3], [0.0, 0.0, 0.0], 2)) == {0, 2}, "the rows are still different"


def test_questions_that_are_in_the_dataset_or_nearly_held_out_are_left_out() -> None:
    held = "My parcel with the blue garden chairs has not arrived for two weeks now"
    near = "My parcel with the blue garden chairs has not arrived for two weeks now."
    questions = [row("Where is it?"), row("WHERE is  it?"), row(near), row("I want my money back")]
    left = exclude_known_questions(questions, [row("where is it?", "shipping")], [row(held, "shipping")])
    assert [example.prompt[0].content for example in left] == ["I want my money back"]


@pytest.mark.parametrize(
    ("name", "content", "texts", "unread"),
    [
        ("a.csv", "text\none\ntwo\n", ["one", "two"], 0),
        ("a.csv", "id,message\n1,one\n2,\n3,three\n", ["one", "three"], 1),
        ("a.csv", "ticket_id,frage\n1,one\n2,two\n", ["one", "two"], 0),
        ("a.jsonl", '{"text": "one"}\n{"text": ""}\n{"text": "two"}\n', ["one", "two"], 1),
        ("a.jsonl", '{"messages": [{"role": "user", "content": "one"}]}\n', ["one"], 0),
        ("a.jsonl", f'{{"text": "one"}}\n{chat_line("a", "b")}\n', ["one"], 1),
    ],
)
def test_rows_without_labels_are_read(
    tmp_path: Path, name: str, content: str, texts: list[str], unread: int
) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    questions = read_questions(path, name, "frage")
    assert isinstance(questions, Questions)
    assert [example.prompt[0].content for example in questions.examples] == texts
    assert questions.unread == unread


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "is empty"),
        (b"a,b\n1,2\n", "'a.csv' has no column called 'frage'"),
        (b"text\n\n", "has no row with a text"),
        (b"PAR1 and so on", "Parquet"),
    ],
)
def test_an_unusable_file_is_refused_with_the_reason(tmp_path: Path, content: bytes, sentence: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    questions = read_questions(path, "a.csv", "frage")
    assert isinstance(questions, str) and sentence in questions
