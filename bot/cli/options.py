"""Shared by all commands: types of paths, loading the settings, and refusals."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click
from dotenv import dotenv_values

from bot.command_options import AmbiguousValueError
from bot.settings import CONFIG_FILE, Settings, SettingsProblems, load_settings
from trainers.host import TINKER_ADMIN_KEY, TRAINER_KEYS, TRAINER_SETTINGS

if TYPE_CHECKING:
    from bot.values.runs import Refusal

T = TypeVar("T")
# Variables that are loaded from .env beside SLACK_… and FINETUNE_….
OTHERS = (*TRAINER_KEYS, *TRAINER_SETTINGS, TINKER_ADMIN_KEY)
# 1 is an answer of no; 2 is a command that can't be carried out, as in click's own errors.
EXIT_BLOCKED = 1
EXIT_UNUSABLE = 2
# 128 + SIGINT, as shells report it.
EXIT_INTERRUPTED = 130
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
NEW_FILE = click.Path(path_type=Path, dir_okay=False)
SHEET_HELP = "Sheet of a workbook (by default the first with a table, and those with its columns)."
SHEET = click.option("--sheet", help=SHEET_HELP)
JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
DATABASE = click.option(
    "--database", type=FILE, help="Read another database, such as a backup. Default: the bot's."
)


def offer_readings(error: click.BadParameter, words: Sequence[str]) -> click.BadParameter:
    """Returns an error about a value with several meanings with the whole command once for each, to copy; others as
    they are. `words` are those that were typed."""
    if not isinstance(error, AmbiguousValueError) or error.param is None:
        return error
    flags = {*error.param.opts, *(flag.removeprefix("--") for flag in error.param.opts)}
    commands = []
    for reading in error.readings:
        with_reading = ["finetune"]
        for before, word in zip(["", *words], words, strict=False):
            flag, equals, _ = word.partition("=")
            if before in error.param.opts and word == error.value:
                with_reading.append(reading)
            elif equals and flag in flags:
                with_reading.append(f"{flag}={reading}")
            else:
                with_reading.append(word)
        commands.append(f"  {shlex.join(with_reading)}")
    message = "\n".join([error.message, "The whole command:", *commands])
    return click.BadParameter(message, error.ctx, error.param)


def load_dot_env(path: Path) -> None:
    """Loads the variables of .env that are ours. No others: the folder may be anybody's, and a PYTHONPATH in it would
    run their code."""
    try:
        values = {name: value for name, value in dotenv_values(path).items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        refuse(f"{path} can't be read: {error}. It should be UTF-8 text that belongs to this user.")
    for name, value in values.items():
        if name.startswith(("SLACK_", "FINETUNE_")) or name in OTHERS:
            # What the shell has set counts more than the file.
            os.environ.setdefault(name, value)
    others = [name for name in values if name not in os.environ]
    if not others:
        return
    try:
        # A provider in finetune.toml may name a key of its own.
        rows = load_settings(need_slack=False).providers
        keys: set[str] = set()
        for row in rows:
            provider = row.provider
            keys.update(filter(None, (provider.key_env, provider.account_env, provider.billing_key_env)))
    except SettingsProblems:
        return  # a command that needs the settings reports this itself
    os.environ.update({name: values[name] for name in others if name in keys})
    if ignored := sorted(set(others) - keys):
        click.echo(f"{path}: ignoring {', '.join(ignored)}, as no setting has that name.", err=True)


def load(*, need_slack: bool = False) -> Settings:
    """Returns the settings. Prints their problems and exits if there are any."""
    try:
        return load_settings(need_slack=need_slack)
    except SettingsProblems as error:
        for problem in error.problems:
            click.echo(f"• {problem}", err=True)
        refuse("Fix this, then try again. `finetune doctor` checks everything.")


def load_for_file() -> Settings:
    """Loads the settings for a command about a file or this machine. Without an installation here (neither a settings
    file nor a data folder) such commands store their data in the user's state folder, not in the current one."""
    return _with_state_folder(load())


def _with_state_folder(settings: Settings) -> Settings:
    config = Path(os.environ.get("FINETUNE_CONFIG", CONFIG_FILE))
    if settings.data.exists() or config.exists():
        return settings
    return replace(settings, data=state_folder())


def state_folder() -> Path:
    """Returns the user's state folder by the XDG specification, which says to ignore a relative path."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "state") / "finetune"


def create_data_folder(data: Path) -> None:
    """Creates the folder for what a command stores, for this user alone. If it can't be, exits before anything is
    measured or paid for."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        refuse(
            f"{data}, where this would store its results, can't be created: {error.strerror}. Name a folder that you "
            "may write to in the variable XDG_STATE_HOME."
        )


def load_if_valid(without: str = "copies have no price") -> Settings | None:
    """Returns the settings for a command that also works without them. If they have problems, prints the first one and
    its consequence (`without`), and returns None."""
    try:
        return _with_state_folder(load_settings(need_slack=False))
    except SettingsProblems as error:
        click.echo(f"The settings can't be used ({error.problems[0]}), so {without}.", err=True)
        return None


def refuse(sentence: str, code: int = EXIT_UNUSABLE) -> NoReturn:
    """Prints the sentence, without Slack's backticks, and exits."""
    click.echo(sentence.replace("`", ""), err=True)
    sys.exit(code)


@contextmanager
def exit_on_storage_error() -> Iterator[None]:
    """Exits with a sentence if the database is missing, damaged or in use by a running bot."""
    from storage.database import StorageError

    try:
        yield
    except StorageError as error:
        refuse(str(error))


def utc_today() -> date:
    return datetime.now(UTC).date()


def value_or_exit(value: T | Refusal) -> T:
    """Returns the value. Prints a refusal and exits."""
    from bot.values.runs import Refusal

    if isinstance(value, Refusal):
        refuse(value.text)
    return value


@contextmanager
def limited_memory() -> Iterator[None]:
    """Limits memory like the bot's own checks do, for a command that reads a file which may be malicious."""
    from bot.worker_pool import MEMORY_BYTES, limit_memory

    before = limit_memory()
    try:
        yield
    except MemoryError:
        refuse(
            f"This took more than {MEMORY_BYTES >> 30} GB of memory and was stopped. Try a part of the file."
        )
    finally:
        limit_memory(before)


@contextmanager
def resumable() -> Iterator[None]:
    """For work that can be resumed: says so on Ctrl-C and after a timeout, and exits."""
    from bot.cli.llm_session import AnswerTimeout

    try:
        yield
    except AnswerTimeout as silence:
        refuse(str(silence))
    except KeyboardInterrupt:
        click.echo(
            "\nStopped. The answers so far are kept: run the same command to go on from there.", err=True
        )
        sys.exit(EXIT_INTERRUPTED)
