"""`finetune engines [list | install NAME | remove NAME]`: hands over to our trainer, which keeps them in its data."""

from __future__ import annotations

import os
import sys

import click

from bot.cli.common import load


@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def engines(arguments: tuple[str, ...]) -> None:
    """Trainers beside our own (unsloth, axolotl, llamafactory): list, install NAME, remove NAME."""
    is_given = any(one == "--data" or one.startswith("--data=") for one in arguments)
    data = () if is_given else ("--data", str(load().data / "trainer"))
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "trainers.local.engines", *data, *arguments])  # noqa: S606 - no shell
