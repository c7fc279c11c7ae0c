"""Parses what stands after `/finetune`: a command with its values, or an answer that says what was misread.

A command is a click command with a little more. `DATASET key=value …` becomes `--key=value … -- DATASET`, which click
parses; its complaints are put into words here. Pure; knows neither Slack nor the store.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import click

from bot.command_options import (
    QUESTION_OPTIONS,
    TextType,
    build_question,
    did_you_mean,
    option_key,
    question_options,
    shown,
)
from bot.rules.estimate_inputs import Question
from bot.rules.permissions import Action
from bot.rules.plans import format_sweep
from bot.values.runs import Refusal
from trainers.types import Hyperparameter

COMMAND = "/finetune"
MARKUP = re.compile(r"<(?P<kind>[@#!]?)(?P<target>[^<>|]+)(?:\|(?P<label>[^<>]*))?>")
# "volume=10 million tokens a month", as parse_volume reads it in a form
_SPACED_VOLUME = re.compile(
    r"(\bvolume=[\d.,_]+)\s+(thousand|mio|million|bn|billion|trillion|[kmbt])(?=\s|$)"
    r"(?:\s+tokens?)?(?:\s*(?:/|\ba\b|\bper\b)\s*mo(?:nth)?)?(?=\s|$)",
    re.IGNORECASE,
)
# What the cards' buttons and people call what a command does.
_OTHER_WORDS = {"train": "start", "deploy": "promote", "measure": "baseline"}
_HELP = ("help", "--help", "-h")
# Slack makes straight quotation marks curly as they are typed.
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "„": "“"}


class Command(click.Command):
    """`needs`: what the policy must allow; "read" is asked before the handler runs, all else by the service that the
    handler calls, which knows the run, its cost and who uploaded. `usage`: the arguments and options as the help shows
    them; left out where the arguments' names say it. `alone` handles the command with nothing after it, where the
    handler needs more. `instead` answers words after a command that takes none.
    """

    def __init__(
        self,
        name: str,
        *,
        needs: tuple[Action, ...] = (),
        usage: str | None = None,
        alone: Callable[..., Any] | None = None,
        instead: str = "",
        callback: Callable[..., Any],
        **click_settings: Any,
    ) -> None:
        # extra words are answered below, with what the first one was taken for
        settings = {"allow_extra_args": True}
        super().__init__(
            name, callback=callback, add_help_option=False, context_settings=settings, **click_settings
        )
        self.needs, self.alone, self.instead = needs, alone, instead
        self.handler = callback
        self.arguments = [param for param in self.params if isinstance(param, click.Argument)]
        self.options = {option_key(param): param for param in self.params if isinstance(param, click.Option)}
        shown_arguments = usage if usage is not None else " ".join(map(_metavar, self.arguments))
        self.usage = f"{COMMAND} {name} {shown_arguments}".strip()


class Registry:
    """Commands by name, in the order in which they were declared, which is the help's."""

    def __init__(self) -> None:
        self.commands: dict[str, Command] = {}

    def command(self, name: str, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
        """Declares a handler as the command; its options are declared below this, as for any click command."""

        def register(handler: Callable[..., Any]) -> Command:
            self.commands[name] = click.command(name, cls=Command, **settings)(handler)
            return self.commands[name]

        return register

    def __iter__(self) -> Iterator[Command]:
        return iter(self.commands.values())

    def named(self, word: str) -> Command | None:
        return self.commands.get(word.lower())


@dataclass(frozen=True)
class ParsedCommand:
    """`handler` is to be called with `values`, by the names of its parameters."""

    command: Command
    handler: Callable[..., Any]
    values: Mapping[str, Any]


def unescape(text: str) -> str:
    """Returns what the person typed: Slack turns it into `&amp;`, `<http://acme.com|acme.com>`, `<@U1|ben>`,
    `<#C1|general>`."""
    text = MARKUP.sub(_as_typed, text)
    # The ampersand comes last, or "&amp;lt;" would become "<".
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _as_typed(markup: re.Match[str]) -> str:
    kind, target, label = markup.group("kind", "target", "label")
    return f"{kind}{label or target}" if kind in ("@", "#") else label or target


def parse(registry: Registry, text: str) -> ParsedCommand | Refusal:
    """Parses what stands after `/finetune`; nothing means `help`, and so does `help` alone after a command."""
    word, line = first_word(text)
    command = registry.named(word or "help")
    if command is None:
        near = did_you_mean(_OTHER_WORDS.get(word.lower(), word.lower()), list(registry.commands))
        return Refusal(f"I don't know `{shown(word.lower())}`.{near} `{COMMAND} help` lists all.")
    if line.lower() in _HELP:  # or `freeze help` would stop all spending
        command, line = registry.commands["help"], command.name or ""
    if command.alone and not line:
        return ParsedCommand(command, command.alone, {})
    values = parse_line(command, line)
    return values if isinstance(values, Refusal) else ParsedCommand(command, command.handler, values)


def parse_line(command: Command, line: str) -> Mapping[str, Any] | Refusal:
    """Parses what stands after the command's name."""
    try:
        return _parse_arguments(command, _order_arguments(command, line))
    except click.UsageError as error:
        return _explain_error(command, error)


def parse_form(command: Command, fields: Mapping[str, str | None]) -> Mapping[str, Any] | Refusal:
    """Parses a form's fields. A refusal names the field that can't be read, so that it is shown below it."""
    options = [
        f"{_flag(name)}={text.strip()}" for name, text in fields.items() if text and name in command.options
    ]
    words = [fields.get(argument.name or "") or "" for argument in command.arguments]
    try:
        return _parse_arguments(command, [*options, "--", *filter(None, words)])
    except click.BadParameter as error:
        if isinstance(error.param, click.Option):
            return Refusal(error.message, option_key(error.param))
        return _explain_error(command, error)


def _parse_arguments(command: Command, arguments: list[str]) -> Mapping[str, Any]:
    context = command.make_context(command.name, list(arguments))  # click takes the list apart
    if context.args:
        raise ExtraWordsError(context, arguments)
    return context.params


def _order_arguments(command: Command, line: str) -> list[str]:
    """Orders a line as click reads it: options first, then the arguments, which may begin with a dash."""
    options = []
    for name, option in command.options.items():
        if _takes_rest(option):
            line, rest = _split_off(name, line)
            options += [] if rest is None else [_format_option(command, name, strip_quotes(rest))]
    if not command.params:
        return ["--", *line.split()]
    before_rest = next((at for at, argument in enumerate(command.arguments) if _takes_rest(argument)), None)
    if before_rest is not None:
        return [*options, "--", *line.split(maxsplit=before_rest)]
    pairs, names = _split_pairs(line)
    twice = next((name for name, _ in pairs if [other for other, _ in pairs].count(name) > 1), None)
    if twice in command.options:
        raise click.BadOptionUsage(twice, "stands there twice. Say it once")
    return [*(_format_option(command, name, value) for name, value in pairs), *options, "--", *names]


def _split_pairs(line: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Splits `key=value` words from the others. Spaces around `=`, `,` and `;` and before `%` don't count, nor do the
    case of a key, dashes before it, which Slack makes long, and quotation marks around a word. `--key value` is the
    same, as in a terminal."""
    line = re.sub(r"(?<!\S)(?:--|—|–)(\w+)\s+(?=[^\s=–—-])", r"\1=", line)
    line = re.sub(r"(?<=\d)\s+(?=%(?:\s|$))", "", line)
    joined = re.sub(r"(?<=\w):\s+(?=[\d.])", ":", re.sub(r"\s*([=,;])\s*", r"\1", line))
    words = _SPACED_VOLUME.sub(r"\1\2", joined).split()
    halves = [word.partition("=") for word in words]
    pairs = [(name.lower().lstrip("-–—"), strip_quotes(value)) for name, equals, value in halves if equals]
    return pairs, [strip_quotes(word) for word, equals, _ in halves if not equals]


def strip_quotes(text: str) -> str:
    """Returns what stands within quotation marks, or the text as it is where they are not around all of it."""
    first, last = text[:1], text[-1:]
    is_quoted = len(text) > 2 and _QUOTES.get(first) == last and not {first, last} & set(text[1:-1])
    return text[1:-1] if is_quoted else text


def _format_option(command: Command, name: str, value: str) -> str:
    if not value and name in command.options:
        raise click.BadOptionUsage(name, "is empty. Like this")
    return f"{_flag(name)}={value}"


def _split_off(name: str, line: str) -> tuple[str, str | None]:
    """Returns what stands before `name=`, and everything after it."""
    before, *rest = re.split(rf"(?:^|(?<=\s)){name}\s*=", line, maxsplit=1, flags=re.IGNORECASE)
    return before, rest[0].strip() if rest else None


class ExtraWordsError(click.UsageError):
    """Words that no argument takes."""

    def __init__(self, context: click.Context, arguments: list[str]) -> None:
        super().__init__("extra words", context)
        self.words = arguments[arguments.index("--") + 1 :]


def _explain_error(command: Command, error: click.UsageError) -> Refusal:
    """Words click's complaint: what was read, what would be right, and how the command is typed."""
    like = f"Like this: `{command.usage}`"
    match error:
        case ExtraWordsError() if not command.arguments:
            words = shown(" ".join(error.words))
            return Refusal(
                f"`{command.name}` takes nothing more, and I read `{words}` after it. {command.instead}"
            )
        case ExtraWordsError():
            read, extra = shown(error.words[0]), " ".join(map(shown, error.words[1:]))
            what = command.arguments[0].type.name
            return Refusal(f"I read `{read}` as the {what} and don't know what to do with `{extra}`. {like}.")
        case click.NoSuchOption():
            name = error.option_name.removeprefix("--").replace("-", "_")
            near = did_you_mean(name, list(command.options))
            return Refusal(f"`{command.name}` has no `{shown(name)}=`.{near} {like}.")
        case click.BadOptionUsage():
            return Refusal(f"`{error.option_name}=` {error.message}: `{command.usage}`.")
        case click.MissingParameter(param=click.Argument(type=TextType() as kind)):
            return Refusal(f"{kind.missing} {like}{kind.hint}.")
        case click.BadParameter(param=click.Argument(type=TextType() as kind)):
            return Refusal(f"{error.message} {like}{kind.hint}.")
        case click.BadParameter(param=click.Option() as option):
            return Refusal(f"`{option_key(option)}=`: {error.message}", option_key(option))
        case _:
            return Refusal(f"{shown(error.message)} {like}.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _takes_rest(param: click.Parameter) -> bool:
    return isinstance(param.type, TextType) and param.type.takes_rest


def _metavar(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    return name if argument.required else f"[{name}]"


def first_word(text: str) -> tuple[str, str]:
    """Returns the first word and the rest; a tab or a new line separates them like a space."""
    word, rest = [*text.split(maxsplit=1), "", ""][:2]
    return word, rest.strip()


def format_question(question: Question) -> str:
    """Returns the options that `parse_question` reads as this question."""
    fields = {**asdict(question), **question.chosen, "sweep": format_sweep(question.sweep) or None}
    if question.method == "supervised":  # the default
        del fields["method"]
    values = {name: fields.get(option.field) for name, option in QUESTION_OPTIONS.items()}
    return " ".join(f"{name}={_format_value(value)}" for name, value in values.items() if value is not None)


def _format_value(value: Decimal | Hyperparameter) -> str:
    return f"{value.normalize():f}" if isinstance(value, Decimal) else str(value)


def parse_question(text: str) -> Question | Refusal:
    values = parse_line(_any_question, text)
    return values if isinstance(values, Refusal) else build_question(values)


@click.command("question", cls=Command)
@question_options(*QUESTION_OPTIONS)
def _any_question(**values: Any) -> Question:
    return build_question(values)
