"""Removes each guard of money and trust, one at a time, in a copy of the sources; its tests must then fail.

`python -m tests.chaos.mutants [WORD]` tries all guards, or those with WORD in their name. Prints a table, and exits
with 1 if a mutant survived.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Literal

from tests.chaos.guards import GUARDS, ROOT, Guard, LostGuard

__all__ = ["ROOT", "Guard", "Outcome", "try_all"]

COPIED = ("bot", "trainers", "storage", "demo", "benchmarks", "tests", "examples", "deploy", "docs")
SINGLE = ("pyproject.toml", "manifest.yml", "finetune.example.toml", "README.md")
AT_ONCE = 2
LIMIT_S, LIMIT_OF_ALL_S = 120, 600
OUTPUT, SHOWN = "output.txt", 3_000  # the file with pytest's output, and how many of its characters are shown
Ending = Literal["passed", "failed", "timed out", "broke off"]
PATIENCE_S = 12  # with what a mutant no longer does; a busy machine needs this long to start a worker process


@dataclass(frozen=True)
class Outcome:
    """How the tests ended without the guard. Only "failed" kills the mutant: a test that was stopped after LIMIT_S or
    could not run proves nothing about the guard."""

    guard: Guard
    ending: Ending
    seconds: float

    @property
    def is_red(self) -> bool:
        return self.ending == "failed"

    def __str__(self) -> str:
        verdict = {"passed": "ALIVE", "failed": "red"}.get(self.ending, f"NOT RED ({self.ending})")
        test = self.guard.test.split()[-1].removeprefix("tests/").replace(".py::", " · ")
        return f"{self.guard.name:<48} {test:<110} {verdict}"


def try_all(guards: tuple[Guard, ...] = GUARDS) -> Iterator[Outcome]:
    """Yields outcomes in the order of `guards`. Raises LostGuard before the first if a guard no longer fits the code or
    a test fails even with it."""
    for guard in guards:
        guard.removed_from(ROOT)
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        copies = Queue[Path]()
        for number in range(AT_ONCE):
            copies.put(_copy_sources(Path(folder) / str(number)))
        _check_unmutated(copies.queue[0], guards)
        with ThreadPoolExecutor(AT_ONCE) as threads:
            yield from threads.map(lambda guard: _try(guard, copies), guards)


def _check_unmutated(copy: Path, guards: tuple[Guard, ...]) -> None:
    tests = sorted({test for guard in guards for test in guard.test.split()})
    if _run_tests(copy, tests, LIMIT_OF_ALL_S, patience_s=LIMIT_S) != "passed":
        raise LostGuard(
            "The tests fail with every guard in place, so a failure would prove nothing:\n"
            + (copy / OUTPUT).read_text(encoding="utf-8")[-SHOWN:]
        )


def _copy_sources(to: Path) -> Path:
    to.mkdir()
    for name in COPIED:
        shutil.copytree(ROOT / name, to / name, ignore=shutil.ignore_patterns("__pycache__", "screenshots"))
    for name in SINGLE:
        shutil.copy(ROOT / name, to / name)
    return to


def _try(guard: Guard, copies: Queue[Path]) -> Outcome:
    started, copy = time.monotonic(), copies.get()
    file = copy / guard.file
    original = file.read_text(encoding="utf-8")
    try:
        file.write_text(guard.removed_from(copy), encoding="utf-8")
        _make_newer(file)
        ending = _run_tests(copy, guard.test.split())
    finally:
        file.write_text(original, encoding="utf-8")
        _make_newer(file)
        copies.put(copy)
    return Outcome(guard, ending, time.monotonic() - started)


def _make_newer(file: Path) -> None:
    """Makes a file newer than its bytecode, which is matched by size and second, so that no stale bytecode is used."""
    at = _Seconds.next()
    os.utime(file, (at, at))


class _Seconds:
    _last = int(time.time())
    _lock = threading.Lock()

    @classmethod
    def next(cls) -> int:
        with cls._lock:
            cls._last += 1
            return cls._last


def _run_tests(
    copy: Path, tests: list[str], limit_s: float = LIMIT_S, *, patience_s: float = PATIENCE_S
) -> Ending:
    report = copy / "report.xml"
    report.unlink(missing_ok=True)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-x",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--junitxml={report}",
        *tests,
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(copy),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "FINETUNE_TEST_PATIENCE_S": str(patience_s),
    }
    try:
        process = subprocess.run(command, cwd=copy, env=environment, capture_output=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        (copy / OUTPUT).write_text(f"stopped after {limit_s} s", encoding="utf-8")
        return "timed out"
    (copy / OUTPUT).write_bytes(process.stdout)
    if process.returncode == 0:
        return "passed"
    return "failed" if report.exists() and _has_failed(report) else "broke off"


def _has_failed(report: Path) -> bool:
    """Returns True if a test failed; errors of fixtures and imports don't count."""
    return ElementTree.parse(report).find(".//failure") is not None  # noqa: S314 - pytest wrote it just now


def main() -> None:
    word = sys.argv[1] if len(sys.argv) > 1 else ""
    chosen = tuple(guard for guard in GUARDS if word in guard.name)
    sys.exit(0 if print_all(chosen) and chosen else 1)


def print_all(guards: tuple[Guard, ...] = GUARDS) -> bool:
    """Prints the table, and returns True if all tests failed."""
    endings = Counter[Ending]()
    for outcome in try_all(guards):
        print(outcome, flush=True)
        endings[outcome.ending] += 1
    print(
        f"{len(guards)} guards, {endings['failed']} red, {endings['passed']} alive, "
        f"{endings['timed out'] + endings['broke off']} without a result",
        flush=True,
    )
    return endings["failed"] == len(guards)


if __name__ == "__main__":
    main()
