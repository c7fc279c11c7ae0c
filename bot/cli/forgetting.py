"""`finetune forget`."""

from __future__ import annotations

from datetime import datetime

import click

from bot.cli.common import load, refuse


@click.command()
@click.argument("dataset")
@click.option(
    "--before",
    type=click.DateTime(["%Y-%m-%d"]),
    help="Only versions that were uploaded before this day (UTC).",
)
@click.option(
    "--row",
    "rows",
    type=click.IntRange(min=1),
    multiple=True,
    help="Only this line's row of the newest version, and rows that ask the same: older versions go, a new one stays.",
)
@click.option("--yes", is_flag=True, help="Don't ask once more.")
def forget(dataset: str, before: datetime | None, rows: tuple[int, ...], yes: bool) -> None:
    """Delete DATASET with its files, answers, tuned models and what lies at trainers; the bot must be stopped.

    In Slack, /finetune delete does the same while it runs, but for --row. Costs, approvals and the audit log stay.
    """
    from bot.commands import Delete
    from bot.results import Refusal
    from bot.terminal.forgetting import forget, forget_rows
    from storage.database import StorageError

    def confirm(asked: str) -> bool:
        return yes or click.confirm(asked)

    if rows and before:
        refuse("--row takes rows out of the newest version, --before deletes old versions: choose one.")
    settings, command = load(need_slack=False), Delete(dataset.lower(), before.date() if before else None)
    try:
        done = (
            forget_rows(settings, command.dataset, rows, confirm)
            if rows
            else forget(settings, command, confirm)
        )
    except StorageError as error:
        cure = "" if rows else " While the bot runs, /finetune delete in Slack does the same."
        refuse(f"{error}{cure}")
    if isinstance(done, Refusal):
        refuse(done.text)
    click.echo(done)
