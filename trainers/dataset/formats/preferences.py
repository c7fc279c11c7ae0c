"""Preference pairs: one question with a better and a worse answer. Checked here, trained by the API's method dpo.

Two ways of writing them: OpenAI's {"input": {"messages": […]}, "preferred_output": […],
"non_preferred_output": […]}, and {"prompt", "chosen", "rejected"} with texts or lists of messages, as TRL has it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainers.dataset.findings import Fault, Rule
from trainers.dataset.values import is_blank

_FORM = (
    'Write {"input": {"messages": […]}, "preferred_output": [{"role": "assistant", "content": "…"}], '
    '"non_preferred_output": […]}.'
)
PREFERENCES = Rule(
    "preference_pairs",
    "blocks",
    "Train them through the API (docs/preferences.md), or send the preferred answers: as chat rows, or as labels.",
)
BAD_PAIR = Rule("bad_preference_pair", "blocks", _FORM)
SAME_ANSWERS = Rule(
    "preference_without_difference", "blocks", "Give two different answers, or delete the line."
)

_OPENAI = ("input", "preferred_output", "non_preferred_output")
_PLAIN = ("prompt", "chosen", "rejected")
ANSWERS = frozenset(_PLAIN[1:])


@dataclass(frozen=True, slots=True)
class Pair:
    """Messages as they came, not looked into: what was asked, and both answers."""

    asked: list[Any]
    preferred: list[Any]
    other: list[Any]


def is_pair(row: dict[str, Any]) -> bool:
    return (
        "preferred_output" in row or "non_preferred_output" in row or ("chosen" in row and "rejected" in row)
    )


def pair_of(row: dict[str, Any]) -> Pair | Fault:
    """For a row that is_pair."""
    names = _PLAIN if "chosen" in row else _OPENAI
    parts: list[list[Any]] = []
    for name, role in zip(names, ("user", "assistant", "assistant"), strict=True):
        messages = _messages(row.get(name), role)
        if messages is None:
            return Fault(
                BAD_PAIR, f"has no {name}, or one that is neither text nor a filled list of messages"
            )
        parts.append(messages)
    asked, preferred, other = parts
    if names == _PLAIN:
        asked, preferred, other = _without_prompt(asked, preferred, other)
    return _checked(Pair(asked, preferred, other))


def _messages(value: Any, role: str) -> list[Any] | None:
    if type(value) is dict:
        value = value.get("messages")
    if type(value) is str and not is_blank(value):
        return [{"role": role, "content": value}]
    return value if type(value) is list and value else None


def _without_prompt(
    asked: list[Any], preferred: list[Any], other: list[Any]
) -> tuple[list[Any], list[Any], list[Any]]:
    """Some files repeat the prompt's messages in front of each answer."""
    long = len(asked)
    if preferred[:long] == asked and other[:long] == asked and min(len(preferred), len(other)) > long:
        return asked, preferred[long:], other[long:]
    return asked, preferred, other


def _checked(pair: Pair) -> Pair | Fault:
    for which, answer in (("preferred", pair.preferred), ("other", pair.other)):
        last = answer[-1]
        if type(last) is not dict or last.get("role") != "assistant":
            return Fault(BAD_PAIR, f"has a {which} answer that is not the assistant's")
        if not _says(last):
            return Fault(BAD_PAIR, f"has an empty {which} answer")
    if pair.preferred == pair.other:
        return Fault(SAME_ANSWERS, "has the same answer twice")
    return pair


def _says(message: dict[str, Any]) -> bool:
    content = message.get("content")
    says = not is_blank(content) if type(content) is str else bool(content)
    return says or bool(message.get("tool_calls"))
