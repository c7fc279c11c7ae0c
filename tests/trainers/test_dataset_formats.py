"""Workbooks, Parquet and preference pairs: read like other files, and refused in a sentence where they are broken."""

from __future__ import annotations

import datetime
import json
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from trainers.dataset import Columns, Limits, Reading, check_file, read

FIND, USUAL = Columns(), Limits()
SHEET = '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><sheetData>{}</sheetData></worksheet>'


def workbook(path: Path, *sheets: str, more: dict[str, bytes] | None = None) -> Path:
    """The least that is an .xlsx: each of `sheets` is the inside of its sheetData."""
    numbers = range(1, len(sheets) + 1)
    space = "http://schemas.openxmlformats.org"
    of_book = "".join(f'<sheet name="s{n}" sheetId="{n}" r:id="r{n}"/>' for n in numbers)
    links = "".join(
        f'<Relationship Id="r{n}" Target="worksheets/sheet{n}.xml"'
        f' Type="{space}/officeDocument/2006/relationships/worksheet"/>'
        for n in numbers
    )
    document = f"{space}/officeDocument/2006/relationships/officeDocument"
    root = f'<Relationship Id="r" Type="{document}" Target="xl/workbook.xml"/>'
    relations = f'<Relationships xmlns="{space}/package/2006/relationships">{{}}</Relationships>'
    parts: dict[str, str | bytes] = {
        "_rels/.rels": relations.format(root),
        "[Content_Types].xml": f'<Types xmlns="{space}/package/2006/content-types"/>',
        "xl/workbook.xml": f'<workbook xmlns="{space}/spreadsheetml/2006/main"'
        f' xmlns:r="{space}/officeDocument/2006/relationships"><sheets>{of_book}</sheets></workbook>',
        "xl/_rels/workbook.xml.rels": relations.format(links),
        **{
            f"xl/worksheets/sheet{n}.xml": SHEET.format(inside)
            for n, inside in zip(numbers, sheets, strict=True)
        },
        **(more or {}),
    }
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def row(number: int, *cells: str) -> str:
    inside = "".join(
        f'<c r="{chr(65 + i)}{number}" t="inlineStr"><is><t>{cell}</t></is></c>'
        for i, cell in enumerate(cells)
    )
    return f'<row r="{number}">{inside}</row>'


def codes(reading: Reading) -> list[tuple[int | None, str]]:
    return [(finding.line, finding.code) for finding in reading.findings]


def test_a_workbook_is_read_from_its_first_sheet_with_rows_and_lines_are_its_rows(tmp_path: Path) -> None:
    rows = row(2, "text", "label") + row(4, "where is it", "delivery") + row(5, "no label here", "")

    reading = read(workbook(tmp_path / "a.xlsx", "", rows, row(1, "other", "sheet")), "a.xlsx")

    assert (reading.format, reading.columns) == ("xlsx", Columns("text", "label"))
    assert [(e.line, e.prompt[0].content, e.answer) for e in reading.examples] == [
        (4, "where is it", "delivery")
    ]
    assert codes(reading) == [(5, "empty_label"), (None, "one_sheet")]


def test_a_sheet_that_is_seen_comes_before_one_that_is_hidden(tmp_path: Path) -> None:
    openpyxl = pytest.importorskip("openpyxl", reason="openpyxl hides the sheet")
    book = openpyxl.Workbook()
    book.active.sheet_state = "hidden"
    for sheet, label in ((book.active, "old"), (book.create_sheet("now"), "new")):
        sheet.append(["text", "label"])
        sheet.append(["where is it", label])
    book.save(tmp_path / "a.xlsx")

    assert [e.answer for e in read(tmp_path / "a.xlsx", "a.xlsx").examples] == ["new"]


def test_a_workbook_is_checked_and_split_like_a_table(tmp_path: Path) -> None:
    rows = "".join(row(i, f"ticket {i} is late", "ab"[i % 2]) for i in range(2, 62))
    path = workbook(tmp_path / "a.xlsx", row(1, "text", "label") + rows)

    report = check_file(path, "a.xlsx", FIND, tmp_path / "out", 7)

    assert (report.format, report.rows, report.n_train + report.n_holdout) == ("xlsx", 60, 60)
    (first, *_) = (tmp_path / "out" / f"{report.train_sha256}.jsonl").read_text().splitlines()
    assert [m["role"] for m in json.loads(first)["messages"]] == ["system", "user", "assistant"]
    assert json.loads(first)["messages"][0]["content"] == report.system


