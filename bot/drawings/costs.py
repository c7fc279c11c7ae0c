"""Net dollars since the start, month by month, with the band between the bad and the good draws."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

from bot.decisions.amounts import duration
from bot.decisions.verdict.conditions import condition
from bot.decisions.verdict.paying import share_of_draws
from bot.decisions.worth.outlook import Month, Outlook
from bot.drawings.canvas import BLUE, INK, RED, SOFT, Axes, apart, dollar_axis, dollars, figure, saved


def draw(outlook: Outlook, path: Path) -> Path | None:
    """None where the outlook has fewer than two months: the provider ends the model before."""
    months = sorted(outlook.months, key=lambda one: one.month)
    if len(months) < 2:
        return None
    drawn, axes = figure(title(outlook), "months from now", "saved minus spent, USD")
    at = [float(one.month) for one in months]
    middle = [float(one.p50) for one in months]
    low, high = [float(one.p5) for one in months], [float(one.p95) for one in months]
    axes.fill_between(at, low, high, color=BLUE, alpha=0.14, linewidth=0)
    axes.plot(at, middle, color=BLUE, linewidth=2.2)
    axes.axhline(0, color=INK, linewidth=1.2)
    axes.margins(x=0.02)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(visible=False, axis="x")
    dollar_axis(axes.yaxis)
    _mark_break_even(axes, months)
    _label_ends(axes, months)
    return saved(drawn, path)


def title(outlook: Outlook) -> str:
    begun = outlook.months[0]
    is_free = not (begun.p5 or begun.p95)
    does = "Saves money" if is_free else f"Pays back within {duration(outlook.target_months)}"
    timed = condition(is_good=True, is_time_said=outlook.is_time_said)
    return f"{does} in {share_of_draws(outlook.p_payback, outlook.draws)}{timed}"


def break_even(months: Sequence[Month]) -> float | None:
    """Where the median draw first gets to zero for good; None where it is never below, or never above."""
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
    heights = apart([float(amount) for _, amount, _ in ends], (high - low) * 0.065, low, high)
    for (said, amount, colour), height in zip(ends, heights, strict=True):
        axes.annotate(
            f"{said} {dollars(float(amount))}",
            (float(last.month), height),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=RED if amount < 0 else colour,
            fontweight="bold" if said == "median" else "normal",
            annotation_clip=False,
        )
