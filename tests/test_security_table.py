"""docs/security.md names tests that exist, at least one for each line of the checklist."""

import ast
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LINES = (ROOT / "docs" / "security.md").read_text(encoding="utf-8").splitlines()
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")
ROWS = {line: NAMED.findall(line) for line in LINES if re.match(r"\| (attack )?\d+ ", line)}


@cache
def defined_tests(path: str) -> frozenset[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8")) if (ROOT / path).exists() else ast.parse("")
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


def test_each_named_test_exists() -> None:
    missing = [
        f"{path}::{name}"
        for tests in ROWS.values()
        for path, name in tests
        if name not in defined_tests(path)
    ]
    assert missing == []


def test_each_of_the_fourteen_lines_names_a_test() -> None:
    numbers = [line.split()[1] for line, tests in ROWS.items() if tests]
    assert {int(number) for number in numbers if number != "attack"} == set(range(1, 15))
    assert [line for line, tests in ROWS.items() if not tests] == []
