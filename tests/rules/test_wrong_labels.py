"""Labels that can't be trusted: what the check found, counted once, and what the verdict makes of it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from bot.rules.facts import Evidence, RowFaults, count_row_faults
from bot.rules.plans import VerdictKind
from tests.rules.builders import ALL_MISS, FACTS, ladder, outlook, rung
from tests.rules.worded_verdict import advise
from trainers.dataset import Columns, check_file
from trainers.dataset.slow_checks import LabelErrors

MEASURED = replace(FACTS, outlook=outlook(0.93), evidence=Evidence(ladder=ladder(*ALL_MISS)))


def sheet(folder: Path, rows: Sequence[tuple[str, str]]) -> Path:
    file = folder / "rows.csv"
    file.write_text("\n".join(["text,label", *(f"{text},{label}" for text, label in rows)]), encoding="utf-8")
    return file


def test_copies_and_contradictions_are_told_by_the_check(tmp_path: Path) -> None:
    """30 questions asked four times, each once with another answer."""
    said = ("late", "late", "late", "refund")
    file = sheet(tmp_path, [(f"Where is parcel {i}?", label) for i in range(30) for label in said])
    report = check_file(file, "rows", Columns("text", "label"), None, 1)
    assert count_row_faults(report) == RowFaults(copies=60, contradicting=30)


@pytest.mark.parametrize(("share", "kind"), [(0.0, "go"), (0.08, "unknown"), (0.3, "no_go")])
def test_labels_that_are_made_wrong_stop_a_go(tmp_path: Path, share: float, kind: VerdictKind) -> None:
    """Four topics in their own words, of which so many rows get another topic's label."""
    drawn, topics = random.Random(4), ("parcel", "invoice", "password", "refund")
    words = {topic: [f"{topic[:3]}{letter}" for letter in "abcdefghijklmnop"] for topic in topics}
    rows = []
    for number in range(800):
        topic = topics[number % 4]
        text = " ".join([*drawn.choices(words[topic], k=5), f"case {number}"])
        label = drawn.choice([one for one in topics if one != topic]) if drawn.random() < share else topic
        rows.append((text, label))
    report = check_file(sheet(tmp_path, rows), "rows", Columns("text", "label"), None, 1, deep=True)
    verdict = advise(replace(MEASURED, rows=report.rows, faults=count_row_faults(report)))
    assert verdict.kind == kind, verdict
    assert kind == "go" or verdict.rule == "wrong labels"


def test_a_contradiction_is_one_of_the_labels_that_are_wrong(tmp_path: Path) -> None:
    file = sheet(
        tmp_path, [(f"Where is parcel {i}?", label) for i in range(30) for label in ("late", "refund")]
    )
    report = check_file(file, "rows", Columns("text", "label"), None, 1)
    told = LabelErrors(judged=60, listed=18, expected=12.0, wrong=0.6, agreed=0.6, is_told=True)
    assert count_row_faults(replace(report, label_errors=told)) == RowFaults(contradicting=30, doubted=6)
    assert count_row_faults(replace(report, label_errors=replace(told, wrong=0.4))).doubted == 0
    assert count_row_faults(replace(report, label_errors=replace(told, is_told=False))).doubted == 0


@pytest.mark.parametrize(
    ("faults", "kind", "said"),
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
def test_labels_that_look_wrong_weigh(faults: RowFaults, kind: VerdictKind, said: str | None) -> None:
    verdict = advise(replace(MEASURED, faults=faults))
    texts = [one.text for one in verdict.reasons if one.rule == "wrong labels"]
    assert verdict.kind == kind
    assert said in texts[0] if said else texts == []
    if said:
        assert verdict.next_step == "Correct the rows that the file's check lists, and upload the file again."


def test_a_lower_bar_bears_more_wrong_labels() -> None:
    low = replace(MEASURED.evidence, bar=0.7, ladder=ladder(*ALL_MISS, bar=0.7))
    assert advise(replace(MEASURED, faults=RowFaults(doubted=300), evidence=low)).kind == "unknown"


def test_a_tuned_model_that_meets_the_bar_has_shown_that_most_labels_are_right() -> None:
    measured = replace(MEASURED.evidence, tuned=rung("tuned", "meets", 186))
    verdict = advise(replace(MEASURED, faults=RowFaults(doubted=300), evidence=measured))
    assert verdict.kind == "go"
    assert any(one.rule == "wrong labels" and not one.weighs for one in verdict.reasons)


def test_free_text_may_be_put_in_two_ways() -> None:
    free = replace(MEASURED, smallest_label=None, faults=RowFaults(contradicting=600))
    assert not any(one.rule == "wrong labels" for one in advise(free).reasons)


def test_copies_are_no_more_data() -> None:
    """1,200 rows are enough; 240 questions five times over are not."""
    verdict = advise(replace(MEASURED, smallest_label=None, faults=RowFaults(copies=960)))
    (rows,) = [one for one in verdict.reasons if one.rule == "rows"]
    assert verdict.kind == "unknown"
    assert rows.text.startswith("240 different questions in 1,200 rows are enough to try")
    assert "1,200 rows are enough" in str(advise(MEASURED).reasons)
