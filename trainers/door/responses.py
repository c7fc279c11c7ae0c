"""POST /v1/responses: passed on where the provider has this API, and translated into a chat and back where it hasn't. A
free candidate answers in its form too.

The prompt and the parameters are those that were measured. A recipe is applied to a conversation in full, so what names
one that a provider has stored is refused.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.responses import JSONResponse, Response

from trainers.door import chat, chat_answers, free_chat, relay
from trainers.door.calls import Body, Call
from trainers.door.counts import tokens_of, usage_of_stream
from trainers.door.streams import EventStream, StreamProgress, data_of, split_events
from trainers.door.upstreams import UpstreamAnswer
from trainers.http import responses
from trainers.http.errors import ApiError, as_object, invalid
from trainers.http.responses import End, FunctionCall, Part, Text
from trainers.models.chat_parameters import ChatParameters
from trainers.recipes import prompts

PATH = "/responses"
STORED = ("previous_response_id", "conversation", "background")
FINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
CAP = "max_output_tokens"


async def answer_response(call: Call) -> Response:
    """Answers a request for a response. Raises ApiError and VendorError."""
    for name in STORED:
        if call.body.get(name):
            text = f"'{name}' names what a provider has stored. Send the conversation in full as 'input'."
            raise invalid(text, name, "unsupported_parameter")
    if call.recipe.is_free:
        return await _answer_free(call)
    if call.upstream.has_responses:
        return await _pass_on(call)
    return await _translate(call)


async def _pass_on(call: Call) -> Response:
    items = responses.read_items(call.body)
    for item in items:
        if not isinstance(item, dict):
            raise invalid("Each item of 'input' must be an object.", "input", "invalid_type")
    shown = await call.loaded.show(items)
    prompt = prompts.write_prompt(call.recipe, items, shown)
    same = {name: value for name, value in call.body.items() if name != "instructions"}

    def write(ours: ChatParameters, *, counts_stream: bool) -> Body:
        # OpenAI would store it by default; a program that wants that says so.
        request = {"store": False, **same, "model": chat.model_of(call), "input": prompt}
        request[CAP] = ours.max_completion_tokens or ours.max_tokens
        if ours.temperature is not None:
            request["temperature"] = ours.temperature
        if ours.reasoning_effort is not None:
            reasoning = request.get("reasoning") or {}
            request["reasoning"] = {**reasoning, "effort": ours.reasoning_effort}
        return request

    named = _in_names_of_chats(call.body)
    answer, _ = await chat.ask_without_refused(call, PATH, named, write, wants_count=False)
    if call.body.get("stream") is not True:
        return relay.pass_on(call, answer)
    return relay.pass_on_events(call, answer, _usage_of_event, lambda event: False, encode_error)


def _in_names_of_chats(body: Body) -> Body:
    """Returns what a request says about decoding, as a chat would."""
    reasoning = as_object(body.get("reasoning"), "reasoning")
    return {
        "max_completion_tokens": body.get(CAP),
        "temperature": body.get("temperature"),
        "reasoning_effort": reasoning.get("effort"),
    }


def _usage_of_event(event: Mapping[str, Any]) -> object:
    if event.get("type") not in FINAL:
        return None
    response = event.get("response")
    if not isinstance(response, dict):
        return None
    return response.get("usage")


def encode_error(problem: ApiError) -> bytes:
    return responses.encode_event("error", 0, problem.body())


async def _translate(call: Call) -> Response:
    body = responses.as_chat(call.body)
    body.pop("metadata", None)  # a label for what OpenAI stores; others refuse it
    _check_tools(call, body.get("tools") or [])
    answer, _ = await chat.ask(call, body)
    echoed = responses.echo(call.body)
    head = responses.new_head(chat.model_of(call), echoed)
    if body.get("stream") is True:
        stream = _TranslatedStream(call, answer)
        return EventStream(stream.events(head), stream.close, progress=stream.progress)
    content = chat_answers.read_object(answer)
    parts = _parts_of(content)
    relay.note_answer(call, content, len(answer.content))
    call.note_own_id(head)
    return JSONResponse(responses.complete_body(head, parts))


def _check_tools(call: Call, tools: object) -> None:
    """Raises ApiError for a tool that only OpenAI runs, such as its search of the web."""
    if not isinstance(tools, list):
        raise invalid("'tools' must be a list.", "tools", "invalid_type")
    for number, tool in enumerate(tools):
        is_function = isinstance(tool, dict) and tool.get("type") == "function"
        if not is_function:
            name = f"tools[{number}]"
            text = f"{call.upstream.name} can call functions only, so '{name}' is refused."
            raise invalid(text, name, "unsupported_parameter")


def _parts_of(content: Mapping[str, Any]) -> Sequence[Part]:
    """Returns the parts of a complete chat. One that refuses says so as text."""
    choice = chat_answers.read_choice(content)
    message = choice["message"]
    is_cut = choice.get("finish_reason") == "length"
    parts: list[Part] = []
    text = chat_answers.read_text(message)
    if text:
        parts.append(Text(text))
    for tool_call in chat_answers.objects_in(message, "tool_calls"):
        match tool_call:
            case {"id": str(call_id), "function": {"name": str(name), "arguments": str(arguments)}}:
                parts.append(FunctionCall(call_id, name, arguments))
            case _:
                raise chat_answers.unreadable()
    usage = tokens_of(content.get("usage"))
    return [*parts, End(is_cut, usage)]


class _TranslatedStream:
    """A chat's stream as that of a response. Text goes on as it comes; calls are complete at the end."""

    def __init__(self, call: Call, answer: UpstreamAnswer) -> None:
        self._call = call
        self._answer = answer
        self._usage: object = None
        self.progress = StreamProgress()
        self._is_complete = False
        self._text = call.begin_stream()

    async def events(self, head: Body) -> AsyncGenerator[bytes, None]:
        self._call.note_own_id(head)
        number = 0
        try:
            async for event in responses.encode_events(head, self._parts()):
                yield event
                number += 1
            self._is_complete = True
        except ApiError as problem:
            self.progress.has_broken_off = True
            self._call.report_break()
            yield responses.encode_event("error", number, problem.body())

    async def _parts(self) -> AsyncIterator[Part]:
        """Raises UpstreamDown if the provider breaks off, and ApiError (502) for what is no chat."""
        calls: dict[int, dict[str, str]] = {}
        is_cut = False
        async for events in split_events(self._answer.parts()):
            self.progress.has_begun = True
            for event in events:
                chunk = data_of(event) or {}
                if self._text is not None:
                    self._text.add_chunk(chunk)
                self._usage = chunk.get("usage") or self._usage
                for choice in chat_answers.objects_in(chunk, "choices"):
                    delta = chat_answers.object_in(choice, "delta")
                    is_cut = is_cut or choice.get("finish_reason") == "length"
                    text = chat_answers.read_text(delta)
                    if text:
                        yield Text(text)
                    call_deltas = chat_answers.objects_in(delta, "tool_calls")
                    chat_answers.add_calls(calls, call_deltas)
        for index in sorted(calls):
            yield FunctionCall(**calls[index])
        yield End(is_cut, tokens_of(self._usage))

    async def close(self) -> None:
        self._answer.close()
        usage = usage_of_stream(self._usage, is_complete=self._is_complete)
        self._call.count(usage)
        if self._is_complete:
            self._call.end_stream(self._text, usage)


async def _answer_free(call: Call) -> Response:
    body = responses.as_chat(call.body)
    free_chat.check_request(call, body)
    text = await free_chat.answer_text(call, body["messages"])
    parts: list[Part] = [Text(text), End(is_cut=False, usage=free_chat.NO_TOKENS)]
    echoed = responses.echo(call.body)
    head = responses.new_head(call.name, echoed)
    free_chat.note_answer(call, head, text)
    if body.get("stream") is not True:
        return JSONResponse(responses.complete_body(head, parts))

    async def each() -> AsyncIterator[Part]:
        for part in parts:
            yield part

    async def events() -> AsyncGenerator[bytes, None]:
        async for event in responses.encode_events(head, each()):
            yield event

    return EventStream(events(), free_chat.nothing_to_close)
