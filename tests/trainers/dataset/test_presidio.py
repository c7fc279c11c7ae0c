"""Personal data that presidio finds. Needs the extra 'pii'; test_check.py tests what happens
without it."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.trainers.dataset.builders import make_row
from trainers.dataset import CheckSettings, Columns, Example, check_file, store_chat
from trainers.dataset.checks import Finding, Findings
from trainers.dataset.sensitive_data import PRESIDIO_MOST_LETTERS, check_presidio

pytest.importorskip("presidio_analyzer", reason="presidio is not installed: it is the extra 'pii'")
SSN, PESEL = "536-90-" + "4399", "440514" + "01359"


def search(examples: Sequence[Example], most_rows: int = 1000, seconds: float = 60) -> tuple[Finding, ...]:
    findings = Findings(listed=20)
    lines = [example.line for example in examples]
    check_presidio(examples, lines, 7, findings, most_rows=most_rows, seconds=seconds)
    return findings.sorted()


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
def test_a_kind_is_reported_with_its_line_but_never_its_value(text: str, kind: str) -> None:
    (finding, about) = search([make_row(3, "hello"), make_row(8, f"{text} and again {text}")])
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
def test_uncertain_and_impersonal_matches_and_those_of_our_own_patterns_are_not_reported(text: str) -> None:
    assert [finding.code for finding in search([make_row(1, text)])] == ["presidio_looked"]


def test_of_too_many_rows_a_sample_is_searched_and_reported() -> None:
    examples = [make_row(line, f"{line}: {SSN}") for line in range(1, 41)]
    findings = search(examples, most_rows=10)
    lines = [finding.line for finding in findings if finding.code == "personal_data"]
    assert len(lines) == 10 and lines == sorted(lines) and lines != list(range(1, 11))  # type: ignore[type-var]
    assert "looked at 10 of 40 rows, drawn at random" in findings[-1].message


def test_the_search_stops_at_its_time_limit_and_skips_endless_texts() -> None:
    assert "looked at 0 of 2 rows" in search([make_row(1, SSN), make_row(2, SSN)], seconds=-1)[-1].message
    assert [f.code for f in search([make_row(1, f"{' ' * PRESIDIO_MOST_LETTERS}{SSN}")])] == [
        "presidio_looked"
    ]


def test_a_check_uses_presidio_on_request_without_a_download(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_network(*_: object) -> None:
        raise AssertionError("something was fetched")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    rows = [make_row(i, f"question {i * 77 % 91} {SSN if i == 4 else 'x' * i}") for i in range(1, 31)]
    path = tmp_path / f"{store_chat(tmp_path, rows)}.jsonl"

    default = check_file(path, "r", Columns(), tmp_path, 7, CheckSettings(deep=True))
    with_presidio = check_file(path, "r", Columns(), tmp_path, 7, CheckSettings(deep=True, presidio=True))

    assert "personal_data" not in {finding.code for finding in default.findings}
    assert [f.line for f in with_presidio.findings if f.code == "personal_data"] == [4]
    assert "presidio_looked" in {finding.code for finding in with_presidio.findings}
    assert SSN not in with_presidio.to_json()
