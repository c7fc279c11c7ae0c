"""`finetune backup` and `finetune restore`."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from bot.cli.common import EXIT_BLOCKED, FILE, load, refuse


@click.command()
@click.argument("dest", required=False, type=click.Path(path_type=Path, file_okay=False))
def backup(dest: Path | None) -> None:
    """Copy the database whole, also while the bot runs, into the folder DEST with the files of the datasets.

    Without DEST into the data folder's backups, the database alone.
    """
    from bot.terminal.backing import is_well, made
    from storage.backups import back_up
    from storage.database import StorageError

    settings = load()
    files = settings.files if dest else None
    try:
        found = back_up(settings.database, dest or settings.backups, now=time.time(), files=files)
    except StorageError as error:
        refuse(str(error))
    click.echo(made(found, has_files=dest is not None))
    if not is_well(found):
        sys.exit(EXIT_BLOCKED)


@click.command()
@click.argument("file", type=FILE)
def restore(file: Path) -> None:
    """Put the backup FILE in the place of the database; the bot must be stopped. The replaced one is kept beside it."""
    from bot.terminal.backing import curve_in_doubt, restored
    from storage.database import StorageError
    from storage.restoring import restore

    settings = load()
    try:
        found = restore(file, settings.database, settings.files, now=time.time(), in_doubt=curve_in_doubt)
    except StorageError as error:
        refuse(str(error))
    click.echo(restored(found, file, settings.files))
