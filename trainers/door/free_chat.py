"""A free candidate's answers in the shape of chat completions. It reads one text and gives a label or an object of
JSON; what else a request asks for is refused with a sentence."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from trainers.dataset.near_duplicates import question_text
from trainers.door.call_texts import Turn
from trainers.door.calls import Body, Call, read_messages, read_stream_options
from trainers.door.streams import LAST_EVENT, EventStream, encode_event
from trainers.http.errors import invalid
from trainers.recipes import prompts
from trainers.recipes.usage import Usage

NO_TOKENS = {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}
ANSWERED = Usage(calls=1)


async def answer_chat(call: Call) -> Response:
    """Raises ApiError (400) for what it can't answer."""
    check_request(call, call.body)
    options = read_stream_options(call.body)
    text = await answer_text(call, read_messages(call.body))
    head = {
        "id": f"chatcmpl-{secrets.token_hex(12)}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": call.name,
    }
    note_answer(call, head, text)
    if call.body.get("stream") is True:
        return EventStream(
            _events(head, text, names_usage=bool(options.get("include_usage"))), nothing_to_close
        )
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return JSONResponse({**head, "choices": [choice], "usage": NO_TOKENS})


def note_answer(call: Call, head: Body, text: str) -> None:
    """Counts an answer, whose body begins with `head`, and has it stored if it is drawn."""
    call.count(ANSWERED)
    call.note_own_id(head)
    if call.is_drawn():
        call.sample(lambda: Turn("assistant", (text,)), ANSWERED, len(text))


def check_request(call: Call, body: Body) -> None:
    """Refuses what a free candidate can't do. Raises ApiError (400)."""
    if body.get("tools") and body.get("tool_choice") != "none":
        raise _cannot(call, "call tools", "tools")
    if body.get("n") not in (None, 1):
        raise _cannot(call, "give more than one answer", "n")
    if body.get("logprobs"):
        raise _cannot(call, "give likelihoods of tokens", "logprobs")
    form = body.get("response_format")
    kind = form.get("type") if isinstance(form, dict) else None
    if kind == "json_schema":
        raise _cannot(call, "promise an answer of a given schema", "response_format")
    if kind == "json_object" and call.recipe.labels:
        raise _cannot(call, "answer in JSON, only with a label", "response_format")


def _cannot(call: Call, what: str, param: str) -> Exception:
    text = f"{call.name} is answered by a classifier of its own ({call.recipe.kind}), which can't {what}."
    return invalid(text, param, "unsupported_parameter")


async def answer_text(call: Call, messages: Sequence[Mapping[str, Any]]) -> str:
    """Returns the answer to all that the messages ask, without instructions. Raises ApiError (400)."""
    if not prompts.has_only_text(messages):
        raise _cannot(call, "read anything but texts", "messages")
    question = question_text(prompts.as_row(messages))
    (answer,) = await call.loaded.answer([question])
    return answer.text


async def _events(head: Body, text: str, *, names_usage: bool) -> AsyncGenerator[bytes, None]:
    chunk = {**head, "object": "chat.completion.chunk"}
    delta = {"role": "assistant", "content": text, "refusal": None}
    first = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
    last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": "stop"}
    yield encode_event({**chunk, "choices": [first]})
    yield encode_event({**chunk, "choices": [last]})
    if names_usage:
        yield encode_event({**chunk, "choices": [], "usage": NO_TOKENS})
    yield LAST_EVENT


async def nothing_to_close() -> None:
    pass
