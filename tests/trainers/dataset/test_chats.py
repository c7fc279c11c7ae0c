"""Chats as the openai package and other programs write them: whatever a message could have is there, mostly as null."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainers.dataset import Columns, Example, check_file, read
from trainers.evaluation.prompts import balanced_shots
from trainers.local.checks import line_complaint

ROWS = 60
TOOL = {"type": "function", "function": {"name": "find", "parameters": {}}}
CALL = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}


def chat(number: int, row: dict[str, Any], user: dict[str, Any], reply: dict[str, Any]) -> dict[str, Any]:
    question = {"role": "user", "content": f"ticket {number} about the letter {number % 7}"}
    answer = {"role": "assistant", "content": "ab"[number % 2]}
    return {"messages": [question | user, answer | reply], **row}


def stored_rows(tmp_path: Path, chats: list[dict[str, Any]]) -> tuple[list[str], tuple[Example, ...]]:
    """The lines and the rows that a check stores for training."""
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, chats)), encoding="utf-8")
    report = check_file(path, path.name, Columns(), tmp_path, 1)
    assert not report.is_blocked, report.findings
    assert "dropped_keys" not in {finding.code for finding in report.findings}
    stored = tmp_path / f"{report.train_sha256}.jsonl"
    return stored.read_text(encoding="utf-8").splitlines(), read(stored, stored.name).examples


PARTS = [{"type": "text", "text": "ticket"}, {"type": "text", "text": "in two parts"}]
DUMPED = {"refusal": None, "annotations": [], "audio": None, "function_call": None, "tool_calls": None}


@pytest.mark.parametrize(
    ("row", "user", "reply"),
    [
        ({}, {}, DUMPED),
        ({}, {}, {"weight": None}),
        ({}, {}, {"tool_calls": []}),
        ({}, {"name": None}, {"name": ""}),
        ({"tools": None, "parallel_tool_calls": None}, {}, {}),
        ({"tools": [], "functions": [], "parallel_tool_calls": False}, {}, {}),
    ],
    ids=["model_dump", "weight", "calls", "names", "tools", "no tools"],
)
def test_null_and_empty_keys_go_when_a_row_is_read(
    tmp_path: Path, row: dict[str, Any], user: dict[str, Any], reply: dict[str, Any]
) -> None:
    lines, rows = stored_rows(tmp_path, [chat(number, row, user, reply) for number in range(ROWS)])
    for line in map(json.loads, lines):
        assert line.keys() == {"messages"}
        assert all(message.keys() == {"role", "content"} for message in line["messages"])
    assert len(balanced_shots(rows, 10, seed=0)) == 10


@pytest.mark.parametrize(
    ("user", "reply"),
    [({}, {"weight": 1}), ({"name": "customer"}, {}), ({}, {"refusal": "not now"})],
    ids=["weight", "name", "refusal"],
)
def test_rows_with_other_keys_keep_them_and_are_examples_too(
    tmp_path: Path, user: dict[str, Any], reply: dict[str, Any]
) -> None:
    lines, rows = stored_rows(tmp_path, [chat(number, {}, user, reply) for number in range(ROWS)])
    question, answer = json.loads(lines[0])["messages"]
    assert user.items() <= question.items() and reply.items() <= answer.items()
    assert len(balanced_shots(rows, 10, seed=0)) == 10


def test_parts_of_text_become_one_text(tmp_path: Path) -> None:
    chats = [
        chat(number, {}, {"content": [*PARTS, {"type": "text", "text": f"{number}"}]}, {})
        for number in range(ROWS)
    ]
    lines, rows = stored_rows(tmp_path, chats)
    assert json.loads(lines[0])["messages"][0]["content"].startswith("ticket\nin two parts\n")
    assert len(balanced_shots(rows, 10, seed=0)) == 10


def test_only_rows_that_offer_or_call_functions_are_no_examples(tmp_path: Path) -> None:
    offers = [chat(number, {"tools": [TOOL]}, {}, {}) for number in range(20)]
    calls = [chat(number, {}, {}, {"content": None, "tool_calls": [CALL]}) for number in range(20, 40)]
    plain = [chat(number, {}, {}, DUMPED) for number in range(40, 60)]
    _, rows = stored_rows(tmp_path, [*offers, *calls, *plain])
    shots = balanced_shots(rows, 60, seed=0)
    assert {shot.uses_tools for shot in shots} == {False}
    assert len(shots) == sum(not row.uses_tools for row in rows) > 0


def test_the_same_key_twice_is_refused_even_if_it_is_null(tmp_path: Path) -> None:
    line = json.dumps(chat(1, {}, {}, {"refusal": None})).replace('"refusal"', '"refusal": null, "refusal"')
    (tmp_path / "a.jsonl").write_text(line, encoding="utf-8")
    assert [finding.code for finding in read(tmp_path / "a.jsonl", "a.jsonl").findings] == ["duplicate_key"]


def test_the_trainer_takes_a_weight_of_null_as_unset() -> None:
    answer = json.dumps(chat(1, {}, {}, {"weight": None})).encode()
    assert line_complaint(answer, pairs=False) is None
    only_zero = json.dumps(chat(1, {}, {}, {"weight": 0})).encode()
    assert "no assistant message to learn from" in str(line_complaint(only_zero, pairs=False))


def test_preference_pairs_lose_their_null_keys_too(tmp_path: Path) -> None:
    pairs = [
        {
            "input": {"messages": [{"role": "user", "content": f"question {number}"}], "tools": None},
            "preferred_output": [{"role": "assistant", "content": "good", **DUMPED}],
            "non_preferred_output": [{"role": "assistant", "content": "bad", "refusal": None}],
        }
        for number in range(ROWS)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    report = check_file(path, path.name, Columns(), tmp_path, 1)
    assert "dropped_keys" not in {finding.code for finding in report.findings}
    assert report.pairs and report.pairs_sha256
    stored = (tmp_path / f"{report.pairs_sha256}.jsonl").read_text(encoding="utf-8")
    assert "null" not in stored and "annotations" not in stored


def test_a_report_counts_the_functions_that_answers_call(tmp_path: Path) -> None:
    older = {"content": None, "function_call": {"name": "send", "arguments": "{}"}}
    chats = [
        *(chat(number, {}, {}, {"content": None, "tool_calls": [CALL, CALL]}) for number in range(20)),
        *(chat(number, {}, {}, older) for number in range(20, 40)),
        *(chat(number, {"tools": [TOOL]}, {}, {}) for number in range(40, ROWS)),
    ]
    path = tmp_path / "chats.jsonl"
    path.write_text("\n".join(map(json.dumps, chats)), encoding="utf-8")
    report = check_file(path, path.name, Columns(), tmp_path, 1)
    assert (report.n_calling, report.n_functions, report.n_with_tools) == (40, 2, ROWS)


def test_calls_in_pairs_are_readable(tmp_path: Path) -> None:
    called = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    pairs = [
        {
            "input": {"messages": [{"role": "user", "content": f"where is parcel {number}?"}]},
            "preferred_output": [called],
            "non_preferred_output": [{"role": "assistant", "content": f"no idea about {number}"}],
        }
        for number in range(ROWS)
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("\n".join(map(json.dumps, pairs)), encoding="utf-8")
    report = check_file(path, path.name, Columns(), tmp_path, 1)
    assert report.format == "preference" and report.rows == ROWS, report.findings
