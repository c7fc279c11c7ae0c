"""The file of a version that has people's or a teacher's labels: what stays, what changes, and in which form."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from bot.services.datasets.dataset_worker import examples
from bot.services.datasets.row_labels_worker import (
    DatasetParts,
    DecidedRow,
    OvertakenRow,
    QuestionFile,
    TeacherQuestions,
    VersionFile,
    read_teacher,
    write_questions,
    write_version,
)
from tests.trainers.dataset.document_files import sheet_row, workbook
from trainers.dataset import Columns, Example, read, store_chat
from trainers.dataset.reader import read_first_rows
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


def decide(
    before: VersionFile, labels: dict[str, str | None], *, shown: str | None = None
) -> list[DecidedRow]:
    """Decisions about rows that were shown with the label that they have, or with `shown`."""
    rows = {row.prompt[-1].content: row for row in read(before.files / before.sha256, before.name).examples}
    return [
        DecidedRow(question_key(rows[text]).hex(), text, shown or rows[text].answer, label)
        for text, label in labels.items()
    ]


def add(text: str, label: str, teacher: str | None = None) -> DecidedRow:
    key = question_key(Example(0, (Message("user", text), Message("assistant", label)))).hex()
    return DecidedRow(key, text, None, label, teacher)


def store_and_read(before: VersionFile, decided: list[DecidedRow]) -> list[dict[str, Any]]:
    sha256 = write_version(before, decided).sha256
    assert sha256 is not None
    return [json.loads(line) for line in (before.files / sha256).read_text(encoding="utf-8").splitlines()]


def test_chats_stay_chats_with_their_instructions(tmp_path: Path) -> None:
    before = store_file(tmp_path, "\n".join(map(json.dumps, CHATS)) + "\n", "tickets.jsonl")
    decided = decide(before, {"money back": "refund", "one charge": None})
    added = [add("the tax?", "billing"), add("a box", "shipping", "openai/gpt-4o-mini")]
    lines = store_and_read(before, [*decided, *added])
    assert lines[0] == CHATS[0]
    assert [line["messages"][-1]["content"] for line in lines] == [
        "shipping",
        "refund",
        "billing",
        "shipping",
    ]
    assert all(line["messages"][0] == {"role": "system", "content": "Sort it."} for line in lines)
    assert [line.get("teacher") for line in lines] == [None, None, None, "openai/gpt-4o-mini"]


def test_rows_with_other_fields_beside_their_messages_are_relabelled_too(tmp_path: Path) -> None:
    with_ids = [{"id": f"T-{number}", **chat} for number, chat in enumerate(CHATS)]
    before = store_file(tmp_path, "\n".join(map(json.dumps, with_ids)) + "\n", "tickets.jsonl")
    lines = store_and_read(before, decide(before, {"money back": "refund", "one charge": None}))
    assert [line["messages"][-1]["content"] for line in lines] == ["shipping", "refund"]


def test_rows_with_names_and_weights_are_relabelled_and_keep_them(tmp_path: Path) -> None:
    named = json.loads(json.dumps(CHATS))
    for chat in named:
        chat["messages"][1]["name"] = "customer"
        chat["messages"][2]["weight"] = 1
    before = store_file(tmp_path, "\n".join(map(json.dumps, named)) + "\n", "tickets.jsonl")
    lines = store_and_read(before, decide(before, {"money back": "refund"}))
    assert lines[1]["messages"][1:] == [
        {"role": "user", "content": "money back", "name": "customer"},
        {"role": "assistant", "content": "refund", "weight": 1},
    ]


def test_a_table_becomes_objects_without_the_instructions_that_a_check_adds(tmp_path: Path) -> None:
    before = store_file(
        tmp_path, 'id,text,label\n1,"a, ""quoted""\nline",billing\n2,second,refund\n', "t.csv", "Classify."
    )
    decided = [*decide(before, {"second": "billing"}), add("third", "refund")]
    assert store_and_read(before, decided) == [
        {"text": 'a, "quoted"\nline', "label": "billing"},
        {"text": "second", "label": "billing"},
        {"text": "third", "label": "refund"},
    ]
    assert write_version(before, decided).columns == Columns("text", "label")


def test_chats_that_nobody_relabels_keep_their_bytes(tmp_path: Path) -> None:
    """Or the held-out rows would be others, with which nothing that was measured can be compared."""
    spaced = [json.dumps(chat, indent=None, separators=(" , ", " : ")) for chat in CHATS]
    before = store_file(tmp_path, "\n".join(spaced) + "\n", "tickets.jsonl")
    sha256 = write_version(before, decide(before, {"money back": "refund"})).sha256
    lines = (tmp_path / str(sha256)).read_text(encoding="utf-8").splitlines()
    assert [lines[0], lines[2]] == [spaced[0], spaced[2]] and "refund" in lines[1]


def test_the_same_answers_give_the_same_file(tmp_path: Path) -> None:
    before = store_file(tmp_path, "text,label\none,billing\ntwo,refund\n", "t.csv", "Classify.")
    first, second = (write_version(before, decide(before, {"one": None})) for _ in range(2))
    assert first == second and not list(tmp_path.glob("*.tmp"))


def test_a_label_that_changed_since_it_was_shown_is_not_overwritten(tmp_path: Path) -> None:
    """Somebody may have corrected it in the file meanwhile, whether people here kept, changed or dropped the row."""
    text = "text,label\none,refund\ntwo,refund\nthree,refund\nfour,billing\n"
    before = store_file(tmp_path, text, "t.csv", "Classify.")
    answers = {"one": "billing", "two": "shipping", "three": None}
    overtaken = decide(before, answers, shown="billing")
    new_but_known = add("four", "shipping")
    gone = DecidedRow("5" * 64, "five", "billing", "refund")
    written = write_version(before, [*overtaken, new_but_known, gone])
    assert written.sha256 is None
    assert written.overtaken == (
        *(OvertakenRow(row.key, line) for row, line in zip(overtaken, (2, 3, 4), strict=True)),
        OvertakenRow(new_but_known.key, 5),
        OvertakenRow(gone.key, None),
    )


def test_a_label_that_somebody_else_has_set_too_is_no_change(tmp_path: Path) -> None:
    before = store_file(tmp_path, "text,label\none,refund\ntwo,billing\n", "t.csv", "Classify.")
    same = [*decide(before, {"one": "refund"}, shown="billing"), add("two", "billing")]
    written = write_version(before, same)
    assert (written.sha256, written.overtaken, written.already) == (None, (), {row.key for row in same})


def test_copies_with_different_labels_all_get_the_label_that_people_chose(tmp_path: Path) -> None:
    before = store_file(tmp_path, "text,label\none,refund\none,billing\n", "t.csv", "Classify.")
    lines = store_and_read(before, decide(before, {"one": "billing"}, shown="refund"))
    assert [line["label"] for line in lines] == ["billing", "billing"]


def test_a_teacher_is_asked_the_rows_of_the_chosen_sheet_only(tmp_path: Path) -> None:
    train = [
        Example(
            number, (Message("user", f"letter {number}"), Message("assistant", ("yes", "no")[number % 2]))
        )
        for number in range(12)
    ]
    parts = DatasetParts(tmp_path, store_chat(tmp_path, train[:10]), store_chat(tmp_path, train[10:]), None)
    sheets = [sheet_row(1, "text") + sheet_row(2, text) for text in ("an old ticket", "a new ticket")]
    (tmp_path / "a.xlsx").write_bytes(workbook(*sheets))
    names = [table.sheet for table in read_first_rows(tmp_path / "a.xlsx", 1)]
    file = QuestionFile(tmp_path / "a.xlsx", "a.xlsx", "text", names[1])
    questions = write_questions(parts, file, ("yes", "no"), leaves=False, presidio=False)
    assert isinstance(questions, TeacherQuestions)
    stored = examples(tmp_path, questions.sha256)
    assert [row.prompt[-1].content for row in stored] == ["a new ticket"]


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
