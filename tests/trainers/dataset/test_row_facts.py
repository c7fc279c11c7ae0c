"""What the first pass over a file stores about its rows: copies, lengths, labels and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trainers.dataset.builders import chat_line
from trainers.dataset import CheckSettings, Columns, Limits, Report, check_file
from trainers.dataset.checks import Findings
from trainers.dataset.file_format import Sniffed
from trainers.dataset.row_facts import RowFacts, read_facts
from trainers.dataset.tables import Progress
from trainers.dataset.token_counts import histogram
from trainers.models.tokens import O200K


def make_tickets(count: int) -> list[str]:
    return [f"ticket {i} is late,{'ab'[i % 2]}" for i in range(count)]


def check_table(path: Path, rows: list[str], *, deep: bool = False) -> Report:
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return check_file(path, path.name, Columns(), path.parent / "out", 7, CheckSettings(deep=deep))


def test_the_same_rows_with_other_case_and_spacing_are_the_same_questions(tmp_path: Path) -> None:
    rows = [chat_line(f"Question {i}", "ab"[i % 2]) for i in range(12)]
    compact = [json.dumps(json.loads(row.lower()), separators=(",", ":")) for row in rows]
    keys = []
    for lines in (rows, compact):
        path = tmp_path / "rows"
        facts = RowFacts(O200K, Limits())
        limits = Limits()
        path.write_text("\n".join(lines))
        with path.open("rb") as file:
            read_facts(facts, file, file, Sniffed("jsonl"), Columns(), Findings(20), limits, Progress())
        keys.append(facts.keys)

    assert keys[0] == keys[1]


def test_tokens_of_rows_that_repeat_another_are_counted_as_wasted(tmp_path: Path) -> None:
    once = check_table(tmp_path / "once.csv", make_tickets(30))
    twice = check_table(tmp_path / "twice.csv", make_tickets(30) * 2)
    assert once.duplicate_tokens == 0
    assert twice.duplicate_tokens == once.tokens.rows.total


def test_a_histogram_of_lengths_has_at_most_sixty_bars_and_holds_all_rows() -> None:
    assert histogram([5, 5, 7]) == ((5, 2), (7, 1))
    assert histogram([]) == ()
    bars = histogram([i * i for i in range(500)], most=60)
    assert len(bars) <= 60
    assert sum(rows for _, rows in bars) == 500
    assert [tokens for tokens, _ in bars] == sorted({tokens for tokens, _ in bars})
    assert bars[-1][0] == 499 * 499


def test_labels_that_mean_no_label_warn_on_their_lines(tmp_path: Path) -> None:
    labels = ("nan", "NULL", "None", "N/A", "#N/A")
    rows = [*make_tickets(60), *(f"which one is {label},{label}" for label in labels)]
    report = check_table(tmp_path / "a.csv", rows)
    null_labels = [(f.line, f.severity) for f in report.findings if f.code == "null_label"]
    assert null_labels == [(line, "warns") for line in range(62, 67)]


def test_a_report_of_an_older_release_can_be_read(tmp_path: Path) -> None:
    report = check_table(tmp_path / "a.csv", make_tickets(30))
    old = json.loads(report.to_json())
    for name in ("duplicate_tokens", "token_lengths", "stages", "diff", "trained_tokens"):
        del old[name]
    read_again = Report.from_json(json.dumps(old))
    assert (read_again.duplicate_tokens, read_again.token_lengths, read_again.diff) == (0, (), None)
    assert read_again.findings == report.findings


def test_a_deep_check_finds_near_copies(tmp_path: Path) -> None:
    words = [
        "printer",
        "paper",
        "receipt",
        "till",
        "shop",
        "order",
        "refund",
        "bill",
        "login",
        "cable",
        "wifi",
        "pin",
        "tax",
    ]
    rows = [
        f"my {words[i % 13]} and the {words[i % 11]} need a {words[i % 7]} number {i * 37},{'ab'[i % 2]}"
        for i in range(200)
    ]
    rows[150] = rows[20].replace(",", "!,")
    rows[151] = rows[20].replace("need", "needs")

    quick, deep = (check_table(tmp_path / "a.csv", rows, deep=deep) for deep in (False, True))

    assert not [f for f in quick.findings if f.code.startswith("near")]
    assert 153 in {f.line for f in deep.findings if f.code.startswith("near")}
    assert [name for name, _ in deep.stages] == ["rows", "near copies and doubted labels", "split"]


@pytest.mark.deep
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of the memory in /proc")
def test_a_file_of_many_rows_takes_little_memory(tmp_path: Path) -> None:
    """10.6 MB of rows take less than 9 MB, besides Python and the tokenizer."""
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for i in range(10_000):
            file.write(chat_line(f"question {i} " + "some words here " * 60, "ab"[i % 2]) + "\n")
    # ru_maxrss would not do: a child begins with the peak of the process that started it.
    code = """
import re, sys
from pathlib import Path
from trainers.dataset import Columns, CheckSettings, check_file
from trainers.models.tokens import count_texts

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])

count_texts(["a"])
before = peak()
assert check_file(Path(sys.argv[1]), "r", Columns(), Path(sys.argv[2]), 7).rows == 10_000
print(peak() - before)
"""
    command = [sys.executable, "-c", code, str(path), str(tmp_path / "out")]

    done = subprocess.run(command, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)

    assert 1_000 < int(done.stdout) < 9_000
