"""Workbooks, Parquet files and preference pairs are read like other files, and refused with a reason if broken."""

from __future__ import annotations

import datetime
import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.trainers.dataset.document_files import sheet_row, workbook
from trainers.dataset import Columns, Limits, Reading, check_file, formats, read, tables
from trainers.dataset.clean_copy import CleanedFile, clean
from trainers.dataset.formats.values import FileFormat, FirstRecords, RowFile
from trainers.dataset.reader import read_first_rows, read_questions
from trainers.dataset.tables import Record

ANY_COLUMNS = Columns()
HEADER = sheet_row(1, "text", "label")


def write_workbook(path: Path, *sheets: str, more: dict[str, bytes] | None = None) -> Path:
    path.write_bytes(workbook(*sheets, **(more or {})))
    return path


def codes(reading: Reading) -> list[tuple[int | None, str]]:
    return [(finding.line, finding.code) for finding in reading.findings]


def test_the_first_sheet_with_rows_is_read_and_lines_are_its_rows(tmp_path: Path) -> None:
    rows = (
        sheet_row(2, "text", "label")
        + sheet_row(4, "where is it", "delivery")
        + sheet_row(5, "no label here", "")
    )

    reading = read(write_workbook(tmp_path / "a.xlsx", "", rows, sheet_row(1, "other", "sheet")), "a.xlsx")

    assert (reading.format, reading.columns) == ("xlsx", Columns("text", "label"))
    assert [(e.line, e.prompt[0].content, e.answer) for e in reading.examples] == [
        (4, "where is it", "delivery")
    ]
    assert codes(reading) == [(5, "empty_label"), (None, "one_sheet")]


