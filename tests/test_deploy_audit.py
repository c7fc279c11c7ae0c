"""`make audit` reports vulnerabilities that are not accepted, and never passes if the service can't be asked."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from deploy import audit
from deploy.audit import CLEAN, UNKNOWN, VULNERABLE, Accepted, Vulnerability, read_exceptions, verdict

TODAY = date(2026, 11, 25)
BUG = Vulnerability("starlette", ("PYSEC-2026-9", "CVE-2026-9"), ("1.2.0",))


def accepted(until: date, name: str = "CVE-2026-9") -> Accepted:
    return Accepted(name, "not reachable", until)


def fake_pip_audit(folder: Path, *, output: str, error: str = "") -> str:
    """Writes a program that answers as pip-audit would."""
    program = folder / "pip-audit"
    program.write_text(f"#!/bin/sh\ncat <<'EOF'\n{output}\nEOF\necho '{error}' >&2\nexit 1\n")
    program.chmod(0o755)
    return str(program)


def test_a_vulnerability_is_reported_with_its_fix() -> None:
    assert verdict([BUG], [], TODAY) == ["starlette has PYSEC-2026-9, fixed in 1.2.0."]


def test_an_exception_holds_until_its_day_under_any_name() -> None:
    assert verdict([BUG], [accepted(TODAY)], TODAY) == []
    assert "ended on 2026-11-24" in verdict([BUG], [accepted(date(2026, 11, 24))], TODAY)[0]


def test_an_unneeded_exception_must_be_removed() -> None:
    assert verdict([], [accepted(TODAY)], TODAY) == [
        "The exception CVE-2026-9 is no longer needed: remove it."
    ]


@pytest.mark.parametrize(
    "row",
    [
        'id = "A"\nreason = "r"',
        'id = "A"\nreason = " "\nuntil = 2027-01-01',
        'id = "A"\nreason = "r"\nuntil = "x"',
    ],
)
def test_an_exception_without_a_reason_or_a_day_is_refused(row: str) -> None:
    with pytest.raises(ValueError, match="a reason and a day"):
        read_exceptions(f"[[accepted]]\n{row}")


def test_the_file_of_exceptions_can_be_read() -> None:
    read_exceptions(audit.EXCEPTIONS.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("dependency", "code"),
    [
        ({"name": "a", "version": "1", "vulns": []}, CLEAN),
        (
            {"name": "a", "version": "1", "vulns": [{"id": "X-1", "aliases": [], "fix_versions": []}]},
            VULNERABLE,
        ),
        ({"name": "a", "skip_reason": "not found"}, UNKNOWN),
    ],
)
def test_the_exit_code_says_clean_vulnerable_or_unknown(
    tmp_path: Path, dependency: dict[str, object], code: int
) -> None:
    program = fake_pip_audit(tmp_path, output=json.dumps({"dependencies": [dependency], "fixes": []}))
    assert audit.main(program, ["a==1"]) == code


def test_an_unreachable_service_lets_nothing_pass(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program = fake_pip_audit(tmp_path, output="", error="ERROR: Could not connect to the service")
    assert audit.main(program, ["a==1"]) == UNKNOWN
    assert "Unknown: " in capsys.readouterr().out
