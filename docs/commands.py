"""Writes docs/commands.md from the declarations of the commands: `python docs/commands.py`"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import click  # noqa: E402  run from anywhere, the checkout's own package

from bot.command_options import HYPERPARAMETERS, option_key  # noqa: E402
from bot.command_parser import Command  # noqa: E402
from bot.option_groups import by_group  # noqa: E402
from bot.slack.commands import finetune  # noqa: E402

HEAD = """# Commands in Slack

<!-- written by docs/commands.py from bot/slack/commands.py -->

Replace words in capitals; parts in brackets are optional. Options are typed as `key=value`, in any order;
`prompt=` and `because=` come last, since they take the rest of the line. The right that a command needs is granted by
[the policy](policy.md). In Slack, `/finetune help` shows eight commands to begin with, and `/finetune help all` all of
them; `/finetune help COMMAND` says what a command does, with its main options, `/finetune help COMMAND all` with all.

| | | right |
|---|---|---|
"""


def text() -> str:
    rows = "".join(_row(command) for command in finetune)
    sections = "".join(_section(command) for command in finetune if command.options)
    return f"{HEAD}{rows}{sections}"


def _row(command: Command) -> str:
    rights = ", ".join(f"`{action}`" for action in command.needs) or "anybody's"
    return f"| `{command.usage}` | {command.help} | {rights} |\n"


def _section(command: Command) -> str:
    lines = ["", f"## {command.name}", ""]
    groups = by_group(command.options.values())
    for title, options in groups.items():
        heading = title if len(groups) > 1 else "option"
        lines += [f"| {heading} | |", "|---|---|", *_rows(options), ""]
    return "\n".join(lines)


def _rows(options: Sequence[click.Option]) -> Iterator[str]:
    """Yields a row for each option, except hyperparameters, which have their own page."""
    for option in options:
        if option.name not in HYPERPARAMETERS:
            yield f"| `{option_key(option)}=` | {option.help} |"
    if any(option.name in HYPERPARAMETERS for option in options):
        yield "| a hyperparameter, like `epochs=2` | see [hyperparameters.md](hyperparameters.md) |"


if __name__ == "__main__":
    (ROOT / "docs" / "commands.md").write_text(text(), encoding="utf-8")
