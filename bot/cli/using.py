"""`finetune current`: the model that is in use for a dataset, alone on stdout, for scripts."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bot.cli.common import EXIT_BLOCKED, FILE, load, refuse


@click.command()
@click.argument("dataset")
@click.option("--database", type=FILE, help="Another database, such as a backup. Default: the bot's.")
def current(dataset: str, database: Path | None) -> None:
    """Print the id of the model in use for DATASET, as its provider knows it; exit code 1 where none is."""
    from storage.current import current as look_up
    from storage.database import StorageError

    try:
        model = look_up(database or load().database, dataset.lower())
    except StorageError as error:
        refuse(str(error))
    if model is None:
        click.echo(f"No model is in use for {dataset}: /finetune promote MODEL puts one to work.", err=True)
        sys.exit(EXIT_BLOCKED)
    click.echo(model)
