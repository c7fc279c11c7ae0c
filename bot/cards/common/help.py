"""The help: five steps to a decision with buttons to begin, all commands behind *All commands*, and one command with
its options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import Actions, Block, Headline, Message, Text, actions, button, code, escape
from bot.cards.common.builder import Parts
from bot.cards.common.general import details_modal

UPLOAD = "begin_upload"
ESTIMATE = "begin_estimate"
ALL_COMMANDS = "all_commands"
LINES_OF_A_TEXT = 20
TITLE = "Find out in five steps whether fine-tuning pays"
STEPS = (
    ("upload", "labelled examples, checked on the machine that runs this bot"),
    ("baseline DATASET", "what prompts and free models already get right"),
    ("estimate DATASET", "what training would cost and save"),
    ("start DATASET", "a plan for your approvers to agree to"),
    ("status", "what is waiting, what is running, and the latest results"),
)
OTHERS = (
    ("Your data", ("datasets", "label", "distill", "pairs", "curve", "knowledge", "delete")),
    (
        "Runs and models",
        (
            "runs",
            "results",
            "compare",
            "wrong",
            "again",
            "pause",
            "resume",
            "cancel",
            "models",
            "try",
            "promote",
            "rollback",
            "fallback",
            "test",
            "watch",
        ),
    ),
    ("Money and people", ("prices", "budget", "rights", "notify", "audit", "freeze", "unfreeze")),
)


@dataclass(frozen=True)
class CommandHelp:
    """How a command is typed, what it does, and its options with their meanings."""

    name: str
    usage: str
    what: str
    options: Sequence[tuple[str, str]] = ()


def card() -> Message:
    parts = Parts()
    parts.lines(first_steps())
    parts.lines([f"*{title}*: {' '.join(map(code, names))}" for title, names in OTHERS])
    parts.add(begin_buttons())
    parts.note(
        "Nothing costs money until somebody has agreed to it. `/finetune help COMMAND` shows its options."
    )
    return parts.titled(TITLE)


def first_steps() -> list[str]:
    return [f"{n}. `/finetune {typed}`: {what}" for n, (typed, what) in enumerate(STEPS, 1)]


def begin_buttons() -> Actions:
    return actions(
        button("Upload", UPLOAD, "help", style="primary"),
        button("Estimate", ESTIMATE, "help"),
        button("All commands", ALL_COMMANDS, "help"),
    )


def all_commands(commands: Sequence[CommandHelp]) -> Block:
    """A dialog with all commands, grouped by task."""
    by_name = {command.name: command for command in commands}
    first = ("The five steps", [typed.split()[0] for typed, _ in STEPS])
    parts = Parts()
    for title, names in (first, *OTHERS):
        parts.add(Headline(title))
        for name in names:
            command = by_name[name]
            parts.text(f"`{command.usage}`\n{command.what}")
    return details_modal("All commands", parts)


def one_command(command: CommandHelp) -> Message:
    """One command with its options, in several texts, since Slack cuts a text that is too long."""
    options = [f"• `{key}=` {escape(what)}" for key, what in command.options]
    lines = [f"Usage: `{command.usage}`", *options]
    starts = range(0, len(lines), LINES_OF_A_TEXT)
    parts = tuple(Text("\n".join(lines[start : start + LINES_OF_A_TEXT])) for start in starts)
    return Message("\n".join(lines), parts)
