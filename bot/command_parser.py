"""Parses the text after `/finetune` into a command and its values, or a refusal that says what could not be read.

Commands are click commands. `DATASET key=value …` is rewritten as `--key=value … -- DATASET`, which click parses; its
errors are turned into sentences here. Pure: knows neither Slack nor the store.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from typing import Any

import click

from bot.command_options import (
    BAR,
    QUESTION_OPTIONS,
    TASK,
    AmbiguousValueError,
    TextType,
    build_question,
    current_option_name,
    did_you_mean,
    option_key,
    plain,
    question_options,
    shown,
)
from bot.questions.other_place import explain_in_slack
from bot.rules.estimate_inputs import Question
from bot.rules.permissions import Action
from bot.rules.plans import format_sweep
from bot.rules.units import A_MONTH, NUMBER, UNIT, Volume, parse_volume
from bot.values.requests import Estimate
from bot.values.runs import AskedBack, Reading, Refusal
from bot.values.terminal_commands import is_subcommand
from trainers.types import Hyperparameter

COMMAND = "/finetune"
MARKUP = re.compile(r"<(?P<kind>[@#!]?)(?P<target>[^<>|]+)(?:\|(?P<label>[^<>]*))?>")
# "volume=20 thousand requests a month": the spaces would end the value, though parse_volume reads such a text.
_SPACED_VOLUME = re.compile(
    rf"(\bvolume=)[\"“]?({NUMBER})(?:\s*+(thousand|mio|million|bn|billion|trillion|[kmbt]))?"
    rf"(?:\s*+({UNIT}))?(?:\s*+{A_MONTH})?[\"”]?(?=\s|$)",
    re.IGNORECASE,
)
# Questions that were stored before volumes had a unit are in tokens.
_STORED_WITHOUT_UNIT = re.compile(r"\bvolume=(\d+)(?=\s|$)")
_HELP = ("help", "--help", "-h")
MAIN_OPTIONS = 5
# Slack turns straight quotation marks into curly ones while people type.
_QUOTES = {'"': '"', "'": "'", "`": "`", "“": "”", "‘": "’", "„": "“"}


class Command(click.Command):
    """A click command with what Slack needs beside it.

    `needs`: what the policy must allow. "read" is checked before the handler runs; everything else by the service that
    the handler calls, which knows the run, its cost and who uploaded the data. `usage`: arguments and options as the
    help shows them, None if the arguments' names are enough. `alone` handles the command if nothing follows it.
    `instead` is the advice to a person who types words after a command that takes none. `main_options` are those
    that the help shows first, by default the first five.
    """

    def __init__(
        self,
        name: str,
        *,
        needs: tuple[Action, ...] = (),
        usage: str | None = None,
        alone: Callable[..., Any] | None = None,
        instead: str = "",
        main_options: tuple[str, ...] = (),
        callback: Callable[..., Any],
        **click_settings: Any,
    ) -> None:
        # Extra words get an answer below that also says what the first word was taken for.
        settings = {
            "allow_extra_args": True,
            "token_normalize_func": current_option_name,
        }
        super().__init__(
            name,
            callback=callback,
            add_help_option=False,
            context_settings=settings,
            **click_settings,
        )
        self.needs = needs
        self.alone = alone
        self.instead = instead
        self.handler = callback
        self.arguments = [param for param in self.params if isinstance(param, click.Argument)]
        options = [param for param in self.params if isinstance(param, click.Option)]
        self.options = {option_key(option): option for option in options}
        self.main_options = main_options or tuple(self.options)[:MAIN_OPTIONS]
        if usage is None:
            usage = " ".join(_metavar(argument) for argument in self.arguments)
        self.usage = f"{COMMAND} {name} {usage}".strip()


class Registry:
    """Commands by name, in the order of their declaration, which is also the order of the help."""

    def __init__(self) -> None:
        self.commands: dict[str, Command] = {}

    def command(self, name: str, **settings: Any) -> Callable[[Callable[..., Any]], Command]:
        """Declares a handler as this command. Decorators for its options go below this one, as with click's own."""

        def register(handler: Callable[..., Any]) -> Command:
            command = click.command(name, cls=Command, **settings)(handler)
            self.commands[name] = command
            return command

        return register

    def include(self, other: Registry) -> None:
        """Adds the commands of another module, after those that are declared so far."""
        self.commands |= other.commands

    def __iter__(self) -> Iterator[Command]:
        return iter(self.commands.values())

    def named(self, word: str) -> Command | None:
        return self.commands.get(word.lower())


