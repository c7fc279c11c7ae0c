"""`finetune …` in the terminal. What the commands compute and print knows no Slack and keeps nothing but paid answers.

A command is imported when it is called, and imports the code that it runs then, so that the program starts quickly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

import click

MODULES: Mapping[str, tuple[str, ...]] = {
    "server": ("init", "run", "trainer", "doctor", "demo"),
    "analysis": ("check", "baseline", "curve", "estimate", "prices", "plan-memory", "calibrate", "export"),
    "admin": ("engines", "current", "report", "audit", "log", "backup", "restore", "forget"),
    "policy": ("policy",),
}


class Commands(Mapping[str, click.Command]):
    """The commands by name. Each is a function of that name in a module of this package."""

    def __getitem__(self, name: str) -> click.Command:
        module = next((module for module, names in MODULES.items() if name in names), None)
        if module is None:
            raise KeyError(name)
        command: click.Command = getattr(import_module(f"bot.cli.{module}"), name.replace("-", "_"))
        return command

    def __iter__(self) -> Iterator[str]:
        return (name for names in MODULES.values() for name in names)

    def __len__(self) -> int:
        return sum(map(len, MODULES.values()))


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="finetune-bot")
def main() -> None:
    """From labelled examples to a better model, decided on evidence by a team in Slack."""
    from bot.cli.options import load_dot_env

    load_dot_env(Path(".env"))


main.commands = Commands()  # type: ignore[assignment]  # click only reads them
