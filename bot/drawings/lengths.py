"""How many tokens the rows have, with the model's limit as a line."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.drawings.canvas import BLUE, INK, RED, Axes, figure, saved

BARS = 40
# A limit this many times beyond the longest row would squeeze the rows to nothing: it is said in words.
FAR = 3


def draw(counts: Sequence[int], limit: int | None, path: Path) -> Path | None:
    """`counts` are tokens per row, `limit` the longest row that the model takes. None without rows."""
    if not counts:
        return None
    longest, over = max(counts), sum(1 for count in counts if limit is not None and count > limit)
    drawn, axes = figure(_title(len(counts), limit, over), "tokens per row", "rows")
    edges = _edges(min(counts), longest)
    kept = [count for count in counts if limit is None or count <= limit]
    cut = [count for count in counts if limit is not None and count > limit]
    axes.hist([kept, cut], bins=edges, stacked=True, color=[BLUE, RED])
    axes.grid(visible=False, axis="x")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_xlim(min(edges[0], min(counts) - 4), max(edges[-1], longest + 4))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.get_major_locator().set_params(integer=True)
    if limit is not None and limit <= longest * FAR:
        axes.set_xlim(right=max(edges[-1], limit * 1.02))
        _mark(axes, limit)
    return saved(drawn, path)


def _title(rows: int, limit: int | None, over: int) -> str:
    said = f"Tokens per row, {rows:,} row{'' if rows == 1 else 's'}"
    if limit is None:
        return said
    return f"{said}: {over:,} longer than the model's {limit:,}" if over else f"{said}: all within {limit:,}"


def _edges(least: int, longest: int) -> list[float]:
    """Whole tokens a bar; one row's length gets a bar of its own."""
    width = max(-(-(longest - least + 1) // BARS), 1)
    bars = -(-(longest - least + 1) // width)
    return [least - 0.5 + width * at for at in range(bars + 1)]


def _mark(axes: Axes, limit: int) -> None:
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