BOX = row(1, "text", "label") + '<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>'
SHARED = '<row><c t="s"><v>0</v></c><c t="s"><v>0</v></c></row>'
STRINGS = b"<sst><si><t>" + b"x" * 500_000 + b"</t></si></sst>"


def test_a_workbook_whose_cells_span_a_huge_rectangle_is_refused_before_it_is_filled(tmp_path: Path) -> None:
    reading = read(workbook(tmp_path / "a.xlsx", BOX), "a.xlsx")

    assert codes(reading) == [(None, "too_big_unpacked")]


def test_a_workbook_where_many_cells_share_a_long_text_is_refused(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", SHARED * 500, more={"xl/sharedStrings.xml": STRINGS})

    assert codes(read(path, "a.xlsx")) == [(None, "too_big_unpacked")]


def test_a_workbook_that_unpacks_to_more_than_the_cap_is_refused(tmp_path: Path) -> None:
    path = workbook(tmp_path / "a.xlsx", row(1, "text", "label"), more={"xl/media/x.bin": bytes(3_000_000)})

    assert path.stat().st_size < 10_000
    assert codes(read(path, "a.xlsx", limits=Limits(max_bytes=1_000_000))) == [(None, "too_big_unpacked")]


def test_a_sheet_that_is_one_endless_tag_is_refused(tmp_path: Path) -> None:
    reading = read(workbook(tmp_path / "a.xlsx", "<c " + "r" * 150_000_000), "a.xlsx")

    assert codes(reading) == [(None, "too_big_unpacked")]


def test_a_workbook_that_declares_entities_is_refused(tmp_path: Path) -> None:
    bomb = b'<!DOCTYPE sst [<!ENTITY a "aaaaaaaa">]><sst><si><t>&a;</t></si></sst>'

    reading = read(
        workbook(tmp_path / "a.xlsx", row(1, "a", "b"), more={"xl/sharedStrings.xml": bomb}), "a.xlsx"
    )

    assert codes(reading) == [(None, "not_text")]


def other_zips(folder: Path) -> dict[str, tuple[Path, str, str]]:
    whole = workbook(folder / "whole.xlsx", row(1, "text", "label")).read_bytes()
    (folder / "cut").write_bytes(whole[: len(whole) // 2])
    (folder / "turned").write_bytes(whole.replace(b"PK\x01\x02", b"PK\x01\x03"))
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
        "empty": (workbook(folder / "empty.xlsx", ""), "no_rows", "without rows"),
        "no sheet": (workbook(folder / "none.xlsx"), "no_rows", "without rows"),
    }


@pytest.mark.parametrize("which", ["cut", "turned", "locked", "old", "ods", "docx", "empty", "no sheet"])
def test_what_is_no_readable_workbook_is_refused_in_one_sentence(tmp_path: Path, which: str) -> None:
    path, code, says = other_zips(tmp_path)[which]

    (finding,) = read(path, "rows.xlsx").findings

    assert (finding.code, finding.severity) == (code, "blocks")
    assert says in finding.message


def test_no_damage_to_a_workbook_makes_reading_raise(tmp_path: Path) -> None:
    whole = workbook(tmp_path / "a.xlsx", row(1, "text", "label") + row(2, "hello there", "b")).read_bytes()
    for at in range(0, len(whole), 7):
        (tmp_path / "b").write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])

        reading = read(tmp_path / "b", "b.xlsx")

        assert reading.examples or reading.findings


def parquet(path: Path, columns: dict[str, Any], **more: Any) -> Path:
    pq.write_table(pa.table(columns), path, **more)
    return path


def test_parquet_with_two_columns_is_read_like_a_table_with_row_numbers_as_lines(tmp_path: Path) -> None:
    columns = {
        "what": ["where is it", None, "stop it"],
        "kind": ["delivery", "x", "cancel"],
        "n": [[1], [2], [3]],
    }

    reading = read(
        parquet(tmp_path / "a", columns, row_group_size=2), "a.parquet", columns=Columns("what", "kind")
    )

    assert (reading.format, reading.columns) == ("parquet", Columns("what", "kind"))
    assert [(e.line, e.answer) for e in reading.examples] == [(1, "delivery"), (3, "cancel")]
    assert codes(reading) == [(2, "empty_text")]


def test_the_columns_of_parquet_have_names_whatever_the_rows_look_like(tmp_path: Path) -> None:
    columns = {"x1": [f"the printer number {i} is dead" for i in range(30)], "x2": ["a", "b"] * 15}

    assert read(parquet(tmp_path / "a", columns), "a").columns == Columns("x1", "x2")


