"""What README says of the project is true of it."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_tree_is_the_one_that_the_modules_tell() -> None:
    tree = runpy.run_path(str(ROOT / "docs" / "tree.py"))["tree"]

    assert tree() in README, "run python docs/tree.py"


def test_every_picture_and_file_that_readme_links_to_is_there() -> None:
    links = [part.split(")")[0] for part in README.split("](")[1:]]

    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]

    assert missing == []
