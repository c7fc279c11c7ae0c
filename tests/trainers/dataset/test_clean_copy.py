"""A cleaned copy: rows keep their bytes, rows that are left out have a line and a reason, no file is overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.dataset.builders import chat_line
from tests.trainers.dataset.document_files import sheet_row, workbook
from trainers.dataset import Columns, Limits, read
from trainers.dataset.clean_copy import CleanedFile, CleaningRefusal, Contradiction, LeftOutRows, clean

KEY = "sk-" + "proj4" + "a" * 20


def clean_rows(path: Path, limits: Limits | None = None) -> CleanedFile:
    cleaned = clean(path, path.name, Columns(), path.with_name("out"), limits=limits or Limits())
    assert isinstance(cleaned, CleanedFile), cleaned
    return cleaned


def chat(question: str, answer: str = "a", **more: object) -> bytes:
    return chat_line(question, answer, **more).encode()  # type: ignore[arg-type]


def test_rows_of_jsonl_keep_their_bytes_and_those_left_out_have_a_reason(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    lines = [
        b" " + chat("où?") + b"\r",
        chat("où?  "),
        b"",
        b"{not json",
        chat(f"my key is {KEY}"),
        chat("O\xc3\xb9?".encode().decode("latin-1"), tools=[]),
        chat("où?", "another"),
        b"\xff",
        chat("mail me: anna@example.org"),
    ]
    source.write_bytes(b"\n".join(lines))
    before = source.read_bytes()

    cleaned = clean_rows(source)

    assert cleaned.out.read_bytes() == b"\n".join([lines[0], lines[5], lines[6], lines[8]]) + b"\n"
    assert cleaned.left_out == (
        LeftOutRows("blank_lines", 1, (3,)),
        LeftOutRows("duplicate", 1, (2,)),
        LeftOutRows("not_json", 1, (4,)),
        LeftOutRows("not_utf8", 1, (8,)),
        LeftOutRows("secret", 1, (5,)),
    )
    assert (cleaned.rows, cleaned.n_left_out, cleaned.written_as, cleaned.converted) == (4, 5, "jsonl", False)
    assert cleaned.contradictions == (Contradiction(1, 7),)
    assert source.read_bytes() == before
    assert cleaned.out.stat().st_mode & 0o077 == 0


def test_a_csv_keeps_its_header_separator_other_columns_and_quotes(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_bytes(
        b'\xef\xbb\xbfid;text;label\n1;"two\nlines; here";a\n2;"two\nlines; here";a\n\n3;x\n4; y ;b\n'
        b'5;"a ""quoted"" one";b\n6;\xff;b\n7;' + KEY.encode() + b";b\n8;=last;a"
    )

    cleaned = clean_rows(source)

    assert cleaned.out.read_bytes() == (
        b'id;text;label\n1;"two\nlines; here";a\n4; y ;b\n5;"a ""quoted"" one";b\n8;=last;a\n'
    )
    assert {(reason.code, reason.lines) for reason in cleaned.left_out} == {
        ("duplicate", (4,)),
        ("blank_lines", (6,)),
        ("wrong_width", (7,)),
        ("not_utf8", (10,)),
        ("secret", (11,)),
    }
    assert (cleaned.rows, cleaned.written_as, cleaned.converted, cleaned.formulas) == (4, "csv", False, 1)


def test_a_formula_in_any_column_of_a_csv_counts_and_none_in_jsonl_does(tmp_path: Path) -> None:
    table = tmp_path / "rows.csv"
    table.write_text("-id,text,label\n1,=a,x\n2,b,+y\n@3,c,x\n4,d,y\n", encoding="utf-8")
    cleaned = clean_rows(table)
    assert cleaned.formulas == 3
    cleaned.out.unlink()
    lines = tmp_path / "rows.jsonl"
    lines.write_bytes(chat("=a") + b"\n" + chat("b", "-y") + b"\n")
    assert clean_rows(lines).formulas == 0


def test_a_quote_that_is_not_closed_costs_that_record_only(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_bytes(b'text,label\none,a\n"two" x,b\nthree,a\nfour,b\n')
    cleaned = clean_rows(source)
    assert cleaned.out.read_bytes() == b"text,label\none,a\nthree,a\nfour,b\n"
    assert cleaned.left_out == (LeftOutRows("broken_quotes", 1, (3,)),)


def test_lines_swallowed_by_an_open_quote_are_counted_as_left_out(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_bytes(b'text,label\none,a\n"two,b\nthree,a\nfour,b\n')
    cleaned = clean_rows(source)
    assert cleaned.out.read_bytes() == b"text,label\none,a\n"
    assert cleaned.left_out == (LeftOutRows("broken_quotes", 3, (3, 4, 5)),)


def test_a_table_without_a_header_keeps_its_first_row(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    rows = [f"where is my parcel number {i},late" for i in range(9)]
    source.write_text("\n".join([*rows, *rows]) + "\n")
    cleaned = clean_rows(source)
    assert cleaned.out.read_text() == "\n".join(rows) + "\n"
    assert (cleaned.rows, cleaned.n_left_out) == (9, 9)


def test_a_line_over_the_cap_is_left_out_in_both_formats(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b"\n".join([chat("one"), chat("x" * 900), chat("two"), chat("y" * 900)]))
    table = tmp_path / "table.csv"
    table.write_text(f"text,label\none,a\n{'x' * 900},b\ntwo,b\n")
    assert clean_rows(rows, Limits(max_line_bytes=500)).left_out == (LeftOutRows("line_too_long", 2, (2, 4)),)
    (tmp_path / "out").unlink()
    cleaned = clean_rows(table, Limits(max_line_bytes=500))
    assert cleaned.out.read_text() == "text,label\none,a\ntwo,b\n"
    assert cleaned.left_out == (LeftOutRows("line_too_long", 1, (3,)),)


def test_only_the_first_lines_of_a_reason_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_bytes(b"\n".join([chat("same")] * 9))
    assert clean_rows(source, Limits(listed=2)).left_out == (LeftOutRows("duplicate", 8, (2, 3)),)


def test_parquet_is_converted_to_jsonl(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["first q", "second q", "first q"], "label": ["a", "b", "a"]}), source)
    cleaned = clean_rows(source)
    rows = [json.loads(line) for line in cleaned.out.read_bytes().splitlines()]
    assert rows == [json.loads(chat("first q", "a")), json.loads(chat("second q", "b"))]
    assert (cleaned.written_as, cleaned.converted, cleaned.rows, cleaned.n_left_out) == ("jsonl", True, 2, 1)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty.csv", b"", "'empty.csv' is empty."),
        ("photo.csv", b"\x89PNG\r\n\x1a\n....", "'photo.csv' is a PNG picture, whatever its name says."),
        ("bad.jsonl", b"{nothing}\n{good}\n", "Line 1 is not valid JSON at character 2."),
    ],
)
def test_a_file_without_a_usable_row_is_refused_and_no_copy_is_written(
    tmp_path: Path, name: str, content: bytes, reason: str
) -> None:
    source = tmp_path / name
    source.write_bytes(content)
    assert clean(source, name, Columns(), tmp_path / "out") == CleaningRefusal(reason)
    assert not (tmp_path / "out").exists()


def test_no_existing_file_is_overwritten(tmp_path: Path) -> None:
    source, other = tmp_path / "rows.jsonl", tmp_path / "other.jsonl"
    source.write_bytes(chat("q"))
    other.write_bytes(b"precious")
    assert clean(source, "x", Columns(), source) == CleaningRefusal(
        "'rows.jsonl' exists already; choose another name for the cleaned file."
    )
    assert isinstance(clean(source, "x", Columns(), other), CleaningRefusal)
    assert (source.read_bytes(), other.read_bytes()) == (chat("q"), b"precious")


def test_a_row_with_a_secret_in_a_tool_is_left_out(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    tool = {"type": "function", "function": {"name": "pay", "description": f"uses {KEY}"}}
    source.write_bytes(b"\n".join([chat("one", tools=[tool]), chat("two")]))
    assert clean_rows(source).left_out == (LeftOutRows("secret", 1, (1,)),)


def test_a_workbook_is_converted_to_csv(tmp_path: Path) -> None:
    source = tmp_path / "rows.xlsx"
    cells = [("text", "label"), ("one, two", "a"), ("three", "b"), ("three", "b")]
    source.write_bytes(workbook("".join(sheet_row(i, *row) for i, row in enumerate(cells, 1))))
    cleaned = clean_rows(source)
    assert cleaned.out.read_text() == 'text,label\n"one, two",a\nthree,b\n'
    assert (cleaned.written_as, cleaned.converted, cleaned.rows, cleaned.n_left_out) == ("csv", True, 2, 1)


def test_preference_pairs_are_not_cleaned(tmp_path: Path) -> None:
    source = tmp_path / "pairs.jsonl"
    source.write_text(json.dumps({"prompt": "q", "chosen": "better", "rejected": "worse"}) + "\n")
    cleaned = clean(source, "pairs.jsonl", Columns(), tmp_path / "out")
    assert isinstance(cleaned, CleaningRefusal) and "preference pairs" in cleaned.reason


LINES = st.lists(
    st.one_of(
        st.tuples(st.text(max_size=8), st.sampled_from(["a", "b", ""])).map(lambda t: chat(*t)),
        st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"")),
        st.just(chat("copy")),
    ),
    max_size=30,
)


def test_a_table_without_a_header_needs_more_than_one_usable_row(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text(";billing\nmy card was charged twice;billing\n")
    cleaned = clean(source, "rows.csv", Columns(), tmp_path / "cleaned.csv")
    assert isinstance(cleaned, CleaningRefusal) and "Only one row of 'rows.csv' would stay" in cleaned.reason
    assert not (tmp_path / "cleaned.csv").exists()


@settings(max_examples=50, deadline=None)
@given(lines=LINES)
def test_any_cleaned_jsonl_has_no_blocking_findings_and_cleaning_it_again_changes_nothing(
    lines: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("clean")
    source = folder / "rows.jsonl"
    source.write_bytes(b"\n".join(lines))

    cleaned = clean(source, "rows", Columns(), folder / "once")
    if isinstance(cleaned, CleaningRefusal):
        return
    written = cleaned.out.read_bytes()
    reading = read(cleaned.out, "rows")

    assert [f for f in reading.findings if f.blocks] == []
    assert len(reading.examples) == cleaned.rows
    assert set(written.split(b"\n")) <= {*lines, lines[0].removeprefix(b"\xef\xbb\xbf"), b""}
    assert cleaned.rows + cleaned.n_left_out == source.read_bytes().count(b"\n") + (lines[-1] != b"")
    again = clean(cleaned.out, "rows", Columns(), folder / "twice")
    assert isinstance(again, CleanedFile)
    assert (again.left_out, again.out.read_bytes()) == ((), written)