def test_a_visible_sheet_is_read_before_a_hidden_one(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl hides the sheet")
    book = openpyxl.Workbook()
    book.active.sheet_state = "hidden"
    for sheet, label in ((book.active, "old"), (book.create_sheet("now"), "new")):
        sheet.append(["text", "label"])
        sheet.append(["where is it", label])
    book.save(tmp_path / "a.xlsx")
    assert [e.answer for e in read(tmp_path / "a.xlsx", "a.xlsx").examples] == ["new"]


def test_a_workbook_is_checked_and_split_like_a_table(tmp_path: Path) -> None:
    rows = "".join(sheet_row(i, f"ticket {i} is late", "ab"[i % 2]) for i in range(2, 62))
    path = write_workbook(tmp_path / "a.xlsx", HEADER + rows)
    report = check_file(path, "a.xlsx", ANY_COLUMNS, tmp_path / "out", 7)
    assert (report.format, report.rows, report.n_train + report.n_holdout) == ("xlsx", 60, 60)
    (first, *_) = (tmp_path / "out" / f"{report.train_sha256}.jsonl").read_text().splitlines()
    assert [m["role"] for m in json.loads(first)["messages"]] == ["system", "user", "assistant"]
    assert json.loads(first)["messages"][0]["content"] == report.system


HUGE_RECTANGLE = HEADER + '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
SHARED_TEXTS = '<row><c t="s"><v>0</v></c><c t="s"><v>0</v></c></row>'
STRINGS = b"<sst><si><t>" + b"x" * 500_000 + b"</t></si></sst>"


def test_a_workbook_whose_cells_span_a_huge_rectangle_is_refused(tmp_path: Path) -> None:
    reading = read(write_workbook(tmp_path / "a.xlsx", HUGE_RECTANGLE), "a.xlsx")
    assert codes(reading) == [(None, "too_big_unpacked")]


def test_a_workbook_whose_cells_share_a_long_text_is_refused(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "a.xlsx", SHARED_TEXTS * 500, more={"xl/sharedStrings.xml": STRINGS})
    assert codes(read(path, "a.xlsx")) == [(None, "too_big_unpacked")]


def test_a_workbook_that_unpacks_to_more_than_the_cap_is_refused(tmp_path: Path) -> None:
    path = write_workbook(tmp_path / "a.xlsx", HEADER, more={"xl/media/x.bin": bytes(3_000_000)})
    assert path.stat().st_size < 10_000
    assert codes(read(path, "a.xlsx", limits=Limits(max_bytes=1_000_000))) == [(None, "too_big_unpacked")]


def test_a_sheet_that_is_one_endless_tag_is_refused(tmp_path: Path) -> None:
    reading = read(write_workbook(tmp_path / "a.xlsx", "<c " + "r" * 5_000_000), "a.xlsx")
    assert codes(reading) == [(None, "too_big_unpacked")]


def test_a_workbook_that_declares_entities_is_refused(tmp_path: Path) -> None:
    bomb = b'<!DOCTYPE sst [<!ENTITY a "aaaaaaaa">]><sst><si><t>&a;</t></si></sst>'
    reading = read(
        write_workbook(tmp_path / "a.xlsx", sheet_row(1, "a", "b"), more={"xl/sharedStrings.xml": bomb}),
        "a.xlsx",
    )
    assert codes(reading) == [(None, "not_text")]


def write_unreadable_files(folder: Path) -> dict[str, tuple[Path, str, str]]:
    content = write_workbook(folder / "whole.xlsx", HEADER).read_bytes()
    (folder / "cut").write_bytes(content[: len(content) // 2])
    (folder / "turned").write_bytes(content.replace(b"PK\x01\x02", b"PK\x01\x03"))
    locked = "EncryptedPackage".encode("utf-16-le")
    (folder / "locked").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + locked)
    (folder / "old").write_bytes(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600))
    with zipfile.ZipFile(folder / "ods", "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.spreadsheet")
        archive.writestr("content.xml", "<a/>")
    with zipfile.ZipFile(folder / "docx", "w") as archive:
        archive.writestr("word/document.xml", "<a/>")
    return {
        "cut": (folder / "cut", "not_text", "damaged"),
        "turned": (folder / "turned", "not_text", "damaged"),
        "locked": (folder / "locked", "not_text", "password"),
        "old": (folder / "old", "not_text", "old Excel"),
        "ods": (folder / "ods", "not_text", "OpenDocument"),
        "docx": (folder / "docx", "not_text", "not an Excel workbook"),
        "empty": (write_workbook(folder / "empty.xlsx", ""), "no_rows", "without rows"),
        "no sheet": (write_workbook(folder / "none.xlsx"), "no_rows", "without rows"),
    }


@pytest.mark.parametrize("which", ["cut", "turned", "locked", "old", "ods", "docx", "empty", "no sheet"])
def test_an_unreadable_workbook_is_refused_with_the_reason(tmp_path: Path, which: str) -> None:
    path, code, reason = write_unreadable_files(tmp_path)[which]
    (finding,) = read(path, "rows.xlsx").findings
    assert (finding.code, finding.severity) == (code, "blocks")
    assert reason in finding.message


def test_no_damage_to_a_workbook_makes_reading_raise(tmp_path: Path) -> None:
    content = write_workbook(tmp_path / "a.xlsx", HEADER + sheet_row(2, "hello there", "b")).read_bytes()
    for at in range(0, len(content), 7):
        (tmp_path / "b").write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        reading = read(tmp_path / "b", "b.xlsx")
        assert reading.examples or reading.findings


def write_parquet(path: Path, columns: dict[str, Any], **options: Any) -> Path:
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_parquet_is_read_like_a_table_with_row_numbers_as_lines(tmp_path: Path) -> None:
    columns = {
        "what": ["where is it", None, "stop it"],
        "kind": ["delivery", "x", "cancel"],
        "n": [[1], [2], [3]],
    }

    path = write_parquet(tmp_path / "a", columns, row_group_size=2)
    reading = read(path, "a.parquet", columns=Columns("what", "kind"))

    assert (reading.format, reading.columns) == ("parquet", Columns("what", "kind"))
    assert [(e.line, e.answer) for e in reading.examples] == [(1, "delivery"), (3, "cancel")]
    assert codes(reading) == [(2, "empty_text")]
    unnamed = {"x1": [f"the printer number {i} is dead" for i in range(30)], "x2": ["a", "b"] * 15}
    assert read(write_parquet(tmp_path / "b", unnamed), "b").columns == Columns("x1", "x2")


def test_whole_numbers_that_are_stored_as_floats_are_read_as_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "good", "label": 1.0}\n{"text": "bad", "label": -1.0}\n')
    assert [e.answer for e in read(path, "a.jsonl").examples] == ["1", "-1"]
    columns = {"text": ["good", "bad", "so-so"], "label": [1.0, -1.0, 0.5]}
    assert [e.answer for e in read(write_parquet(tmp_path / "a", columns), "a").examples] == [
        "1",
        "-1",
        "0.5",
    ]


