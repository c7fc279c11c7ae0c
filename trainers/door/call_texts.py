"""Reads the texts of a call, for what is stored of it: its question, and its answer in full or from the events of a
stream. Neither what a program has sent nor what a provider has answered makes it fail.

Calls of tools are written as rows of data have them: a message's text, and in a line after it the calls as JSON.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from trainers.dataset.rows import text_of_content
from trainers.door import chat_answers
from trainers.door.streams import data_of
from trainers.http import responses
from trainers.http.errors import ApiError
from trainers.recipes.prompts import ROLES

MOST_LETTERS = 100_000  # of a call's question and answer together
FINAL_RESPONSES = frozenset({"response.completed", "response.incomplete"})
FINAL_EVENTS = tuple(f"event: {kind}".encode() for kind in FINAL_RESPONSES)


@dataclass(frozen=True)
class Turn:
    """A message. Its texts are lines of it."""

    role: str
    texts: tuple[str, ...]


def read_question(body: Mapping[str, Any]) -> Sequence[Turn] | None:
    """Returns the messages of a chat, of Responses or of a classified text. Returns None if there is anything but text
    in them."""
    try:
        messages = body.get("messages") or responses.as_chat(body)["messages"]
    except ApiError:
        return None  # an item of Responses that chats don't have, such as a search of the web
    turns = []
    for message in messages:
        turn = _read_message(message)
        if turn is None:
            return None
        turns.append(turn)
    return turns


def read_answer(content: Mapping[str, Any]) -> Turn | None:
    """Returns a complete answer: of a chat the first choice, None if it is no text and calls no tool."""
    if "output" in content:
        return _read_response(content)
    try:
        message = chat_answers.read_choice(content)["message"]
    except ApiError:
        return None
    if message.get("content") is None and message.get("refusal"):
        message = {"content": message["refusal"]}
    return _answer_or_none(_read_message({**message, "role": "assistant"}))


def _read_message(message: Mapping[str, Any]) -> Turn | None:
    role = message.get("role")
    text = text_of_content(message.get("content"))
    if text is None or not isinstance(role, str) or role not in ROLES or message.get("audio"):
        return None
    calls = message.get("tool_calls") or message.get("function_call")
    if not calls:
        return Turn(role, (text,))
    return Turn(role, _with_calls(text, calls))


def _read_response(response: Mapping[str, Any]) -> Turn | None:
    """Returns the texts and calls of an answer to Responses. Its thoughts are no part of it."""
    texts: list[str] = []
    calls = []
    try:
        for item in chat_answers.objects_in(response, "output"):
            match item:
                case {"type": "message"}:
                    parts = chat_answers.objects_in(item, "content")
                    texts += [
                        chat_answers.text_in(part, "text") or chat_answers.text_in(part, "refusal")
                        for part in parts
                    ]
                case {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}:
                    calls.append(_call_of_chat(call_id, name, arguments))
                case {"type": "reasoning"}:
                    pass
                case _:
                    return None
    except ApiError:
        return None
    return _answer_or_none(Turn("assistant", _with_calls("".join(texts), calls)))


def _call_of_chat(call_id: object, name: object, arguments: object) -> Mapping[str, Any]:
    return {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}


def _with_calls(text: str, calls: object) -> tuple[str, ...]:
    lines = [text] if text or not calls else []
    if calls:
        lines.append(orjson.dumps(calls).decode())
    return tuple(lines)


def _answer_or_none(turn: Turn | None) -> Turn | None:
    if turn is None or not any(turn.texts):
        return None
    return turn


@dataclass
class StreamedText:
    """Collects the answer of a stream from its events, as they pass; of one that gets too long only its `letters`.
    `is_complete` once the stream has said so. `is_unreadable`: an event was no part of a chat."""

    letters: int = 0
    is_complete: bool = False
    is_unreadable: bool = False
    _texts: list[str] = field(default_factory=list)
    _calls: dict[int, dict[str, str]] = field(default_factory=dict)
    _response: Turn | None = None

    @property
    def is_too_long(self) -> bool:
        return self.letters > MOST_LETTERS

    def add(self, events: Sequence[bytes]) -> None:
        """Reads events, each as it came."""
        for event in events:
            # Of Responses the last event repeats the answer, so that the others needn't be read.
            if not event.startswith(b"event: response.") or event.startswith(FINAL_EVENTS):
                self.add_chunk(data_of(event) or {})

    def add_chunk(self, chunk: Mapping[str, Any]) -> None:
        """Reads an event's object."""
        if self.is_unreadable:
            return
        try:
            if chunk.get("type") in FINAL_RESPONSES:
                self._response = _read_response(chat_answers.object_in(chunk, "response"))
                self.is_complete = True
            for choice in chat_answers.objects_in(chunk, "choices"):
                if choice.get("index", 0) == 0:
                    self._add_choice(choice)
        except ApiError:
            self.is_unreadable = True
            self.is_complete = False

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        delta = chat_answers.object_in(choice, "delta")
        text = chat_answers.read_text(delta)
        deltas = chat_answers.objects_in(delta, "tool_calls")
        self.is_complete = self.is_complete or choice.get("finish_reason") is not None
        self.letters += len(text) + sum(len(str(each)) for each in deltas)
        if self.is_too_long:
            self._texts.clear()
            self._calls.clear()
            return
        self._texts.append(text)
        chat_answers.add_calls(self._calls, deltas)

    def read(self) -> Turn | None:
        """Returns the answer, None if it has no text and calls no tool."""
        if self._response is not None:
            return self._response
        calls = [
            _call_of_chat(call["id"], call["name"], call["arguments"])
            for _, call in sorted(self._calls.items())
        ]
        return _answer_or_none(Turn("assistant", _with_calls("".join(self._texts), calls)))
