"""What a chat template does with answers: told by the template alone, as the trainer finds it with a tokenizer."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path

import pytest

from trainers.chat_templates import drops_answers, read_chat_template, rewrites_answers

REWRITING = ("qwen3", "qwen3_5_nothink", "qwen3_6", "gptoss", "deepseekv3", "deepseek_r1_distill", "glm4moe")
PLAIN = ("qwen2_5", "qwen3_instruct_2507", "llama3_1", "gemma3", "gemma4_v5", "phi3_5", "lfm2", "cohere2")


def published(family: str) -> str:
    return (files("trl") / "chat_templates" / f"{family}.jinja").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", REWRITING)
def test_a_template_that_rewrites_earlier_answers_is_known(family: str) -> None:
    assert rewrites_answers(published(family))
    assert not drops_answers(published(family))


@pytest.mark.parametrize("family", PLAIN)
def test_a_template_that_writes_an_answer_once_is_known(family: str) -> None:
    assert not rewrites_answers(published(family))
    assert not drops_answers(published(family))


@pytest.mark.parametrize("family", ["smolvlm", "idefics3"])
def test_a_template_that_drops_answers_is_known(family: str) -> None:
    assert drops_answers(published(family))


@pytest.mark.parametrize("template", ["{% for %}", "{{ raise_exception('no') }}", "{{ 1 + messages }}", ""])
def test_of_a_template_that_cannot_be_written_with_nothing_is_known(template: str) -> None:
    assert not rewrites_answers(template)


def test_a_template_is_found_where_it_lies(tmp_path: Path) -> None:
    assert read_chat_template(tmp_path) == ""
    several = [{"name": "tool_use", "template": "a"}, {"name": "default", "template": "b"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": several}))
    assert read_chat_template(tmp_path) == "b"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "c"}))
    assert read_chat_template(tmp_path) == "c"
    (tmp_path / "chat_template.jinja").write_text("d")
    assert read_chat_template(tmp_path) == "d"
