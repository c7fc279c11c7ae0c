"""Tokens: a model's encoding, chats counted as OpenAI does, and local models' own tokenizers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from trainers.models.tokens import (
    O200K,
    Encoding,
    Spread,
    count_chat,
    count_prompts,
    count_split,
    count_texts,
    encoding_of,
    local_encoding,
    splits_chats,
    spread,
    training_limit,
)
from trainers.types import Message


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o-mini-2024-07-18", O200K),
        ("gpt-4.1-nano-2025-04-14", O200K),
        ("o4-mini", O200K),
        ("ft:gpt-4.1-mini-2025-04-14:team::abc", O200K),
        ("ft:gpt-4o-mini-2024-07-18:team:gpt-4:abc", O200K),
        ("gpt-4-turbo", Encoding("cl100k_base")),
        ("ft:gpt-3.5-turbo-0125:team::abc", Encoding("cl100k_base")),
        ("local/smollm2-135m", Encoding("o200k_base", assumed=True)),
        ("", Encoding("o200k_base", assumed=True)),
    ],
)
def test_each_model_has_its_encoding_and_an_unknown_model_an_assumed_one(
    model: str, encoding: Encoding
) -> None:
    assert encoding_of(model) == encoding


def test_the_longest_row_depends_on_the_model() -> None:
    limits = {"gpt-4o-mini-2024-07-18": 65_536, "gpt-3.5-turbo-0125": 16_385, "gpt-3.5-turbo-0613": 4_096}
    assert {model: training_limit(model) for model in limits} == limits
    assert training_limit("x") == 65_536


def test_a_chat_is_counted_as_openais_cookbook_counts_it() -> None:
    """Its example is 124 tokens on gpt-4o. Four of its messages have a name, which costs 1 + its tokens."""
    texts = [
        "You are a helpful, pattern-following assistant that translates corporate jargon into plain English.",
        "New synergies will help drive top-line growth.",
        "Things working well together will increase revenue.",
        "Let's circle back when we have more bandwidth to touch base on opportunities for "
        "increased leverage.",
        "Let's talk later when we're less busy about how to do better.",
    ]
    question = "This late pivot means we don't have time to boil the ocean for the client deliverable."
    names = sum(1 + count for count in count_texts(["example_user", "example_assistant"] * 2))

    (ours,) = count_prompts([[*[Message("system", text) for text in texts], Message("user", question)]])

    assert ours + names == 124


def test_a_row_counts_as_prompt_answer_and_the_answers_wrapping() -> None:
    counts = count_chat([[Message("user", "hello world"), Message("assistant", "hi")]])
    assert counts.prompt == (3 + 3 + 1 + 2,)
    assert counts.answer == (1,)
    assert counts.total == (9 + 1 + 3 + 1,)


def test_rows_keep_their_order_across_batches() -> None:
    rows = [[Message("user", "a " * (i % 7 + 1)), Message("assistant", "b")] for i in range(25_000)]
    counts = count_chat(rows).prompt
    assert counts[:7] == counts[24_990:24_997]
    assert len(counts) == 25_000 and len(set(counts)) > 1


def test_the_text_of_a_special_token_counts_as_text() -> None:
    assert count_texts(["<|endoftext|>"])[0] > 1


def test_percentiles_are_values_that_occur() -> None:
    assert spread(list(range(1, 101))) == Spread(total=5050, mean=50.5, p50=50, p95=95, max=100)
    assert spread([9]) == Spread(total=9, mean=9.0, p50=9, p95=9, max=9)
    assert spread([]) == Spread(total=0, mean=0.0, p50=0, p95=0, max=0)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<|im_start|>", "<|im_end|>"], show_progress=False
    )
    tokenizer.train_from_iterator(
        ["my printer is dead and the user waits", "assistant system user"] * 5, trainer
    )
    return tokenizer


@pytest.fixture
def folder(tmp_path: Path, tokenizer: Tokenizer) -> Path:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


ROW = [
    Message("system", "sort it"),
    Message("user", "my printer is dead"),
    Message("assistant", "hardware_fault"),
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
STANDARD = "<|im_start|>system\nmy printer is dead<|im_end|>\n"


def test_a_templates_default_system_message_counts_for_rows_without_one(
    folder: Path, tokenizer: Tokenizer
) -> None:
    default = f"{{% if messages[0].role != 'system' %}}{STANDARD}{{% endif %}}"
    (folder / "chat_template.jinja").write_text(CHATML)
    without = count_chat([ROW, ROW[1:]], local_encoding(folder))
    (folder / "chat_template.jinja").write_text(default + CHATML)
    with_default = count_chat([ROW, ROW[1:]], local_encoding(folder))
    more = len(tokenizer.encode(STANDARD).ids)
    assert (with_default.prompt[0], with_default.total[0]) == (without.prompt[0], without.total[0])
    assert with_default.prompt[1] == without.prompt[1] + more
    assert with_default.total[1] == without.total[1] + more


@pytest.mark.parametrize("place", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_local_chatml_model_is_counted_as_its_template_renders(
    folder: Path, tokenizer: Tokenizer, place: str
) -> None:
    (folder / place).write_text(json.dumps({"chat_template": CHATML}) if place.endswith("json") else CHATML)
    prompt = "<|im_start|>system\nsort it<|im_end|>\n<|im_start|>user\nmy printer is dead<|im_end|>\n"
    prompt += "<|im_start|>assistant\n"
    counts = count_chat([ROW, ROW], local_encoding(folder))
    assert counts.prompt == (len(tokenizer.encode(prompt).ids),) * 2
    assert counts.total == (len(tokenizer.encode(f"{prompt}hardware_fault<|im_end|>\n").ids),) * 2
    assert counts.answer == (len(tokenizer.encode("hardware_fault").ids),) * 2


def test_without_a_template_four_tokens_a_message_are_assumed(folder: Path, tokenizer: Tokenizer) -> None:
    counts = count_chat([ROW], local_encoding(folder))
    assert counts.total == (sum(len(tokenizer.encode(m.content).ids) + 4 for m in ROW),)


def test_a_chat_is_counted_once_per_answer_if_its_template_rewrites_answers(folder: Path) -> None:
    qwen = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n"
        "{{ '<think></think>' if m.role == 'assistant' and loop.last }}{{ m.content }}<|im_end|>\n{% endfor %}"
        "{{ '<|im_start|>assistant\n<think></think>' if add_generation_prompt }}"
    )
    (folder / "chat_template.jinja").write_text(qwen)
    encoding = local_encoding(folder)
    assert splits_chats(encoding)
    first, second = ROW, [*ROW, Message("user", "and mine"), Message("assistant", "hardware_fault")]
    alone = count_chat([first, second], encoding).total
    assert count_split([first, second], encoding, [0, 5]) == (alone[0], 5 + alone[0] + 5 + alone[1])
    unlearnt = [*ROW[:-1], Message("assistant", "hardware_fault", weight=0), *second[3:]]
    assert count_split([unlearnt], encoding, [0]) == (alone[1],)


def test_a_folder_without_a_tokenizer_is_assumed_to_count_like_openai(tmp_path: Path) -> None:
    assert local_encoding(tmp_path) == Encoding("o200k_base", assumed=True)
