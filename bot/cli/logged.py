"""`finetune log REFERENCE`: what stands in the log about a failure that a user was told the reference of."""

from __future__ import annotations

import json
import sys

import click

from bot import logs
from bot.cli.common import EXIT_BLOCKED, load


@click.command()
@click.argument("reference")
@click.option("--json", "as_json", is_flag=True, help="The lines as they are kept.")
def log(reference: str, as_json: bool) -> None:
    """Show the log's lines with a REFERENCE, as a message in Slack names it; oldest first."""
    folder, wanted = load(need_slack=False).data, reference.strip().upper()
    found = list(logs.find(folder, wanted))
    for line in found:
        if as_json:
            click.echo(json.dumps(line, ensure_ascii=False))
        else:
            click.echo(f"{line.get('at')} {line.get('level')} {line.get('logger')}: {line.get('message')}")
            if "error" in line:
                click.echo(str(line["error"]))
    if not found:
        click.echo(
            f"No line in {folder / logs.FILE} has the reference {wanted}. The log keeps the newest "
            f"{logs.FILES * logs.FILE_BYTES // 1_000_000} MB; what is older is gone.",
            err=True,
        )
        sys.exit(EXIT_BLOCKED)
