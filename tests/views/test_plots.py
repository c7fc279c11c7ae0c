"""The two plots: drawn without a warning whatever the labels are called, and the curve for Slack's own chart."""

from __future__ import annotations

from pathlib import Path

import pytest

from bot.judging import draw_confusion, draw_loss, loss_curve
from bot.views.results import card
from tests.views import made
from trainers.evaluation import compare, confusion
from trainers.types import Metric

METRICS = [
    Metric(step, 2.5 / step, valid_loss=2.0 / step if step % 50 == 0 else None) for step in range(1, 151)
]
RIGHT = [True, False, True]


def is_png(path: Path | None) -> bool:
    return path is not None and path.read_bytes().startswith(b"\x89PNG") and path.stat().st_size > 5_000


def test_the_loss_is_drawn_with_and_without_validation(tmp_path: Path) -> None:
    assert is_png(draw_loss(METRICS, "tickets-7", tmp_path / "a.png"))
    assert is_png(draw_loss(METRICS[:40], "costs $5 or $10", tmp_path / "b.png"))
    assert draw_loss(METRICS[:1], "tickets-7", tmp_path / "c.png") is None


def test_the_confusion_is_drawn_with_odd_labels(tmp_path: Path) -> None:
    labels = ["refund of $5 to $10", "a_b", "x" * 200]
    matrix = confusion(labels, [labels[0], "something", labels[2]])
    assert is_png(draw_confusion(matrix, compare([False] * 3, RIGHT), "tickets-7", tmp_path / "a.png"))


def test_too_many_labels_are_not_drawn(tmp_path: Path) -> None:
    labels = [str(number) for number in range(41)]
    verdict = compare([False] * 41, [True] * 41)
    assert draw_confusion(confusion(labels, labels), verdict, "t", tmp_path / "a.png") is None


@pytest.mark.parametrize(("steps", "points"), [(0, 0), (1, 1), (20, 20), (21, 11), (150, 19), (4_000, 20)])
def test_the_curve_has_twenty_points_at_most_and_ends_at_the_last_step(steps: int, points: int) -> None:
    curve = loss_curve([Metric(step, 1.0) for step in range(1, steps + 1)])
    assert len(curve) == points
    assert not curve or curve[-1] == (steps, 1.0)


def test_each_point_of_the_curve_is_a_mean() -> None:
    assert loss_curve([Metric(1, 4.0), Metric(2, 2.0), Metric(3, None), Metric(4, 1.0)], most=2) == (
        (2, 3.0),
        (4, 1.0),
    )


def test_without_a_curve_there_is_no_chart() -> None:
    without = card(made.run("done"), made.plan(), made.result(loss_curve=()))
    assert "data_visualization" not in [block["type"] for block in without.newest]
