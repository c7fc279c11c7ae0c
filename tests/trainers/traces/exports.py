"""Small exports in each format, as the packages of tests/clients write them, with what they only sometimes have."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from openai.types.chat import ChatCompletion
from openai.types.responses import Response

from trainers.traces.calls import TracedCall
from trainers.types import Message

Value = dict[str, Any]
BEGIN = 1_793_700_000.0
SYSTEM = "Which team answers?"
MESSAGES: list[Value] = [
    {"role": "system", "content": SYSTEM},
    {"role": "user", "content": "Where is my parcel?"},
]


def call(question: str = "Where is my parcel?", **more: Any) -> TracedCall:
    """A recorded call, to count."""
    fields: Value = {
        "line": 1,
        "id": None,
        "parent_id": None,
        "at": BEGIN,
        "model": "gpt-4o",
        "messages": (Message("system", SYSTEM), Message("user", question)),
        "answer": "delivery",
        "prompt_tokens": 120,
        "cached_tokens": 64,
        "completion_tokens": 3,
        "seconds": 0.5,
        "is_error": False,
        "has_only_text": True,
    }
    return TracedCall(**{**fields, **more})


def typed(value: object) -> Value:
    """OTLP's AnyValue."""
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, list):
        return {"arrayValue": {"values": [typed(each) for each in value]}}
    if isinstance(value, dict):
        return {"kvlistValue": {"values": pairs(value)}}
    return {"stringValue": value}


def pairs(attributes: Mapping[str, object]) -> list[Value]:
    return [{"key": key, "value": typed(value)} for key, value in attributes.items()]


def span(
    attributes: Mapping[str, object], number: int = 1, events: Sequence[Value] = (), **more: Any
) -> Value:
    return {
        "traceId": "5b8efff798038103d269b633813fc60c",
        "spanId": f"{number:016x}",
        "startTimeUnixNano": str(int(BEGIN) * 10**9),
        "endTimeUnixNano": str(int(BEGIN) * 10**9 + 500_000_000),
        "attributes": pairs(attributes),
        "events": list(events),
        "status": {},
        **more,
    }


def otlp(*spans: Value, resource: Mapping[str, object] | None = None) -> Value:
    scope_spans = [{"scope": {"name": "program"}, "spans": list(spans)}]
    return {"resourceSpans": [{"resource": {"attributes": pairs(resource or {})}, "scopeSpans": scope_spans}]}


CURRENT: Value = {
    "gen_ai.operation.name": "chat",
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.response.model": "gpt-4o-2024-08-06",
    "gen_ai.system_instructions": json.dumps([{"type": "text", "content": SYSTEM}]),
    "gen_ai.input.messages": json.dumps(
        [{"role": "user", "parts": [{"type": "text", "content": "Where is my parcel?"}]}]
    ),
    "gen_ai.output.messages": json.dumps(
        [{"role": "assistant", "parts": [{"type": "text", "content": "delivery"}], "finish_reason": "stop"}]
    ),
    "gen_ai.usage.input_tokens": 120,
    "gen_ai.usage.cache_read.input_tokens": 64,
    "gen_ai.usage.output_tokens": 3,
}
USAGE_BEFORE: Value = {
    "gen_ai.request.model": "gpt-4o",
    "gen_ai.usage.prompt_tokens": 120,
    "gen_ai.usage.cache_read_input_tokens": 64,
    "gen_ai.usage.completion_tokens": 3,
}
INDEXED: Value = {
    **USAGE_BEFORE,
    "llm.request.type": "chat",
    "gen_ai.prompt.0.role": "system",
    "gen_ai.prompt.0.content": SYSTEM,
    "gen_ai.prompt.1.role": "user",
    "gen_ai.prompt.1.content": "Where is my parcel?",
    "gen_ai.completion.0.role": "assistant",
    "gen_ai.completion.0.content": "delivery",
}
CONTENT_EVENTS: list[Value] = [
    {"name": "gen_ai.content.prompt", "attributes": pairs({"gen_ai.prompt": json.dumps(MESSAGES)})},
    {
        "name": "gen_ai.content.completion",
        "attributes": pairs(
            {"gen_ai.completion": json.dumps([{"role": "assistant", "content": "delivery"}])}
        ),
    },
]
MESSAGE_EVENTS: list[Value] = [
    {"name": "gen_ai.system.message", "attributes": pairs({"content": SYSTEM})},
    {"name": "gen_ai.user.message", "attributes": pairs({"content": "Where is my parcel?"})},
    {
        "name": "gen_ai.choice",
        "attributes": pairs(
            {"index": 0, "message": json.dumps({"role": "assistant", "content": "delivery"})}
        ),
    },
]
DETAILS_EVENT: list[Value] = [
    {
        "name": "gen_ai.client.inference.operation.details",
        "attributes": pairs(
            {
                **{key: CURRENT[key] for key in ("gen_ai.input.messages", "gen_ai.output.messages")},
                "gen_ai.system_instructions": [{"type": "text", "content": SYSTEM}],
            }
        ),
    }
]

COMPLETION = ChatCompletion.model_validate(
    {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": int(BEGIN),
        "model": "gpt-4o",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "delivery"}}
        ],
        "usage": {
            "prompt_tokens": 120,
            "completion_tokens": 3,
            "total_tokens": 123,
            "prompt_tokens_details": {"cached_tokens": 64},
        },
    }
)
RESPONSE = Response.model_validate(
    {
        "id": "resp_1",
        "object": "response",
        "created_at": BEGIN,
        "model": "gpt-4o",
        "instructions": SYSTEM,
        "output": [
            {"type": "reasoning", "id": "rs_1", "summary": []},
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "delivery", "annotations": []}],
            },
        ],
        "usage": {
            "input_tokens": 120,
            "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 0},
            "output_tokens": 3,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": 123,
        },
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
    }
)
STORED: Value = {
    "object": "list",
    "data": [{**COMPLETION.to_dict(), "metadata": {}, "messages": {"object": "list", "data": MESSAGES}}],
    "has_more": False,
}
PAIR: Value = {
    "request": {"model": "gpt-4o", "messages": MESSAGES},
    "response": COMPLETION.to_dict(),
    "seconds": 0.5,
}
BATCH_PAIR: Value = {
    "custom_id": "1",
    "request": {"method": "POST", "url": "/v1/chat/completions", "body": PAIR["request"]},
    "response": {"status_code": 200, "body": COMPLETION.to_dict()},
    "error": None,
}
RESPONSE_PAIR: Value = {
    "request": {"model": "gpt-4o", "input": "Where is my parcel?", "instructions": SYSTEM},
    "response": RESPONSE.to_dict(),
}
SPEND_LOG: Value = {
    "request_id": "chatcmpl-1",
    "call_type": "acompletion",
    "api_key": "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b",
    "spend": 0.00025,
    "total_tokens": 123,
    "prompt_tokens": 120,
    "completion_tokens": 3,
    "startTime": "2026-11-03T07:20:00.000Z",
    "endTime": "2026-11-03T07:20:00.500Z",
    "model": "gpt-4o",
    "metadata": json.dumps({"usage_object": {"prompt_tokens": 120, "completion_tokens": 3}}),
    "messages": {},
    "response": COMPLETION.to_dict(),
    "proxy_server_request": {"model": "gpt-4o", "messages": MESSAGES},
    "status": "success",
}


def write_lines(path: Path, *records: object) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path
