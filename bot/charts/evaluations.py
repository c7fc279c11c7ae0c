"""The chart of an evaluation: quality against price for each candidate."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.cards.common.candidates import is_mixed, short_name
from bot.charts.label_layout import Box, Label, place_labels
from bot.charts.style import (
    BLUE,
    INK,
    RED,
    SOFT,
    TEXT_SIZE,
    WIDE,
    Axes,
    Figure,
    dollars,
    figure,
    ignore_missing_glyphs,
    percent_axis,
    save_figure,
    shorten_name,
)
from bot.rules.alternatives import find_dominated
from trainers.evaluation.results import Comparison, MeasuredCandidate, Scoring, Standing

MOST_POINTS = 16
# Inches: the chart, and a line of the names below it.
TALL = 3.9
A_LINE = 0.26
TWO_COLUMNS_FROM = 9  # names
NUMBER_SIZE = 12
COLOURS: Mapping[Standing, str] = {"meets": BLUE, "misses": RED, "undecided": SOFT}
MARKERS: Mapping[Standing, str] = {"meets": "o", "misses": "v", "undecided": "D"}
MARKS: Mapping[Standing, str] = {
    "meets": "● meets the bar",
    "misses": "▼ misses it",
    "undecided": "◇ can't tell",
}
MEASURED: Mapping[Scoring, str] = {
    "label": "right answers",
    "json": "fields right",
    "calls": "calls right",
    "f1": "token F1",
    "judge": "judged right",
}
MIXED = "calls right, token F1"
# Positions on the axis, in its own units: free candidates get a column of their own, since a log scale has no zero.
FREE_AT = 0.0
PAID_FROM = 1.7
PAID_TO = 5.5
UNKNOWN_AT = 6.8
# Candidates with the same price are drawn this far apart; free ones may use their column's full width.
BESIDE = 0.1
BESIDE_FREE = 0.4
FREE_COLUMN = 1.3


@dataclass(frozen=True)
class _Point:
    candidate: MeasuredCandidate
    x: float
    is_cheapest: bool

    @property
    def colour(self) -> str:
        return COLOURS[self.candidate.standing]


def draw_comparison(comparison: Comparison, path: Path) -> Path | None:
    """Draws the score of each candidate against its price, at most the best 16. Returns None if nothing was
    measured."""
    candidates = _choose_candidates(comparison)
    if not candidates:
        return None
    scale = _Scale.over(candidates)
    points = _place_points(comparison, candidates, scale)
    measured = MEASURED[comparison.scoring]
    if is_mixed(comparison):
        measured = MIXED
    title = f"{shorten_name(comparison.dataset)}: quality against price"
    drawn, axes = figure(
        title,
        "USD per 1,000 requests",
        measured,
        note=_note(comparison),
        size=(WIDE, TALL),
    )
    for point in points:
        _draw_point(axes, point)
    _set_up_price_axis(axes, candidates, scale)
    _set_up_score_axis(axes, comparison, candidates)
    _label_points(drawn, axes, points)
    return save_figure(drawn, path)


@dataclass(frozen=True)
class _Scale:
    """Converts dollars to the axis's units, logarithmic from `low` to `high`."""

    low: float
    high: float

    @staticmethod
    def over(candidates: Sequence[MeasuredCandidate]) -> _Scale:
        prices = [candidate.usd_per_1000 for candidate in candidates if candidate.usd_per_1000]
        exponents = list(map(math.log10, prices))
        if not exponents:
            return _Scale(0.0, 0.0)
        low = min(exponents)
        high = max(exponents)
        middle = (low + high) / 2
        # At least a factor of ten, however close the prices are: cents apart must not look like worlds apart.
        half = max((high - low) / 2, 0.5)
        return _Scale(middle - half, middle + half)

    def at(self, candidate: MeasuredCandidate) -> float:
        price = candidate.usd_per_1000
        if price is None:
            return UNKNOWN_AT
        if not price:
            return FREE_AT
        return self.of(math.log10(price))

    def of(self, exponent: float) -> float:
        width = self.high - self.low
        share = (exponent - self.low) / width
        return PAID_FROM + (PAID_TO - PAID_FROM) * share

    def ticks(self) -> list[tuple[float, str]]:
        """Returns the marks at 1, 2 and 5 times a power of ten that fit, five at most."""
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        for digits in ((1, 2, 5), (1, 3), (1,)):
            exponents = [power + math.log10(digit) for power in powers for digit in digits]
            fitting = [exponent for exponent in exponents if self._includes(exponent)]
            if 2 <= len(fitting) <= 5:
                return self._named(fitting)

        # Prices over so many powers of ten that not even one mark a power fits.
        step = max(math.ceil(len(powers) / 5), 1)
        some = powers[::step]
        return self._named([power for power in some if self.low <= power <= self.high])

    def _includes(self, exponent: float) -> bool:
        return self.low - 0.02 <= exponent <= self.high + 0.02

    def _named(self, exponents: Sequence[float]) -> list[tuple[float, str]]:
        return [(self.of(exponent), dollars(10.0**exponent)) for exponent in exponents]


