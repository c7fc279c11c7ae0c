"""Checks of a file as a whole, and prompts that list the labels."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from tests.trainers.dataset.builders import make_row, make_rows
from trainers.dataset import (
    CLASSIFY,
    Columns,
    Example,
    Finding,
    Task,
    check_file,
    file_checks,
    lists_labels,
    prompt_with_labels,
    with_system,
)
from trainers.dataset.checks import Findings, Rule, may_be_label, sort_label_counts, task_of_counts
from trainers.dataset.file_checks import check_size, combined_labels
from trainers.dataset.rows import normalise_text, question_key
from trainers.dataset.splits import chat_row
from trainers.types import Message


def check_rows(folder: Path, examples: Sequence[Example]) -> tuple[Finding, ...]:
    """Checks a file in which each row is on its own line."""
    lines = {example.line: chat_row(example) for example in examples}
    file = folder / "rows.jsonl"
    file.write_bytes(b"\n".join(lines.get(line, b"") for line in range(1, max(lines) + 1)))
    return check_file(file, file.name, Columns(), folder, 7).findings


def by_code(findings: Sequence[Finding], code: str) -> list[Finding]:
    return [finding for finding in findings if finding.code == code]


@pytest.mark.parametrize(
    ("count", "code", "severity"),
    [
        (0, "too_few_rows", "blocks"),
        (9, "too_few_rows", "blocks"),
        (10, "not_yet", "warns"),
        (199, "not_yet", "warns"),
        (200, "worth_a_try", "tells"),
        (999, "worth_a_try", "tells"),
        (1000, "enough_rows", "tells"),
    ],
)
def test_the_number_of_rows_is_judged_by_thresholds(count: int, code: str, severity: str) -> None:
    findings = Findings(listed=20)
    check_size(count, findings)
    (finding,) = findings.sorted()
    assert (finding.code, finding.severity, finding.count) == (code, severity, count)


def test_copies_do_not_count_as_more_rows(tmp_path: Path) -> None:
    copies = [replace(row, line=line) for line, row in enumerate(make_rows(100) * 10, 1)]
    (finding,) = by_code(check_rows(tmp_path, copies), "not_yet")
    assert finding.message.startswith("100 different questions in 1,000 rows are too few")


@pytest.mark.parametrize(
    ("limit", "macros", "code"),
    [(128, 1, ["answers_cut_off"]), (500, 1, []), (40, 1, []), (128, 3, [])],
)
def test_answers_cut_off_by_a_token_limit_are_reported(
    tmp_path: Path, limit: int, macros: int, code: list[str]
) -> None:
    """Of 60 answers 30 would be longer than 128 tokens. The last case also has three macros, 30 times each."""
    lengths = [min(limit, 9 + 4 * number) for number in range(60)]
    lengths += [100 + macro for macro in range(macros) for _ in range(30) if macros > 1]
    rows = [make_row(i, f"question {i}", f"{i}" + " word" * (size - 1)) for i, size in enumerate(lengths, 1)]
    cut_off = by_code(check_rows(tmp_path, rows), "answers_cut_off")
    assert [finding.code for finding in cut_off] == code
    assert all("30 answers have exactly the greatest length" in finding.message for finding in cut_off)


def test_a_copy_is_found_despite_other_case_and_spacing(tmp_path: Path) -> None:
    examples = [
        make_row(3, "My printer", "a"),
        make_row(5, "other", "b"),
        make_row(9, " MY \n ﬁrst", "a"),
        make_row(12, "my  PRINTER", "A"),
    ]
    assert [(f.line, f.code, f.message) for f in check_rows(tmp_path, examples) if f.line] == [
        (12, "duplicate", "Line 12 repeats line 3.")
    ]


def test_one_question_with_two_answers_is_a_contradiction(tmp_path: Path) -> None:
    examples = [
        make_row(2, "my printer", "a"),
        make_row(3, "My printer", "b"),
        make_row(4, "my printer", "b"),
    ]
    assert [(f.line, f.code, f.message) for f in check_rows(tmp_path, examples) if f.line] == [
        (3, "contradiction", "Line 3 asks the same as line 2 but has another answer."),
        (4, "duplicate", "Line 4 repeats line 3."),
    ]


def test_one_question_under_two_instructions_is_neither_copy_nor_contradiction(tmp_path: Path) -> None:
    examples = [
        make_row(1, "hello", "hallo", "Into German."),
        make_row(2, "hello", "bonjour", "Into French."),
    ]
    assert [f for f in check_rows(tmp_path, examples) if f.line] == []


def test_earlier_turns_are_part_of_the_question() -> None:
    first, second = Message("user", "hi"), Message("user", "bye")
    answer = (Message("assistant", "yes?"), Message("user", "no"), Message("assistant", "ok"))
    assert question_key(Example(1, (first, *answer))) != question_key(Example(2, (second, *answer)))


def test_labels_with_few_rows_are_counted_and_named_unless_they_have_one_row(tmp_path: Path) -> None:
    examples = [
        *make_rows(40),
        *[make_row(50 + i, f"rare {i}", "rare") for i in range(3)],
        make_row(60, "x", "a customer's words"),
    ]
    (finding,) = by_code(check_rows(tmp_path, examples), "few_rows_of_label")
    assert finding.message == "2 of 4 labels have fewer than 10 rows: rare (3)."
    assert "words" not in finding.message


def test_an_uneven_distribution_of_labels_is_reported(tmp_path: Path) -> None:
    examples = [*make_rows(100, 1), *[make_row(200 + i, f"rare {i}", "rare") for i in range(10)]]
    (finding,) = by_code(check_rows(tmp_path, examples), "imbalance")
    assert finding.message == "The most frequent label has 100 rows, the rarest 10."


@pytest.mark.parametrize("spelling", ["app bug", "App\N{NO-BREAK SPACE}Bug", "App Bug\N{ZERO WIDTH SPACE}"])
def test_a_label_in_two_spellings_is_reported(tmp_path: Path, spelling: str) -> None:
    examples = [
        *[make_row(i, f"question {i}", "App Bug") for i in range(1, 31)],
        *[make_row(90 + i, f"other {i}", spelling) for i in range(30)],
    ]
    (finding,) = by_code(check_rows(tmp_path, examples), "labels_alike")
    assert finding.message == "1 label is written in more than one way: App Bug (30)."


def test_a_file_with_one_label_blocks(tmp_path: Path) -> None:
    assert [f.severity for f in by_code(check_rows(tmp_path, make_rows(30, 1)), "one_label")] == ["blocks"]


@pytest.mark.parametrize(
    ("answers", "task"),
    [
        (["a", "b"] * 10, "labels"),
        (["a"] * 18 + ["x", "y"], "labels"),
        (["a"] * 17 + ["x", "y", "z"], "free_text"),
        ([f"label {i // 2}" for i in range(1000)], "labels"),
        ([f"label {i // 2}" for i in range(1002)], "free_text"),
        ([f"answer {i}" for i in range(20)], "free_text"),
        (["x" * 61] * 20, "free_text"),
        (["two\nlines"] * 20, "free_text"),
        ([], "free_text"),
    ],
)
def test_the_task_is_labels_if_nearly_all_answers_are_short_and_repeated(
    answers: list[str], task: Task
) -> None:
    short = Counter(answer for answer in answers if may_be_label(answer))
    assert task_of_counts(short, len(answers)) == task


def test_labels_are_sorted_most_frequent_first() -> None:
    counts = sort_label_counts(Counter(["b", "c", "a", "c", "b"]))
    assert [(c.label, c.rows) for c in counts] == [("b", 2), ("c", 2), ("a", 1)]


def test_normalising_ignores_case_width_and_spacing() -> None:
    assert normalise_text(" Ｐrinter\u00a0 DEAD\n") == normalise_text("printer dead") == "printer dead"
    assert normalise_text("STRASSE") == normalise_text("straße")


def test_a_system_prompt_is_added_to_rows_without_one() -> None:
    without, with_own = with_system([make_row(1, "q", "a"), make_row(2, "q", "a", "Be kind.")], CLASSIFY)
    assert without.messages[0] == Message("system", CLASSIFY)
    assert with_own.messages[0] == Message("system", "Be kind.")
    assert len(without.messages) == len(with_own.messages) == 3


def test_an_untuned_models_prompt_has_instructions_and_the_labels_but_not_the_answer() -> None:
    labels = ["billing", "refund"]
    prompt = prompt_with_labels(make_row(1, "q", "refund", "Sort it."), labels)
    assert prompt == (Message("system", "Sort it.\nLabels:\nbilling\nrefund"), Message("user", "q"))
    default = prompt_with_labels(make_row(1, "q", "refund"), labels)[0]
    assert default == Message("system", f"{CLASSIFY}\nLabels:\nbilling\nrefund")


def test_labels_that_the_instructions_list_are_not_listed_twice() -> None:
    example = make_row(1, "q", "refund", "Answer Billing or refund.")
    assert prompt_with_labels(example, ["billing", "refund"]) == example.prompt
    assert lists_labels("Answer billing or cancel_order.", ["billing", "cancel_order"])
    assert not lists_labels("Answer billing.", ["billing", "refund"])
    assert not lists_labels("Answer nothing about rebilling.", ["billing"])


def test_rows_without_instructions_among_rows_with_them_are_counted(tmp_path: Path) -> None:
    rows = [make_row(i, f"question {i}", "ab"[i % 2], "Sort it." if i > 3 else "") for i in range(1, 21)]
    (finding,) = by_code(check_rows(tmp_path, rows), "some_without_instructions")
    assert (finding.line, finding.severity, finding.count) == (None, "warns", 3)
    assert finding.message == "3 of 20 rows have no instructions (system message), but the others do."


@pytest.mark.parametrize("system", ["", "Sort it."])
def test_rows_that_all_have_instructions_or_all_have_none_have_no_finding(
    tmp_path: Path, system: str
) -> None:
    rows = [make_row(i, f"question {i}", "ab"[i % 2], system) for i in range(1, 21)]
    assert by_code(check_rows(tmp_path, rows), "some_without_instructions") == []


def test_rows_that_the_assistant_begins_are_counted(tmp_path: Path) -> None:
    rows = [make_row(i, f"question {i}", "ab"[i % 2], "Sort it.") for i in range(1, 21)]
    assert by_code(check_rows(tmp_path, rows), "assistant_first") == []
    hello = Message("assistant", "How can I help?")
    greeted = [replace(row, messages=(row.messages[0], hello, *row.messages[1:])) for row in rows[:3]]
    (finding,) = by_code(check_rows(tmp_path, [*greeted, *rows[3:]]), "assistant_first")
    assert (finding.line, finding.severity, finding.count) == (None, "tells", 3)
    assert finding.message.startswith("3 of 20 rows begin with a message of the assistant")


def test_every_check_of_a_file_is_in_the_docs() -> None:
    docs = (Path(__file__).parents[3] / "docs" / "checks.md").read_text(encoding="utf-8")
    rules = [value for value in vars(file_checks).values() if isinstance(value, Rule)]
    assert rules and [rule.code for rule in rules if f"`{rule.code}`" not in docs] == []


KINDS = ("billing", "refund", "shipping", "login", "other")
PAIRS = [(first, second) for place, first in enumerate(KINDS) for second in KINDS[place + 1 :]]


@pytest.mark.parametrize("separator", [", ", ";", " | ", "+"])
def test_several_labels_in_one_answer_are_said_to_be_that(tmp_path: Path, separator: str) -> None:
    answers = [separator.join(PAIRS[row % 10]) if row % 3 else KINDS[row % 5] for row in range(90)]
    rows = [
        {"text": f"letter {row} asks for something", "label": answer} for row, answer in enumerate(answers)
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    report = check_file(tmp_path / "a.jsonl", "a.jsonl", Columns(), tmp_path, 1)
    (several,) = [finding for finding in report.findings if finding.code == "several_labels"]
    assert "60 of 90 rows have several labels in one answer" in several.message
    assert "15 combinations of 5 labels" in several.message
    assert (len(report.labels), report.n_combined) == (15, 5)


@pytest.mark.parametrize(
    "labels",
    [
        ("Größe, falsch", "Größe", "Farbe, falsch", "Farbe", "other"),
        ("n/a", "yes", "no"),
        ("C", "C++", "C#"),
        ("size, too small", "size, too big", "colour, too dark", "paper"),
        tuple(f"Thank you, we send number {row} again" for row in range(30)),
        tuple(f'{{"off":"{off}","on":"{on}"}}' for off, on in PAIRS),
    ],
)
def test_a_comma_within_a_label_makes_no_combination(labels: tuple[str, ...]) -> None:
    assert combined_labels(labels) is None
