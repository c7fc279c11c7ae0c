"""POST /v1/chat/completions: answers in one body or as server-sent events."""

from __future__ import annotations

import secrets
import string
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from trainers.http.errors import ApiError
from trainers.local.api.chat_requests import ChatParams
from trainers.local.api.inbox import Answer, Inbox
from trainers.local.serving import values
from trainers.local.serving.values import (
    AnswerCalls,
    AnswerEnd,
    GenerationEngine,
    Likelihood,
    Outcome,
    Piece,
    Target,
)
from trainers.local.tool_calls import ToolCall

Body = dict[str, Any]


async def complete(
    request: Request, engine: GenerationEngine, target: Target, params: ChatParams
) -> Response:
    """Answers a request. Raises ApiError before the first byte is sent; a later error is the stream's last event."""
    inbox = submit_chat(request, engine, target, params)
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": params.model}
    if not params.streams:
        answers = await inbox.answers(params.sampling.n)
        choices = [_choice(answer, params) for answer in answers]
        usage = usage_body([answer.end for answer in answers])
        return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": usage})
    first = await inbox.next_outcome()
    return StreamingResponse(_events(first, inbox, head, params), media_type="text/event-stream")


def submit_chat(request: Request, engine: GenerationEngine, target: Target, params: ChatParams) -> Inbox:
    """Queues a chat and returns the inbox that gets its outcomes. Raises ApiError (503)."""
    inbox = Inbox(request)
    chat = values.Request(
        target,
        params.messages,
        params.sampling,
        params.streams,
        inbox.put,
        tools=params.tools,
        template_options=params.template_options,
    )
    inbox.ticket = engine.submit(chat)
    return inbox


def _choice(answer: Answer, params: ChatParams) -> Body:
    message: Body = {"role": "assistant", "content": answer.text or "", "refusal": None}
    if answer.calls:
        message["content"] = answer.text or None  # null if it only calls
        message["tool_calls"] = [_call(call) for call in answer.calls]
    return {
        "index": answer.end.index,
        "message": message,
        "logprobs": _logprobs(answer.tokens, params),
        "finish_reason": answer.end.reason,
        **_classification(answer.end),
    }


def _classification(end: AnswerEnd) -> Body:
    """Returns an extension of OpenAI's body for encoders' answers: the label's probability and the other labels'."""
    if end.classification is None:
        return {}
    others = [{"label": label, "probability": share} for label, share in end.classification.others]
    return {"classification": {"probability": end.classification.probability, "others": others}}


def _call(call: ToolCall) -> Body:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": new_call_id(), "type": "function", "function": function}


def new_call_id() -> str:
    """Returns nine letters and digits, the only ids that Mistral's templates accept."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


async def _events(first: Outcome, inbox: Inbox, head: Body, params: ChatParams) -> AsyncIterator[bytes]:
    chunk = {**head, "object": "chat.completion.chunk"}
    if params.includes_usage:
        chunk["usage"] = None  # as OpenAI's chunks before the last
    ends: list[AnswerEnd] = []
    try:
        for index in range(params.sampling.n):
            start = {"role": "assistant", "content": "", "refusal": None}
            yield encode_event({**chunk, "choices": [_delta(index, start)]})
        async for outcome in inbox.parts(first, params.sampling.n):
            yield encode_event({**chunk, "choices": [_chunk_choice(outcome, params)]})
            if isinstance(outcome, AnswerEnd):
                ends.append(outcome)
        if params.includes_usage:
            yield encode_event({**chunk, "choices": [], "usage": usage_body(ends)})
        yield b"data: [DONE]\n\n"
    except ApiError as problem:
        yield encode_event({"error": problem.body()})
    finally:
        inbox.abandon()


def _chunk_choice(outcome: Outcome, params: ChatParams) -> Body:
    if isinstance(outcome, Piece):
        logprobs = _logprobs(outcome.tokens, params)
        return {**_delta(outcome.index, {"content": outcome.text}), "logprobs": logprobs}
    if isinstance(outcome, AnswerCalls):
        calls = []
        for index, call in enumerate(outcome.calls):
            calls.append({"index": index, **_call(call)})
        return _delta(outcome.index, {"tool_calls": calls})
    assert isinstance(outcome, AnswerEnd)  # noqa: S101  inbox.parts raises ApiErrors, and chats get no Embeddings
    return {**_delta(outcome.index, {}), "finish_reason": outcome.reason, **_classification(outcome)}


def encode_event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _delta(index: int, delta: Body) -> Body:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _logprobs(tokens: Sequence[Likelihood], params: ChatParams) -> Body | None:
    if params.sampling.top_logprobs is None:
        return None
    return {"content": [likelihood_body(token) for token in tokens], "refusal": None}


def likelihood_body(likelihood: Likelihood) -> Body:
    others = [_token(token, logprob) for token, logprob in likelihood.others]
    return {**_token(likelihood.token, likelihood.logprob), "top_logprobs": others}


def _token(token: bytes, logprob: float) -> Body:
    """A token may be a part of a character, whose text is then meaningless; clients decode the bytes of all parts."""
    return {"token": token.decode(errors="replace"), "bytes": list(token), "logprob": logprob}


def usage_body(ends: Sequence[AnswerEnd]) -> Body:
    """Counts the prompt once, however many answers it got. Models don't reason before they answer here."""
    prompt = ends[0].prompt_tokens
    completion = sum(end.completion_tokens for end in ends)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": ends[0].cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }
