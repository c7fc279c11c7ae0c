"""Chat completions: waits for the generator, answers whole or as server-sent events, and notices who hung up."""

from __future__ import annotations

import secrets
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from trainers.local.api.chat import ChatOrder
from trainers.local.api.waiting import Inbox
from trainers.local.problems import Problem
from trainers.local.serving import values
from trainers.local.serving.serve import Generator
from trainers.local.serving.values import Answered, Likelihood, Outcome, Piece, Target

Body = dict[str, Any]


async def complete(request: Request, generator: Generator, target: Target, order: ChatOrder) -> Response:
    """Raises Problem before the first byte is sent; after it a problem is a last event of the stream."""
    inbox = Inbox(request)
    asked = values.Request(target, order.messages, order.sampling, order.streams, inbox.put)
    inbox.ticket = generator.submit(asked)
    head = {"id": f"chatcmpl-{secrets.token_hex(12)}", "created": int(time.time()), "model": order.model}
    if not order.streams:
        return JSONResponse(await _whole(inbox, head, order))
    first = await inbox.next_or_hung_up()
    return StreamingResponse(_events(first, inbox, head, order), media_type="text/event-stream")


async def _whole(inbox: Inbox, head: Body, order: ChatOrder) -> Body:
    pieces: list[Piece] = []
    ends: dict[int, Answered] = {}
    while len(ends) < order.sampling.n:
        outcome = await inbox.next_or_hung_up()
        if isinstance(outcome, Answered):
            ends[outcome.index] = outcome
        elif isinstance(outcome, Piece):
            pieces.append(outcome)
    choices = [
        _choice(ends[index], [piece for piece in pieces if piece.index == index], order)
        for index in sorted(ends)
    ]
    return {**head, "object": "chat.completion", "choices": choices, "usage": _usage(list(ends.values()))}


def _choice(end: Answered, pieces: Sequence[Piece], order: ChatOrder) -> Body:
    message = {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None}
    told = [token for piece in pieces for token in piece.tokens]
    return {
        "index": end.index,
        "message": message,
        "logprobs": _logprobs(told, order),
        "finish_reason": end.reason,
    }


async def _events(first: Outcome, inbox: Inbox, head: Body, order: ChatOrder) -> AsyncIterator[bytes]:
    usage = {"usage": None} if order.includes_usage else {}
    chunk = {**head, "object": "chat.completion.chunk", **usage}
    ends: list[Answered] = []
    try:
        for index in range(order.sampling.n):
            start = {"role": "assistant", "content": "", "refusal": None}
            yield _event({**chunk, "choices": [_delta(index, start)]})
        outcome = first
        while True:
            yield _event({**chunk, "choices": [_change(outcome, order)]})
            ends += [outcome] if isinstance(outcome, Answered) else []
            if len(ends) == order.sampling.n:
                break
            outcome = await inbox.next()
        if order.includes_usage:
            yield _event({**chunk, "choices": [], "usage": _usage(ends)})
        yield b"data: [DONE]\n\n"
    except Problem as problem:
        yield _event({"error": problem.body()})
    finally:
        inbox.abandon()


def _change(outcome: Outcome, order: ChatOrder) -> Body:
    if isinstance(outcome, Piece):
        logprobs = _logprobs(outcome.tokens, order)
        return {**_delta(outcome.index, {"content": outcome.text}), "logprobs": logprobs}
    assert isinstance(outcome, Answered)  # noqa: S101  a Problem was raised, and a chat gets no vectors
    return {**_delta(outcome.index, {}), "finish_reason": outcome.reason}


def _event(body: Mapping[str, Any]) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _delta(index: int, delta: Body) -> Body:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}


def _logprobs(tokens: Sequence[Likelihood], order: ChatOrder) -> Body | None:
    if order.sampling.top_logprobs is None:
        return None
    return {"content": [_likelihood(token) for token in tokens], "refusal": None}


def _likelihood(one: Likelihood) -> Body:
    others = [_token(token, logprob) for token, logprob in one.others]
    return {**_token(one.token, one.logprob), "top_logprobs": others}


def _token(token: bytes, logprob: float) -> Body:
    """A part of a character has no text of its own: a client puts characters together out of the bytes."""
    return {"token": token.decode(errors="replace"), "bytes": list(token), "logprob": logprob}


def _usage(ends: Sequence[Answered]) -> dict[str, int]:
    """The prompt is counted once, however many answers it got."""
    prompt, completion = ends[0].prompt_tokens, sum(end.completion_tokens for end in ends)
    return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
