"""The report on a file, the parts that are written, and the project's examples."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.trainers.dataset.builders import chat_line
from trainers.dataset import (
    CLASSIFY,
    CheckSettings,
    Columns,
    Limits,
    Previous,
    Report,
    check_file,
    read,
    split,
    store_chat,
)
from trainers.dataset.token_counts import tokens_of_system
from trainers.models.tokens import O200K, Encoding, count_chat, local_encoding

ROOT = Path(__file__).resolve().parents[3]
FLAWED = ROOT / "examples" / "support_tickets_flawed.jsonl"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "tickets.csv"
    lines = [f"ticket number {i} says hello,{'billing' if i % 2 else 'refund'}" for i in range(300)]
    path.write_text("text,label\n" + "\n".join(lines) + "\n")
    return path


def check(path: Path, out: Path) -> Report:
    return check_file(path, path.name, Columns(), out, 7)


def test_a_good_table_becomes_two_files_named_by_their_hashes(table: Path, tmp_path: Path) -> None:
    report = check(table, tmp_path / "out")

    assert not report.is_blocked
    assert (report.format, report.task, report.rows) == ("csv", "labels", 300)
    assert (report.n_train, report.n_holdout) == (200, 100)
    assert report.columns == Columns("text", "label")
    assert report.source_sha256 == hashlib.sha256(table.read_bytes()).hexdigest()
    names = {f"{report.train_sha256}.jsonl": 200, f"{report.holdout_sha256}.jsonl": 100}
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(names)
    for name, count in names.items():
        content = (tmp_path / "out" / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() + ".jsonl" == name
        rows = [json.loads(line) for line in content.splitlines()]
        assert len(rows) == count
        assert all([m["role"] for m in row["messages"]] == ["system", "user", "assistant"] for row in rows)
        assert all(row["messages"][0]["content"] == CLASSIFY for row in rows)


def test_the_same_file_and_seed_give_the_same_parts_and_another_seed_others(
    table: Path, tmp_path: Path
) -> None:
    first, again = check(table, tmp_path / "a"), check(table, tmp_path / "b")
    other_seed = check_file(table, table.name, Columns(), tmp_path / "c", 8)
    assert replace(first, seconds=0) == replace(again, seconds=0)
    assert other_seed.holdout_sha256 != first.holdout_sha256


def test_a_report_survives_json_and_the_way_from_a_worker_process(table: Path, tmp_path: Path) -> None:
    for report in (check(table, tmp_path / "out"), check(FLAWED, tmp_path / "out")):
        assert Report.from_json(report.to_json()) == report == pickle.loads(pickle.dumps(report))  # noqa: S301


def test_tokens_are_those_of_the_rows_as_they_are_written(table: Path, tmp_path: Path) -> None:
    report = check(table, tmp_path / "out")
    train = read(tmp_path / "out" / f"{report.train_sha256}.jsonl", "train").examples
    holdout = read(tmp_path / "out" / f"{report.holdout_sha256}.jsonl", "holdout").examples
    trained = count_chat([e.messages for e in train])
    everything = count_chat([e.messages for e in (*train, *holdout)])

    assert report.tokens.train == sum(trained.total)
    assert report.tokens.rows.total == sum(everything.total)
    assert report.tokens.prompt_mean == pytest.approx(sum(everything.prompt) / 300)
    assert report.tokens.answer_mean == pytest.approx(sum(everything.answer) / 300)
    assert report.tokens.answer_most == max(everything.answer)
    listed = "\nLabels:\nbilling\nrefund"
    assert 5 <= report.tokens.prompted_mean - report.tokens.prompt_mean <= len(listed) / 2


def test_an_assumed_encoding_is_reported(table: Path, tmp_path: Path) -> None:
    assumed = Encoding("o200k_base", assumed=True)
    assert check_file(table, "t", Columns(), tmp_path, 7, CheckSettings(encoding=assumed)).tokens.assumed


def test_nothing_is_written_if_a_finding_blocks(tmp_path: Path) -> None:
    report = check(FLAWED, tmp_path / "out")
    assert report.is_blocked
    assert (report.train_sha256, report.holdout_sha256) == (None, None)
    assert (report.n_train, report.n_holdout) == (0, 0)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("rows", "are_rows"), [(3, "are 3 usable rows"), (1, "is 1 usable row")])
def test_fewer_than_ten_rows_are_refused(tmp_path: Path, rows: int, are_rows: str) -> None:
    path = tmp_path / "few.csv"
    few = ("where is it,delivery\n", "stop it,cancel\n", "no money back yet,refund\n")[:rows]
    path.write_text("text,label\n" + "".join(few))
    report = check(path, tmp_path / "out")
    assert report.is_blocked
    assert report.findings[0].message == f"There {are_rows}; 14 is the minimum."


@pytest.mark.parametrize("form", ["free text", "pairs"])
def test_rows_are_refused_if_too_few_are_left_to_train_on(tmp_path: Path, form: str) -> None:
    trained = {}
    for count in range(10, 16):
        path = tmp_path / f"{count}.jsonl"
        rows = [form_row(form, number) for number in range(count)]
        path.write_text("\n".join(map(json.dumps, rows)))
        report = check(path, tmp_path / "out")
        too_few = [finding.message for finding in report.findings if finding.code == "too_few_rows"]
        trained[count] = report.n_train
        assert bool(too_few) is report.is_blocked is (count < 14)
        if count == 13:
            assert too_few == ["9 of the 13 rows are left to train on; 10 is the minimum."]
    assert trained == {10: 0, 11: 0, 12: 0, 13: 0, 14: 10, 15: 10}


def form_row(form: str, number: int) -> dict[str, Any]:
    question = [{"role": "user", "content": f"question {number}"}]
    good, bad = ({"role": "assistant", "content": f"{what} answer {number}"} for what in ("good", "bad"))
    if form == "pairs":
        return {
            "input": {"messages": question},
            "preferred_output": [good],
            "non_preferred_output": [bad],
        }
    return {"messages": [*question, good]}


def test_rows_that_are_in_a_frozen_holdout_block(table: Path, tmp_path: Path) -> None:
    first = check(table, tmp_path / "out")
    frozen = tmp_path / "out" / f"{first.holdout_sha256}.jsonl"
    held = split(read(table, "t").examples, 7).holdout[0]
    report = check_file(table, "t", Columns(), tmp_path / "out", 7, CheckSettings(holdout=frozen))
    assert report.is_blocked
    overlaps = [f for f in report.findings if f.code == "overlap"]
    assert sum(f.count for f in overlaps) == 100
    assert overlaps[0].line == held.line
    assert overlaps[0].message == f"Line {held.line} asks what the holdout asks in line 1."


def test_a_frozen_holdout_stays_and_new_rows_are_all_for_training(table: Path, tmp_path: Path) -> None:
    first = check(table, tmp_path / "out")
    frozen = tmp_path / "out" / f"{first.holdout_sha256}.jsonl"
    table.write_text(table.read_text().replace("says hello", "says good bye"))
    report = check_file(table, "t", Columns(), tmp_path / "out", 7, CheckSettings(holdout=frozen))
    assert (report.holdout_sha256, report.n_holdout, report.n_train) == (first.holdout_sha256, 100, 300)


def test_a_damaged_frozen_holdout_is_an_error(table: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "holdout.jsonl"
    damaged.write_text('{"messages": [')
    with pytest.raises(ValueError, match="frozen holdout 'holdout"):
        check_file(table, "t", Columns(), tmp_path / "out", 7, CheckSettings(holdout=damaged))


def test_a_file_whose_rows_cannot_be_held_out_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("text,label\n" + "\n".join(f"{i} asks {i * 77},l{i % 5}" for i in range(10)) + "\n")
    report = check(path, tmp_path / "out")
    assert [f.code for f in report.findings if f.blocks] == ["no_holdout"]


def test_a_version_after_one_without_a_holdout_draws_its_own(table: Path, tmp_path: Path) -> None:
    sides = [store_chat(tmp_path, rows) for rows in (read(table, "t.csv").examples[:20], ())]
    train, holdout = (tmp_path / f"{side}.jsonl" for side in sides)
    report = check_file(
        table, "t.csv", Columns(), tmp_path, 7, CheckSettings(previous=Previous(train, holdout))
    )
    assert not report.is_blocked
    assert report.n_holdout == 56


def tool_line(number: int, description: str) -> str:
    tool = {"type": "function", "function": {"name": "find", "description": description}}
    return chat_line(f"where is order {number}", "here", tools=[tool])


def test_tool_definitions_count_as_tokens_and_are_searched_for_secrets(tmp_path: Path) -> None:
    long, secret = tmp_path / "long.jsonl", tmp_path / "secret.jsonl"
    long.write_text("\n".join(tool_line(i, "Finds an order. " * 100) for i in range(12)))
    secret.write_text("\n".join([tool_line(1, "Finds it."), tool_line(2, "key AKIA" + "ABCDEFGH12345678")]))
    report = check(long, tmp_path / "out")
    assert report.tokens.rows.max > 400
    assert report.tokens.prompt_mean > 400
    assert [(f.line, f.code) for f in check(secret, tmp_path).findings if f.line] == [(2, "secret")]


def test_each_flaw_of_the_flawed_example_is_reported_on_its_line(tmp_path: Path) -> None:
    report = check(FLAWED, tmp_path / "out")

    assert [(f.line, f.severity, f.code) for f in report.findings] == [
        (7, "blocks", "not_json"),
        (13, "blocks", "unknown_role"),
        (23, "blocks", "empty_content"),
        (32, "blocks", "no_answer"),
        (48, "blocks", "duplicate_key"),
        (55, "blocks", "bad_weight"),
        (57, "blocks", "not_a_row"),
        (36, "blocks", "secret"),
        (None, "warns", "not_yet"),
        (27, "warns", "duplicate"),
        (43, "warns", "contradiction"),
        (None, "warns", "labels_alike"),
        (None, "warns", "few_rows_of_label"),
        (17, "warns", "personal_data"),
        (52, "warns", "special_token"),
        (None, "tells", "blank_lines"),
    ]


def test_the_good_example_has_no_findings_that_block_or_warn(tmp_path: Path) -> None:
    report = check(ROOT / "examples" / "support_tickets.csv", tmp_path / "out")
    assert [f.message for f in report.findings if f.severity != "tells"] == []
    assert report.rows >= 800
    assert report.n_holdout == 200
    assert 8 <= len(report.labels) <= 10


def test_training_tokens_are_also_counted_by_each_local_models_tokenizer(tmp_path: Path) -> None:
    words, bare = save_word_tokenizer(tmp_path / "words"), tmp_path / "bare"
    bare.mkdir()
    path = tmp_path / "rows.csv"
    rows = [f"parcel {i} is late,{'delivery' if i % 2 else 'refund'}" for i in range(30)]
    path.write_text("\n".join(["text,label", *rows]), encoding="utf-8")

    report = check_file(
        path,
        "r",
        Columns(),
        tmp_path,
        1,
        CheckSettings(system="Sort it.", local_models={"words": words, "bare": bare}),
    )

    # two words, four and one, and four more for each of three messages
    assert report.trained_tokens == (("words", report.n_train * (2 + 4 + 1 + 3 * 4)),)
    assert report.tokens.system == tokens_of_system("Sort it.", O200K) > 0
    assert Report.from_json(report.to_json()) == report


def save_word_tokenizer(folder: Path) -> Path:
    """Saves a tokenizer for which each word is a token."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_the_model_to_train_decides_the_length_of_rows_and_the_vendor_its_tokens(tmp_path: Path) -> None:
    folder, path = save_word_tokenizer(tmp_path / "words"), tmp_path / "rows.jsonl"
    rows = [chat_line(f"{i} unquestionably", "no") for i in range(30)]
    rows[3] = chat_line("a b c d e f g h i j k l", "no")
    rows[4] = chat_line(
        "4 unquestionably", "no", tools=[{"type": "function", "function": {"name": "look_up"}}]
    )
    path.write_text("\n".join(rows))
    encoding, limits = local_encoding(folder), Limits(max_row_tokens=12)

    by_vendor = check_file(path, "r", Columns(), tmp_path, 7, CheckSettings(limits=limits))
    by_words = check_file(
        path,
        "r",
        Columns(),
        tmp_path,
        7,
        CheckSettings(limits=limits, lengths_by=encoding, local_models={"m": folder}),
    )
    again = check_file(path, "r", Columns(), tmp_path, 7, CheckSettings(local_models={"m": folder}))

    (too_long,) = [f for f in by_words.findings if f.code == "row_too_long"]
    assert (too_long.line, too_long.severity) == (4, "warns")
    assert too_long.message == "Line 4 has 21 tokens of words, more than the limit of 12."
    assert by_words.token_lengths == ((11, 28), (12, 1), (21, 1))
    assert by_words.tokens == by_vendor.tokens
    assert by_words.trained_tokens == again.trained_tokens


