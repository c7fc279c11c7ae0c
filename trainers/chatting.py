"""How a chat model wants to be asked: by which parameters, and with how much room to think. Sends nothing.

What is known by name stands here; a model that nobody knows says by its refusals what it does not take.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from trainers.errors import Refused

ROOM_TO_THINK = 1_024  # tokens on top of the longest answer; hidden, and paid like an answer's
CAPS = frozenset({"max_tokens", "max_completion_tokens"})

_THINKS = re.compile(r"gpt-5(?!-chat)|gpt-6|o[134](?![a-z0-9])")
# These think, but not at every effort: the pro models only hard, the chat ones as they like, the two oldest take
# no word about it. All others take "low": https://platform.openai.com/docs/guides/reasoning. "minimal" is left
# aside: of the gpt-5 family only the first release takes it, see https://github.com/anomalyco/opencode/issues/4451
_OWN_EFFORT = re.compile(r"-pro\b|-chat\b|^o1-(mini|preview)")
_REFUSAL_CODES = ("unsupported_parameter", "unsupported_value", "unknown_parameter")
_REFUSAL_WORDS = re.compile(r"unsupported|not support|unknown|unrecogni[sz]ed|not permitted|extra inputs")


@dataclass(frozen=True)
class Parameters:
    """None is not sent. One of the two caps always is."""

    max_tokens: int | None
    max_completion_tokens: int | None
    temperature: float | None
    reasoning_effort: Literal["low"] | None

    @property
    def sent(self) -> tuple[str, ...]:
        return tuple(name for name, value in vars(self).items() if value is not None)


def thinks(model: str) -> bool:
    """By its name, with or without a vendor before it, tuned or not: does it think before it answers?"""
    return _THINKS.match(_base(model)) is not None


def room(is_thinking: bool) -> int:
    return ROOM_TO_THINK if is_thinking else 0


def parameters(
    model: str, is_thinking: bool, most: int, temperature: float, refused: Collection[str] = ()
) -> Parameters:
    """`most` tokens come back at most, hidden ones counted. `refused`: parameters that it has said no to.

    OpenAI's thinking models refuse `max_tokens` and every temperature but their own:
    https://github.com/langgenius/dify/issues/24307, https://github.com/tmc/langchaingo/issues/1355
    """
    is_new = "max_tokens" in refused or (is_thinking and "max_completion_tokens" not in refused)
    keeps_temperature = is_thinking or "temperature" in refused
    has_effort = is_thinking and thinks(model) and not _OWN_EFFORT.search(_base(model))
    return Parameters(
        max_tokens=None if is_new else most,
        max_completion_tokens=most if is_new else None,
        temperature=None if keeps_temperature else temperature,
        reasoning_effort="low" if has_effort and "reasoning_effort" not in refused else None,
    )


def refused_in(asked: Parameters, refused: frozenset[str], refusal: Refused) -> frozenset[str] | None:
    """`refused` and the parameter that this refusal is about; None where leaving it out is no way on.

    Nothing is ever asked without a cap: an answer without an end has no price.
    """
    named = next((name for name in asked.sent if _is_about(name, refusal)), None)
    if named is None or refused | {named} >= CAPS:
        return None
    return refused | {named}


def _is_about(name: str, refusal: Refused) -> bool:
    """The parameter as such, not its value: one that is too large would be so under another name too."""
    if refusal.status not in (400, 422):
        return False
    said = str(refusal).lower()
    if refusal.code not in _REFUSAL_CODES and not _REFUSAL_WORDS.search(said):
        return False
    return refusal.param == name if refusal.param else re.search(rf"\b{name}\b", said) is not None


def _base(model: str) -> str:
    """'ft:o4-mini-2025-04-16:org::a1' → 'o4-mini-2025-04-16', 'openai/gpt-5-mini' → 'gpt-5-mini'."""
    name = model.lower()
    return (name.split(":")[1] if name.startswith("ft:") else name).rsplit("/", 1)[-1]
