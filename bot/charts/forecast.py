"""The chart of an estimate's forecast: net dollars month by month."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.cards.common.payback import LEAST_MONTHS, break_even, cash_flow_note, payback_title
from bot.charts.style import (
    BLUE,
    INK,
    PAPER,
    RED,
    Axes,
    dollar_axis,
    dollars,
    figure,
    save_figure,
    spread_apart,
)
from bot.rules.forecast import Month, Outlook

CASH_FLOW_FILE = "cumulative-cost.png"


def draw_cash_flow(outlook: Outlook, path: Path) -> Path | None:
    """Draws savings minus spending, month by month. Returns None if the outlook has fewer than two months, because the
    provider shuts the model down before."""
    months = sorted(outlook.months, key=lambda month: month.month)
    if len(months) < 2:
        return None
    title = payback_title(months)
    note = cash_flow_note(outlook)
    drawn, axes = figure(title, "months from now", "saved minus spent, USD", note=note)
    at = [float(month.month) for month in months]
    low = [float(month.p5) for month in months]
    middle = [float(month.p50) for month in months]
    high = [float(month.p95) for month in months]
    axes.fill_between(at, low, high, color=BLUE, alpha=0.15, linewidth=0, label="9 in 10 draws")
    for edge in (low, high):
        axes.plot(at, edge, color=BLUE, linewidth=1, linestyle=":")
    axes.plot(at, middle, color=BLUE, linewidth=2.4, label="median")
    axes.axhline(0, color=INK, linewidth=1.2)
    axes.margins(x=0.02)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="x")
    dollar_axis(axes.yaxis)
    _mark_break_even(axes, months)
    _label_ends(axes, months[-1])
    # In the corner that the lines leave free.
    is_rising = months[-1].p50 >= months[0].p50
    corner = "upper left" if is_rising else "lower left"
    axes.legend(loc=corner, frameon=False)
    return save_figure(drawn, path)


def _mark_break_even(axes: Axes, months: Sequence[Month]) -> None:
    at = break_even(months)
    if at is None:
        return
    axes.plot([at], [0], "o", color=INK, markersize=9, markerfacecolor="white", markeredgewidth=2, zorder=5)
    text = f"{at:.1f} months"
    if at < LEAST_MONTHS:
        text = "at once"
    # Towards the middle, so that the text stays within the chart.
    side = "left"
    distance = 8
    if at > float(months[0].month + months[-1].month) / 2:
        side = "right"
        distance = -8
    axes.annotate(
        text,
        (at, 0),
        xytext=(distance, -15),
        textcoords="offset points",
        ha=side,
        color=INK,
        fontweight="bold",
        bbox=PAPER,
    )


def _label_ends(axes: Axes, last: Month) -> None:
    low, high = axes.get_ylim()
    ends = [float(amount) for amount in (last.p95, last.p50, last.p5)]
    heights = spread_apart(ends, (high - low) * 0.09, low, high)
    for amount, height, weight in zip(ends, heights, ("normal", "bold", "normal"), strict=True):
        colour = RED if amount < 0 else BLUE
        axes.annotate(
            dollars(amount),
            (float(last.month), height),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=colour,
            fontweight=weight,
            annotation_clip=False,
        )


def draw_forecast(outlook: Outlook, folder: Path) -> tuple[Path, ...]:
    """Draws the chart into `folder`, in a worker process. Returns its path, or nothing if there is no chart."""
    cash_flow = draw_cash_flow(outlook, folder / CASH_FLOW_FILE)
    if cash_flow is None:
        return ()
    return (cash_flow,)
