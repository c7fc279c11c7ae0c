"""Rows per label, the rare ones in vermilion."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.drawings.canvas import BLUE, INK, RED, SOFT, figure, name, saved
from trainers.dataset import LabelCount

MOST_BARS = 40
RARE = 10


def draw(label_counts: Sequence[LabelCount], path: Path) -> Path | None:
    """The most frequent on top. Of more than 40 labels the middle is left out, and the title says so."""
    if not label_counts:
        return None
    ordered = sorted(label_counts, key=lambda count: -count.rows)
    shown = _shown(ordered)
    drawn, axes = figure(_title(ordered, len(shown)), "rows", "", size=(7.6, 0.24 * len(shown) + 1.3))
    heights = range(len(shown))
    axes.barh(heights, [one.rows for one in shown], color=[_colour(one) for one in shown], height=0.72)
    axes.set_yticks(heights, [name(one.label) for one in shown], color=INK, fontsize=9)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, max(one.rows for one in shown) * 1.1 or 1)
    for height, one in zip(heights, shown, strict=True):
        axes.annotate(
            f"{one.rows:,}",
            (one.rows, height),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            color=_colour(one),
            fontsize=8.5,
        )
    if len(shown) < len(ordered):
        axes.axhline(len(shown) / 2 - 0.5, color=SOFT, linewidth=0.8, linestyle="--")
    axes.grid(visible=False, axis="y")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.xaxis.get_major_locator().set_params(integer=True)
    return saved(drawn, path)


def _shown(ordered: Sequence[LabelCount]) -> Sequence[LabelCount]:
    """Both ends: the rare labels are the ones to do something about."""
    half = MOST_BARS // 2
    return ordered if len(ordered) <= MOST_BARS else [*ordered[:half], *ordered[-half:]]


def _title(ordered: Sequence[LabelCount], shown: int) -> str:
    rare = sum(1 for one in ordered if one.rows < RARE)
    said = f"Rows per label, {len(ordered):,} label{'' if len(ordered) == 1 else 's'}"
    if shown < len(ordered):
        said += f" (the {shown // 2} largest and the {shown // 2} smallest)"
    return f"{said}: {rare:,} with fewer than {RARE}" if rare else said


def _colour(count: LabelCount) -> str:
    return RED if count.rows < RARE else BLUE
