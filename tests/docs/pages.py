"""Reads the pages of the documentation: their blocks, their code within sentences, and the commands in both."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = (
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").glob("*.md")),
)
SHELL = ("", "sh", "bash", "console")

_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
_SPAN = re.compile(r"`([^`]+)`")
_COMMENT = re.compile(r"(^|\s+)#\s.*$")
_CHOICE = re.compile(r"\[([^\[\]]*)\]")
_ENVIRONMENT = re.compile(r"^(?:\$ )?(?:\w+=\S+ )*")
_PREFIX = re.compile(r"^uvx --from \S+ (?=finetune )")
_REDIRECTION = re.compile(r"\s>\s.*$")


@dataclass(frozen=True)
class Block:
    """A fenced block. `language` is "" for one without a language."""

    language: str
    text: str


def title(page: Path) -> str:
    return str(page.relative_to(ROOT))


@cache
def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def blocks(page: Path, *languages: str) -> Sequence[Block]:
    """Returns the fenced blocks of these languages."""
    every = [Block(language, text) for language, text in _BLOCK.findall(read(page))]
    return [block for block in every if block.language in languages]


def prose(page: Path) -> str:
    """Returns the page without its fenced blocks."""
    return _BLOCK.sub("", read(page))


def spans(page: Path) -> Sequence[str]:
    """Returns the code within sentences, on one line each."""
    return [" ".join(text.split()) for text in _SPAN.findall(prose(page))]


def shell_lines(page: Path) -> Iterator[str]:
    """Yields the lines of the shell blocks, without comments; a line that ends in a backslash is joined."""
    for block in blocks(page, *SHELL):
        text = re.sub(r"\\\n\s*", "", block.text)
        for line in text.splitlines():
            yield _COMMENT.sub("", line).strip()


def commands(page: Path, program: str) -> Iterator[str]:
    """Yields each command line of a program, in blocks and in sentences, once for each alternative that it names."""
    for line in (*shell_lines(page), *spans(page)):
        bare = _PREFIX.sub("", _ENVIRONMENT.sub("", line))
        for part in re.split(rf" \| (?={re.escape(program)} )", bare):
            if part == program or part.startswith(f"{program} "):
                yield from alternatives(_REDIRECTION.sub("", part))


def alternatives(line: str) -> Iterator[str]:
    """Yields the command lines that a line of usage stands for: brackets are optional, `a|b` and `[a | b]` choices."""
    choice = _CHOICE.search(line)
    if choice:
        for part in choice[1].split(" | "):
            yield from alternatives(f"{line[: choice.start()]}{part}{line[choice.end() :]}")
        return
    words = [word.split("|") for word in line.replace("…", " ").split(" ") if word]
    for chosen in product(*words):
        yield " ".join(chosen)
