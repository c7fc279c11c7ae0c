"""The fast scan of a file finds exactly what reading it row by row finds."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainers.dataset.builders import chat_line
from trainers.dataset import Columns, Example, Limits
from trainers.dataset.checks import Finding, Findings, RepeatFinder, may_be_label
from trainers.dataset.file_format import Sniffed
from trainers.dataset.near_duplicates import compute_sketches, question_text
from trainers.dataset.reader import report_counts, stream
from trainers.dataset.row_facts import RowFacts, StoredRows, read_facts
from trainers.dataset.rows import INSTRUCTION_ROLES, JoinedTexts, normalise_all, normalise_text, question_key
from trainers.dataset.sensitive_data import faults_in, faults_of_texts
from trainers.dataset.splits import chat_row
from trainers.dataset.tables import Progress
from trainers.models.tokens import O200K, count_chat

DEFAULT = Limits()


def scan(path: Path, limits: Limits = DEFAULT) -> tuple[RowFacts, Findings, StoredRows]:
    findings = Findings(limits.listed)
    progress = Progress()
    facts = RowFacts(O200K, limits, sketched=True)
    file = path.open("rb")
    read_facts(facts, file, file, Sniffed("jsonl"), Columns(), findings, limits, progress)
    report_counts(findings, progress)
    return facts, findings, StoredRows(file, facts, limits, None)


def assert_same_as_row_by_row(path: Path, limits: Limits = DEFAULT) -> None:
    facts, findings, rows = scan(path, limits)
    with rows.file:
        expected, progress = Findings(limits.listed), Progress()
        examples = list(stream(rows.file, Sniffed("jsonl"), Columns(), expected, limits, progress))
        report_counts(expected, progress)
        counts = count_chat([example.messages for example in examples])
        assert list(rows) == examples
        assert findings.sorted() == expected.sorted()
        assert facts.keys == [question_key(example) for example in examples]
        assert (tuple(facts.total), tuple(facts.prompt), tuple(facts.answer)) == (
            counts.total,
            counts.prompt,
            counts.answer,
        )
        sketches = compute_sketches(question_text(example) for example in examples)
        assert facts.take_sketches().tolist() == sketches.tolist()
        assert facts.sensitive.sorted() == find_sensitive(examples, limits)
        assert facts.repeats.sorted() == find_repeats(examples, limits)
        assert list(facts.given_labels()) == [
            e.answer.strip() if may_be_label(e.answer) else None for e in examples
        ]
        for row, example in enumerate(examples):
            line = io.BytesIO(rows.trained_row(row) + b"\n")
            (again,) = stream(line, Sniffed("jsonl"), Columns(), Findings(0), limits, Progress())
            assert (again.messages, chat_row(again)) == (example.messages, chat_row(example))


def find_sensitive(examples: list[Example], limits: Limits) -> tuple[Finding, ...]:
    """Searches each text alone."""
    findings = Findings(limits.listed)
    for example in examples:
        faults = [fault for message in example.messages for fault in faults_in(message.content)]
        for fault in {fault.text: fault for fault in faults}.values():
            findings.add_for_line(example.line, fault)
    return findings.sorted()


def find_repeats(examples: list[Example], limits: Limits) -> tuple[Finding, ...]:
    findings = Findings(limits.listed)
    RepeatFinder(findings).add_all(
        [example.line for example in examples],
        [
            hash(tuple(normalise_text(m.content) for m in e.messages if m.role in INSTRUCTION_ROLES))
            for e in examples
        ],
        [question_key(example) for example in examples],
        [hash(normalise_text(example.answer)) for example in examples],
    )
    return findings.sorted()


TEXTS = st.text(
    st.sampled_from(list('aB {}[]:,\\"\n\t\x1f\x00\u00a0\u0301\u2028é“Üﬁßsk-@<|1\u1100\u1161\u200b')),
    max_size=12,
)
ESCAPES = st.text(st.sampled_from(list('\\\\\\u00dD83c4aeE1"nbx/ ')), max_size=14)
ROWS = st.one_of(
    st.builds(lambda a: chat_line("q", "x").replace("q", a), ESCAPES),
    st.builds(lambda a, b: chat_line(f"q{a}", b), TEXTS, TEXTS),
    st.builds(chat_line, TEXTS, TEXTS),
    st.builds(chat_line, TEXTS, TEXTS, st.sampled_from(["Sort it.", "sort  it.", "", "Ünder"])),
    st.builds(lambda a, b: chat_line(a, b).replace(": ", ":").replace(", ", ","), TEXTS, TEXTS),
    st.builds(lambda a, b: json.dumps(json.loads(chat_line(a, b))), TEXTS, TEXTS),
    st.builds(lambda a: chat_line(a, "x", tools=[]), TEXTS),
    st.builds(lambda a, key: chat_line(a, "x", **{key: "z"}), TEXTS, TEXTS),
    st.builds(lambda a: chat_line("q", "x").replace("q", a), TEXTS),
    st.sampled_from(["", "  ", "{", '{"prompt": "a", "completion": "b"}']),
    st.sampled_from([chat_line("x", "y") + "\r", " " + chat_line("x", "y") + " "]),
    st.sampled_from(
        [chat_line("x", "y").replace('"role"', '"role" '), chat_line("x", "y").replace("user", "bot")]
    ),
    st.sampled_from(
        [chat_line("x", "y")[:-1] + ', "messages": []}', chat_line("x", "y") * 2, "null", '"' * 18]
    ),
)


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(ROWS, min_size=1, max_size=12))
def test_rows_of_all_kinds_are_read_the_same(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "lines.jsonl"
    path.write_bytes("\n".join([chat_line("hi", "a"), *lines]).encode())
    assert_same_as_row_by_row(path)


GOOD_ROWS = st.builds(
    lambda a, b, system, ascii_only: json.dumps(
        json.loads(chat_line(f"q{a}", f"{b}y", system)), ensure_ascii=ascii_only
    ),
    TEXTS,
    TEXTS,
    st.sampled_from([None, "Sort it.", "sort  it.", "Ünder \n"]),
    st.booleans(),
)


@settings(max_examples=100, deadline=None)
@given(lines=st.lists(GOOD_ROWS, min_size=1, max_size=12))
def test_good_rows_are_read_the_same_whatever_their_texts_and_escapes(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    path = tmp_path_factory.getbasetemp() / "good.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    assert_same_as_row_by_row(path)


@settings(max_examples=80, deadline=None)
@given(lines=st.lists(st.binary(max_size=60), max_size=6), at=st.integers(0, 60))
def test_bytes_that_are_not_text_are_read_the_same(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], at: int
) -> None:
    row = chat_line("where is my parcel", "delivery").encode()
    path = tmp_path_factory.getbasetemp() / "bytes.jsonl"
    path.write_bytes(b"\n".join([row, row, *[row[:at] + line + row[at:] for line in lines]]))
    assert_same_as_row_by_row(path)


def test_escapes_are_read_the_same(tmp_path: Path) -> None:
    good = [
        r"\"hi\"",
        r"a\\",
        r"a\\\"b",
        r"\n\t\r\b\f\/",
        r"\u00e9\uD83D\ude00",
        r"\\u0041 \u0041KIA",
        r"\\n",
    ]
    bad = [r"\ud83d", r"\x", r"\u12", r"\u0000", r"\u0001", r"\u0002", r"\u005c", "\\", r"\ude00\ud83d"]
    for number, texts in enumerate([good, *[[*good, text] for text in (*bad, "\x01", "\x02\\n")]]):
        path = tmp_path / f"{number}.jsonl"
        rows = [chat_line("q", "x").replace('"q"', f'"why {text} so"') for text in texts]
        path.write_text("\n".join([chat_line("hi", "a"), *rows]))

        assert_same_as_row_by_row(path)


def test_texts_are_not_taken_for_roles_if_the_keys_are_in_another_order(tmp_path: Path) -> None:
    row = '{"messages": [{"content": "user", "role": "user"}, {"content": "assistant", "role": "assistant"}]}'
    path = tmp_path / "lines.jsonl"
    path.write_text("\n".join([row, row.replace('"role": "user"', '"role": "bot"'), chat_line("hi", "a")]))
    assert_same_as_row_by_row(path)


@pytest.mark.parametrize("most", [1, 1299])
def test_rows_beyond_the_limit_leave_nothing_behind(tmp_path: Path, most: int) -> None:
    lines = [
        chat_line(
            f"mail {i}@example.org " + "word " * (i % 40), f"label {i % 7}", [None, "Sort it."][i % 3 % 2]
        )
        for i in range(1300)
    ]
    lines[3:1200:50] = [chat_line(f"it's {i}", "a", tools=[]) for i in range(24)]
    (tmp_path / "all").write_text("\n".join(lines))
    (tmp_path / "first").write_text("\n".join(lines[:most]))
    capped, findings, rows = scan(tmp_path / "all", Limits(max_rows=most))
    rows.file.close()
    first, _, rows = scan(tmp_path / "first")
    rows.file.close()

    assert_same_as_row_by_row(tmp_path / "first")
    assert [finding.code for finding in findings.sorted()] == ["too_many_rows"]
    assert (capped.keys, capped.total, capped.starts) == (first.keys, first.total, first.starts)
    assert capped.sensitive.sorted() == first.sensitive.sorted()
    assert capped.instructions == first.instructions


def test_rows_across_blocks_with_long_lines_and_windows_line_ends_keep_their_positions(
    tmp_path: Path,
) -> None:
    lines = [
        chat_line(f"question {i} " + "word " * (i % 90), f"label {i % 7}", "Sort it.") for i in range(2500)
    ]
    lines[1500] = chat_line("x" * 5000, "y")
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join(lines).encode())
    assert_same_as_row_by_row(path, Limits(max_line_bytes=2000))


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(TEXTS | st.text(max_size=6), max_size=6))
def test_joined_texts_are_normalised_like_each_alone(texts: list[str]) -> None:
    normalised = normalise_all(JoinedTexts([text.encode() for text in texts]), texts)
    assert normalised == [normalise_text(text).encode() for text in texts]


NUMBERS = ["4111 1111 1111 1111", "4", "1", "DE89 3704 0044 0532 0130 00", " ", "-", "\n"]
SECRETS = ["a@b.de", "@", "x", "AKIA", "ABCDEFGHIJKLMNOP", "sk-", "é", "abcdefghij1234567890"]
TOKENS = ["<|", "im_end|>", "[INST]"]
SUSPECT = st.lists(st.sampled_from(NUMBERS + SECRETS + TOKENS), max_size=6).map("".join)


@settings(max_examples=100, deadline=None)
@given(texts=st.lists(SUSPECT, max_size=8))
def test_joined_texts_are_searched_like_each_alone(texts: list[str]) -> None:
    faults = faults_of_texts(JoinedTexts([text.encode() for text in texts]), texts)
    assert faults == {i: alone for i, text in enumerate(texts) if (alone := faults_in(text))}
