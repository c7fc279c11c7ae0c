"""Rows are looked through as they are written: escaped characters, keys and definitions of tools too."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from trainers.dataset.sensitive_data import Scan, scan_file, scanner_name

ROW = {"messages": [{"role": "user", "content": "where is it"}, {"role": "assistant", "content": "refund"}]}
TOOL = {"type": "function", "function": {"name": "mail", "description": "mails jo@example.com"}}


def written(folder: Path, *rows: str) -> Path:
    path = folder / "part.jsonl"
    path.write_text("".join(f"{row}\n" for row in rows), encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "row",
    [
        json.dumps(ROW).replace("where is it", "mail jo@example.com"),
        json.dumps(ROW).replace("where is it", r"mail jo\u0040example.com"),
        json.dumps(ROW | {"tools": [TOOL]}),
        json.dumps(ROW | {"jo@example.com": 1}),
    ],
    ids=["plain", "escaped", "in a tool", "in a key"],
)
def test_an_address_is_found_wherever_it_stands_in_the_row(tmp_path: Path, row: str) -> None:
    found = scan_file(written(tmp_path, json.dumps(ROW), row), presidio=False)

    assert (found.personal, found.secret) == ((("an e-mail address", 1),), ())


def test_a_scan_is_of_these_bytes_and_travels_as_json(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(ROW), json.dumps(ROW).replace("it", "AKIA" + "IOSFODNN7EXAMPLX"))

    found = scan_file(path, presidio=False)

    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (found.codes, found.personal) == ({"secret"}, ())
    assert Scan.from_json(found.to_json()) == found


def test_other_patterns_have_another_name() -> None:
    assert scanner_name(presidio=True) != scanner_name(presidio=False)
