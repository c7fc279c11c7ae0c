"""Cards of learning curves: one that a free candidate has overtaken, and one of a tuned model, which an earlier version
trained."""

from __future__ import annotations

from bot.cards.common.blocks import Message
from bot.cards.evidence import learning_curves
from tests.cards import measurements
from trainers.evaluation.results import Candidate, Curve, CurvePoint, Prediction

SIZES = (1_250, 2_500, 5_001)


def cards() -> dict[str, Message]:
    ahead = [measurements.candidate("classical", None, 176), measurements.candidate("encoder", None, 186)]
    return {
        "curve-overtaken": learning_curves.card(measurements.curve(), number=6, free=ahead),
        "curve-tuned-ended": learning_curves.failure_card(
            "tickets", learning_curves.trained_curve_ended(640_000)
        ),
    }


def tuned_curve() -> Curve:
    points = tuple(
        CurvePoint(rows, share, (share,)) for rows, share in zip(SIZES, (0.8, 0.86, 0.9), strict=True)
    )
    more = (Prediction(7_500, 0.917, 0.826, 0.980), Prediction(10_003, 0.927, 0.832, 0.994))
    line = {"a": 0.0179, "b": 10.99, "c": 0.575, "points_per_100": 0.09}
    return measurements.curve(
        candidate=Candidate("tuned", measurements.MODEL), points=points, predicted=more, **line
    )
