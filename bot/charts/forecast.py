"""The chart of an estimate's forecast: net dollars month by month."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bot.cards.common.payback import payback_condition, share_of_draws
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
from bot.rules.units import format_months

CASH_FLOW_FILE = "cumulative-cost.png"


def draw_cash_flow(outlook: Outlook, path: Path) -> Path | None:
    """Draws savings minus spending, month by month. Returns None if the outlook has fewer than two months, because the
    provider shuts the model down before."""
    months = sorted(outlook.months, key=lambda month: month.month)
    if len(months) < 2:
        return None
    drawn, axes = figure(
        payback_title(months), "months from now", "saved minus spent, USD", note=cash_flow_note(outlook)
    )
    at = [float(month.month) for month in months]
    low, high = [float(month.p5) for month in months], [float(month.p95) for month in months]
    axes.fill_between(at, low, high, color=BLUE, alpha=0.15, linewidth=0, label="9 in 10 draws")
    for edge in (low, high):
        axes.plot(at, edge, color=BLUE, linewidth=1, linestyle=":")
    axes.plot(at, [float(month.p50) for month in months], color=BLUE, linewidth=2.4, label="median")
    axes.axhline(0, color=INK, linewidth=1.2)
    axes.margins(x=0.02)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="x")
    dollar_axis(axes.yaxis)
    _mark_break_even(axes, months)
    _label_ends(axes, months[-1])
    is_rising = months[-1].p50 >= months[0].p50
    axes.legend(loc="upper left" if is_rising else "lower left", frameon=False)
    return save_figure(drawn, path)


def payback_title(months: Sequence[Month]) -> str:
    """Returns the chart's title, which says when the median draw pays back."""
    at = break_even(months)
    if at is not None:
        return f"Pays back after {at:.1f} months at the median" if at >= 0.05 else "Pays back at once"
    over = format_months(months[-1].month)
    return (
        f"Not paid back within {over} at the median" if months[-1].p50 < 0 else "Saves from the first day on"
    )


def cash_flow_note(outlook: Outlook) -> str:
    begun = outlook.months[0]
    is_free = not (begun.p5 or begun.p95)
    does = "Saves money" if is_free else f"Back within {format_months(outlook.target_months)}"
    timed = payback_condition(is_good=True, is_time_said=outlook.is_time_said)
    return f"{does} in {share_of_draws(outlook.p_payback, outlook.draws)}{timed}"


def break_even(months: Sequence[Month]) -> float | None:
    """Returns the month in which the median draw reaches zero for good, None if it never does, or is never below
    zero."""
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
    axes.plot([at], [0], "o", color=INK, markersize=9, markerfacecolor="white", markeredgewidth=2, zorder=5)
    on_the_right = at > float(months[0].month + months[-1].month) / 2
    axes.annotate(
        f"{at:.1f} months" if at >= 0.05 else "at once",
        (at, 0),
        xytext=(-8 if on_the_right else 8, -15),
        textcoords="offset points",
        ha="right" if on_the_right else "left",
        color=INK,
        fontweight="bold",
        bbox=PAPER,
    )


def _label_ends(axes: Axes, last: Month) -> None:
    low, high = axes.get_ylim()
    ends = [float(amount) for amount in (last.p95, last.p50, last.p5)]
    heights = spread_apart(ends, (high - low) * 0.09, low, high)
    for amount, height, weight in zip(ends, heights, ("normal", "bold", "normal"), strict=True):
        axes.annotate(
            dollars(amount),
            (float(last.month), height),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=RED if amount < 0 else BLUE,
            fontweight=weight,
            annotation_clip=False,
        )


def draw_forecast(outlook: Outlook, folder: Path) -> tuple[Path, ...]:
    """Draws the chart into `folder`, in a worker process. Returns its path, or nothing if there is no chart."""
    cash_flow = draw_cash_flow(outlook, folder / CASH_FLOW_FILE)
    return (cash_flow,) if cash_flow else ()
