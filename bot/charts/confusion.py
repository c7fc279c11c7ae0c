"""The chart of a tuned model's answers: a matrix of the expected labels against those that it gave. worst_labels.py
takes its place if there are too many labels for one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.charts.style import BLUE, GRID, INK, RED, Axes, figure, save_figure, shorten_name
from bot.charts.worst_labels import draw_worst_labels
from trainers.evaluation.statistics import Confusion, PairedComparison

MOST_LABELS = 40  # in a matrix
# A cell with more of its row than this is so dark that black on it can't be read.
DARK = 0.55


def draw_confusion(matrix: Confusion, compared: PairedComparison, title: str, path: Path) -> Path:
    """Draws a matrix of expected labels by row and the tuned model's answers by column, right ones blue, wrong ones
    red. If there are too many labels for a matrix, draws the most frequent mistakes and the labels with the lowest
    recall."""
    name = shorten_name(title)
    heading = f"{name}: {compared.tuned_correct:,} of {compared.n:,} held-out rows right"
    if len(matrix.labels) > MOST_LABELS:
        return draw_worst_labels(matrix, heading, path)
    return _draw_matrix(_without_empty_column(matrix), heading, path)


def _without_empty_column(matrix: Confusion) -> Confusion:
    """Leaves out the last column, for answers that are no label, if there are no such answers."""
    has_others = any(row[-1] for row in matrix.counts)
    if has_others:
        return matrix
    counts = tuple(row[:-1] for row in matrix.counts)
    return Confusion(matrix.labels, columns=matrix.labels, counts=counts)


def _draw_matrix(matrix: Confusion, heading: str, path: Path) -> Path:
    height = max(4.5, 0.45 * len(matrix.columns) + 2.5)
    width = height + 0.9
    drawn, axes = figure(
        heading,
        "the tuned model answered",
        "expected (rows)",
        size=(width, height),
    )
    _draw_cells(axes, matrix.counts)
    _write_labels(axes, matrix)
    _draw_grid_between_cells(axes, len(matrix.columns), len(matrix.labels))
    return save_figure(drawn, path)


def _draw_cells(axes: Axes, counts: Sequence[Sequence[int]]) -> None:
    """Each cell with its number of rows, coloured by its share of the rows with that label."""
    colours = []
    for y, row in enumerate(counts):
        row_colours = []
        rows = max(sum(row), 1)
        for x, count in enumerate(row):
            share = count / rows
            colour = _cell_colour(x == y, share)
            row_colours.append(colour)
            if count:
                _write_count(axes, x, y, count, share)
        colours.append(row_colours)
    axes.imshow(colours)


def _write_count(axes: Axes, x: int, y: int, count: int, share: float) -> None:
    ink = INK
    if share > DARK:
        ink = "white"
    axes.text(
        x,
        y,
        f"{count:,}",
        ha="center",
        va="center",
        color=ink,
        fontsize=9,
    )


def _cell_colour(is_right: bool, share: float) -> tuple[float, ...]:
    """Returns the colour of a cell: white to blue on the diagonal, white to vermilion off it, where even a single row
    must be visible."""
    from matplotlib.colors import to_rgb

    if is_right:
        full = BLUE
        depth = share
    elif share:
        full = RED
        depth = min(0.15 + share, 1.0)
    else:
        full = RED
        depth = 0.0
    return tuple(1 - depth * (1 - part) for part in to_rgb(full))


def _write_labels(axes: Axes, matrix: Confusion) -> None:
    """The answers below the columns, the expected labels beside the rows, each with its number of rows."""
    answers = [shorten_name(column) for column in matrix.columns]
    axes.set_xticks(range(len(answers)), answers, rotation=40, ha="right")
    expected = []
    for label, row in zip(matrix.labels, matrix.counts, strict=True):
        name = shorten_name(label)
        rows = sum(row)
        expected.append(f"{name} ({rows:,})")
    axes.set_yticks(range(len(expected)), expected, color=INK)


def _draw_grid_between_cells(axes: Axes, columns: int, rows: int) -> None:
    """The usual lines of the grid would run through the middle of the cells, where their numbers are."""
    axes.grid(visible=False)
    left_edges = [x - 0.5 for x in range(columns + 1)]
    upper_edges = [y - 0.5 for y in range(rows + 1)]
    axes.set_xticks(left_edges, minor=True)
    axes.set_yticks(upper_edges, minor=True)
    axes.grid(which="minor", color=GRID, linewidth=0.8)
    axes.tick_params(which="minor", length=0)
