"""The file of a version that has people's or a teacher's labels: what stays, what changes, and in which form."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bot.services.row_labels_worker import (
    DatasetParts,
    LabelledText,
    QuestionFile,
    TeacherQuestions,
    VersionFile,
    read_teacher,
    write_questions,
    write_version,
)
from trainers.dataset import Columns, Example, read, store_chat
from trainers.dataset.rows import question_key
from trainers.evaluation.results import Reply
from trainers.types import Message

CHATS = [
    {
        "messages": [
            {"role": "system", "content": "Sort it."},
            {"role": "user", "content": text},
            {"role": "assistant", "content": label},
        ]
    }
    for text, label in (("where is it?", "shipping"), ("money back", "billing"), ("one charge", "billing"))
]


def store_file(folder: Path, content: str, name: str, system: str | None = None) -> VersionFile:
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    (folder / sha256).write_text(content, encoding="utf-8")
    return VersionFile(folder, sha256, name, Columns(), system)


def keys_by_question(before: VersionFile) -> dict[str, str]:
    rows = read(before.files / before.sha256, before.name).examples
    return {row.prompt[-1].content: question_key(row).hex() for row in rows}


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_chats_stay_chats_with_their_instructions(tmp_path: Path) -> None:
    before = store_file(tmp_path, "\n".join(map(json.dumps, CHATS)) + "\n", "tickets.jsonl")
    key = keys_by_question(before)
    decided = {key["money back"]: "refund", key["one charge"]: None}
    added = [LabelledText("the tax?", "billing"), LabelledText("a box", "shipping", "openai/gpt-4o-mini")]
    written = write_version(before, decided, added)
    lines = read_lines(tmp_path / written.sha256)
    assert lines[0] == CHATS[0]
    assert [line["messages"][-1]["content"] for line in lines] == [
        "shipping",
        "refund",
        "billing",
        "shipping",
    ]
    assert all(line["messages"][0] == {"role": "system", "content": "Sort it."} for line in lines)
    assert [line.get("teacher") for line in lines] == [None, None, None, "openai/gpt-4o-mini"]
    assert len(read(tmp_path / written.sha256, "next.jsonl").examples) == 4


def test_rows_with_other_fields_beside_their_messages_are_relabelled_too(tmp_path: Path) -> None:
    with_ids = [{"id": f"T-{number}", **chat} for number, chat in enumerate(CHATS)]
    before = store_file(tmp_path, "\n".join(map(json.dumps, with_ids)) + "\n", "tickets.jsonl")
    key = keys_by_question(before)
    written = write_version(before, {key["money back"]: "refund", key["one charge"]: None}, [])
    rows = read(tmp_path / written.sha256, "next.jsonl").examples
    assert [row.answer for row in rows] == ["shipping", "refund"]


def test_rows_with_names_and_weights_are_relabelled_and_keep_them(tmp_path: Path) -> None:
    named = json.loads(json.dumps(CHATS))
    for chat in named:
        chat["messages"][1]["name"] = "customer"
        chat["messages"][2]["weight"] = 1
    before = store_file(tmp_path, "\n".join(map(json.dumps, named)) + "\n", "tickets.jsonl")
    written = write_version(before, {keys_by_question(before)["money back"]: "refund"}, [])
    lines = read_lines(tmp_path / written.sha256)
    assert lines[1]["messages"][1:] == [
        {"role": "user", "content": "money back", "name": "customer"},
        {"role": "assistant", "content": "refund", "weight": 1},
    ]


def test_a_table_becomes_objects_without_the_instructions_that_a_check_adds(tmp_path: Path) -> None:
    before = store_file(
        tmp_path, 'id,text,label\n1,"a, ""quoted""\nline",billing\n2,second,refund\n', "t.csv", "Classify."
    )
    written = write_version(
        before, {keys_by_question(before)["second"]: "billing"}, [LabelledText("third", "refund")]
    )
    lines = read_lines(tmp_path / written.sha256)
    assert lines == [
        {"text": 'a, "quoted"\nline', "label": "billing"},
        {"text": "second", "label": "billing"},
        {"text": "third", "label": "refund"},
    ]
    assert written.columns == Columns("text", "label")


def test_the_same_answers_give_the_same_file(tmp_path: Path) -> None:
    before = store_file(tmp_path, "text,label\none,billing\ntwo,refund\n", "t.csv", "Classify.")
    first, second = (write_version(before, {keys_by_question(before)["one"]: None}, []) for _ in range(2))
    assert first == second and not list(tmp_path.glob("*.tmp"))


def test_a_question_mark_may_be_a_label_in_a_distillation(tmp_path: Path) -> None:
    """What stands for an unknown answer must not be one of the labels."""
    texts = [f"letter {number} about the parcel" for number in range(12)]
    rows = [
        Example(number, (Message("user", text), Message("assistant", ("yes", "?")[number % 2])))
        for number, text in enumerate(texts)
    ]
    parts = DatasetParts(tmp_path, store_chat(tmp_path, rows[:10]), store_chat(tmp_path, rows[10:]), None)
    (tmp_path / "new.csv").write_text(
        "\n".join(["text", *texts[:4], "something else entirely that nobody asked"]), "utf-8"
    )
    file = QuestionFile(tmp_path / "new.csv", "new.csv", "text")
    questions = write_questions(parts, file, ("yes", "?"), leaves=False, presidio=False)
    assert isinstance(questions, TeacherQuestions)
    replies = [Reply("?\n", 1, 1, 0.1)] * questions.rows
    taught = {row.text: row for row in read_teacher(tmp_path, questions.sha256, ("yes", "?"), replies)}
    assert [taught[text].given for text in texts[:4]] == ["yes", "?", "yes", "?"]
    assert taught["something else entirely that nobody asked"].given is None
    assert {row.label for row in taught.values()} == {"?"}
