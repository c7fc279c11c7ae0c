"""Finds out what a model's chat template does with answers by rendering a short chat. Loads no model.

Templates are Jinja programs. If jinja2 is not installed (it comes with the trainer), or if a template can't be rendered
without a tokenizer, it is assumed to write every answer exactly once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

# Some templates insert today's date unless they are given one: Llama 3's reads a variable, gpt-oss's calls a function.
# The date is fixed so that a model is trained and asked with the same one. DeepSeek's switch is called `thinking`.
OPTIONS: dict[str, Any] = {"enable_thinking": False, "thinking": False, "date_string": "26 Jul 2024"}
FINAL = "<|channel|>final<|message|>"
EOS = "<eos>"
FIRST = "Anna sings."
SECOND = "Otto swims."
CHAT = (
    {"role": "user", "content": "Who sings?"},
    {"role": "assistant", "content": FIRST},
    {"role": "user", "content": "Who swims?"},
    {"role": "assistant", "content": SECOND},
)
# Used for templates that can't write tools or calls: Qwen 2.5's wording, which many models have seen
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
    """Returns the chat template in a model's folder, or "" if it has none."""
    beside = folder / "chat_template.jinja"
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    for name in ("chat_template.json", "tokenizer_config.json"):
        if not (folder / name).is_file():
            continue
        template = json.loads((folder / name).read_text(encoding="utf-8")).get("chat_template")
        if isinstance(template, list):  # several named templates: take the default one
            return next((str(item["template"]) for item in template if item["name"] == "default"), "")
        if template:
            return str(template)
    return ""


def template_variables(template: str) -> dict[str, Any]:
    """Returns the variables that every chat is rendered with, in training, in evaluation and when serving.

    Thinking is switched off, since the answers in training data have no thoughts: by the template's own switch or, if
    it only knows efforts, by the lowest one (gpt-oss has no "none").
    """
    if "reasoning_effort" not in template:
        return OPTIONS
    effort = "none" if NO_EFFORT.search(template) else "low"
    return OPTIONS | {"reasoning_effort": effort}


def with_fixed_date(template: str) -> str:
    if "strftime_now" not in template:
        return template
    return STRFTIME_NOW + template


def answer_prefix(template: str, tools: object) -> str:
    """Returns the text to put after a question so that gpt-oss, which has no switch, answers at once without thoughts.
    Empty if tools are offered, because the model must then choose its channel itself."""
    if tools or FINAL not in template:
        return ""
    return FINAL


def thinking_switches(template: str) -> dict[str, Any]:
    """Returns the variables that switch thinking off in this template. Needs jinja2."""
    read = variables_read(template)
    return {
        name: value
        for name, value in template_variables(template).items()
        if name in read and name != "date_string"
    }


@lru_cache(maxsize=32)
def variables_read(template: str) -> frozenset[str]:
    """Returns the names of the variables that a template reads without setting them. Needs jinja2."""
    from jinja2 import meta

    parsed = _environment().parse(_without_generation_tags(template))
    return frozenset(meta.find_undeclared_variables(parsed))


def with_thinking_off(template: str) -> str:
    """Returns the template with defaults for its variables, for programs that pass none: thinking is off unless they
    switch it on."""
    lines = [
        f"{{%- if {name} is not defined %}}{{%- set {name} = {json.dumps(value)} %}}{{%- endif -%}}"
        for name, value in thinking_switches(template).items()
    ]
    return "".join(lines) + template


@lru_cache(maxsize=32)
def rewrites_answers(template: str) -> bool:
    """True if a chat with several answers must be trained as one row per answer.

    That is so if the template changes an earlier answer once the chat goes on, starts it differently than the prompt
    for it ends, or does not end it. The trainer decides the same with its tokenizer.
    """
    question = render(template, CHAT[:1], asks=True)
    after = render(template, CHAT[:2])
    text = render(template, CHAT)
    if question is None or after is None or text is None or FIRST not in after:
        return False
    end = END.match(after, after.rindex(FIRST) + len(FIRST))
    return end is None or not after.startswith(question) or not text.startswith(after[: end.end()])


@lru_cache(maxsize=32)
def drops_answers(template: str) -> bool:
    """True if the template drops the text of answers."""
    after = render(template, CHAT[:2])
    return after is not None and FIRST not in after


@lru_cache(maxsize=32)
def wants_parts(template: str) -> bool:
    """True if the template writes text only if it comes as a list of content parts, since its model also takes pictures
    (SmolVLM, Idefics, LLaVA)."""
    question = CHAT[0]
    words = question["content"]
    plain = _render(template, [question])
    if plain is not None and words in plain:
        return False
    text = _render(template, [in_parts(question)])
    # A template that knows no parts may write them as Python does: [{'type': 'text', 'text': 'Who sings?'}].
    return text is not None and words in text and repr(words) not in text


def in_parts(message: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the message with its text as a list with one content part."""
    return {**message, "content": [{"type": "text", "text": message["content"]}]}


def describe_tools(template: str, tools: Sequence[Mapping[str, Any]]) -> str:
    """Returns a description of the tools for the system message, or "" if the template lists tools itself."""
    if "tools" in template:
        return ""
    listed = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    described = TOOLS_IN_WORDS.format(listed)
    if "tool" in template:  # it writes calls, though it doesn't list tools
        return described
    return described + CALLS_IN_WORDS


def render(
    template: str,
    messages: Sequence[Mapping[str, str]],
    *,
    asks: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str | None:
    """Returns the chat as the template writes it, or None if it can't be rendered here."""
    if wants_parts(template):
        return _render(template, [in_parts(message) for message in messages], asks=asks, tools=tools)
    return _render(template, messages, asks=asks, tools=tools)


def _render(
    template: str,
    messages: Sequence[Mapping[str, Any]],
    *,
    asks: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str | None:
    try:
        from jinja2 import TemplateError
    except ImportError:
        return None

    environment = _environment()
    names = {"bos_token": "", "eos_token": EOS, "messages": messages, "tools": tools}
    try:
        loaded = environment.from_string(_without_generation_tags(template))
        text = str(loaded.render(**names, add_generation_prompt=asks, **template_variables(template)))
        if asks:
            text += answer_prefix(template, tools)
        return text
    except (TemplateError, TypeError, ValueError, KeyError, AttributeError):
        return None


def _without_generation_tags(template: str) -> str:
    """Replaces transformers' own tag for "learn this", which plain Jinja doesn't know."""
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
