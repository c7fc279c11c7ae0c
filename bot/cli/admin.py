"""Commands that administer an installation: audit, report, compare, wrong, backup, restore, engines, log, deployments,
models, forget, knowledge."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from bot import logs
from bot.cards.common.terminal import Tone
from bot.cli.options import (
    DATABASE,
    EXIT_BLOCKED,
    FILE,
    JSON,
    NEW_FILE,
    exit_on_storage_error,
    load,
    load_if_valid,
    refuse,
    value_or_exit,
)
from bot.cli.output import Ticker, show, show_json, show_text, wants_text

if TYPE_CHECKING:
    from collections.abc import Callable

    from bot.command_options import Subject
    from bot.settings import Settings


@click.group()
def audit() -> None:
    """Verify or export the audit log: who did what, and when."""


@audit.command()
@DATABASE
@click.option("--head", help="The head that an earlier check printed, to detect if the end was cut off.")
@JSON
def verify(database: Path | None, head: str | None, as_json: bool) -> None:
    """Verify the log's chain of hashes.

    Exits with 1 if an entry was altered or removed.
    """
    from bot.cli.audits import audit_summary, log_json
    from storage.audit import BrokenLog, verify_log

    # A mistyped head would otherwise read as a log whose end was cut off.
    if head is not None and not re.fullmatch(r"[0-9a-f]{64}", head):
        refuse("--head should be the 64 hexadecimal digits that an earlier check printed.")
    with exit_on_storage_error():
        # A backup can be verified on a machine without an installation, which has no settings.
        log = verify_log(database or load().database, head)
    is_broken = isinstance(log, BrokenLog)
    if as_json:
        show_json(log_json(log))
    elif is_broken:
        show_text(audit_summary(log), "bad")
    else:
        show_text(audit_summary(log), "good")
    if is_broken:
        sys.exit(EXIT_BLOCKED)


@audit.command()
@DATABASE
@click.option("--run", type=click.IntRange(min=1), help="Only the entries about this run.")
@click.option("--json", "form", flag_value="json", default="json", help="As a list of objects (the default).")
@click.option(
    "--csv", "form", flag_value="csv", help="As CSV for spreadsheets; no cell can act as a formula."
)
def export(database: Path | None, run: int | None, form: str) -> None:
    """Print the entries, oldest first."""
    from bot.cli.audits import audit_csv, audit_json, audit_summary
    from storage.audit import BrokenLog, read_entries, verify_log

    path = database or load().database
    subject = None
    if run:
        subject = f"run {run}"
    with exit_on_storage_error():
        log = verify_log(path)
        entries = list(read_entries(path, subject))
    if form == "csv":
        # Its last line ends already.
        click.echo(audit_csv(entries), nl=False)
    else:
        click.echo(audit_json(entries))
    if isinstance(log, BrokenLog):
        # The entries are printed all the same: they may be what somebody needs to find the fault.
        click.echo(audit_summary(log), err=True)


def _display_names(settings: Settings) -> Callable[[str], str]:
    """Returns a function that gives a person's name for their id: Slack's, or the id if .env has no token."""
    if not settings.slack.bot_token:
        return str
    from bot.slack.users import display_names

    return display_names(settings.slack.bot_token, settings.slack.api_url)


@click.command()
@click.argument("subject", metavar="RUN|MEASUREMENT")
@click.option(
    "--out", type=NEW_FILE, default="report.html", show_default=True, help="Where to write the page."
)
def report(subject: str, out: Path) -> None:
    """Write a report on a run (7) or a measurement (m3): one HTML page with evidence, charts, plan, approvals, costs.

    The page needs no network and shows no held-out rows. People's names are looked up in Slack if .env has a token.
    """
    from bot.services.training import reports
    from bot.values.runs import Refusal
    from storage.backup import open_copy

    if not re.fullmatch(r"m?[0-9]{1,9}", subject):
        refuse(f"{subject!r} is neither a run, like 7, nor a measurement, like m3.")
    # Checked first, so that the drawing is not in vain.
    if not out.parent.is_dir():
        refuse(f"There is no folder {out.parent} to write {out.name} into.")
    number = int(subject.removeprefix("m"))
    settings = load()
    name_of = _display_names(settings)
    is_measurement = subject.startswith("m")
    gather = reports.measurement_report if is_measurement else reports.run_report
    # A copy, as a running bot has the database open.
    with exit_on_storage_error(), open_copy(settings.database) as store:
        report = gather(store, settings.files, number)
    if isinstance(report, Refusal):
        refuse(report.text)
    with Ticker() as ticker:
        ticker("Drawing the page")
        page = report.html(settings.data, name_of)
    out.write_text(page, encoding="utf-8")
    click.echo(f"Written: {out} ({len(page.encode()) / 1e6:.1f} MB)")


@click.command()
@click.argument("results", metavar="RUN|MEASUREMENT...", nargs=-1, required=True)
@DATABASE
@JSON
def compare(results: tuple[str, ...], database: Path | None, as_json: bool) -> None:
    """Compare results on the held-out rows that they share: runs (3 5) and measurements (m7).

    Says which is better, on how many rows they differ, what each has cost, and which settings differ. Asks no model.
    """
    from bot.cards.training.compared_results import card
    from bot.cli.evaluation_results import compared_json
    from bot.command_options import read_subjects
    from bot.rules.units import Misread
    from bot.services.training import compared_results
    from storage.backup import open_copy

    subjects = read_subjects(" ".join(results))
    if isinstance(subjects, Misread):
        refuse(subjects.sentence)
    settings = load()
    # A copy, as a running bot has the database open.
    with exit_on_storage_error(), open_copy(database or settings.database) as store:
        compared = value_or_exit(compared_results.compare(store, settings, subjects))
    if as_json:
        show_json(compared_json(compared))
    if wants_text(as_json=as_json):
        show(card(compared).parts)


@click.command()
@click.argument("result", metavar="RUN|MEASUREMENT")
@click.option("--training", is_flag=True, help="Print training rows, which costs nothing.")
@click.option(
    "--held-out",
    "candidate",
    type=click.IntRange(1),
    metavar="NUMBER",
    help="Print held-out rows of this candidate.",
)
@click.option(
    "--from",
    "first",
    type=click.IntRange(1),
    metavar="NUMBER",
    help="The first row to print: 9 after the first eight.",
)
@click.option("--yes", is_flag=True, help="Print held-out rows without asking.")
def wrong(result: str, training: bool, candidate: int | None, first: int | None, yes: bool) -> None:
    """Print rows that a run (3) or a measurement (m7) got wrong; without options, what can be printed.

    Rows are customers' words, so mind who sees the terminal. Held-out rows count as read from then on, which is stored,
    so the bot must be stopped for them.
    """
    from bot.command_options import read_subject
    from bot.rules.units import Misread

    subject = read_subject(result)
    if isinstance(subject, Misread):
        refuse(subject.sentence)
    if training and candidate is not None:
        refuse("Either --training or --held-out: choose one of them.")
    command = f"finetune wrong {result}"
    position = (first or 1) - 1
    if training:
        _show_training(subject, position, f"{command} --training")
    elif candidate is not None:
        _show_held_out(subject, candidate - 1, position, f"{command} --held-out {candidate}", is_sure=yes)
    elif first is not None:
        refuse("--from needs --training or --held-out.")
    else:
        _show_offer(subject, command)


def _show_held_out(subject: Subject, candidate: int, first: int, command: str, *, is_sure: bool) -> None:
    from bot.cards.evidence.wrong_rows import CONSEQUENCE
    from bot.cli.models import plain_value, stopped_bot
    from bot.services.measurement import wrong_rows

    if not is_sure:
        click.confirm(f"Read held-out rows? {CONSEQUENCE}", abort=True)
    with exit_on_storage_error(), stopped_bot("/finetune wrong in Slack does the same") as context:
        page = plain_value(wrong_rows.held_out_for_operator(context, subject, candidate, first, command))
    show(page.parts)


def _show_training(subject: Subject, first: int, command: str) -> None:
    from bot.cli.models import context_on_copy, plain_value
    from bot.services.measurement import wrong_rows

    with exit_on_storage_error(), context_on_copy() as context:
        page = plain_value(wrong_rows.training_for_operator(context, subject, first, command))
    show(page.parts)


def _show_offer(subject: Subject, command: str) -> None:
    from bot.cards.evidence.wrong_rows import offer_in_terminal
    from bot.cli.models import context_on_copy, plain_value
    from bot.services.measurement import wrong_rows

    with exit_on_storage_error(), context_on_copy() as context:
        offer = plain_value(wrong_rows.offer_to_operator(context, subject))
    show(offer_in_terminal(offer, command).parts)


@click.command()
@click.argument("dest", required=False, type=click.Path(path_type=Path, file_okay=False))
@JSON
def backup(dest: Path | None, as_json: bool) -> None:
    """Back up the database and the datasets' files into the folder DEST. The bot may be running.

    Without DEST, back up only the database, into the data folder's backups.
    """
    from bot.cli.backups import backup_json, backup_summary, is_intact
    from storage.backup import back_up

    settings = load()
    files = None
    if dest:
        files = settings.files
    with exit_on_storage_error():
        backup = back_up(settings.database, dest or settings.backups, now=time.time(), files=files)
    summary = backup_summary(backup, has_files=dest is not None)
    if as_json:
        show_json(backup_json(backup))
    elif is_intact(backup):
        show_text(summary, "good")
    else:
        show_text(summary, "bad")
    if not is_intact(backup):
        sys.exit(EXIT_BLOCKED)


@click.command()
@click.argument("file", type=FILE)
def restore(file: Path) -> None:
    """Replace the database by the backup FILE. The bot must be stopped; the old database is kept beside it."""
    from bot.cli.backups import restore_summary
    from storage.backup import restore

    settings = load()
    with exit_on_storage_error():
        restored = restore(file, settings.database, settings.files, now=time.time())
    click.echo(restore_summary(restored, file, settings.files))


# No help of its own: -h goes to the program below, which knows its options.
@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.option("--data", type=click.Path(path_type=Path), help="The trainer's data folder.")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def engines(data: Path | None, arguments: tuple[str, ...]) -> None:
    """Manage other training engines (unsloth, axolotl, llamafactory): list, install NAME, remove NAME."""
    # The engines are kept in our trainer's data folder.
    folder = data
    if folder is None and any(word in ("-h", "--help") for word in arguments):
        # Help needs no settings.
        folder = Path("data/trainer")
    elif folder is None:
        folder = load().data / "trainer"
    # exec replaces this process, and what is still buffered would be lost.
    sys.stdout.flush()
    command = [sys.executable, "-m", "trainers.local.engines", "--data", str(folder), *arguments]
    os.execv(sys.executable, command)  # noqa: S606 - no shell


@click.command()
@click.argument("reference")
@click.option("--json", "as_json", is_flag=True, help="Print the lines as JSON.")
def log(reference: str, as_json: bool) -> None:
    """Print the log's lines about a failure, oldest first. Its message in Slack names the REFERENCE."""
    folder = load(need_slack=False).data
    wanted = reference.strip().upper()
    entries = list(logs.find(folder, wanted))
    for line in entries:
        if as_json:
            click.echo(json.dumps(line, ensure_ascii=False))
        else:
            click.echo(f"{line.get('at')} {line.get('level')} {line.get('logger')}: {line.get('message')}")
            if "error" in line:
                click.echo(str(line["error"]))
    if not entries:
        click.echo(
            f"No line in {folder / logs.FILE} has the reference {wanted}. The log keeps only the newest "
            f"{logs.FILES * logs.FILE_BYTES // 1_000_000} MB.",
            err=True,
        )
        sys.exit(EXIT_BLOCKED)


