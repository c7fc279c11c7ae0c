"""Which tokens of a preference pair count, and what happens to pairs that are too long or invalid."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.local.preferences import pair
from trainers.local.checks import file_refusal
from trainers.local.training.data import Template
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.memory import fill_parts
from trainers.local.training.pairs import PairRow, Pairs, filter_pairs, read_pair, read_pairs, width
from trainers.methods import TooLong

FORM = '{"input": {"messages": [...]}, "preferred_output": [...], "non_preferred_output": [...]}'


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Any:
    return AutoTokenizer.from_pretrained(tiny_model_dir)


def tokenize(tokenizer: Any, raw: dict[str, Any]) -> PairRow:
    return read_pair(7, json.dumps(raw), Template.of(tokenizer), "training_file")


def test_an_answer_is_what_the_model_would_generate_with_its_end_token(tokenizer: Any) -> None:
    messages = [{"role": "developer", "content": "Sort."}, {"role": "user", "content": "charged twice"}]
    row = tokenize(tokenizer, pair(input={"messages": messages}))
    chat = [{"role": "system", "content": "Sort."}, messages[1]]
    prompt = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)
    assert tokenizer.decode(row.prompt) == prompt
    assert tokenizer.decode(row.chosen) == "billing<|im_end|>"
    assert tokenizer.decode(row.rejected) == "shipping<|im_end|>"


def test_a_token_across_question_and_answer_belongs_to_the_answer(
    tokenizer: Any,
) -> None:
    row = tokenize(tokenizer, pair("\n billing", "shipping"))
    assert tokenizer.decode([*row.prompt, *row.chosen]).endswith("assistant\n\n billing<|im_end|>")
    assert tokenizer.decode([*row.prompt, *row.rejected]).endswith("assistant\nshipping<|im_end|>")


def row(prompt: int, chosen: int, rejected: int, line: int = 1) -> PairRow:
    return PairRow(line, [1] * prompt, [2] * chosen, [3] * rejected)


def filter_all(rows: list[PairRow], max_length: int, too_long: TooLong = "leave_out") -> Pairs:
    return filter_pairs(rows, max_length, "training_file", too_long)


def test_a_pair_is_as_long_as_its_longer_answer() -> None:
    short, long = row(10, 2, 6), row(10, 7, 1)
    assert (short.length, short.tokens) == (16, 28)
    assert filter_all([short, long], 16) == Pairs([short], same=0, too_long=1)


def test_a_pair_is_truncated_unless_its_answers_would_become_equal() -> None:
    same_beginning = PairRow(2, [1] * 10, [2, 2, 2, 2, 4], [2, 2, 2, 2, 5])
    pairs = filter_all([row(10, 2, 6), same_beginning, row(20, 1, 1, line=3)], 14, "truncate")
    assert pairs == Pairs([row(10, 2, 4)], same=0, too_long=2, cut=1)


def test_pairs_with_equal_rendered_answers_are_left_out_and_counted() -> None:
    same = PairRow(2, [1], [2], [2])
    assert filter_all([row(1, 1, 1), same], 14) == Pairs([row(1, 1, 1)], same=1, too_long=0)
    with pytest.raises(TrainingFailed, match="No pair of the training file has two different answers"):
        filter_all([same], 14)


def test_too_long_pairs_are_refused_with_their_first_line() -> None:
    with pytest.raises(TrainingFailed) as caught:
        filter_all([row(1, 1, 1), row(10, 7, 1, line=4), row(10, 9, 1, line=5)], 16, "refuse")
    assert caught.value.message == (
        "2 pairs of the training file are longer than max_length 16 tokens, the first in line 4, and too_long is "
        "'refuse'. Shorten them, set max_length to 19, or set too_long to 'leave_out' or 'truncate'."
    )
    with pytest.raises(
        TrainingFailed, match=r"Each pair of the training file \(1\) is longer than max_length 16"
    ):
        filter_all([row(10, 7, 1)], 16)


def test_padding_counts_when_parts_of_a_batch_are_filled() -> None:
    rows = [row(4, 1, 1), row(4, 2, 6), row(1, 1, 1), row(4, 20, 1)]
    assert (width(rows[:1]), width(rows[:2])) == (10, 40)
    assert fill_parts(rows, 40, width) == [rows[:2], rows[2:3], rows[3:]]
    assert fill_parts(rows, 1, width) == [[each] for each in rows]


def test_pairs_are_read_with_a_bom_and_blank_lines(tokenizer: Any, tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text("\ufeff" + json.dumps(pair()) + "\n\n" + json.dumps(pair()) + "\n", encoding="utf-8")
    pairs = read_pairs(path, tokenizer, 100, "training_file", "leave_out")
    assert [each.line for each in pairs.rows] == [1, 3]


def refusal(tmp_path: Path, *rows: object, pairs: bool = True) -> str | None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return file_refusal(path, 1, pairs=pairs)


TOOL = {"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}
CALL = {"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "look"}}]}


def test_pairs_with_tools_and_calls_are_accepted(tmp_path: Path) -> None:
    messages = [{"role": "user", "content": "Where is it?"}]
    chat = {"messages": messages, "tools": [TOOL], "parallel_tool_calls": True}
    assert refusal(tmp_path, pair(), pair(input=chat, preferred_output=[CALL])) is None


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            {"messages": [{"role": "user", "content": "x"}]},
            f"is a chat, but the method dpo learns from pairs. Leave method out, or send lines like {FORM}.",
        ),
        (
            {"prompt": "x", "chosen": "a", "rejected": "b"},
            f"has no object 'input'. Each line must look like {FORM}.",
        ),
        ([1], f"is not a JSON object. Each line must look like {FORM}."),
        (pair(input={}), "has no list 'input.messages' with at least one message."),
        (
            pair(input={"messages": [{"role": "bot", "content": "x"}]}),
            "has a bad message at input.messages[0]: its role is 'bot'; allowed are system, developer, user, "
            "assistant, tool.",
        ),
        (
            pair(input={"messages": [{"role": "assistant", "content": "x"}]}),
            "ends input.messages with the assistant's answer. Move it into preferred_output or non_preferred_output.",
        ),
        (
            pair(input={"messages": [{"role": "user", "content": "x"}], "tools": {}}),
            "has input.tools that is not a list. Send tool definitions as a list, or leave it out.",
        ),
        (pair(preferred_output=[]), "has no list 'preferred_output' with at least one message."),
        (
            pair(non_preferred_output=[{"role": "assistant", "content": " "}]),
            "has a bad message at non_preferred_output[0]: its content must be text that is not empty.",
        ),
        (
            pair(preferred_output=[{"role": "user", "content": "x"}]),
            "has a preferred_output that is not a single message of the assistant. Move the messages before it into "
            "input.messages.",
        ),
        (
            pair(preferred_output=[{"role": "assistant", "content": "x"}] * 2),
            "has a preferred_output that is not a single message of the assistant. Move the messages before it into "
            "input.messages.",
        ),
        (pair("same", "same"), "has the same answer twice. Give two different ones, or delete the line."),
    ],
)
def test_an_invalid_pair_is_refused_with_its_line_its_field_and_advice(
    tmp_path: Path, raw: object, message: str
) -> None:
    assert refusal(tmp_path, pair(), raw) == f"Line 2 {message}"


def test_pairs_sent_as_chats_are_refused_with_the_right_method(
    tmp_path: Path,
) -> None:
    assert refusal(tmp_path, pair(), pairs=False) == (
        "Line 1 is a preference pair, but the job's method learns from chats. Create the job with method.type "
        'dpo, or send lines like {"messages": [...]}.'
    )