def test_parquet_with_conversations_is_read_as_chat(tmp_path: Path) -> None:
    good = [
        {"role": "user", "content": "hi", "weight": None},
        {"role": "assistant", "content": "b", "weight": 1},
    ]
    bad = [{"role": "user", "content": "hi", "weight": None}]

    path = write_parquet(tmp_path / "a", {"messages": [good, bad, None], "id": [1, 2, 3]})

    reading = read(path, "a")
    assert (reading.format, reading.columns) == ("parquet", ANY_COLUMNS)
    assert [(e.line, e.answer, e.messages[1].weight) for e in reading.examples] == [(1, "b", 1)]
    assert codes(reading) == [(2, "no_answer"), (3, "bad_messages")]


def test_parquet_of_conversations_keeps_their_tools(tmp_path: Path) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "track", "arguments": "{}"}}
    question = {"role": "user", "content": "where is it", "tool_calls": None}
    chat = [question, {"role": "assistant", "content": None, "tool_calls": [call]}]
    tools = [{"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}]
    columns = {"messages": [chat, chat, chat], "tools": [json.dumps(tools), None, "no JSON"]}
    reading = read(write_parquet(tmp_path / "a", columns), "a")
    assert [json.loads(e.row or b"").get("tools") for e in reading.examples] == [tools, None]
    assert codes(reading) == [(3, "bad_tools")]


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"conversations": [[{"from": "human", "value": "hi"}]] * 3}, "no_labels"),
        (
            {"text": ["hi"] * 3, "label": ["a"] * 3, "at": pa.array([1 << 62] * 3, pa.timestamp("us"))},
            "damaged_part",
        ),
    ],
)
def test_parquet_with_unusable_values_is_refused(
    tmp_path: Path, columns: dict[str, Any], expected: str
) -> None:
    assert [code for _, code in codes(read(write_parquet(tmp_path / "a", columns), "a"))] == [expected]