def check_answers(folder: Path, answers: Sequence[str]) -> Report:
    """Checks a file of chats with these answers; each question is different."""
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"question {number}"},
                {"role": "assistant", "content": answer},
            ]
        }
        for number, answer in enumerate(answers)
    ]
    path = folder / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return check(path, folder / "out")


def test_a_report_says_how_answers_are_scored_and_what_the_commonest_one_gets(tmp_path: Path) -> None:
    objects = [
        json.dumps({"id": number, "paid": number % 4 > 0, "to": {"city": "Ulm"}}) for number in range(240)
    ]
    report = check_answers(tmp_path, objects)
    assert (report.task, report.scoring) == ("free_text", "json") and report.has_free_candidates
    # of three fields the city is always right, and "paid" in three of four rows; no number is
    assert report.floor == pytest.approx((1 + 0.75) / 3, abs=0.03)

    report = check_answers(tmp_path, ["billing" if number % 3 else "refund" for number in range(240)])
    assert report.scoring == "label" and report.floor == pytest.approx(2 / 3, abs=0.01)

    report = check_answers(tmp_path, [f"Dear customer {number}, thank you." for number in range(240)])
    assert (report.scoring, report.floor) == ("f1", None) and not report.has_free_candidates


def test_a_report_from_before_scorings_were_stored_can_be_read(table: Path, tmp_path: Path) -> None:
    stored = json.loads(check(table, tmp_path / "out").to_json())
    del stored["scoring"], stored["floor"]
    report = Report.from_json(json.dumps(stored))
    assert (report.scoring, report.floor) == (None, None) and report.has_free_candidates