@dataclass(frozen=True)
class ParsedCommand:
    """`values` are the handler's keyword arguments."""

    command: Command
    handler: Callable[..., Any]
    values: Mapping[str, Any]


def unescape(text: str) -> str:
    """Returns the text as the person typed it: Slack sends `&amp;`, `<http://acme.com|acme.com>`, `<@U1|ben>`,
    `<#C1|general>`."""
    text = MARKUP.sub(_as_typed, text)
    # The ampersand is last, or "&amp;lt;" would become "<".
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def mentioned_people(text: str) -> tuple[str, ...]:
    """Returns the ids of the people whom a text from Slack mentions."""
    return tuple(match["target"] for match in MARKUP.finditer(text) if match["kind"] == "@")


def _as_typed(markup: re.Match[str]) -> str:
    kind, target, label = markup.group("kind", "target", "label")
    text = label or target
    if kind in ("@", "#"):
        return f"{kind}{text}"
    return text


def parse(registry: Registry, text: str) -> ParsedCommand | Refusal:
    """Parses the text after `/finetune`. An empty text means `help`; `COMMAND help` means `help COMMAND`."""
    word, line = first_word(text)
    command = registry.named(word or "help")
    second_word, _ = first_word(line)
    is_terminals = is_subcommand(word.lower(), second_word.lower())
    if command is None or is_terminals:
        names = list(registry.commands)
        return Refusal(explain_in_slack(names, word, line))
    if line.lower() in _HELP:  # otherwise `freeze help` would stop all spending
        line = command.name or ""
        command = registry.commands["help"]
    if command.alone and not line:
        return ParsedCommand(command, command.alone, {})
    values = parse_line(command, line)
    if isinstance(values, Refusal):
        return values
    return ParsedCommand(command, command.handler, values)


def parse_line(command: Command, line: str) -> Mapping[str, Any] | Refusal:
    """Parses the text after the command's name."""
    try:
        arguments = _order_arguments(command, line)
        return _parse_arguments(command, arguments)
    except AmbiguousValueError as error:
        return _offer_readings(command, line, error)
    except click.UsageError as error:
        return _explain_error(command, error)


def _offer_readings(command: Command, line: str, error: AmbiguousValueError) -> AskedBack:
    """Asks what was meant, with the whole command once for each reading, so that a person chooses or copies one."""
    key = ""
    if isinstance(error.param, click.Option):
        key = option_key(error.param)
    typed = re.compile(rf"{key}\W+{re.escape(error.value)}", re.IGNORECASE)
    readings = []
    lines = [f"`{key}=`: {error.message} The whole command:"]
    for value in error.readings:
        clear_line = typed.sub(f"{key}={value}", line, count=1)
        clear_command = f"{command.name} {clear_line}"
        readings.append(Reading(_in_words(value), clear_command))
        lines.append(f"`{COMMAND} {plain(clear_command)}`")
    return AskedBack("\n".join(lines), key, tuple(readings))


def _in_words(value: str) -> str:
    volume = parse_volume(value)
    if isinstance(volume, Volume):
        return f"{volume.text} a month"
    return value


