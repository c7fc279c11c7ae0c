"""`finetune …` in the terminal: thin, each command hands over to the room that does the work."""

from __future__ import annotations

import importlib.util
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import NoReturn

import click
from dotenv import load_dotenv

from bot.settings import Settings, SettingsProblems, load_settings

EXIT_BLOCKED, EXIT_UNUSABLE = 1, 2


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="finetune-bot")
def main() -> None:
    """From labelled examples to a better model, decided on evidence by a team in Slack."""
    load_dotenv(Path(".env"))


@main.command()
def run() -> None:
    """Run the Slack app; without another trainer configured, our own trainer beside it."""
    from slack_sdk.errors import SlackApiError

    from bot.app import Service
    from storage.database import StorageError

    settings = _settings()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("apscheduler", "httpx2", "slack_sdk", "slack_bolt"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        service = Service(settings)
    except StorageError as error:
        _refuse(str(error))
    except SlackApiError as error:
        _refuse(
            f"Slack refuses the bot's token: {error.response.get('error')}. Check SLACK_BOT_TOKEN in .env."
        )
    except OSError as error:
        _refuse(
            f"Slack could not be reached at {settings.slack.api_url}: {error}. Check the network and try again."
        )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    service.start()
    click.echo(
        f"finetune is running · {service.address} · data in {settings.data.resolve()} · Ctrl-C stops it"
    )
    stop.wait()
    service.stop()


@main.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def trainer(arguments: tuple[str, ...]) -> None:
    """Serve OpenAI's fine-tuning API on this machine: --port N --data DIR --model NAME=FOLDER_OR_HUB_ID."""
    if importlib.util.find_spec("torch") is None:
        _refuse("Training needs the extra [local]: pip install 'finetune-bot[local]'")
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "trainers.local", *arguments])  # noqa: S606 - no shell


@main.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--text", help="Column with the text, for CSV; found by its name where not said.")
@click.option("--label", help="Column with the label, for CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def check(file: Path, text: str | None, label: str | None, as_json: bool) -> None:
    """Check a file of labelled examples. Exits with 1 when something in it must be mended first."""
    from bot import terminal

    report = terminal.check(file, text, label)
    click.echo(report.to_json() if as_json else terminal.report_text(report))
    if report.blocked:
        sys.exit(EXIT_BLOCKED)


@main.command()
@click.option("--dataset", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True)
@click.option("--current", help="The model that you prompt today, like gpt-4o.")
@click.option("--target", help="The model to train, like local/smollm2-135m or gpt-4.1-mini-2025-04-14.")
@click.option("--volume", help="Input tokens a month, like 10M.")
@click.option("--epochs", type=click.IntRange(1, 50), help="Passes over the data; by rule where not said.")
@click.option("--text", help="Column with the text, for CSV.")
@click.option("--label", help="Column with the label, for CSV.")
@click.option("--json", "as_json", is_flag=True, help="Print the estimate as JSON.")
def estimate(
    dataset: Path,
    current: str | None,
    target: str | None,
    volume: str | None,
    epochs: int | None,
    text: str | None,
    label: str | None,
    as_json: bool,
) -> None:
    """What training would cost and save, and what is still unknown."""
    from bot import terminal
    from bot.decisions.amounts import Misread, parse_volume
    from bot.results import Refusal
    from bot.workflows.estimating import Question

    read = parse_volume(volume) if volume else None
    if isinstance(read, Misread):
        _refuse(read.sentence)
    settings = _settings(need_slack=False)
    report = terminal.check(dataset, text, label, settings.trainer.folders)
    if report.blocked:
        click.echo(terminal.report_text(report), err=True)
        _refuse(f"{dataset} must be mended before it can be estimated.")
    question = Question(current, read, target, epochs)
    estimated = terminal.estimate(settings, dataset.stem, report, question)
    if isinstance(estimated, Refusal):
        _refuse(estimated.text.replace("`", ""))
    if as_json:
        click.echo(json.dumps(terminal.estimate_json(estimated), indent=2))
    else:
        click.echo(terminal.estimate_text(estimated))


@main.command()
def doctor() -> None:
    """Check this installation: settings, tokens, database, trainers, disk; each problem with its cure."""
    from bot.doctor import examine

    findings = examine()
    for finding in findings:
        click.echo(f"{'ok      ' if finding.is_well else 'problem '} {finding.what}: {finding.said}")
    if not all(finding.is_well for finding in findings):
        sys.exit(EXIT_BLOCKED)


@main.command()
@click.option("--data", type=click.Path(path_type=Path, exists=True, dir_okay=False), help="Your own file.")
@click.option("--text", help="Column with the text, for CSV.")
@click.option("--label", help="Column with the label, for CSV.")
@click.option("--stay", is_flag=True, help="Stay up afterwards, to try it by hand.")
@click.option("--terminal", "in_terminal", is_flag=True, help="In the terminal only, without the browser.")
@click.option("--folder", type=click.Path(path_type=Path), default=Path(".demo"), show_default=True)
@click.option(
    "--model", type=click.Path(path_type=Path), default=Path(".cache/smollm2-135m"), show_default=True
)
def demo(
    data: Path | None,
    text: str | None,
    label: str | None,
    stay: bool,
    in_terminal: bool,
    folder: Path,
    model: Path,
) -> None:
    """Play the whole story on this machine: no Slack account, no key, no GPU."""
    from bot.demo.story import Story, play

    sys.exit(play(Story(data, text, label, stay, in_terminal, folder, model)))


def _settings(*, need_slack: bool = True) -> Settings:
    try:
        return load_settings(need_slack=need_slack)
    except SettingsProblems as found:
        for problem in found.problems:
            click.echo(f"• {problem}", err=True)
        _refuse("Mend this, then start again; `finetune doctor` checks everything.")


def _refuse(sentence: str) -> NoReturn:
    click.echo(sentence, err=True)
    sys.exit(EXIT_UNUSABLE)
