"""How a model writes tool calls: its chat template shows it. Holds an answer to that form where a call is wanted.

A call of each tool is rendered behind the prompt; what stands before and after its arguments is the family's syntax.
Where the arguments aren't JSON there, a call is held to {"name": …, "arguments": …}, which is read from every family.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError

from trainers.local.serving import constraints
from trainers.local.serving.values import Tools

_ARGUMENT = "an_argument"
_ARGUMENTS = re.compile(rf'\{{\s*"{_ARGUMENT}"\s*:\s*7\s*\}}')
_PROBE = "a_tool"
_STARTS_OF_BARE_CALLS = ("{", "[", "```")

Render = Callable[[Sequence[dict[str, Any]]], str]  # of messages, without the generation prompt


@dataclass(frozen=True)
class CallSyntax:
    """What stands before a tool's name, and `around` a call's arguments with _PROBE for the name. None: not known."""

    start: str | None
    arguments: tuple[str, str] | None

    def around(self, name: str) -> tuple[str, str]:
        if self.arguments is None:
            return f'{{"name": {json.dumps(name)}, "arguments": ', "}"
        before, after = self.arguments
        return before.replace(_PROBE, name), after.replace(_PROBE, name)

    @property
    def mark(self) -> str:
        """What a call begins with; "" where that is no text of its own, as before bare JSON."""
        return (self.start or "").split("{")[0].strip()

    def held_back(self, text: str) -> int:
        """How many characters of an answer are certainly no call, so that they can be sent before the end is known."""
        begun = text.lstrip()
        if self.start is None or not begun or begun.startswith(_STARTS_OF_BARE_CALLS):
            return 0
        if not self.mark:
            return len(text)
        place = text.find(self.mark)
        if place >= 0:
            return place
        overlaps = (size for size in range(len(self.mark) - 1, 0, -1) if text.endswith(self.mark[:size]))
        return len(text) - next(overlaps, 0)


def syntax_of(
    messages: Sequence[dict[str, Any]], prompt: str, render: Render, ends: Sequence[str]
) -> CallSyntax:
    """`prompt`: the messages up to where the answer begins. `ends`: tokens that end a turn."""
    function = {"name": _PROBE, "arguments": {_ARGUMENT: 7}}
    call = {
        "id": "aaaaaaaaa",
        "type": "function",
        "function": function,
    }  # Mistral's templates want 9 characters
    try:
        whole = render([*messages, {"role": "assistant", "content": "", "tool_calls": [call]}])
    except (TemplateError, TypeError):
        return CallSyntax(None, None)
    answer = whole.removeprefix(prompt)
    if answer == whole or _PROBE not in answer:
        return CallSyntax(None, None)
    start = answer[: answer.index(_PROBE)]
    found = _ARGUMENTS.search(answer)
    if found is None or found.start() < len(start):
        return CallSyntax(start, None)
    places = [place for end in ends if (place := answer.find(end, found.end())) >= 0]
    after = answer[found.end() : min(places, default=len(answer))]
    return CallSyntax(start, (answer[: found.start()], after.rstrip()))


def grammar_of_calls(
    tools: Tools, syntax: CallSyntax, specials: Mapping[str, int], otherwise: str | None
) -> str | None:
    """A call of one of the required tools; where none is required, `otherwise` or a call of any. None: anything."""
    if not tools.required and otherwise is None:
        return None
    functions = [each["function"] for each in tools.definitions]
    wanted = [each for each in functions if not tools.required or each["name"] in tools.required]
    starts = [f"call{number}" for number in range(len(wanted))]
    rules = [_rule(number, each, syntax, specials) for number, each in enumerate(wanted)]
    if not tools.required:
        assert otherwise is not None  # noqa: S101  asked above
        starts.append("otherwise")
        rules.append(re.sub(r"^start:", "otherwise:", otherwise))
    return "\n".join([f"start: {' | '.join(starts)}", *rules])


def _rule(number: int, function: Mapping[str, Any], syntax: CallSyntax, specials: Mapping[str, int]) -> str:
    before, after = syntax.around(function["name"])
    parts = [*_literals(before, specials), f"arguments{number}", *_literals(after, specials)]
    schema = parameters_of(function)
    if schema.get("properties"):  # whoever names some wants these, though JSON Schema would allow any
        schema = {"additionalProperties": False, **schema}
    arguments = constraints.json_rule(schema, is_strict=function.get("strict") is True)
    return f"call{number}: {' '.join(parts)}\narguments{number}: {arguments}"


def parameters_of(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """A tool without parameters is called with an empty object."""
    return function.get("parameters") or {"type": "object", "properties": {}, "additionalProperties": False}


def _literals(text: str, specials: Mapping[str, int]) -> list[str]:
    """Text as it is, special tokens by their ids: their text alone would be written letter by letter."""
    pattern = "|".join(re.escape(special) for special in sorted(specials, key=len, reverse=True))
    parts = re.split(f"({pattern})", text) if pattern else [text]
    return [
        f"<[{specials[part]}]>" if part in specials else json.dumps(part, ensure_ascii=False)
        for part in parts
        if part
    ]
