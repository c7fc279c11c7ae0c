"""A chat template's syntax for calls is inferred by rendering one, and calls in that syntax are parsed."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

import pytest
from llguidance import LLMatcher
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from tests.local.conftest import CHATML
from trainers.local.chat_renderer import read_chat_template, render_chat
from trainers.local.serving.constraints import CallSyntax, grammar_of_calls, infer_call_syntax
from trainers.local.serving.values import Tools
from trainers.local.tool_calls import ToolCall, parse_tool_calls

CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "description": "", "parameters": CITY}}
    for name in ("get_weather", "book")
]
QUESTION = [{"role": "user", "content": "Do it."}]
FAMILIES = {  # what a call begins with, and whether its arguments are JSON
    "qwen2_5": ("<tool_call>", True),
    "qwen3": ("<tool_call>", True),
    "llama3_1": ("", True),
    "gptoss": ("to=functions.", True),
    "gemma3": ("<tool_call>", True),  # its template knows no tools
    "qwen3_5_nothink": ("<tool_call>\n<function=", False),
    "glm4moe": ("<tool_call>", False),
    "lfm2_v2": ("<|tool_call_start|>[", False),
    "gemma4": ("<|tool_call>call:", False),
}
ENDS = ["<|im_end|>", "<|eot_id|>", "<|call|>", "<end_of_turn>", "<turn|>"]


def tokenizer_of(template: str) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel()), chat_template=template)


def syntax_in(template: str) -> CallSyntax:
    tokenizer = tokenizer_of(template)
    prompt = render_chat(tokenizer, QUESTION, tools=TOOLS, add_generation_prompt=True)
    return infer_call_syntax(QUESTION, prompt, lambda chat: render_chat(tokenizer, chat, tools=TOOLS), ENDS)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_call_in_a_familys_own_syntax_is_parsed(family: str) -> None:
    template = (files("trl") / "chat_templates" / f"{family}.jinja").read_text(encoding="utf-8")
    mark, is_json = FAMILIES[family]
    syntax = syntax_in(template)
    before, after = syntax.texts_around("book")
    text = f'{before}{{"city": "Paris"}}{after}'
    _, calls = parse_tool_calls(text, read_chat_template(tokenizer_of(template), TOOLS), TOOLS)
    assert [(call.name, json.loads(call.arguments)) for call in calls] == [("book", {"city": "Paris"})]
    assert (syntax.mark, syntax.arguments is not None) == (mark, is_json)
    assert not any(end in after for end in ENDS)


def test_a_template_without_tools_gets_them_described_and_calls_as_text() -> None:
    tokenizer = tokenizer_of(CHATML)
    call = {"function": {"name": "book", "arguments": {"city": "Paris"}}}
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be kind."},
        *QUESTION,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "done"},
    ]
    written = render_chat(tokenizer, messages, tools=TOOLS, add_generation_prompt=True)
    assert written.startswith("<|im_start|>system\nBe kind.\n\n# Tools\n")
    assert json.dumps(TOOLS[0]) in written
    call_text = '<tool_call>\n{"name": "book", "arguments": {"city": "Paris"}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{call_text}<|im_end|>" in written
    assert "<|im_start|>user\n<tool_response>\ndone\n</tool_response><|im_end|>" in written
    assert syntax_in(CHATML).texts_around("book") == tuple(call_text.split('{"city": "Paris"}'))
    parsed = parse_tool_calls(f"Yes.{call_text}", read_chat_template(tokenizer, TOOLS), TOOLS)
    assert parsed == ("Yes.", (ToolCall("book", '{"city": "Paris"}'),))


def test_text_that_may_begin_a_call_is_held_back() -> None:
    syntax = CallSyntax('<tool_call>\n{"name": "', None)
    for text, certain in (
        ("Well", "Well"),
        ("Well <too", "Well "),
        ("Well <tool_call>\n{", "Well "),
        ("", ""),
        ('{"name"', ""),
        ("```json", ""),
        ("a < b", "a < b"),
    ):
        assert text[: syntax.end_of_text(text)] == certain
    assert CallSyntax(None, None).end_of_text("Well") == 0
    llama = CallSyntax('{"name": "', None)
    assert (llama.end_of_text("Well"), llama.end_of_text('{"na')) == (4, 0)


def test_a_grammar_names_special_tokens_by_their_ids() -> None:
    syntax = CallSyntax("[TOOL_CALLS]", ('[TOOL_CALLS][{"name": "a_tool", "arguments": ', "}]"))
    tools = Tools(TOOLS, ("book",))
    grammar = grammar_of_calls(tools, syntax, {"[TOOL_CALLS]": 5}, None)
    assert grammar
    assert 'call0: <[5]> "[{\\"name\\": \\"book\\", \\"arguments\\": " arguments0 "}]"' in grammar
    assert "get_weather" not in grammar
    assert grammar_of_calls(Tools(TOOLS), syntax, {}, None) is None
    either = grammar_of_calls(Tools(TOOLS), syntax, {}, 'start: "yes"')
    assert either
    assert either.startswith("start: call0 | call1 | otherwise\n")
    is_wrong, messages = LLMatcher.validate_grammar_with_warnings(either)
    assert not is_wrong, messages
