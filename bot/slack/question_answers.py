"""Answers a question in plain words. Without a model it offers the commands whose words are nearest; with one, the
command that the model names.

A model's text runs nothing. It has to be a line that the parser of commands reads, and only a command of AT_ONCE then
runs without a click; everything else waits for one, with the rights of the person who clicks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from bot.cards import plain_questions as question_cards
from bot.cards.common import general
from bot.cards.common import help as help_cards
from bot.cards.common.blocks import Message
from bot.cards.common.help import CommandHelp, NearCommand
from bot.command_parser import COMMAND, Registry, parse
from bot.context import AppContext, PlainQuestion, ReadQuestion
from bot.questions.model_answer import Line, Meant, NoneFits, Unusable, line_of, read_answer
from bot.questions.model_prompt import CommandSchema
from bot.questions.nearest import Described, names_in, nearest
from bot.services import plain_questions
from bot.services.common import authorization
from bot.services.plain_questions import PlainWords
from bot.slack.replies import Call, Reply
from bot.values.runs import Refusal

# What a command may need that a click on a suggestion may run: it shows something and changes nothing.
HARMLESS = frozenset({"read", "estimate"})
# It counts the held-out rows that it shows as read.
NOT_HARMLESS = frozenset({"wrong"})
# Named one by one, so that a new command waits for a click until somebody has thought about it.
AT_ONCE = frozenset(
    {
        *("help", "datasets", "prices", "status", "runs", "results", "compare"),
        *("budget", "audit", "models", "rights"),
    }
)
MOST_DIGITS = 9
_NUMBER = re.compile(rf"(?<!\S)#?(\d{{1,{MOST_DIGITS}}})\b")


def answer(call: Call, question: str, registry: Registry, commands: Sequence[CommandHelp]) -> Reply:
    """`commands` are those of the registry, as the help describes them. None means that a model reads the question, and
    that a later tick answers it."""
    why = ""
    if call.context.settings.assistant.model and call.delivery:
        words = PlainWords(
            delivery=call.delivery,
            text=question,
            person=call.person,
            channel=call.channel,
            thread=call.thread,
            is_direct=call.is_direct,
            mentioned=call.mentioned,
        )
        refusal = plain_questions.ask(call.context, words)
        if refusal is None:
            return None
        why = refusal.text
    return by_words(call, question, registry, commands, why)


def by_words(
    call: Call, question: str, registry: Registry, commands: Sequence[CommandHelp], why: str = ""
) -> Message:
    """Offers the commands that are nearest to a question. `why` says why no model chose, in mrkdwn."""
    by_name = {command.name: command for command in commands}
    described = [Described(command.name, command.what) for command in commands]
    names = nearest(question, described)
    visible = authorization.visible_datasets(call.context, call.person, call.channel)
    dataset = meant_dataset(question, sorted(visible))
    runs = _NUMBER.findall(question)
    near = []
    for name in names:
        command = by_name[name]
        line = filled_in(command.short_usage, dataset, runs)
        needs = set(registry.commands[name].needs)
        is_harmless = needs <= HARMLESS and name not in NOT_HARMLESS
        # What is still in capitals has to be typed.
        is_complete = not any(word.isupper() for word in line.split())
        near.append(NearCommand(line, command.what, is_harmless and is_complete))
    return help_cards.nearest_commands(near, why)


def command_schemas(commands: Sequence[CommandHelp]) -> tuple[CommandSchema, ...]:
    """Returns the commands as a model is shown them."""
    schemas = []
    for command in commands:
        usage = command.usage.removeprefix(COMMAND).strip()
        options = {option.key: option.what for option in command.options}
        schemas.append(CommandSchema(command.name, usage, command.what, options))
    return tuple(schemas)


@dataclass(frozen=True)
class PlainCommands:
    """The commands for answers of models. `describe` returns the help's list, and `run` answers a line as if the person
    had typed it."""

    registry: Registry
    describe: Callable[[], Sequence[CommandHelp]]
    run: Callable[[Call, str], Reply]

    def schemas(self) -> tuple[CommandSchema, ...]:
        return command_schemas(self.describe())

    def by_words(self, context: AppContext, question: PlainQuestion, why: str) -> Message:
        call = _call(context, question)
        return by_words(call, question.text, self.registry, self.describe(), why)

    def read(self, context: AppContext, question: PlainQuestion, answer: str) -> ReadQuestion:
        meant = read_answer(answer)
        if isinstance(meant, NoneFits):
            card = question_cards.none_card(question.id, meant.sentence, question.model)
            return ReadQuestion("none", (card,))
        line = self._checked_line(context, question, meant)
        if isinstance(line, Unusable):
            why = question_cards.unusable(question.model, line.why)
            return ReadQuestion("by_words", (self.by_words(context, question, why),))
        what = next(command.what for command in self.describe() if command.name == line.command)
        if line.command in AT_ONCE and line.is_complete:
            first = question_cards.ran_card(question.id, line.text, what, question.model)
            return ReadQuestion("ran", (first, self._shown_by(context, question, line)))
        card = question_cards.offered_card(
            question.id, line.text, what, question.model, is_complete=line.is_complete
        )
        return ReadQuestion("offered", (card,))

    def _checked_line(
        self, context: AppContext, question: PlainQuestion, meant: Meant | Unusable
    ) -> Line | Unusable:
        """Returns the line if it can be typed and names no dataset that the person may not know."""
        if isinstance(meant, Unusable):
            return meant
        line = line_of(meant, self.schemas())
        if isinstance(line, Unusable) or not line.is_complete:
            return line
        parsed = parse(self.registry, line.text)
        if isinstance(parsed, Refusal):
            return Unusable("was a command that can't be read.")
        dataset = parsed.values.get("dataset")
        visible = authorization.visible_datasets(context, question.person, question.channel)
        if dataset and dataset not in visible:
            return Unusable("named a dataset that isn't there.")
        return line

    def _shown_by(self, context: AppContext, question: PlainQuestion, line: Line) -> Message:
        """Runs a command of AT_ONCE, with the rights of the person who asked."""
        reply = self.run(_call(context, question), line.text)
        if isinstance(reply, Message):
            return reply
        if isinstance(reply, str | Refusal):
            return general.answer(reply)
        raise TypeError(f"`{line.command}` answers with more than a message, so it needs a click")


def _call(context: AppContext, question: PlainQuestion) -> Call:
    mentioned = tuple(question.mentioned.split())
    return Call(context, question.person, question.channel, question.thread, mentioned)


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
