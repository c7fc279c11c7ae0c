"""Which numbers an aim puts first: those of today's model if they are known, never those of another measure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bot.cards.decisions.aims import aim_facts
from bot.rules.facts import Evidence, TaskKind
from bot.rules.fit import numbers_of
from tests.rules.builders import candidate, comparison
from trainers.evaluation.results import MeasuredCandidate

CLASSICAL = candidate("classical", "misses", 150)
BEST = replace(candidate("kshot", "meets", 182), p50_s=1.2, p95_s=4.0)
FAST = replace(candidate("zero", "misses", 120), p50_s=0.4, p95_s=0.9)
TUNED = replace(candidate("tuned", "meets", 190), p50_s=0.1, p95_s=0.2)


def judged(measured: MeasuredCandidate) -> MeasuredCandidate:
    return replace(measured, scoring="judge")


def told(
    kind: TaskKind, *candidates: MeasuredCandidate, tuned: MeasuredCandidate | None = None, today: str = ""
) -> list[tuple[str, str]]:
    return aim_facts(numbers_of(Evidence(comparison=comparison(*candidates), tuned=tuned), kind, (today,)))


@pytest.mark.parametrize("kind", ["classification", "cost", "format", "knowledge"])
def test_other_aims_begin_with_money(kind: TaskKind) -> None:
    assert told(kind, BEST, FAST) == []


def test_quality_compares_shares_with_their_intervals() -> None:
    ((name, text),) = told("quality", CLASSICAL, BEST, FAST, tuned=TUNED)
    assert name == "Right answers" and "91.0% (" in text and text.count("%") >= 4 and "tuned: 95.0% (" in text
    ((_, text),) = told("quality", BEST, FAST)
    assert text.endswith("tuned: not measured yet")


def test_todays_model_comes_before_a_better_one() -> None:
    todays = replace(FAST, identity=replace(FAST.identity, model="acme/today"))
    ((_, text),) = told("quality", BEST, todays, today="acme/today")
    assert "today: 60.0% (" in text


def test_latency_compares_median_and_slow_times_of_prompted_answers() -> None:
    ((name, text),) = told("latency", CLASSICAL, BEST, FAST, tuned=TUNED)
    assert name == "Time per answer"
    assert "median 400 ms, 95% within 900 ms; tuned: median 100 ms, 95% within 200 ms" in text
    assert "not known: measure a prompted model" in told("latency", CLASSICAL)[0][1]


def test_a_style_is_known_from_a_judge_only() -> None:
    assert told("style", BEST, FAST, tuned=TUNED)[0][1].startswith("not known: measure with judge=MODEL")
    ((name, text),) = told("style", judged(BEST), judged(FAST), tuned=judged(TUNED))
    assert name == "Answers that the judge accepts" and "91.0% (" in text and "tuned: 95.0% (" in text
