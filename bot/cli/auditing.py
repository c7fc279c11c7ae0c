"""`finetune audit verify` and `finetune audit export`: the log of who did what, checked and handed out."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

from bot.cli.common import EXIT_BLOCKED, FILE, load, refuse

DATABASE = click.option(
    "--database", type=FILE, help="Another database, such as a backup. Default: the bot's."
)


@click.group()
def audit() -> None:
    """The log of who did what: check that nobody altered it, or hand it out."""


@audit.command()
@DATABASE
@click.option("--head", help="The head that an earlier check printed: shows whether the end was cut off.")
def verify(database: Path | None, head: str | None) -> None:
    """Follow the chain of hashes from the first entry to the last; exit code 1 where one doesn't fit."""
    from bot.terminal.audited import said
    from storage.chain import Broken, verify
    from storage.database import StorageError

    if head is not None and not re.fullmatch(r"[0-9a-f]{64}", head):
        refuse("--head should be the 64 hexadecimal digits that an earlier check printed.")
    try:
        found = verify(database or load().database, head)
    except StorageError as error:
        refuse(str(error))
    click.echo(said(found))
    if isinstance(found, Broken):
        sys.exit(EXIT_BLOCKED)


@audit.command()
@DATABASE
@click.option("--run", type=click.IntRange(min=1), help="Only the entries about this run.")
@click.option("--json", "form", flag_value="json", default="json", help="A list of objects. The default.")
@click.option("--csv", "form", flag_value="csv", help="For spreadsheets; no cell can act as a formula.")
def export(database: Path | None, run: int | None, form: str) -> None:
    """Print the entries, oldest first."""
    from bot.terminal.audited import as_csv, as_json, said
    from storage.chain import Broken, entries, verify
    from storage.database import StorageError

    path = database or load().database
    try:
        found = verify(path)
        kept = list(entries(path, f"run {run}" if run else None))
    except StorageError as error:
        refuse(str(error))
    click.echo(as_csv(kept) if form == "csv" else as_json(kept), nl=form == "json")
    if isinstance(found, Broken):
        click.echo(said(found), err=True)
