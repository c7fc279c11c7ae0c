"""Wrong labels: how the check's findings are counted, and what they do to the verdict."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bot.rules.facts import Evidence, LabelChecks, RowFaults, count_row_faults
from bot.rules.plans import VerdictKind
from tests.rules.advice.worded_verdict import advise, reason, rules
from tests.rules.builders import ALL_MISS, FACTS, candidate, comparison, outlook
from trainers.dataset import CheckSettings, Columns, check_file, read
from trainers.dataset.slow_checks import LabelErrors

TICKETS = Path(__file__).parents[2] / "examples/support_tickets.csv"
MEASURED = replace(FACTS, outlook=outlook(0.93), evidence=Evidence(comparison=comparison(*ALL_MISS)))


def sheet(folder: Path, rows: Sequence[tuple[str, str]]) -> Path:
    file = folder / "rows.csv"
    file.write_text("\n".join(["text,label", *(f"{text},{label}" for text, label in rows)]), encoding="utf-8")
    return file


def test_the_check_counts_copies_and_contradictions(tmp_path: Path) -> None:
    """30 questions asked four times, each once with another answer."""
    answers = ("late", "late", "late", "refund")
    file = sheet(tmp_path, [(f"Where is parcel {i}?", label) for i in range(30) for label in answers])
    report = check_file(file, "rows", Columns("text", "label"), None, 1)
    assert count_row_faults(report) == RowFaults(copies=60, contradicting=30)


@pytest.mark.parametrize(("share", "kind"), [(0.0, "go"), (0.08, "unknown"), (0.3, "unknown")])
def test_doubted_labels_leave_the_verdict_open_until_people_check_some(
    tmp_path: Path, share: float, kind: VerdictKind
) -> None:
    """Four topics in their own words, of which so many rows get another topic's label."""
    drawn, topics = random.Random(4), ("parcel", "invoice", "password", "refund")
    words = {topic: [f"{topic[:3]}{letter}" for letter in "abcdefghijklmnop"] for topic in topics}
    rows = []
    for number in range(400):
        topic = topics[number % 4]
        text = " ".join([*drawn.choices(words[topic], k=5), f"case {number}"])
        label = (
            drawn.choice([other for other in topics if other != topic]) if drawn.random() < share else topic
        )
        rows.append((text, label))
    report = check_file(
        sheet(tmp_path, rows), "rows", Columns("text", "label"), None, 1, CheckSettings(deep=True)
    )
    verdict = advise(replace(MEASURED, rows=report.rows, faults=count_row_faults(report)))
    assert verdict.kind == kind, verdict
    assert kind == "go" or verdict.rule == "wrong labels"


def test_contradictions_are_among_the_wrong_labels(tmp_path: Path) -> None:
    file = sheet(
        tmp_path, [(f"Where is parcel {i}?", label) for i in range(30) for label in ("late", "refund")]
    )
    report = check_file(file, "rows", Columns("text", "label"), None, 1)
    errors = LabelErrors(judged=600, listed=400, expected=360.0, wrong=0.6, agreed=0.6, is_told=True)
    assert count_row_faults(replace(report, label_errors=errors)) == RowFaults(contradicting=30, doubted=6)
    for without_number in (
        replace(errors, expected=240.0),
        replace(errors, is_told=False),
        replace(errors, judged=90),  # a report of an earlier version, which told a number for any file
    ):
        assert count_row_faults(replace(report, label_errors=without_number)).doubted == 0


def test_ninety_right_labels_are_not_doubted(tmp_path: Path) -> None:
    """The first 90 rows of the examples, of which the check once said that 19 are wrong."""
    tickets = read(TICKETS, TICKETS.name, columns=Columns("text", "label")).examples[:90]
    rows = [(f'"{row.prompt[-1].content.replace(chr(34), "")}"', row.answer) for row in tickets]
    report = check_file(
        sheet(tmp_path, rows), "rows", Columns("text", "label"), None, 1, CheckSettings(deep=True)
    )
    assert not [finding for finding in report.findings if finding.code in ("label_errors", "label_doubted")]
    (silent,) = [finding for finding in report.findings if finding.code == "too_few_rows_to_judge"]
    assert "that takes 200 rows" in silent.message
    verdict = advise(replace(MEASURED, faults=count_row_faults(report)))
    assert "wrong labels" not in rules(verdict)


# 400 of 1,200 labels are listed, of which the classifier expects 300 to be wrong
DOUBTFUL = LabelErrors(judged=1_200, listed=400, expected=300.0, wrong=0.25, agreed=0.7, is_told=True)


