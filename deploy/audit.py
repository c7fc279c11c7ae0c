"""Asks pip-audit about known vulnerabilities in the versions that we run: those in constraints.txt, and the installed
torch. `make audit`

audit-exceptions.toml lists vulnerabilities that are accepted for a while, each with its reason and its last day. Exit
codes: 0 clean, 1 vulnerable, 2 unknown, as the service could not be asked.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXCEPTIONS = ROOT / "audit-exceptions.toml"
CLEAN = 0
VULNERABLE = 1
UNKNOWN = 2


@dataclass(frozen=True)
class Vulnerability:
    """`ids` are its id and its aliases, like PYSEC-…, GHSA-…, CVE-…."""

    package: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]


@dataclass(frozen=True)
class Accepted:
    """An exception, valid up to and including the day `until`."""

    id: str
    reason: str
    until: date


def main(pip_audit: str, requirements: Sequence[str]) -> int:
    """`requirements` are pinned requirements; if there are none, ours."""
    answer = _ask(pip_audit, requirements or [*_pinned(ROOT / "constraints.txt"), *_torch()])
    if isinstance(answer, str):
        print(f"Unknown: pip-audit could not ask about {answer}")
        return UNKNOWN
    return _tell(answer, verdict(found(answer), read_exceptions(EXCEPTIONS.read_text()), date.today()))


def found(answer: dict[str, Any]) -> list[Vulnerability]:
    """Returns the vulnerabilities in pip-audit's JSON."""
    return [
        Vulnerability(each["name"], (bug["id"], *bug["aliases"]), tuple(bug["fix_versions"]))
        for each in answer["dependencies"]
        for bug in each.get("vulns", ())
    ]


def unasked(answer: dict[str, Any]) -> list[str]:
    """Returns the versions that the service doesn't know or that were skipped: they don't count as clean."""
    return [
        f"{each['name']}: {each['skip_reason']}" for each in answer["dependencies"] if "skip_reason" in each
    ]


def read_exceptions(toml: str) -> list[Accepted]:
    """Raises ValueError if an exception has no reason or no day."""
    rows = tomllib.loads(toml).get("accepted", [])
    for row in rows:
        if (
            set(row) != {"id", "reason", "until"}
            or not row["reason"].strip()
            or type(row["until"]) is not date
        ):
            raise ValueError(f"each exception has an id, a reason and a day `until`, unlike {row}")
    return [Accepted(**row) for row in rows]


def verdict(bugs: Iterable[Vulnerability], accepted: Iterable[Accepted], today: date) -> list[str]:
    """Returns sentences about problems: vulnerabilities that nobody accepted, exceptions that have ended or that match
    nothing."""
    problems, exceptions = [], {each.id: each for each in accepted}
    used = set()
    for bug in bugs:
        exception = next((exceptions[bug_id] for bug_id in bug.ids if bug_id in exceptions), None)
        used |= {exception.id} if exception else set()
        fixed = f"fixed in {', '.join(bug.fixed_in)}" if bug.fixed_in else "not fixed in any version yet"
        if exception is None:
            problems.append(f"{bug.package} has {bug.ids[0]}, {fixed}.")
        elif exception.until < today:
            problems.append(
                f"{bug.package} has {bug.ids[0]}, {fixed}; its exception ended on {exception.until}."
            )
    return problems + [
        f"The exception {unused} is no longer needed: remove it."
        for unused in exceptions
        if unused not in used
    ]


def _tell(answer: dict[str, Any], wrong: list[str]) -> int:
    skipped = unasked(answer)
    if skipped and len(skipped) == len(answer["dependencies"]):
        print(
            f"Unknown: the service answered about none of {len(skipped)} versions. The first: {skipped[0]}."
        )
        print(
            "A mirror of a package index often lacks this data: run this where the index itself can be reached."
        )
        return UNKNOWN
    for sentence in (*wrong, *(f"Not checked: {each}" for each in skipped)):
        print(sentence)
    if wrong:
        return VULNERABLE
    if skipped:
        return UNKNOWN
    print(
        f"{len(answer['dependencies'])} versions checked; no known vulnerabilities except the accepted ones."
    )
    return CLEAN


def _ask(pip_audit: str, requirements: Sequence[str]) -> dict[str, Any] | str:
    """Returns pip-audit's answer, or the end of a sentence that says why there is none."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
        file.write("\n".join(requirements))
        file.flush()
        options = [
            "--format",
            "json",
            "--progress-spinner",
            "off",
            "--disable-pip",
            "--no-deps",
            "-r",
            file.name,
        ]
        completed = subprocess.run([pip_audit, *options], capture_output=True, text=True, check=False)
    try:
        answer: dict[str, Any] = json.loads(completed.stdout)
    except ValueError:
        last = (completed.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        return f"{len(requirements)} versions: {last[:400]}"
    return answer


def _pinned(file: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line]


def _torch() -> list[str]:
    """Returns the installed torch, which is not in constraints.txt, as each platform has its own build. The service
    knows '2.13.0+cpu' as 2.13.0."""
    try:
        return [f"torch=={version('torch').partition('+')[0]}"]
    except PackageNotFoundError:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
