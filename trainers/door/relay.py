"""Asks a provider in a program's place, and passes on its answer, complete or event by event. Counts its tokens on the
way."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson
from starlette.responses import Response

from trainers.door.call_texts import StreamedText, read_answer
from trainers.door.calls import Body, Call
from trainers.door.chat_answers import read_object
from trainers.door.counts import usage_of, usage_of_stream
from trainers.door.streams import EventStream, StreamProgress, data_of, split_events
from trainers.door.upstreams import TAKEN_ALONG, UpstreamAnswer, UpstreamDown
from trainers.http.errors import ApiError, invalid

ReadUsage = Callable[[Mapping[str, Any]], object]
"""Returns the usage that an answer or an event names, in whatever form; None if it names none."""
IsOurs = Callable[[Mapping[str, Any]], bool]
"""True for an event with usage that the program has not asked for."""
EncodeError = Callable[[ApiError], bytes]
"""Returns the event that ends a stream which broke off."""


async def send(call: Call, path: str, body: Body) -> UpstreamAnswer:
    """Asks the call's provider. Raises ApiError and VendorError."""
    headers = _take_headers(call)
    is_stream = body.get("stream") is True
    url = call.base_url + path
    return await call.client.send(call.upstream, url, orjson.dumps(body), headers, is_stream=is_stream)


def _take_headers(call: Call) -> Mapping[str, str]:
    """Returns what the provider gets of the program's headers. Raises ApiError (400)."""
    headers = {name: call.headers[name] for name in TAKEN_ALONG if name in call.headers}
    for name, text in headers.items():
        if not text.isascii() or not text.isprintable():
            raise invalid(f"The header '{name}' must be printable ASCII.", name)
    return headers


def pass_on(call: Call, answer: UpstreamAnswer) -> Response:
    """Returns an answer that has arrived, as it came."""
    note_answer(call, _object_in(answer), len(answer.content))
    return Response(answer.content, answer.status, answer.headers)


def note_answer(call: Call, content: Mapping[str, Any], size: int) -> None:
    """Counts a complete answer of a provider, and has it stored if it is drawn."""
    usage = usage_of(content.get("usage"))
    call.count(usage)
    call.note_own_id(content)
    if call.is_drawn():
        call.sample(partial(read_answer, content), usage, size)


def _object_in(answer: UpstreamAnswer) -> Mapping[str, Any]:
    """Returns what a provider has answered, {} if that is no object of JSON."""
    try:
        return read_object(answer)
    except ApiError:
        return {}


def pass_on_events(
    call: Call,
    answer: UpstreamAnswer,
    read_usage: ReadUsage,
    is_ours: IsOurs,
    encode_error: EncodeError,
) -> EventStream:
    """Returns a stream that passes on a provider's events, without those that are ours."""
    stream = ForwardedStream(call, answer, read_usage, is_ours, encode_error)
    return EventStream(stream.events(), stream.close, answer.headers, stream.progress)


@dataclass
class ForwardedStream:
    call: Call
    answer: UpstreamAnswer
    read_usage: ReadUsage
    is_ours: IsOurs
    encode_error: EncodeError
    progress: StreamProgress = field(default_factory=StreamProgress)
    _usage: object = None
    _is_complete: bool = field(default=False)
    _has_id: bool = field(default=False)
    _text: StreamedText | None = field(init=False)

    def __post_init__(self) -> None:
        self._text = self.call.begin_stream()

    async def events(self) -> AsyncGenerator[bytes, None]:
        try:
            async for events in split_events(self.answer.parts()):
                self.progress.has_begun = True
                passed = [event for event in events if not self._note(event)]
                if passed:
                    yield b"".join(passed)
                self._read(events)  # after they are sent, so that none is late
            self._is_complete = True
        except UpstreamDown as problem:
            self.progress.has_broken_off = True
            self.call.report_break()
            yield self.encode_error(problem)

    def _note(self, event: bytes) -> bool:
        """Notes the usage in an event. Returns True if the event is ours."""
        if b'"usage"' not in event:
            return False
        body = data_of(event)
        if body is None:
            return False
        usage = self.read_usage(body)
        if usage is None:
            return False
        self._usage = usage
        return self.is_ours(body)

    def _read(self, events: Sequence[bytes]) -> None:
        """Reads events for what is stored of the call: its id, and its text if it was drawn."""
        if not self._has_id and events:
            self._has_id = True
            chunk = data_of(events[0]) or {}
            response = chunk.get("response")
            self.call.note_own_id(response if isinstance(response, dict) else chunk)
        if self._text is not None:
            self._text.add(events)

    async def close(self) -> None:
        self.answer.close()
        usage = usage_of_stream(self._usage, is_complete=self._is_complete)
        self.call.count(usage)
        if self._is_complete:
            self.call.end_stream(self._text, usage)
