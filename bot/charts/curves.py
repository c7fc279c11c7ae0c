"""The chart of a learning curve: quality by number of rows, with the fitted curve."""

from __future__ import annotations

import math
from pathlib import Path

from bot.cards.common.candidates import SHORT_NAMES
from bot.charts.style import (
    BLUE,
    INK,
    PAPER,
    RED,
    Axes,
    figure,
    percent_axis,
    save_figure,
    shorten_name,
)
from trainers.evaluation.results import Curve

STEPS = 120


def draw_learning_curve(curve: Curve, path: Path) -> Path | None:
    """Draws a learning curve. Returns None with fewer than two sizes."""
    if len(curve.points) < 2:
        return None
    whose = SHORT_NAMES[curve.candidate.kind]
    if curve.candidate.model:
        model = shorten_name(curve.candidate.model, 30)
        whose += f", {model}"
    dataset = shorten_name(curve.dataset)
    title = f"{dataset}: is more data worth it?\n({whose})"
    drawn, axes = figure(title, "rows to train on", "right on the held-out rows")
    for point in curve.points:
        # The score of each sample of that size, pale, behind their mean.
        same_size = [point.rows] * len(point.draws)
        axes.plot(same_size, point.draws, "o", color=BLUE, alpha=0.3, markersize=4)
        axes.plot([point.rows], [point.score], "o", color=BLUE, markersize=7)
    _draw_fit(axes, curve, BLUE)
    _draw_band(axes, curve)
    axes.set_xscale("log")
    _set_ticks(axes, curve)
    axes.set_ylim(*_y_limits(curve))
    percent_axis(axes.yaxis)
    _label_ends(axes, curve)
    return save_figure(drawn, path)


def _fitted_score(curve: Curve, rows: float) -> float:
    errors = curve.b * math.pow(rows, -curve.c)
    return 1 / (1 + errors)


def _draw_fit(axes: Axes, curve: Curve, colour: str) -> None:
    """Draws the fitted curve, solid within the measured sizes and dashed beyond."""
    first = curve.points[0].rows
    last = curve.points[-1].rows
    predicted = [prediction.rows for prediction in curve.predicted]
    end = max([last, *predicted])
    for start, stop, style in ((first, last, "-"), (last, end, "--")):
        if stop <= start:
            continue
        # Equal steps on the logarithmic axis.
        growth = stop / start
        rows = [start * growth ** (step / STEPS) for step in range(STEPS + 1)]
        scores = [_fitted_score(curve, count) for count in rows]
        axes.plot(rows, scores, style, color=colour, linewidth=1.8)


def _draw_band(axes: Axes, curve: Curve) -> None:
    """Draws the predictions' intervals as a band that starts at the last measured size."""
    if not curve.predicted:
        return
    last = curve.points[-1].rows
    # Where the measured sizes end nothing is predicted yet, so the band begins as a point.
    fitted = _fitted_score(curve, last)
    ends = [(last, fitted, fitted)]
    for prediction in curve.predicted:
        if prediction.rows > last:
            ends.append((prediction.rows, prediction.low, prediction.high))
    rows, lows, highs = zip(*ends, strict=True)
    axes.fill_between(rows, lows, highs, color=RED, alpha=0.12, linewidth=0)
    for prediction in curve.predicted:
        # A bootstrap's interval need not contain the fitted score, and a length below 0 is refused.
        below = max(prediction.score - prediction.low, 0)
        above = max(prediction.high - prediction.score, 0)
        axes.errorbar(
            prediction.rows,
            prediction.score,
            [[below], [above]],
            fmt="o",
            color=RED,
            markersize=6,
            capsize=3,
        )


def _set_ticks(axes: Axes, curve: Curve) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    axes.xaxis.set_major_locator(FixedLocator(_marked_sizes(curve)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.07)


def _marked_sizes(curve: Curve) -> list[int]:
    """Returns the sizes to mark on the axis, from the largest down, without those whose label would touch another."""
    measured = {point.rows for point in curve.points}
    predicted = {prediction.rows for prediction in curve.predicted}
    sizes = measured | predicted
    # The axis is logarithmic, so a label takes a share of the whole ratio.
    least = (max(sizes) / min(sizes)) ** 0.09
    values: list[int] = []
    for size in sorted(sizes, reverse=True):
        if not values or size * least <= values[-1]:
            values.append(size)
    return values


def _y_limits(curve: Curve) -> tuple[float, float]:
    seen: list[float] = []
    for point in curve.points:
        seen += [point.score, *point.draws]
    for prediction in curve.predicted:
        seen += [prediction.low, prediction.high]
    lowest = min(seen)
    highest = max(seen)
    room = max((highest - lowest) * 0.14, 0.02)
    # A little beyond 0% and 100%, or a point at the edge would be cut in half.
    return max(lowest - room, -0.04), min(highest + room, 1.06)


def _label_ends(axes: Axes, curve: Curve) -> None:
    """Labels each prediction above its interval, and the last measured point."""
    last = curve.points[-1]
    highest = max((last.score, *last.draws))
    ends = [(last.rows, highest, last.score, INK)]
    # Where the sizes below have no room for a label, neither have the scores above.
    shown = set(_marked_sizes(curve))
    for prediction in curve.predicted:
        if prediction.rows in shown:
            ends.append((prediction.rows, prediction.high, prediction.score, RED))
    for rows, top, score, colour in ends:
        axes.annotate(
            f"{100 * score:.1f}%",
            (rows, top),
            xytext=(-2, 7),
            textcoords="offset points",
            ha="center",
            color=colour,
            fontweight="bold",
            bbox=PAPER,
            annotation_clip=False,
        )
