"""The measures of the code's structure stay within what ARCHITECTURE.md promises. `python "
"docs/house.py` prints them."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
HOUSE = runpy.run_path(str(ROOT / "docs" / "house.py"))
MODULES = HOUSE["read_modules"]()
SMALL = {
    "bot/__main__.py": "`python -m bot`",
    "bot/services/freeze_scope.py": "freeze.py tells people, and what tells them asks whether a freeze stands",
    "bot/slack/events.py": "one subject, close to the limit",
    "storage/driver.py": "which SQLite is used; in database.py it would import in a circle",
    "trainers/money.py": "micro-dollars; in pricing.py it would import in a circle",
    "trainers/local/api_errors.py": "the server's; training must not import it with a web framework",
    "trainers/local/training/errors.py": "read by the queue, which must not load torch",
    "trainers/local/export/merged.py": "one form of export, found by its name",
    "trainers/local/ray/node.py": "the entry point on a node, which imports little before it has checked Python",
}
"""Files under 60 lines, each with its reason; packages' `__init__` and the scripts of the engines' own "
"Pythons apart."""
CROWDED = {"bot/services", "bot/cards"}
PROSE = ("anew", "of ours", "whoever", "costs on", "shall")
"""Words of a translated English: plain ones exist for each (again, our, anyone who, is still billed, should)."""


@pytest.mark.parametrize("module", MODULES, ids=lambda module: str(module.path))
def test_a_file_has_60_to_600_lines(module: object) -> None:
    path, lines = str(module.path), module.lines  # type: ignore[attr-defined]
    assert lines <= 600, "split it by subject"
    is_free = path.endswith("__init__.py") or "/scripts/" in path or path in SMALL
    assert lines >= 60 or is_free, "merge it with its subject's file, or give the reason in SMALL"


def test_the_exceptions_are_still_needed() -> None:
    small = {str(module.path) for module in MODULES if module.lines < 60}
    assert set(SMALL) <= small


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert HOUSE["find_circles"](MODULES) == []


def test_modules_are_nouns_or_terms_of_the_field() -> None:
    assert HOUSE["find_gerunds"](MODULES) == []


def test_no_folder_holds_more_than_20_files_but_services_and_cards() -> None:
    assert set(HOUSE["crowded_folders"](MODULES)) <= CROWDED


def test_variables_are_named_for_what_they_hold() -> None:
    counts = {name: count for name, count in HOUSE["count_banned_names"](MODULES).items() if count}
    assert counts == {}


@pytest.mark.parametrize("word", PROSE)
def test_prose_is_plain_english(word: str) -> None:
    pattern = re.compile(rf"\b{word}\b")
    paths = [module.path for module in MODULES] + [
        path.relative_to(ROOT) for path in (ROOT / "docs").glob("*.md")
    ]
    hits = [str(path) for path in paths if pattern.search((ROOT / path).read_text(encoding="utf-8"))]
    assert hits == []
