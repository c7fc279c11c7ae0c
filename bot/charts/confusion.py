"""The chart of a tuned model's answers: expected labels against those that it gave, as a matrix, or, if there are too
many labels for one, as lists of the most frequent mistakes and of the labels that it knows least."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.charts.style import BLUE, GRID, INK, RED, SOFT, Axes, figure, percent_axis, save_figure, shorten_name
from trainers.evaluation.statistics import Confusion, LabelScore, PairedComparison, label_scores, mistakes

MOST_LABELS = 40  # in a matrix
LISTED = 20


def draw_confusion(matrix: Confusion, compared: PairedComparison, title: str, path: Path) -> Path:
    """Draws a matrix of expected labels by row and the tuned model's answers by column, right ones blue, wrong ones
    red. If there are too many labels for a matrix, draws the most frequent mistakes and the labels with the lowest
    recall."""
    if len(matrix.labels) > MOST_LABELS:
        return _draw_worst_labels(matrix, compared, title, path)
    columns = matrix.columns
    has_others = any(row[-1] for row in matrix.counts)
    if not has_others:
        # The last column is for answers that are no label.
        columns = matrix.labels
    counts = [row[: len(columns)] for row in matrix.counts]
    size = max(4.5, 0.45 * len(columns) + 2.5)
    heading = _heading(title, compared)
    drawn, axes = figure(heading, "the tuned model answered", "expected (rows)", size=(size + 0.9, size))
    _draw_cells(axes, counts)

    names = [shorten_name(column) for column in columns]
    axes.set_xticks(range(len(columns)), names, rotation=40, ha="right")
    totals = []
    for label, row in zip(matrix.labels, counts, strict=True):
        name = shorten_name(label)
        totals.append(f"{name} ({sum(row):,})")
    axes.set_yticks(range(len(matrix.labels)), totals, color=INK)
    _draw_grid_between_cells(axes, len(columns), len(matrix.labels))
    return save_figure(drawn, path)


def _draw_grid_between_cells(axes: Axes, columns: int, rows: int) -> None:
    """The usual lines of the grid would run through the middle of the cells, where their numbers are."""
    axes.grid(visible=False)
    left_edges = [x - 0.5 for x in range(columns + 1)]
    upper_edges = [y - 0.5 for y in range(rows + 1)]
    axes.set_xticks(left_edges, minor=True)
    axes.set_yticks(upper_edges, minor=True)
    axes.grid(which="minor", color=GRID, linewidth=0.8)
    axes.tick_params(which="minor", length=0)


def _heading(title: str, compared: PairedComparison) -> str:
    return f"{shorten_name(title)}: {compared.tuned_correct:,} of {compared.n:,} held-out rows right"


def _draw_cells(axes: Axes, counts: Sequence[Sequence[int]]) -> None:
    """Each cell with its number of rows, coloured by its share of the rows with that label."""
    colours = []
    for y, row in enumerate(counts):
        total = max(sum(row), 1)
        shares = [count / total for count in row]
        colours.append([_cell_colour(x == y, share) for x, share in enumerate(shares)])
        for x, count in enumerate(row):
            if not count:
                continue
            ink = INK
            if shares[x] > 0.55:
                # Black on a cell this dark can't be read.
                ink = "white"
            axes.text(x, y, f"{count:,}", ha="center", va="center", color=ink, fontsize=9)
    axes.imshow(colours)


def _draw_worst_labels(matrix: Confusion, compared: PairedComparison, title: str, path: Path) -> Path:
    pairs = mistakes(matrix)[:LISTED]
    worst_first = sorted(label_scores(matrix), key=_rank_of_label)
    scores = worst_first[:LISTED]
    height = 1.6 + 0.28 * max(len(pairs), len(scores), 3)
    drawn, left = figure(
        _heading(title, compared),
        "held-out rows",
        "expected → answered, most frequent first",
        size=(13, height),
    )
    halves = drawn.add_gridspec(1, 2)
    left.set_subplotspec(halves[0])
    mistaken = []
    for pair in pairs:
        expected = shorten_name(pair.expected)
        answered = shorten_name(pair.answered)
        mistaken.append(f"{expected} → {answered}")
    _draw_bars(left, mistaken, [pair.rows for pair in pairs], RED)
    left.xaxis.get_major_locator().set_params(integer=True)

    right = drawn.add_subplot(halves[1])
    right.set_xlabel("of its rows right", color=SOFT)
    right.set_ylabel("labels least often right", color=SOFT)
    names = []
    recalls = []
    for score in scores:
        name = shorten_name(score.label)
        names.append(f"{name} ({score.correct:,} of {score.expected:,})")
        recalls.append(score.recall or 0.0)
    _draw_bars(right, names, recalls, BLUE)
    percent_axis(right.xaxis)
    right.set_xlim(0, 1)
    return save_figure(drawn, path)


def _rank_of_label(score: LabelScore) -> tuple[float, int, str]:
    """The lowest recall first; of the same recall, the label with the most rows."""
    recall = score.recall or 0.0
    return recall, -score.expected, score.label


def _draw_bars(axes: Axes, names: Sequence[str], values: Sequence[float], colour: str) -> None:
    axes.barh(range(len(values)), values, color=colour)
    axes.set_yticks(range(len(values)), names, color=INK, fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_visible(False)


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