def test_parquet_of_conversations_gets_no_default_instructions(tmp_path: Path) -> None:
    rows = [
        [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": "ab"[i % 2]}]
        for i in range(30)
    ]
    report = check_file(
        write_parquet(tmp_path / "a", {"messages": rows}), "a", ANY_COLUMNS, tmp_path / "out", 7
    )
    assert (report.system, report.rows, report.is_blocked) == (None, 30, False)


def test_a_parquet_bomb_is_refused_by_what_it_would_unpack_to(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "a", {"text": ["x" * 1000] * 5000, "label": ["a"] * 5000}, use_dictionary=False
    )
    assert path.stat().st_size < 1_000_000
    assert codes(read(path, "a", limits=Limits(max_bytes=1_000_000))) == [(None, "too_big_unpacked")]


def test_a_parquet_dictionary_bomb_stops_at_the_cap(tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "a", {"text": ["x" * 1000] * 5000, "label": ["a"] * 5000})
    findings = read(path, "a", limits=Limits(max_bytes=1_000_000)).findings
    assert [finding.code for finding in findings] == ["too_big_unpacked"]


def write_shared_text(path: Path, size: int, rows: int) -> Path:
    """Writes one text for all rows, which the file holds once, and a footer that states small sizes."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * size]))
    table = pa.table({"text": [f"question {i}" for i in range(rows)], "label": text})
    pq.write_table(table, path, write_statistics=False, store_schema=False, compression="zstd")
    meta, content = pq.read_metadata(path).row_group(0), path.read_bytes()
    start = len(content) - 8 - int.from_bytes(content[-8:-4], "little")
    footer = content[start:]
    for size in {meta.total_byte_size, meta.column(1).total_uncompressed_size}:
        footer = footer.replace(zigzag(size), zigzag(1000, len(zigzag(size))))
    path.write_bytes(content[:start] + footer)
    return path


def zigzag(number: int, length: int = 0) -> bytes:
    """Encodes an integer as Thrift does, in at least `length` bytes."""
    groups = [2 * number >> shift & 127 for shift in range(0, max(7 * length, (2 * number).bit_length()), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def test_a_parquet_footer_that_lies_is_not_believed(tmp_path: Path) -> None:
    path = write_shared_text(tmp_path / "a", 400_000, 300)
    group, limits = pq.read_metadata(path).row_group(0), Limits(max_bytes=1_000_000, max_line_bytes=500_000)
    assert (group.total_byte_size, path.stat().st_size < 10_000) == (1000, True)
    tracemalloc.start()
    reading = read(path, "a", limits=limits)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert codes(reading) == [(1, "too_big_unpacked")]
    assert peak < 10_000_000, "no row became a Python object: all would be 120 MB"


def test_a_text_shared_by_rows_counts_once_per_row_and_is_read_like_any_other(tmp_path: Path) -> None:
    path = write_shared_text(tmp_path / "a", 1000, 300)
    reading = read(path, "a", limits=Limits(max_bytes=1_000_000, max_line_bytes=500_000))
    assert [len(example.answer) for example in reading.examples] == [1000] * 300
    assert codes(read(path, "a", limits=Limits(max_line_bytes=900)))[0] == (1, "line_too_long")


def test_no_damage_to_parquet_makes_reading_raise(tmp_path: Path) -> None:
    content = write_parquet(
        tmp_path / "a", {"text": ["where is it", "stop"], "label": ["a", "b"]}
    ).read_bytes()
    for at in range(0, len(content), 11):
        (tmp_path / "b").write_bytes(content[:at] + bytes([content[at] ^ 255]) + content[at + 1 :])
        reading = read(tmp_path / "b", "b")
        assert reading.examples or reading.findings


QUESTION = [{"role": "user", "content": "which one"}]


def answer(text: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text}]


def openai_pair(**changes: Any) -> str:
    pair = {"preferred_output": answer("the better"), "non_preferred_output": answer("the worse")}
    return json.dumps({"input": {"messages": QUESTION}} | pair | changes)


def trl_pair(**changes: Any) -> str:
    return json.dumps({"prompt": "which one", "chosen": "the better", "rejected": "the worse"} | changes)


@pytest.mark.parametrize(
    "line",
    [
        openai_pair(),
        trl_pair(),
        trl_pair(prompt=QUESTION, chosen=answer("the better"), rejected=answer("b")),
        trl_pair(prompt=QUESTION, chosen=QUESTION + answer("the better"), rejected=QUESTION + answer("b")),
    ],
    ids=["openai", "texts", "messages", "messages with the prompt"],
)
def test_preference_pairs_are_read_with_the_preferred_answer(tmp_path: Path, line: str) -> None:
    (tmp_path / "p").write_text("\n".join([line] * 3))
    reading = read(tmp_path / "p", "pairs.jsonl")
    (finding,) = reading.findings
    assert (reading.format, len(reading.examples)) == ("preference", 3)
    assert (finding.line, finding.code, finding.severity) == (None, "preference_pairs", "tells")
    assert finding.count == 3 and "method=dpo trains on both answers" in finding.cure
    assert reading.examples[0].answer == "the better"
    assert [m.role for m in reading.examples[0].messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (openai_pair(preferred_output=[]), "bad_preference_pair"),
        (openai_pair(non_preferred_output=None), "bad_preference_pair"),
        (openai_pair(input={}), "bad_preference_pair"),
        (openai_pair(preferred_output=[{"role": "user", "content": "x"}]), "bad_preference_pair"),
        (openai_pair(non_preferred_output=answer(" ")), "bad_preference_pair"),
        (openai_pair(non_preferred_output=answer("the better")), "preference_without_difference"),
        (trl_pair(chosen="the worse"), "preference_without_difference"),
        (trl_pair(rejected=5), "bad_preference_pair"),
        (openai_pair(input={"messages": [{"role": "bot", "content": "x"}]}), "unknown_role"),
        (openai_pair(preferred_output=["x"]), "bad_preference_pair"),
    ],
)
def test_a_bad_pair_is_found_on_its_line(tmp_path: Path, line: str, code: str) -> None:
    (tmp_path / "p").write_text("\n".join([openai_pair(), trl_pair(), line]))
    reading = read(tmp_path / "p", "pairs.jsonl")
    assert (3, code) in codes(reading)
    assert len(reading.examples) == 2


def test_a_chat_row_among_pairs_has_another_format(tmp_path: Path) -> None:
    chat = json.dumps({"messages": QUESTION + answer("x")})
    (tmp_path / "p").write_text(f"{openai_pair()}\n{chat}")
    assert (2, "mixed_formats") in codes(read(tmp_path / "p", "p"))


def test_numbers_and_dates_in_a_workbook_are_read_as_people_see_them(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl writes the dates")
    book = openpyxl.Workbook()
    book.active.append(["text", "label"])
    book.active.append([datetime.datetime(2024, 1, 2, 3, 4), 3])
    book.active.append(["a half", 0.5])
    book.save(tmp_path / "a.xlsx")

    reading = read(tmp_path / "a.xlsx", "a.xlsx")

    assert [(e.prompt[0].content, e.answer) for e in reading.examples] == [
        ("2024-01-02 03:04:00", "3"),
        ("a half", "0.5"),
    ]


def test_not_a_number_in_parquet_is_a_missing_label(tmp_path: Path) -> None:
    labels = [float("nan") if number == 3 else float(number % 2) for number in range(8)]
    texts = [f"the parcel is {number} days late" for number in range(8)]
    pq.write_table(pa.table({"text": texts, "label": labels}), tmp_path / "a.parquet")
    reading = read(tmp_path / "a.parquet", "a.parquet")
    assert codes(reading)[0] == (4, "empty_label")
    assert {example.answer for example in reading.examples} == {"0", "1"}


@pytest.mark.parametrize(
    ("value", "label"), [("true", "true"), ("1.5", "1.5"), ("0", "0"), ('"null"', "null")]
)
def test_values_of_json_are_labels_as_json_writes_them(tmp_path: Path, value: str, label: str) -> None:
    lines = [f'{{"text": "the parcel is {number} days late", "label": {value}}}' for number in range(5)]
    lines.append('{"text": "and nobody has said yet what this is", "label": null}')
    for content in ("\n".join(lines), f"[{','.join(lines)}]"):
        (tmp_path / "a.json").write_text(content)
        reading = read(tmp_path / "a.json", "a.json")
        assert {example.answer for example in reading.examples} == {label}
        assert "empty_label" in [code for _, code in codes(reading)], "null is no label"


def test_booleans_of_a_workbook_are_labels_as_excel_shows_them(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl writes the booleans")
    book = openpyxl.Workbook()
    book.active.append(["text", "label"])
    for number in range(4):
        book.active.append([f"the parcel is {number} days late", number % 2 == 0])
    book.save(tmp_path / "a.xlsx")
    assert {example.answer for example in read(tmp_path / "a.xlsx", "a.xlsx").examples} == {"TRUE", "FALSE"}


def ticket_rows(first: int, count: int, texts: str = "ticket") -> str:
    """Rows of a sheet with a number, a text and a label."""
    return "".join(
        sheet_row(line, f"{line}", f"{texts} {line} is a bit late", "ab"[line % 2])
        for line in range(first, first + count)
    )


def test_sheets_with_the_same_header_are_read_together(tmp_path: Path) -> None:
    header = sheet_row(1, "no", "text", "label")
    lower = sheet_row(1, "Tickets of 2026") + sheet_row(2, "no", "text", "label")
    path = write_workbook(
        tmp_path / "a.xlsx",
        sheet_row(1, "only a word"),
        header + ticket_rows(2, 30, "old"),
        sheet_row(1, "label", "rows") + sheet_row(2, "a", "15"),
        lower + ticket_rows(3, 20, "new"),
    )
    reading = read(path, "a.xlsx")
    texts = [example.prompt[0].content for example in reading.examples]
    assert len(texts) == 50 and texts[0].startswith("old 2") and texts[-1].startswith("new 22")
    assert reading.examples[29].line == 31 and reading.examples[30].line == 31 + 3
    messages = {finding.code: finding.message for finding in reading.findings}
    assert (
        "The sheets 's2' and 's4' have the same columns and were read together" in messages["sheets_joined"]
    )
    assert messages["one_sheet"] == "Not read: 's1', 's3'."


def test_a_sheet_is_read_alone_if_a_person_names_it(tmp_path: Path) -> None:
    header = sheet_row(1, "no", "text", "label")
    path = write_workbook(
        tmp_path / "a.xlsx", header + ticket_rows(2, 30, "old"), header + ticket_rows(2, 20, "new"), ""
    )
    reading = read(path, "a.xlsx", columns=Columns(sheet="s2"))
    assert len(reading.examples) == 20 and reading.examples[0].line == 2
    assert reading.findings[0].message == "Only the sheet 's2' was read. Not read: 's1'."
    assert reading.columns.sheet == "s2"

    wrong = read(path, "a.xlsx", columns=Columns(sheet="s3"))
    assert wrong.is_refused and not wrong.examples
    assert wrong.findings[0].message == "There is no sheet 's3' with rows; available: 's1' and 's2'."


def test_a_workbook_is_refused_if_a_later_sheet_is_damaged(tmp_path: Path) -> None:
    tickets = sheet_row(1, "no", "text", "label") + ticket_rows(2, 30)
    damaged = '<row r="1"><c r="??"><v>1</v></c></row>'
    reading = read(write_workbook(tmp_path / "a.xlsx", tickets, damaged), "a.xlsx")
    assert reading.is_refused and not reading.examples
    assert reading.findings[0].message == "'a.xlsx' is a damaged Excel workbook (.xlsx)."


def test_a_file_without_sheets_says_that_none_was_looked_for(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\nit is late,a\nagain,b\n")
    reading = read(tmp_path / "a.csv", "a.csv", columns=Columns(sheet="Mails"))
    assert len(reading.examples) == 2 and not reading.is_refused
    assert (reading.findings[0].code, reading.findings[0].message.split("'")[1]) == ("no_workbook", "Mails")


def test_sheets_without_a_header_are_not_joined(tmp_path: Path) -> None:
    rows = sheet_row(1, "the parcel is very late", "a") + sheet_row(2, "the parcel is very late", "a")
    reading = read(write_workbook(tmp_path / "a.xlsx", rows, rows), "a.xlsx")
    assert len(reading.examples) == 2
    assert "sheets_joined" not in dict(map(reversed, codes(reading)))  # type: ignore[arg-type]


def test_rows_without_a_label_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [
        f"ticket {number} is a bit late,{'ab'[number % 2] if number < 40 else ''}" for number in range(65)
    ]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    report = check_file(tmp_path / "a.csv", "a.csv", ANY_COLUMNS, tmp_path, 1)
    assert not report.is_blocked and (report.rows, report.n_unlabelled) == (40, 25)
    assert report.n_train + report.n_holdout + report.n_copies == 40


def test_a_file_without_any_label_can_not_be_used(tmp_path: Path) -> None:
    rows = [f"ticket {number} is a bit late," for number in range(40)]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows]), encoding="utf-8")
    report = check_file(tmp_path / "a.csv", "a.csv", ANY_COLUMNS, tmp_path, 1)
    assert report.is_blocked and "too_few_rows" in {
        finding.code for finding in report.findings if finding.blocks
    }


def _pipe_records(rows: RowFile) -> Iterator[Record]:
    rows.file.seek(0)
    _, *lines = rows.file.read().decode().splitlines()
    return (Record(line, text.split("|")) for line, text in enumerate(lines, 2))


def test_a_format_is_read_shown_and_cleaned_by_its_line_in_the_registry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipes = FileFormat(
        name="pipes",
        title="a file of pipes",
        extensions=("pipes",),
        signatures=(b"#PIPES",),
        examples=lambda rows: tables.examples(
            _pipe_records(rows), rows.columns, rows.findings, rows.progress
        ),
        records=_pipe_records,
        first=lambda rows: iter([FirstRecords("", list(_pipe_records(rows)))]),
        asks="column",
        cleaned_as="csv",
    )
    monkeypatch.setitem(formats.FORMATS, "pipes", pipes)
    path = tmp_path / "tickets.pipes"
    path.write_text("#PIPES\ntext|label\nwhere is it|delivery\nit broke|damage\nit broke|damage\n")

    reading = read(path, path.name)
    assert (reading.format, [row.answer for row in reading.examples]) == (
        "pipes",
        ["delivery", "damage", "damage"],
    )
    assert formats.is_table("pipes") and "pipes" in formats.extensions(asks=True)
    assert read_first_rows(path, 1)[0].records == (("text", "label"), ("where is it", "delivery"))
    questions = read_questions(path, path.name, None)
    assert not isinstance(questions, str) and len(questions.examples) == 3
    cleaned = clean(path, path.name, ANY_COLUMNS, tmp_path / "clean.csv")
    assert isinstance(cleaned, CleanedFile) and cleaned.converted
    assert cleaned.out.read_text() == "text,label\nwhere is it,delivery\nit broke,damage\n"