def parse_form(command: Command, fields: Mapping[str, str | None]) -> Mapping[str, Any] | Refusal:
    """Parses a form's fields. A refusal names the field that can't be read, so that it appears below that field."""
    arguments = []
    for name, text in fields.items():
        if text and name in command.options:
            arguments.append(f"{_flag(name)}={text.strip()}")
    arguments.append("--")
    for argument in command.arguments:
        word = fields.get(argument.name or "")
        if word:
            arguments.append(word)
    try:
        return _parse_arguments(command, arguments)
    except click.BadParameter as error:
        if isinstance(error.param, click.Option):
            return Refusal(error.message, option_key(error.param))
        return _explain_error(command, error)


def _parse_arguments(command: Command, arguments: list[str]) -> Mapping[str, Any]:
    context = command.make_context(command.name, list(arguments))  # a copy: click empties the list
    if context.args:
        raise ExtraWordsError(context, arguments)
    return context.params


def _order_arguments(command: Command, line: str) -> list[str]:
    """Turns a line into click's arguments: options first, then `--` and the positional words, which may start with a
    dash."""
    last_options = []
    for name, option in command.options.items():
        if not _takes_rest(option):
            continue
        line, rest = _split_off(name, line)
        if rest is not None:
            last_options.append(_format_option(command, name, strip_quotes(rest)))
    if not command.params:
        return ["--", *line.split()]
    for position, argument in enumerate(command.arguments):
        # The last argument takes the rest of the line as it is, so its words are not searched for options.
        if _takes_rest(argument):
            words = line.split(maxsplit=position)
            return [*last_options, "--", *words]

    pairs, words = _split_pairs(line)
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1 and name in command.options:
            raise click.BadOptionUsage(name, "appears twice. Give it once")
    arguments = _arguments_by_name(command, pairs)
    options = []
    for name, value in pairs:
        if name not in arguments:
            options.append(_format_option(command, name, value))
    return [*options, *last_options, "--", *arguments.values(), *words]


def _arguments_by_name(command: Command, pairs: Sequence[tuple[str, str]]) -> dict[str, str]:
    """Returns the arguments that were typed with their names, like `dataset=tickets`, in the command's order."""
    typed = dict(pairs)
    arguments = {}
    for argument in command.arguments:
        name = argument.name or ""
        if name in typed:
            arguments[name] = typed[name]
    return arguments


def _split_pairs(line: str) -> tuple[list[tuple[str, str]], list[str]]:
    """Separates `key=value` words from the others.

    Ignores spaces around `=`, `,` and `;` and before `%`, the case of keys, and quotation marks around a word. Accepts
    `--key value` too, as in a terminal; Slack turns its two dashes into a long one."""
    line = re.sub(r"(?<!\S)(?:--|—|–)(\w+)\s+(?=[^\s=–—-])", r"\1=", line)
    line = re.sub(r"(?<=\d)\s+(?=%(?:\s|$))", "", line)
    # A pattern like \s*([=,;]) would take time quadratic in the length of a long run of spaces.
    parts = re.split("([=,;])", line)
    line = "".join(part.strip() for part in parts)
    line = re.sub(r"(?<=\w):\s+(?=[\d.])", ":", line)
    line = _SPACED_VOLUME.sub(r"\1\2\3\4", line)
    pairs = []
    words = []
    for word in line.split():
        name, equals, value = word.partition("=")
        if equals:
            key = name.lower().lstrip("-–—")
            pairs.append((key, strip_quotes(value)))
        else:
            words.append(strip_quotes(word))
    return pairs, words


def strip_quotes(text: str) -> str:
    """Removes quotation marks if they enclose the whole text."""
    first = text[:1]
    last = text[-1:]
    inside = text[1:-1]
    has_more_quotes = first in inside or last in inside
    if inside and _QUOTES.get(first) == last and not has_more_quotes:
        return inside
    return text


def _format_option(command: Command, name: str, value: str) -> str:
    if not value and name in command.options:
        raise click.BadOptionUsage(name, "is empty. Like this")
    return f"{_flag(name)}={value}"


