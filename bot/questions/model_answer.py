"""Reads what a model answered to a question in plain words, and writes it as a line that a person could type. Strict:
whatever is not a listed command with listed options is refused. Nothing is run here, and the line still has to pass the
parser of commands."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bot.questions.model_prompt import NONE, CommandSchema, offered_options

LONGEST_SENTENCE = 300
LONGEST_LINE = 300
LONGEST_READ = 20_000
KEYS = frozenset({"command", "arguments", "options", "sentence"})
_THOUGHT = re.compile(r"(?s)^\s*<think>.*?</think>")
# These end a word, an option, or the code that shows the line.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f`<>&|]")


@dataclass(frozen=True)
class Meant:
    """A command that a model named, unchecked: the words behind it, and its options."""

    command: str
    arguments: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class NoneFits:
    """The model says that no command fits. `sentence` is its own, '' if it gave none."""

    sentence: str


@dataclass(frozen=True)
class Unusable:
    """An answer that names nothing that can be offered. `why` completes "The model's answer"."""

    why: str


@dataclass(frozen=True)
class Line:
    """What to type after `/finetune`. If it isn't complete, words in capitals stand for what the question leaves
    open."""

    text: str
    command: str
    is_complete: bool


def read_answer(text: str) -> Meant | NoneFits | Unusable:
    """Reads the first JSON object in an answer; models put thoughts, words or a fence around it."""
    answer = _first_object(_THOUGHT.sub("", text)[:LONGEST_READ])
    if answer is None:
        return Unusable("was not JSON.")
    if not answer.keys() <= KEYS:
        return Unusable("had fields that nobody asked for.")
    command = answer.get("command")
    sentence = answer.get("sentence") or ""
    arguments = answer.get("arguments") or []
    options = answer.get("options") or {}
    if not isinstance(command, str) or not isinstance(sentence, str):
        return Unusable("named no command.")
    if command == NONE:
        return NoneFits(" ".join(sentence.split())[:LONGEST_SENTENCE])
    if not _are_texts(arguments) or not isinstance(options, dict) or not _are_texts(list(options.values())):
        return Unusable("had arguments or options that are no words.")
    return Meant(command, tuple(arguments), options)


def line_of(meant: Meant, commands: Sequence[CommandSchema]) -> Line | Unusable:
    """Writes what a model named as a line. It is incomplete if the command needs more words than the model gave."""
    command = next((each for each in commands if each.name == meant.command), None)
    if command is None:
        return Unusable("named a command that doesn't exist.")
    if not set(meant.options) <= set(offered_options(command)):
        return Unusable(f"had an option that `{command.name}` doesn't offer to it.")
    values = [*meant.arguments, *meant.options.values()]
    if any(not value.strip() or _UNSAFE.search(value) for value in values):
        return Unusable("had a value that can't be typed.")
    if any("=" in value for value in meant.arguments):
        return Unusable("had an option in place of an argument.")
    line = _written(command, meant)
    if len(line.text) > LONGEST_LINE:
        return Unusable("was too long.")
    return line


def needed_words(usage: str) -> tuple[str, ...]:
    """Returns what a command needs behind its name, like ('RUN', 'RUN') for `compare RUN RUN [m3]`. Words that aren't
    in capitals are one text, like 'your text'. The usage is what follows `/finetune`."""
    needed: list[str] = []
    for word in usage.split()[1:]:
        if word.startswith("[") or "=" in word:
            break
        if needed and word.islower() and needed[-1].islower():
            needed[-1] += f" {word}"
        else:
            needed.append(word)
    return tuple(needed)


def _written(command: CommandSchema, meant: Meant) -> Line:
    needed = needed_words(command.usage)
    words = [word for word in meant.arguments if word not in needed]
    missing = needed[len(words) :]
    if missing:
        # The options would stand behind words that are still to be replaced.
        return Line(" ".join([command.name, *words, *missing]), command.name, is_complete=False)
    options = [f"{key}={value.strip()}" for key, value in _longest_last(meant.options)]
    return Line(" ".join([command.name, *words, *options]), command.name, is_complete=True)


def _longest_last(options: Mapping[str, str]) -> list[tuple[str, str]]:
    """Puts an option of several words last, where those that take the rest of the line have to be."""
    return sorted(options.items(), key=lambda option: " " in option[1].strip())


def _first_object(text: str) -> dict[str, Any] | None:
    """Returns the first JSON object in a text, with its numbers as they are written; None if there is none."""
    decoder = json.JSONDecoder(parse_float=str, parse_int=str, parse_constant=str)
    start = text.find("{")
    while start >= 0:
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
            continue
        return value if isinstance(value, dict) else None
    return None


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)
