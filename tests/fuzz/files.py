"""Malformed files and the check of an upload: its report fits into Slack, and a refused file leaves nothing behind."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from bot.cards.common.terminal import terminal_text
from bot.cards.datasets import check_reports
from bot.services.datasets.dataset_worker import inspect
from storage.records import Dataset, DatasetState
from tests.cards.slack_limits import limit_violations
from tests.fuzz.mutations import TEXTS, Json, deep, mutated, odd_texts, raw_json
from trainers.dataset import Columns, Report

ROWS = 12
SEED = 7
_TOOL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
CHAT_ROW: Json = {
    "messages": [
        {"role": "system", "content": "Sort it."},
        {"role": "user", "content": "Where is my refund?", "name": "n"},
        {"role": "assistant", "content": None, "tool_calls": [_TOOL]},
        {"role": "tool", "content": "none", "tool_call_id": "c1"},
        {"role": "assistant", "content": "refund", "weight": 1},
    ],
    "tools": [
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    ],
}
COMPLETION_ROW: Json = {"prompt": "Where is my refund?", "completion": "refund"}
_ANSWER = [{"role": "assistant", "content": "a"}]
PAIR_ROW: Json = {
    "input": {"messages": CHAT_ROW["messages"][:2]},
    "preferred_output": _ANSWER,
    "non_preferred_output": _ANSWER,
}
LINES = (
    *(
        b"",
        b" ",
        b"\x00",
        b"\xff\xfe",
        b'"',
        b'"a,b',
        b"=cmd|' /C calc'!A0,b",
        b"\xef\xbb\xbf{}",
        b"a" * 1_000_100,
    ),
    *(
        b'{"a":1}{"b":2}',
        b'{"messages": NaN}',
        b'{"messages": [], "messages": []}',
        b'{"messages":' + b" " * 70_000,
    ),
    *(b'{"x": 1e400}', b'{"x": "\\ud800"}', deep(5_000).encode()),
    deep(40, '{"a":', "}").encode().replace(b":}", b":1}"),
)
HEADS = (
    b"PK\x03\x04", b"PAR1", b"\x1f\x8b\x08", b"\x89PNG\r\n\x1a\n", b"\xff\xfe", b"\xd0\xcf\x11\xe0", b"\xef\xbb\xbf",
)  # fmt: skip


def files() -> st.SearchStrategy[tuple[str, bytes]]:
    """Name and bytes."""
    names = st.sampled_from(
        ("tickets.jsonl", "../../x.csv", "a\u202egnp.xlsx", "<!channel>.csv", "x" * 300, "\x00")
    )
    return st.tuples(
        names, st.one_of(_jsonl(), _jsonl(), _table(), _changed_bytes(), st.binary(max_size=400))
    )


@st.composite
def _jsonl(draw: st.DrawFn) -> bytes:
    base = draw(st.sampled_from((CHAT_ROW, COMPLETION_ROW, PAIR_ROW)))
    lines = [json.dumps(_numbered(base, number)).encode() for number in range(ROWS)]
    odd = mutated(base).map(lambda row: json.dumps(row).encode()) | raw_json(base) | st.sampled_from(LINES)
    for _ in range(draw(st.integers(1, 3))):
        lines[draw(st.integers(0, ROWS - 1))] = draw(odd)
    end = draw(st.sampled_from((b"\n", b"\r\n", b"\r", b"\n\n", b"\x00\n", b"\x0b", "\u2028".encode())))
    return _encoded(draw, end.join(lines))


@st.composite
def _table(draw: st.DrawFn) -> bytes:
    heads = ("text,label", "text;label", "text\tlabel", "a,b,c", "text,text", '"text,label', "label")
    head = draw(st.sampled_from(heads))
    odd = (*TEXTS, '"', '""', "a,b", "\t=1", "\r=1", "@x", "refund", "one two three")
    cells = st.sampled_from(odd) | odd_texts
    lines = [f"question {number} of many,{draw(cells)}" for number in range(ROWS - 3)]
    lines += [",".join(draw(st.lists(cells, max_size=4))) for _ in range(3)]
    text = draw(st.sampled_from(("\n", "\r\n", "\r"))).join([head, *lines])
    return _encoded(draw, text.encode("utf-8", "surrogatepass"))


def _encoded(draw: st.DrawFn, content: bytes) -> bytes:
    """Unchanged, cut off, in UTF-16 or Latin-1, with a NUL or another wrong byte, or after a byte order mark."""
    text = content.decode("utf-8", "replace")
    where = draw(st.integers(0, len(content)))
    start, end = content[:where], content[where:]
    forms = (
        *(
            content,
            content,
            content,
            start,
            start + b"\x00" + end,
            start + b"\xff" + end,
            b"\xef\xbb\xbf" + content,
        ),
        *(text.encode("utf-16"), text.encode("utf-16-le")[:-1], text.encode("latin-1", "replace")),
    )
    return draw(st.sampled_from(forms))


@st.composite
def _changed_bytes(draw: st.DrawFn) -> bytes:
    """A workbook, a Parquet file or an archive with bytes that are changed, cut off or put before it."""
    content = bytearray(draw(st.sampled_from((workbook(), parquet(), archive(), bomb()))))
    for _ in range(draw(st.integers(0, 4))):
        content[draw(st.integers(0, len(content) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.just(len(content)) | st.integers(0, len(content)))
    return draw(st.sampled_from((b"", b"", *HEADS))) + bytes(content[:cut])


@cache
def workbook() -> bytes:
    from openpyxl import Workbook  # type: ignore[import-untyped]

    book, file = Workbook(), io.BytesIO()
    for row in [("text", "label"), *((f"question {number}", "a") for number in range(ROWS))]:
        book.active.append(row)
    book.save(file)
    return file.getvalue()


@cache
def parquet() -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    file = io.BytesIO()
    pq.write_table(pa.table({"text": [f"question {n}" for n in range(ROWS)], "label": ["a"] * ROWS}), file)
    return file.getvalue()


@cache
def archive() -> bytes:
    return _zip({"../../evil.jsonl": json.dumps(CHAT_ROW).encode()})


@cache
def bomb() -> bytes:
    """A workbook whose sheet unpacks to 500 times its size."""
    sheet = b"<worksheet><sheetData>" + b"<row><c><v>1</v></c></row>" * 20_000
    return _zip({"xl/workbook.xml": b"<workbook/>", "xl/worksheets/sheet1.xml": sheet})


def _zip(parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return file.getvalue()


def _numbered(row: Json, number: int) -> Json:
    text = json.dumps(row).replace("Where is my refund?", f"Where is my refund, order {number}?")
    numbered: Json = json.loads(text)
    return numbered


def complaint_about(dataset: Dataset, name: str, content: bytes, folder: Path) -> str | None:
    """What a person would complain about after the check of one file in an empty folder. Raises if the check does."""
    source, stored = folder / "source", folder / "stored"
    stored.mkdir(exist_ok=True)
    source.write_bytes(content)
    report = _check(source, name, stored, folder)
    left = {path.name for path in stored.iterdir()}
    expected = set() if report.is_blocked else {f"{part}.jsonl" for part in report.stored_files}
    if left != expected:
        return f"left {sorted(left)} instead of {sorted(expected)}"
    for path in stored.iterdir():
        path.unlink()
    return _complaint_about_sentences(dataset, report)


def _check(source: Path, name: str, stored: Path, folder: Path) -> Report:
    options: dict[str, Any] = dict.fromkeys(("previous", "longest", "lengths_by"))
    options |= {"presidio": False, "local_models": {}, "drawings": folder / "plots"}
    inspected = inspect(source, name, Columns(), stored, SEED, **options)
    return Report.from_json(inspected.report.to_json())  # as it is stored


def _complaint_about_sentences(dataset: Dataset, report: Report) -> str | None:
    state: DatasetState = "refused" if report.is_blocked else "ready"
    card = check_reports.checked_card(replace(dataset, filename=report.name, state=state), report)
    shown = json.dumps(card.letter()) + terminal_text(check_reports.full_report(report, most=None).parts)
    if "Traceback" in shown or 'File \\"' in shown:
        return "a traceback"
    violations = limit_violations(card)
    return f"Slack would refuse the card: {violations[0]}" if violations else None