def _choose_candidates(comparison: Comparison) -> Sequence[MeasuredCandidate]:
    """Returns the candidates to draw: those that no other candidate beats in every respect, or of too many the cheapest
    that meets the bar and the best of the others."""
    left_out = find_dominated(comparison)

    def order(candidate: MeasuredCandidate) -> tuple[bool, float]:
        is_cheapest = candidate.identity == comparison.cheapest
        return not is_cheapest, -candidate.score

    worthy = [candidate for candidate in comparison.candidates if candidate not in left_out]
    chosen = sorted(worthy, key=order)[:MOST_POINTS]
    return [candidate for candidate in comparison.candidates if candidate in chosen]


def _place_points(
    comparison: Comparison,
    candidates: Sequence[MeasuredCandidate],
    scale: _Scale,
) -> list[_Point]:
    """Places candidates with the same price side by side, so that their intervals don't hide each other."""
    columns: dict[float, list[MeasuredCandidate]] = defaultdict(list)
    for candidate in candidates:
        column = round(scale.at(candidate), 1)
        columns[column].append(candidate)

    points: list[_Point] = []
    for column in sorted(columns):
        here = columns[column]
        gaps = len(here) - 1
        step = BESIDE
        if column in (FREE_AT, UNKNOWN_AT):
            step = min(BESIDE_FREE, FREE_COLUMN / max(gaps, 1))
        middle = gaps / 2
        for number, candidate in enumerate(here):
            x = scale.at(candidate) + (number - middle) * step
            is_cheapest = candidate.identity == comparison.cheapest
            points.append(_Point(candidate, x, is_cheapest))
    return points


def _note(comparison: Comparison) -> str:
    worse = len(find_dominated(comparison))
    count = len(comparison.candidates) - worse
    text = f"{comparison.n:,} held-out rows"
    if count > MOST_POINTS:
        text += f", the best {MOST_POINTS} of {count}"
    if worse:
        text += f"; {worse} worse at no lower price not shown"
    return f"{text}; lines: 95% intervals"


def _draw_point(axes: Axes, point: _Point) -> None:
    candidate = point.candidate
    size = 7
    if point.is_cheapest:
        size = 11
    filling = point.colour
    if candidate.standing == "undecided":
        filling = "white"
    axes.plot(
        [point.x, point.x],
        [candidate.low, candidate.high],
        color=point.colour,
        linewidth=1.6,
        alpha=0.55,
    )
    axes.plot(
        [point.x],
        [candidate.score],
        marker=MARKERS[candidate.standing],
        markersize=size,
        color=point.colour,
        markerfacecolor=filling,
        markeredgewidth=2,
    )


def _set_up_price_axis(
    axes: Axes,
    candidates: Sequence[MeasuredCandidate],
    scale: _Scale,
) -> None:
    """From left to right: the free candidates, those with a price, those whose price is unknown; only the columns in
    use."""
    prices = [candidate.usd_per_1000 for candidate in candidates]
    is_free = any(price is not None and not price for price in prices)
    is_paid = any(prices)
    is_unknown = any(price is None for price in prices)
    ticks: list[tuple[float, str]] = []
    edges: list[tuple[float, float]] = []
    if is_free:
        ticks.append((FREE_AT, "free"))
        edges.append((FREE_AT - 0.9, FREE_AT + 0.9))
    if is_paid:
        ticks += scale.ticks()
        edges.append((PAID_FROM - 0.6, PAID_TO + 0.5))
    if is_unknown:
        ticks.append((UNKNOWN_AT, "price\nunknown"))
        edges.append((UNKNOWN_AT - 0.9, UNKNOWN_AT + 0.9))
    axes.set_xticks([at for at, _ in ticks], [text for _, text in ticks])
    left, _ = edges[0]
    _, right = edges[-1]
    axes.set_xlim(left, right)
    if is_free and is_paid:
        between = (FREE_AT + PAID_FROM) / 2
        axes.axvline(between, color=SOFT, linewidth=0.8, alpha=0.5)


def _set_up_score_axis(
    axes: Axes,
    comparison: Comparison,
    candidates: Sequence[MeasuredCandidate],
) -> None:
    low = min(comparison.bar, *(candidate.low for candidate in candidates))
    high = max(comparison.bar, *(candidate.high for candidate in candidates))
    room = max((high - low) * 0.12, 0.03)
    bottom = max(low - room, -0.04)
    top = min(high + room, 1.04)
    axes.set_ylim(bottom, top)
    axes.axhline(comparison.bar, color=INK, linestyle="--", linewidth=1.2)
    axes.annotate(
        f" bar {100 * comparison.bar:g}%",
        (1.0, comparison.bar),
        xycoords=("axes fraction", "data"),
        va="center",
        color=INK,
        fontweight="bold",
        annotation_clip=False,
    )
    percent_axis(axes.yaxis)


