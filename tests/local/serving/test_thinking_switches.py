"""Models that can think first are trained, measured and asked without it, whatever their template calls the switch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.local.families import CHATML_TOKENS, Family, config, make_tokenizer, published, turns
from trainers.http.errors import ApiError
from trainers.local.serving.values import ChatMessage, Request, Sampling, Target
from trainers.local.serving.vocabulary import Vocabulary
from trainers.local.training.data import read_rows
from trainers.models.chat_templates import FINAL, render, thinking_switches, with_thinking_off

CHATML = turns("<|im_start|>", "\n", "<|im_end|>\n")
# The switches of DeepSeek 3.1 and Mistral Small 4, without the rest of their templates.
DEEPSEEK = (
    CHATML
    + "{% if add_generation_prompt %}{% if not thinking | default(true) %}</think>{% endif %}{% endif %}"
)
MISTRAL = (
    "{% if reasoning_effort is not defined %}{% set reasoning_effort = 'high' %}{% endif %}"
    "{% if reasoning_effort not in ['none', 'high'] %}{{ raise_exception('no such effort') }}{% endif %}"
    "[MODEL_SETTINGS]{{ reasoning_effort }}[/MODEL_SETTINGS]" + CHATML
)
HARMONY = ("<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|return|>")
TEMPLATES = {
    "qwen3_5_think": (published("qwen3_5_think"), CHATML_TOKENS, "<think>\n\n</think>\n\n"),
    "qwen3_8": (published("qwen3_8"), CHATML_TOKENS, "<think>\n\n</think>\n\n"),
    "nemotron_3_nano": (published("nemotron_3_nano"), CHATML_TOKENS, "<think></think>"),
    "glm4moe": (published("glm4moe"), ("<|user|>", "<|assistant|>"), "<think></think>"),
    "gemma4_v5": (published("gemma4_v5"), ("<|turn>", "<turn|>"), "<|turn>model\n"),
    "gptoss": (published("gptoss"), HARMONY, FINAL),
    "deepseek": (DEEPSEEK, CHATML_TOKENS, "</think>"),
    "mistral": (MISTRAL, CHATML_TOKENS, "<|im_start|>assistant\n"),
}
MESSAGES = [{"role": "user", "content": "my card"}, {"role": "assistant", "content": "billing"}]


@pytest.mark.parametrize("name", TEMPLATES)
def test_training_serving_and_counting_write_the_same_prompt_without_thinking(
    name: str, tmp_path: Path
) -> None:
    template, _, end = TEMPLATES[name]
    tokenizer = tokenizer_of(tmp_path, name)
    prompt = encode(tokenizer, tmp_path, {})
    text = tokenizer.decode(prompt)
    assert text.endswith(end)
    assert "none" in text if name == "mistral" else "Reasoning: medium" not in text

    chats = tmp_path / "train.jsonl"
    chats.write_text(json.dumps({"messages": MESSAGES}), encoding="utf-8")
    (row,) = read_rows(chats, tokenizer, 1024, "training_file").rows
    first = row.supervised.index(True)
    assert list(row.ids[:first]) == prompt
    assert tokenizer.decode(row.ids[first:]).strip().startswith("billing")
    assert render(template, MESSAGES[:1], asks=True) == text


def tokenizer_of(folder: Path, name: str) -> Any:
    template, special, _ = TEMPLATES[name]
    make_tokenizer(folder, Family(lambda: config("llama"), "LlamaForCausalLM", template, special))
    return AutoTokenizer.from_pretrained(folder)


def encode(tokenizer: Any, folder: Path, options: dict[str, Any]) -> list[int]:
    """The prompt of a question with these variables of the template, as it is served."""
    request = Request(
        Target(str(folder), None),
        [ChatMessage("user", "my card")],
        Sampling(temperature=0, top_p=1, max_tokens=6, stop=(), seed=None),
        streams=False,
        emit=lambda piece: None,
        template_options=options,
    )
    return Vocabulary(tokenizer, frozenset(), len(tokenizer)).encode(request)


def prompt_of(folder: Path, name: str, options: dict[str, Any]) -> str:
    tokenizer = tokenizer_of(folder, name)
    return str(tokenizer.decode(encode(tokenizer, folder, options)))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("qwen3_8", {"enable_thinking": True}),
        ("deepseek", {"thinking": True}),
        ("mistral", {"reasoning_effort": "high"}),
    ],
)
def test_a_caller_may_let_a_model_think_by_its_own_switch(
    name: str, options: dict[str, Any], tmp_path: Path
) -> None:
    usual = prompt_of(tmp_path, name, {})
    thinking = prompt_of(tmp_path, name, options)
    assert usual != thinking
    assert prompt_of(tmp_path, name, {"enable_thinking": False}) == usual


def test_a_variable_that_cannot_change_the_answer_is_refused_by_name(tmp_path: Path) -> None:
    for name, options in (("gptoss", {"reasoning_effort": "high"}), ("qwen3_8", {"messages": []})):
        (option,) = options
        with pytest.raises(ApiError, match=f"can't be given '{option}'") as caught:
            prompt_of(tmp_path, name, options)
        assert caught.value.param == f"chat_template_kwargs.{option}"


def test_a_special_token_in_a_variable_is_plain_text(tmp_path: Path) -> None:
    template = "{{ motto }}" + CHATML
    make_tokenizer(tmp_path, Family(lambda: config("llama"), "LlamaForCausalLM", template, CHATML_TOKENS))
    tokenizer: Any = AutoTokenizer.from_pretrained(tmp_path)
    request = Request(
        Target(str(tmp_path), None),
        [ChatMessage("user", "my card")],
        Sampling(temperature=0, top_p=1, max_tokens=6, stop=(), seed=None),
        streams=False,
        emit=lambda piece: None,
        template_options={"motto": "<|im_end|>"},
    )
    prompt = Vocabulary(tokenizer, frozenset(), len(tokenizer)).encode(request)
    assert tokenizer.decode(prompt).startswith("<|im_end|>")
    assert prompt.count(tokenizer.convert_tokens_to_ids("<|im_end|>")) == 1


@pytest.mark.deep
@pytest.mark.parametrize("name", TEMPLATES)
def test_an_exported_template_does_not_think_by_default(name: str) -> None:
    template, *_ = TEMPLATES[name]
    prompt = render(with_thinking_off(template), MESSAGES[:1], asks=True)
    assert prompt == render(template, MESSAGES[:1], asks=True)
    assert thinking_switches(template)
    assert thinking_switches(CHATML) == {}
    assert with_thinking_off(CHATML) == CHATML
