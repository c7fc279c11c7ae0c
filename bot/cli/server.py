"""`finetune run`, `trainer`, `serve`, `mcp`, `init`, `doctor` and `demo`: the long-running processes, and setting up
and checking an installation."""

from __future__ import annotations

import gc
import importlib.util
import itertools
import os
import queue
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bot import logs
from bot.cli.options import EXIT_BLOCKED, JSON, load, refuse
from bot.cli.output import Ticker, hyperlink, is_styled, show, show_json, text_block
from bot.command_options import MAX_USD
from bot.embedded_trainer import KEY_VARIABLE
from bot.settings import SLACK_API, Settings, SettingsProblems, collect_secrets
from trainers.host import HUB_KEYS, child_environment, restrict_environment, trainer_environment
from trainers.money import to_micros
from trainers.packages import needs_extra

if TYPE_CHECKING:  # every command reads this module, and few need what these load
    from bot.app import Service
    from bot.installation import Answers

LOOK_FOR_SIGNALS_S = 1.0
MOST_PIPED_ANSWERS = 10  # to a question: a program that answers wrongly would do so for ever
NO_ANSWERS = (
    "finetune init asks questions, and its input ended before the last answer: run it in a terminal, or copy "
    ".env.example to .env and finetune.example.toml to finetune.toml, and fill them in."
)


@click.command()
def run() -> None:
    """Run the Slack app, with our own trainer beside it unless another one is configured."""
    gc.disable()  # collecting garbage among the modules, which stay, takes 7% of the start
    # openai before anybody waits for an ack: its import takes 0.3 s, and the first tick would do it.
    import openai  # noqa: F401

    import bot.app  # noqa: F401

    gc.freeze()
    gc.enable()
    settings = load(need_slack=True)
    _set_up_log(settings)
    service = _open_service(settings)
    # The tokens have been read by now. The workers, which parse uploads, must not inherit them.
    restrict_environment(child_environment(*HUB_KEYS))
    # Not an Event: a signal handler's `set` can deadlock with the `wait` that it interrupts; this `put` can't.
    stops: queue.SimpleQueue[int] = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: stops.put(number))
    _start(service)
    click.echo(
        f"finetune is running · {service.address} · data in {settings.data.resolve()} · Ctrl-C stops it"
    )
    stopped_by = 0
    while not stopped_by:  # a wait without a timeout would miss a signal that comes just before it
        with suppress(queue.Empty):
            stopped_by = stops.get(timeout=LOOK_FOR_SIGNALS_S)
    service.stop()
    # Everything is on disk. A normal exit would wait for each thread whose request Slack or a vendor never answers.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _open_service(settings: Settings) -> Service:
    from slack_sdk.errors import SlackApiError

    from bot.app import Service
    from storage.database import StorageError

    try:
        return Service(settings)
    except (StorageError, SettingsProblems) as error:
        refuse(str(error))
    except SlackApiError as error:
        refuse(
            f"Slack refuses the bot's token: {error.response.get('error')}. Check SLACK_BOT_TOKEN in .env."
        )
    except OSError as error:
        refuse(
            f"The data in {settings.data} can't be used: {error}. Free some space, or fix the folder's permissions."
        )


def _start(service: Service) -> None:
    from slack_sdk.errors import SlackApiError

    try:
        service.start()
    except SlackApiError as error:
        service.stop()
        refuse(
            f"Slack refuses the app's token: {error.response.get('error')}. Check SLACK_APP_TOKEN in .env: it needs "
            "the scope connections:write, and Socket Mode must be on in the app's settings."
        )


def _set_up_log(settings: Settings) -> None:
    """Sets up the log. FINETUNE_LOG=json or text sets the form of the lines on stderr, instead of the terminal."""
    text = os.environ.get("FINETUNE_LOG") or None
    form = next((form for form in logs.FORMS if form == text), None)
    if text and form is None:
        refuse(f"FINETUNE_LOG is {text!r}; it should be json or text, or not set.")
    os.umask(0o077)
    try:
        settings.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        logs.set_up(settings.data, collect_secrets(settings, os.environ), form)
    except OSError as error:
        refuse(
            f"The log in {settings.data} can't be written: {error}. Free some space, or fix the folder's permissions."
        )


