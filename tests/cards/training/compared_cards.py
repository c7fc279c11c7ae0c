"""Cards of results side by side."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from typing import Any

from bot.cards.common.blocks import Message
from bot.cards.training import compared_results as cards_of_results
from bot.rules.training.compared_results import (
    CommonScores,
    ComparedResult,
    LeftOut,
    compare_results,
)
from tests.cards import measurements
from trainers.evaluation.results import MeasuredCandidate

MARGIN = 0.02
ROWS = 200
SETTINGS = (
    ("target", "local/smollm2-135m"),
    ("version", "1"),
    ("rows", "383"),
    ("method", "supervised"),
    ("epochs", "5"),
    ("lora_r", "16"),
    ("lr", "5e-4"),
    ("seed", "20260101"),
)


def scored(right: int, *, first: int = 0, look: int = 1, **other: Any) -> MeasuredCandidate:
    """A tuned model that is right on `right` rows in a row, from the row `first` on."""
    scores = scores_of(right, first)
    return measurements.candidate("tuned", "local/tickets", right, n=ROWS, scores=scores, look=look, **other)


def scores_of(right: int, first: int = 0) -> tuple[float, ...]:
    return tuple(float(first <= row < first + right) for row in range(ROWS))


def result(number: int, measured: MeasuredCandidate | None, **other: Any) -> ComparedResult:
    values = {
        "dataset": "tickets",
        "version": 1,
        "holdout": "h" * 64,
        "answered_by": f"tickets-{number}",
        "model": f"tickets-{number}",
        "state": "done",
        "settings": SETTINGS,
        "cost_micros": 120_000 * number,
        "train_seconds": 240.0 * number,
        "usd": Decimal("0.02"),
        "look": number,
    }
    return ComparedResult(number, measured=measured, **{**values, **other})


def with_setting(name: str, value: str) -> tuple[tuple[str, str], ...]:
    return tuple((key, value if key == name else old) for key, old in SETTINGS)


def common(*results: ComparedResult, read: Sequence[int] = ()) -> list[CommonScores]:
    return [
        CommonScores(each, each.measured.scores, tuple(read)) for each in results if each.measured is not None
    ]


def cards() -> dict[str, Message]:
    best = result(3, scored(190))
    smaller = result(1, scored(150), settings=with_setting("lora_r", "8"), usd=Decimal("0.01"))
    alike = result(2, scored(189, first=1), settings=with_setting("epochs", "3"))
    free = ComparedResult(
        7,
        "tickets",
        1,
        "h" * 64,
        is_measurement=True,
        answered_by="encoder",
        measured=measurements.candidate("encoder", None, 189, n=ROWS, scores=scores_of(189)),
        state="done",
        cost_micros=0,
        usd=Decimal(0),
    )
    training = result(5, None, state="training", cost_micros=None, train_seconds=None)
    elsewhere = result(6, scored(180), version=2, holdout="g" * 64)
    judged = result(8, scored(180, scoring="judge"), judge="openai/gpt-4o-mini")
    other_judge = result(9, judged.measured, judge="openai/gpt-4.1")
    words = result(10, scored(150, scoring="f1"))
    part = [CommonScores(each.result, each.scores[:60]) for each in common(best, smaller)]
    compared = {
        "compared-better": compare_results(common(smaller, best), (), MARGIN),
        "compared-alike": compare_results(common(best, alike), (), MARGIN),
        "compared-cheaper": compare_results(common(best, free), (), 0.1),
        "compared-three": compare_results(common(best, alike, smaller), (), MARGIN),
        "compared-best-of-three": compare_results(
            common(best, smaller, result(4, scored(120)), read=(3, 4)), (), MARGIN
        ),
        "compared-perhaps-luck": compare_results(
            common(result(8, scored(195)), result(2, scored(184))), (), MARGIN
        ),
        "compared-on-a-part": compare_results(part, (), MARGIN, is_part=True),
        "compared-too-early": compare_results(common(best), (LeftOut(training, "no result", best),), MARGIN),
        "compared-other-rows": compare_results(
            common(best), (LeftOut(elsewhere, "other rows", best),), MARGIN
        ),
        "compared-other-measures": compare_results(
            common(judged),
            (LeftOut(other_judge, "other judge", judged), LeftOut(words, "other measure", judged)),
            MARGIN,
        ),
    }
    return {name: cards_of_results.card(each) for name, each in compared.items()}
