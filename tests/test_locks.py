"""The hashed locks in deploy/locks have the packages that the project requires, in the versions that the tests use."""

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
FIX = "run `make lock`"


def pins(path: Path) -> Iterator[tuple[str, str, int]]:
    """Yields name, version and number of hashes of each package."""
    for entry in path.read_text(encoding="utf-8").replace("\\\n", " ").splitlines():
        if entry and not entry.startswith("#"):
            requirement = Requirement(entry.partition("--hash")[0].strip())
            (only,) = requirement.specifier
            assert only.operator == "==", f"{path.name}: {entry[:60]} is not pinned"
            yield canonicalize_name(requirement.name), only.version, len(HASH.findall(entry))


def required_by(lock: str) -> list[Requirement]:
    always = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    extras = [requirement for extra in EXTRAS[lock] for requirement in required_by_extra(extra)]
    return [*map(Requirement, always), *extras]


def required_by_extra(extra: str) -> Iterator[Requirement]:
    """Yields an extra's requirements, and in the place of other extras of this project theirs."""
    for requirement in map(Requirement, PROJECT["project"]["optional-dependencies"][extra]):
        if requirement.name != PROJECT["project"]["name"]:
            yield requirement
            continue
        for other in requirement.extras:
            yield from required_by_extra(other)


@pytest.mark.parametrize("lock", EXTRAS)
def test_every_locked_package_has_hashes_and_no_address(lock: str) -> None:
    path = LOCKS / f"{lock}.txt"
    assert [name for name, _, hashes in pins(path) if not hashes] == []
    assert "://" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("lock", EXTRAS)
def test_every_requirement_is_locked_in_a_version_that_it_allows(lock: str) -> None:
    locked = {name: pinned for name, pinned, _ in pins(LOCKS / f"{lock}.txt")}
    for requirement in required_by(lock):
        name = canonicalize_name(requirement.name)
        assert name in locked, f"{lock}: {requirement} is missing: {FIX}"
        version_fits = locked[name] in requirement.specifier
        assert version_fits, f"{lock}: {requirement}, and {locked[name]} is locked: {FIX}"


@pytest.mark.parametrize("lock", EXTRAS)
def test_locked_versions_are_those_that_the_tests_use(lock: str) -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    tested: dict[str, str] = {
        canonicalize_name(name): pinned for name, _, pinned in (line.partition("==") for line in lines)
    }
    other = {name: (pinned, tested[name]) for name, pinned, _ in pins(LOCKS / f"{lock}.txt")
             if tested.get(name, pinned) != pinned}  # fmt: skip
    assert other == {}, FIX


def test_the_locked_pytorch_is_no_newer_than_the_one_that_the_tests_use() -> None:
    """It has no version in constraints.txt: setting the project up takes the newest, or the build for a GPU."""
    locked = {name: pinned for name, pinned, _ in pins(LOCKS / "trainer.txt")}
    assert Version(locked["torch"]) <= Version(Version(version("torch")).public), FIX