# No help of its own: -h goes to the trainer, which knows its options.
@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def trainer(arguments: tuple[str, ...]) -> None:
    """Serve OpenAI's fine-tuning API on this machine: --port N --data DIR --model NAME=FOLDER_OR_HUB_ID."""
    if importlib.util.find_spec("torch") is None:
        refuse(needs_extra("Training", "local", ("trainer", *arguments)))
    # exec replaces this process, and what is still buffered would be lost.
    sys.stdout.flush()
    environment = trainer_environment(arguments, KEY_VARIABLE)
    os.execve(sys.executable, [sys.executable, "-m", "trainers.local", *arguments], environment)  # noqa: S606 - no shell


@click.command()
def serve() -> None:
    """Answer programs that call team/NAME. `finetune run` starts this itself; it is for a unit of its own."""
    if importlib.util.find_spec("aiohttp") is None:
        refuse(needs_extra("Answering programs", "serve", ("serve",)))
    from bot.door_process import door_command, door_environment
    from bot.services.serving import publications

    settings = load(need_slack=False)
    if not settings.serving.address:
        refuse(
            "[serving] address in finetune.toml is empty, so nothing answers programs: set it, or remove the line."
        )
    os.umask(0o077)
    publications.publish_upstreams(settings)
    command = door_command(settings)
    # exec replaces this process, and what is still buffered would be lost.
    sys.stdout.flush()
    os.execve(command[0], command, door_environment(settings))  # noqa: S606 - no shell


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--allow-spend",
    metavar="USD",
    type=MAX_USD,
    help="Let calls cost up to this many dollars together, like 5. Without it, only what is free is measured.",
)
@click.pass_context
def mcp(context: click.Context, folders: tuple[Path, ...], allow_spend: Decimal | None) -> None:
    """Offer check, baseline, estimate and others to an editor's agent, over MCP on stdin and stdout.

    Files are read below FOLDERS only (by default the current folder). docs/mcp.md says how to register it.
    """
    from bot.mcp.server import serve

    if sys.stdin.isatty():
        click.echo("Waiting for an editor to speak MCP on stdin. Ctrl-C stops it.", err=True)
    root = context.find_root().command
    assert isinstance(root, click.Group)  # noqa: S101 - `finetune` itself
    most_micros = to_micros(allow_spend or Decimal(0))
    serve(root.commands, folders or (Path(),), most_micros)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=".")
@click.option("--slack-api", default=SLACK_API, hidden=True)
def init(folder: Path, slack_api: str) -> None:
    """Set up an installation in FOLDER: asks for the app's tokens, the approvers and the budget, and checks each."""
    from bot.installation import write_files

    if sys.stdin is None:
        refuse(NO_ANSWERS)
    _prepare_folder(folder)
    _explain_app()
    answers = _ask_all(slack_api)
    write_files(folder, answers)
    click.echo(f"\nWrote .env, finetune.toml and manifest.yml to {folder.resolve()}. Next:")
    steps = [
        "finetune doctor",
        "finetune run",
        "/invite @Finetune in your team's channel, then /finetune help there",
    ]
    if folder.resolve() != Path.cwd():
        steps.insert(0, f"cd {folder}")
    for step in steps:
        click.echo(f"  {step}")


def _prepare_folder(folder: Path) -> None:
    from bot.installation import write_manifest

    # Not overwritten: nobody may have a copy of the tokens in .env.
    existing = [name for name in (".env", "finetune.toml") if (folder / name).exists()]
    if existing:
        refuse(f"{folder / existing[0]} exists already: edit it, or move it away. finetune doctor checks it.")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Before the questions: the app whose tokens they ask for is created from it.
        write_manifest(folder)
    except OSError as error:
        refuse(
            f"{folder} can't be written to: {error.strerror}. Name another folder, or fix its permissions."
        )


