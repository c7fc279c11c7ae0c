"""The help: the eight commands that a team needs first, all commands by task, and one command with its options."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from bot.cards.common.blocks import Actions, Block, CardBlock, Message, Text, actions, button, code, escape
from bot.cards.common.builder import Parts
from bot.cards.common.general import command_button, details_modal
from bot.cards.common.words import capitalize, listed, pluralize

UPLOAD = "begin_upload"
ESTIMATE = "begin_estimate"
ALL_COMMANDS = "all_commands"
ALL = "all"  # the word that asks for everything: `help all`, `help estimate all`
LINES_OF_A_TEXT = 24
TITLE = "Find out in five steps whether fine-tuning pays"
STEPS = (
    ("upload", "labelled examples, checked on the machine that runs this bot"),
    ("baseline DATASET", "what prompts and free models already get right"),
    ("estimate DATASET", "what training would cost and save"),
    ("start DATASET", "a plan for your approvers to agree to"),
    ("promote NAME", "deploys what won, which programs then call"),
)
AT_ANY_TIME = (
    ("status", "what is waiting, what is running, and the latest results"),
    ("models", "your tuned models, and what is in use"),
    ("watch DATASET", "whether what is in use still does well, every Monday"),
)
OTHERS = (
    ("Your data", ("datasets", "label", "distill", "pairs", "curve", "knowledge", "delete")),
    ("Runs", ("runs", "results", "compare", "wrong", "again", "pause", "resume", "cancel")),
    ("What is in use", ("try", "rollback", "fallback", "test")),
    ("Money and people", ("prices", "budget", "rights", "notify", "audit", "freeze", "unfreeze")),
)


@dataclass(frozen=True)
class OptionHelp:
    """An option with its meaning, and the title of its group, None if it has none."""

    key: str
    what: str
    group: str | None = None


@dataclass(frozen=True)
class CommandHelp:
    """How a command is typed, what it does, and its options in the order of their groups. `main` are the keys of those
    that matter most."""

    name: str
    usage: str
    what: str
    options: Sequence[OptionHelp] = ()
    main: Sequence[str] = ()

    @property
    def short_usage(self) -> str:
        """The command with what it needs, as typed after `/finetune`: 'estimate DATASET'."""
        _, *words = self.usage.split()
        needed = []
        for word in words:
            if word.startswith("[") or "=" in word:
                break
            needed.append(word)
        return " ".join(needed)

    @property
    def sentence(self) -> str:
        return f"{capitalize(self.what)}."


def card() -> Message:
    parts = Parts()
    parts.lines(first_lines())
    parts.add(begin_buttons())
    parts.note(
        "Nothing costs money until somebody has agreed to it. `/finetune help estimate` explains a command, and "
        "`/finetune help all` lists the others by task."
    )
    return parts.titled(TITLE)


def first_lines() -> list[str]:
    """The eight commands that a team needs first, a line each."""
    steps = [f"{n}. `/finetune {typed}`: {what}" for n, (typed, what) in enumerate(STEPS, 1)]
    return [*steps, *(f"• `/finetune {typed}`: {what}" for typed, what in AT_ANY_TIME)]


def begin_buttons() -> Actions:
    return actions(
        button("Upload", UPLOAD, "help", style="primary"),
        button("Estimate", ESTIMATE, "help"),
        button("All commands", ALL_COMMANDS, "help"),
    )


def all_commands_form(commands: Sequence[CommandHelp]) -> Block:
    """A dialog with all commands by task."""
    return details_modal("All commands", _by_task(commands))


def all_commands(commands: Sequence[CommandHelp]) -> Message:
    return _by_task(commands).titled("All commands")


def _by_task(commands: Sequence[CommandHelp]) -> Parts:
    by_name = {command.name: command for command in commands}
    first = [typed.split()[0] for typed, _ in (*STEPS, *AT_ANY_TIME)]
    parts = Parts()
    for title, names in (("First", first), *OTHERS):
        lines = [f"*{title}*"]
        for name in names:
            command = by_name[name]
            lines.append(f"• {code(command.short_usage)}: {command.what}")
        parts.lines(lines)
    parts.note("Type each after `/finetune`. `/finetune help estimate` explains `estimate`.")
    return parts


@dataclass(frozen=True)
class NearCommand:
    """A command that may answer a question. `line` is what to type after `/finetune`. `is_run_by_click`: it changes
    nothing, and the line is complete."""

    line: str
    what: str
    is_run_by_click: bool


def nearest_commands(near: Sequence[NearCommand], why: str = "") -> Message:
    """The answer to a question in plain words. `why` says, in mrkdwn, why no model has chosen."""
    parts = Parts()
    parts.text(why)
    if not near:
        parts.text("I read commands, not sentences, and none of these words belongs to one.")
        parts.add(begin_buttons())
        return parts.titled("I don't know what you mean")
    parts.lines([f"• {code(f'/finetune {each.line}')}: {escape(each.what)}" for each in near])
    complete = [each for each in near if each.is_run_by_click]
    buttons = [
        command_button(capitalize(each.line), each.line, position=position)
        for position, each in enumerate(complete)
    ]
    if buttons:
        parts.buttons(*buttons)
    parts.note(
        "I read commands, not sentences: these share words with yours. `/finetune help all` lists the others."
    )
    return parts.titled("Do you mean one of these?")


def one_command(command: CommandHelp, *, is_full: bool = False) -> Message:
    """What a command does, how it is typed, and its main options; with `is_full` all options, in groups."""
    parts = Parts()
    parts.text(command.sentence)
    parts.text(f"Usage: `{command.usage}`")
    if is_full:
        parts.add(*_options_in_groups(command.options))
    else:
        main = [option for key in command.main for option in command.options if option.key == key]
        parts.lines(list(map(_option_line, main)))
        parts.add(*_folded(command))
    return Message(f"{command.sentence} Usage: `{command.usage}`", tuple(parts))


def _options_in_groups(options: Sequence[OptionHelp]) -> Iterator[CardBlock]:
    """Several texts, since Slack cuts one that is too long."""
    for title, members in groupby(options, lambda option: option.group):
        lines = list(map(_option_line, members))
        if title:
            lines = [f"*{title}*", *lines]
        for start in range(0, len(lines), LINES_OF_A_TEXT):
            yield Text("\n".join(lines[start : start + LINES_OF_A_TEXT]))


def _option_line(option: OptionHelp) -> str:
    return f"• `{option.key}=` {escape(option.what)}"


def _folded(command: CommandHelp) -> Iterator[CardBlock]:
    """How many options are not shown, and how to see them."""
    hidden = [option for option in command.options if option.key not in command.main]
    if not hidden:
        return
    line = f"help {command.name} {ALL}"
    more = pluralize(len(hidden), "more option")
    yield Text(f"{more}{_group_counts(hidden)}: `/finetune {line}`")
    yield actions(command_button("All options", line))


def _group_counts(options: Iterable[OptionHelp]) -> str:
    """' (9 about money, 3 about training)'; nothing if they have no groups."""
    counts = []
    for title, members in groupby(options, lambda option: option.group):
        if title:
            counts.append(f"{len(list(members))} about {title.lower()}")
    if not counts:
        return ""
    return f" ({listed(counts, len(counts))})"
