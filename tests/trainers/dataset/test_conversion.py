"""Files in other formats are converted with a note on what was done; nothing is lost or guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trainers.dataset import Columns, check_file
from trainers.dataset.clean_copy import CleanedFile, clean
from trainers.dataset.reader import Reading, read

ODD = Path(__file__).resolve().parents[3] / "examples" / "odd"
CHAT = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "greeting"}]}
NOTES = {
    "alpaca.jsonl": ["The rows are in the format of Alpaca and were read as chats."],
    "array.json": [
        "The file is a JSON array of 60 objects, each read as one row: line 3 means the third object."
    ],
    "input_output.jsonl": [],
    "question_answer.jsonl": [],
    "several_lines.json": [
        "The file has 60 JSON objects over several lines, each read as one row: line 3 means the third object."
    ],
    "sharegpt.jsonl": ["The rows are in the format of ShareGPT and were read as chats."],
    "sheets.xlsx": [
        "The header is in line 3; what is above it was skipped.",
        "Only the sheet 'Tickets' was read. Not read: 'Read me', 'Figures'.",
    ],
    "text_label.jsonl": [],
    "title_lines.csv": ["The header is in line 3; what is above it was skipped."],
    "unicode_text.txt": ["The file is encoded in UTF-16 and was converted."],
    "windows_1252.csv": ["The file is encoded in Windows-1252 and was converted."],
}


def read_bytes(folder: Path, content: bytes) -> Reading:
    path = folder / "rows"
    path.write_bytes(content)
    return read(path, "rows")


def blocking(reading: Reading) -> list[tuple[int | None, str]]:
    return [(finding.line, finding.code) for finding in reading.findings if finding.blocks]


def lines(*rows: object) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def test_every_odd_example_is_covered() -> None:
    assert {path.name for path in ODD.iterdir()} == {*NOTES, "README.md"}


@pytest.mark.parametrize("name", NOTES)
def test_an_odd_example_is_read_completely_with_a_note_on_what_was_done(name: str, tmp_path: Path) -> None:
    report = check_file(ODD / name, name, Columns(), tmp_path, 7)
    plain = read(ODD / "text_label.jsonl", "plain")
    reading = read(ODD / name, name)
    assert not report.is_blocked and report.rows == len(reading.examples) == 60
    notes = [f.message for f in reading.findings if f.code in ("converted", "title_lines", "one_sheet")]
    assert sorted(notes) == sorted(NOTES[name])
    assert [example.answer for example in reading.examples] == [example.answer for example in plain.examples]
    prefix, suffix = "Which team handles this message?\n\n", " – café"
    texts = [row.prompt[0].content.removeprefix(prefix).removesuffix(suffix) for row in reading.examples]
    assert texts == [row.prompt[0].content for row in plain.examples]


def test_a_row_of_an_array_is_named_by_its_position(tmp_path: Path) -> None:
    reading = read_bytes(tmp_path, json.dumps([CHAT, {"messages": []}, CHAT]).encode())
    assert [example.line for example in reading.examples] == [1, 3]
    assert blocking(reading) == [(2, "bad_messages")]


def test_objects_are_a_table_whose_columns_a_person_may_have_to_choose(tmp_path: Path) -> None:
    rows = [{"text": f"where is parcel {n}", "category": "a", "topic": "b"} for n in range(9)]
    reading = read_bytes(tmp_path, lines(*rows))
    assert reading.choices.label == ("category", "topic") and not reading.examples
    chosen = read(tmp_path / "rows", "rows", columns=Columns("text", "topic"))
    assert [example.answer for example in chosen.examples] == ["b"] * 9


def test_a_missing_or_null_value_is_an_empty_cell_on_its_line(tmp_path: Path) -> None:
    rows = ({"text": "one", "label": "a"}, {"text": "two"}, {"text": "three", "label": None})
    reading = read_bytes(tmp_path, lines(*rows, {"label": 3, "text": "x"}))
    assert [(example.line, example.answer) for example in reading.examples] == [(1, "a"), (4, "3")]
    assert [(finding.line, finding.code) for finding in reading.findings] == [
        (2, "empty_label"),
        (3, "empty_label"),
    ]


def test_a_bad_line_among_converted_rows_keeps_its_number_and_fault(tmp_path: Path) -> None:
    alpaca = {"instruction": "Sort it.", "input": "", "output": "a"}
    reading = read_bytes(tmp_path, lines(alpaca) + b"{broken\n" + lines(alpaca | {"output": 3}, alpaca))
    assert [(example.line, example.prompt[0].content) for example in reading.examples] == [
        (1, "Sort it."),
        (4, "Sort it."),
    ]
    assert blocking(reading) == [(2, "not_json"), (3, "not_a_row")]


@pytest.mark.parametrize(
    "turns",
    [
        [],
        [{"from": "human"}],
        [{"from": "tool", "value": "x"}],
        [{"from": "gpt", "value": ["x"]}],
        "text",
        [3],
    ],
)
def test_conversations_that_are_not_chats_are_refused(turns: object, tmp_path: Path) -> None:
    reading = read_bytes(tmp_path, lines({"conversations": turns}))
    assert not reading.examples and reading.is_refused


def test_bytes_that_are_not_utf8_beside_utf8_characters_are_damage(tmp_path: Path) -> None:
    reading = read_bytes(tmp_path, "text,label\ncafé,a\n".encode() + "thé,b\n".encode("latin-1"))
    assert [example.answer for example in reading.examples] == ["a"]
    assert [(finding.line, finding.code) for finding in reading.findings] == [(3, "not_utf8")]


def test_a_cleaned_copy_is_in_the_converted_format(tmp_path: Path) -> None:
    cleaned = clean(ODD / "windows_1252.csv", "windows_1252.csv", Columns(), tmp_path / "cleaned.csv")
    assert isinstance(cleaned, CleanedFile) and cleaned.converted and cleaned.rows == 60
    assert "café" in (tmp_path / "cleaned.csv").read_text(encoding="utf-8")
    cleaned = clean(ODD / "text_label.jsonl", "text_label.jsonl", Columns(), tmp_path / "objects.csv")
    assert isinstance(cleaned, CleanedFile) and (cleaned.written_as, cleaned.rows) == ("csv", 60)
    assert len(read(tmp_path / "objects.csv", "objects.csv").examples) == 60


@pytest.mark.parametrize("value", ['"a", "label": "b"', "NaN", "1e999", "123456789012345678901234567890"])
def test_values_that_json_lines_cannot_hold_are_refused(value: str, tmp_path: Path) -> None:
    row = f'{{"text": "where is it", "label": {value}}}'
    for content in (f"[{row}]", row.replace("{", "{\n", 1)):
        reading = read_bytes(tmp_path, content.encode())
        assert not reading.examples and reading.is_refused


def test_a_repeated_key_in_a_converted_row_is_a_fault(tmp_path: Path) -> None:
    good = b'{"instruction": "Sort it.", "output": "a"}\n'
    reading = read_bytes(tmp_path, good + b'{"instruction": "Sort it.", "output": "a", "output": "b"}\n')
    assert [example.line for example in reading.examples] == [1] and reading.is_refused


def test_unused_keys_are_reported(tmp_path: Path) -> None:
    reading = read_bytes(tmp_path, lines({"instruction": "Sort it.", "output": "a", "source": "x"}))
    assert "dropped_keys" in [finding.code for finding in reading.findings]
