"""Two arms' answers → figures and plots. Runs in a worker process: scipy and matplotlib are imported here only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.results import ArmScore
from trainers.evaluation import Comparison, Confusion, compare, confusion
from trainers.types import Metric

INK, GRID, BASE, TUNED = "#1f2933", "#d5dbe1", "#9aa5b1", "#1f6f8b"
MOST_LABELS_IN_PLOT = 40


@dataclass(frozen=True)
class ArmAnswers:
    """One arm on the holdout, in its order; `seconds` of wall time a request."""

    texts: tuple[str, ...]
    correct: tuple[bool, ...]
    prompt_tokens: int
    completion_tokens: int
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class Judged:
    """`confusion_plot` is None where there are no labels, or too many to draw."""

    base: ArmScore
    tuned: ArmScore
    better: int
    worse: int
    p_value: float
    gain_low: float
    gain_high: float
    loss_plot: Path | None
    confusion_plot: Path | None


def judge(
    base: ArmAnswers,
    tuned: ArmAnswers,
    expected: Sequence[str],
    metrics: Sequence[Metric],
    *,
    labelled: bool,
    title: str,
    folder: Path,
) -> Judged:
    """Compare both arms on the same rows, and draw `folder`/loss.png and confusion.png."""
    compared = compare(base.correct, tuned.correct)
    folder.mkdir(parents=True, exist_ok=True)
    matrix = confusion(expected, tuned.texts) if labelled else None
    return Judged(
        base=_score(base, compared.base_correct, compared.base.low, compared.base.high),
        tuned=_score(tuned, compared.tuned_correct, compared.tuned.low, compared.tuned.high),
        better=compared.gained,
        worse=compared.lost,
        p_value=compared.p,
        gain_low=compared.difference_interval.low,
        gain_high=compared.difference_interval.high,
        loss_plot=draw_loss(metrics, title, folder / "loss.png"),
        confusion_plot=draw_confusion(matrix, compared, title, folder / "confusion.png") if matrix else None,
    )


def draw_loss(metrics: Sequence[Metric], title: str, path: Path) -> Path | None:
    """Training loss by step, smoothed over a few steps, with validation loss where there is any."""
    trained = [(m.step, m.train_loss) for m in metrics if m.train_loss is not None]
    if len(trained) < 2:
        return None
    figure, axes = _figure(title, "step", "loss (nats per answer token)")
    axes.plot([s for s, _ in trained], [loss for _, loss in trained], color=GRID, linewidth=1)
    axes.plot(*_smoothed(trained), color=TUNED, linewidth=2, label="training")
    validated = [(m.step, m.valid_loss) for m in metrics if m.valid_loss is not None]
    if validated:
        axes.plot(*zip(*validated, strict=True), color=INK, marker="o", linewidth=1.5, label="validation")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    return _saved(figure, path)


def draw_confusion(matrix: Confusion, compared: Comparison, title: str, path: Path) -> Path | None:
    """What was expected, by row, against what the tuned model answered, by column."""
    if len(matrix.labels) > MOST_LABELS_IN_PLOT:
        return None
    columns = matrix.columns if any(row[-1] for row in matrix.counts) else matrix.labels
    counts = [row[: len(columns)] for row in matrix.counts]
    size = max(4.5, 0.45 * len(columns) + 2.5)
    said = f"{title}: {compared.tuned_correct} of {compared.n} right"
    figure, axes = _figure(said, "the tuned model answered", "expected", size=(size + 1, size))
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.grid(visible=False)
    axes.set_xticks(range(len(columns)), columns, rotation=45, ha="right")
    axes.set_yticks(range(len(matrix.labels)), matrix.labels)
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            if count:
                axes.text(x, y, count, ha="center", va="center", color="white" if shares[y][x] > 0.6 else INK)
    return _saved(figure, path)


def _score(arm: ArmAnswers, correct: int, low: float, high: float) -> ArmScore:
    ordered = sorted(arm.seconds)
    return ArmScore(
        correct=correct,
        n=len(arm.correct),
        low=low,
        high=high,
        prompt_tokens=arm.prompt_tokens,
        completion_tokens=arm.completion_tokens,
        p50_s=ordered[len(ordered) // 2],
        p95_s=ordered[min(len(ordered) * 95 // 100, len(ordered) - 1)],
    )


def _smoothed(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """The mean of each step and the few before it."""
    window = max(1, len(points) // 20)
    losses = [loss for _, loss in points]
    means = [
        sum(losses[max(0, i - window) : i + 1]) / len(losses[max(0, i - window) : i + 1])
        for i in range(len(losses))
    ]
    return [step for step, _ in points], means


def _figure(title: str, x: str, y: str, size: tuple[float, float] = (7.0, 4.0)):  # type: ignore[no-untyped-def]
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=size, dpi=130, layout="constrained")
    axes.set_title(title.replace("$", r"\$"), loc="left", color=INK)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _saved(figure, path: Path) -> Path:  # type: ignore[no-untyped-def]
    from matplotlib import pyplot

    figure.savefig(path)
    pyplot.close(figure)
    return path