@pytest.mark.parametrize(
    ("checks", "kind", "sentence"),
    [
        (
            LabelChecks(),
            "unknown",
            "About 300 labels look wrong beside similar rows: 25% of 1,200 rows. Nobody",
        ),
        (LabelChecks(9, 9, 9, 9), "unknown", "About 300 labels look wrong beside similar rows"),
        (LabelChecks(20, 0, 20, 0), "go", None),
        (LabelChecks(20, 2, 2, 0), "go", None),
        (LabelChecks(20, 5, 15, 0), "unknown", "People checked 20 doubted labels and found 5 wrong."),
        (
            LabelChecks(20, 19, 1, 0),
            "no_go",
            "About 379 labels are wrong: 31.6% of 1,200 rows. People checked 20",
        ),
        # of 40 checked rows of this very version, 38 await their correction
        (LabelChecks(40, 38, 40, 38), "no_go", "About 380 labels are wrong"),
    ],
)
def test_what_people_found_replaces_the_guess(
    tmp_path: Path, checks: LabelChecks, kind: VerdictKind, sentence: str | None
) -> None:
    file = sheet(tmp_path, [(f"Where is parcel {i}?", f"label {i % 4}") for i in range(1_200)])
    report = replace(
        check_file(file, "rows", Columns("text", "label"), None, 1), label_errors=DOUBTFUL, findings=()
    )
    verdict = advise(replace(MEASURED, faults=count_row_faults(report, checks)))
    assert verdict.kind == kind
    if sentence is None:
        assert "wrong labels" not in rules(verdict)
    else:
        assert sentence in reason(verdict, "wrong labels").text


CORRECT = "Correct the rows that the file's check lists, and upload the file again."
CHECK = (
    "Have a person check 20 of the rows that the file's check lists. That shows how many labels are wrong."
)


@pytest.mark.parametrize(
    ("faults", "kind", "sentence", "step"),
    [
        (RowFaults(doubted=59), "go", None, None),
        (
            RowFaults(doubted=61),
            "unknown",
            "About 61 labels look wrong beside similar rows: 5.1% of 1,200 rows. Nobody has checked them yet.",
            CHECK,
        ),
        (RowFaults(doubted=600), "unknown", "the worse of two models can look like the better one", CHECK),
        (
            RowFaults(contradicting=100),
            "unknown",
            "100 rows contradict another row that asks the same: 8.3%",
            CORRECT,
        ),
        (
            RowFaults(doubted=120, contradicting=1),
            "unknown",
            "About 120 labels look wrong beside similar rows, and 1 row contradicts another",
            CHECK,
        ),
        (
            RowFaults(contradicting=181),
            "no_go",
            "even a perfect model would miss the bar of 85%.",
            CORRECT,
        ),
        (
            RowFaults(doubted=300, shown=181, checked=20, found=15),
            "no_go",
            "even a perfect model would miss the bar of 85%.",
            CORRECT,
        ),
        (
            RowFaults(doubted=200, shown=120, checked=20, found=10),
            "unknown",
            "found 10 wrong. From 5%, the worse of two models can look like the better one.",
            CORRECT,
        ),
    ],
)
def test_the_share_of_wrong_labels_decides(
    faults: RowFaults, kind: VerdictKind, sentence: str | None, step: str | None
) -> None:
    verdict = advise(replace(MEASURED, faults=faults))
    assert verdict.kind == kind
    if sentence is None:
        assert "wrong labels" not in rules(verdict)
    else:
        assert sentence in reason(verdict, "wrong labels").text
        assert verdict.next_step == step


def test_a_lower_bar_tolerates_more_wrong_labels() -> None:
    low = replace(MEASURED.evidence, bar=0.7, comparison=comparison(*ALL_MISS, bar=0.7))
    assert advise(replace(MEASURED, faults=RowFaults(doubted=300), evidence=low)).kind == "unknown"


def test_wrong_labels_do_not_weigh_if_the_tuned_model_meets_the_bar() -> None:
    measured = replace(MEASURED.evidence, tuned=candidate("tuned", "meets", 186))
    verdict = advise(replace(MEASURED, faults=RowFaults(doubted=300), evidence=measured))
    assert verdict.kind == "go"
    assert not reason(verdict, "wrong labels").weighs


def test_free_text_may_have_two_right_answers() -> None:
    free = replace(MEASURED, smallest_label=None, faults=RowFaults(contradicting=600))
    assert "wrong labels" not in rules(advise(free))


def test_copies_do_not_count_as_more_rows() -> None:
    """1,200 rows are enough; 240 questions five times over are not."""
    verdict = advise(replace(MEASURED, smallest_label=None, faults=RowFaults(copies=960)))
    assert verdict.kind == "unknown"
    assert reason(verdict, "rows").text.startswith("240 different questions in 1,200 rows are enough to try")
    assert "1,200 rows are enough" in str(advise(MEASURED).reasons)
