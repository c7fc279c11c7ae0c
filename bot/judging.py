"""Two arms' answers → figures and plots. Runs in a worker process: scipy and matplotlib are imported here only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.results import ArmScore
from trainers.evaluation import Comparison, Confusion, Interval, compare, confusion
from trainers.types import Metric

# Blue and vermilion of Okabe and Ito, which colour-blind people tell apart; https://jfly.uni-koeln.de/color/
INK, SOFT, GRID, BLUE, RED = "#1f2933", "#6b7785", "#e3e8ec", "#0072b2", "#d55e00"
MOST_LABELS_IN_PLOT = 40
LONGEST_LABEL = 28
CURVE_POINTS = 20


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
    loss_curve: tuple[tuple[int, float], ...] = ()


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
    base_matrix = confusion(expected, base.texts) if labelled else None
    return Judged(
        base=_score(base, compared.base_correct, compared.base, base_matrix),
        tuned=_score(tuned, compared.tuned_correct, compared.tuned, matrix),
        better=compared.gained,
        worse=compared.lost,
        p_value=compared.p,
        gain_low=compared.difference_interval.low,
        gain_high=compared.difference_interval.high,
        loss_plot=draw_loss(metrics, title, folder / "loss.png"),
        confusion_plot=draw_confusion(matrix, compared, title, folder / "confusion.png") if matrix else None,
        loss_curve=loss_curve(metrics),
    )


def loss_curve(metrics: Sequence[Metric], most: int = CURVE_POINTS) -> tuple[tuple[int, float], ...]:
    """(last step, mean training loss) of at most `most` stretches of equal length."""
    trained = [(m.step, m.train_loss) for m in metrics if m.train_loss is not None]
    stretch = max(-(-len(trained) // most), 1)
    parts = [trained[at : at + stretch] for at in range(0, len(trained), stretch)]
    return tuple((part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts)


def draw_loss(metrics: Sequence[Metric], title: str, path: Path) -> Path | None:
    """Training loss by step, smoothed over a few steps, with validation loss where there is any."""
    trained = [(m.step, m.train_loss) for m in metrics if m.train_loss is not None]
    if len(trained) < 2:
        return None
    figure, axes = _figure(f"Loss while training {title}", "training step", "loss, nats per answer token")
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
    return _saved(figure, path)


def draw_confusion(matrix: Confusion, compared: Comparison, title: str, path: Path) -> Path | None:
    """What was expected, by row, against what the tuned model answered, by column: right blue, wrong red."""
    if len(matrix.labels) > MOST_LABELS_IN_PLOT:
        return None
    columns = matrix.columns if any(row[-1] for row in matrix.counts) else matrix.labels
    counts = [row[: len(columns)] for row in matrix.counts]
    size = max(4.5, 0.45 * len(columns) + 2.5)
    said = f"{title}: {compared.tuned_correct:,} of {compared.n:,} held-out rows right"
    figure, axes = _figure(said, "the tuned model answered", "expected (rows)", size=(size + 1.2, size))
    shares = [[count / max(sum(row), 1) for count in row] for row in counts]
    axes.imshow([[_shade(x == y, share) for x, share in enumerate(row)] for y, row in enumerate(shares)])
    axes.set_xticks(range(len(columns)), [_tick(one) for one in columns], rotation=40, ha="right")
    totals = [f"{_tick(one)} ({sum(row):,})" for one, row in zip(matrix.labels, counts, strict=True)]
    axes.set_yticks(range(len(matrix.labels)), totals, color=INK)
    _rule_cells(axes, len(columns), len(matrix.labels))
    for y, row in enumerate(counts):
        for x, count in enumerate(row):
            if count:
                ink = "white" if shares[y][x] > 0.55 else INK
                axes.text(x, y, f"{count:,}", ha="center", va="center", color=ink, fontsize=9)
    return _saved(figure, path)


def _score(arm: ArmAnswers, correct: int, likely: Interval, matrix: Confusion | None) -> ArmScore:
    ordered = sorted(arm.seconds)
    return ArmScore(
        correct=correct,
        n=len(arm.correct),
        low=likely.low,
        high=likely.high,
        prompt_tokens=arm.prompt_tokens,
        completion_tokens=arm.completion_tokens,
        p50_s=ordered[len(ordered) // 2],
        p95_s=ordered[min(len(ordered) * 95 // 100, len(ordered) - 1)],
        unlisted=sum(row[-1] for row in matrix.counts) if matrix else 0,
    )


def _smoothed(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    """The mean of each step and as many on either side of it, fewer towards the ends."""
    losses, widest = [loss for _, loss in points], max(1, len(points) // 40)
    means = []
    for i in range(len(losses)):
        reach = min(widest, i, len(losses) - 1 - i)
        around = losses[i - reach : i + reach + 1]
        means.append(sum(around) / len(around))
    return [step for step, _ in points], means


def _figure(title: str, x: str, y: str, size: tuple[float, float] = (7.6, 4.2)):  # type: ignore[no-untyped-def]
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=size, dpi=130, layout="constrained")
    figure.suptitle(_literal(title), x=0.01, ha="left", color=INK, fontsize=12, fontweight="bold")
    axes.set_xlabel(x, color=SOFT)
    axes.set_ylabel(y, color=SOFT)
    axes.tick_params(colors=INK, length=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    return figure, axes


def _label_ends(axes, ends) -> None:  # type: ignore[no-untyped-def]
    """Names and last values stand at the lines' ends, apart from each other where the ends are close."""
    apart = (axes.get_ylim()[1] - axes.get_ylim()[0]) * 0.07
    height = None
    for name, step, loss, color in sorted(ends, key=lambda end: end[2]):
        height = loss if height is None else max(loss, height + apart)
        axes.annotate(
            f"{name} {loss:.2f}",
            (step, height),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontweight="bold",
            annotation_clip=False,
        )


def _shade(is_right: bool, share: float) -> tuple[float, ...]:
    """White to blue on the diagonal, white to vermilion off it; a wrong row is never too pale to be seen."""
    from matplotlib.colors import to_rgb

    depth = share if is_right or not share else min(0.15 + share, 1.0)
    return tuple(1 - depth * (1 - part) for part in to_rgb(BLUE if is_right else RED))


def _rule_cells(axes, width: int, height: int) -> None:  # type: ignore[no-untyped-def]
    axes.grid(visible=False)
    axes.set_xticks([x - 0.5 for x in range(width + 1)], minor=True)
    axes.set_yticks([y - 0.5 for y in range(height + 1)], minor=True)
    axes.grid(which="minor", color=GRID, linewidth=0.8)
    axes.tick_params(which="minor", length=0)


def _tick(label: str) -> str:
    """Long labels lose their middle: the end often tells them apart."""
    half = LONGEST_LABEL // 2
    return _literal(label if len(label) <= LONGEST_LABEL else f"{label[:half]}…{label[-half + 1 :]}")


def _literal(text: str) -> str:
    """matplotlib reads a pair of dollars as mathematics."""
    return text.replace("$", r"\$")


def _saved(figure, path: Path) -> Path:  # type: ignore[no-untyped-def]
    from matplotlib import pyplot

    figure.savefig(path, bbox_inches="tight", pad_inches=0.15)
    pyplot.close(figure)
    return path
