"""Reads LiteLLM's logs: its standard logging payload, as it writes it to S3, GCS or an HTTP address, and the rows of
its spend logs.

The payload: https://docs.litellm.ai/docs/proxy/logging_spec. A proxy stores messages in its spend logs only with
`store_prompts_in_spend_logs`, and in no log with `turn_off_message_logging`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from trainers.dataset.checks import Fault
from trainers.traces.calls import (
    NO_MODEL,
    NO_USAGE,
    NOT_A_CALL,
    NOTHING_RECORDED,
    Conversation,
    Record,
    TracedCall,
    Usage,
    count,
    duration,
    finite,
    first_text,
    parsed_json,
    read_conversation,
    read_reply,
    read_time,
    read_usage,
)

REDACTED = "redacted-by-litellm"
_CALLS = frozenset(
    {"completion", "acompletion", "text_completion", "atext_completion", "responses", "aresponses"}
    | {"anthropic_messages", "generate_content", "agenerate_content", "pass_through_endpoint"}
)


def is_payload(record: Record) -> bool:
    """True for a standard logging payload, and for a row of the spend logs, which has some of its keys."""
    return "call_type" in record and "startTime" in record and "model" in record


def read_payload(line: int, record: Record) -> Iterator[TracedCall | Fault]:
    if str(record.get("call_type")) not in _CALLS:
        yield Fault(NOT_A_CALL, "has a call that is not one of a model that writes text")
        return
    model = first_text(record, "model")
    if model is None:
        yield Fault(NO_MODEL, "has a call that names no model")
        return
    conversation = _read_messages(record)
    reply = read_reply(record.get("response"))
    begin = read_time(record.get("startTime"))
    seconds = duration(begin, read_time(record.get("endTime")))
    if seconds is None:
        seconds = finite(record.get("response_time"))
    is_error = str(record.get("status") or "success") == "failure"
    answer = None
    usage = NO_USAGE
    if not is_error:  # a call that failed has zeros, which are no count of anything
        answer = reply.text
        usage = _read_usage(record)
    yield TracedCall(
        line=line,
        id=first_text(record, "litellm_call_id", "request_id", "id"),
        parent_id=None,
        at=begin,
        model=model,
        messages=conversation.messages,
        answer=answer,
        prompt_tokens=usage.prompt,
        cached_tokens=usage.cached,
        completion_tokens=usage.completion,
        seconds=seconds,
        is_error=is_error,
        has_only_text=conversation.has_only_text and reply.has_only_text,
    )


def _read_messages(record: Record) -> Conversation:
    """Returns the messages. In spend logs they are in the request that the proxy got."""
    for value in (record.get("messages"), record.get("proxy_server_request")):
        conversation = read_conversation(value)
        if conversation.messages and not _is_redacted(conversation):
            return conversation
    return NOTHING_RECORDED


def _is_redacted(conversation: Conversation) -> bool:
    return all(message.content == REDACTED for message in conversation.messages)


def _read_usage(record: Record) -> Usage:
    response = parsed_json(record.get("response"))
    metadata = parsed_json(record.get("metadata"))
    usage = NO_USAGE
    if isinstance(response, Mapping):
        usage = read_usage(response.get("usage"))
    if usage == NO_USAGE and isinstance(metadata, Mapping):
        usage = read_usage(metadata.get("usage_object"))
    if usage != NO_USAGE:
        return usage
    return Usage(count(record.get("prompt_tokens")), None, count(record.get("completion_tokens")))
