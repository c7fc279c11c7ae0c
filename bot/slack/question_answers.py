"""Answers a question in plain words with the commands that are nearest to it. It runs none of them: a button does, for
those that change nothing."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from bot.cards.common import help as help_cards
from bot.cards.common.blocks import Message
from bot.cards.common.help import CommandHelp, NearCommand
from bot.command_parser import Registry
from bot.questions.nearest import Described, names_in, nearest
from bot.services.common import authorization
from bot.slack.replies import Call

# What a command may need that a click on a suggestion may run: it shows something and changes nothing.
HARMLESS = frozenset({"read", "estimate"})
# It counts the held-out rows that it shows as read.
NOT_HARMLESS = frozenset({"wrong"})
MOST_DIGITS = 9
_NUMBER = re.compile(rf"(?<!\S)#?(\d{{1,{MOST_DIGITS}}})\b")


def answer(call: Call, question: str, registry: Registry, commands: Sequence[CommandHelp]) -> Message:
    """`commands` are those of the registry, as the help describes them."""
    by_name = {command.name: command for command in commands}
    names = nearest(question, [Described(command.name, command.what) for command in commands])
    visible = authorization.visible_datasets(call.context, call.person, call.channel)
    dataset = meant_dataset(question, sorted(visible))
    runs = _NUMBER.findall(question)
    near = []
    for name in names:
        line = filled_in(by_name[name].short_usage, dataset, runs)
        needs = set(registry.commands[name].needs)
        is_harmless = needs <= HARMLESS and name not in NOT_HARMLESS
        is_complete = not any(word.isupper() for word in line.split())
        near.append(NearCommand(line, by_name[name].what, is_harmless and is_complete))
    return help_cards.nearest_commands(near)


def meant_dataset(question: str, visible: Sequence[str]) -> str | None:
    """Returns the dataset that a question names, or the only one that there is; None if it could be several."""
    named = names_in(question, visible)
    if len(named) == 1:
        return named[0]
    if not named and len(visible) == 1:
        return visible[0]
    return None


def filled_in(usage: str, dataset: str | None, runs: Collection[str]) -> str:
    """Returns a usage like `compare RUN RUN` with what is known of a question; what isn't stays in capitals."""
    left = list(runs)
    words = []
    for word in usage.split():
        if word == "DATASET" and dataset:
            words.append(dataset)
        elif word == "RUN" and left:
            words.append(left.pop(0))
        else:
            words.append(word)
    return " ".join(words)
