"""Expected labels, by row, against the tuned model's answers, by column; of many labels the worst."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.drawings.canvas import BLUE, GRID, INK, RED, SOFT, Axes, figure, name, percent_axis, saved
from trainers.evaluation import Comparison, Confusion, label_scores, mistakes

MOST_LABELS = 40
LISTED = 20


def draw(matrix: Confusion, compared: Comparison, title: str, path: Path) -> Path:
    """Right blue, wrong red. With more labels than can be told apart in a square, what is confused most and the labels
    that are found least."""
    if len(matrix.labels) > MOST_LABELS:
        return _draw_worst(matrix, compared, title, path)
    columns = matrix.columns if any(row[-1] for row in matrix.counts) else matrix.labels
    counts = [row[: len(columns)] for row in matrix.counts]
    size = max(4.5, 0.45 * len(columns) + 2.5)
    said = f"{title}: {compared.tuned_correct:,} of {compared.n:,} held-out rows right"
    drawn, axes = figure(said, "the tuned model answered", "expected (rows)", size=(size + 1.2, size))
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    axes.imshow([[_shade(x == y, share) for x, share in enumerate(row)] for y, row in enumerate(shares)])
    axes.set_xticks(range(len(columns)), [name(one) for one in columns], rotation=40, ha="right")
    totals = [f"{name(one)} ({sum(row):,})" for one, row in zip(matrix.labels, counts, strict=True)]
    axes.set_yticks(range(len(matrix.labels)), totals, color=INK)
    _rule_cells(axes, len(columns), len(matrix.labels))
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            if count:
                ink = "white" if shares[y][x] > 0.55 else INK
                axes.text(x, y, f"{count:,}", ha="center", va="center", color=ink, fontsize=9)
    return saved(drawn, path)


def _draw_worst(matrix: Confusion, compared: Comparison, title: str, path: Path) -> Path:
    pairs = mistakes(matrix)[:LISTED]
    found = sorted(label_scores(matrix), key=lambda one: (one.recall or 0.0, -one.expected, one.label))[
        :LISTED
    ]
    said = f"{title}: {compared.tuned_correct:,} of {compared.n:,} held-out rows right"
    height = 1.6 + 0.28 * max(len(pairs), len(found), 3)
    drawn, left = figure(said, "held-out rows", "expected → answered, most frequent first", size=(13, height))
    halves = drawn.add_gridspec(1, 2)
    left.set_subplotspec(halves[0])
    _bars(
        left,
        [f"{name(one.expected)} → {name(one.answered)}" for one in pairs],
        [one.rows for one in pairs],
        RED,
    )
    left.xaxis.get_major_locator().set_params(integer=True)
    right = drawn.add_subplot(halves[1])
    right.set_xlabel("of its rows right", color=SOFT)
    right.set_ylabel("labels that are found least", color=SOFT)
    names = [f"{name(one.label)} ({one.correct:,} of {one.expected:,})" for one in found]
    _bars(right, names, [one.recall or 0.0 for one in found], BLUE)
    percent_axis(right.xaxis)
    right.set_xlim(0, 1)
    return saved(drawn, path)


def _bars(axes: Axes, names: Sequence[str], values: Sequence[float], colour: str) -> None:
    axes.barh(range(len(values)), values, color=colour)
    axes.set_yticks(range(len(values)), names, color=INK, fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_visible(False)


def _shade(is_right: bool, share: float) -> tuple[float, ...]:
    """White to blue on the diagonal, white to vermilion off it; a wrong row is never too pale to be seen."""
    from matplotlib.colors import to_rgb

    depth = share if is_right or not share else min(0.15 + share, 1.0)
    return tuple(1 - depth * (1 - part) for part in to_rgb(BLUE if is_right else RED))


def _rule_cells(axes: Axes, width: int, height: int) -> None:
    axes.grid(visible=False)
    axes.set_xticks([x - 0.5 for x in range(width + 1)], minor=True)
    axes.set_yticks([y - 0.5 for y in range(height + 1)], minor=True)
    axes.grid(which="minor", color=GRID, linewidth=0.8)
    axes.tick_params(which="minor", length=0)
