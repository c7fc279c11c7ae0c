"""The cleaned file: what stays is the same bytes, what is left out has its line and reason, nothing is
overwritten."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.dataset import Columns, Limits, read
from trainers.dataset.clean_copy import CleanedFile, CleaningRefusal, Contradiction, LeftOutRows, clean

KEY = "sk-" + "proj4" + "a" * 20


def chat(text: str, answer: str = "a", **more: object) -> bytes:
    messages = [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, **more}, ensure_ascii=False).encode()


def cleaned(path: Path, limits: Limits | None = None) -> CleanedFile:
    done = clean(path, path.name, Columns(), path.with_name("out"), limits=limits or Limits())
    assert isinstance(done, CleanedFile), done
    return done


def test_jsonl_keeps_the_bytes_of_what_stays_and_says_why_the_rest_went(tmp_path: Path) -> None:
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

    done = cleaned(source)

    assert done.out.read_bytes() == b"\n".join([lines[0], lines[5], lines[6], lines[8]]) + b"\n"
    assert done.left_out == (
        LeftOutRows("blank_lines", 1, (3,)),
        LeftOutRows("duplicate", 1, (2,)),
        LeftOutRows("not_json", 1, (4,)),
        LeftOutRows("not_utf8", 1, (8,)),
        LeftOutRows("secret", 1, (5,)),
    )
    assert (done.rows, done.n_left_out, done.written_as, done.converted) == (4, 5, "jsonl", False)
    assert done.contradictions == (Contradiction(1, 7),)
    assert source.read_bytes() == before
    assert done.out.stat().st_mode & 0o077 == 0


def test_a_csv_keeps_its_header_separator_other_columns_and_quotes(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_bytes(
        b'\xef\xbb\xbfid;text;label\n1;"two\nlines; here";a\n2;"two\nlines; here";a\n\n3;x\n4; y ;b\n'
        b'5;"a ""quoted"" one";b\n6;\xff;b\n7;' + KEY.encode() + b";b\n8;last;a"
    )

    done = cleaned(source)

    assert done.out.read_bytes() == (
        b'id;text;label\n1;"two\nlines; here";a\n4; y ;b\n5;"a ""quoted"" one";b\n8;last;a\n'
    )
    assert {(reason.code, reason.lines) for reason in done.left_out} == {
        ("duplicate", (4,)),
        ("blank_lines", (6,)),
        ("wrong_width", (7,)),
        ("not_utf8", (10,)),
        ("secret", (11,)),
    }
    assert (done.rows, done.written_as, done.converted) == (4, "csv", False)


def test_a_quote_that_is_not_closed_costs_that_record_only(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_bytes(b'text,label\none,a\n"two" x,b\nthree,a\nfour,b\n')

    done = cleaned(source)

    assert done.out.read_bytes() == b"text,label\none,a\nthree,a\nfour,b\n"
    assert done.left_out == (LeftOutRows("broken_quotes", 1, (3,)),)


def test_what_an_open_quote_swallows_is_counted_as_left_out(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_bytes(b'text,label\none,a\n"two,b\nthree,a\nfour,b\n')

    done = cleaned(source)

    assert done.out.read_bytes() == b"text,label\none,a\n"
    assert done.left_out == (LeftOutRows("broken_quotes", 3, (3, 4, 5)),)


def test_a_table_without_a_header_keeps_its_first_row(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    rows = [f"where is my parcel number {i},late" for i in range(9)]
    source.write_text("\n".join([*rows, *rows]) + "\n")

    done = cleaned(source)

    assert done.out.read_text() == "\n".join(rows) + "\n"
    assert (done.rows, done.n_left_out) == (9, 9)


def test_a_line_over_the_cap_is_left_out_in_both_formats(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_bytes(b"\n".join([chat("one"), chat("x" * 900), chat("two"), chat("y" * 900)]))
    table = tmp_path / "table.csv"
    table.write_text(f"text,label\none,a\n{'x' * 900},b\ntwo,b\n")

    assert cleaned(rows, Limits(max_line_bytes=500)).left_out == (LeftOutRows("line_too_long", 2, (2, 4)),)
    (tmp_path / "out").unlink()
    done = cleaned(table, Limits(max_line_bytes=500))

    assert done.out.read_text() == "text,label\none,a\ntwo,b\n"
    assert done.left_out == (LeftOutRows("line_too_long", 1, (3,)),)


def test_only_the_first_lines_of_a_reason_are_listed_and_all_are_counted(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_bytes(b"\n".join([chat("same")] * 9))

    assert cleaned(source, Limits(listed=2)).left_out == (LeftOutRows("duplicate", 8, (2, 3)),)


def test_parquet_becomes_jsonl_and_says_so(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"text": ["q1", "q2", "q1"], "label": ["a", "b", "a"]}), source)

    done = cleaned(source)

    assert (
        done.out.read_bytes()
        == b"\n".join(
            json.dumps(
                {"messages": [{"role": "user", "content": q}, {"role": "assistant", "content": a}]},
                separators=(",", ":"),
            ).encode()
            for q, a in (("q1", "a"), ("q2", "b"))
        )
        + b"\n"
    )
    assert (done.written_as, done.converted, done.rows, done.n_left_out) == ("jsonl", True, 2, 1)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.csv", b"", "'empty.csv' is empty."),
        ("photo.csv", b"\x89PNG\r\n\x1a\n....", "'photo.csv' is a PNG picture, whatever its name says."),
        ("bad.jsonl", b"{nothing}\n{good}\n", "Line 1 is not valid JSON at character 2."),
    ],
)
def test_a_file_without_a_row_that_could_stay_gives_a_sentence_and_no_file(
    tmp_path: Path, name: str, content: bytes, said: str
) -> None:
    source = tmp_path / name
    source.write_bytes(content)

    assert clean(source, name, Columns(), tmp_path / "out") == CleaningRefusal(said)
    assert not (tmp_path / "out").exists()


def test_neither_the_file_itself_nor_another_one_is_overwritten(tmp_path: Path) -> None:
    source, other = tmp_path / "rows.jsonl", tmp_path / "other.jsonl"
    source.write_bytes(chat("q"))
    other.write_bytes(b"precious")

    assert clean(source, "x", Columns(), source) == CleaningRefusal(
        "'rows.jsonl' exists already; choose another name for the cleaned file."
    )
    assert isinstance(clean(source, "x", Columns(), other), CleaningRefusal)
    assert (source.read_bytes(), other.read_bytes()) == (chat("q"), b"precious")


def test_a_secret_in_a_tool_of_a_row_is_left_out_too(tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    tool = {"type": "function", "function": {"name": "pay", "description": f"uses {KEY}"}}
    source.write_bytes(b"\n".join([chat("one", tools=[tool]), chat("two")]))

    assert cleaned(source).left_out == (LeftOutRows("secret", 1, (1,)),)


def test_a_workbook_becomes_a_csv_and_says_so(tmp_path: Path) -> None:
    source = tmp_path / "rows.xlsx"
    source.write_bytes(workbook([("text", "label"), ("one, two", "a"), ("three", "b"), ("three", "b")]))

    done = cleaned(source)

    assert done.out.read_text() == 'text,label\n"one, two",a\nthree,b\n'
    assert (done.written_as, done.converted, done.rows, done.n_left_out) == ("csv", True, 2, 1)


def workbook(rows: list[tuple[str, str]]) -> bytes:
    """The least that Excel would open."""
    cells = "".join(
        "<row>" + "".join(f'<c t="inlineStr"><is><t>{cell}</t></is></c>' for cell in row) + "</row>"
        for row in rows
    )
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relation = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006"
    parts = {
        "[Content_Types].xml": f'<Types xmlns="{package}/content-types"/>',
        "_rels/.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{relation}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{relation}"><sheets>'
        '<sheet name="Rows" sheetId="1" r:id="r1"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}/relationships"><Relationship Id="r1" '
        f'Type="{relation}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{cells}</sheetData></worksheet>',
    }
    packed = BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, f'<?xml version="1.0" encoding="UTF-8"?>{text}')
    return packed.getvalue()


def test_preference_pairs_are_not_cleaned(tmp_path: Path) -> None:
    source = tmp_path / "pairs.jsonl"
    said = {
        role: [{"role": "assistant", "content": role}]
        for role in ("preferred_output", "non_preferred_output")
    }
    pair = {"input": {"messages": [{"role": "user", "content": "q"}]}, **said}
    source.write_text(json.dumps(pair) + "\n")

    done = clean(source, "pairs.jsonl", Columns(), tmp_path / "out")

    assert isinstance(done, CleaningRefusal) and "preference pairs" in done.reason


LINES = st.lists(
    st.one_of(
        st.tuples(st.text(max_size=8), st.sampled_from(["a", "b", ""])).map(lambda t: chat(*t)),
        st.binary(max_size=12).map(lambda raw: raw.replace(b"\n", b"")),
        st.just(chat("copy")),
    ),
    max_size=30,
)


def test_of_a_table_without_a_header_more_than_one_row_has_to_stay(tmp_path: Path) -> None:
    source = tmp_path / "rows.csv"
    source.write_text(";billing\nmy card was charged twice;billing\n")
    done = clean(source, "rows.csv", Columns(), tmp_path / "cleaned.csv")
    assert isinstance(done, CleaningRefusal) and "Only one row of 'rows.csv' would stay" in done.reason
    assert not (tmp_path / "cleaned.csv").exists()


@settings(max_examples=80, deadline=None)
@given(lines=LINES)
def test_any_jsonl_becomes_one_that_the_gate_reads_without_a_fault_and_is_stable(
    lines: list[bytes], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("clean")
    source = folder / "rows.jsonl"
    source.write_bytes(b"\n".join(lines))

    done = clean(source, "rows", Columns(), folder / "once")
    if isinstance(done, CleaningRefusal):
        return
    written = done.out.read_bytes()
    reading = read(done.out, "rows")

    assert [f for f in reading.findings if f.blocks] == []
    assert len(reading.examples) == done.rows
    assert set(written.split(b"\n")) <= {*lines, lines[0].removeprefix(b"\xef\xbb\xbf"), b""}
    assert done.rows + done.n_left_out == source.read_bytes().count(b"\n") + (lines[-1] != b"")
    again = clean(done.out, "rows", Columns(), folder / "twice")
    assert isinstance(again, CleanedFile)
    assert (again.left_out, again.out.read_bytes()) == ((), written)
