"""Constrained answers: grammars for one of several labels, for JSON of a schema, or for tool calls in the model's own
syntax, and the tokens that may come next. Imports no torch until a guide is used.

llguidance does the work (MIT, 3 MB, no dependencies). It refuses a schema keyword that it can't enforce instead of
ignoring it. xgrammar needs triton and pydantic, and outlines-core builds its whole table before the first token.

A model's chat template shows how it writes tool calls: a call is rendered after the prompt, and the texts before and
after its arguments are the family's syntax. If the template doesn't write the arguments as JSON, the grammar is
{"name": …, "arguments": …}, which is parsed for every family."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trainers.http.errors import ApiError, invalid
from trainers.local.serving.values import Tools

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from torch import Tensor

MAX_CHOICES = 2_000
MAX_CHOICE_CHARACTERS = 500
# One space, or a new line with its indentation: this allows compact and pretty-printed JSON, but keeps a small model
# that has begun to write spaces from writing them for ever.
WHITESPACE = r"( |\n {0,12})?"


def grammar_of_choices(choices: object, param: str) -> str:
    """Returns a grammar for exactly one of these texts. Raises ApiError (400)."""
    if not isinstance(choices, list) or not all(map(_is_filled_text, choices)):
        raise invalid(f"'{param}' must be a list of texts, none of them empty.", param, "invalid_type")
    if not 1 <= len(choices) <= MAX_CHOICES:
        text = f"'{param}' has {len(choices)} choices; it must have 1 to {MAX_CHOICES}."
        raise invalid(text, param)
    longest = max(map(len, choices))
    if longest > MAX_CHOICE_CHARACTERS:
        text = f"'{param}' has a choice of {longest} characters; at most {MAX_CHOICE_CHARACTERS} are allowed."
        raise invalid(text, param)
    distinct = dict.fromkeys(choices)
    quoted = [json.dumps(choice, ensure_ascii=False) for choice in distinct]
    return "start: " + " | ".join(quoted)


def _is_filled_text(choice: object) -> bool:
    return isinstance(choice, str) and choice != ""


def json_rule(schema: Mapping[str, Any], *, is_strict: bool = True) -> str:
    """Returns the part of a grammar for JSON of this schema. Keywords that can't be enforced are ignored unless
    `is_strict`."""
    options = {"whitespace_pattern": WHITESPACE, "lenient": not is_strict}
    extended = {**schema, "x-guidance": options}
    return f"%json {json.dumps(extended, ensure_ascii=False)}"


def grammar_of_regex(pattern: str) -> str:
    """Returns a grammar for texts that this regular expression matches as a whole."""
    from llguidance import LLMatcher

    wrapped = json.loads(LLMatcher.grammar_from_regex(pattern))
    [grammar] = wrapped["grammars"]
    return str(grammar["lark_grammar"])


def check_grammar(grammar: str, param: str) -> str:
    """Returns the grammar if it is valid. Raises ApiError (400), which says what is wrong with it. A `$ref` to another
    document is refused, not fetched."""
    from llguidance import LLMatcher

    try:
        is_wrong, reply = LLMatcher.validate_grammar_with_warnings(grammar)
    except BaseException as panic:
        # llguidance 1.9 panics while it words some errors. A panic is no Exception, and its class can't be imported.
        if type(panic).__name__ != "PanicException":
            raise
        raise _unsupported("it is not a schema that can be read", param) from panic
    if is_wrong:
        raise _unsupported(reply[0], param)
    return grammar


class Guide:
    """One answer's position in its grammar. `width` is the size of the model's head in tokens, `ends` are the tokens
    that end a turn."""

    def __init__(self, matcher: LLMatcher, width: int, ends: Sequence[int]) -> None:
        self._matcher = matcher
        self._width = width
        self._ends = list(ends)
        self._raise_error()

    def copy(self) -> Guide:
        """Returns a guide for another answer, at the same position."""
        return Guide(self._matcher.deep_copy(), self._width, self._ends)

    def allowed_tokens(self) -> Tensor:
        """Returns a mask, (width,), that is True for each token that may come next. Raises ApiError (400)."""
        import numpy
        import torch

        bits = numpy.frombuffer(self._matcher.compute_bitmask(), dtype=numpy.uint8)
        self._raise_error()
        # The head may be wider than the tokenizer's vocabulary; its other tokens stay forbidden.
        allowed = numpy.zeros(self._width, dtype=numpy.bool_)
        of_vocabulary = numpy.unpackbits(bits, bitorder="little")[: self._width]
        allowed[: len(of_vocabulary)] = of_vocabulary
        # A turn may end exactly where the grammar does.
        allowed[self._ends] = self._matcher.is_accepting()
        return torch.from_numpy(allowed)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._raise_error()

    def forced_end(self, most: int) -> list[int] | None:
        """Returns the tokens up to the answer's end if the grammar leaves no choice about them and they are at most
        `most`, else None."""
        forced: list[int] = self._matcher.compute_ff_tokens()
        if len(forced) > most or not self._matcher.consume_tokens(forced):
            return None
        if self._matcher.is_accepting():
            allowed = self.allowed_tokens()
            allowed[self._ends] = False
            if not allowed.any():
                return forced
        self._matcher.rollback(len(forced))
        return None

    def _raise_error(self) -> None:
        if self._matcher.is_error():
            raise _unsupported(self._matcher.get_error(), "response_format")


def _unsupported(sentence: str, param: str) -> ApiError:
    """Returns an error with llguidance's own sentence, which names the keyword or the place, on one line."""
    message, *_ = re.split(r"<state>|\n +\d+ \| ", sentence)  # the grammar follows
    line = " ".join(message.split())
    why = re.sub(r"^(Error: )?(at \d+\(\d+\): )?(failed to compile JSON schema: )?", "", line)
    why = why[:300].rstrip(".")
    if why.startswith("NoExtension"):
        why = "no text satisfies it"
    text = f"Answers cannot be restricted to '{param}': {why}. Change or leave out that part."
    return invalid(text, param, "unsupported_schema")


