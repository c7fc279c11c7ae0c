"""Which request parameters a chat model takes, and how many extra tokens it needs to think. Sends nothing.
Models not known by name reveal it by what they refuse."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from trainers.errors import Refused

THINKING_TOKENS = 1_024  # tokens on top of the longest answer; hidden, and paid like an answer's
CAPS = frozenset({"max_tokens", "max_completion_tokens"})

_THINKS = re.compile(r"gpt-5(?!-chat)|gpt-6|o[134](?![a-z0-9])")
# No question here needs thought that is billed, so each model is asked for the least that it takes; a table of what
# each took in a trial: https://community.openai.com/t/1371738. The pro models think hard, the chat ones as they like,
# and the two oldest take no word about it.
_OWN_EFFORT = re.compile(r"-pro\b|-chat\b|^o1-(mini|preview)")
_TAKES_NONE = re.compile(r"gpt-5\.\d|gpt-6")  # the codex ones don't
_TAKES_MINIMAL = re.compile(r"gpt-5(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$")
Effort = Literal["none", "minimal", "low"]
_REFUSAL_CODES = ("unsupported_parameter", "unsupported_value", "unknown_parameter")
_REFUSAL_WORDS = re.compile(r"unsupported|not support|unknown|unrecogni[sz]ed|not permitted|extra inputs")


@dataclass(frozen=True)
class ChatParameters:
    """None is not sent. One of the two caps always is."""

    max_tokens: int | None
    max_completion_tokens: int | None
    temperature: float | None
    reasoning_effort: Effort | None

    @property
    def sent(self) -> tuple[str, ...]:
        return tuple(name for name, value in vars(self).items() if value is not None)


def thinks(model: str) -> bool:
    """By its name, with or without a vendor before it, tuned or not: does it think before it answers, as it is asked
    here? One that can be asked not to does not."""
    return _THINKS.match(_base(model)) is not None and not _takes_none(model)


def thinking_tokens(is_thinking: bool) -> int:
    return THINKING_TOKENS if is_thinking else 0


def parameters_for(
    model: str, is_thinking: bool, most: int, temperature: float, refused: Collection[str] = ()
) -> ChatParameters:
    """`most` tokens come back at most, hidden ones counted. `refused`: parameters that it has said no to.

    OpenAI's thinking models refuse `max_tokens` and, while they think, every temperature but their own:
    https://github.com/langgenius/dify/issues/24307, https://github.com/tmc/langchaingo/issues/1355
    """
    is_newer = is_thinking or _takes_none(model)
    is_new = "max_tokens" in refused or (is_newer and "max_completion_tokens" not in refused)
    keeps_temperature = is_thinking or "temperature" in refused
    return ChatParameters(
        max_tokens=None if is_new else most,
        max_completion_tokens=most if is_new else None,
        temperature=None if keeps_temperature else temperature,
        reasoning_effort=_effort(model, is_thinking, refused),
    )


def _effort(model: str, is_thinking: bool, refused: Collection[str]) -> Effort | None:
    """The least that the model takes. `is_thinking` of one that need not is a person's word (`reasoning = true`)."""
    name = _base(model)
    if "reasoning_effort" in refused or not _THINKS.match(name) or _OWN_EFFORT.search(name):
        return None
    if not is_thinking:
        least: Effort | None = "none" if _takes_none(model) else None
    else:
        least = "minimal" if _TAKES_MINIMAL.match(name) else "low"
    return "low" if least and _value("reasoning_effort", least) in refused else least


def _takes_none(model: str) -> bool:
    name = _base(model)
    return bool(_TAKES_NONE.match(name)) and not _OWN_EFFORT.search(name) and "codex" not in name


def _value(name: str, value: str) -> str:
    """What is kept of a refusal that was about the value: another one may be taken."""
    return f"{name}={value}"


def refused_parameters(
    parameters: ChatParameters, refused: frozenset[str], refusal: Refused
) -> frozenset[str] | None:
    """`refused` and the parameter that this refusal is about; None where leaving it out is no way on.

    Nothing is ever asked without a cap: an answer without an end has no price.
    """
    named = next((name for name in parameters.sent if _is_about(name, refusal)), None)
    if named is None or refused | {named} >= CAPS:
        return None
    is_its_value = refusal.code == "unsupported_value" and named == "reasoning_effort"
    if is_its_value and parameters.reasoning_effort not in (None, "low"):
        return refused | {_value(named, parameters.reasoning_effort)}
    return refused | {named}


def _is_about(name: str, refusal: Refused) -> bool:
    """The parameter as such, not its value: one that is too large would be so under another name too."""
    if refusal.status not in (400, 422):
        return False
    text = str(refusal).lower()
    if refusal.code not in _REFUSAL_CODES and not _REFUSAL_WORDS.search(text):
        return False
    return refusal.param == name if refusal.param else re.search(rf"\b{name}\b", text) is not None


def _base(model: str) -> str:
    """'ft:o4-mini-2025-04-16:org::a1' → 'o4-mini-2025-04-16', 'openai/gpt-5-mini' → 'gpt-5-mini'."""
    name = model.lower()
    return (name.split(":")[1] if name.startswith("ft:") else name).rsplit("/", 1)[-1]
