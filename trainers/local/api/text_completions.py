"""POST /v1/completions: a model continues a text as it is, without a chat template."""

from __future__ import annotations

import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Annotated, Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from trainers.http.errors import ApiError, invalid, read_body
from trainers.local.api.chat_completions import Body, encode_event, usage_body
from trainers.local.api.chat_requests import OF_VLLM, SamplingBody, check_parameter, read_model_name
from trainers.local.api.inbox import Inbox
from trainers.local.serving import values
from trainers.local.serving.answers import MAX_OPEN_ROWS
from trainers.local.serving.values import (
    AnswerEnd,
    GenerationEngine,
    Likelihood,
    Outcome,
    Piece,
    Sampling,
    Target,
)
from trainers.typed_tables import Limits

MAX_LOGPROBS = 5
DEFAULT_MAX_TOKENS = 16  # OpenAI's, for this endpoint only
KNOWN = frozenset(
    {
        *("model", "prompt", "temperature", "top_p", "max_tokens", "stop", "seed"),
        *("stream", "stream_options", "n", "logprobs", "frequency_penalty", "presence_penalty", "logit_bias"),
        *("guided_choice", "structured_outputs", "user", "metadata"),
        *OF_VLLM,
    }
)
NEUTRAL: Mapping[str, tuple[object, ...]] = {"echo": (False,), "suffix": ("",), "best_of": (1,)}

Prompt = str | Sequence[int]


@dataclass(frozen=True)
class TextParams:
    model: str
    prompts: Sequence[Prompt]
    sampling: Sampling
    streams: bool
    includes_usage: bool

    @property
    def answer_count(self) -> int:
        return len(self.prompts) * self.sampling.n


@dataclass(frozen=True)
class TextBody(SamplingBody):
    logprobs: Annotated[int, Limits(ge=0, le=MAX_LOGPROBS)] | None = None


def parse_text(body: Mapping[str, Any]) -> TextParams:
    """Raises ApiError (400), which names the field."""
    for name, value in body.items():
        check_parameter(name, value, KNOWN, NEUTRAL)
    fields = read_body(TextBody, body, takes_others=True)
    sampling = fields.sampling(body, fields.logprobs)
    if sampling.max_tokens is None:
        sampling = replace(sampling, max_tokens=DEFAULT_MAX_TOKENS)
    prompts = _prompts(body.get("prompt"))
    answers = len(prompts) * sampling.n
    if answers > MAX_OPEN_ROWS:
        text = f"'prompt' and 'n' ask for {answers} answers; the limit is {MAX_OPEN_ROWS}."
        raise invalid(text, "prompt")
    return TextParams(
        model=read_model_name(body),
        prompts=prompts,
        sampling=sampling,
        streams=fields.stream,
        includes_usage=fields.stream_options.include_usage,
    )


def _prompts(value: object) -> Sequence[Prompt]:
    """Reads one text, one list of token ids, or a list of these."""
    single = _prompt(value)
    if single:
        return [single]
    items = value if isinstance(value, list) else []
    prompts = [prompt for prompt in map(_prompt, items) if prompt]
    if not prompts or len(prompts) < len(items):
        text = "'prompt' must be text, a list of token ids, or a list of these, none of them empty."
        raise invalid(text, "prompt", "invalid_type")
    return prompts


def _prompt(value: object) -> Prompt | None:
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        return None
    if not all(type(token) is int and token >= 0 for token in value):  # not isinstance: True is an int
        return None
    return tuple(value)


async def continue_text(
    request: Request, engine: GenerationEngine, target: Target, params: TextParams
) -> Response:
    """Answers a request. Raises ApiError before the first byte is sent; a later error is the stream's last event."""
    inbox = Inbox(request)
    for index, prompt in enumerate(params.prompts):
        first_answer = index * params.sampling.n
        emit = _renumbering(inbox, first_answer)
        completion = values.Request(
            target, (), params.sampling, params.streams, emit, ticket=inbox.ticket, prompt=prompt
        )
        try:
            engine.submit(completion)
        except ApiError:
            inbox.abandon()  # prompts before this one are queued already
            raise
    head: Body = {
        "id": f"cmpl-{secrets.token_hex(12)}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": params.model,
    }
    if not params.streams:
        answers = await inbox.answers(params.answer_count)
        choices = [
            _choice(answer.end.index, answer.text, answer.tokens, params, reason=answer.end.reason)
            for answer in answers
        ]
        usage = _usage([answer.end for answer in answers], params)
        return JSONResponse({**head, "choices": choices, "usage": usage})
    first = await inbox.next_outcome()
    return StreamingResponse(_events(first, inbox, head, params), media_type="text/event-stream")


def _renumbering(inbox: Inbox, before: int) -> values.Emit:
    """Returns an `emit` that adds `before`, the number of answers to earlier prompts, to an answer's number."""

    def emit(outcome: Outcome) -> None:
        if isinstance(outcome, Piece | AnswerEnd):
            outcome = replace(outcome, index=before + outcome.index)
        inbox.put(outcome)

    return emit


async def _events(first: Outcome, inbox: Inbox, head: Body, params: TextParams) -> AsyncIterator[bytes]:
    chunk = {**head}
    if params.includes_usage:
        chunk["usage"] = None  # as OpenAI's chunks before the last
    ends: list[AnswerEnd] = []
    sent: Counter[int] = Counter()  # characters of each answer
    try:
        async for outcome in inbox.parts(first, params.answer_count):
            if isinstance(outcome, Piece):
                at = outcome.index
                choice = _choice(at, outcome.text, outcome.tokens, params, offset=sent[at])
                sent[at] += sum(len(_text_of(token)) for token in outcome.tokens)
                yield encode_event({**chunk, "choices": [choice]})
            elif isinstance(outcome, AnswerEnd):
                ends.append(outcome)
                at = outcome.index
                choice = _choice(at, "", (), params, offset=sent[at], reason=outcome.reason)
                yield encode_event({**chunk, "choices": [choice]})
        if params.includes_usage:
            yield encode_event({**chunk, "choices": [], "usage": _usage(ends, params)})
        yield b"data: [DONE]\n\n"
    except ApiError as problem:
        yield encode_event({"error": problem.body()})
    finally:
        inbox.abandon()


def _choice(
    index: int,
    text: str,
    tokens: Sequence[Likelihood],
    params: TextParams,
    *,
    offset: int = 0,
    reason: str | None = None,
) -> Body:
    logprobs = _logprobs(tokens, params, offset)
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


def _text_of(token: Likelihood) -> str:
    return token.token.decode(errors="replace")


def _logprobs(tokens: Sequence[Likelihood], params: TextParams, offset: int) -> Body | None:
    """Returns the log-probabilities as four parallel lists, the form of this endpoint. `offset` is the number of
    characters before these tokens."""
    if params.sampling.top_logprobs is None:
        return None
    texts = [_text_of(token) for token in tokens]
    return {
        "tokens": texts,
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": [
            {other.decode(errors="replace"): logprob for other, logprob in token.others} for token in tokens
        ],
        "text_offset": [*accumulate(map(len, texts), initial=offset)][:-1],
    }


def _usage(ends: Sequence[AnswerEnd], params: TextParams) -> Body:
    """Counts each prompt once, however many answers it got."""
    firsts = [end for end in ends if end.index % params.sampling.n == 0]
    prompt = sum(end.prompt_tokens for end in firsts)
    usage = usage_body(ends)
    return {
        **usage,
        "prompt_tokens": prompt,
        "total_tokens": prompt + usage["completion_tokens"],
        "prompt_tokens_details": {"cached_tokens": sum(end.cached_tokens for end in firsts)},
    }
