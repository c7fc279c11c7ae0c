"""Writes the trees of README (one level) and ARCHITECTURE.md (two) from the packages' docstrings:
`python docs/tree.py`"""

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


PACKAGES = ("bot", "trainers", "storage", "demo")
LEVELS = {"README.md": 1, "ARCHITECTURE.md": 2}


def main() -> None:
    for page in LEVELS:
        path = ROOT / page
        text = path.read_text(encoding="utf-8")
        before, rest = text.split(START)
        _, after = rest.split(END)
        path.write_text(f"{before}{START}{tree(page)}{END}{after}", encoding="utf-8")


def tree(page: str) -> str:
    lines: list[str] = []
    for package in PACKAGES:
        lines += _package(ROOT / package, 0, LEVELS[page])
    for name, what in OTHERS:
        lines.append(_line(0, name, what))
    return "```\n" + "\n".join(lines) + "\n```\n"


def _package(folder: Path, depth: int, levels: int) -> Iterator[str]:
    yield _line(depth, folder.name + "/", _first_sentence(folder / "__init__.py"))
    if depth + 1 == levels:
        return
    for module in sorted(folder.glob("*/__init__.py")):
        yield from _package(module.parent, depth + 1, levels)


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
