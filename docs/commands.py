"""Writes docs/commands.md from the declarations of the commands: `python docs/commands.py`"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from bot.command_options import HYPERPARAMETERS  # noqa: E402  run from anywhere, the checkout's own package
from bot.command_parser import Command  # noqa: E402
from bot.slack.commands import finetune  # noqa: E402

HEAD = """# Commands in Slack

<!-- written by docs/commands.py from bot/slack/commands.py -->

Replace words in capitals; parts in brackets are optional. Options are typed as `key=value`, in any order;
`prompt=` and `because=` come last, since they take the rest of the line. The right that a command needs is granted by
[the policy](policy.md). `/finetune help COMMAND` shows a command's options in Slack.

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
    return "\n".join(["", f"## {command.name}", "", "| option | |", "|---|---|", *_options(command), ""])


def _options(command: Command) -> Iterator[str]:
    """Yields a row for each option, except hyperparameters, which have their own page."""
    for key, option in command.options.items():
        if option.name not in HYPERPARAMETERS:
            yield f"| `{key}=` | {option.help} |"
    if any(option.name in HYPERPARAMETERS for option in command.options.values()):
        yield "| a hyperparameter, like `epochs=2` | see [hyperparameters.md](hyperparameters.md) |"


if __name__ == "__main__":
    (ROOT / "docs" / "commands.md").write_text(text(), encoding="utf-8")
