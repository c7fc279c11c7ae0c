"""`finetune …` in the terminal.

server.py, analysis.py, admin.py,    the commands: their options, and what they call
exports.py, models.py, policy.py
options.py, output.py                shared by the commands: settings and refusals; printing and progress
render.py, evaluation_results.py     results as text and as JSON
the others                           what a command computes, named by its subject

A command's module is imported when the command is called, and imports what it needs then, so that the program starts
quickly.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import click

from bot.values.terminal_commands import FIRST, MODULES, OTHERS, TERMINAL_COMMANDS
from trainers.packages import EXTRA_OF, needs_extra

NEEDS_POSIX = "finetune runs on Linux and macOS. On Windows, run it in WSL (wsl --install) or in a container."


class Commands(Mapping[str, click.Command]):
    """The commands by name, imported on access. Each is a function of that name in one of MODULES."""

    def __getitem__(self, name: str) -> click.Command:
        module = next((module for module, names in MODULES.items() if name in names), None)
        if module is None:
            raise KeyError(name)
        command: click.Command = getattr(import_module(f"bot.cli.{module}"), name.replace("-", "_"))
        return command

    def __iter__(self) -> Iterator[str]:
        return iter(TERMINAL_COMMANDS)

    def __len__(self) -> int:
        return len(TERMINAL_COMMANDS)


class CommandsByTask(click.Group):
    """A group whose help lists the commands by task, without importing them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Start with"):
            formatter.write_dl(list(FIRST.items()))
        with formatter.section("Then"):
            formatter.write_dl([(task, ", ".join(names)) for task, names in OTHERS.items()])

    def invoke(self, ctx: click.Context) -> object:
        if find_spec("fcntl") is None:  # before a command's module is imported, which would fail
            click.echo(NEEDS_POSIX, err=True)
            ctx.exit(2)
        # click keeps the command's name apart from the words that follow it.
        words = [*ctx._protected_args, *ctx.args]
        try:
            return super().invoke(ctx)
        except click.BadParameter as error:
            from bot.cli.options import offer_readings

            # Here, as only the group still knows the whole command line.
            raise _shown(offer_readings(error, words), ctx) from None
        except click.UsageError as error:
            raise _shown(error, ctx) from None
        except ModuleNotFoundError as error:
            from bot.cli.options import refuse

            package = (error.name or "").partition(".")[0]
            if package not in EXTRA_OF:
                raise
            refuse(needs_extra(f"finetune {words[0]}", EXTRA_OF[package], words))

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args[:1] == ["help"]:  # as it is typed in Slack
            args = [*args[1:2], "--help"]
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in self.commands:
            from bot.cli.options import refuse
            from bot.questions.other_place import explain_in_terminal

            refuse(explain_in_terminal(_commands_in_slack(), args))
        name, command, words = super().resolve_command(ctx, args)
        if command:
            words = list(_with_flags(command, words))
        return name, command, words


def _commands_in_slack() -> Sequence[str]:
    """Returns the names of the Slack app's commands, none if its packages aren't installed."""
    if find_spec("slack_bolt") is None:
        return ()
    from bot.slack.commands import finetune

    return tuple(finetune.commands)


def _shown(error: click.UsageError, ctx: click.Context) -> click.UsageError:
    """Returns the error for a person, who also reads the usage. A program gets the sentence, and the command ends."""
    if ctx.params["for_program"]:
        click.echo(error.format_message(), err=True)
        ctx.exit(error.exit_code)
    return error


def _with_flags(command: click.Command, words: Sequence[str]) -> Iterator[str]:
    """Yields the words of a command line, with `current=gpt-4o`, Slack's spelling, turned into `--current=gpt-4o`."""
    options: dict[str, click.Parameter] = {}
    for option in command.params:
        for opt in option.opts:
            if opt.startswith("-"):  # an argument has its name here
                options[opt] = option
    is_value = False
    for word in words:
        key, equals, value = word.partition("=")
        flag = f"--{key.replace('_', '-')}"
        # A value stays as typed, so that --prompt can be given a text with an equals sign.
        if equals and flag in options and not is_value:
            yield f"{flag}={value}"
        else:
            yield word
        is_value = word in options and not getattr(options[word], "is_flag", False)


@click.group(
    cls=CommandsByTask,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog="Help on a command: finetune COMMAND -h. A complete example, in a checkout: make demo.",
)
@click.version_option(package_name="finetune-bot")
@click.option("--for-program", is_flag=True, hidden=True)
def main(for_program: bool) -> None:
    """Decide on evidence whether to fine-tune a model, as a team in Slack, and train it."""
    from bot.cli.options import load_dot_env
    from bot.mcp.reports import end_with_parent

    if for_program:
        end_with_parent()
    load_dot_env(Path(".env"))


main.commands = Commands()  # type: ignore[assignment]  # click only reads them
