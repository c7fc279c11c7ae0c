"""The parts in which CI runs the deep tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deep_parts import Part, read_part

ROOT = Path(__file__).parents[1]
COUNT = 4  # as in .ci/run


def test_each_file_with_deep_tests_is_in_exactly_one_part_and_no_part_is_empty() -> None:
    files = []
    for path in (ROOT / "tests").rglob("test_*.py"):
        if "mark.deep" in path.read_text(encoding="utf-8"):
            files.append(path.relative_to(ROOT).as_posix())
    parts = [Part(number, COUNT) for number in range(1, COUNT + 1)]
    for file in files:
        assert sum(part.holds(file) for part in parts) == 1
    for part in parts:
        assert any(part.holds(file) for file in files)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "1/", "a/4", "-1/4", "1/4/2"])
def test_another_part_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(pytest.UsageError, match=r"like 2/4, the second of four parts, not "):
        read_part(text)


def test_only_deep_tests_of_other_parts_are_left_out() -> None:
    """This file has quick tests only, and the other one deep ones as well."""
    files = ["tests/test_deep_parts.py", "tests/test_wheel.py"]
    in_part = [number for number in range(1, COUNT + 1) if Part(number, COUNT).holds(files[1])]
    [number] = in_part
    other = number % COUNT + 1
    all_tests = _collect(files, [])
    assert _collect(files, ["--deep-part", f"{number}/{COUNT}"]) == all_tests
    quick = _collect(files, ["-m", "not deep"])
    assert _collect(files, ["--deep-part", f"{other}/{COUNT}"]) == quick
    assert len(quick) < len(all_tests)


def _collect(files: list[str], options: list[str]) -> list[str]:
    """Returns the tests that pytest would run."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-qq", "-n", "0", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, *options, *files], cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if line.startswith("tests/")]