_ARGUMENT = "an_argument"
_ARGUMENTS = re.compile(rf'\{{\s*"{_ARGUMENT}"\s*:\s*7\s*\}}')
_PROBE = "a_tool"
_STARTS_OF_BARE_CALLS = ("{", "[", "```")

Render = Callable[[Sequence[dict[str, Any]]], str]  # of messages, without the generation prompt


@dataclass(frozen=True)
class CallSyntax:
    """How a model writes a call: the text before a tool's name (`start`), and the texts before and after its
    `arguments`, in which _PROBE stands for the name. Each is None if unknown."""

    start: str | None
    arguments: tuple[str, str] | None

    def texts_around(self, name: str) -> tuple[str, str]:
        """Returns the texts before and after the arguments of a call of this tool."""
        if self.arguments is None:
            before = f'{{"name": {json.dumps(name)}, "arguments": '
            return before, "}"
        before, after = self.arguments
        return before.replace(_PROBE, name), after.replace(_PROBE, name)

    @property
    def mark(self) -> str:
        """The text that a call begins with; "" if there is none, as for bare JSON."""
        mark, _, _ = (self.start or "").partition("{")
        return mark.strip()

    def end_of_text(self, text: str) -> int:
        """Returns how many characters at the start of an unfinished answer can't be part of a call and may be sent."""
        stripped = text.lstrip()
        if self.start is None or not stripped:
            return 0
        if stripped.startswith(_STARTS_OF_BARE_CALLS):
            return 0
        mark = self.mark
        if not mark:
            return len(text)
        begin = text.find(mark)
        if begin >= 0:
            return begin
        # The end of the text may be the beginning of the mark.
        for size in range(len(mark) - 1, 0, -1):
            if text.endswith(mark[:size]):
                return len(text) - size
        return len(text)


