"""Each command line in the documentation is one that its program accepts."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from copy import copy
from importlib.util import find_spec
from pathlib import Path

import click
import pytest

from bot.cli import main
from bot.command_parser import parse
from bot.slack.commands import finetune
from bot.values.runs import Refusal
from tests.docs.pages import PAGES, ROOT, commands, title

# What stands for a value in a line of usage, with a value of its kind.
PLACEHOLDERS = {"RUN": "7", "N": "7", "COMMAND": "status", "@Ben": "<@U0BEN>"}
CAPITALS = re.compile(r"\b[A-Z]{2,}(_[A-Z]+)*\b")
HARMLESS = ("baseline tickets.csv", "check ", "models advise", "plan-memory", "prices", "sunsets")
READERS_OWN = frozenset({"pairs.jsonl", "./models/ours", "org/model"})
EXIT_CODES = (0, 1)  # 1: something must be fixed first, which is an answer


def _in_pages(program: str) -> list[object]:
    lines: dict[str, str] = {}
    for page in PAGES:
        for line in commands(page, program):
            lines.setdefault(line, title(page))
    return [pytest.param(line, id=f"{name}: {line}") for line, name in lines.items()]


@pytest.mark.parametrize("line", _in_pages("/finetune"))
def test_slack_understands_the_line(line: str) -> None:
    words = _with_values(line.split()[1:])
    if len(words) == 1:
        assert finetune.named(words[0])  # a sentence names the command; alone, it may want more
        return
    parsed = parse(finetune, " ".join(words))
    assert not isinstance(parsed, Refusal), parsed


@pytest.mark.parametrize("line", _in_pages("finetune"))
def test_the_terminal_accepts_the_line(line: str) -> None:
    words = _with_values(shlex.split(line)[1:])
    if words in ([], ["--help"]):
        return
    command, rest = _find_command(words)
    if rest:  # a sentence names the command; alone, it may want more
        _parse(command, rest)


def _with_values(words: Sequence[str]) -> list[str]:
    return [PLACEHOLDERS.get(word, word) for word in words]


def _find_command(words: Sequence[str]) -> tuple[click.Command, list[str]]:
    """Returns the command, or the subcommand, that the words begin with, and the words that follow it."""
    group: click.Command = main
    rest = list(words)
    while isinstance(group, click.Group) and rest and not rest[0].startswith("-"):
        assert rest[0] in group.commands, f"there is no command {rest[0]!r}"
        _, command, rest = group.resolve_command(click.Context(group), rest)
        assert command
        group = command
    return group, rest


def _parse(command: click.Command, words: list[str]) -> None:
    """Parses the words as click does, except that files need not exist."""
    lenient = copy(command)
    lenient.params = [_without_files(param) for param in command.params]
    lenient.make_context(command.name, words)


def _without_files(param: click.Parameter) -> click.Parameter:
    if not isinstance(param.type, click.Path | click.File):
        return param
    anywhere = copy(param)
    anywhere.type = click.Path()
    return anywhere


@pytest.mark.parametrize("line", _in_pages("make"))
def test_make_has_the_target_and_reads_the_variables(line: str) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in line.split()[1:]:
        variable, is_set, _ = word.partition("=")
        if is_set:
            assert f"$({variable})" in makefile or f"$(if $({variable})" in makefile
        else:
            assert re.search(rf"^{re.escape(word)}:", makefile, re.MULTILINE), f"no target {word}"


@pytest.mark.parametrize("line", [*_in_pages("python"), *_in_pages(".venv/bin/python")])
def test_python_has_the_module_and_the_module_its_options(line: str) -> None:
    words = line.split()[1:]
    if not words or words[0].startswith(("classify.py", "ask.py")):  # programs of an export
        return
    path = ROOT / words[0]
    if words[0] == "-m":
        path = _module_path(words[1])
    assert path.exists()
    if path.is_relative_to(ROOT):
        text = path.read_text(encoding="utf-8")
        options = [word.partition("=")[0] for word in words[1:] if word.startswith("--")]
        assert [option for option in options if option not in text] == []


def _module_path(name: str) -> Path:
    if (ROOT / name.replace(".", "/")).is_dir():
        name = f"{name}.__main__"
    spec = find_spec(name)
    assert spec
    assert spec.origin
    return Path(spec.origin)


def _harmless() -> list[str]:
    """Returns the lines that can be run as they stand: none that wants a value or a file of the reader's."""
    lines = {line for page in PAGES for line in commands(page, "finetune") if _runs_anywhere(line)}
    return sorted(lines)


def _runs_anywhere(line: str) -> bool:
    words = line.split()[1:]
    is_complete = len(words) > 1 or words in (["prices"], ["sunsets"])
    wants_more = CAPITALS.search(line) or READERS_OWN.intersection(words)
    return is_complete and not wants_more and " ".join(words).startswith(HARMLESS)


@pytest.mark.deep
@pytest.mark.parametrize("line", _harmless())
def test_a_harmless_line_runs(line: str, tmp_path: Path) -> None:
    rows = (ROOT / "examples" / "support_tickets.csv").read_text(encoding="utf-8")
    tickets = rows.replace("text,label", "message,queue", 1)  # the columns in README
    (tmp_path / "tickets.csv").write_text(tickets, encoding="utf-8")
    words = shlex.split(line)[1:]
    done = subprocess.run(
        [sys.executable, "-m", "bot", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in EXIT_CODES, done.stderr
    assert done.stdout
