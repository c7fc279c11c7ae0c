"""What works with the packages of the core alone, and what a command says that misses one."""

import subprocess
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from trainers.packages import install_line

TICKETS = Path(__file__).parents[3] / "examples" / "support_tickets.csv"
# Other packages are as if they weren't installed.
RUN = """
import sys
absent = set(sys.argv.pop(1).split(","))
class Finder:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name in absent else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Finder, sys.meta_path)
from bot.cli import main
main()
"""


@cache
def needed_by(distribution: str, extras: frozenset[str] = frozenset()) -> frozenset[str]:
    """Returns the distributions that come with one, itself among them."""
    names = {canonicalize_name(distribution)}
    try:
        lines = requires(distribution) or []
    except PackageNotFoundError:  # of another platform
        return frozenset()
    for line in lines:
        requirement = Requirement(line)
        environments = [{"extra": extra} for extra in extras or {""}]
        if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
            continue
        names |= needed_by(requirement.name, frozenset(requirement.extras))
    return frozenset(names)


def with_core_alone(*words: object, extras: frozenset[str] = frozenset()) -> subprocess.CompletedProcess[str]:
    present = needed_by("finetune-bot", extras)
    absent = [
        package
        for package, distributions in packages_distributions().items()
        if not present & {canonicalize_name(name) for name in distributions}
    ]
    return subprocess.run(
        [sys.executable, "-c", RUN, ",".join(absent), *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "tickets.csv"
    lines = TICKETS.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join(lines[:301]), encoding="utf-8")
    return file


@pytest.mark.deep
@pytest.mark.usefixtures("real_processes")
@pytest.mark.parametrize(
    ("words", "shows"),
    [
        (("check", "FILE"), "300 rows"),
        (("baseline", "FILE"), "encoder"),
        (("estimate", "FILE", "--current", "gpt-4o", "--volume", "100M"), "Worth measuring"),
        (("prices",), "gpt-4o-mini"),
        (("--help",), "baseline"),
    ],
)
def test_the_core_checks_measures_and_estimates(rows: Path, words: tuple[str, ...], shows: str) -> None:
    result = with_core_alone(*(rows if word == "FILE" else word for word in words))
    assert result.returncode == 0, result.stderr
    assert shows in result.stdout


@pytest.mark.usefixtures("real_processes")
def test_a_word_that_is_no_command_is_answered_without_slacks_packages() -> None:
    result = with_core_alone("chekc", "rows.csv")
    assert result.returncode == 2
    assert "check" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.usefixtures("real_processes")
@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (("run",), "slack"),
        (("init",), "slack"),
        (("doctor",), "slack"),
        (("serve",), "serve"),
        (("trainer",), "local"),
        (("calibrate",), "local"),
        (("check", "rows.parquet"), "files"),
    ],
)
def test_a_command_that_misses_a_package_says_which_line_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], extra: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("rows.parquet").write_bytes(b"PAR1" + bytes(40) + b"PAR1")
    result = with_core_alone(*words)
    assert result.returncode == 2
    assert f"needs the extra [{extra}]. Install it: {install_line(extra, words)}" in result.stderr
    assert len(result.stderr.splitlines()) == 1