def _label_points(drawn: Figure, axes: Axes, points: Sequence[_Point]) -> None:
    """Numbers the points, and lists their names below the plot, where they stay readable however close the points are.

    The layout is fixed first, so that positions in pixels don't change any more.
    """
    ranked = sorted(points, key=lambda point: (not point.is_cheapest, -point.candidate.score))
    with ignore_missing_glyphs():
        drawn.draw_without_rendering()
    drawn.set_layout_engine("none")
    _draw_legend(drawn, ranked)
    texts = []
    labels = []
    for number, point in enumerate(ranked, 1):
        at = (point.x, point.candidate.score)
        text = axes.text(
            *at,
            str(number),
            fontsize=NUMBER_SIZE,
            va="center",
            ha="left",
            **_lettering(point),
        )
        x, y = axes.transData.transform(at)
        size = text.get_window_extent()
        texts.append(text)
        labels.append(Label(x, y, size.width, size.height * 1.1))
    frame = axes.get_window_extent()
    room = Box(frame.x0, frame.y0, frame.x1, frame.y1)
    obstacles = _obstacles(axes, points, room)
    placed = place_labels(labels, obstacles, room)
    back = axes.transData.inverted()
    for text, label, box in zip(texts, labels, placed, strict=True):
        _, middle_y = box.middle
        text.set_position(back.transform((box.left, middle_y)))
        _draw_leader(axes, label, box)


def _name(point: _Point, longest: int) -> str:
    candidate = point.candidate.identity
    if not candidate.model:
        return short_name(candidate)
    return f"{short_name(candidate)}, {shorten_name(candidate.model, longest)}"


def _lettering(point: _Point) -> dict[str, str]:
    """The colour and weight of a point's number and name. The grey of undecided ones is too pale for letters."""
    colour = point.colour
    if point.candidate.standing == "undecided":
        colour = INK
    weight = "normal"
    if point.is_cheapest:
        weight = "bold"
    return {"color": colour, "fontweight": weight}


def _draw_legend(drawn: Figure, ranked: Sequence[_Point]) -> None:
    """Lists the names and the meaning of the markers below the plot, in one column or, with smaller letters and
    without scores, in two."""
    has_one_column = len(ranked) < TWO_COLUMNS_FROM
    columns = 2
    size = TEXT_SIZE - 2.5
    if has_one_column:
        columns = 1
        size = TEXT_SIZE
    lines = math.ceil(len(ranked) / columns)
    for index, point in enumerate(ranked):
        column, line = divmod(index, lines)
        name = _name(point, 18)
        if has_one_column:
            name = f"{_name(point, 30)}, {100 * point.candidate.score:.1f}%"
        x = 0.01 + column * 0.52
        y = -(line + 0.7) * A_LINE / TALL
        drawn.text(x, y, f"{index + 1}  {name}", va="center", fontsize=size, **_lettering(point))
    shown = {point.candidate.standing for point in ranked}
    marks = [mark for standing, mark in MARKS.items() if standing in shown]
    if any(point.is_cheapest for point in ranked):
        marks.append("bold: the cheapest that does")
    drawn.text(
        0.01,
        -(lines + 0.7) * A_LINE / TALL,
        "   ".join(marks),
        va="center",
        color=INK,
        fontsize=TEXT_SIZE - 1,
    )


def _obstacles(axes: Axes, points: Sequence[_Point], room: Box) -> list[Box]:
    """Returns what labels must not cover: the bar's line, the points and their intervals."""
    (dashed,) = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    _, y = axes.transData.transform((0, dashed.get_ydata()[0]))
    obstacles = [Box(room.left, y - 2, room.right, y + 2)]
    for point in points:
        x, y = axes.transData.transform((point.x, point.candidate.score))
        _, low = axes.transData.transform((point.x, point.candidate.low))
        _, high = axes.transData.transform((point.x, point.candidate.high))
        half = 10
        if point.is_cheapest:
            half = 14
        obstacles.append(Box(x - half, y - half, x + half, y + half))
        obstacles.append(Box(x - 3, low, x + 3, high))
    return obstacles


def _draw_leader(axes: Axes, label: Label, box: Box) -> None:
    """Draws a thin line from a point to its label if they are far apart."""
    nearest_x = min(max(label.x, box.left), box.right)
    _, middle_y = box.middle
    distance = math.hypot(nearest_x - label.x, middle_y - label.y)
    if distance < 2.2 * label.height:
        return
    back = axes.transData.inverted()
    ends = back.transform([(label.x, label.y), (nearest_x, middle_y)])
    xs, ys = zip(*ends, strict=True)
    axes.plot(xs, ys, color=SOFT, linewidth=0.7, alpha=0.7, zorder=1)
