"""Charts of a dataset: rows per label, and tokens per row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from bot.cards.common.words import pluralize
from bot.charts.style import BLUE, INK, RED, SOFT, WIDE, figure, save_figure, shorten_name
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
    shown = ordered
    if len(ordered) > MOST_BARS:
        # From each end, because the rare labels are those that need work.
        half = MOST_BARS // 2
        shown = [*ordered[:half], *ordered[-half:]]
    tall = 0.28 * len(shown) + 1.3
    drawn, axes = figure(_label_title(ordered, len(shown)), "rows", "", size=(WIDE, tall))
    heights = range(len(shown))
    rows = [count.rows for count in shown]
    names = [shorten_name(count.label) for count in shown]
    colours = [_colour(count) for count in shown]
    axes.barh(heights, rows, color=colours, height=0.72)
    axes.set_yticks(heights, names, color=INK)
    # From high to low, so that the first label is on top.
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(rows) * 1.15 or 1)
    for height, count, colour in zip(heights, rows, colours, strict=True):
        axes.annotate(
            f"{count:,}",
            (count, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=colour,
        )
    if len(shown) < len(ordered):
        axes.axhline(len(shown) / 2 - 0.5, color=SOFT, linewidth=0.8, linestyle="--")
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return save_figure(drawn, path)


def _label_title(ordered: Sequence[LabelCount], shown: int) -> str:
    rare = sum(1 for count in ordered if count.rows < RARE)
    text = f"Rows per label, {pluralize(len(ordered), 'label')}"
    if shown < len(ordered):
        text += f" (the {shown // 2} largest and the {shown // 2} smallest)"
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
    shortest = min(counts)
    longest = max(counts)
    within = counts
    over: Sequence[int] = ()
    if limit is not None:
        within = [count for count in counts if count <= limit]
        over = [count for count in counts if count > limit]
    title = _length_title(len(counts), limit, len(over))
    drawn, axes = figure(title, "tokens per row", "rows")
    edges = _bar_edges(shortest, longest)
    axes.hist([within, over], bins=edges, stacked=True, color=[BLUE, RED])
    axes.grid(visible=False, axis="x")
    axes.set_xlim(min(edges[0], shortest - 4), max(edges[-1], longest + 4))
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_major_locator().set_params(integer=True)
        axis.set_major_formatter("{x:,.0f}")
    if limit is not None and limit <= longest * FAR:
        # Room above the bars for the words beside the line.
        axes.set_ylim(top=axes.get_ylim()[1] * 1.12)
        axes.set_xlim(right=max(edges[-1], limit * 1.02))
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
    return save_figure(drawn, path)


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
