"""Charts of a dataset: rows per label, and tokens per row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from bot.cards.common.words import pluralize
from bot.charts.style import BLUE, INK, RED, SOFT, WIDE, Axes, figure, save_figure, shorten_name
from trainers.dataset import LabelCount

MOST_BARS = 40
RARE = 10
BARS = 40
# A limit further away than this many times the longest row would squeeze the bars, so only the title mentions it.
FAR = 3


def draw_label_counts(label_counts: Sequence[LabelCount], path: Path) -> Path | None:
    """Draws rows per label, the most frequent label on top. With more than 40 labels those in the middle are left out,
    and the title says so. Returns None without labels."""
    if not label_counts:
        return None
    ordered = sorted(label_counts, key=lambda count: -count.rows)
    shown = _from_both_ends(ordered)
    title = _label_title(ordered, len(shown))
    height = 0.28 * len(shown) + 1.3
    drawn, axes = figure(title, "rows", "", size=(WIDE, height))
    _draw_label_bars(axes, shown)
    if len(shown) < len(ordered):
        middle = len(shown) / 2 - 0.5
        axes.axhline(middle, color=SOFT, linewidth=0.8, linestyle="--")
    axes.grid(visible=False, axis="y")
    _number_axis(axes.xaxis)
    return save_figure(drawn, path)


def _from_both_ends(ordered: Sequence[LabelCount]) -> Sequence[LabelCount]:
    """Returns as many labels as the chart has room for: also the rarest ones, because they need work."""
    if len(ordered) <= MOST_BARS:
        return ordered
    half = MOST_BARS // 2
    return [*ordered[:half], *ordered[-half:]]


def _draw_label_bars(axes: Axes, shown: Sequence[LabelCount]) -> None:
    heights = range(len(shown))
    rows = [count.rows for count in shown]
    names = [shorten_name(count.label) for count in shown]
    colours = [_colour(count) for count in shown]
    axes.barh(heights, rows, color=colours, height=0.72)
    axes.set_yticks(heights, names, color=INK)
    # From high to low, so that the first label is on top.
    axes.set_ylim(len(shown) - 0.4, -0.6)
    right = max(rows) * 1.15 or 1
    axes.set_xlim(0, right)
    for height, count, colour in zip(heights, rows, colours, strict=True):
        axes.annotate(
            f"{count:,}",
            (count, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=colour,
        )


def _label_title(ordered: Sequence[LabelCount], shown: int) -> str:
    labels = pluralize(len(ordered), "label")
    text = f"Rows per label, {labels}"
    if shown < len(ordered):
        half = shown // 2
        text += f" (the {half} largest and the {half} smallest)"
    rare = sum(1 for count in ordered if count.rows < RARE)
    if not rare:
        return text
    return f"{text}: {rare:,} with fewer than {RARE}"


def _colour(count: LabelCount) -> str:
    if count.rows < RARE:
        return RED
    return BLUE


def draw_row_lengths(counts: Sequence[int], limit: int | None, path: Path) -> Path | None:
    """Draws a histogram of tokens per row. `limit` is the length of the longest row that the model takes. Returns None
    without rows."""
    if not counts:
        return None
    within = counts
    over: Sequence[int] = ()
    if limit is not None:
        within = [count for count in counts if count <= limit]
        over = [count for count in counts if count > limit]
    title = _length_title(len(counts), limit, len(over))
    drawn, axes = figure(title, "tokens per row", "rows")
    shortest = min(counts)
    longest = max(counts)
    edges = _bar_edges(shortest, longest)
    axes.hist([within, over], bins=edges, stacked=True, color=[BLUE, RED])
    axes.grid(visible=False, axis="x")
    left = min(edges[0], shortest - 4)
    right = max(edges[-1], longest + 4)
    axes.set_xlim(left, right)
    _number_axis(axes.xaxis)
    _number_axis(axes.yaxis)
    if limit is not None and limit <= longest * FAR:
        # Room above the bars for the words beside the line.
        top = axes.get_ylim()[1]
        axes.set_ylim(top=top * 1.12)
        axes.set_xlim(right=max(edges[-1], limit * 1.02))
        _draw_limit(axes, limit)
    return save_figure(drawn, path)


def _draw_limit(axes: Axes, limit: int) -> None:
    axes.axvline(limit, color=INK, linestyle="--", linewidth=1.2)
    axes.annotate(
        f"limit {limit:,} ",
        (limit, 0.99),
        xycoords=("data", "axes fraction"),
        ha="right",
        va="top",
        color=INK,
        fontweight="bold",
    )


def _length_title(rows: int, limit: int | None, over: int) -> str:
    text = f"Tokens per row, {pluralize(rows, 'row')}"
    if limit is None:
        return text
    if not over:
        return f"{text}: all within {limit:,}"
    return f"{text}: {over:,} longer than the model's {limit:,}"


def _bar_edges(least: int, longest: int) -> list[float]:
    """Returns the edges of the bars, between whole tokens. Rows that all have the same length get one bar."""
    lengths = longest - least + 1
    width = math.ceil(lengths / BARS)
    bars = math.ceil(lengths / width)
    left = least - 0.5
    return [left + width * bar for bar in range(bars + 1)]


def _number_axis(axis: Axes) -> None:
    """Formats an axis of rows or tokens, without tick labels between them."""
    axis.get_major_locator().set_params(integer=True)
    axis.set_major_formatter("{x:,.0f}")
