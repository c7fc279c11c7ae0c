"""Charts of an estimate's forecast: net dollars month by month, and which input moves the net value most."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bot.cards.payback import payback_condition, share_of_draws
from bot.charts.style import (
    BLUE,
    INK,
    RED,
    SOFT,
    Axes,
    Figure,
    Text,
    dollar_axis,
    dollars,
    figure,
    save_figure,
    shorten_name,
    spread_apart,
)
from bot.rules.forecast import Month, Outlook, Swing
from bot.rules.units import duration

MOST_BARS = 12
CASH_FLOW_FILE, SENSITIVITY_FILE = "cumulative-cost.png", "tornado.png"


def draw_cash_flow(outlook: Outlook, path: Path) -> Path | None:
    """Returns None if the outlook has fewer than two months, as the provider ends the model before."""
    months = sorted(outlook.months, key=lambda month: month.month)
    if len(months) < 2:
        return None
    drawn, axes = figure(cash_flow_title(outlook), "months from now", "saved minus spent, USD")
    at = [float(month.month) for month in months]
    middle = [float(month.p50) for month in months]
    low, high = [float(month.p5) for month in months], [float(month.p95) for month in months]
    axes.fill_between(at, low, high, color=BLUE, alpha=0.14, linewidth=0)
    axes.plot(at, middle, color=BLUE, linewidth=2.2)
    axes.axhline(0, color=INK, linewidth=1.2)
    axes.margins(x=0.02)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="x")
    dollar_axis(axes.yaxis)
    _mark_break_even(axes, months)
    _label_ends(axes, months)
    return save_figure(drawn, path)


def cash_flow_title(outlook: Outlook) -> str:
    begun = outlook.months[0]
    is_free = not (begun.p5 or begun.p95)
    does = "Saves money" if is_free else f"Pays back within {duration(outlook.target_months)}"
    timed = payback_condition(is_good=True, is_time_said=outlook.is_time_said)
    return f"{does} in {share_of_draws(outlook.p_payback, outlook.draws)}{timed}"


def break_even(months: Sequence[Month]) -> float | None:
    """Returns the month in which the median draw reaches zero for good, None if it is never below or never above."""
    crossing = None
    for before, after in pairwise(months):
        if before.p50 < 0 <= after.p50:
            share = float(-before.p50 / (after.p50 - before.p50))
            crossing = float(before.month) + share * float(after.month - before.month)
    return crossing if months[-1].p50 >= 0 else None


def _mark_break_even(axes: Axes, months: Sequence[Month]) -> None:
    at = break_even(months)
    if at is None:
        return
    axes.plot([at], [0], "o", color=INK, markersize=8, markerfacecolor="white", markeredgewidth=2, zorder=5)
    on_the_right = at > float(months[0].month + months[-1].month) / 2
    axes.annotate(
        f"even after {at:.1f} months" if at >= 0.05 else "even at once",
        (at, 0),
        xytext=(-8 if on_the_right else 8, -14),
        textcoords="offset points",
        ha="right" if on_the_right else "left",
        color=INK,
        fontweight="bold",
    )


def _label_ends(axes: Axes, months: Sequence[Month]) -> None:
    last = months[-1]
    ends = [
        ("1 in 20 above", last.p95, SOFT),
        ("median", last.p50, BLUE),
        ("1 in 20 below", last.p5, SOFT),
    ]
    low, high = axes.get_ylim()
    heights = spread_apart([float(amount) for _, amount, _ in ends], (high - low) * 0.065, low, high)
    for (text, amount, colour), height in zip(ends, heights, strict=True):
        axes.annotate(
            f"{text} {dollars(float(amount))}",
            (float(last.month), height),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=RED if amount < 0 else colour,
            fontweight="bold" if text == "median" else "normal",
            annotation_clip=False,
        )


def draw_sensitivity(outlook: Outlook, path: Path) -> Path | None:
    """Draws one bar an input, from the net value at its 5% to that at its 95%, the widest on top. Returns None if no
    input changes anything."""
    swings = [swing for swing in outlook.tornado if swing.width][:MOST_BARS]
    if not swings:
        return None
    title = f"What the net value over {duration(outlook.horizon_months)} hangs on"
    drawn, axes = figure(title, "net value, USD", "", size=(8.6, 0.5 * len(swings) + 1.6))
    middle = float(outlook.expected) if outlook.expected is not None else None
    texts = [
        text for height, swing in enumerate(swings) for text in _draw_swings(axes, height, swing, middle)
    ]
    axes.set_yticks(range(len(swings)), [shorten_name(swing.name, 30) for swing in swings], color=INK)
    axes.set_ylim(len(swings) - 0.4, -0.6)
    if middle is not None:
        axes.axvline(middle, color=INK, linewidth=1.2)
        axes.set_xlabel(f"net value, USD (line: all as expected, {dollars(middle)})", color=SOFT)
    axes.grid(visible=False, axis="y")
    dollar_axis(axes.xaxis)
    axes.xaxis.get_major_locator().set_params(nbins=6)
    _make_room(drawn, axes, texts)
    if axes.get_xlim()[0] < 0 < axes.get_xlim()[1]:
        axes.axvline(0, color=SOFT, linewidth=1.0, linestyle="--", zorder=0.5)
    return save_figure(drawn, path)


def _draw_swings(axes: Axes, height: int, swing: Swing, middle: float | None) -> list[Text]:
    """Draws red below the expected value, blue above it, and the input's value at each end."""
    (low, low_said), (high, high_said) = sorted(
        [(float(swing.at_low), swing.low_value), (float(swing.at_high), swing.high_value)]
    )
    split = low if middle is None else min(max(middle, low), high)
    axes.barh(height, split - low, left=low, color=RED, height=0.66)
    axes.barh(height, high - split, left=split, color=BLUE, height=0.66)
    return [_say(axes, low, height, low_said, "right"), _say(axes, high, height, high_said, "left")]


def _say(axes: Axes, end: float, height: int, text: str, side: str) -> Text:
    return axes.annotate(
        shorten_name(text, 26),
        (end, height),
        xytext=(-5 if side == "right" else 5, 0),
        textcoords="offset points",
        ha=side,
        va="center",
        color=INK,
        fontsize=8.5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.6},
    )


def _make_room(drawn: Figure, axes: Axes, texts: Sequence[Text]) -> None:
    """Widens the axis until every text is within it. A text keeps its width while the scale changes."""
    drawn.canvas.draw()
    width = axes.get_window_extent().width
    ends = [(text.xy[0], text.get_window_extent().width + 14, text.get_ha()) for text in texts]
    low, high = min(end for end, _, _ in ends), max(end for end, _, _ in ends)
    for _ in range(20):
        a_pixel = (high - low) / width
        low = min(end - (wide * a_pixel if side == "right" else 0) for end, wide, side in ends)
        high = max(end + (wide * a_pixel if side == "left" else 0) for end, wide, side in ends)
    axes.set_xlim(low, high)


def draw_forecast(outlook: Outlook, folder: Path) -> tuple[Path, ...]:
    """Draws the plots that have something to show, in a worker process."""
    drawn = (
        draw_cash_flow(outlook, folder / CASH_FLOW_FILE),
        draw_sensitivity(outlook, folder / SENSITIVITY_FILE),
    )
    return tuple(path for path in drawn if path)
