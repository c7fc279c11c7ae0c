"""Answers that can only be one of some labels, or JSON of a schema: grammars, checked, and which token may come next.

llguidance does the work: MIT, 3 MB, no dependencies, and it refuses a schema's keyword that it can't keep instead of
passing over it. (xgrammar brings triton and pydantic; outlines-core builds its whole table before the first token.)
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from trainers.local.problems import Problem, invalid

if TYPE_CHECKING:
    from llguidance import LLMatcher
    from torch import Tensor

MAX_CHOICES = 2_000
MAX_CHOICE_CHARACTERS = 500
# One space, or a new line with its indentation: compact and pretty-printed JSON both pass, and a small model that has
# begun to write spaces can't go on for ever.
WHITESPACE = r"( |\n {0,12})?"


def grammar_of_choices(choices: object, param: str) -> str:
    """A grammar for one of these texts and nothing else. Raises Problem (400)."""
    if not isinstance(choices, list) or not all(isinstance(one, str) and one for one in choices):
        raise invalid(f"'{param}' must be a list of texts, none of them empty.", param, "invalid_type")
    if not 1 <= len(choices) <= MAX_CHOICES:
        text = f"'{param}' has {len(choices)} choices; it must have 1 to {MAX_CHOICES}."
        raise invalid(text, param)
    longest = max(map(len, choices))
    if longest > MAX_CHOICE_CHARACTERS:
        text = f"'{param}' has a choice of {longest} characters; at most {MAX_CHOICE_CHARACTERS} are allowed."
        raise invalid(text, param)
    distinct = dict.fromkeys(choices)
    return "start: " + " | ".join(json.dumps(one, ensure_ascii=False) for one in distinct)


def grammar_of_schema(schema: Mapping[str, Any]) -> str:
    """A grammar for JSON of this schema. `check` tells whether it can be kept."""
    return f"start: {json_rule(schema)}"


def json_rule(schema: Mapping[str, Any], *, is_strict: bool = True) -> str:
    """JSON of this schema, as a part of a grammar. What can't be kept is passed over where it isn't strict."""
    options = {"whitespace_pattern": WHITESPACE, "lenient": not is_strict}
    return f"%json {json.dumps({**schema, 'x-guidance': options}, ensure_ascii=False)}"


def grammar_of_regex(pattern: str) -> str:
    """A grammar for text that this regular expression matches from its beginning to its end."""
    from llguidance import LLMatcher

    return str(json.loads(LLMatcher.grammar_from_regex(pattern))["grammars"][0]["lark_grammar"])


def check(grammar: str, param: str) -> None:
    """Raises Problem (400) that says what is wrong. Fetches nothing: a `$ref` to another place is refused."""
    from llguidance import LLMatcher

    is_wrong, said = LLMatcher.validate_grammar_with_warnings(grammar)
    if is_wrong:
        raise _not_kept(said[0], param)


class Guide:
    """Where one answer stands in its grammar. `width`: tokens of the model's head; `ends`: those that end a turn."""

    def __init__(self, matcher: LLMatcher, width: int, ends: Sequence[int]) -> None:
        self._matcher = matcher
        self._width = width
        self._ends = list(ends)
        self._complain()

    def copy(self) -> Guide:
        """At the same place, for another answer."""
        return Guide(self._matcher.deep_copy(), self._width, self._ends)

    def allowed(self) -> Tensor:
        """True for each token that may come next: (width,). Raises Problem (400)."""
        import numpy
        import torch

        bits = numpy.frombuffer(self._matcher.compute_bitmask(), dtype=numpy.uint8)
        self._complain()
        allowed = numpy.zeros(self._width, dtype=numpy.bool_)
        found = numpy.unpackbits(bits, bitorder="little")[: self._width]
        allowed[: len(found)] = found
        allowed[self._ends] = self._matcher.is_accepting()
        return torch.from_numpy(allowed)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._complain()

    def rest(self, most: int) -> list[int] | None:
        """The tokens that are still to come, where there is one way to go on and it leads to the end."""
        forced: list[int] = self._matcher.compute_ff_tokens()
        if len(forced) > most or not self._matcher.consume_tokens(forced):
            return None
        if self._matcher.is_accepting() and not self._goes_on():
            return forced
        self._matcher.rollback(len(forced))
        return None

    def _goes_on(self) -> bool:
        allowed = self.allowed()
        allowed[self._ends] = False
        return bool(allowed.any())

    def _complain(self) -> None:
        if self._matcher.is_error():
            raise _not_kept(self._matcher.get_error(), "response_format")


def _not_kept(said: str, param: str) -> Problem:
    """llguidance's own words, on one line: they name the keyword or the place."""
    told = re.split(r"<state>|\n +\d+ \| ", said)[0]  # then comes the grammar itself
    why = re.sub(
        r"^(Error: )?(at \d+\(\d+\): )?(failed to compile JSON schema: )?", "", " ".join(told.split())
    )
    why = why[:300].rstrip(".")
    if why.startswith("NoExtension"):
        why = "no text satisfies it"
    text = f"Answers cannot be held to '{param}': {why}. Change or leave out that part."
    return invalid(text, param, "unsupported_schema")