@click.command()
@DATABASE
@JSON
def deployments(database: Path | None, as_json: bool) -> None:
    """List the tuned models that vendors run by the hour: for whom, their cost per hour and today, and idle time."""
    from bot.cards.models.deployments import listing
    from bot.cli.models import deployments_json
    from bot.rules.models.deployments import find_unwatched_since
    from bot.services.models.deployment_summaries import running
    from storage.backup import open_copy

    settings = load()
    now = time.time()
    path = database or settings.database
    live = []
    # Before the bot's first start there is no database, and nothing runs.
    if database or path.exists():
        with exit_on_storage_error(), open_copy(path) as store:
            live = running(store, settings, now)
    if as_json:
        show_json(deployments_json(live))
        return
    # After the JSON, which has ids only and needs no answer from Slack.
    name_of = _display_names(settings)
    tone: Tone = "plain"
    if live:
        # They cost money right now.
        tone = "warning"
    unwatched_since = find_unwatched_since([each.record.updated_at for each in live], now)
    show(listing(live, name_of, unwatched_since).parts, tone)


@click.group(invoke_without_command=True)
@DATABASE
@JSON
@click.pass_context
def models(context: click.Context, database: Path | None, as_json: bool) -> None:
    """List what is in use for each dataset, whether programs get an answer, and calls, cost and savings by month."""
    # click calls the group before its subcommand, too.
    if context.invoked_subcommand:
        return
    from bot.cli.models import load_reach, models_json, models_text
    from storage.actuals import current_uses

    with exit_on_storage_error():
        in_use = current_uses(database or load().database)
    # Programs call what this installation publishes, not what a copy of its database has.
    reach = None
    if database is None:
        reach = load_reach(load(), in_use)
    if as_json:
        show_json(models_json(in_use, reach))
    else:
        show_text(models_text(in_use, reach))


