"""Quality against rows: the draws, their means, the fitted curve and what it predicts, with the band."""

from __future__ import annotations

import math
from pathlib import Path

from bot.decisions.verdict.rungs import SHORT
from bot.drawings.canvas import BLUE, INK, RED, SOFT, Axes, figure, name, percent_axis, saved
from trainers.measuring.values import Curve

STEPS = 120


def draw(curve: Curve, path: Path, beside: Curve | None = None) -> Path | None:
    """None with fewer than two sizes: that is no curve. `beside`: another arm's, drawn paler and without a band."""
    if len(curve.points) < 2:
        return None
    drawn, axes = figure(_title(curve), "rows to train on", "right on the held-out rows")
    for point in curve.points:
        axes.plot([point.rows] * len(point.draws), point.draws, "o", color=BLUE, alpha=0.3, markersize=4)
    axes.plot([p.rows for p in curve.points], [p.score for p in curve.points], "o", color=BLUE, markersize=7)
    _draw_fit(axes, curve, BLUE)
    _draw_band(axes, curve)
    if beside:
        _draw_beside(axes, curve, beside)
    axes.set_xscale("log")
    _ticks(axes, curve)
    axes.set_ylim(*_heights(curve, beside))
    percent_axis(axes.yaxis)
    _label_ends(axes, curve)
    return saved(drawn, path)


def _title(curve: Curve) -> str:
    whose = SHORT[curve.arm.rung]
    model = f", {name(curve.arm.model, 30)}" if curve.arm.model else ""
    return f"{name(curve.dataset)}: is more data worth it? ({whose}{model})"


def _fitted(curve: Curve, rows: float) -> float:
    return 1 / (1 + curve.b * math.pow(rows, -curve.c))


def _draw_beside(axes: Axes, curve: Curve, beside: Curve) -> None:
    for shown, colour in ((curve, BLUE), (beside, SOFT)):
        axes.plot([], [], "o-", color=colour, label=SHORT[shown.arm.rung])
    axes.plot(
        [p.rows for p in beside.points], [p.score for p in beside.points], "o", color=SOFT, markersize=5
    )
    _draw_fit(axes, beside, SOFT)
    axes.legend(loc="lower right", frameon=False)


def _draw_fit(axes: Axes, curve: Curve, colour: str) -> None:
    """Solid where it was measured, dashed beyond."""
    first, last = curve.points[0].rows, curve.points[-1].rows
    end = max([last, *(one.rows for one in curve.predicted)])
    for start, stop, style in ((first, last, "-"), (last, end, "--")):
        if stop > start:
            rows = [start * (stop / start) ** (at / STEPS) for at in range(STEPS + 1)]
            axes.plot(rows, [_fitted(curve, n) for n in rows], style, color=colour, linewidth=1.8)


def _draw_band(axes: Axes, curve: Curve) -> None:
    """It opens at the last measured size."""
    if not curve.predicted:
        return
    last = curve.points[-1]
    seen = (last.rows, _fitted(curve, last.rows), _fitted(curve, last.rows))
    ends = [seen, *((one.rows, one.low, one.high) for one in curve.predicted if one.rows > last.rows)]
    rows, lows, highs = zip(*ends, strict=True)
    axes.fill_between(rows, lows, highs, color=RED, alpha=0.12, linewidth=0)
    for one in curve.predicted:
        axes.errorbar(
            one.rows,
            one.score,
            [[max(one.score - one.low, 0)], [max(one.high - one.score, 0)]],
            fmt="o",
            color=RED,
            markersize=6,
            capsize=3,
        )


def _ticks(axes: Axes, curve: Curve) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter, NullLocator

    axes.xaxis.set_major_locator(FixedLocator(_sizes(curve)))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.margins(x=0.07)


def _sizes(curve: Curve) -> list[int]:
    """All, from the largest down, less those that would touch a neighbour."""
    sizes = {*(point.rows for point in curve.points), *(one.rows for one in curve.predicted)}
    least = (max(sizes) / min(sizes)) ** 0.09
    kept: list[int] = []
    for size in sorted(sizes, reverse=True):
        if not kept or size * least <= kept[-1]:
            kept.append(size)
    return kept


def _heights(curve: Curve, beside: Curve | None) -> tuple[float, float]:
    points = (*curve.points, *(beside.points if beside else ()))
    seen = [share for point in points for share in (point.score, *point.draws)]
    seen += [one.score for one in beside.predicted] if beside else []
    seen += [share for one in curve.predicted for share in (one.low, one.high)]
    room = max((max(seen) - min(seen)) * 0.14, 0.02)
    return max(min(seen) - room, -0.04), min(max(seen) + room, 1.06)


def _label_ends(axes: Axes, curve: Curve) -> None:
    """Each prediction says its number above its interval; the last point measured says its own."""
    last, shown = curve.points[-1], set(_sizes(curve))
    ends = [(last.rows, max((last.score, *last.draws)), last.score, INK)]
    ends += [(one.rows, one.high, one.score, RED) for one in curve.predicted if one.rows in shown]
    for rows, top, score, colour in ends:
        axes.annotate(
            f"{100 * score:.1f}%",
            (rows, top),
            xytext=(-2, 7),
            textcoords="offset points",
            ha="center",
            color=colour,
            fontweight="bold",
            annotation_clip=False,
        )
