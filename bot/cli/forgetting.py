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
@click.option("--yes", is_flag=True, help="Don't ask once more.")
def forget(dataset: str, before: datetime | None, yes: bool) -> None:
    """Delete DATASET with its files, answers, tuned models and what lies at trainers; the bot must be stopped.

    In Slack, /finetune delete does the same while it runs. Costs, approvals and the audit log stay.
    """
    from bot.commands import Delete
    from bot.results import Refusal
    from bot.terminal.forgetting import forget
    from storage.database import StorageError

    command = Delete(dataset.lower(), before.date() if before else None)
    try:
        done = forget(load(need_slack=False), command, lambda asked: yes or click.confirm(asked))
    except StorageError as error:
        refuse(f"{error} While the bot runs, /finetune delete in Slack does the same.")
    if isinstance(done, Refusal):
        refuse(done.text)
    click.echo(done)
