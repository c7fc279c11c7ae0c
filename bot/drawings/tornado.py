"""Which input moves the net value most: one bar an input, from its value at 5% to its value at 95%."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.decisions.amounts import duration
from bot.decisions.worth.outlook import Outlook, Swing
from bot.drawings.canvas import (
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
    name,
    saved,
)

MOST_BARS = 12


def draw(outlook: Outlook, path: Path) -> Path | None:
    """The widest on top. None where no input moves anything."""
    swings = [swing for swing in outlook.tornado if swing.width][:MOST_BARS]
    if not swings:
        return None
    title = f"What the net value over {duration(outlook.horizon_months)} hangs on"
    drawn, axes = figure(title, "net value, USD", "", size=(8.6, 0.5 * len(swings) + 1.6))
    middle = float(outlook.expected) if outlook.expected is not None else None
    texts = [text for height, swing in enumerate(swings) for text in _draw(axes, height, swing, middle)]
    axes.set_yticks(range(len(swings)), [name(swing.name, 30) for swing in swings], color=INK)
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
    return saved(drawn, path)


def _draw(axes: Axes, height: int, swing: Swing, middle: float | None) -> list[Text]:
    """Vermilion below what is expected, blue above; each end says the input's value there."""
    (low, low_said), (high, high_said) = sorted(
        [(float(swing.at_low), swing.low_value), (float(swing.at_high), swing.high_value)]
    )
    split = low if middle is None else min(max(middle, low), high)
    axes.barh(height, split - low, left=low, color=RED, height=0.66)
    axes.barh(height, high - split, left=split, color=BLUE, height=0.66)
    return [_say(axes, low, height, low_said, "right"), _say(axes, high, height, high_said, "left")]


def _say(axes: Axes, end: float, height: int, said: str, side: str) -> Text:
    return axes.annotate(
        name(said, 26),
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
    """Widen the axis until every end's text is within it. A text keeps its width while the scale changes."""
    drawn.canvas.draw()
    width = axes.get_window_extent().width
    ends = [(text.xy[0], text.get_window_extent().width + 14, text.get_ha()) for text in texts]
    low, high = min(end for end, _, _ in ends), max(end for end, _, _ in ends)
    for _ in range(20):
        a_pixel = (high - low) / width
        low = min(end - (wide * a_pixel if side == "right" else 0) for end, wide, side in ends)
        high = max(end + (wide * a_pixel if side == "left" else 0) for end, wide, side in ends)
    axes.set_xlim(low, high)
