"""Reads a call from a span's attributes, in the conventions that tools write: OpenTelemetry's for generative AI
(current and earlier ones), OpenLLMetry's, OpenInference's and Langfuse's.

OpenTelemetry's: https://opentelemetry.io/docs/specs/semconv/gen-ai/. Messages are an attribute of the span, or of one
of its events; some instrumentations write them as log records only, which are no part of a span.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from trainers.traces.calls import (
    NO_REPLY,
    NO_USAGE,
    NOTHING_RECORDED,
    Conversation,
    Record,
    Reply,
    Usage,
    count,
    first_count,
    first_text,
    parsed_json,
    read_conversation,
    read_reply,
    with_instructions,
)
from trainers.traces.calls import read_usage as read_openai_usage

# Other operations are embeddings, tools, and agents, which are around the calls of models.
_OPERATIONS = frozenset({"chat", "text_completion", "completion", "generate_content", "responses"})
_MESSAGE_EVENT = re.compile(r"gen_ai\.(system|user|assistant|tool)\.message")
_NUMBERED = re.compile(r"(\d{1,5})\.(.+)")


class SpanEvent(NamedTuple):
    name: str
    attributes: Record


def is_call(attributes: Record) -> bool:
    """True if the span is a call of a model that writes text."""
    kind = attributes.get("openinference.span.kind") or attributes.get("langfuse.observation.type")
    if kind is not None:
        return str(kind).lower() in ("llm", "generation")
    operation = attributes.get("gen_ai.operation.name") or attributes.get("llm.request.type")
    if operation is not None:
        return str(operation).lower() in _OPERATIONS
    return "gen_ai.request.model" in attributes


def read_model(attributes: Record) -> str | None:
    """Returns the model that the program asked for, or else the one that answered."""
    parameters = parsed_json(attributes.get("llm.invocation_parameters"))
    if isinstance(parameters, Mapping) and isinstance(parameters.get("model"), str):
        return first_text(parameters, "model")
    return first_text(
        attributes,
        "gen_ai.request.model",
        "langfuse.observation.model.name",
        "gen_ai.response.model",
        "llm.request.model",
        "llm.model_name",
        "llm.response.model",
    )


def read_messages(attributes: Record, events: Sequence[SpanEvent]) -> Conversation:
    """Returns the request's messages, by the first convention in which the span has some."""
    for record in (attributes, *(event.attributes for event in events)):
        for key in ("gen_ai.input.messages", "gen_ai.prompt"):
            conversation = read_conversation(record.get(key))
            if conversation.messages or not conversation.has_only_text:
                return with_instructions(conversation, record.get("gen_ai.system_instructions"))
    for rows in (
        _numbered(attributes, "gen_ai.prompt."),
        _openinference_rows(attributes, "llm.input_messages."),
        [row for event in events for row in _message_rows(event)],
    ):
        if rows:
            return read_conversation(rows)
    if "langfuse.observation.input" in attributes:
        return read_conversation(attributes["langfuse.observation.input"])
    return NOTHING_RECORDED


def read_answer(attributes: Record, events: Sequence[SpanEvent]) -> Reply:
    for record in (attributes, *(event.attributes for event in events)):
        for key in ("gen_ai.output.messages", "gen_ai.completion"):
            if record.get(key):
                return read_reply(record[key])
    choices = []
    for event in events:
        if event.name in ("gen_ai.choice", "gen_ai.choices"):
            choices.append(_choice(event.attributes))
    for rows in (
        _numbered(attributes, "gen_ai.completion."),
        _openinference_rows(attributes, "llm.output_messages."),
        choices,
    ):
        if rows:
            return read_reply(rows)
    if "langfuse.observation.output" in attributes:
        return read_reply(attributes["langfuse.observation.output"])
    return NO_REPLY


def read_usage(attributes: Record) -> Usage:
    usage = Usage(
        first_count(
            attributes, "gen_ai.usage.input_tokens", "gen_ai.usage.prompt_tokens", "llm.token_count.prompt"
        ),
        first_count(
            attributes,
            "gen_ai.usage.cache_read.input_tokens",
            "gen_ai.usage.cache_read_input_tokens",
            "llm.token_count.prompt_details.cache_read",
        ),
        first_count(
            attributes,
            "gen_ai.usage.output_tokens",
            "gen_ai.usage.completion_tokens",
            "llm.token_count.completion",
        ),
    )
    if usage != NO_USAGE:
        return usage
    return read_usage_details(attributes.get("langfuse.observation.usage_details"))


def read_usage_details(value: object) -> Usage:
    """Reads Langfuse's usage: as OpenAI has it, or by kinds of units. There every kind that begins with `input` counts
    for the prompt, so that `input` alone lacks the cached ones
    (https://langfuse.com/docs/observability/features/token-and-cost-tracking)."""
    value = parsed_json(value)
    if not isinstance(value, Mapping):
        return NO_USAGE
    usage = read_openai_usage(value)
    if usage.prompt is not None or usage.completion is not None:
        return usage
    units = {str(kind): count(units) for kind, units in value.items()}
    # What is written to a cache was not read from it.
    cached = [kind for kind in units if "cache" in kind and "creation" not in kind and "write" not in kind]
    prompt = [kind for kind in units if kind.startswith("input") or "cache" in kind]
    completion = [kind for kind in units if kind.startswith("output")]
    return Usage(_sum(units, prompt), _sum(units, cached), _sum(units, completion))


def _sum(units: Mapping[str, int | None], kinds: Sequence[str]) -> int | None:
    counts = [units[kind] for kind in kinds]
    present = [number for number in counts if number is not None]
    if not present:
        return None
    return sum(present)


def _numbered(attributes: Record, prefix: str) -> list[dict[str, object]]:
    """Returns the objects that attributes such as `gen_ai.prompt.0.content` describe, in order."""
    rows: dict[int, dict[str, object]] = defaultdict(dict)
    for key, value in attributes.items():
        if not key.startswith(prefix):
            continue
        match = _NUMBERED.fullmatch(key.removeprefix(prefix))
        if match:
            number = int(match[1])
            rows[number][match[2]] = value
    return [_with_calls(rows[number]) for number in sorted(rows)]


def _with_calls(row: dict[str, object]) -> dict[str, object]:
    """Marks a message that calls tools, whose calls are attributes of their own."""
    if any("tool_calls." in key for key in row):
        row["tool_calls"] = True
    return row


def _openinference_rows(attributes: Record, prefix: str) -> list[dict[str, object]]:
    rows = []
    for numbered in _numbered(attributes, prefix):
        row = {key.removeprefix("message."): value for key, value in numbered.items()}
        parts = []
        for part in _numbered(row, "contents."):
            parts.append({key.removeprefix("message_content."): value for key, value in part.items()})
        if parts:
            row["content"] = parts
        rows.append(row)
    return rows


def _message_rows(event: SpanEvent) -> Iterator[Record]:
    """Yields the message of an event such as gen_ai.user.message."""
    match = _MESSAGE_EVENT.fullmatch(event.name)
    if match:
        yield {"role": match[1], **event.attributes}


def _choice(attributes: Record) -> object:
    message = parsed_json(attributes.get("message"))
    if message is None:  # an event of the earlier convention is the message itself
        return attributes
    return message
