"""Sentences that were written for Slack, in the terminal's words: commands and options as they are typed here."""

from __future__ import annotations

import re
from typing import Any

from bot.decisions.verdict.advice import Verdict

_COMMAND = re.compile(r"`/finetune (?P<name>[a-z]+)(?P<rest>[^`]*)`")
_OPTION = re.compile(
    r"\b(bar|prompt|current|target|volume|hours|task|judge|models|rungs)=(?P<value>(?=\.?\w|[\"']))?"
)
_ITS_OWN_NAME = {"models": "model"}


def in_terminal(sentence: str, file: str) -> str:
    """`file` stands for the dataset that a command names. What only Slack has stays a command of Slack's."""
    typed = _COMMAND.sub(lambda found: _command(found["name"], found["rest"].split(), file), sentence)
    return _OPTION.sub(_option, typed).replace("`", "")


def verdict_json(verdict: Verdict, file: str) -> dict[str, Any]:
    """A reason that does not weigh is said and decides nothing."""
    return {
        "kind": verdict.kind,
        "headline": in_terminal(verdict.headline, file),
        "reasons": [
            {"rule": one.rule, "kind": one.kind, "weighs": one.weighs, "text": in_terminal(one.text, file)}
            for one in verdict.reasons
        ],
        "next_step": in_terminal(verdict.next_step, file),
    }


def _command(name: str, words: list[str], file: str) -> str:
    if name not in ("baseline", "curve"):
        return " ".join(["/finetune", name, *words, "in Slack"])
    return " ".join(["finetune", name, file, *(one for word in words[1:] for one in _separately(word))])


def _separately(word: str) -> list[str]:
    """Several models are several options."""
    key, equals, value = word.partition("=")
    if not equals:
        return [word]
    each = value.split(",") if key == "models" else [value]
    return [part for one in each for part in (f"--{_ITS_OWN_NAME.get(key, key)}", one)]


def _option(found: re.Match[str]) -> str:
    name = f"--{_ITS_OWN_NAME.get(found[1], found[1])}"
    return name if found["value"] is None else f"{name} "
