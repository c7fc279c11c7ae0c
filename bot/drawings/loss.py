"""Loss by training step, with the validation loss where there is any."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bot.drawings.canvas import BLUE, RED, Axes, apart, figure, saved
from trainers.types import Metric


def draw(metrics: Sequence[Metric], title: str, path: Path) -> Path | None:
    """Training loss by step, smoothed over a few steps. None with fewer than two steps."""
    trained = [(m.step, m.train_loss) for m in metrics if m.train_loss is not None]
    if len(trained) < 2:
        return None
    drawn, axes = figure(f"Loss while training {title}", "training step", "loss, nats per answer token")
    axes.plot([s for s, _ in trained], [loss for _, loss in trained], color=BLUE, alpha=0.25, linewidth=1)
    steps, means = _smoothed(trained)
    axes.plot(steps, means, color=BLUE, linewidth=2.2)
    ends = [("training", steps[-1], means[-1], BLUE)]
    validated = [(m.step, m.valid_loss) for m in metrics if m.valid_loss is not None]
    if validated:
        axes.plot(*zip(*validated, strict=True), color=RED, marker="o", markersize=5, linewidth=1.6)
        ends.append(("validation", *validated[-1], RED))
    axes.set_ylim(bottom=0)
    axes.margins(x=0.02)
    axes.grid(visible=False, axis="x")
    _label_ends(axes, ends)
    return saved(drawn, path)


def _smoothed(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """The mean of each step and as many on either side of it, fewer towards the ends."""
    losses, widest = [loss for _, loss in points], max(1, len(points) // 40)
    means = []
    for i in range(len(losses)):
        reach = min(widest, i, len(losses) - 1 - i)
        around = losses[i - reach : i + reach + 1]
        means.append(sum(around) / len(around))
    return [step for step, _ in points], means


def _label_ends(axes: Axes, ends: Sequence[tuple[str, int, float, str]]) -> None:
    """Names and last values stand at the lines' ends, apart from each other where the ends are close."""
    low, high = axes.get_ylim()
    heights = apart([loss for _, _, loss, _ in ends], (high - low) * 0.07, low, high)
    for (line, step, loss, color), height in zip(ends, heights, strict=True):
        axes.annotate(
            f"{line} {loss:.2f}",
            (step, height),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontweight="bold",
            annotation_clip=False,
        )
