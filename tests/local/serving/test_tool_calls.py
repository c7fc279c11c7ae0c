"""Tool calls in the form that templates take, and parsed from what models of each family write."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from trainers.local.chat_renderer import message_for_template, render_chat
from trainers.local.tool_calls import ToolCall, parse_tool_calls

PARIS = ToolCall("get_weather", '{"city": "Paris"}')
SEND = ToolCall("send", '{"to": "O\'Brien, \\"Jo\\"", "count": 3, "urgent": true, "tags": ["a", "b"]}')
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Does it.",
            "parameters": {"type": "object", "properties": properties},
        },
    }
    for name, properties in (
        ("get_weather", {"city": {"type": "string", "description": "Where."}}),
        (
            "send",
            {
                "to": {"type": "string", "description": "Who."},
                "count": {"type": "integer", "description": "How many."},
                "urgent": {"type": "boolean", "description": "Whether."},
                "tags": {"type": "array", "items": {"type": "string"}, "description": "Which."},
            },
        ),
    )
]
JSON_CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
DEEPSEEK = "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
HARMONY = "<|channel|> commentary"

WRITTEN: dict[str, tuple[str, str]] = {
    "hermes": ("<tool_call>", f"<tool_call>\n{JSON_CALL}\n</tool_call>"),
    "hermes, cut at its end": ("<tool_call>", f"<tool_call>\n{JSON_CALL}\n"),
    "xml": (
        "<tool_call> <function=",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>",
    ),
    "glm": (
        "<tool_call> <arg_key>",
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>",
    ),
    "gemma": ("<|tool_call>call:", '<|tool_call>call:get_weather{city:<|"|>Paris<|"|>}<tool_call|>'),
    "lfm2": ("<|tool_call_start|>", '<|tool_call_start|>[get_weather(city="Paris")]<|tool_call_end|>'),
    "olmo": ("<function_calls>", '<function_calls>get_weather(city="Paris")</function_calls>'),
    "mistral, a list": ("[TOOL_CALLS]", f"[TOOL_CALLS] [{JSON_CALL}]"),
    "mistral, by name": ("[TOOL_CALLS]", '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}'),
    "mistral, with an id": ("[TOOL_CALLS]", '[TOOL_CALLS]get_weather[CALL_ID]a1[ARGS]{"city": "Paris"}'),
    "command": (
        "<|START_ACTION|>",
        '<|START_ACTION|>[{"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}]'
        "<|END_ACTION|>",
    ),
    "granite and phi": ("<|tool_call|>", f"<|tool_call|>[{JSON_CALL}]"),
    "llama's interpreter": (
        "<|python_tag|>",
        '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}',
    ),
    "llama's built-in": ("<|python_tag|>", '<|python_tag|>get_weather.call(city="Paris")'),
    "llama": ("<|python_tag|>", '{"name": "get_weather", "parameters": {"city": "Paris"}}'),
    "bare JSON of any family": ("{{ messages }}", f"```json\n{JSON_CALL}\n```"),
    "deepseek v3": (
        "<｜tool▁calls▁begin｜>",
        DEEPSEEK.format('function<｜tool▁sep｜>get_weather\n```json\n{"city": "Paris"}\n```'),
    ),
    "deepseek v3.1": (
        "<｜tool▁calls▁begin｜>",
        DEEPSEEK.format('get_weather<｜tool▁sep｜>{"city": "Paris"}'),
    ),
    "harmony": (
        "<|channel|>commentary",
        "<|channel|>analysis<|message|>Weather.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
        '<|constrain|>json<|message|>{"city": "Paris"}',
    ),
}


@pytest.mark.parametrize(("template", "text"), WRITTEN.values(), ids=WRITTEN.keys())
def test_each_familys_call_is_parsed(template: str, text: str) -> None:
    assert parse_tool_calls(text, template, TOOLS) == (None, (PARIS,))


def test_text_beside_calls_is_kept_and_calls_keep_their_order() -> None:
    rome = JSON_CALL.replace("Paris", "Rome")
    text = f"Let me look.\n<tool_call>\n{JSON_CALL}\n</tool_call>\n<tool_call>{rome}</tool_call>"
    content, calls = parse_tool_calls(text, "<tool_call>", TOOLS)
    assert content == "Let me look."
    assert [json.loads(call.arguments)["city"] for call in calls] == ["Paris", "Rome"]


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("<tool_call>", "It rains in Paris.\n"),
        ("<tool_call>", '<tool_call>{"name": "get_weather", "argum</tool_call>'),
        ("<tool_call>", '<tool_call>{"name": 3, "arguments": {}}</tool_call>'),
        ("<tool_call> <function=", "<tool_call>no function</tool_call>"),
        ("<|tool_call_start|>", "<|tool_call_start|>[__import__('os').system('true')]<|tool_call_end|>"),
        ("<|tool_call_start|>", "<|tool_call_start|>[f(a=open('x'))]<|tool_call_end|>"),
        ("<|tool_call_start|>", f"<|tool_call_start|>[f(a={'[' * 5000})]<|tool_call_end|>"),
        ("<|tool_call>call:", "<|tool_call>call:f{a:}<tool_call|>"),
        ("[TOOL_CALLS]", "[TOOL_CALLS]f[ARGS]{"),
        ("<｜tool▁calls▁begin｜>", DEEPSEEK.format("f<｜tool▁sep｜>{")),
        (None, '{"name": "Paris", "arguments": {}}'),
        (None, '["a", "b"]'),
        (None, '{"name": "get_weather"'),
        (None, ""),
    ],
)
def test_text_that_is_no_call_stays_text(template: str | None, text: str) -> None:
    assert parse_tool_calls(text, template, TOOLS) == (text, ())


def test_of_harmony_only_the_final_channel_is_kept() -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>It rains."
    assert parse_tool_calls(text, "<|channel|>commentary", TOOLS) == ("It rains.", ())
    assert parse_tool_calls("plain", "<|channel|>commentary", TOOLS) == ("plain", ())


def test_arguments_nested_too_deeply_to_be_parsed_stay_text() -> None:
    deep = "[" * 100_000
    text = f"<|channel|>commentary to=functions.send<|message|>{deep}<|call|>"
    assert parse_tool_calls(text, "<|channel|>commentary", TOOLS) == (deep, ())


def test_an_untyped_value_gets_the_type_in_the_tools_schema() -> None:
    text = "<tool_call><function={}><parameter=zip>\n75001\n</parameter></function></tool_call>"
    tools = [
        {"function": {"name": "a", "parameters": {"properties": {"zip": {"type": "string"}}}}},
        {"function": {"name": "b", "parameters": {"properties": {"zip": {"type": "integer"}}}}},
    ]
    parsed = [parse_tool_calls(text.format(name), "<tool_call> <function=", tools)[1] for name in "ab"]
    assert [calls[0].arguments for calls in parsed] == ['{"zip": "75001"}', '{"zip": 75001}']


def test_a_tokenizers_own_response_template_takes_precedence() -> None:
    response_template = {
        "fields": {
            "tool_calls": {
                "open": "<call>",
                "close": "</call>",
                "content": "json",
                "repeats": True,
                "transform": {"type": "function", "function": "{content}"},
            },
            "content": {"content": "text"},
        },
        "start_anchor": "<a>",
    }
    assert parse_tool_calls(f"Yes.<call>{JSON_CALL}</call>", None, TOOLS, response_template) == (
        "Yes.",
        (PARIS,),
    )
    assert parse_tool_calls("<call>{</call>", None, TOOLS, response_template) == ("<call>{</call>", ())


def test_a_message_is_converted_for_templates() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    raw = {"role": "assistant", "content": None, "refusal": None, "weight": 1, "tool_calls": [call]}
    assert message_for_template(raw) == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{**call, "function": {"name": "f", "arguments": {"a": 1}}}],
    }
    parts = [{"type": "text", "text": "Sort "}, {"type": "text", "text": "this."}]
    assert message_for_template({"role": "developer", "content": parts, "tool_calls": []}) == {
        "role": "system",
        "content": "Sort this.",
    }
    assert call["function"] == {"name": "f", "arguments": '{"a": 1}'}  # unchanged


@pytest.mark.parametrize("arguments", ["[1]", "{", "3", [1]])
def test_arguments_must_be_an_object(arguments: object) -> None:
    call = {"function": {"name": "f", "arguments": arguments}}
    with pytest.raises(ValueError, match=r"arguments|Expecting"):
        message_for_template({"role": "assistant", "tool_calls": [call]})


FAMILIES = (
    *("qwen2_5", "qwen3", "qwen3_vl", "qwen3_5_nothink", "qwen3_6", "qwen3_8", "nemotron_3_nano"),
    *("glm4moe", "gemma4", "gemma4_v5", "lfm2_v2", "llama3_1", "llama3_2", "gptoss"),
    "deepseekv3",
)


@pytest.mark.parametrize("call", [PARIS, SEND], ids=["a text", "several kinds"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_written_by_a_published_template_is_parsed(family: str, call: ToolCall) -> None:
    template = (files("trl") / "chat_templates" / f"{family}.jinja").read_text(encoding="utf-8")
    question: list[dict[str, Any]] = [{"role": "user", "content": "Do it."}]
    function = {"name": call.name, "arguments": call.arguments}
    answer: dict[str, Any] = {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "abc123def", "type": "function", "function": function}],
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel()), chat_template=template)
    before, after = (
        render_chat(
            tokenizer, [*map(message_for_template, messages)], tools=TOOLS, add_generation_prompt=asks
        )
        for messages, asks in ((question, True), ([*question, answer], False))
    )
    text = after.removeprefix(before) if after.startswith(before) else after.split("Do it.")[1]
    _, calls = parse_tool_calls(without_end_tokens(text), template, TOOLS)
    assert [(each.name, json.loads(each.arguments)) for each in calls] == [
        (call.name, json.loads(call.arguments))
    ]


def without_end_tokens(text: str) -> str:
    """Removes what a decoded answer wouldn't have."""
    for start in ("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>", "<|im_end|>"):
        text = text.replace(start, "")
    return text
