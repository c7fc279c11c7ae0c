"""A vendor that answers chats, on loopback: with keep-alive, streams, tools and refusals of parameters as OpenAI's API
reference describes them. It keeps a record of what it was asked.

`python -m tests.peers.chat_vendor --delay 0.03` runs it in a process of its own, for measurements; it prints its
address."""

from __future__ import annotations

import argparse
import asyncio
import json
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from trainers.http import responses
from trainers.http.connections import server_config
from trainers.http.errors import ApiError
from trainers.http.sockets import address_of, listen

KEY = "sk-vendor-0123456789"
BACKLOG = (
    4096  # as behind a load balancer: no connection is refused because this process was slow for a second
)
Body = dict[str, Any]


def last_words(body: Body) -> str:
    """Answers with the last word of the question."""
    content = body["messages"][-1]["content"]
    return str(content).split()[-1]


@dataclass
class ChatVendor:
    """`refuses` maps a parameter to the sentence with which it is refused. `failures` are answers with an error, the
    next first. `breaks_after` cuts streams after as many parts. A stream has `pieces` in place of its answer, if there
    are any."""

    answer: Callable[[Body], str] = last_words
    delay_s: float = 0.0
    part_s: float = 0.0
    parts: int = 3
    pieces: tuple[str, ...] = ()
    refuses: dict[str, str] = field(default_factory=dict)
    failures: deque[tuple[int, Body]] = field(default_factory=deque)
    breaks_after: int | None = None
    requests: list[Body] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    hung_up: int = 0
    keeps_record: bool = True
    url: str = ""

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/responses", self._respond, methods=["POST"]),
            ]
        )

    async def _respond(self, request: Request) -> Response:
        body = json.loads(await request.body())
        self.requests.append(body)
        for name, sentence in self.refuses.items():
            if name in body:
                return JSONResponse(error(sentence, "unsupported_parameter", name), 400)
        text = self.answer({"messages": body["input"]})
        tokens = {
            "prompt_tokens": 5,
            "completion_tokens": 7,
            "total_tokens": 12,
            "prompt_tokens_details": {"cached_tokens": 2},
        }
        parts = [responses.Text(text), responses.End(is_cut=False, usage=tokens)]
        try:
            begun = responses.new_head(body["model"], responses.echo(body))
        except ApiError as refusal:
            return refusal.response()
        if not body.get("stream"):
            return JSONResponse(responses.complete_body(begun, parts))

        async def each() -> AsyncIterator[responses.Part]:
            for part in parts:
                yield part

        return StreamingResponse(responses.encode_events(begun, each()), media_type="text/event-stream")

    async def _chat(self, request: Request) -> Response:
        body = json.loads(await request.body())
        if self.keeps_record:
            self.requests.append(body)
            self.headers.append(dict(request.headers))
        if self.failures:
            status, content = self.failures.popleft()
            return JSONResponse(content, status, headers={"x-request-id": "req_1", "retry-after": "1"})
        if request.headers.get("authorization") != f"Bearer {KEY}":
            return JSONResponse(error("Incorrect API key provided.", "invalid_api_key"), 401)
        for name, sentence in self.refuses.items():
            if name in body:
                return JSONResponse(error(sentence, "unsupported_parameter", name), 400)
        await asyncio.sleep(self.delay_s)
        if body.get("stream"):
            return StreamingResponse(self._stream(body), media_type="text/event-stream")
        message: Body = {"role": "assistant", "content": self.answer(body), "refusal": None}
        finish = "stop"
        if body.get("tools") and body["messages"][-1]["role"] == "user":
            function = {"name": body["tools"][0]["function"]["name"], "arguments": '{"city": "Paris"}'}
            message["content"] = None
            message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
            finish = "tool_calls"
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": finish}
        return JSONResponse(
            {**head(body), "object": "chat.completion", "choices": [choice], "usage": usage(body)}
        )

    async def _stream(self, body: Body) -> AsyncIterator[bytes]:
        chunk = {**head(body), "object": "chat.completion.chunk"}
        try:
            pieces = self.pieces or (f"{self.answer(body)} ",) * self.parts
            for number, piece in enumerate(pieces):
                if number == self.breaks_after:
                    raise ConnectionResetError("as if a proxy had cut the stream")
                delta = {"content": piece}
                if number == 0:
                    delta["role"] = "assistant"
                choice = {"index": 0, "delta": delta, "finish_reason": None}
                yield event({**chunk, "choices": [choice]})
                await asyncio.sleep(self.part_s)
            yield event({**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            if (body.get("stream_options") or {}).get("include_usage"):
                yield event({**chunk, "choices": [], "usage": usage(body)})
            yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.hung_up += 1
            raise


def head(body: Body) -> Body:
    return {"id": "chatcmpl-1", "created": 1_780_000_000, "model": body["model"]}


def usage(body: Body) -> Body:
    prompt = sum(len(str(message.get("content"))) for message in body["messages"])
    details = {"cached_tokens": prompt // 2}
    return {
        "prompt_tokens": prompt,
        "completion_tokens": 7,
        "total_tokens": prompt + 7,
        "prompt_tokens_details": details,
    }


def error(message: str, code: str, param: str | None = None) -> Body:
    return {"error": {"message": message, "type": "invalid_request_error", "param": param, "code": code}}


def event(body: Body) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


@contextmanager
def serve_vendor(vendor: ChatVendor) -> Iterator[ChatVendor]:
    """Runs the vendor in a thread."""
    listener = listen("127.0.0.1", 0)
    server = uvicorn.Server(server_config(vendor.app(), 1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    vendor.url = address_of("127.0.0.1", listener)
    try:
        yield vendor
    finally:
        server.should_exit = True
        thread.join(20)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay", type=float, default=0.0)
    parser.add_argument("--part", type=float, default=0.0)
    parser.add_argument("--parts", type=int, default=3)
    options = parser.parse_args()
    vendor = ChatVendor(delay_s=options.delay, part_s=options.part, parts=options.parts, keeps_record=False)
    listener = listen("127.0.0.1", 0)
    print(address_of("127.0.0.1", listener), flush=True)
    config = server_config(vendor.app(), 1)
    config.backlog = BACKLOG
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