def infer_call_syntax(
    messages: Sequence[dict[str, Any]],
    prompt: str,
    render: Render,
    ends: Sequence[str],
) -> CallSyntax:
    """Returns how a model writes calls, as seen in a rendered one. `prompt` is the rendered text of the messages up to
    where the answer begins. `ends` are the texts of tokens that end a turn."""
    from jinja2 import TemplateError

    # Mistral's templates require an id of 9 characters.
    call = {
        "id": "aaaaaaaaa",
        "type": "function",
        "function": {"name": _PROBE, "arguments": {_ARGUMENT: 7}},
    }
    answered = {"role": "assistant", "content": "", "tool_calls": [call]}
    try:
        text = render([*messages, answered])
    except (TemplateError, TypeError):
        return CallSyntax(None, None)
    answer = text.removeprefix(prompt)
    if answer == text or _PROBE not in answer:
        return CallSyntax(None, None)
    start = answer[: answer.index(_PROBE)]
    match = _ARGUMENTS.search(answer)
    if match is None or match.start() < len(start):
        return CallSyntax(start, None)
    turn_end = len(answer)
    for end in ends:
        begin = answer.find(end, match.end())
        if begin >= 0:
            turn_end = min(turn_end, begin)
    before = answer[: match.start()]
    after = answer[match.end() : turn_end].rstrip()
    return CallSyntax(start, (before, after))


def grammar_of_calls(
    tools: Tools,
    syntax: CallSyntax,
    specials: Mapping[str, int],
    otherwise: str | None,
) -> str | None:
    """Returns a grammar for a call of one of the required tools. If no tool is required, the grammar is for a call of
    any tool or for `otherwise`, the request's own grammar; without that, returns None. `specials` are the special
    tokens' ids by their texts."""
    if not tools.required and otherwise is None:
        return None
    allowed = [definition["function"] for definition in tools.definitions]
    if tools.required:
        allowed = [function for function in allowed if function["name"] in tools.required]
    starts = []
    rules = []
    for number, function in enumerate(allowed):
        call = f"call{number}"
        arguments = f"arguments{number}"
        before, after = syntax.texts_around(function["name"])
        parts = [*_literals(before, specials), arguments, *_literals(after, specials)]
        schema = parameters_schema(function)
        if schema.get("properties"):
            # JSON Schema would allow others too, but a tool that names properties expects only those.
            schema = {"additionalProperties": False, **schema}
        is_strict = function.get("strict") is True
        starts.append(call)
        rules.append(f"{call}: {' '.join(parts)}")
        rules.append(f"{arguments}: {json_rule(schema, is_strict=is_strict)}")
    if not tools.required and otherwise is not None:
        starts.append("otherwise")
        rules.append(re.sub(r"^start:", "otherwise:", otherwise))
    start = f"start: {' | '.join(starts)}"
    return "\n".join([start, *rules])


def parameters_schema(function: Mapping[str, Any]) -> Mapping[str, Any]:
    """Returns the JSON schema of a tool's arguments: an empty object if it has none."""
    no_arguments = {"type": "object", "properties": {}, "additionalProperties": False}
    return function.get("parameters") or no_arguments


def _literals(text: str, specials: Mapping[str, int]) -> list[str]:
    """Returns a text as terms of a grammar. Special tokens are given by their ids, since the model would have to write
    their texts letter by letter."""
    parts = [text]
    if specials:
        # The longest first, since one may be the beginning of another.
        by_size = sorted(specials, key=len, reverse=True)
        pattern = "|".join(map(re.escape, by_size))
        parts = re.split(f"({pattern})", text)
    terms = []
    for part in parts:
        if part in specials:
            terms.append(f"<[{specials[part]}]>")
        elif part:
            terms.append(json.dumps(part, ensure_ascii=False))
    return terms