def test_parquet_with_conversations_is_read_as_chat(tmp_path: Path) -> None:
    good = [
        {"role": "user", "content": "hi", "weight": None},
        {"role": "assistant", "content": "b", "weight": 1},
    ]
    bad = [{"role": "user", "content": "hi", "weight": None}]

    path = parquet(tmp_path / "a", {"messages": [good, bad, None], "id": [1, 2, 3]})

    reading = read(path, "a")
    assert (reading.format, reading.columns) == ("parquet", FIND)
    assert [(e.line, e.answer, e.messages[1].weight) for e in reading.examples] == [(1, "b", 1)]
    assert codes(reading) == [(2, "no_answer"), (3, "bad_messages")]


def test_parquet_of_conversations_keeps_their_tools(tmp_path: Path) -> None:
    called = {"name": "track", "arguments": "{}"}
    call = {"id": "c", "type": "function", "function": called}
    asks = {"role": "user", "content": "where is it", "tool_calls": None}
    chat = [asks, {"role": "assistant", "content": None, "tool_calls": [call]}]
    tools = [{"type": "function", "function": {"name": "track", "parameters": {"type": "object"}}}]
    columns = {"messages": [chat, chat, chat], "tools": [json.dumps(tools), None, "no JSON"]}

    reading = read(parquet(tmp_path / "a", columns), "a")

    assert [json.loads(e.row or b"").get("tools") for e in reading.examples] == [tools, None]
    assert codes(reading) == [(3, "bad_tools")]


@pytest.mark.parametrize(
    ("columns", "code"),
    [
        ({"conversations": [[{"from": "human", "value": "hi"}]] * 3}, "no_labels"),
        (
            {"text": ["hi"] * 3, "label": ["a"] * 3, "at": pa.array([1 << 62] * 3, pa.timestamp("us"))},
            "damaged_part",
        ),
    ],
)
def test_parquet_that_python_cannot_hold_is_refused_in_a_sentence(
    tmp_path: Path, columns: dict[str, Any], code: str
) -> None:
    assert [found for _, found in codes(read(parquet(tmp_path / "a", columns), "a"))] == [code]


def test_parquet_of_conversations_gets_no_instructions_of_ours(tmp_path: Path) -> None:
    rows = [
        [{"role": "user", "content": f"question {i}"}, {"role": "assistant", "content": "ab"[i % 2]}]
        for i in range(30)
    ]

    report = check_file(parquet(tmp_path / "a", {"messages": rows}), "a", FIND, tmp_path / "out", 7)

    assert (report.system, report.rows, report.is_blocked) == (None, 30, False)


def test_a_parquet_bomb_is_refused_by_what_it_would_unpack_to(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a", {"text": ["x" * 1000] * 5000, "label": ["a"] * 5000}, use_dictionary=False)

    assert path.stat().st_size < 1_000_000
    assert codes(read(path, "a", limits=Limits(max_bytes=1_000_000))) == [(None, "too_big_unpacked")]


def test_a_parquet_dictionary_bomb_stops_at_the_cap(tmp_path: Path) -> None:
    path = parquet(tmp_path / "a", {"text": ["x" * 1000] * 5000, "label": ["a"] * 5000})

    findings = read(path, "a", limits=Limits(max_bytes=1_000_000)).findings

    assert [finding.code for finding in findings] == ["too_big_unpacked"]


def shared_text(path: Path, size: int, rows: int) -> Path:
    """One text for all rows, which the file holds once, under a footer that says that all is small."""
    text = pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * size]))
    table = pa.table({"text": [f"question {i}" for i in range(rows)], "label": text})
    pq.write_table(table, path, write_statistics=False, store_schema=False, compression="zstd")
    meta, whole = pq.read_metadata(path).row_group(0), path.read_bytes()
    start = len(whole) - 8 - int.from_bytes(whole[-8:-4], "little")
    footer = whole[start:]
    for told in {meta.total_byte_size, meta.column(1).total_uncompressed_size}:
        footer = footer.replace(zigzag(told), zigzag(1000, len(zigzag(told))))
    path.write_bytes(whole[:start] + footer)
    return path


def zigzag(number: int, length: int = 0) -> bytes:
    """A whole number as Thrift writes it, in that many bytes at least."""
    groups = [2 * number >> shift & 127 for shift in range(0, max(7 * length, (2 * number).bit_length()), 7)]
    return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])


def test_a_parquet_footer_that_lies_is_not_believed(tmp_path: Path) -> None:
    path = shared_text(tmp_path / "a", 400_000, 300)
    group, limits = pq.read_metadata(path).row_group(0), Limits(max_bytes=1_000_000, max_line_bytes=500_000)
    assert (group.total_byte_size, path.stat().st_size < 10_000) == (1000, True)

    tracemalloc.start()
    reading = read(path, "a", limits=limits)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert codes(reading) == [(1, "too_big_unpacked")]
    assert peak < 10_000_000, "no row became Python's: all would be 120 MB"


