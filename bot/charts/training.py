"""Charts of a training by step, one a number: the loss, GRPO's reward, and for DPO in how many pairs and how far the
right answer is preferred."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.charts.style import BLUE, RED, Axes, figure, percent_axis, save_figure, shorten_name
from bot.values.runs import Points, points, stretch_means
from trainers.types import Metric


@dataclass(frozen=True)
class TrainingChart:
    """`stem` is the name of its file. `axis` is the number with its unit, `note` says which way is better and what that
    means. `highest` is the upper end of its scale, None if there is none."""

    stem: str
    what: str
    axis: str
    note: str
    trained: Points
    validated: Points
    is_share: bool = False
    highest: float | None = None


def draw_training(metrics: Sequence[Metric], title: str, folder: Path) -> list[Path]:
    """Draws a chart of each number that was measured at two steps or more."""
    return [
        _draw(chart, title, folder / f"{chart.stem}.png")
        for chart in charts(metrics)
        if len(chart.trained) > 1
    ]


def charts(metrics: Sequence[Metric]) -> Iterator[TrainingChart]:
    """Yields the charts with their points, of which there may be none."""
    rewards = points(metrics, lambda line: line.train_reward)
    preferred = points(metrics, lambda line: line.train_preference_accuracy)
    # GRPO's loss is near 0 by construction, so that a chart of it would say nothing.
    if not rewards:
        unit = "loss, nats per pair" if preferred else "loss, nats per token"
        yield TrainingChart(
            "loss",
            "Loss",
            unit,
            "Lower is better: the right answers have become more likely.",
            points(metrics, lambda line: line.train_loss),
            points(metrics, lambda line: line.valid_loss),
        )
    yield TrainingChart(
        "reward",
        "Mean reward",
        "mean reward of an answer",
        "Higher is better: 1 is for answers that are all right.",
        rewards,
        points(metrics, lambda line: line.valid_reward),
        highest=1,
    )
    yield TrainingChart(
        "preference-accuracy",
        "Preference accuracy",
        "share of pairs",
        "Higher is better: in these pairs the right answer has gained on the wrong one.",
        preferred,
        points(metrics, lambda line: line.valid_preference_accuracy),
        is_share=True,
        highest=1,
    )
    yield TrainingChart(
        "reward-margin",
        "Reward margin",
        "margin, beta × nats",
        "Higher is better: the right answer has become more likely beside the wrong one.",
        points(metrics, lambda line: line.train_reward_margin),
        points(metrics, lambda line: line.valid_reward_margin),
    )


def _draw(chart: TrainingChart, title: str, path: Path) -> Path:
    """Draws the numbers of each step, their smoothed line, and those of the validations."""
    from matplotlib.ticker import MaxNLocator

    heading = f"{chart.what} while training {shorten_name(title)}"
    drawn, axes = figure(heading, "training step", chart.axis, note=chart.note)
    steps, numbers = zip(*chart.trained, strict=True)
    axes.plot(steps, numbers, color=BLUE, alpha=0.25, linewidth=1)
    # A last batch of a few rows says little, so the end is that of the result's card: the mean of the last stretch.
    _, at_the_end = stretch_means(chart.trained)[-1]
    label = f"training, {_number(chart, at_the_end)} at the end"
    axes.plot(steps, _smooth(numbers), color=BLUE, linewidth=2.4, label=label)
    if chart.validated:
        _draw_validations(axes, chart)
    _scale(axes, chart)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(x=0.02)
    axes.grid(visible=False, axis="x")
    axes.legend(loc="best", frameon=False)
    return save_figure(drawn, path)


def _draw_validations(axes: Axes, chart: TrainingChart) -> None:
    steps, numbers = zip(*chart.validated, strict=True)
    label = f"validation, {_number(chart, numbers[-1])} at the end"
    style = {"marker": "D", "markersize": 6, "linewidth": 1.8, "linestyle": "--"}
    # The last one is at the chart's edge, where half of its marker would be cut off.
    axes.plot(steps, numbers, color=RED, label=label, clip_on=False, **style)


def _scale(axes: Axes, chart: TrainingChart) -> None:
    """A loss and a reward begin at 0. A margin may be below it, when the wrong answer has gained."""
    lowest = min(number for _, number in (*chart.trained, *chart.validated))
    if lowest >= 0:
        axes.set_ylim(bottom=0)
    if chart.highest is not None:
        top = max(chart.highest, *(number for _, number in chart.trained))
        axes.set_ylim(top=1.05 * top)
    if chart.is_share:
        percent_axis(axes.yaxis)


def _number(chart: TrainingChart, number: float) -> str:
    if chart.is_share:
        return f"{100 * number:.0f}%"
    return f"{number:.2f}"


def _smooth(numbers: Sequence[float]) -> list[float]:
    """For each number the mean of it and the same number of neighbours on both sides; fewer towards the ends."""
    widest = max(1, len(numbers) // 40)
    means = []
    for i in range(len(numbers)):
        reach = min(widest, i, len(numbers) - 1 - i)
        around = numbers[i - reach : i + reach + 1]
        means.append(sum(around) / len(around))
    return means
