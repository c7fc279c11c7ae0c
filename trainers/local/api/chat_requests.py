"""Parses a request for a chat completion, including its tools. Pure. Checking a grammar may take a second."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

from trainers.http.errors import AN_OBJECT, as_object, invalid, read_body
from trainers.local.chat_renderer import tools_for_template
from trainers.local.serving import constraints
from trainers.local.serving.constraints import parameters_schema
from trainers.local.serving.values import ChatMessage, Sampling, Tools
from trainers.local.tool_calls import ToolCall
from trainers.typed_tables import Key, Limits

MAX_TOOLS = 128
TOOL_NAME = re.compile(r"[\w.-]{1,64}", re.ASCII)


def parse_tools(body: Mapping[str, Any]) -> Tools:
    """Raises ApiError (400) that names the field."""
    value = body.get("tools")
    choice = body.get("tool_choice")
    if value is not None and not isinstance(value, list):
        raise invalid("'tools' must be a list.", "tools", "invalid_type")
    definitions = [_definition(tool, f"tools[{number}]") for number, tool in enumerate(value or ())]
    if len(definitions) > MAX_TOOLS:
        raise invalid(f"'tools' has {len(definitions)} tools; at most {MAX_TOOLS} are allowed.", "tools")
    names = [definition["function"]["name"] for definition in definitions]
    if len(set(names)) < len(names):
        raise invalid("Two of 'tools' have the same name.", "tools")
    if choice not in (None, "none", "auto") and not definitions:
        raise invalid("'tool_choice' needs 'tools'.", "tool_choice")
    required = _required_tools(choice, names)
    if choice == "none":
        return Tools()
    for_template = tools_for_template({"tools": definitions})
    return Tools(for_template or (), required)


def _definition(tool: object, path: str) -> Mapping[str, Any]:
    match tool:
        case {"type": "function", "function": dict(function)}:
            pass
        case _:
            text = f'\'{path}\' must be {{"type": "function", "function": {{…}}}}; other tools are not supported.'
            raise invalid(text, path)
    name = function.get("name")
    if not isinstance(name, str) or not TOOL_NAME.fullmatch(name):
        text = f"'{path}.function.name' must be 1 to 64 letters, digits, _, . or -."
        raise invalid(text, f"{path}.function.name")
    if not isinstance(function.get("description"), str | None):
        raise invalid(f"'{path}.function.description' must be text.", f"{path}.function.description")
    param = f"{path}.function.parameters"
    if not isinstance(function.get("parameters") or {}, dict):
        raise invalid(f"'{param}' must be an object.", param, "invalid_type")
    # So that a schema that can't be enforced is refused with the tool's name, before anything is queued.
    is_strict = function.get("strict") is True
    rule = constraints.json_rule(parameters_schema(function), is_strict=is_strict)
    constraints.check_grammar(f"start: {rule}", param)
    return {"type": "function", "function": function}


def _required_tools(choice: object, names: Sequence[str]) -> Sequence[str]:
    """Returns the names of the tools of which one must be called; none if the model decides."""
    if choice in (None, "none", "auto"):
        return ()
    if choice == "required":
        return names
    match choice:
        case {"type": "function", "function": {"name": str(name)}} if name in names:
            return (name,)
        case {"type": "function", "function": {"name": str(name)}}:
            text = f"'tool_choice' names {name!r}, which is not one of 'tools'."
            raise invalid(text, "tool_choice")
    text = '\'tool_choice\' must be none, auto, required, or {"type": "function", "function": {"name": …}}.'
    raise invalid(text, "tool_choice")


def parse_calls(calls: object, path: str) -> dict[str, ToolCall]:
    """Returns the calls of an assistant's message by their ids. Raises ApiError (400)."""
    if calls is None:
        return {}
    if not isinstance(calls, list):
        raise invalid(f"'{path}' must be a list.", path, "invalid_type")
    calls_by_id = {}
    for number, call in enumerate(calls):
        call_id, parsed = _parse_call(call, f"{path}[{number}]")
        calls_by_id[call_id] = parsed
    if len(calls_by_id) < len(calls):
        raise invalid(f"Two calls of '{path}' have the same id.", path)
    return calls_by_id


