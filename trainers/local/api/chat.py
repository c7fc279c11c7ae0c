"""Parses a request for a chat completion. Pure, but for the grammar's check, which takes a second at worst.

A parameter that would change the answer and isn't supported is refused; one that is given at its neutral
value, or that only labels the request, is accepted. `guided_choice: [text, …]` is an extension: the answer is one of
these texts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainers.local.problems import invalid
from trainers.local.serving import constraints
from trainers.local.serving.values import ChatMessage, Sampling

ROLES = ("system", "developer", "user", "assistant", "tool")
LABELS = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "parallel_tool_calls": (True, False),
    "modalities": (["text"],),
}
OWN = frozenset(
    {
        *("model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens"),
        *("stop", "seed", "stream", "stream_options", "n", "logprobs", "top_logprobs"),
        *("response_format", "guided_choice"),
    }
)
MAX_N, MAX_TOP_LOGPROBS = 128, 20
SCHEMA_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class ChatOrder:
    model: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    streams: bool
    includes_usage: bool


def parse_chat(body: Mapping[str, Any]) -> ChatOrder:
    """Raises Problem (400) that names the field."""
    for name, value in body.items():
        _check_known(name, value)
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("Missing required parameter 'model'.", "model", "missing_required_parameter")
    options = body.get("stream_options") or {}
    if not isinstance(options, dict):
        raise invalid("'stream_options' must be an object.", "stream_options", "invalid_type")
    return ChatOrder(
        model=model,
        messages=_messages(body.get("messages")),
        sampling=_sampling(body),
        streams=_flag(body, "stream"),
        includes_usage=_flag(options, "include_usage"),
    )


def _check_known(name: str, value: object) -> None:
    if name in OWN or name in LABELS or value is None:
        return
    if name not in NEUTRAL:
        raise invalid(f"This trainer does not know the parameter '{name}'.", name, "unknown_parameter")
    if value not in NEUTRAL[name]:
        text = f"This trainer does not support '{name}' at {value!r}. Leave it out."
        raise invalid(text, name, "unsupported_value")


def _messages(messages: object) -> tuple[ChatMessage, ...]:
    if not isinstance(messages, list) or not messages:
        raise invalid("'messages' must be a list with at least one message.", "messages")
    return tuple(_message(message, f"messages[{number}]") for number, message in enumerate(messages))


def _message(message: object, path: str) -> ChatMessage:
    if not isinstance(message, dict):
        raise invalid(f"'{path}' must be an object.", path, "invalid_type")
    role = message.get("role")
    if role not in ROLES:
        raise invalid(f"'{path}.role' is {role!r}; allowed are {', '.join(ROLES)}.", f"{path}.role")
    return ChatMessage(str(role), _content(message.get("content"), f"{path}.content"))


def _content(content: object, path: str) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list) and all(_is_text_part(part) for part in content):
        return "".join(part["text"] for part in content)
    raise invalid(f"'{path}' must be text, or a list of parts of type 'text'.", path, "invalid_type")


def _is_text_part(part: object) -> bool:
    return isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _flag(body: Mapping[str, Any], name: str) -> bool:
    value = body.get(name)
    if value is not None and not isinstance(value, bool):
        raise invalid(f"'{name}' must be true or false.", name, "invalid_type")
    return bool(value)


def _sampling(body: Mapping[str, Any]) -> Sampling:
    most = _number(body, "max_completion_tokens", 1, 1_000_000, whole=True)
    older = _number(body, "max_tokens", 1, 1_000_000, whole=True)
    temperature = _number(body, "temperature", 0, 2)
    top_p = _number(body, "top_p", 0, 1)
    seed = _number(body, "seed", -(2**63), 2**63 - 1, whole=True)
    limit = most if most is not None else older
    return Sampling(
        temperature=1.0 if temperature is None else float(temperature),
        top_p=1.0 if top_p is None else float(top_p),
        max_tokens=None if limit is None else int(limit),
        stop=_stop(body.get("stop")),
        seed=None if seed is None else int(seed),
        n=int(_number(body, "n", 1, MAX_N, whole=True) or 1),
        top_logprobs=_top_logprobs(body),
        grammar=_grammar(body),
    )


def _top_logprobs(body: Mapping[str, Any]) -> int | None:
    others = _number(body, "top_logprobs", 0, MAX_TOP_LOGPROBS, whole=True)
    if not _flag(body, "logprobs"):
        if others:
            raise invalid("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs")
        return None
    return int(others or 0)


def _grammar(body: Mapping[str, Any]) -> str | None:
    form, choices = body.get("response_format"), body.get("guided_choice")
    by_form = None if form is None else _grammar_of_form(form)
    if choices is None:
        return by_form
    if by_form is not None:
        raise invalid("Give 'guided_choice' or 'response_format', not both.", "guided_choice")
    return _checked(constraints.grammar_of_choices(choices, "guided_choice"), "guided_choice")


def _grammar_of_form(form: object) -> str | None:
    if not isinstance(form, dict):
        raise invalid("'response_format' must be an object.", "response_format", "invalid_type")
    match form.get("type"):
        case "text":
            return None
        case "json_object":
            return constraints.grammar_of_schema({"type": "object"})
        case "json_schema":
            return _grammar_of_schema(form.get("json_schema"))
    text = f"'response_format.type' is {form.get('type')!r}; allowed are text, json_object, json_schema."
    raise invalid(text, "response_format.type")


def _grammar_of_schema(wrapped: object) -> str:
    param = "response_format.json_schema"
    if not isinstance(wrapped, dict):
        raise invalid(f"'{param}' must be an object with 'name' and 'schema'.", param, "invalid_type")
    name, schema = wrapped.get("name"), wrapped.get("schema")
    if not isinstance(name, str) or not SCHEMA_NAME.fullmatch(name):
        text = f"'{param}.name' must be 1 to 64 letters, digits, _ or -."
        raise invalid(text, f"{param}.name")
    if not isinstance(schema, dict):
        raise invalid(f"'{param}.schema' must be an object.", f"{param}.schema", "invalid_type")
    return _checked(constraints.grammar_of_schema(schema), f"{param}.schema")


def _checked(grammar: str, param: str) -> str:
    constraints.check(grammar, param)
    return grammar


def _number(
    body: Mapping[str, Any], name: str, low: int, high: int, *, whole: bool = False
) -> int | float | None:
    value = body.get(name)
    if value is None:
        return None
    fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    if not fits or not low <= value <= high:
        kind = "whole number" if whole else "number"
        raise invalid(f"'{name}' must be a {kind} from {low} to {high}.", name)
    return value  # type: ignore[no-any-return]


def _stop(stop: object) -> tuple[str, ...]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or len(stops) > 4 or not all(isinstance(s, str) and s for s in stops):
        raise invalid("'stop' must be text or a list of at most 4 texts, none of them empty.", "stop")
    return tuple(stops)
