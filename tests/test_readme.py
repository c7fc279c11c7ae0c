"""README and the docs agree with the project."""

import re
import runpy
from pathlib import Path

import pytest

from trainers.providers.providers import load_providers

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").glob("*.md"))
PAGES = [*(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")), *DOCS]
FOLDERS = ("benchmarks", "bot", "demo", "deploy", "docs", "examples", "storage", "tests", "trainers")
FILE = re.compile(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]*)(?:::(\w+))?`")
PICTURE = re.compile(r"!\[[^]]*\]\(([^)]+)\)")
QUOTED_TEST = re.compile(r"`(tests/[\w/]+\.py)`[^`\n]*:\n\n```python\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", ["README.md", "ARCHITECTURE.md"])
def test_the_tree_of_a_page_is_up_to_date(page: str) -> None:
    tree = runpy.run_path(str(ROOT / "docs" / "tree.py"))["tree"]

    assert tree(page) in (ROOT / page).read_text(encoding="utf-8"), "run python docs/tree.py"


def test_every_picture_is_shown_by_a_page_and_every_page_shows_pictures_that_exist() -> None:
    shown = {
        page.parent.joinpath(name).resolve()
        for page in PAGES
        for name in PICTURE.findall(page.read_text(encoding="utf-8"))
    }
    assert shown == set((ROOT / "docs" / "images").iterdir())


def test_the_reference_of_commands_is_up_to_date() -> None:
    text = runpy.run_path(str(ROOT / "docs" / "commands.py"))["text"]

    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == text(), (
        "run python docs/commands.py"
    )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_file_and_test_that_the_docs_name_exists(page: Path) -> None:
    missing = []
    for name, test in FILE.findall(page.read_text(encoding="utf-8")):
        path = ROOT / name
        if not path.exists() or (test and f"def {test}(" not in path.read_text(encoding="utf-8")):
            missing.append(f"{name}::{test}")
    assert missing == []


def test_the_table_of_vendors_says_what_each_road_was_tried_with() -> None:
    """As the pickers do, which read it from the providers' rows."""
    page = (ROOT / "docs" / "vendors.md").read_text(encoding="utf-8")
    table = page[page.index("| target |") :].partition("\n\n")[0]
    written = {}
    for line in table.splitlines()[2:]:
        target, *_, tried_with = (cell.strip() for cell in line.strip("|").split(" | "))
        name = re.search(r"serve=([\w-]+)", target) or re.search(r"`([\w-]+)/", target)
        assert name is not None, target
        written[name[1]] = tried_with
    rows = {row.name: row.tried_with for row in load_providers()}
    rows["hf"] = ("stand-in",)
    # What is no target has no line, and the model of a row without a road was trained nowhere.
    del rows["fireworks-serverless"]
    assert written == {name: ", ".join(words) for name, words in rows.items() if words}


def test_the_stories_that_docs_quote_stand_in_the_tests() -> None:
    page = (ROOT / "docs" / "testing.md").read_text(encoding="utf-8")
    quotes = QUOTED_TEST.findall(page)
    assert len(quotes) == page.count("```python") > 0
    for name, story in quotes:
        assert story in (ROOT / name).read_text(encoding="utf-8"), f"{name} has it differently now"
