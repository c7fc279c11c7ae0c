"""The question and the answer of a call are read as rows have them; conversations are told apart by their beginning."""

from __future__ import annotations

from typing import Any

import pytest

from trainers.door.call_texts import StreamedText, Turn, read_answer, read_question
from trainers.door.conversations import HEADER, hash_conversation
from trainers.door.streams import encode_event
from trainers.http.responses import encode_event as encode_response_event

CALLS = [{"id": "c1", "type": "function", "function": {"name": "pay", "arguments": "{}"}}]
CALLS_TEXT = '[{"id":"c1","type":"function","function":{"name":"pay","arguments":"{}"}}]'
USER: Any = {"role": "user", "content": "Hello"}


@pytest.mark.parametrize(
    ("body", "turns"),
    [
        ({"messages": [USER]}, [Turn("user", ("Hello",))]),
        (
            {"messages": [{"role": "assistant", "content": None, "tool_calls": CALLS}]},
            [Turn("assistant", (CALLS_TEXT,))],
        ),
        (
            {"messages": [{"role": "assistant", "content": "I pay", "tool_calls": CALLS}]},
            [Turn("assistant", ("I pay", CALLS_TEXT))],
        ),
        ({"input": "Hello", "instructions": "Be"}, [Turn("system", ("Be",)), Turn("user", ("Hello",))]),
        ({"input": [{"type": "web_search_call", "id": "w"}]}, None),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, None),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, None),
    ],
)
def test_a_question_is_read_as_a_row(body: Any, turns: list[Turn] | None) -> None:
    assert read_question(body) == turns


def choice_of(**message: Any) -> Any:
    return {"choices": [{"index": 0, "message": message}]}


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (choice_of(content="billing"), ("billing",)),
        (choice_of(content=None, refusal="I can't"), ("I can't",)),
        (choice_of(content=None, tool_calls=CALLS), (CALLS_TEXT,)),
        (choice_of(content=None, audio={"data": "AAAA"}), None),
        (choice_of(content=7), None),
        ({"choices": "x"}, None),
        ({}, None),
        ({"output": [{"type": "reasoning"}, {"type": "message", "content": [{"text": "ok"}]}]}, ("ok",)),
        (
            {"output": [{"type": "function_call", "call_id": "c1", "name": "pay", "arguments": "{}"}]},
            (CALLS_TEXT,),
        ),
        ({"output": [{"type": "image_generation_call", "result": "AAAA"}]}, None),
        ({"output": [{"type": "message", "content": 7}]}, None),
    ],
)
def test_an_answer_is_read_or_is_no_text(content: Any, texts: tuple[str, ...] | None) -> None:
    assert read_answer(content) == (None if texts is None else Turn("assistant", texts))


def chunk_of(finish: str | None = None, index: int = 0, **delta: Any) -> bytes:
    return encode_event({"choices": [{"index": index, "delta": delta, "finish_reason": finish}]})


def test_a_streams_answer_is_the_first_choice_with_its_calls() -> None:
    streamed = StreamedText()
    begun = {"index": 0, "id": "c1", "function": {"name": "pay", "arguments": "{"}}
    streamed.add([chunk_of(content="I "), chunk_of(index=1, content="other"), chunk_of(content="pay")])
    streamed.add([chunk_of(tool_calls=[begun]), b": a comment\n\n"])
    assert not streamed.is_complete
    streamed.add([chunk_of(tool_calls=[{"index": 0, "function": {"arguments": "}"}}])])
    streamed.add([chunk_of(finish="tool_calls"), b"data: [DONE]\n\n"])
    assert streamed.is_complete
    assert streamed.read() == Turn("assistant", ("I pay", CALLS_TEXT))


def test_of_responses_the_last_event_has_the_answer() -> None:
    streamed = StreamedText()
    final = {"output": [{"type": "message", "content": [{"text": "billing"}]}]}
    streamed.add([encode_response_event("response.output_text.delta", 1, {"delta": "bil"})])
    assert not streamed.is_complete
    streamed.add([encode_response_event("response.completed", 2, {"response": final})])
    assert streamed.is_complete
    assert streamed.read() == Turn("assistant", ("billing",))


@pytest.mark.parametrize(
    "event",
    [
        {"choices": 7},
        {"choices": [{"delta": {"content": 7}, "finish_reason": "stop"}]},
        {"choices": [{"delta": {"tool_calls": [{"index": "x"}]}, "finish_reason": "stop"}]},
        {"type": "response.completed", "response": 7},
    ],
)
def test_a_stream_that_is_no_chat_is_never_complete(event: Any) -> None:
    streamed = StreamedText()
    streamed.add([encode_event(event), chunk_of(finish="stop", content="x")])
    assert not streamed.is_complete


def conversation_of(body: Any, header: str = "", key: str = "key") -> str:
    return hash_conversation(key, body, {HEADER: header} if header else {})


def test_turns_of_a_conversation_have_the_same_hash() -> None:
    system = {"role": "system", "content": "Be brief."}
    first = {"messages": [system, USER]}
    later = {"messages": [system, USER, {"role": "assistant", "content": "Hi"}, {**USER, "content": "And"}]}
    same = conversation_of(first)
    assert conversation_of(later) == same
    assert len(same) == 32 and "Hello" not in same
    others = [
        conversation_of(first, key="another"),
        conversation_of({**first, "user": "u1"}),
        conversation_of({"messages": [USER]}),
        conversation_of({"input": "Hello"}),
        conversation_of({"input": "Hello", "instructions": "Be brief."}),
        conversation_of(first, header="c1"),
        conversation_of({**first, "metadata": {"session_id": "s1"}}),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_a_program_can_name_its_conversations() -> None:
    named = conversation_of({"messages": [USER]}, header="c1")
    assert conversation_of({"input": "Something else"}, header="c1") == named
    assert conversation_of({"input": "x", "metadata": {"conversation_id": "c1"}}) == named
    assert conversation_of({"input": "x", "metadata": {"conversation_id": 7}}) == conversation_of(
        {"input": "x"}
    )
