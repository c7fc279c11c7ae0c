"""Reads OpenAI's stored completions, and pairs of a request and its answer, a pair a line.

A stored completion is an object of `GET /v1/chat/completions`; its messages are at `/{id}/messages`, so a program that
lists them adds them as `messages`, a list or the page that OpenAI answers. A pair is {"request": …, "response": …},
each with the body as it was sent and received, or with that body as `body`, as OpenAI's batches have it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainers.dataset.checks import Fault
from trainers.traces.calls import (
    NO_MODEL,
    Record,
    TracedCall,
    duration,
    finite,
    first_text,
    parsed_json,
    read_conversation,
    read_reply,
    read_time,
    read_usage,
    with_instructions,
)

_OBJECTS = ("chat.completion", "response")


def is_stored_completion(record: Record) -> bool:
    is_answer = isinstance(record.get("choices"), list) or isinstance(record.get("output"), list)
    return record.get("object") in _OBJECTS and is_answer


def is_pair(record: Record) -> bool:
    request = _body(record.get("request"))
    return (
        isinstance(request, Mapping) and ("messages" in request or "input" in request) and _has_answer(record)
    )


def _has_answer(record: Record) -> bool:
    return isinstance(record.get("response"), Mapping | str) or "error" in record


def read_stored_completion(line: int, record: Record) -> Iterator[TracedCall | Fault]:
    # A response object has the request's input and instructions beside it.
    messages = record.get("messages") or record.get("input")
    yield _read_call(
        line, record, {"messages": messages, "model": record.get("model"), **_instructions(record)}
    )


def read_pair(line: int, record: Record) -> Iterator[TracedCall | Fault]:
    request = _body(record.get("request"))
    response = _body(record.get("response"))
    if not isinstance(request, Mapping):
        request = {}
    if not isinstance(response, Mapping):
        response = {"choices": [{"text": response}]} if response else {}
    yield _read_call(line, {**_pair_times(record), **response}, request, is_error=bool(record.get("error")))


def _body(value: object) -> object:
    value = parsed_json(value)
    if isinstance(value, Mapping) and isinstance(value.get("body"), Mapping | str):
        return parsed_json(value["body"])
    return value


def _instructions(record: Record) -> Record:
    return {"instructions": record.get("instructions")}


def _pair_times(record: Record) -> Record:
    """Returns when the pair says that it was asked, by the names that people give it."""
    at = None
    for key in ("at", "timestamp", "time", "created_at", "start_time"):
        at = at or record.get(key)
    seconds = record.get("seconds", record.get("latency", record.get("duration")))
    return {"created": at, "seconds": seconds}


def _read_call(line: int, answer: Record, request: Record, *, is_error: bool = False) -> TracedCall | Fault:
    model = first_text(request, "model") or first_text(answer, "model")
    if model is None:
        return Fault(NO_MODEL, "has a call that names no model")
    conversation = read_conversation(_messages(request))
    conversation = with_instructions(conversation, request.get("instructions"))
    reply = read_reply(answer)
    usage = read_usage(answer.get("usage"))
    begin = read_time(answer.get("created") or answer.get("created_at"))
    seconds = finite(answer.get("seconds"))
    if seconds is None:
        seconds = duration(begin, read_time(answer.get("completed_at")))
    return TracedCall(
        line=line,
        id=first_text(answer, "id"),
        parent_id=None,
        at=begin,
        model=model,
        messages=conversation.messages,
        answer=reply.text,
        prompt_tokens=usage.prompt,
        cached_tokens=usage.cached,
        completion_tokens=usage.completion,
        seconds=seconds,
        is_error=is_error or bool(answer.get("error")),
        has_only_text=conversation.has_only_text and reply.has_only_text,
    )


def _messages(request: Record) -> object:
    messages = request.get("messages") or request.get("input") or request.get("prompt")
    # A page of OpenAI's list, in the order in which it lists them.
    if isinstance(messages, Mapping) and isinstance(messages.get("data"), list):
        return messages["data"]
    return messages
