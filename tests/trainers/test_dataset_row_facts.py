"""What the first pass over a file keeps of it: copies, lengths, labels, marks of templates; and how little
it takes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from trainers.dataset import Columns, Limits, Report, check_file, read
from trainers.dataset.checks import Findings
from trainers.dataset.file_format import Sniffed
from trainers.dataset.reader import Progress, report_counts
from trainers.dataset.row_facts import RowFacts, StoredRows, histogram, read_facts
from trainers.dataset.versions import Previous
from trainers.tokens import O200K, training_limit

USUAL = Limits()


def taken(path: Path, limits: Limits = USUAL) -> tuple[RowFacts, Findings, StoredRows]:
    found, progress, facts = Findings(limits.listed), Progress(), RowFacts(O200K, limits)
    file = path.open("rb")
    read_facts(facts, file, file, Sniffed("jsonl"), Columns(), found, limits, progress)
    report_counts(found, progress)
    return facts, found, StoredRows(file, facts, limits, None)


def chat(user: str, answer: str, system: str | None = None, **more: object) -> str:
    first = [{"role": "system", "content": system}] if system is not None else []
    messages = [*first, {"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, **more}, ensure_ascii=False)


def test_the_same_rows_in_other_spacing_are_the_same_questions(tmp_path: Path) -> None:
    rows = [chat(f"Question {i}", "ab"[i % 2]) for i in range(12)]
    (tmp_path / "a").write_text("\n".join(rows))
    (tmp_path / "b").write_text(
        "\n".join(json.dumps(json.loads(row.lower()), indent=None, separators=(",", ":")) for row in rows)
    )

    keys = []
    for name in ("a", "b"):
        facts, _, stored = taken(tmp_path / name)
        stored.file.close()
        keys.append(facts.keys)
    assert keys[0] == keys[1]


def table(path: Path, rows: list[str]) -> Report:
    path.write_text("text,label\n" + "\n".join(rows) + "\n")
    return check_file(path, path.name, Columns(), path.parent / "out", 7)


def test_tokens_wasted_on_copies_are_those_of_the_rows_that_repeat_another(tmp_path: Path) -> None:
    once = table(tmp_path / "once.csv", [f"ticket {i} is late,{'ab'[i % 2]}" for i in range(30)])
    twice = table(tmp_path / "twice.csv", [f"ticket {i % 30} is late,{'ab'[i % 2]}" for i in range(60)])

    assert once.duplicate_tokens == 0
    assert twice.duplicate_tokens == once.tokens.rows.total


def test_lengths_make_at_most_sixty_bars_that_hold_all_rows() -> None:
    assert histogram([5, 5, 7]) == ((5, 2), (7, 1))
    assert histogram([]) == ()
    bars = histogram([i * i for i in range(500)], most=60)
    assert len(bars) <= 60
    assert sum(rows for _, rows in bars) == 500
    assert [tokens for tokens, _ in bars] == sorted({tokens for tokens, _ in bars})
    assert bars[-1][0] == 499 * 499


@pytest.mark.parametrize("label", ["nan", "NULL", "None", "N/A", "#N/A"])
def test_a_label_that_says_that_there_is_none_warns_on_its_lines(tmp_path: Path, label: str) -> None:
    rows = [f"ticket {i} is late,{'ab'[i % 2]}" for i in range(40)]
    rows[7] = rows[30] = f"which one,{label}"

    findings = [f for f in table(tmp_path / "a.csv", rows).findings if f.code == "null_label"]

    assert [(f.line, f.severity) for f in findings] == [(9, "warns"), (32, "warns")]


@pytest.mark.parametrize(
    "mark", ["<|im_start|>", "<|endoftext|>", "[INST]", "[/INST]", "<<SYS>>", "<start_of_turn>"]
)
def test_marks_of_chat_templates_warn_and_are_counted_as_text(tmp_path: Path, mark: str) -> None:
    rows = [f"ticket {i} is late,{'ab'[i % 2]}" for i in range(40)]
    rows[3] = f"what is {mark} for,a"

    report = table(tmp_path / "a.csv", rows)

    assert [(f.line, f.severity) for f in report.findings if f.code == "special_token"] == [(5, "warns")]
    assert report.tokens.rows.max > report.tokens.rows.p50


def test_a_report_from_before_is_still_read(tmp_path: Path) -> None:
    report = table(tmp_path / "a.csv", [f"ticket {i} is late,{'ab'[i % 2]}" for i in range(30)])
    old = json.loads(report.to_json())
    for name in ("duplicate_tokens", "token_lengths", "stages", "diff", "trained_tokens"):
        del old[name]

    read_again = Report.from_json(json.dumps(old))

    assert (read_again.duplicate_tokens, read_again.token_lengths, read_again.diff) == (0, (), None)
    assert read_again.findings == report.findings


def test_a_report_with_a_diff_survives_json_and_the_holdout_stays(tmp_path: Path) -> None:
    rows = [f"ticket {i} is late,{'ab'[i % 2]}" for i in range(300)]
    first = table(tmp_path / "a.csv", rows)
    out = tmp_path / "out"
    before = Previous(out / f"{first.train_sha256}.jsonl", out / f"{first.holdout_sha256}.jsonl")
    more = [*rows[10:], *[f"parcel {i} is broken,{'ab'[i % 2]}" for i in range(50)]]
    (tmp_path / "b.csv").write_text("text,label\n" + "\n".join(more) + "\n")

    second = check_file(tmp_path / "b.csv", "b", Columns(), out, 7, previous=before)

    assert second.diff is not None
    assert (second.diff.added, second.diff.removed) == (50, 10)
    assert Report.from_json(second.to_json()) == second
    held = {e.prompt[-1].content for e in read(before.holdout, "h").examples}
    trained = {e.prompt[-1].content for e in read(out / f"{second.train_sha256}.jsonl", "t").examples}
    assert held <= {e.prompt[-1].content for e in read(out / f"{second.holdout_sha256}.jsonl", "h").examples}
    assert not held & trained
    assert second.n_train + second.n_holdout == 340 + second.diff.held_out_missing


def test_a_deep_check_finds_near_copies_and_keeps_them_on_one_side(tmp_path: Path) -> None:
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
    path = tmp_path / "a.csv"
    path.write_text("text,label\n" + "\n".join(rows) + "\n")

    quick = check_file(path, "a", Columns(), tmp_path / "out", 7)
    deep = check_file(path, "a", Columns(), tmp_path / "out", 7, deep=True)

    assert not [f for f in quick.findings if f.code.startswith("near")]
    assert {153} <= {f.line for f in deep.findings if f.code.startswith("near")}
    assert [name for name, _ in deep.stages] == ["rows", "near copies and doubted labels", "split"]


def test_a_file_of_many_rows_takes_little_memory(tmp_path: Path) -> None:
    """Beside what Python and the tokenizer take: 60 MB of rows, less than 45 MB."""
    path = tmp_path / "rows.jsonl"
    with path.open("w") as file:
        for i in range(60_000):
            file.write(chat(f"question {i} " + "some words here " * 60, "ab"[i % 2]) + "\n")
    code = (
        "import resource, sys; from pathlib import Path; from trainers.dataset import Columns, check_file;"
        "from trainers.tokens import count_texts; count_texts(['a']);"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss;"
        "report = check_file(Path(sys.argv[1]), 'r', Columns(), Path(sys.argv[2]), 7); assert report.rows == 60_000;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    root = Path(__file__).resolve().parents[2]

    said = subprocess.run(
        [sys.executable, "-c", code, str(path), str(tmp_path / "out")],
        cwd=root,
        capture_output=True,
        text=True,
        check=True,
    )

    assert int(said.stdout) / (1e6 if sys.platform == "darwin" else 1e3) < 45


@pytest.mark.parametrize(
    ("model", "limit"),
    [
        ("gpt-4o-mini-2024-07-18", 65_536),
        ("gpt-3.5-turbo-0125", 16_385),
        ("gpt-3.5-turbo-0613", 4_096),
        ("x", 65_536),
    ],
)
def test_the_longest_row_depends_on_the_model(model: str, limit: int) -> None:
    assert training_limit(model) == limit
