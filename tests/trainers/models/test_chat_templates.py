"""What a chat template does with answers, judged by the template alone."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from trainers.models.chat_templates import (
    CHAT,
    drops_answers,
    read_chat_template,
    render,
    rewrites_answers,
    wants_parts,
)

REWRITING = ("qwen3", "qwen3_5_nothink", "qwen3_6", "gptoss", "deepseekv3", "deepseek_r1_distill", "glm4moe")
PLAIN = ("qwen2_5", "qwen3_instruct_2507", "llama3_1", "gemma3", "gemma4_v5", "phi3_5", "lfm2", "cohere2")


def read_published(family: str) -> str:
    return (files("trl") / "chat_templates" / f"{family}.jinja").read_text(encoding="utf-8")


@pytest.mark.deep
@pytest.mark.parametrize("family", REWRITING)
def test_a_template_that_rewrites_earlier_answers_is_recognised(family: str) -> None:
    assert rewrites_answers(read_published(family))
    assert not drops_answers(read_published(family))


@pytest.mark.deep
@pytest.mark.parametrize("family", PLAIN)
def test_a_template_that_keeps_answers_is_recognised(family: str) -> None:
    assert not rewrites_answers(read_published(family))
    assert not drops_answers(read_published(family))


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_a_template_that_takes_text_only_in_parts_gets_it_in_parts(family: str) -> None:
    template = read_published(family)
    assert wants_parts(template)
    assert not drops_answers(template)
    assert "Otto swims." in (render(template, CHAT) or "")


@pytest.mark.parametrize("family", [*REWRITING, *PLAIN, "llama3_2", "qwen2_5_vl"])
def test_a_template_that_takes_plain_text_gets_plain_text(family: str) -> None:
    assert not wants_parts(read_published(family))


def test_a_template_that_writes_parts_as_python_does_gets_plain_text() -> None:
    assert not wants_parts(
        "{% for m in messages %}{% if m.content is not string %}{{ m.content }}{% endif %}{% endfor %}"
    )


def test_a_template_that_drops_answers_is_recognised() -> None:
    template = "{% for m in messages %}{% if m.role == 'user' %}{{ m.content }}{% endif %}{% endfor %}"
    assert drops_answers(template)


def test_a_broken_template_is_not_taken_for_one_that_rewrites_answers() -> None:
    for template in ("{% for %}", "{{ raise_exception('no') }}", "{{ 1 + messages }}", ""):
        assert not rewrites_answers(template)


def test_a_template_is_found_in_any_of_its_files(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) == ""
    several = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert read_chat_template(tmp_path) == "b"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "c"}))
    assert read_chat_template(tmp_path) == "c"
    (tmp_path / "chat_template.jinja").write_text("d")
    assert read_chat_template(tmp_path) == "d"
