"""Asks pip-audit whether a known vulnerability is in the versions that we run. `make audit`

What is asked about: the versions of constraints.txt, and the torch that is installed. What is accepted for a while
stands in audit-exceptions.toml, each with its reason and the day until which it holds. Exit code 0 clean, 1 vulnerable,
2 not known: where the service could not be asked, nothing passes.
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
CLEAN, VULNERABLE, UNKNOWN = 0, 1, 2


@dataclass(frozen=True)
class Vulnerability:
    """`ids`: its own and its aliases, as PYSEC-…, GHSA-…, CVE-…."""

    package: str
    ids: tuple[str, ...]
    fixed_in: tuple[str, ...]


@dataclass(frozen=True)
class Accepted:
    """An exception. It holds up to and including the day `until`."""

    id: str
    reason: str
    until: date


def main(pip_audit: str, asked: Sequence[str]) -> int:
    """`asked`: pinned requirements, ours where none is named."""
    answer = _ask(pip_audit, asked or [*_pinned(ROOT / "constraints.txt"), *_torch()])
    if isinstance(answer, str):
        print(f"Nothing is known: pip-audit could not ask about {answer}")
        return UNKNOWN
    return _tell(answer, verdict(found(answer), read_exceptions(EXCEPTIONS.read_text()), date.today()))


def found(answer: dict[str, Any]) -> list[Vulnerability]:
    """Out of pip-audit's JSON."""
    return [
        Vulnerability(each["name"], (bug["id"], *bug["aliases"]), tuple(bug["fix_versions"]))
        for each in answer["dependencies"]
        for bug in each.get("vulns", ())
    ]


def unasked(answer: dict[str, Any]) -> list[str]:
    """What the service has never heard of, or what was left out otherwise: no verdict is no clean one."""
    return [
        f"{each['name']}: {each['skip_reason']}" for each in answer["dependencies"] if "skip_reason" in each
    ]


def read_exceptions(toml: str) -> list[Accepted]:
    """Raises ValueError where one has no reason or no day."""
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
    """Sentences about what is wrong: a vulnerability nobody accepted, an exception that ended or excuses nothing."""
    said, known = [], {one.id: one for one in accepted}
    used = set()
    for bug in bugs:
        excuse = next((known[one] for one in bug.ids if one in known), None)
        used |= {excuse.id} if excuse else set()
        fixed = f"fixed in {', '.join(bug.fixed_in)}" if bug.fixed_in else "not fixed in any version yet"
        if excuse is None:
            said.append(f"{bug.package} has {bug.ids[0]}, {fixed}.")
        elif excuse.until < today:
            said.append(f"{bug.package} has {bug.ids[0]}, {fixed}; its exception ended on {excuse.until}.")
    return said + [
        f"The exception {one} excuses nothing any more: take it out." for one in known if one not in used
    ]


def _tell(answer: dict[str, Any], wrong: list[str]) -> int:
    skipped = unasked(answer)
    if skipped and len(skipped) == len(answer["dependencies"]):
        print(
            f"Nothing is known: the service answered about none of {len(skipped)} versions. The first: {skipped[0]}."
        )
        print("A mirror of a package index often has none: run this where the index itself is reached.")
        return UNKNOWN
    for sentence in (*wrong, *(f"Not looked at: {one}" for one in skipped)):
        print(sentence)
    if wrong:
        return VULNERABLE
    if skipped:
        return UNKNOWN
    print(
        f"{len(answer['dependencies'])} versions looked at, no vulnerability known beyond the accepted ones."
    )
    return CLEAN


def _ask(pip_audit: str, requirements: Sequence[str]) -> dict[str, Any] | str:
    """pip-audit's answer, or a sentence's end about why there is none."""
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
        asked = subprocess.run([pip_audit, *options], capture_output=True, text=True, check=False)
    try:
        answer: dict[str, Any] = json.loads(asked.stdout)
    except ValueError:
        last = (asked.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return f"{len(requirements)} versions: {last[:400]}"
    return answer


def _pinned(file: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return [line for line in lines if line]


def _torch() -> list[str]:
    """Each platform has its own build, so it is in no constraints; '2.13.0+cpu' is 2.13.0 to the service."""
    try:
        return [f"torch=={version('torch').partition('+')[0]}"]
    except PackageNotFoundError:
        return []


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
