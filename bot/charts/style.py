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
from bot.cards.common.words import MINUS

INK = "#1f2933"
SOFT = "#6b7785"
GRID = "#e3e8ec"
# Blue and vermilion of Okabe and Ito, which colour-blind people can distinguish; https://jfly.uni-koeln.de/color/
BLUE = "#0072b2"
RED = "#d55e00"
LONGEST_NAME = 28
# Inches.
WIDE = 5.4
HIGH = 3.5
# Points.
TITLE_SIZE = 13
TEXT_SIZE = 11
# Characters that fit on a line of a chart that is `WIDE`.
TITLE_COLUMNS = 52
NOTE_COLUMNS = 62
LINE_HEIGHT = 1.4
POINTS_AN_INCH = 72
# DejaVu Sans comes with matplotlib: Latin, Greek, Cyrillic, Hebrew, Arabic. The other has Chinese, Japanese and Korean.
FAMILIES = ["DejaVu Sans", "Droid Sans Fallback"]
EASTERN = "DroidSansFallback.ttf"
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
    # pyplot would need a display, and keep every figure in memory.
    from matplotlib import figure as figures

    _use_fonts()
    drawn = figures.Figure(figsize=size, dpi=130, layout="constrained")
    axes = drawn.subplots()
    _write_title(drawn, title, note, size)
    axes.set_xlabel(x, color=SOFT, fontsize=TEXT_SIZE)
    axes.set_ylabel(y, color=SOFT, fontsize=TEXT_SIZE)
    axes.tick_params(colors=INK, length=0, labelsize=TEXT_SIZE)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    return drawn, axes


def _write_title(drawn: Figure, title: str, note: str, size: tuple[float, float]) -> None:
    width, height = size
    wider = width / WIDE
    heading = escape_dollars(_wrap(title, round(TITLE_COLUMNS * wider)))
    below = ""
    if note:
        columns = round(NOTE_COLUMNS * wider)
        below = escape_dollars(_wrap(note, columns))
    # The layout knows only the title, so empty lines below it make room for the note, which has another font.
    room = "\n" * len(below.splitlines())
    drawn.suptitle(heading + room, x=0.01, ha="left", color=INK, fontsize=TITLE_SIZE, fontweight="bold")
    heading_points = len(heading.splitlines()) * TITLE_SIZE * LINE_HEIGHT + 4
    heading_share = heading_points / POINTS_AN_INCH / height
    drawn.text(0.01, 1 - heading_share, below, va="top", color=SOFT, fontsize=TEXT_SIZE)


def _use_fonts() -> None:
    import matplotlib
    from matplotlib.font_manager import fontManager

    if FAMILIES[-1] not in fontManager.get_font_names():
        with as_file(files("bot.resources").joinpath(EASTERN)) as path:
            fontManager.addfont(path)
        # The font has a single weight. Registering it as bold too avoids a warning for each bold text.
        regular = fontManager.ttflist[-1]
        fontManager.ttflist.append(replace(regular, weight=700))
    matplotlib.rcParams.update({"font.family": FAMILIES, "font.size": TEXT_SIZE})


def _wrap(text: str, columns: int) -> str:
    lines: list[str] = []
    for paragraph in text.split("\n"):
        lines.append("")
        for word in paragraph.split(" "):
            longer = f"{lines[-1]} {word}"
            # A word that is longer than a line still gets one.
            if lines[-1] and display_width(longer) > columns:
                lines.append(word)
            else:
                lines[-1] = longer.lstrip()
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
    clean = " ".join(_visible(text).split())
    if display_width(clean) <= longest:
        return escape_dollars(clean)
    start = _cut_to_width(clean, longest // 2)
    backwards = _cut_to_width(clean[::-1], longest // 2 - 1)
    return escape_dollars(f"{start}…{backwards[::-1]}")


def _visible(text: str) -> str:
    """The text with a space in place of control and format characters, which the fonts would draw as boxes."""
    letters = []
    for letter in text:
        is_control = unicodedata.category(letter).startswith("C")
        letters.append(" " if is_control else letter)
    return "".join(letters)


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
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    gaps = max(len(heights) - 1, 1)
    least = min(least, (high - low) / gaps)
    # Upwards, each as far above the one below as it has to be; then downwards, in case some ended above the top.
    placed: list[float] = []
    floor = low
    for index in order:
        height = max(heights[index], floor)
        placed.append(height)
        floor = height + least
    ceiling = high
    for rank in reversed(range(len(placed))):
        placed[rank] = min(placed[rank], ceiling)
        ceiling = placed[rank] - least
    moved = dict(zip(order, placed, strict=True))
    return [moved[index] for index in range(len(heights))]


def percent_axis(axis: Axes) -> None:
    """Formats an axis of shares as percentages, without tick labels beyond 0% and 100%."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(nbins=7, steps=[1, 2, 5, 10]))
    axis.set_major_formatter(FuncFormatter(lambda share, _: percent(share)))


def percent(share: float) -> str:
    # Rounding errors put a tick slightly beyond the ends.
    is_share = -0.0001 <= share <= 1.0001
    if not is_share:
        return ""
    percents = round(100 * share, 2)
    return f"{percents:g}%"


def dollars(amount: float) -> str:
    """Formats an amount for an axis: $0.02, $1.50, $250, $3k, $1.2M; a loss has its sign before the dollar."""
    text = f"${_amount_without_sign(abs(amount))}"
    if amount < 0:
        text = f"{MINUS}{text}"
    return escape_dollars(text)


def _amount_without_sign(amount: float) -> str:
    for scale, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        # From here on, three digits round up to the next scale: $1M, not $1e+03k.
        if amount >= 0.9995 * scale:
            return f"{amount / scale:.3g}{letter}"
    if amount >= 10 or amount == 0:
        return f"{amount:.0f}"
    if amount >= 0.01:
        return f"{amount:.2f}"
    # The first digit that isn't 0.
    digits = -math.floor(math.log10(amount))
    return f"{amount:.{digits}f}"


def dollar_axis(axis: Axes) -> None:
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda amount, _: dollars(amount)))
