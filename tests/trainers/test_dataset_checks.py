"""What rows are like together, what they must not hold, and how they are put before a model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

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
from trainers.dataset.file_checks import check_size
from trainers.dataset.rows import normalise_text, question_key
from trainers.dataset.sensitive_data import check_sensitive, faults_in
from trainers.dataset.splits import chat_row
from trainers.types import Message


def row(line: int, text: str, answer: str, system: str = "") -> Example:
    first = (Message("system", system),) if system else ()
    return Example(line, (*first, Message("user", text), Message("assistant", answer)))


def rows(count: int, labels: Sequence[str] = ("a", "b")) -> list[Example]:
    return [row(i, f"question {i}", labels[i % len(labels)]) for i in range(1, count + 1)]


def checked(folder: Path, examples: Sequence[Example]) -> tuple[Finding, ...]:
    """What a check finds in a file that has each of them in its line."""
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
def test_the_number_of_rows_is_judged_by_the_thresholds(count: int, code: str, severity: str) -> None:
    found = Findings(listed=20)

    check_size(count, found)

    assert [(finding.code, finding.severity, finding.count) for finding in found.sorted()] == [
        (code, severity, count)
    ]


def test_copies_are_no_more_data(tmp_path: Path) -> None:
    copied = [replace(one, line=line) for line, one in enumerate(rows(100) * 10, 1)]
    found = by_code(checked(tmp_path, copied), "not_yet")
    assert found[0].message.startswith("100 different questions in 1,000 rows are too few")


@pytest.mark.parametrize(
    ("limit", "macros", "code"),
    [(128, 1, ["answers_cut_off"]), (500, 1, []), (40, 1, []), (128, 3, [])],
)
def test_answers_that_a_limit_cut_off_are_pointed_out(
    tmp_path: Path, limit: int, macros: int, code: list[str]
) -> None:
    """Of 60 answers 30 would be longer than 128 tokens; three macros stand beside them in the last case."""
    lengths = [min(limit, 9 + 4 * number) for number in range(60)]
    lengths += [100 + macro for macro in range(macros) for _ in range(30) if macros > 1]
    written = [row(i, f"question {i}", f"{i}" + " word" * (size - 1)) for i, size in enumerate(lengths, 1)]
    cut_off = by_code(checked(tmp_path, written), "answers_cut_off")
    assert [finding.code for finding in cut_off] == code
    assert all("30 answers have exactly the greatest length" in finding.message for finding in cut_off)


def test_a_copy_is_found_whatever_its_case_and_spacing(tmp_path: Path) -> None:
    examples = [
        row(3, "My printer", "a"),
        row(5, "other", "b"),
        row(9, " MY \n ﬁrst", "a"),
        row(12, "my  PRINTER", "A"),
    ]

    assert [(f.line, f.code, f.message) for f in checked(tmp_path, examples) if f.line] == [
        (12, "duplicate", "Line 12 repeats line 3.")
    ]


def test_one_question_with_two_answers_is_a_contradiction_that_names_both_lines(tmp_path: Path) -> None:
    examples = [row(2, "my printer", "a"), row(3, "My printer", "b"), row(4, "my printer", "b")]

    assert [(f.line, f.code, f.message) for f in checked(tmp_path, examples) if f.line] == [
        (3, "contradiction", "Line 3 asks the same as line 2 but has another answer."),
        (4, "duplicate", "Line 4 repeats line 3."),
    ]


def test_one_question_under_two_instructions_is_neither(tmp_path: Path) -> None:
    examples = [row(1, "hello", "hallo", "Into German."), row(2, "hello", "bonjour", "Into French.")]

    assert [f for f in checked(tmp_path, examples) if f.line] == []


def test_the_turns_before_the_question_belong_to_it() -> None:
    first, second = Message("user", "hi"), Message("user", "bye")
    answer = (Message("assistant", "yes?"), Message("user", "no"), Message("assistant", "ok"))

    assert question_key(Example(1, (first, *answer))) != question_key(Example(2, (second, *answer)))


def test_labels_with_few_rows_are_counted_and_named_but_not_a_single_one(tmp_path: Path) -> None:
    examples = [
        *rows(40),
        *[row(50 + i, f"rare {i}", "rare") for i in range(3)],
        row(60, "x", "a customer's words"),
    ]

    (finding,) = by_code(checked(tmp_path, examples), "few_rows_of_label")

    assert finding.message == "2 of 4 labels have fewer than 10 rows: rare (3)."
    assert "words" not in finding.message


def test_an_uneven_file_is_told_of(tmp_path: Path) -> None:
    examples = [*rows(100, ["often"]), *[row(200 + i, f"rare {i}", "rare") for i in range(10)]]

    (finding,) = by_code(checked(tmp_path, examples), "imbalance")

    assert finding.message == "The most frequent label has 100 rows, the rarest 10."


@pytest.mark.parametrize("spelling", ["app bug", "App\N{NO-BREAK SPACE}Bug", "App Bug\N{ZERO WIDTH SPACE}"])
def test_one_label_in_two_spellings_is_found(tmp_path: Path, spelling: str) -> None:
    examples = [*rows(30, ["App Bug"]), *[row(90 + i, f"other {i}", spelling) for i in range(30)]]

    (finding,) = by_code(checked(tmp_path, examples), "labels_alike")

    assert finding.message == "1 label is written in more than one way: App Bug (30)."


def test_a_file_with_one_label_blocks(tmp_path: Path) -> None:
    assert [f.severity for f in by_code(checked(tmp_path, rows(30, ["a"])), "one_label")] == ["blocks"]


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
def test_the_task_is_labels_when_nearly_all_answers_are_short_and_come_again(
    answers: list[str], task: Task
) -> None:
    short = Counter(answer for answer in answers if may_be_label(answer))

    assert task_of_counts(short, len(answers)) == task


def test_labels_are_sorted_most_frequent_first() -> None:
    counts = sort_label_counts(Counter(["b", "c", "a", "c", "b"]))

    assert [(c.label, c.rows) for c in counts] == [("b", 2), ("c", 2), ("a", 1)]


# Put together here, so that no scanner takes this file for a leak.
SECRETS = {
    "aws": "AKIA" + "ABCDEFGH12345678",
    "aws session": "ASIA" + "ABCDEFGH12345678",
    "private key": "-----BEGIN RSA " + "PRIVATE KEY-----",
    "openssh key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "bare key": "-----BEGIN " + "PRIVATE KEY-----",
    "openai": "sk-" + "proj-abcdefgh1234567890abcd",
    "stripe": "sk_" + "live_abcdefgh12345678",
    "slack": "xox" + "b-123456789012-abcdef",
    "slack app": "xapp" + "-1-A0123456789-abc",
    "github": "ghp" + "_" + "a1B2" * 9,
    "github fine": "github" + "_pat_" + "a1B2" * 6,
    "google": "AI" + "za" + "a1B2c" * 7,
}
PERSONAL = {
    "e-mail": "ines.example@mail.example.com",
    "phone": "+49 170 1234567",
    "phone with brackets": "+1 (555) 010-9999",
    "phone in America": "(555) 234-5678",
    "phone in America with dashes": "555-234-5678",
    "phone in America with dots": "555.234.5678",
    "phone in America without a blank": "(555)234-5678",
    "phone in pasted code": "a\\n555-234-5678",
    "social security": "123-45-6789",
    "card": "4111 1111 1111 1111",
    "card dashes": "5500-0000-0000-0004",
    "amex": "378282246310005",
    "iban": "DE89 3704 0044 0532 0130 00",
    "iban compact": "NL91ABNA0417164300",
    "iban in capitals": "IBAN GB29 NWBK 6016 1331 9268 19 PLEASE",
}
HARMLESS = [
    "sk-learn-is-a-library-for-machine-learning",
    "AKIA is a town",
    "task-force-one-of-the-eastern-region-2024-x",
    "4111 1111 1111 1112",
    "order 1234567890123456 of 2025",
    "DE89 3704 0044 0532 0130 01",
    "@example.com",
    "a <| b |> c",
    "ghp_short",
    "price 29.99 at 10:30",
    "a surcharge of +1.50 or +20 in 2025",
    "1+12345678901",
    "order 555 234 5678",
    "order 555-134-5678",
    "part 155-234-5678",
    "version 555.234-5678",
    "batch A-555-234-5678",
    "000-45-6789",
    "666-45-6789",
    "923-45-6789",
    "123-00-6789",
    "123-45-0000",
    "123-45-67890",
    "1123-45-6789",
]


@pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS.keys())
def test_a_secret_blocks(text: str) -> None:
    assert [(f.rule.code, f.rule.severity) for f in faults_in(f"it says {text}, why")] == [
        ("secret", "blocks")
    ]


@pytest.mark.parametrize("text", PERSONAL.values(), ids=PERSONAL.keys())
def test_personal_data_warns(text: str) -> None:
    assert [(f.rule.code, f.rule.severity) for f in faults_in(f"it is {text}, ok")] == [
        ("personal_data", "warns")
    ]


@pytest.mark.parametrize("text", ["<|fim_suffix|>", "<|endoftext|>", "<|im_start|>"])
def test_the_text_of_a_special_token_warns(text: str) -> None:
    assert [(f.rule.code, f.rule.severity) for f in faults_in(f"a {text} b")] == [("special_token", "warns")]


@pytest.mark.parametrize("text", HARMLESS)
def test_what_only_resembles_one_is_left_alone(text: str) -> None:
    assert faults_in(text) == []


def test_each_kind_is_found_once_a_row_on_the_right_line_without_showing_it() -> None:
    examples = rows(450)
    examples[320] = row(321, f"{PERSONAL['e-mail']} and again {PERSONAL['e-mail']}", SECRETS["aws"])
    found = Findings(listed=20)

    check_sensitive(examples, found)

    assert [(f.line, f.code) for f in found.sorted()] == [(321, "secret"), (321, "personal_data")]
    assert not [f for f in found.sorted() if "ines" in f.message or "AKIA" in f.message]


@pytest.mark.parametrize(
    "letters",
    ["a", "a@", "1 ", "+1", "+1 ", "A1", "<|", "sk-", "-----BEGIN A ", "AB12 CDEF ", "555-234-", "123-45-"],
)
def test_a_million_letters_of_half_a_pattern_hold_nothing(letters: str) -> None:
    assert faults_in(letters * (1_000_000 // len(letters))) == []


def test_normalised_makes_the_same_of_what_people_call_the_same() -> None:
    assert normalise_text(" Ｐrinter\u00a0 DEAD\n") == normalise_text("printer dead") == "printer dead"
    assert normalise_text("STRASSE") == normalise_text("straße")


def test_a_system_prompt_is_put_before_rows_that_have_none() -> None:
    plain, told = with_system([row(1, "q", "a"), row(2, "q", "a", "Be kind.")], CLASSIFY)

    assert plain.messages[0] == Message("system", CLASSIFY)
    assert told.messages[0] == Message("system", "Be kind.")
    assert len(plain.messages) == len(told.messages) == 3


def test_an_untuned_model_is_told_the_labels_and_never_the_answer() -> None:
    asked = prompt_with_labels(row(1, "q", "refund", "Sort it."), ["billing", "refund"])

    assert asked == (Message("system", "Sort it.\nLabels:\nbilling\nrefund"), Message("user", "q"))


def test_an_untuned_model_without_instructions_gets_some() -> None:
    asked = prompt_with_labels(row(1, "q", "refund"), ["billing", "refund"])

    assert asked[0] == Message("system", f"{CLASSIFY}\nLabels:\nbilling\nrefund")


def test_labels_that_the_team_lists_itself_are_not_listed_twice() -> None:
    told = row(1, "q", "refund", "Answer Billing or refund.")

    assert prompt_with_labels(told, ["billing", "refund"]) == told.prompt
    assert lists_labels("Answer billing or cancel_order.", ["billing", "cancel_order"])
    assert not lists_labels("Answer billing.", ["billing", "refund"])
    assert not lists_labels("Answer nothing about rebilling.", ["billing"])


def test_rows_without_instructions_beside_rows_with_them_are_counted(tmp_path: Path) -> None:
    some = [row(i, f"question {i}", "ab"[i % 2], "Sort it." if i > 3 else "") for i in range(1, 21)]
    (finding,) = by_code(checked(tmp_path, some), "some_without_instructions")
    assert (finding.line, finding.severity, finding.count) == (None, "warns", 3)
    assert finding.message == "3 of 20 rows have no instructions (system message), but the others do."


@pytest.mark.parametrize("system", ["", "Sort it."])
def test_rows_that_all_have_instructions_or_all_have_none_are_fine(tmp_path: Path, system: str) -> None:
    same = [row(i, f"question {i}", "ab"[i % 2], system) for i in range(1, 21)]
    assert by_code(checked(tmp_path, same), "some_without_instructions") == []


def test_every_check_of_a_whole_file_is_in_the_docs() -> None:
    docs = (Path(__file__).parents[2] / "docs" / "checks.md").read_text(encoding="utf-8")
    rules = [value for value in vars(file_checks).values() if isinstance(value, Rule)]
    assert rules and [rule.code for rule in rules if f"`{rule.code}`" not in docs] == []
