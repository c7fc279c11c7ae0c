"""Decides which request parameters a chat model accepts, and how many extra tokens it needs to think. For models that
are not known by name, this is learnt from what they refuse. Sends nothing."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from trainers.errors import Refused
from trainers.models.model_list import LOW_EFFORT_SUFFIX, find_listed_model

THINKING_TOKENS = 1_024  # allowed on top of the longest answer; hidden, but billed like the answer
TOKEN_LIMITS = frozenset({"max_tokens", "max_completion_tokens"})

_THINKS = re.compile(r"gpt-5(?!-chat)|gpt-6|o[134](?![a-z0-9])")
# Our questions don't need paid reasoning, so each model is asked for the lowest effort that it accepts. What each
# accepted in a trial is tabulated at https://community.openai.com/t/1371738. The pro and chat models choose their own
# effort, and the two oldest reasoning models don't know the parameter.
_FIXED_EFFORT = re.compile(r"-pro\b|-chat\b|^o1-(mini|preview)")
_TAKES_NONE = re.compile(r"gpt-5\.\d|gpt-6")  # for models that are not in models.toml; the codex models don't
_TAKES_MINIMAL = re.compile(r"gpt-5(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$")
Effort = Literal["none", "minimal", "low"]
_REFUSAL_CODES = ("unsupported_parameter", "unsupported_value", "unknown_parameter")
_REFUSAL_WORDS = re.compile(r"unsupported|not support|unknown|unrecogni[sz]ed|not permitted|extra inputs")


@dataclass(frozen=True)
class ChatParameters:
    """Parameters of a request. None means not sent; one of the two token limits is always set."""

    max_tokens: int | None
    max_completion_tokens: int | None
    temperature: float | None
    reasoning_effort: Effort | None

    @property
    def sent(self) -> tuple[str, ...]:
        return tuple(name for name, value in vars(self).items() if value is not None)


def thinks(model: str) -> bool:
    """True if this model, asked as we ask it, thinks before it answers. Decided by name, with or without a vendor
    prefix, tuned or not. A model that can be asked not to think counts as not thinking, unless its name ends in
    "@low"."""
    base, is_at_low = split_effort(model)
    return _THINKS.match(_base(base)) is not None and (is_at_low or not _takes_none(base))


def split_effort(model: str) -> tuple[str, bool]:
    """'gpt-6-luna@low' → 'gpt-6-luna', True. For a model that always thinks, the suffix is part of the name."""
    base = model.removesuffix(LOW_EFFORT_SUFFIX)
    if base != model and _takes_none(base):
        return base, True
    return model, False


def thinking_tokens(is_thinking: bool) -> int:
    if is_thinking:
        return THINKING_TOKENS
    return 0


def parameters_for(
    model: str, is_thinking: bool, most: int, temperature: float, refused: Collection[str] = ()
) -> ChatParameters:
    """Returns the parameters for an answer of at most `most` tokens, including hidden ones. `refused` are parameters
    that the model has refused so far. For a model that needn't think, `is_thinking` comes from the setting `reasoning =
    true`.

    OpenAI's reasoning models refuse `max_tokens` and, while they think, every temperature but their default:
    https://github.com/langgenius/dify/issues/24307, https://github.com/tmc/langchaingo/issues/1355
    """
    is_newer = is_thinking or _takes_none(model)
    is_new = "max_tokens" in refused or (is_newer and "max_completion_tokens" not in refused)
    keeps_temperature = is_thinking or "temperature" in refused

    name = _base(model)
    effort: Effort | None = None  # the lowest that the model accepts
    if "reasoning_effort" not in refused and _THINKS.match(name) and not _FIXED_EFFORT.search(name):
        if is_thinking:
            effort = "low"
            if _TAKES_MINIMAL.match(name):
                effort = "minimal"
        elif _takes_none(model):
            effort = "none"
        if effort and f"reasoning_effort={effort}" in refused:
            effort = "low"
    return ChatParameters(
        max_tokens=None if is_new else most,
        max_completion_tokens=most if is_new else None,
        temperature=None if keeps_temperature else temperature,
        reasoning_effort=effort,
    )


def _takes_none(model: str) -> bool:
    name = _base(model)
    listed = find_listed_model(name)
    if _FIXED_EFFORT.search(name) or "codex" in name:
        return False
    if listed:
        return listed.takes_none
    return _TAKES_NONE.match(name) is not None


def refused_parameters(
    parameters: ChatParameters, refused: frozenset[str], refusal: Refused
) -> frozenset[str] | None:
    """Returns `refused` plus the parameter that this refusal is about, or None if leaving it out would not help.

    The refusal must be about the parameter itself: a value that is too large would also be too large under another
    name. At least one token limit is always kept, because an answer of unlimited length has no price.
    """
    text = str(refusal).lower()
    is_about_support = refusal.code in _REFUSAL_CODES or _REFUSAL_WORDS.search(text)
    if refusal.status not in (400, 422) or not is_about_support:
        return None

    def is_named(name: str) -> bool:
        if refusal.param:
            return refusal.param == name
        return re.search(rf"\b{name}\b", text) is not None

    name = next(filter(is_named, parameters.sent), None)
    if name is None or refused | {name} >= TOKEN_LIMITS:
        return None
    is_its_value = refusal.code == "unsupported_value" and name == "reasoning_effort"
    if is_its_value and parameters.reasoning_effort not in (None, "low"):
        # Only this value was refused: a higher effort may be accepted.
        return refused | {f"{name}={parameters.reasoning_effort}"}
    return refused | {name}


def _base(model: str) -> str:
    """'ft:o4-mini-2025-04-16:org::a1' → 'o4-mini-2025-04-16', 'openai/gpt-5-mini' → 'gpt-5-mini'."""
    name = model.lower()
    if name.startswith("ft:"):
        name = name.split(":")[1]
    return name.rsplit("/", 1)[-1]
