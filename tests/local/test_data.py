"""What is learnt of a conversation, to the token."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from trainers.local.training.data import Row, read_rows, row_of
from trainers.local.training.failures import TrainingFailed

SYSTEM: dict[str, Any] = {"role": "system", "content": "Sort this support ticket."}
CHAT: list[dict[str, Any]] = [
    SYSTEM,
    {"role": "user", "content": "  My card was charged twice — für 12 €\n"},
    {"role": "assistant", "content": "\nbilling"},
    {"role": "user", "content": "And where is the parcel?"},
    {"role": "assistant", "content": "shipping"},
]
STRICT = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}hello"
FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}:"
    "{% if m['role'] == 'assistant' and loop.last %}thinking{% endif %}{{ m['content'] }}<|im_end|>"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant:{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def made(tokenizer: Any, messages: list[dict[str, Any]]) -> Row:
    return row_of(7, json.dumps({"messages": messages}), tokenizer, "training_file")


def learnt(tokenizer: Any, row: Row) -> list[str]:
    """The texts of the supervised stretches."""
    stretches: list[list[int]] = []
    before = False
    for token, is_learnt in zip(row.ids, row.supervised, strict=True):
        if is_learnt and not before:
            stretches.append([])
        if is_learnt:
            stretches[-1].append(token)
        before = is_learnt
    return [tokenizer.decode(stretch) for stretch in stretches]


def test_ids_are_the_templates_rendering_of_the_whole_conversation(tokenizer: Any) -> None:
    rendered = tokenizer.apply_chat_template(CHAT, tokenize=True, return_dict=False)
    assert made(tokenizer, CHAT).ids == rendered


def test_every_assistant_turn_is_learnt_up_to_its_end_token_and_nothing_else(tokenizer: Any) -> None:
    assert learnt(tokenizer, made(tokenizer, CHAT)) == ["\nbilling<|im_end|>", "shipping<|im_end|>"]


@pytest.mark.parametrize(
    ("weights", "expected"),
    [((0, 1), ["shipping<|im_end|>"]), ((1, 0), ["\nbilling<|im_end|>"]), ((0, 0), [])],
)
def test_a_turn_of_weight_0_is_read_but_not_learnt(
    tokenizer: Any, weights: tuple[int, int], expected: list[str]
) -> None:
    weighted = [dict(message) for message in CHAT]
    weighted[2]["weight"], weighted[4]["weight"] = weights
    row = made(tokenizer, weighted)
    assert learnt(tokenizer, row) == expected
    assert row.ids == made(tokenizer, CHAT).ids


def test_a_token_across_the_border_between_question_and_answer_is_not_learnt(tokenizer: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    messages = [{"role": "user", "content": "sup"}, {"role": "assistant", "content": "port ticket"}]
    row = made(tokenizer, messages)
    border = tokenizer.decode(row.ids[: row.first_target])
    assert len(border) > len("sup")
    assert border + tokenizer.decode(row.ids[row.first_target :]) == "support ticket"


def test_developer_is_written_as_system_and_text_parts_as_one_text(tokenizer: Any) -> None:
    parts = [{"type": "text", "text": "Sort this "}, {"type": "text", "text": "support ticket."}]
    other = [{"role": "developer", "content": parts}, *CHAT[1:]]
    assert made(tokenizer, other).ids == made(tokenizer, CHAT).ids


@pytest.mark.parametrize(
    "text",
    [
        "not JSON",
        "[]",
        "{}",
        '{"messages": ["hello"]}',
        '{"messages": [{"content": "x"}]}',
        '{"messages": [{"role": "robot", "content": "x"}]}',
        '{"messages": [{"role": "user", "content": 3}]}',
    ],
)
def test_a_line_that_is_no_chat_is_refused_with_its_number(tokenizer: Any, text: str) -> None:
    with pytest.raises(TrainingFailed, match="Line 7 is no chat example") as caught:
        row_of(7, text, tokenizer, "training_file")
    assert (caught.value.code, caught.value.param) == ("invalid_row", "training_file")


def test_a_conversation_that_the_template_refuses_names_its_line(tokenizer: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    tokenizer.chat_template = STRICT
    with pytest.raises(TrainingFailed, match=r"Line 7 .* chat template: no system role"):
        made(tokenizer, CHAT)


def test_a_template_that_rewrites_earlier_answers_can_learn_the_last_only(tokenizer: Any) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    tokenizer.chat_template = FORGETFUL
    with pytest.raises(TrainingFailed, match="Line 7: this model's chat template rewrites"):
        made(tokenizer, CHAT)
    last_only = [*CHAT[:2], {**CHAT[2], "weight": 0}, *CHAT[3:]]
    assert learnt(tokenizer, made(tokenizer, last_only)) == ["thinkingshipping<|im_end|>"]


def test_lines_are_numbered_as_an_editor_does_and_what_cannot_be_learnt_is_counted(
    tokenizer: Any, tmp_path: Path
) -> None:
    silent = [SYSTEM, {"role": "user", "content": "anybody there?"}]
    long = [*CHAT[:-1], {"role": "assistant", "content": "shipping " * 200}]
    path = tmp_path / "train.jsonl"
    lines = [json.dumps({"messages": m}) for m in (CHAT, silent, long, CHAT)]
    path.write_text("\n".join([lines[0], "", *lines[1:]]) + "\n", encoding="utf-8")
    rows = read_rows(path, tokenizer, 200, "training_file")
    assert [row.line for row in rows.rows] == [1, 5]
    assert (rows.nothing_to_learn, rows.too_long) == (1, 1)


def test_a_file_whose_rows_are_all_too_long_says_how_long_they_may_be(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"messages": CHAT}) + "\n", encoding="utf-8")
    enough = made(tokenizer, CHAT).last_target + 1
    with pytest.raises(TrainingFailed, match=f"set max_length to {enough} or more") as caught:
        read_rows(path, tokenizer, enough - 1, "training_file")
    assert caught.value.code == "rows_too_long"
    assert len(read_rows(path, tokenizer, enough, "training_file").rows) == 1


def test_a_file_with_nothing_to_learn_is_refused(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    path.write_text(json.dumps({"messages": CHAT[:2]}) + "\n", encoding="utf-8")
    with pytest.raises(TrainingFailed, match="No line has an assistant's answer") as caught:
        read_rows(path, tokenizer, 200, "training_file")
    assert caught.value.code == "nothing_to_learn"
