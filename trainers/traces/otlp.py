"""Reads spans: OTLP's JSON, as exporters send it and the collector's file exporter writes it, and spans as
OpenTelemetry's Python SDK prints them.

OTLP: https://opentelemetry.io/docs/specs/otlp/. 64-bit integers are texts there, and ids are hexadecimal.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from trainers.dataset.checks import Fault
from trainers.traces.attributes import (
    SpanEvent,
    is_call,
    read_answer,
    read_messages,
    read_model,
    read_usage,
)
from trainers.traces.calls import NO_MODEL, NOT_A_CALL, Record, TracedCall, duration, finite, read_time

OTLP_KEY = "resourceSpans"
_DEEPEST = 32  # values in values, which could fill Python's stack
# Protobuf's JSON has an enum's number or its name, and the SDK prints the name's last word.
_ERRORS = (2, "2", "ERROR", "STATUS_CODE_ERROR")


def is_otlp(record: Record) -> bool:
    return isinstance(record.get(OTLP_KEY), list)


def is_printed_span(record: Record) -> bool:
    """True for what `span.to_json()` of the SDK returns, which ConsoleSpanExporter prints."""
    context = record.get("context")
    if not isinstance(context, Mapping) or "span_id" not in context:
        return False
    return isinstance(record.get("attributes"), dict)


def read_otlp(line: int, record: Record) -> Iterator[TracedCall | Fault]:
    """Yields the calls among the spans of one OTLP document, and why the other spans are none."""
    for resource_spans in _objects(record.get(OTLP_KEY)):
        yield from read_resource_spans(line, resource_spans)


def read_resource_spans(line: int, resource_spans: Record) -> Iterator[TracedCall | Fault]:
    """Yields the same of one element of `resourceSpans`."""
    for scope_spans in _objects(resource_spans.get("scopeSpans")):
        for span in _objects(scope_spans.get("spans")):
            yield _read_span(line, span)


def resource_attributes(resource_spans: Record) -> Record:
    """Returns the attributes of what sent these spans."""
    resource = resource_spans.get("resource")
    if not isinstance(resource, Mapping):
        return {}
    return _attributes(resource.get("attributes"))


def read_printed_span(line: int, record: Record) -> Iterator[TracedCall | Fault]:
    """Reads one span as the SDK prints it."""
    events = []
    for event in _objects(record.get("events")):
        attributes = _plain(event.get("attributes"))
        events.append(SpanEvent(str(event.get("name")), attributes))
    context = _plain(record.get("context"))
    trace = context.get("trace_id")
    status = _plain(record.get("status"))
    yield _read_call(
        line,
        _plain(record.get("attributes")),
        events,
        id=f"{trace}/{context.get('span_id')}",
        parent_id=_parent_id(trace, record.get("parent_id")),
        begin=read_time(record.get("start_time")),
        end=read_time(record.get("end_time")),
        is_error=status.get("status_code") in _ERRORS,
    )


def _read_span(line: int, span: Record) -> TracedCall | Fault:
    events = []
    for event in _objects(span.get("events")):
        attributes = _attributes(event.get("attributes"))
        events.append(SpanEvent(str(event.get("name")), attributes))
    trace = span.get("traceId")
    status = span.get("status")
    return _read_call(
        line,
        _attributes(span.get("attributes")),
        events,
        id=f"{trace}/{span.get('spanId')}",
        parent_id=_parent_id(trace, span.get("parentSpanId")),
        begin=_nanoseconds(span.get("startTimeUnixNano")),
        end=_nanoseconds(span.get("endTimeUnixNano")),
        is_error=_plain(status).get("code") in _ERRORS,
    )


def _parent_id(trace: object, parent: object) -> str | None:
    """Returns None for the first span of a trace, whose parent is missing, null or ""."""
    if not parent:
        return None
    # Ids of spans are unique in their trace only.
    return f"{trace}/{parent}"


def _read_call(
    line: int,
    attributes: Record,
    events: list[SpanEvent],
    *,
    id: str,
    parent_id: str | None,
    begin: float | None,
    end: float | None,
    is_error: bool,
) -> TracedCall | Fault:
    if not is_call(attributes):
        return Fault(NOT_A_CALL, "has a span that is no call of a model")
    model = read_model(attributes)
    if model is None:
        return Fault(NO_MODEL, "has a call that names no model")
    conversation = read_messages(attributes, events)
    reply = read_answer(attributes, events)
    usage = read_usage(attributes)
    return TracedCall(
        line=line,
        id=id,
        parent_id=parent_id,
        at=begin,
        model=model,
        messages=conversation.messages,
        answer=reply.text,
        prompt_tokens=usage.prompt,
        cached_tokens=usage.cached,
        completion_tokens=usage.completion,
        seconds=duration(begin, end),
        is_error=is_error or "error.type" in attributes,
        has_only_text=conversation.has_only_text and reply.has_only_text,
    )


def _attributes(pairs: object) -> Record:
    """Returns OTLP's list of keys and typed values as an object."""
    values = {}
    for pair in _objects(pairs):
        values[str(pair.get("key"))] = _value(pair.get("value"), 0)
    return values


def _value(typed: object, depth: int) -> Any:
    """Returns the plain value of an AnyValue, None for one that is nested too deeply."""
    if not isinstance(typed, Mapping) or depth > _DEEPEST:
        return None
    if "intValue" in typed:  # a text, as JSON's numbers can't hold 64 bits everywhere
        number = finite(typed["intValue"])
        if number is None:
            return None
        return int(number)
    inner = depth + 1
    if isinstance(typed.get("arrayValue"), Mapping):
        items = typed["arrayValue"].get("values") or ()
        return [_value(item, inner) for item in items]
    if isinstance(typed.get("kvlistValue"), Mapping):
        values = {}
        for pair in _objects(typed["kvlistValue"].get("values")):
            values[str(pair.get("key"))] = _value(pair.get("value"), inner)
        return values
    for kind in ("stringValue", "boolValue", "doubleValue"):
        if kind in typed:
            return typed[kind]
    return None


def _nanoseconds(value: object) -> float | None:
    number = finite(value)
    if not number:
        return None
    return number / 1e9


def _objects(values: object) -> list[Record]:
    if not isinstance(values, list):
        return []
    return [value for value in values if isinstance(value, Mapping)]


def _plain(value: object) -> Record:
    if not isinstance(value, Mapping):
        return {}
    return value