def _explain_app() -> None:
    from bot.installation import manifest_link
    from bot.resources import read_resource

    click.echo(
        "1. Create the Slack app and install it in your workspace: at https://api.slack.com/apps choose Create"
    )
    click.echo("   New App, From a manifest, and paste manifest.yml, which is now in the folder.")
    if is_styled(sys.stdout):  # the link contains the whole manifest
        manifest = read_resource("manifest.yml")
        link = hyperlink(manifest_link(manifest), "click here")
        click.echo(f"   Or {link}: the manifest is filled in.")


def _ask_all(slack_api: str) -> Answers:
    from bot.installation import Answers, SlackCheck, dollars

    click.echo("2. Enter its tokens. They are stored in .env, which only you can read.")
    slack = SlackCheck(slack_api)
    bot_token = _ask("Bot User OAuth Token (OAuth & Permissions)", slack.bot_token, is_secret=True)
    app_token = _ask(
        "App-Level Token with connections:write (Basic Information)", slack.app_token, is_secret=True
    )
    click.echo(
        "3. Who approves spending? Give e-mail addresses or member ids. Nobody can approve their own plan."
    )
    approvers = [_ask("First approver", slack.approver)]
    while another := _ask("Another approver (Enter: no more)", slack.approver, is_optional=True):
        approvers.append(another)
    click.echo("4. The budget, and a fallback for messages.")
    monthly_usd = _ask("Monthly budget in dollars", dollars, default="0")
    channel = _ask(
        "Channel for messages whose own channel is archived (Enter: none)", slack.channel, is_optional=True
    )
    return Answers(bot_token, app_token, tuple(approvers), monthly_usd, channel)


def _ask(
    question: str,
    check: Callable[[str], tuple[str, str] | str],
    *,
    default: str | None = None,
    is_secret: bool = False,
    is_optional: bool = False,
) -> str:
    """Asks until the answer passes its check, and shows how it was understood. An optional answer may be empty."""
    is_terminal = sys.stdin.isatty()
    for number in itertools.count():
        if number == MOST_PIPED_ANSWERS and not is_terminal:
            refuse(f"{question}: none of the first {number} answers in the input can be used.")
        try:
            answer: str = click.prompt(
                f"   {question}",
                default="" if is_optional else default,
                show_default=not is_optional,
                hide_input=is_secret and is_terminal,  # only a terminal shows what is typed
            ).strip()
        except click.Abort:
            if is_terminal:
                raise
            click.echo(err=True)
            refuse(NO_ANSWERS)
        if not answer and is_optional:
            return ""
        result = check(answer)
        if not isinstance(result, str):
            value, shown = result
            click.echo(f"   ✓ {shown}")
            return value
        click.echo(f"   {result}")
    raise AssertionError("itertools.count ended")


@click.command()
@JSON
def doctor(as_json: bool) -> None:
    """Check this installation: settings, tokens, database, trainers, disk. Shows how to fix each problem.

    Exits with 1 if there is a problem.
    """
    from bot.doctor import examine

    with Ticker() as ticker:
        ticker("Asking Slack and the trainers")
        findings = examine()
    if as_json:
        show_json([{"ok": each.is_ok, "subject": each.subject, "text": each.text} for each in findings])
    else:
        lines = [
            f"{'ok      ' if each.is_ok else 'problem '} {each.subject}: {each.text}" for each in findings
        ]
        show([text_block("\n".join(lines))])
    if not all(finding.is_ok for finding in findings):
        sys.exit(EXIT_BLOCKED)


@click.command(hidden=True, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def demo(arguments: tuple[str, ...]) -> None:
    """Say where the demo is, which was part of the package until 0.2.0."""
    refuse("The demo is part of the repository, not of the installed package: run `make demo` in a checkout.")
