"""Writes README's tree, two levels deep, from the packages' docstrings: `python docs/tree.py`"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- tree: written by docs/tree.py -->\n", "<!-- end of tree -->\n"
OTHERS = (
    ("tests/", "One folder for each package, and stand-ins for vendors' servers"),
    ("benchmarks/", "The measurements in README and docs: `make bench`"),
    (
        "examples/",
        "Written for this project: support tickets (two versions, one with wrong labels, one with faults), and threads "
        "of a rota channel, also by other authors",
    ),
    ("docs/", "Documentation, its index (docs/README.md), and the scripts that generate parts of it"),
    (
        "deploy/",
        "systemd unit, Dockerfile, compose file, alarms, hashed lock files, and the vulnerability audit",
    ),
    ("manifest.yml", "The Slack app's manifest"),
)


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    before, rest = text.split(START)
    after = rest.split(END)[1]
    readme.write_text(f"{before}{START}{tree()}{END}{after}", encoding="utf-8")


def tree() -> str:
    lines = [
        line for package in ("bot", "trainers", "storage", "demo") for line in _package(ROOT / package, 0)
    ]
    lines += [f"{name:<28}{what}" for name, what in OTHERS]
    return "```\n" + "\n".join(lines) + "\n```\n"


def _package(folder: Path, depth: int) -> Iterator[str]:
    yield _line(depth, folder.name + "/", _first_sentence(folder / "__init__.py"))
    for inner in sorted(path.parent for path in folder.glob("*/__init__.py")) if depth == 0 else ():
        yield from _package(inner, depth + 1)


def _line(depth: int, name: str, description: str) -> str:
    return f"{'  ' * depth + name:<28}{description}"


def _first_sentence(module: Path) -> str:
    """Returns the first sentence of the docstring."""
    docstring = ast.get_docstring(ast.parse(module.read_text(encoding="utf-8"))) or ""
    sentence = " ".join(docstring.split("\n\n")[0].split())
    for end in (". ", "; "):
        sentence = sentence.split(end)[0]
    return sentence.rstrip(".;")


if __name__ == "__main__":
    main()
