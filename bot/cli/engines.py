"""`finetune engines [list | install NAME | remove NAME]`: hands over to our trainer, which keeps them in its data."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from bot.cli.common import load


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.option("--data", type=click.Path(path_type=Path), help="The trainer's data folder.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def engines(data: Path | None, arguments: tuple[str, ...]) -> None:
    """Trainers beside our own (unsloth, axolotl, llamafactory): list, install NAME, remove NAME."""
    folder = data or load().data / "trainer"
    sys.stdout.flush()
    command = [sys.executable, "-m", "trainers.local.engines", "--data", str(folder), *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - no shell