def _parse_call(call: object, path: str) -> tuple[str, ToolCall]:
    match call:
        case {"id": str(call_id), "function": {"name": str(name), "arguments": str(text)}}:
            text = text or "{}"  # some clients send "" for no arguments
            try:
                is_object = isinstance(json.loads(text), dict)
            except (ValueError, RecursionError):
                is_object = False
            if not is_object:
                param = f"{path}.function.arguments"
                raise invalid(f"'{param}' must be a JSON object, written as text.", param)
            return call_id, ToolCall(name, text)
    sentence = f"'{path}' must be a call with an id, and a function with a name and arguments as text."
    raise invalid(sentence, path)


# Unsupported parameters are refused if they would change the answer. They are accepted at a neutral value, or if they
# only label the request. `reasoning_effort` is accepted too, since models don't reason here: `usage` reports 0
# reasoning tokens. So are `verbosity`, which these models don't know, and `prompt_cache_retention`, since nothing is
# stored on disk. `guided_choice: [text, …]` and vLLM's `structured_outputs` are extensions that restrict the answer
# to one of some texts, to JSON of a schema, or to a regular expression.
ROLES = ("system", "developer", "user", "assistant", "tool")
LABELS = frozenset({"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "parallel_tool_calls": (True, False),
    "reasoning_effort": ("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "modalities": (["text"],),
    "verbosity": ("low", "medium", "high"),
    "prompt_cache_retention": ("in_memory", "in-memory", "24h"),
}
OF_VLLM = ("top_k", "min_p", "repetition_penalty")
KNOWN = frozenset(
    {
        *("model", "messages", "temperature", "top_p", "max_tokens", "max_completion_tokens"),
        *("stop", "seed", "stream", "stream_options", "n", "logprobs", "top_logprobs"),
        *("frequency_penalty", "presence_penalty", "logit_bias"),
        *("response_format", "guided_choice", "structured_outputs", "tools", "tool_choice"),
        *OF_VLLM,
        "chat_template_kwargs",
    }
)
MAX_N = 128
MAX_TOP_LOGPROBS = 20
TOKEN_ID = re.compile(r"\d{1,7}", re.ASCII)
SCHEMA_NAME = re.compile(r"[\w-]{1,64}", re.ASCII)


@dataclass(frozen=True)
class ChatParams:
    model: str
    messages: tuple[ChatMessage, ...]
    sampling: Sampling
    tools: Tools
    streams: bool
    includes_usage: bool
    template_options: Mapping[str, Any]


def parse_chat(body: Mapping[str, Any]) -> ChatParams:
    """Raises ApiError (400), which names the field."""
    for name, value in body.items():
        check_parameter(name, value, KNOWN | LABELS, NEUTRAL)
    model = read_model_name(body)
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise invalid("'messages' must be a list with at least one message.", "messages")
    chat = tuple(_message(message, f"messages[{number}]") for number, message in enumerate(messages))
    fields = read_body(ChatBody, body, takes_others=True)
    if fields.top_logprobs and not fields.logprobs:
        raise invalid("'top_logprobs' needs 'logprobs' to be true.", "top_logprobs")
    top_logprobs = None
    if fields.logprobs:
        top_logprobs = fields.top_logprobs or 0
    return ChatParams(
        model=model,
        messages=chat,
        sampling=fields.sampling(body, top_logprobs),
        tools=parse_tools(body),
        streams=fields.stream,
        includes_usage=fields.stream_options.include_usage,
        template_options=as_object(body.get("chat_template_kwargs"), "chat_template_kwargs"),
    )


def check_parameter(
    name: str, value: object, supported: Collection[str], neutral: Mapping[str, Sequence[object]]
) -> None:
    """Raises ApiError (400) unless the parameter is supported, null, or at a neutral value."""
    if name in supported or value is None:
        return
    if name not in neutral:
        raise invalid(f"This trainer does not know the parameter '{name}'.", name, "unknown_parameter")
    if value not in neutral[name]:
        text = f"This trainer does not support '{name}' at {value!r}. Leave it out."
        raise invalid(text, name, "unsupported_value")


def read_model_name(body: Mapping[str, Any]) -> str:
    model = body.get("model")
    if not isinstance(model, str) or not model:
        raise invalid("Missing required parameter 'model'.", "model", "missing_required_parameter")
    return model


def _message(message: object, path: str) -> ChatMessage:
    if not isinstance(message, dict):
        raise invalid(f"'{path}' must be an object.", path, "invalid_type")
    role = message.get("role")
    if role not in ROLES:
        raise invalid(f"'{path}.role' is {role!r}; allowed are {', '.join(ROLES)}.", f"{path}.role")
    calls: dict[str, ToolCall] = {}
    content = message.get("content")
    if role == "assistant":
        calls = parse_calls(message.get("tool_calls"), f"{path}.tool_calls")
        if content is None and calls:
            content = ""
        elif content is None:
            content = message.get("refusal")
    return ChatMessage(
        role=str(role),
        content=_content(content, f"{path}.content"),
        calls=calls,
        call_id=_text_or_none(message.get("tool_call_id")),
        name=_text_or_none(message.get("name")),
    )


def _text_or_none(value: object) -> str | None:
    if not isinstance(value, str):
        return None
    return value


def _content(content: object, path: str) -> str:
    if isinstance(content, str):
        return content
    not_text = invalid(f"'{path}' must be text, or a list of parts of type 'text'.", path, "invalid_type")
    if not isinstance(content, list):
        raise not_text
    texts = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
                texts.append(text)
            case _:
                raise not_text
    return "".join(texts)


def _read_stop(stop: object) -> tuple[str, ...]:
    stops = stop or []
    if isinstance(stops, str):
        stops = [stops]
    if not isinstance(stops, list) or len(stops) > 4:
        raise ValueError(stop)
    for text in stops:
        if not isinstance(text, str) or not text:
            raise ValueError(stop)
    return tuple(stops)


def _read_biases(value: object) -> Mapping[int, float]:
    if not isinstance(value, dict):
        raise ValueError(value)
    biases = {}
    for token, bias in value.items():
        # Not by isinstance, for which true and false are numbers too.
        is_number = type(bias) in (int, float)
        if not TOKEN_ID.fullmatch(token) or not is_number:
            raise ValueError(value)
        if not -100 <= bias <= 100:
            raise ValueError(value)
        biases[int(token)] = float(bias)
    return biases


Tokens = Annotated[int, Limits(ge=1, le=1_000_000)]
Penalty = Annotated[float, Limits(ge=-2, le=2)]


@dataclass(frozen=True)
class StreamOptions:
    include_usage: bool = False


@dataclass(frozen=True)
class SamplingBody:
    """The parameters that chat completions and text completions share."""

    temperature: Annotated[float, Limits(ge=0, le=2)] = 1.0
    top_p: Annotated[float, Limits(ge=0, le=1)] = 1.0
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    seed: Annotated[int, Limits(ge=-(2**63), le=2**63 - 1)] | None = None
    n: Annotated[int, Limits(ge=1, le=MAX_N)] = 1
    frequency_penalty: Penalty = 0.0
    presence_penalty: Penalty = 0.0
    # vLLM's: https://docs.vllm.ai/en/latest/api/vllm/sampling_params.html
    top_k: Annotated[int, Limits(ge=-1, le=1_000_000)] = 0
    min_p: Annotated[float, Limits(ge=0, le=1)] = 0.0
    repetition_penalty: Annotated[float, Limits(gt=0, le=10)] = 1.0
    stop: Annotated[
        tuple[str, ...],
        Key(
            input_type=Any, convert=_read_stop, wants="text or a list of at most 4 texts, none of them empty"
        ),
    ] = ()
    logit_bias: Annotated[
        Mapping[int, float],
        Key(
            input_type=Any,
            convert=_read_biases,
            wants="an object of token ids, each with a number from -100 to 100",
        ),
    ] = field(default_factory=dict)
    stream: bool = False
    stream_options: Annotated[StreamOptions, Key(wants=AN_OBJECT)] = StreamOptions()

    def sampling(self, body: Mapping[str, Any], top_logprobs: int | None) -> Sampling:
        """`body` is the whole request, which may restrict the answer by a grammar. Raises ApiError (400)."""
        limit = self.max_completion_tokens  # OpenAI's newer name
        if limit is None:
            limit = self.max_tokens
        return Sampling(
            temperature=self.temperature,
            top_p=self.top_p,
            max_tokens=limit,
            stop=self.stop,
            seed=self.seed,
            n=self.n,
            top_logprobs=top_logprobs,
            grammar=_grammar(body),
            frequency_penalty=self.frequency_penalty,
            presence_penalty=self.presence_penalty,
            logit_bias=self.logit_bias,
            top_k=self.top_k if self.top_k > 0 else None,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
        )


@dataclass(frozen=True)
class ChatBody(SamplingBody):
    logprobs: bool = False
    top_logprobs: Annotated[int, Limits(ge=0, le=MAX_TOP_LOGPROBS)] | None = None


def _grammar(body: Mapping[str, Any]) -> str | None:
    """Returns the grammar that the request restricts its answer to, or None. Raises ApiError (400), also if two
    parameters restrict it."""
    grammars = {
        "response_format": _grammar_of_form(body.get("response_format")),
        "guided_choice": _grammar_of_choices(body.get("guided_choice"), "guided_choice"),
        "structured_outputs": _grammar_of_outputs(body.get("structured_outputs")),
    }
    names = [name for name, grammar in grammars.items() if grammar is not None]
    if len(names) > 1:
        first, second, *_ = names
        raise invalid(f"Give '{second}' or '{first}', not both.", second)
    if not names:
        return None
    return grammars[names[0]]


def _grammar_of_choices(choices: object, param: str) -> str | None:
    if choices is None:
        return None
    return constraints.check_grammar(constraints.grammar_of_choices(choices, param), param)


def _grammar_of_outputs(outputs: object) -> str | None:
    """Reads vLLM's parameter: https://docs.vllm.ai/en/latest/features/structured_outputs.html"""
    param = "structured_outputs"
    if outputs is None:
        return None
    # Clients send the fields that they don't use as null.
    values = {}
    if isinstance(outputs, dict):
        values = {name: value for name, value in outputs.items() if value is not None}
    match values:
        case {"choice": choices} if len(values) == 1:
            return _grammar_of_choices(choices, f"{param}.choice")
        case {"regex": str(pattern)} if len(values) == 1:
            return constraints.check_grammar(constraints.grammar_of_regex(pattern), f"{param}.regex")
        case {"json": dict(schema)} if len(values) == 1:
            return constraints.check_grammar(f"start: {constraints.json_rule(schema)}", f"{param}.json")
    text = f"'{param}' must be an object with one of 'choice' (texts), 'regex' (text) and 'json' (a schema)."
    raise invalid(text, param)


def _grammar_of_form(form: object) -> str | None:
    if form is None:
        return None
    if not isinstance(form, dict):
        raise invalid("'response_format' must be an object.", "response_format", "invalid_type")
    match form.get("type"):
        case "text":
            return None
        case "json_object":
            return f"start: {constraints.json_rule({'type': 'object'})}"
        case "json_schema":
            return _grammar_of_schema(form.get("json_schema"))
    text = f"'response_format.type' is {form.get('type')!r}; allowed are text, json_object, json_schema."
    raise invalid(text, "response_format.type")


def _grammar_of_schema(wrapped: object) -> str:
    param = "response_format.json_schema"
    if not isinstance(wrapped, dict):
        raise invalid(f"'{param}' must be an object with 'name' and 'schema'.", param, "invalid_type")
    name = wrapped.get("name")
    if not isinstance(name, str) or not SCHEMA_NAME.fullmatch(name):
        text = f"'{param}.name' must be 1 to 64 letters, digits, _ or -."
        raise invalid(text, f"{param}.name")
    schema = wrapped.get("schema")
    if not isinstance(schema, dict):
        raise invalid(f"'{param}.schema' must be an object.", f"{param}.schema", "invalid_type")
    return constraints.check_grammar(f"start: {constraints.json_rule(schema)}", f"{param}.schema")