@models.command()
@click.option("--task", type=click.Choice(("labels", "texts")), default="labels", show_default=True)
@click.option("--gpu", metavar="GB|NAME", help="A GPU, like 24 or h100 (by default this machine).")
@click.option("--free", is_flag=True, help="Only models under Apache 2.0 or MIT.")
@JSON
def advise(task: Literal["labels", "texts"], gpu: str | None, free: bool, as_json: bool) -> None:
    """Recommend a base model to train.

    Compares the sizes, licences, memory and time of the models that finetune knows.
    """
    from bot.cli import base_advice

    data = None
    settings = load_if_valid("the time is guessed")
    if settings:
        data = settings.data
    advice = value_or_exit(base_advice.advise(task, gpu, data, free=free))
    if as_json:
        show_json(base_advice.advice_json(advice))
    else:
        show_text(base_advice.advice_text(advice))


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
    help="Only the row at this line of the newest version, and rows that ask the same. The others become a new "
    "version; all older ones are deleted.",
)
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
def forget(dataset: str, before: datetime | None, rows: tuple[int, ...], yes: bool) -> None:
    """Delete DATASET with its files, answers, tuned models and copies at trainers. The bot must be stopped.

    While it runs, /finetune delete in Slack does the same, except for --row. Costs, approvals and the audit log are
    kept.
    """
    from bot.cli.deletion import delete_dataset, delete_rows
    from bot.values.requests import Delete
    from bot.values.upload_fields import normalize_name
    from storage.database import StorageError

    def confirm(question: str) -> bool:
        return yes or click.confirm(question)

    if rows and before:
        refuse("--row deletes rows of the newest version, --before deletes old versions: choose one.")
    settings = load(need_slack=False)
    before_day = None
    if before:
        before_day = before.date()
    command = Delete(normalize_name(dataset), before_day)
    try:
        if rows:
            outcome = delete_rows(settings, command.dataset, rows, confirm)
        else:
            outcome = delete_dataset(settings, command, confirm)
    except StorageError as error:
        # Slack can't delete single rows, so there is nothing to suggest.
        if rows:
            refuse(str(error))
        refuse(f"{error} While the bot runs, /finetune delete in Slack does the same.")
    click.echo(value_or_exit(outcome))


@click.command()
@click.argument("dataset")
@click.option("--remove", "name", help="Remove the document of this name. The bot must be stopped.")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@JSON
def knowledge(dataset: str, name: str | None, yes: bool, as_json: bool) -> None:
    """List the documents in which retrieval looks things up for DATASET, or remove one.

    /finetune knowledge in Slack does both, and adds documents.
    """
    from bot.cli import deletion
    from bot.values.upload_fields import normalize_name
    from storage.database import StorageError

    settings = load(need_slack=False)
    if not settings.database.exists():
        refuse(f"There is no database at {settings.database}, so there are no documents.")
    wanted = normalize_name(dataset)
    if name is not None:
        outcome = deletion.remove_document(wanted, name, lambda question: yes or click.confirm(question))
        click.echo(value_or_exit(outcome))
        return
    try:
        entries = deletion.list_documents(settings, wanted)
    except StorageError as error:
        refuse(str(error))
    if as_json:
        show_json([deletion.document_json(entry) for entry in entries])
        return
    for entry in entries:
        click.echo(deletion.document_line(entry))
    if not entries:
        click.echo(f"{wanted} has no documents: /finetune knowledge {wanted} in Slack adds one.")
