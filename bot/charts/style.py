"""What all charts share: the figure, its colours and fonts, shortened names, spacing of labels, axes, saving. Knows
nothing of the data.

Slack shows a picture in a thread about 360 pixels wide, half the width of our charts, so the fonts are large enough for
that. Nothing is shown by colour alone: markers and line styles differ as well.
"""

from __future__ import annotations

import math
import os
import unicodedata
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from bot.cards.common.blocks import display_width

# Blue and vermilion of Okabe and Ito, which colour-blind people can distinguish; https://jfly.uni-koeln.de/color/
INK, SOFT, GRID, BLUE, RED = "#1f2933", "#6b7785", "#e3e8ec", "#0072b2", "#d55e00"
LONGEST_NAME = 28
WIDE, HIGH = 5.4, 3.5
TITLE_SIZE, TEXT_SIZE = 13, 11
TITLE_COLUMNS, NOTE_COLUMNS = 52, 62  # characters that fit on a line
# DejaVu Sans comes with matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic. The other has Chinese, Japanese and Korean.
FAMILIES, EASTERN = ["DejaVu Sans", "Droid Sans Fallback"], "DroidSansFallback.ttf"

# The background of text that is drawn over lines and bars.
PAPER = {"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 0.8}

# matplotlib has no type annotations.
Figure = Any
Axes = Any
Text = Any


def figure(
    title: str, x: str, y: str, *, note: str = "", size: tuple[float, float] = (WIDE, HIGH)
) -> tuple[Figure, Axes]:
    """Returns an empty chart. `size` is in inches; `note` is a line below the title. Both may be any text, while the
    axes' names `x` and `y` must be our own, since their dollars are not escaped."""
    from matplotlib import figure as figures  # pyplot would need a display, and keep every figure in memory

    _use_fonts()
    drawn = figures.Figure(figsize=size, dpi=130, layout="constrained")
    axes = drawn.subplots()
    wider = size[0] / WIDE
    heading = escape_dollars(_wrap(title, round(TITLE_COLUMNS * wider)))
    below = escape_dollars(_wrap(note, round(NOTE_COLUMNS * wider))) if note else ""
    # the layout knows only the title, so empty lines below it make room for the note, which has another font
    room = "\n" * len(below.splitlines())
    drawn.suptitle(heading + room, x=0.01, ha="left", color=INK, fontsize=TITLE_SIZE, fontweight="bold")
    drawn.text(
        0.01,
        1 - (len(heading.splitlines()) * TITLE_SIZE * 1.4 + 4) / 72 / size[1],
        below,
        va="top",
        color=SOFT,
        fontsize=TEXT_SIZE,
    )
    axes.set_xlabel(x, color=SOFT, fontsize=TEXT_SIZE)
    axes.set_ylabel(y, color=SOFT, fontsize=TEXT_SIZE)
    axes.tick_params(colors=INK, length=0, labelsize=TEXT_SIZE)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    return drawn, axes


def _use_fonts() -> None:
    import matplotlib
    from matplotlib.font_manager import fontManager

    if FAMILIES[-1] not in fontManager.get_font_names():
        with as_file(files("bot.resources").joinpath(EASTERN)) as path:
            fontManager.addfont(path)
        # The font has a single weight. Registering it as bold too avoids a warning for each bold text.
        fontManager.ttflist.append(replace(fontManager.ttflist[-1], weight=700))
    matplotlib.rcParams.update({"font.family": FAMILIES, "font.size": TEXT_SIZE})


def _wrap(text: str, columns: int) -> str:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.append("")
        for word in paragraph.split(" "):
            if lines[-1] and display_width(f"{lines[-1]} {word}") > columns:
                lines.append("")
            lines[-1] = f"{lines[-1]} {word}".lstrip()
    return "\n".join(lines)


def save_figure(drawn: Figure, path: Path) -> Path:
    """Saves the figure atomically: a worker that outlived its bot may draw the same plot while it is being sent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{os.getpid()}-{path.name}")
    with ignore_missing_glyphs():
        drawn.savefig(aside, bbox_inches="tight", pad_inches=0.15)
    return aside.replace(path)


@contextmanager
def ignore_missing_glyphs() -> Iterator[None]:
    """Silences warnings about a name in a script that both fonts lack: its letters are drawn as boxes."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font", category=UserWarning)
        yield


def shorten_name(text: str, longest: int = LONGEST_NAME) -> str:
    """Shortens a name to `longest` columns by cutting out its middle, because names often differ at the end."""
    clean = " ".join("".join(" " if unicodedata.category(c)[0] == "C" else c for c in text).split())
    if display_width(clean) <= longest:
        return escape_dollars(clean)
    start, end = _cut_to_width(clean, longest // 2), _cut_to_width(clean[::-1], longest // 2 - 1)[::-1]
    return escape_dollars(f"{start}…{end}")


def _cut_to_width(text: str, columns: int) -> str:
    while display_width(text) > columns:
        text = text[:-1]
    return text


def escape_dollars(text: str) -> str:
    """Escapes dollar signs that are not escaped yet: matplotlib reads a pair of them as a formula."""
    return text.replace(r"\$", "$").replace("$", r"\$")


def spread_apart(heights: Sequence[float], least: float, low: float, high: float) -> list[float]:
    """Moves heights apart so that neighbours differ by at least `least`, within `low` and `high`. If there are too many
    for that, they share the space evenly."""
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
    """Formats an axis of shares as percentages, without tick labels beyond 0% and 100%."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: percent(share)))


def percent(share: float) -> str:
    return f"{round(100 * share, 2):g}%" if -0.0001 <= share <= 1.0001 else ""


def dollars(amount: float) -> str:
    """Formats an amount for an axis: $0.02, $1.50, $250, $3k, $1.2M; a loss has its sign before the dollar."""
    sign, size = ("−" if amount < 0 else ""), abs(amount)
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if size >= 0.9995 * scale:  # what three digits round up to the next scale: $1M, not $1e+03k
            return escape_dollars(f"{sign}${size / scale:.3g}{letter}")
    if size >= 10 or size == 0:
        return escape_dollars(f"{sign}${size:.0f}")
    digits = 2 if size >= 0.01 else -math.floor(math.log10(size))
    return escape_dollars(f"{sign}${size:.{digits}f}")


def dollar_axis(axis: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda amount, _: dollars(amount)))