def test_a_text_that_rows_share_counts_once_a_row_and_is_read_like_any_other(tmp_path: Path) -> None:
    path = shared_text(tmp_path / "a", 1000, 300)

    reading = read(path, "a", limits=Limits(max_bytes=1_000_000, max_line_bytes=500_000))

    assert [len(example.answer) for example in reading.examples] == [1000] * 300
    assert codes(read(path, "a", limits=Limits(max_line_bytes=900)))[0] == (1, "line_too_long")


def test_no_damage_to_parquet_makes_reading_raise(tmp_path: Path) -> None:
    whole = parquet(tmp_path / "a", {"text": ["where is it", "stop"], "label": ["a", "b"]}).read_bytes()
    for at in range(0, len(whole), 11):
        (tmp_path / "b").write_bytes(whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1 :])

        reading = read(tmp_path / "b", "b")

        assert reading.examples or reading.findings


def pair(**parts: Any) -> str:
    asked = {"messages": [{"role": "user", "content": "which one"}]}
    better = [{"role": "assistant", "content": "the better"}]
    worse = [{"role": "assistant", "content": "the worse"}]
    return json.dumps({"input": asked, "preferred_output": better, "non_preferred_output": worse} | parts)


def plain(**parts: Any) -> str:
    return json.dumps({"prompt": "which one", "chosen": "the better", "rejected": "the worse"} | parts)


ASKED = [{"role": "user", "content": "which one"}]


@pytest.mark.parametrize(
    "line",
    [
        pair(),
        plain(),
        plain(
            prompt=ASKED,
            chosen=[{"role": "assistant", "content": "a"}],
            rejected=[{"role": "assistant", "content": "b"}],
        ),
        plain(
            prompt=ASKED,
            chosen=[*ASKED, {"role": "assistant", "content": "the better"}],
            rejected=[*ASKED, {"role": "assistant", "content": "b"}],
        ),
    ],
    ids=["openai", "texts", "messages", "messages with the prompt"],
)
def test_preference_pairs_are_read_with_the_preferred_answer(tmp_path: Path, line: str) -> None:
    (tmp_path / "p").write_text("\n".join([line] * 3))

    reading = read(tmp_path / "p", "pairs.jsonl")

    (finding,) = reading.findings
    assert (reading.format, len(reading.examples)) == ("preference", 3)
    assert (finding.line, finding.code, finding.severity, finding.count) == (
        None,
        "preference_pairs",
        "tells",
        3,
    )
    assert finding.message.startswith("3 rows are preference pairs.")
    assert "method=dpo trains on both answers" in finding.cure
    assert reading.examples[0].answer in ("the better", "a")
    assert [m.role for m in reading.examples[0].messages] == ["user", "assistant"]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (pair(preferred_output=[]), "bad_preference_pair"),
        (pair(non_preferred_output=None), "bad_preference_pair"),
        (pair(input={}), "bad_preference_pair"),
        (pair(preferred_output=[{"role": "user", "content": "x"}]), "bad_preference_pair"),
        (pair(non_preferred_output=[{"role": "assistant", "content": " "}]), "bad_preference_pair"),
        (
            pair(non_preferred_output=[{"role": "assistant", "content": "the better"}]),
            "preference_without_difference",
        ),
        (plain(chosen="the worse"), "preference_without_difference"),
        (plain(rejected=5), "bad_preference_pair"),
        (pair(input={"messages": [{"role": "bot", "content": "x"}]}), "unknown_role"),
        (pair(preferred_output=["x"]), "bad_preference_pair"),
    ],
)
def test_a_pair_that_is_none_is_found_on_its_line(tmp_path: Path, line: str, code: str) -> None:
    (tmp_path / "p").write_text("\n".join([pair(), plain(), line]))

    reading = read(tmp_path / "p", "pairs.jsonl")

    assert (3, code) in codes(reading)
    assert len(reading.examples) == 2


def test_a_chat_row_among_pairs_is_of_another_format(tmp_path: Path) -> None:
    chat = json.dumps({"messages": [*ASKED, {"role": "assistant", "content": "x"}]})
    (tmp_path / "p").write_text(f"{pair()}\n{chat}")

    assert (2, "mixed_formats") in codes(read(tmp_path / "p", "p"))


def test_numbers_and_dates_in_a_workbook_read_as_people_see_them(tmp_path: Path) -> None:
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
