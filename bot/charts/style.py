"""What every chart shares: the figure, its colours, shortened names, labels kept apart, axes, saving. Knows no data."""

from __future__ import annotations

import math
import unicodedata
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# Blue and vermilion of Okabe and Ito, which colour-blind people tell apart; https://jfly.uni-koeln.de/color/
INK, SOFT, GRID, BLUE, RED = "#1f2933", "#6b7785", "#e3e8ec", "#0072b2", "#d55e00"
LONGEST_NAME = 28

# matplotlib carries no types.
Figure = Any
Axes = Any
Text = Any


def figure(title: str, x: str, y: str, size: tuple[float, float] = (7.6, 4.2)) -> tuple[Figure, Axes]:
    """`size` in inches. The title may hold any text; the axes' names are our own."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn, axes = pyplot.subplots(figsize=size, dpi=130, layout="constrained")
    drawn.suptitle(escape_dollars(title), x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    axes.set_xlabel(x, color=SOFT)
    axes.set_ylabel(y, color=SOFT)
    axes.tick_params(colors=INK, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    return drawn, axes


def save_figure(drawn: Figure, path: Path) -> Path:
    from matplotlib import pyplot

    path.parent.mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        # a name in a script that the font lacks shows boxes; its message is all that would be lost
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        warnings.filterwarnings(
            "ignore", message="Matplotlib currently does not support", category=UserWarning
        )
        drawn.savefig(path, bbox_inches="tight", pad_inches=0.15)
    pyplot.close(drawn)
    return path


def shorten_name(text: str, longest: int = LONGEST_NAME) -> str:
    """Cuts the middle out of a long name, as the end often tells names apart."""
    clean = " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())
    half = longest // 2
    return escape_dollars(clean if len(clean) <= longest else f"{clean[:half]}…{clean[-half + 1 :]}")


def escape_dollars(text: str) -> str:
    """Escapes dollars: matplotlib reads a pair of them as mathematics."""
    return text.replace("$", r"\$")


def spread_apart(heights: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Moves heights as little as it takes to keep `least` between neighbours, within low and high.

    If there are too many for that, they share the space evenly.
    """
    if not heights:
        return []
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    least = min(least, (high - low) / max(len(heights) - 1, 1))
    placed: list[float] = []
    for i in order:
        placed.append(max(heights[i], placed[-1] + least if placed else low))
    ceiling = high
    for at in range(len(placed) - 1, -1, -1):
        placed[at] = min(placed[at], ceiling)
        ceiling = placed[at] - least
    moved = dict(zip(order, placed, strict=True))
    return [moved[i] for i in range(len(heights))]


def percent_axis(axis: Axes) -> None:
    """Formats an axis of shares, without marks beyond 0% and 100%."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: percent(share)))


def percent(share: float) -> str:
    return f"{round(100 * share, 2):g}%" if -0.0001 <= share <= 1.0001 else ""


def dollars(amount: float) -> str:
    """Formats an amount for an axis: $0.02, $1.50, $250, $3k, $1.2M; a loss has its sign before the dollar."""
    sign, size = ("−" if amount < 0 else ""), abs(amount)
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= scale:
            return escape_dollars(f"{sign}${size / scale:.3g}{letter}")
    if size >= 10 or size == 0:
        return escape_dollars(f"{sign}${size:.0f}")
    digits = 2 if size >= 0.01 else -math.floor(math.log10(size))
    return escape_dollars(f"{sign}${size:.{digits}f}")


def dollar_axis(axis: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda amount, _: dollars(amount)))
