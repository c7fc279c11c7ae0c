"""The hashed locks of deploy/locks hold what the project asks for, in the versions that the tests run with."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from deploy.lock import EXTRAS, LOCKS, ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}")
CURE = "run `make lock`"


def pins(path: Path) -> Iterator[tuple[str, str, int]]:
    """Name, version, and how many hashes stand with it."""
    for entry in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if entry and not entry.startswith("#"):
            said = Requirement(entry.partition("--hash")[0].strip())
            (only,) = said.specifier
            assert only.operator == "==", f"{path.name}: {entry[:60]} is not pinned"
            yield canonicalize_name(said.name), only.version, len(HASH.findall(entry))


def asked_for(lock: str) -> list[Requirement]:
    extras = [PROJECT["project"]["optional-dependencies"][extra] for extra in EXTRAS[lock]]
    lists = [PROJECT["project"]["dependencies"], PROJECT["build-system"]["requires"], *extras]
    return [Requirement(one) for names in lists for one in names]


@pytest.mark.parametrize("lock", EXTRAS)
def test_each_package_has_hashes_and_no_address(lock: str) -> None:
    path = LOCKS / f"{lock}.txt"
    assert [name for name, _, hashes in pins(path) if not hashes] == []
    assert "://" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("lock", EXTRAS)
def test_what_the_project_asks_for_is_locked_in_a_version_that_it_allows(lock: str) -> None:
    locked = {name: pinned for name, pinned, _ in pins(LOCKS / f"{lock}.txt")}
    for one in asked_for(lock):
        name = canonicalize_name(one.name)
        assert name in locked, f"{lock}: {one} is missing: {CURE}"
        assert locked[name] in one.specifier, f"{lock}: {one}, and {locked[name]} is locked: {CURE}"


@pytest.mark.parametrize("lock", EXTRAS)
def test_the_versions_are_those_that_the_tests_run_with(lock: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested = {canonicalize_name(name): pinned for name, _, pinned in (one.partition("==") for one in lines)}
    tested["torch"] = Version(version("torch")).public
    other = {name: (pinned, tested[name]) for name, pinned, _ in pins(LOCKS / f"{lock}.txt")
             if tested.get(name, pinned) != pinned}  # fmt: skip
    assert other == {}, CURE
