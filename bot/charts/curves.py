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
    model = f", {shorten_name(curve.candidate.model, 30)}" if curve.candidate.model else ""
    title = f"{shorten_name(curve.dataset)}: is more data worth it?\n({whose}{model})"
    drawn, axes = figure(title, "rows to train on", "right on the held-out rows")
    for point in curve.points:
        axes.plot([point.rows] * len(point.draws), point.draws, "o", color=BLUE, alpha=0.3, markersize=4)
    axes.plot([p.rows for p in curve.points], [p.score for p in curve.points], "o", color=BLUE, markersize=7)
    _draw_fit(axes, curve, BLUE)
    _draw_band(axes, curve)
    axes.set_xscale("log")
    _set_ticks(axes, curve)
    axes.set_ylim(*_y_limits(curve))
    percent_axis(axes.yaxis)
    _label_ends(axes, curve)
    return save_figure(drawn, path)


def _fitted_score(curve: Curve, rows: float) -> float:
    return 1 / (1 + curve.b * math.pow(rows, -curve.c))


def _draw_fit(axes: Axes, curve: Curve, colour: str) -> None:
    """Draws the fitted curve, solid within the measured sizes and dashed beyond."""
    first, last = curve.points[0].rows, curve.points[-1].rows
    end = max([last, *(prediction.rows for prediction in curve.predicted)])
    for start, stop, style in ((first, last, "-"), (last, end, "--")):
        if stop > start:
            rows = [start * (stop / start) ** (at / STEPS) for at in range(STEPS + 1)]
            axes.plot(rows, [_fitted_score(curve, n) for n in rows], style, color=colour, linewidth=1.8)


def _draw_band(axes: Axes, curve: Curve) -> None:
    """Draws the predictions' intervals as a band that starts at the last measured size."""
    if not curve.predicted:
        return
    last = curve.points[-1]
    ends = [(last.rows, _fitted_score(curve, last.rows), _fitted_score(curve, last.rows))]
    ends += [
        (prediction.rows, prediction.low, prediction.high)
        for prediction in curve.predicted
        if prediction.rows > last.rows
    ]
    rows, lows, highs = zip(*ends, strict=True)
    axes.fill_between(rows, lows, highs, color=RED, alpha=0.12, linewidth=0)
    for prediction in curve.predicted:
        axes.errorbar(
            prediction.rows,
            prediction.score,
            [[max(prediction.score - prediction.low, 0)], [max(prediction.high - prediction.score, 0)]],
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
    sizes = {*(point.rows for point in curve.points), *(prediction.rows for prediction in curve.predicted)}
    least = (max(sizes) / min(sizes)) ** 0.09
    values: list[int] = []
    for size in sorted(sizes, reverse=True):
        if not values or size * least <= values[-1]:
            values.append(size)
    return values


def _y_limits(curve: Curve) -> tuple[float, float]:
    seen = [share for point in curve.points for share in (point.score, *point.draws)]
    seen += [share for prediction in curve.predicted for share in (prediction.low, prediction.high)]
    room = max((max(seen) - min(seen)) * 0.14, 0.02)
    return max(min(seen) - room, -0.04), min(max(seen) + room, 1.06)


def _label_ends(axes: Axes, curve: Curve) -> None:
    """Labels each prediction above its interval, and the last measured point."""
    last, shown = curve.points[-1], set(_marked_sizes(curve))
    ends = [(last.rows, max((last.score, *last.draws)), last.score, INK)]
    ends += [
        (prediction.rows, prediction.high, prediction.score, RED)
        for prediction in curve.predicted
        if prediction.rows in shown
    ]
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
