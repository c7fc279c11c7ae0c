"""Expected labels, by row, against the tuned model's answers, by column."""

from __future__ import annotations

from pathlib import Path

from bot.drawings.canvas import BLUE, GRID, INK, RED, Axes, figure, name, saved
from trainers.evaluation import Comparison, Confusion

MOST_LABELS = 40


def draw(matrix: Confusion, compared: Comparison, title: str, path: Path) -> Path | None:
    """Right blue, wrong red. None where there are more labels than can be told apart."""
    if len(matrix.labels) > MOST_LABELS:
        return None
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
