"""The command that lists the documents of a dataset, and removes one while the bot is stopped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from bot.cards.datasets.documents import TERMINAL, DocumentEntry, removal_question
from bot.cli.options import JSON, load, refuse, value_or_exit
from bot.rules.units import day_of
from bot.settings import Settings
from bot.values.runs import Refusal
from trainers.dataset.rows import to_printable


@click.command()
@click.argument("dataset")
@click.option("--remove", "name", help="Remove the document of this name. The bot must be stopped.")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@JSON
def knowledge(dataset: str, name: str | None, yes: bool, as_json: bool) -> None:
    """List the documents in which retrieval looks things up for DATASET, or remove one.

    /finetune knowledge in Slack does both, and adds documents.
    """
    from bot.cli.deletion import open_stored
    from bot.cli.output import show_json
    from bot.command_options import normalize_name
    from bot.services.datasets import document_removal
    from storage.backup import open_copy
    from storage.database import StorageError

    settings = load(need_slack=False)
    if not settings.database.exists():
        refuse(f"There is no database at {settings.database}, so there are no documents.")
    wanted = normalize_name(dataset)
    try:
        if name is not None:
            outcome = _remove(settings, wanted, name, lambda question: yes or click.confirm(question))
            click.echo(value_or_exit(outcome))
            return
        # A copy, as a running bot has the database open.
        with open_copy(settings.database) as store:
            entries = document_removal.list_entries(open_stored(settings, store), wanted)
    except StorageError as error:
        refuse(str(error))
    if as_json:
        show_json([_entry_json(entry) for entry in entries])
        return
    for entry in entries:
        click.echo(_line(entry))
    if not entries:
        click.echo(f"{wanted} has no documents: /finetune knowledge {wanted} in Slack adds one.")


def _remove(settings: Settings, dataset: str, name: str, confirm: Callable[[str], bool]) -> str | Refusal:
    from bot.cli.deletion import open_stored
    from bot.services.datasets import document_removal
    from storage.store import Store

    store = Store(settings.database)
    try:
        context = open_stored(settings, store)
        entries = document_removal.list_entries(context, dataset)
        entry = next((each for each in entries if each.document.filename == name), None)
        if entry is None:
            existing = ", ".join(each.document.filename for each in entries) or "none"
            return Refusal(f"{dataset} has no document named {name}. It has: {existing}.")
        if not confirm(f"Remove {name}? {removal_question(entry)}"):
            return Refusal("Nothing was removed.")
        refusal = document_removal.remove_document(context, entry.document, TERMINAL)
        return refusal or f"{name} is removed. Once the bot runs, it says so in the channel."
    finally:
        store.close()


def _line(entry: DocumentEntry) -> str:
    document = entry.document
    text = (
        f"{to_printable(document.filename, 200)}: {document.passages or 0} passages, {entry.size:,} bytes, "
        f"from {document.uploaded_by} on {day_of(document.created_at)}"
    )
    measured = ", ".join(f"m{number}" for number in entry.use.measured_in)
    if measured:
        text += f"; measured in {measured}"
    if entry.use.is_promoted:
        text += "; in use"
    return text


def _entry_json(entry: DocumentEntry) -> dict[str, Any]:
    document = entry.document
    return {
        "name": document.filename,
        "bytes": entry.size,
        "passages": document.passages,
        "person": document.uploaded_by,
        "at": document.created_at,
        "measured_in": list(entry.use.measured_in),
        "is_in_use": entry.use.is_promoted,
    }
