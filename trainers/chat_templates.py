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

# Some templates write today's date unless they are given one, like Llama 3's; others, like gpt-oss's, by a function. A
# model is asked with the date that it was trained with. DeepSeek's switch is `thinking`.
OPTIONS: dict[str, Any] = {"enable_thinking": False, "thinking": False, "date_string": "26 Jul 2024"}
FINAL = "<|channel|>final<|message|>"
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
STRFTIME_NOW = (
    "{%- macro strftime_now(form) -%}{{ {'%Y-%m-%d': '2024-07-26', '%d %B %Y': '26 July 2024'}"
    ".get(form, '26 Jul 2024') }}{%- endmacro -%}"
)
NO_EFFORT = re.compile(r"""(['"])none\1""")
GENERATION = re.compile(r"(\{%-?\s*)(end)?generation(\s*-?%\})")
END = re.compile(r"\s*(?:<[^<>\s]+>)+")


def read_chat_template(folder: Path) -> str:
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


def template_variables(template: str) -> dict[str, Any]:
    """Returns the variables that every chat is written with, trained, measured and asked alike. A model that may think
    first is trained and asked without, since the trained answers have no thoughts: by its template's own switch, or
    where that has efforts only, by the least (gpt-oss has no "none")."""
    if "reasoning_effort" not in template:
        return OPTIONS
    return OPTIONS | {"reasoning_effort": "none" if NO_EFFORT.search(template) else "low"}


def with_fixed_date(template: str) -> str:
    return STRFTIME_NOW + template if "strftime_now" in template else template


def answer_prefix(template: str, tools: object) -> str:
    """Returns what is written behind a question so that gpt-oss answers at once, without thoughts: it has no switch.
    Where tools are offered it has to choose by itself whom it writes to."""
    return FINAL if FINAL in template and not tools else ""


def thinking_switches(template: str) -> dict[str, Any]:
    """Returns those of the variables that switch thoughts off in this template. Needs jinja2."""
    from jinja2 import meta

    read = meta.find_undeclared_variables(_environment().parse(_plain(template)))
    return {
        name: value
        for name, value in template_variables(template).items()
        if name in read and name != "date_string"
    }


def with_thinking_off(template: str) -> str:
    """Returns the template for programs that give it no variables: thoughts are off unless they ask for them."""
    lines = [
        f"{{%- if {name} is not defined %}}{{%- set {name} = {json.dumps(value)} %}}{{%- endif -%}}"
        for name, value in thinking_switches(template).items()
    ]
    return "".join(lines) + template


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


def describe_tools(template: str, tools: Sequence[Mapping[str, Any]]) -> str:
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
    except ImportError:
        return None

    environment = _environment()
    names = {"bos_token": "", "eos_token": EOS, "messages": messages, "tools": tools}
    try:
        loaded = environment.from_string(_plain(template))
        text = str(loaded.render(**names, add_generation_prompt=asks, **template_variables(template)))
        return text + (answer_prefix(template, tools) if asks else "")
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None


def _plain(template: str) -> str:
    """Some mark what is learnt with a tag of transformers' own."""
    template = with_fixed_date(template)
    return GENERATION.sub(lambda tag: f"{tag[1]}{'endif' if tag[2] else 'if true'}{tag[3]}", template)


def _environment() -> Any:
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals |= {"raise_exception": refuse}
    return environment