def _split_off(name: str, line: str) -> tuple[str, str | None]:
    """Returns the text before `name=` and everything after it, None if there is no `name=`."""
    start_of_option = rf"(?:^|(?<=\s)){name}\s*="
    before, *rest = re.split(start_of_option, line, maxsplit=1, flags=re.IGNORECASE)
    if not rest:
        return before, None
    return before, rest[0].strip()


class ExtraWordsError(click.UsageError):
    """More words than the command has arguments."""

    def __init__(self, context: click.Context, arguments: list[str]) -> None:
        super().__init__("extra words", context)
        self.words = arguments[arguments.index("--") + 1 :]


def _explain_error(command: Command, error: click.UsageError) -> Refusal:
    """Turns click's error into a sentence: what was read, what would be right, and how the command is typed."""
    like = f"Like this: `{command.usage}`"
    match error:
        case ExtraWordsError() if not command.arguments:
            words = shown(" ".join(error.words))
            return Refusal(
                f"`{command.name}` takes nothing after it, but I read `{words}`. {command.instead}"
            )
        case ExtraWordsError():
            first, *others = map(shown, error.words)
            extra = " ".join(others)
            what = command.arguments[0].type.name
            return Refusal(f"I took `{first}` for the {what}, and don't know what `{extra}` means. {like}.")
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
            key = option_key(option)
            return Refusal(f"`{key}=`: {error.message}", key)
        case _:
            return Refusal(f"{shown(error.message)} {like}.")


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _takes_rest(param: click.Parameter) -> bool:
    kind = param.type
    return isinstance(kind, TextType) and kind.takes_rest


def _metavar(argument: click.Argument) -> str:
    name = argument.metavar or (argument.name or "").upper()
    if argument.required:
        return name
    return f"[{name}]"


def first_word(text: str) -> tuple[str, str]:
    """Returns the first word and the rest, separated by any whitespace."""
    match text.split(maxsplit=1):
        case [word, rest]:
            return word, rest.strip()
        case [word]:
            return word, ""
        case _:
            return "", ""


def format_question(question: Question) -> str:
    """Returns the question as options; `parse_question` reads them back."""
    fields = {**asdict(question), **question.chosen}
    fields["sweep"] = format_sweep(question.sweep) or None
    if question.volume:
        fields["volume"] = question.volume.word
    if question.method == "supervised":  # the default
        del fields["method"]
    words = []
    for name, option in QUESTION_OPTIONS.items():
        value = fields.get(option.field)
        if value is not None:
            words.append(f"{name}={_format_value(value)}")
    return " ".join(words)


def _format_value(value: Decimal | Hyperparameter) -> str:
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"  # never 1E+3, which could not be read back
    return str(value)


def format_estimate(request: Estimate) -> str:
    """Returns the question with the bar and the kind of task that it tries out, if any; `parse_estimate` reads them
    back."""
    words = [format_question(request.question)]
    if request.bar is not None:
        words.append(f"bar={round(100 * request.bar, 4):g}%")
    if request.task is not None:
        words.append(f"task={request.task}")
    return " ".join(filter(None, words))


def parse_estimate(dataset: str, text: str) -> Estimate | Refusal:
    values = _parse_stored(text)
    if isinstance(values, Refusal):
        return values
    fields = {name: value for name, value in values.items() if name not in ("bar", "task")}
    question = build_question(fields)
    return Estimate(dataset, question, values["bar"], values["task"])


def parse_question(text: str) -> Question | Refusal:
    """Returns the question without the bar and the kind of task that an estimate tries out."""
    stored = parse_estimate("", text)
    if isinstance(stored, Refusal):
        return stored
    return stored.question


def _parse_stored(text: str) -> Mapping[str, Any] | Refusal:
    line = _STORED_WITHOUT_UNIT.sub(r"volume=\1tokens", text)
    return parse_line(_any_question, line)


@click.command("question", cls=Command)
@question_options(*QUESTION_OPTIONS)
@click.option("--bar", type=BAR)
@click.option("--task", type=TASK)
def _any_question(**_: Any) -> None:
    """Declares the options of a stored question; nothing calls it."""
