"""Personal data by presidio's patterns. Needs the extra 'pii'; what holds without it is tested in
test_cli.py."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainers.dataset import Columns, Example, check_file, store_chat
from trainers.dataset.checks import Finding, Findings
from trainers.dataset.sensitive_data import PRESIDIO_MOST_LETTERS, check_presidio
from trainers.types import Message

pytest.importorskip("presidio_analyzer", reason="presidio is not installed: it is the extra 'pii'")


SSN, PESEL = "536-90-" + "4399", "440514" + "01359"


def row(line: int, text: str) -> Example:
    return Example(line, (Message("user", text), Message("assistant", "ok")))


def looked(examples: Sequence[Example], most_rows: int = 1000, seconds: float = 60) -> tuple[Finding, ...]:
    found = Findings(listed=20)
    lines = [example.line for example in examples]
    check_presidio(examples, lines, 7, found, most_rows=most_rows, seconds=seconds)
    return found.sorted()


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        (f"my number is {SSN}, please", "US_SSN"),
        ("it came from 192.168.4.17", "IP_ADDRESS"),
        ("nhs 943 476 5919", "UK_NHS"),
        (f"pesel {PESEL}", "PL_PESEL"),
        ("RSSMRA85T10A562S", "IT_FISCAL_CODE"),
    ],
)
def test_a_kind_is_named_by_line_and_the_value_never(text: str, kind: str) -> None:
    (finding, about) = looked([row(3, "hello"), row(8, f"{text} and again {text}")])

    assert (finding.line, finding.code, finding.severity) == (8, "personal_data", "warns")
    assert finding.message == f"Line 8 holds what presidio calls {kind}."
    assert about.message == "presidio searched 2 rows; matches of which it is less than 50% sure don't count."


@pytest.mark.parametrize(
    "text",
    [
        "order 1234567890 of 2024-01-02, see https://example.org/x",
        "id 550e8400-e29b-41d4-a716-446655440000",
        f"pesel {PESEL[:-1]}8",
        "card 4111 1111 1111 1111 and mail to anna@example.org",
    ],
)
def test_what_it_is_unsure_of_what_is_nobodys_and_what_our_own_patterns_find_is_not_said(text: str) -> None:
    assert [finding.code for finding in looked([row(1, text)])] == ["presidio_looked"]


def test_of_too_many_rows_some_are_drawn_and_that_is_said() -> None:
    examples = [row(line, f"{line}: {SSN}") for line in range(1, 41)]

    found = looked(examples, most_rows=10)

    lines = [finding.line for finding in found if finding.code == "personal_data"]
    assert len(lines) == 10 and lines == sorted(lines) and lines != list(range(1, 11))  # type: ignore[type-var]
    assert "looked at 10 of 40 rows, drawn at random" in found[-1].message


def test_it_stops_when_its_time_is_over_and_reads_no_endless_text() -> None:
    assert "looked at 0 of 2 rows" in looked([row(1, SSN), row(2, SSN)], seconds=-1)[-1].message
    assert [f.code for f in looked([row(1, f"{' ' * PRESIDIO_MOST_LETTERS}{SSN}")])] == ["presidio_looked"]


def test_a_check_asks_it_where_that_is_wanted_and_nothing_is_fetched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    rows = [row(i, f"question {i * 77 % 91} {SSN if i == 4 else 'x' * i}") for i in range(1, 31)]
    path = tmp_path / f"{store_chat(tmp_path, rows)}.jsonl"

    usual = check_file(path, "r", Columns(), tmp_path, 7, deep=True)
    asked = check_file(path, "r", Columns(), tmp_path, 7, deep=True, presidio=True)

    assert "personal_data" not in {finding.code for finding in usual.findings}
    assert [f.line for f in asked.findings if f.code == "personal_data"] == [4]
    assert "presidio_looked" in {finding.code for finding in asked.findings}
    assert SSN not in asked.to_json()
