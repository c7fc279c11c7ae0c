"""The quick pass over a big file sees exactly what reading it row by row sees."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainers.dataset import Columns, Example, Limits, Report, check_file, read
from trainers.dataset.batches import Joined
from trainers.dataset.facts import Facts, histogram
from trainers.dataset.findings import Findings
from trainers.dataset.intake import take_in
from trainers.dataset.reading import Progress, conclude, stream
from trainers.dataset.sniffing import Sniffed
from trainers.dataset.stored import StoredRows
from trainers.dataset.values import normalise_all, normalised, question_key
from trainers.dataset.versions import Previous
from trainers.tokens import O200K, count_chat, training_limit

USUAL = Limits()


def taken(path: Path, limits: Limits = USUAL) -> tuple[Facts, Findings, StoredRows]:
    found, progress, facts = Findings(limits.listed), Progress(), Facts(O200K, limits)
    file = path.open("rb")
    take_in(facts, file, file, Sniffed("jsonl"), Columns(), found, limits, progress)
    conclude(found, progress)
    return facts, found, StoredRows(file, facts, limits, None)


def same_as_row_by_row(path: Path, limits: Limits = USUAL) -> None:
    facts, found, rows = taken(path, limits)
    with rows.file:
        said, progress = Findings(limits.listed), Progress()
        examples = list(stream(rows.file, Sniffed("jsonl"), Columns(), said, limits, progress))
        conclude(said, progress)
        counts = count_chat([example.messages for example in examples])
        assert list(rows) == examples
        assert found.sorted() == said.sorted()
        assert facts.keys == [question_key(example) for example in examples]
        assert (tuple(facts.total), tuple(facts.prompt), tuple(facts.answer)) == (
            counts.total,
            counts.prompt,
            counts.answer,
        )
        for row, example in enumerate(examples):
            (again,) = _parsed(rows.written(row), limits)
            assert replace(again, line=0) == replace(example, line=0)


def _parsed(row: bytes, limits: Limits) -> list[Example]:
    lines = io.BytesIO(row + b"\n")
    return list(stream(lines, Sniffed("jsonl"), Columns(), Findings(0), limits, Progress()))


def chat(user: str, answer: str, system: str | None = None, **more: object) -> str:
    first = [{"role": "system", "content": system}] if system is not None else []
    messages = [*first, {"role": "user", "content": user}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages, **more}, ensure_ascii=False)


TEXTS = st.text(
    st.sampled_from(list('aB {}[]:,\\"\n\t\x1f\x00\u00a0\u0301\u2028é“Üﬁßsk-@<|1\u1100\u1161')), max_size=12
)
ROWS = st.one_of(
    st.builds(chat, TEXTS, TEXTS),
    st.builds(chat, TEXTS, TEXTS, st.sampled_from(["Sort it.", "sort  it.", "", "Ünder"])),
    st.builds(lambda a, b: chat(a, b).replace(": ", ":").replace(", ", ","), TEXTS, TEXTS),
    st.builds(lambda a, b: json.dumps(json.loads(chat(a, b))), TEXTS, TEXTS),
    st.builds(lambda a: chat(a, "x", tools=[]), TEXTS),
    st.builds(lambda a: chat("q", "x").replace("q", a), TEXTS),
    st.sampled_from(
        [
            "",
            "  ",
            "{",
            chat("x", "y") + "\r",
            " " + chat("x", "y") + " ",
            '{"prompt": "a", "completion": "b"}',
        ]
    ),
    st.sampled_from([chat("x", "y").replace('"role"', '"role" '), chat("x", "y").replace("user", "bot")]),
    st.sampled_from([chat("x", "y")[:-1] + ', "messages": []}', chat("x", "y") * 2, "null", '"' * 18]),
)


@settings(max_examples=400, deadline=None)
@given(lines=st.lists(ROWS, min_size=1, max_size=12))
def test_the_quick_pass_sees_what_reading_row_by_row_sees(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_bytes("\n".join([chat("hi", "a"), *lines]).encode())

    same_as_row_by_row(path)


@settings(max_examples=200, deadline=None)
@given(lines=st.lists(st.binary(max_size=60), max_size=6), at=st.integers(0, 60))
def test_bytes_that_are_no_text_are_seen_alike(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], at: int
) -> None:
    row = chat("where is my parcel", "delivery").encode()
    path = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    path.write_bytes(b"\n".join([row, row, *[row[:at] + line + row[at:] for line in lines]]))

    same_as_row_by_row(path)


def test_rows_across_blocks_long_lines_and_windows_ends_keep_their_places(tmp_path: Path) -> None:
    lines = [chat(f"question {i} " + "word " * (i % 90), f"label {i % 7}", "Sort it.") for i in range(4000)]
    lines[1500] = chat("x" * 5000, "y")
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())

    same_as_row_by_row(path, Limits(max_line_bytes=2000))


@settings(max_examples=300, deadline=None)
@given(texts=st.lists(TEXTS | st.text(max_size=6), max_size=6))
def test_many_texts_are_normalised_as_each_alone(texts: list[str]) -> None:
    small = normalise_all(Joined([text.encode() for text in texts]), texts)

    assert small == [normalised(text).encode() for text in texts]


def test_the_same_rows_in_other_spacing_are_the_same_questions(tmp_path: Path) -> None:
    rows = [chat(f"Question {i}", "ab"[i % 2]) for i in range(12)]
    (tmp_path / "a").write_text("\n".join(rows))
    (tmp_path / "b").write_text(
        "\n".join(json.dumps(json.loads(row.lower()), indent=None, separators=(",", ":")) for row in rows)
    )

    keys = []
    for name in ("a", "b"):
        facts, _, rows = taken(tmp_path / name)
        rows.file.close()
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
