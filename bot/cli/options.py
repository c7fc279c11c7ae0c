"""What all commands share: kinds of paths, loading the settings, refusals."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TypeVar

import click
from dotenv import dotenv_values

from bot.settings import CONFIG_FILE, Settings, SettingsProblems, load_settings
from trainers.host import TRAINER_KEYS, TRAINER_SETTINGS

if TYPE_CHECKING:
    from bot.values.runs import Refusal

T = TypeVar("T")
EXIT_BLOCKED, EXIT_UNUSABLE, EXIT_INTERRUPTED = 1, 2, 130
FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
NEW_FILE = click.Path(path_type=Path, dir_okay=False)
JSON = click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")


def load_dot_env(path: Path) -> None:
    """Loads only names that are ours: the folder may be anybody's, and a PYTHONPATH in it would run their code."""
    try:
        values = {name: value for name, value in dotenv_values(path).items() if value is not None}
    except (OSError, UnicodeDecodeError) as error:
        refuse(f"{path} can't be read: {error}. It should be UTF-8 text, and this user's own.")
    for name, value in values.items():
        if name.startswith(("SLACK_", "FINETUNE_")) or name in (*TRAINER_KEYS, *TRAINER_SETTINGS):
            os.environ.setdefault(name, value)
    others = [name for name in values if name not in os.environ]
    if not others:
        return
    try:
        rows = load_settings(need_slack=False).providers
        keys = {key for row in rows for key in (row.provider.key_env, row.provider.account_env) if key}
    except SettingsProblems:
        return  # said by the command itself, where it needs them
    os.environ.update({name: values[name] for name in others if name in keys})
    if ignored := sorted(set(others) - keys):
        click.echo(f"{path}: ignored {', '.join(ignored)}: no setting has that name.", err=True)


def load(*, need_slack: bool = False) -> Settings:
    try:
        return load_settings(need_slack=need_slack)
    except SettingsProblems as error:
        for problem in error.problems:
            click.echo(f"• {problem}", err=True)
        refuse("Fix this, then start again; `finetune doctor` checks everything.")


def load_for_file() -> Settings:
    """For commands about a file or this machine: with no installation here, neither finetune.toml nor its data, what
    they keep goes into the user's own state folder and not into the folder where they were called."""
    return _with_state_folder(load())


def _with_state_folder(settings: Settings) -> Settings:
    is_installed = settings.data.exists() or Path(os.environ.get("FINETUNE_CONFIG", CONFIG_FILE)).exists()
    return settings if is_installed else replace(settings, data=state_folder())


def state_folder() -> Path:
    """By the XDG base directory specification, which has a relative path ignored."""
    base = Path(os.environ.get("XDG_STATE_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "state") / "finetune"


def load_if_valid(without: str = "copies have no price") -> Settings | None:
    """The settings where they only add something. What is wrong with them is printed, with what that means
    (`without`), and stops nothing."""
    try:
        return _with_state_folder(load_settings(need_slack=False))
    except SettingsProblems as error:
        click.echo(f"The settings can't be used ({error.problems[0]}), so {without}.", err=True)
        return None


def refuse(sentence: str, code: int = EXIT_UNUSABLE) -> NoReturn:
    """Prints the sentence, without the backticks that are for Slack, and exits."""
    click.echo(sentence.replace("`", ""), err=True)
    sys.exit(code)


@contextmanager
def exit_on_storage_error() -> Iterator[None]:
    """Where the database is missing, damaged or held by a bot, the sentence that says so ends the program."""
    from storage.database import StorageError

    try:
        yield
    except StorageError as error:
        refuse(str(error))


def utc_today() -> date:
    return datetime.now(UTC).date()


def value_or_exit(value: T | Refusal) -> T:
    """Returns the value; exits with the sentence of a refusal."""
    from bot.values.runs import Refusal

    if isinstance(value, Refusal):
        refuse(value.text)
    return value


@contextmanager
def limited_memory() -> Iterator[None]:
    """For a command that reads a file which anybody may have made: the limit of the bot's own checks."""
    from bot.worker_pool import MEMORY_BYTES, limit_memory

    before = limit_memory()
    try:
        yield
    except MemoryError:
        refuse(
            f"This took more than {MEMORY_BYTES >> 30} GB of memory and was stopped: check a part of the file."
        )
    finally:
        limit_memory(before)


@contextmanager
def resumable() -> Iterator[None]:
    """For work that can go on where it stopped: Ctrl-C says so, and so does a wait that was too long."""
    from bot.cli.llm_session import AnswerTimeout

    try:
        yield
    except AnswerTimeout as silence:
        refuse(str(silence))
    except KeyboardInterrupt:
        click.echo("\nStopped. Answers that came are kept: the same command goes on from there.", err=True)
        sys.exit(EXIT_INTERRUPTED)
