"""Wrong labels: how the check's findings are counted, and what they do to the verdict."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bot.rules.facts import Evidence, RowFaults, count_row_faults
from bot.rules.plans import VerdictKind
from tests.rules.builders import ALL_MISS, FACTS, ladder, outlook, rung
from tests.rules.worded_verdict import advise, reason, rules
from trainers.dataset import Columns, check_file
from trainers.dataset.slow_checks import LabelErrors

MEASURED = replace(FACTS, outlook=outlook(0.93), evidence=Evidence(ladder=ladder(*ALL_MISS)))


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


@pytest.mark.parametrize(("share", "kind"), [(0.0, "go"), (0.08, "unknown"), (0.3, "no_go")])
def test_wrong_labels_that_the_check_finds_stop_a_go(tmp_path: Path, share: float, kind: VerdictKind) -> None:
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
    report = check_file(sheet(tmp_path, rows), "rows", Columns("text", "label"), None, 1, deep=True)
    verdict = advise(replace(MEASURED, rows=report.rows, faults=count_row_faults(report)))
    assert verdict.kind == kind, verdict
    assert kind == "go" or verdict.rule == "wrong labels"


def test_contradictions_are_among_the_wrong_labels(tmp_path: Path) -> None:
    file = sheet(
        tmp_path, [(f"Where is parcel {i}?", label) for i in range(30) for label in ("late", "refund")]
    )
    report = check_file(file, "rows", Columns("text", "label"), None, 1)
    errors = LabelErrors(judged=60, listed=18, expected=12.0, wrong=0.6, agreed=0.6, is_told=True)
    assert count_row_faults(replace(report, label_errors=errors)) == RowFaults(contradicting=30, doubted=6)
    assert count_row_faults(replace(report, label_errors=replace(errors, wrong=0.4))).doubted == 0
    assert count_row_faults(replace(report, label_errors=replace(errors, is_told=False))).doubted == 0


@pytest.mark.parametrize(
    ("faults", "kind", "sentence"),
    [
        (RowFaults(doubted=59), "go", None),
        (RowFaults(doubted=61), "unknown", "About 61 labels are wrong: 5.1% of 1,200 rows."),
        (RowFaults(contradicting=100), "unknown", "100 rows contradict another row that asks the same: 8.3%"),
        (
            RowFaults(doubted=120, contradicting=1),
            "unknown",
            "About 120 labels are wrong, and 1 row contradicts another",
        ),
        (RowFaults(doubted=181), "no_go", "even a perfect model would miss the bar of 85%."),
    ],
)
def test_the_share_of_wrong_labels_decides(
    faults: RowFaults, kind: VerdictKind, sentence: str | None
) -> None:
    verdict = advise(replace(MEASURED, faults=faults))
    assert verdict.kind == kind
    if sentence is None:
        assert "wrong labels" not in rules(verdict)
    else:
        assert sentence in reason(verdict, "wrong labels").text
        assert verdict.next_step == "Correct the rows that the file's check lists, and upload the file again."


def test_a_lower_bar_tolerates_more_wrong_labels() -> None:
    low = replace(MEASURED.evidence, bar=0.7, ladder=ladder(*ALL_MISS, bar=0.7))
    assert advise(replace(MEASURED, faults=RowFaults(doubted=300), evidence=low)).kind == "unknown"


def test_wrong_labels_do_not_weigh_if_the_tuned_model_meets_the_bar() -> None:
    measured = replace(MEASURED.evidence, tuned=rung("tuned", "meets", 186))
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
