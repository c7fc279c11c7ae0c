"""Finds what a model's chat template does with answers by rendering two of them. Loads no model.

Templates are programs in Jinja. Where jinja2 is not installed (it comes with the trainer), or where a template can't be
rendered without a tokenizer, it is taken for one that writes every answer once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

# Models that may think first (Qwen 3, SmolLM3) are trained and asked without: the trained answers have no thoughts.
# Llama 3's templates write today's date unless they are given one.
OPTIONS: dict[str, Any] = {"enable_thinking": False, "date_string": "26 Jul 2024"}
EOS = "<eos>"
FIRST, SECOND = "Anna sings.", "Otto swims."
CHAT = (
    {"role": "user", "content": "Who sings?"},
    {"role": "assistant", "content": FIRST},
    {"role": "user", "content": "Who swims?"},
    {"role": "assistant", "content": SECOND},
)
# For templates without tools, or without calls: Qwen 2.5's own words, which many models have seen
# (https://huggingface.co/Qwen/Qwen2.5-7B-Instruct).
TOOLS_IN_WORDS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{}
</tools>"""
CALLS_IN_WORDS = """

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{"name": <function-name>, "arguments": <args-json-object>}
</tool_call>"""
END = re.compile(r"\s*(?:<[^<>\s]+>)+")


def template_of(folder: Path) -> str:
    """Returns the template in a model's folder; empty without one."""
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        template = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template")
        if isinstance(template, list):  # several by name: the one that is used where none is named
            return next((str(item["template"]) for item in template if item["name"] == "default"), "")
        if template:
            return str(template)
    return ""


@lru_cache(maxsize=32)
def rewrites_answers(template: str) -> bool:
    """Says whether a chat of several answers is trained as a row an answer: an earlier one is written otherwise once
    the chat goes on, or begins otherwise than it is asked, or has no end. As the trainer finds it with the
    tokenizer."""
    question, after = render(template, CHAT[:1], asks=True), render(template, CHAT[:2])
    text = render(template, CHAT)
    if question is None or after is None or text is None or FIRST not in after:
        return False
    end = END.match(after, after.rindex(FIRST) + len(FIRST))
    return end is None or not after.startswith(question) or not text.startswith(after[: end.end()])


@lru_cache(maxsize=32)
def drops_answers(template: str) -> bool:
    """Says whether the template takes text for something else and writes none of it (SmolVLM)."""
    after = render(template, CHAT[:2])
    return after is not None and FIRST not in after


def tools_in_words(template: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """Returns a description of the tools for the system message, where the template lists none; empty where it does."""
    if "tools" in template:
        return ""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return TOOLS_IN_WORDS.format(listed) + ("" if "tool" in template else CALLS_IN_WORDS)


def render(
    template: str,
    messages: Sequence[Mapping[str, str]],
    *,
    asks: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str | None:
    """Returns the chat as the template writes it; None where that can't be known here."""
    try:
        from jinja2 import TemplateError
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        return None

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: "26 Jul 2024"}
    names = {"bos_token": "", "eos_token": EOS, "messages": messages, "tools": tools}
    try:
        return environment.from_string(template).render(**names, add_generation_prompt=asks, **OPTIONS)
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None
