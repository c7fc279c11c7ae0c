"""The chart of a tuned model's answers if there are too many labels for a matrix: the most frequent mistakes beside the
labels that it knows least."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.charts.style import BLUE, INK, RED, SOFT, Axes, figure, percent_axis, save_figure, shorten_name
from trainers.evaluation.statistics import Confusion, LabelScore, Mistake, label_scores, mistakes

LISTED = 20
FEWEST_BARS = 3  # the chart is at least high enough for these


def draw_worst_labels(matrix: Confusion, heading: str, path: Path) -> Path:
    """Draws the most frequent mistakes on the left, and the labels with the lowest recall on the right."""
    pairs = mistakes(matrix)[:LISTED]
    worst_first = sorted(label_scores(matrix), key=_rank_of_label)
    scores = worst_first[:LISTED]
    bars = max(len(pairs), len(scores), FEWEST_BARS)
    height = 1.6 + 0.28 * bars
    drawn, left = figure(
        heading,
        "held-out rows",
        "expected → answered, most frequent first",
        size=(13, height),
    )
    halves = drawn.add_gridspec(1, 2)
    left.set_subplotspec(halves[0])
    _draw_mistakes(left, pairs)
    right = drawn.add_subplot(halves[1])
    _draw_recalls(right, scores)
    return save_figure(drawn, path)


def _rank_of_label(score: LabelScore) -> tuple[float, int, str]:
    """The lowest recall first; of the same recall, the label with the most rows."""
    recall = score.recall or 0.0
    return recall, -score.expected, score.label


def _draw_mistakes(axes: Axes, pairs: Sequence[Mistake]) -> None:
    names = []
    for pair in pairs:
        expected = shorten_name(pair.expected)
        answered = shorten_name(pair.answered)
        names.append(f"{expected} → {answered}")
    rows = [pair.rows for pair in pairs]
    _draw_bars(axes, names, rows, RED)
    axes.xaxis.get_major_locator().set_params(integer=True)


def _draw_recalls(axes: Axes, scores: Sequence[LabelScore]) -> None:
    axes.set_xlabel("of its rows right", color=SOFT)
    axes.set_ylabel("labels least often right", color=SOFT)
    names = []
    recalls = []
    for score in scores:
        name = shorten_name(score.label)
        names.append(f"{name} ({score.correct:,} of {score.expected:,})")
        recalls.append(score.recall or 0.0)
    _draw_bars(axes, names, recalls, BLUE)
    percent_axis(axes.xaxis)
    axes.set_xlim(0, 1)


def _draw_bars(axes: Axes, names: Sequence[str], values: Sequence[float], colour: str) -> None:
    """A bar for each value, the first on top."""
    heights = range(len(values))
    axes.barh(heights, values, color=colour)
    axes.set_yticks(heights, names, color=INK, fontsize=8)
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(colors=INK, length=0)
    axes.spines[:].set_visible(False)
