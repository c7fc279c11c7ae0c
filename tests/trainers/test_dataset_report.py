"""One call for a whole file: the report, the two files, and the examples that come with the project."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from trainers.dataset import CLASSIFY, Columns, Limits, Previous, Report, check_file, read, split, store_chat
from trainers.tokens import Encoding, count_chat, local_encoding

ROOT = Path(__file__).resolve().parents[2]
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


def test_the_same_file_and_seed_make_the_same_files_and_another_seed_others(
    table: Path, tmp_path: Path
) -> None:
    first, again = check(table, tmp_path / "a"), check(table, tmp_path / "b")
    other = check_file(table, table.name, Columns(), tmp_path / "c", 8)

    assert replace(first, seconds=0) == replace(again, seconds=0)
    assert other.holdout_sha256 != first.holdout_sha256


def test_a_report_survives_json(table: Path, tmp_path: Path) -> None:
    for report in (check(table, tmp_path / "out"), check(FLAWED, tmp_path / "out")):
        assert Report.from_json(report.to_json()) == report


def test_a_report_comes_back_from_a_worker_process(table: Path, tmp_path: Path) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        report = pool.submit(check_file, table, table.name, Columns(), tmp_path / "out", 7).result(timeout=60)

    assert report.n_train == 200


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


def test_an_assumed_encoding_is_said_so(table: Path, tmp_path: Path) -> None:
    assumed = Encoding("o200k_base", assumed=True)

    assert check_file(table, "t", Columns(), tmp_path, 7, encoding=assumed).tokens.assumed


def test_nothing_is_written_where_a_finding_blocks(tmp_path: Path) -> None:
    report = check(FLAWED, tmp_path / "out")

    assert report.is_blocked
    assert (report.train_sha256, report.holdout_sha256, report.n_train, report.n_holdout) == (
        None,
        None,
        0,
        0,
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("rows", "there"), [(3, "are 3 usable rows"), (1, "is 1 usable row")])
def test_fewer_than_ten_rows_are_refused(tmp_path: Path, rows: int, there: str) -> None:
    path = tmp_path / "few.csv"
    few = ("where is it,delivery\n", "stop it,cancel\n", "no money back yet,refund\n")[:rows]
    path.write_text("text,label\n" + "".join(few))

    report = check(path, tmp_path / "out")

    assert report.is_blocked
    assert report.findings[0].message == f"There {there}; 10 is the minimum."


def test_a_refused_file_is_reported_with_its_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "picture.jsonl"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))

    report = check(path, tmp_path / "out")

    assert [f.message for f in report.findings] == [
        "'picture.jsonl' is a PNG picture, whatever its name says."
    ]
    assert report.format is None


def test_a_row_over_the_trainers_limit_is_named(table: Path, tmp_path: Path) -> None:
    table.write_text(table.read_text() + "many " * 500 + ",refund\n")

    report = check_file(table, "t", Columns(), tmp_path, 7, limits=Limits(max_row_tokens=300))

    assert [(f.line, f.severity) for f in report.findings if f.code == "row_too_long"] == [(302, "warns")]


def test_rows_that_a_frozen_holdout_asks_too_block(table: Path, tmp_path: Path) -> None:
    first = check(table, tmp_path / "out")
    frozen = tmp_path / "out" / f"{first.holdout_sha256}.jsonl"
    held = split(read(table, "t").examples, 7).holdout[0]

    report = check_file(table, "t", Columns(), tmp_path / "out", 7, holdout=frozen)

    assert report.is_blocked
    overlaps = [f for f in report.findings if f.code == "overlap"]
    assert sum(f.count for f in overlaps) == 100
    assert overlaps[0].line == held.line
    assert overlaps[0].message == f"Line {held.line} asks what the holdout asks in line 1."


def test_a_frozen_holdout_stays_and_new_rows_are_all_for_training(table: Path, tmp_path: Path) -> None:
    first = check(table, tmp_path / "out")
    frozen = tmp_path / "out" / f"{first.holdout_sha256}.jsonl"
    table.write_text(table.read_text().replace("says hello", "says good bye"))

    report = check_file(table, "t", Columns(), tmp_path / "out", 7, holdout=frozen)

    assert (report.holdout_sha256, report.n_holdout, report.n_train) == (first.holdout_sha256, 100, 300)


def test_a_damaged_frozen_holdout_is_a_fault_not_an_empty_one(table: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "holdout.jsonl"
    damaged.write_text('{"messages": [')

    with pytest.raises(ValueError, match="frozen holdout 'holdout"):
        check_file(table, "t", Columns(), tmp_path / "out", 7, holdout=damaged)


def test_rows_of_which_none_can_be_held_out_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("text,label\n" + "\n".join(f"{i} asks {i * 77},l{i % 5}" for i in range(10)) + "\n")

    report = check(path, tmp_path / "out")

    assert [f.code for f in report.findings if f.blocks] == ["no_holdout"]


def test_a_version_after_one_that_held_nothing_out_draws_its_own(table: Path, tmp_path: Path) -> None:
    sides = [store_chat(tmp_path, rows) for rows in (read(table, "t.csv").examples[:20], ())]
    train, holdout = (tmp_path / f"{side}.jsonl" for side in sides)

    report = check_file(table, "t.csv", Columns(), tmp_path, 7, previous=Previous(train, holdout))

    assert not report.is_blocked
    assert report.n_holdout == 56


def with_tool(number: int, described: str) -> str:
    messages = [
        {"role": "user", "content": f"where is order {number}"},
        {"role": "assistant", "content": "here"},
    ]
    tool = {"type": "function", "function": {"name": "find", "description": described}}
    return json.dumps({"messages": messages, "tools": [tool]})


def test_what_tools_are_told_counts_as_tokens_and_is_searched_for_secrets(tmp_path: Path) -> None:
    long, secret = tmp_path / "long.jsonl", tmp_path / "secret.jsonl"
    long.write_text("\n".join(with_tool(i, "Finds an order. " * 100) for i in range(12)))
    secret.write_text("\n".join([with_tool(1, "Finds it."), with_tool(2, "key AKIA" + "ABCDEFGH12345678")]))

    report = check(long, tmp_path / "out")

    assert report.tokens.rows.max > 400
    assert report.tokens.prompt_mean > 400
    assert [(f.line, f.code) for f in check(secret, tmp_path).findings if f.line] == [(2, "secret")]


def test_the_flawed_example_shows_each_flaw_on_its_line(tmp_path: Path) -> None:
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


def test_the_good_example_has_nothing_that_blocks_or_warns(tmp_path: Path) -> None:
    report = check(ROOT / "examples" / "support_tickets.csv", tmp_path / "out")

    assert [f.message for f in report.findings if f.severity != "tells"] == []
    assert report.rows >= 800
    assert report.n_holdout == 200
    assert 8 <= len(report.labels) <= 10


def test_tokens_to_train_are_also_counted_by_each_local_models_own_tokenizer(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = tmp_path / "words"
    words.mkdir()
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.save(str(words / "tokenizer.json"))
    (tmp_path / "bare").mkdir()
    rows = "text,label\n" + "".join(
        f"parcel {i} is late,{'delivery' if i % 2 else 'refund'}\n" for i in range(30)
    )
    (tmp_path / "rows.csv").write_text(rows, encoding="utf-8")

    report = check_file(
        tmp_path / "rows.csv",
        "rows.csv",
        Columns(),
        tmp_path / "out",
        1,
        system="Sort it.",
        local_models={"words": words, "bare": tmp_path / "bare"},
    )

    # two words, four and one, and four more for each of three messages
    assert report.trained_tokens == (("words", report.n_train * (2 + 4 + 1 + 3 * 4)),)
    assert Report.from_json(report.to_json()) == report


def test_the_model_to_train_counts_how_long_rows_are_and_vendors_tokens_stay_theirs(tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    folder = tmp_path / "words"
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    path = tmp_path / "rows.jsonl"
    tools = [{"type": "function", "function": {"name": "look_up"}}]
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"{i} unquestionably"},
                {"role": "assistant", "content": "no"},
            ]
        }
        for i in range(30)
    ]
    rows[3]["messages"][0]["content"] = "a b c d e f g h i j k l"
    rows[4]["tools"] = tools
    path.write_text("\n".join(map(json.dumps, rows)))
    encoding, limits = local_encoding(folder), Limits(max_row_tokens=12)

    plain = check_file(path, "r", Columns(), tmp_path, 7, limits=limits)
    by_words = check_file(
        path, "r", Columns(), tmp_path, 7, limits=limits, lengths_by=encoding, local_models={"m": folder}
    )
    again = check_file(path, "r", Columns(), tmp_path, 7, local_models={"m": folder})

    said = [f.message for f in by_words.findings if f.code == "row_too_long"]
    assert said == ["Line 4 has 21 tokens of words, more than the limit of 12."]
    assert by_words.token_lengths == ((11, 28), (12, 1), (21, 1))
    assert by_words.tokens == plain.tokens
    assert by_words.trained_tokens == again.trained_tokens
