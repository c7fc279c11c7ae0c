"""`finetune check`: what it prints, as text and as JSON, the copy that --fix writes, and its exit codes."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks._flawed import add_flaws, write
from benchmarks._planted import make_texts, mislabel
from bot.cli import datasets
from tests.bot.cli_runner import ROOT, TICKETS, finetune, finetune_json, ticket_lines, write_tickets
from tests.trainers.dataset.document_files import sheet_row, workbook
from trainers.dataset import Columns
from trainers.packages import install_line

FLAWED = ROOT / "examples" / "support_tickets_flawed.jsonl"
NOISY = ROOT / "examples" / "support_tickets_copied_and_mislabelled.csv"
SECOND = ROOT / "examples" / "support_tickets_v2.csv"
PLAIN_ROWS = [f"question {i} on {i * 77 % 91},{'ab'[i % 2]}" for i in range(40)]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("FINETUNE_CONFIG", raising=False)


def findings(*arguments: str | Path) -> list[dict[str, Any]]:
    """Returns the findings of a check, whether they block or not."""
    answer: list[dict[str, Any]] = json.loads(finetune("check", *arguments, "--json").stdout)["findings"]
    return answer


def codes(*arguments: str | Path) -> set[str]:
    return {finding["code"] for finding in findings(*arguments)}


def test_a_good_file_is_ready_with_exit_code_0_and_leaves_no_file_behind(tmp_path: Path) -> None:
    write_tickets(tmp_path / "tickets.csv", 60)
    result = finetune("check", "tickets.csv")
    assert result.exit_code == 0
    assert result.stdout.startswith("tickets.csv is readable, but too small to train: 60 rows")
    assert [path.name for path in tmp_path.iterdir()] == ["tickets.csv"]


def test_a_blocked_file_has_exit_code_1_and_its_json_lists_findings_by_line() -> None:
    text = finetune("check", FLAWED)
    assert text.exit_code == 1
    assert "can't be used yet: 8 problems to fix\n" in text.stdout
    result = finetune("check", FLAWED, "--json")
    assert result.exit_code == 1
    listed = json.loads(result.stdout)["findings"]
    for finding in listed:
        assert {"line", "severity", "code", "message", "cure", "count"} == set(finding)
        assert finding["line"] is None or finding["line"] >= 1
        assert finding["severity"] in ("blocks", "warns", "tells")
        assert finding["code"].replace("_", "").isalpha()
        assert finding["message"].endswith(".")
    assert any(finding["line"] for finding in listed if finding["severity"] == "blocks")


def test_columns_can_be_named(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("".join(["words,kind\n", *ticket_lines(79)[1:]]), encoding="utf-8")
    report = finetune_json("check", "a.csv", "--text", "words", "--label", "kind")
    assert report["columns"] == {"text": "words", "label": "kind", "sheet": None}


def test_a_sheet_can_be_named(tmp_path: Path) -> None:
    rows = [line.rstrip("\n").split(",") for line in ticket_lines(79)]
    tickets = "".join(sheet_row(number, *row) for number, row in enumerate(rows, 1))
    (tmp_path / "a.xlsx").write_bytes(workbook(sheet_row(1, "a", "b") + sheet_row(2, "1", "2"), tickets))
    printed = finetune("check", "a.xlsx", "--quick").output
    assert "Name another sheet with --sheet." in printed and "\na  b\n1  2" in printed
    report = finetune_json("check", "a.xlsx", "--quick", "--sheet", "s2")
    assert (report["columns"]["sheet"], report["rows"]) == ("s2", 79)


def test_a_check_counts_its_warnings_and_gives_each_cure_once(tmp_path: Path) -> None:
    rows = ticket_lines(63)
    (tmp_path / "copies.csv").write_text("".join([*rows[:60], *rows[5:9], rows[5]]), encoding="utf-8")
    result = finetune("check", "copies.csv", "--quick")
    assert result.exit_code == 0, "warnings don't block"
    text = result.stdout
    assert "\nFound: 3 worth a look" in text
    assert "Duplicate, 5 rows" in text and text.count("Delete the copies") == 1
    assert "each of lines 61, 65 repeats line 6" in text
    assert "tokens per epoch are copies" in text and "$" not in text, (
        "no vendor who counts tokens has its key"
    )


def test_copies_have_a_price_if_a_vendor_who_counts_tokens_has_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ticket_lines(745)
    (tmp_path / "copies.csv").write_text("".join([*rows, *rows[1:]]), encoding="utf-8")
    monkeypatch.setenv("ACME_KEY", "a key")
    (tmp_path / "finetune.toml").write_text(
        '[providers.acme]\nbase_url = "https://tuning.example/v1"\nkey_env = "ACME_KEY"\n'
        '[providers.acme.models.small]\ntraining = "20.00"\n'
    )
    tokens = finetune_json("check", "copies.csv", "--quick")["duplicate_tokens"]
    text = finetune("check", "copies.csv", "--quick").stdout
    assert f"{tokens:,} tokens per epoch are copies, ${tokens * 20 / 1e6:.2f} on acme/small" in text


def test_wrong_settings_don_t_stop_a_check(tmp_path: Path) -> None:
    (tmp_path / "finetune.toml").write_text("[people]\nquorum = 0\n")
    result = finetune("check", TICKETS, "--quick")
    assert result.exit_code == 0
    assert "copies have no price" in result.stderr and "is ready" in result.stdout


def test_near_copies_and_wrong_labels_are_found_unless_the_check_is_quick() -> None:
    thorough = findings(NOISY)
    assert sum(finding["count"] for finding in thorough if finding["code"] == "near_duplicate") == 14
    # of these tickets a classifier gets half right, which is too little to doubt a label
    slow = {"near_duplicate", "labels_not_told_apart"}
    assert slow <= {finding["code"] for finding in thorough}
    assert "label_doubted" not in {finding["code"] for finding in thorough}
    assert not slow & codes(NOISY, "--quick")


def test_each_planted_fault_is_named_by_its_line(tmp_path: Path) -> None:
    """Keys, personal data, copies, near copies, contradictions, odd labels, planted in copies of the tickets."""
    with TICKETS.open(encoding="utf-8", newline="") as file:
        rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
    planted = add_flaws(rows, seed=3, of_each=21)
    write(planted.held, tmp_path / "test.csv")
    result = finetune("check", write(planted.rows, tmp_path / "rows.csv"), "--holdout", "test.csv", "--json")
    assert result.exit_code == 1, "keys block"
    lines: dict[str, set[int]] = defaultdict(set)
    for finding in json.loads(result.stdout)["findings"]:
        if finding["line"] is not None:
            assert finding["message"].startswith(f"Line {finding['line']} ")
            code = "near copies" if finding["code"].startswith("near_") else finding["code"]
            lines[code].add(finding["line"])
    assert len(planted.lines) == 10 and {code: lines[code] for code in planted.lines} == planted.lines


def test_wrong_labels_are_named_by_their_lines(tmp_path: Path) -> None:
    rows, wrong = mislabel(make_texts(6, 60, seed=1, own=0.5), 0.05, seed=1)
    path = write([(row.prompt[-1].content, row.answer) for row in rows], tmp_path / "rows.csv")
    report = finetune_json("check", path)
    doubted = {finding["line"] for finding in report["findings"] if finding["code"] == "label_doubted"}
    assert doubted == {place + 2 for place in wrong}, "the first line has the columns' names"
    assert round(report["label_errors"]["expected"]) == len(wrong)


def test_a_check_reports_its_progress() -> None:
    progress: list[str] = []
    datasets.check(NOISY, Columns(), how=datasets.CheckOptions(deep=True, on_progress=progress.append))
    assert progress[-3].endswith(" rows read") and progress[-2].startswith("Looking for near copies among")
    assert progress[-1] == "Looking for labels that are probably wrong"


def test_the_next_version_is_compared_with_the_last_one() -> None:
    result = finetune("check", SECOND, "--against", TICKETS, "--quick")
    assert result.exit_code == 0
    lines = {" ".join(line.split()) for line in result.stdout.splitlines()}
    assert {"Added: 59 rows", "Removed: 15 rows", "Relabelled: 8 rows"} <= lines
    diff = finetune_json("check", SECOND, "--against", TICKETS, "--quick")["diff"]
    assert (diff["added"], diff["removed"], diff["relabelled"]) == (59, 15, 8)


def test_a_fix_writes_a_cleaned_copy_and_lists_what_it_left_out(tmp_path: Path) -> None:
    original = FLAWED.read_bytes()
    result = finetune("check", FLAWED, "--quick", "--fix", "fixed.jsonl")
    assert result.exit_code == 1, "the file that was checked can't be used, whatever the copy is like"
    assert "fixed.jsonl: 50 rows" in result.stdout and "secret: line 36" in result.stdout
    assert "lines 8 and 43" in result.stdout, "what only a person can decide stays"
    assert FLAWED.read_bytes() == original
    again = finetune_json("check", "fixed.jsonl", "--quick")
    assert "duplicate" not in {finding["code"] for finding in again["findings"]}

    beside_json = finetune("check", FLAWED, "--quick", "--json", "--fix", "other.jsonl")
    assert json.loads(beside_json.stdout)["rows"] == 52
    assert "Left out: 10 lines." in beside_json.stderr


def test_a_fix_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    write_tickets(tmp_path / "tickets.csv", 60)
    (tmp_path / "mine.csv").write_text("precious")
    existing = finetune("check", "tickets.csv", "--quick", "--fix", "mine.csv")
    assert (existing.exit_code, existing.stdout) == (2, "") and "exists already" in existing.stderr
    assert (tmp_path / "mine.csv").read_text() == "precious"
    nowhere = finetune("check", "tickets.csv", "--quick", "--fix", "nowhere/fixed.csv")
    assert (nowhere.exit_code, nowhere.stdout) == (2, "") and "no folder nowhere" in nowhere.stderr
    (tmp_path / "photo.csv").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    nothing = finetune("check", "photo.csv", "--fix", "fixed.csv")
    assert nothing.exit_code == 2 and "No cleaned copy was written" in nothing.stderr
    assert not (tmp_path / "fixed.csv").exists()


def test_a_fix_of_preference_pairs_is_refused_after_their_report(tmp_path: Path) -> None:
    pair = '{"prompt": "where is order %d?", "chosen": "On its way.", "rejected": "No idea."}\n'
    (tmp_path / "pairs.jsonl").write_text("".join(pair % number for number in range(20)), encoding="utf-8")
    result = finetune("check", "pairs.jsonl", "--quick", "--fix", "fixed.jsonl")
    assert result.exit_code == 2 and "20 preference pairs" in result.stdout
    assert "No cleaned copy was written" in result.stderr and not (tmp_path / "fixed.jsonl").exists()


def test_rows_of_a_given_test_set_block_and_a_fix_leaves_them_out(tmp_path: Path) -> None:
    rows = ticket_lines(60)
    (tmp_path / "tickets.csv").write_text("".join(rows))
    (tmp_path / "test.csv").write_text("".join([rows[0], *rows[3:5]]), encoding="utf-8")
    arguments = ("tickets.csv", "--holdout", "test.csv", "--quick")
    overlaps = [finding for finding in findings(*arguments) if finding["code"] == "overlap"]
    assert [finding["line"] for finding in overlaps] == [4, 5]
    assert overlaps[0]["message"] == "Line 4 asks what the holdout asks in line 2."

    result = finetune("check", *arguments, "--fix", "fixed.csv")
    assert result.exit_code == 1
    assert "2 × same question as a held-out row: lines 4, 5" in result.stdout
    assert "overlap" not in codes("fixed.csv", "--holdout", "test.csv", "--quick")


def test_files_that_cannot_be_compared_or_read_are_refused(tmp_path: Path) -> None:
    against = finetune("check", TICKETS, "--against", FLAWED, "--quick")
    assert (against.exit_code, against.stdout) == (2, "")
    assert "there is nothing to compare with" in against.stderr
    (tmp_path / "test.csv").write_text("hello")
    holdout = finetune("check", TICKETS, "--holdout", "test.csv", "--quick")
    assert holdout.exit_code == 2 and "test.csv can't be used as the test." in holdout.stderr
    missing = finetune("check", "gone.csv")
    assert missing.exit_code == 2 and "'gone.csv' does not exist" in missing.stderr


def test_presidio_is_refused_if_it_is_not_installed_or_the_check_is_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("bot.settings.loader.find_spec", lambda _: None)
    result = finetune("check", TICKETS, "--presidio")
    assert result.exit_code == 2
    assert f"presidio is not installed: {install_line('pii')}" in result.stderr
    quick = finetune("check", TICKETS, "--presidio", "--quick")
    assert quick.exit_code == 2
    assert quick.stderr == "--quick skips slow checks, and presidio is one: choose one of them.\n"


def test_no_label_of_a_single_row_and_no_control_character_is_printed(tmp_path: Path) -> None:
    rows = [f"{row}\x1b[31m" for row in PLAIN_ROWS]
    (tmp_path / "a.csv").write_text("\n".join(["text,label", *rows, "hello you,my name is Ana"]))
    text = finetune("check", "a.csv", "--quick").stdout
    assert "… and 1 more, with a single row" in text
    assert "Ana" not in text and "\x1b" not in text


def test_a_row_with_two_kinds_of_personal_data_counts_once(tmp_path: Path) -> None:
    both = "mail ana@example.org card 4111 1111 1111 1111,a"
    (tmp_path / "a.csv").write_text(
        "\n".join(["text,label", *PLAIN_ROWS, both, "mail ben@example.org now,b"])
    )
    assert "Personal data, 2 rows" in finetune("check", "a.csv", "--quick").stdout
