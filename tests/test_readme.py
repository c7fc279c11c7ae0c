"""README and the docs agree with the project."""

import re
import runpy
from pathlib import Path

import pytest

from bot.slack.commands import finetune

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
DOCS = sorted((ROOT / "docs").glob("*.md"))


def test_the_tree_in_readme_is_up_to_date() -> None:
    tree = runpy.run_path(str(ROOT / "docs" / "tree.py"))["tree"]

    assert tree() in README, "run python docs/tree.py"


def test_every_file_that_readme_links_to_exists() -> None:
    links = [part.split(")")[0] for part in README.split("](")[1:]]

    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]

    assert missing == []


def test_the_reference_of_commands_is_up_to_date() -> None:
    text = runpy.run_path(str(ROOT / "docs" / "commands.py"))["text"]

    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == text(), (
        "run python docs/commands.py"
    )


@pytest.mark.parametrize("page", [ROOT / "README.md", *DOCS], ids=lambda page: page.name)
def test_every_command_in_the_docs_exists(page: Path) -> None:
    words = re.findall(r"`/finetune ([a-z]+)", page.read_text(encoding="utf-8"))

    assert [word for word in words if finetune.named(word) is None] == []
