"""Cards of a tuned model's learning curve: before its result, and beside the classical model's."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Any

from bot.cards import learning_curves, tuned_learning_curves
from bot.cards.blocks import Message
from bot.values.learning_curves import PlannedSize, SizeProgress, TunedCurvePlan, TunedCurveProgress
from bot.values.runs import Progress
from tests.cards import measurements
from tests.cards.builders import BEN, BUDGET, HASH, NO_BUDGET
from trainers.evaluation.results import Candidate, Curve, CurvePoint, Prediction

SIZES = (1_250, 2_500, 5_001)
DONE, TRAINS, WAITS = (SizeProgress(rows, HASH, f"ft-{rows}") for rows in SIZES)
DONE = replace(DONE, state="done", model="ft:a", answered=200, spent_micros=210_000)
TRAINS = replace(TRAINS, state="training", training=Progress(step=60, total_steps=240))
ASKS = replace(TRAINS, state="evaluating", model="ft:b", answered=120, declined=("a", "b"))
REUSED = replace(WAITS, state="evaluating", model="ft:c", from_before="run 7")


def plan(**other: Any) -> TunedCurvePlan:
    sizes = tuple(PlannedSize(rows, (("n_epochs", 2),), 100 * rows, 1_000) for rows in SIZES)
    default = TunedCurvePlan(
        dataset="tickets",
        version=2,
        train_sha256=HASH,
        holdout_sha256=HASH,
        n_holdout=200,
        labels=("billing", "refund"),
        provider="openai",
        base_model="gpt-4.1-mini-2025-04-14",
        sizes=sizes,
        seed=1,
        prices="[]",
        predict=(10_000,),
    )
    return replace(default, **other)


def progress(*sizes: SizeProgress, most: int = 640_000, **other: Any) -> TunedCurveProgress:
    return TunedCurveProgress("training", sizes, most, **other)


def cards() -> dict[str, Message]:
    running, requested = (
        measurements.measurement(kind="curve"),
        measurements.measurement("asked", kind="curve"),
    )
    waiting = replace(DONE, state="waiting", model=None, answered=0, spent_micros=0)
    fresh = [waiting, replace(TRAINS, state="waiting", training=Progress()), WAITS]
    hiccup = "openai can't be reached: it did not answer in time. The job itself goes on. Trying again."
    cancelled = measurements.measurement("cancelled", kind="curve")
    failed = measurements.measurement("failed", kind="curve")
    closed = tuned_learning_curves.closed_card
    return {
        "curve-overtaken": learning_curves.card(
            measurements.curve(),
            number=6,
            free=[measurements.rung("classical", None, 176), measurements.rung("encoder", None, 186)],
        ),
        "curve-tuned-asked": tuned_learning_curves.request_card(requested, plan(), progress(*fresh), BUDGET),
        "curve-tuned-asked-in-part": tuned_learning_curves.request_card(
            requested, plan(), progress(*fresh[:2], REUSED), NO_BUDGET
        ),
        "curve-tuned-training": tuned_learning_curves.progress_card(
            running, plan(), progress(DONE, TRAINS, WAITS, note=hiccup)
        ),
        "curve-tuned-measuring": tuned_learning_curves.progress_card(
            running, plan(), progress(DONE, ASKS, REUSED, most=0)
        ),
        "curve-tuned-cancelled": closed(
            cancelled, plan(), progress(DONE, TRAINS, WAITS), f"Cancelled by <@{BEN}>."
        ),
        "curve-tuned-failed": closed(failed, plan(), progress(), "It could cost up to $9.00."),
        "curve-tuned-beside": learning_curves.card(
            tuned_curve(), number=5, label_usd=Decimal("0.50"), bar=0.9, beside=measurements.curve()
        ),
    }


def tuned_curve() -> Curve:
    points = tuple(
        CurvePoint(rows, share, (share,)) for rows, share in zip(SIZES, (0.8, 0.86, 0.9), strict=True)
    )
    more = (Prediction(7_500, 0.917, 0.826, 0.980), Prediction(10_003, 0.927, 0.832, 0.994))
    line = {"a": 0.0179, "b": 10.99, "c": 0.575, "points_per_100": 0.09}
    return measurements.curve(
        arm=Candidate("tuned", measurements.MODEL), points=points, predicted=more, **line
    )
