"""Which request parameters a chat model takes, and how many extra tokens it needs to think. Models that are not
known by name reveal it by what they refuse. Sends nothing."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal

from trainers.errors import Refused
from trainers.model_list import LOW_EFFORT_SUFFIX, find_listed

THINKING_TOKENS = 1_024  # tokens on top of the longest answer; hidden, and paid like an answer's
CAPS = frozenset({"max_tokens", "max_completion_tokens"})

_THINKS = re.compile(r"gpt-5(?!-chat)|gpt-6|o[134](?![a-z0-9])")
# No question here needs thought that is billed, so each model is asked for the least effort that it takes; a table of
# what each took in a trial: https://community.openai.com/t/1371738. The pro models think hard, the chat ones as they
# like, and the two oldest take no such parameter.
_OWN_EFFORT = re.compile(r"-pro\b|-chat\b|^o1-(mini|preview)")
_TAKES_NONE = re.compile(r"gpt-5\.\d|gpt-6")  # where no list says it; the codex ones don't
_TAKES_MINIMAL = re.compile(r"gpt-5(-mini|-nano)?(-\d{4}-\d\d-\d\d)?$")
Effort = Literal["none", "minimal", "low"]
_REFUSAL_CODES = ("unsupported_parameter", "unsupported_value", "unknown_parameter")
_REFUSAL_WORDS = re.compile(r"unsupported|not support|unknown|unrecogni[sz]ed|not permitted|extra inputs")


@dataclass(frozen=True)
class ChatParameters:
    """Parameters of a request. None is not sent; one of the two caps always is."""

    max_tokens: int | None
    max_completion_tokens: int | None
    temperature: float | None
    reasoning_effort: Effort | None

    @property
    def sent(self) -> tuple[str, ...]:
        return tuple(name for name, value in vars(self).items() if value is not None)


def thinks(model: str) -> bool:
    """Says by a model's name, with or without a vendor before it, tuned or not, whether it thinks before it answers, as
    it is asked here. One that can be asked not to does not, unless its name ends in "@low"."""
    base, is_at_low = split_effort(model)
    return _THINKS.match(_base(base)) is not None and (is_at_low or not _takes_none(base))


def split_effort(model: str) -> tuple[str, bool]:
    """'gpt-6-luna@low' → 'gpt-6-luna', True. A model that can't be asked not to think has no such name."""
    base = model.removesuffix(LOW_EFFORT_SUFFIX)
    return (base, True) if base != model and _takes_none(base) else (model, False)


def thinking_tokens(is_thinking: bool) -> int:
    return THINKING_TOKENS if is_thinking else 0


def parameters_for(
    model: str, is_thinking: bool, most: int, temperature: float, refused: Collection[str] = ()
) -> ChatParameters:
    """Returns the parameters for an answer of at most `most` tokens, hidden ones counted. `refused`: those that the
    model has refused. `is_thinking` of one that need not is a person's word (`reasoning = true`).

    OpenAI's thinking models refuse `max_tokens` and, while they think, every temperature but their own:
    https://github.com/langgenius/dify/issues/24307, https://github.com/tmc/langchaingo/issues/1355
    """
    is_newer = is_thinking or _takes_none(model)
    is_new = "max_tokens" in refused or (is_newer and "max_completion_tokens" not in refused)
    keeps_temperature = is_thinking or "temperature" in refused

    name = _base(model)
    effort: Effort | None = None  # the least that the model takes
    if "reasoning_effort" not in refused and _THINKS.match(name) and not _OWN_EFFORT.search(name):
        if is_thinking:
            effort = "minimal" if _TAKES_MINIMAL.match(name) else "low"
        elif _takes_none(model):
            effort = "none"
        if effort and _value("reasoning_effort", effort) in refused:
            effort = "low"
    return ChatParameters(
        max_tokens=None if is_new else most,
        max_completion_tokens=most if is_new else None,
        temperature=None if keeps_temperature else temperature,
        reasoning_effort=effort,
    )


def _takes_none(model: str) -> bool:
    name = _base(model)
    listed = find_listed(name)
    takes = listed.takes_none if listed else bool(_TAKES_NONE.match(name))
    return takes and not _OWN_EFFORT.search(name) and "codex" not in name


def _value(name: str, value: str) -> str:
    """Names a refused value: another one of the same parameter may be taken."""
    return f"{name}={value}"


def refused_parameters(
    parameters: ChatParameters, refused: frozenset[str], refusal: Refused
) -> frozenset[str] | None:
    """Returns `refused` with the parameter that this refusal is about; None where leaving it out doesn't help.

    A refusal must be about the parameter as such: a value that is too large would be so under another name too. Nothing
    is ever asked without a cap: an answer without an end has no price.
    """
    text = str(refusal).lower()
    is_about_support = refusal.code in _REFUSAL_CODES or _REFUSAL_WORDS.search(text)
    if refusal.status not in (400, 422) or not is_about_support:
        return None

    def is_named(name: str) -> bool:
        return refusal.param == name if refusal.param else re.search(rf"\b{name}\b", text) is not None

    name = next(filter(is_named, parameters.sent), None)
    if name is None or refused | {name} >= CAPS:
        return None
    is_its_value = refusal.code == "unsupported_value" and name == "reasoning_effort"
    if is_its_value and parameters.reasoning_effort not in (None, "low"):
        return refused | {_value(name, parameters.reasoning_effort)}
    return refused | {name}


def _base(model: str) -> str:
    """'ft:o4-mini-2025-04-16:org::a1' → 'o4-mini-2025-04-16', 'openai/gpt-5-mini' → 'gpt-5-mini'."""
    name = model.lower()
    return (name.split(":")[1] if name.startswith("ft:") else name).rsplit("/", 1)[-1]
