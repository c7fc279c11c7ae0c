"""Two arms' answers → figures and plots. Runs in a worker process: scipy and what draws are imported at use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bot.drawings import confusion as confusion_plot
from bot.drawings import loss as loss_plot
from bot.results import ArmScore
from bot.work.climbing import examples
from trainers.evaluation import Confusion, Interval, compare, confusion
from trainers.measuring.values import Arm, Ladder, Reply, Rung
from trainers.pricing import PriceRow
from trainers.types import Metric

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
    beside: Ladder | None = None


@dataclass(frozen=True)
class Measured:
    """The tuned model's `replies` to the rows of `holdout`, in its order, and the `alternatives` that were measured
    on the same rows. `labels` is empty for free text."""

    arm: Arm
    replies: tuple[Reply, ...]
    labels: tuple[str, ...]
    bar: float
    price: PriceRow
    dataset: str
    version: int
    holdout: Path
    alternatives: tuple[Rung, ...]


def judge(
    base: ArmAnswers,
    tuned: ArmAnswers,
    expected: Sequence[str],
    metrics: Sequence[Metric],
    *,
    labelled: bool,
    title: str,
    folder: Path,
    measured: Measured | None = None,
    now: float = 0.0,
) -> Judged:
    """Compare both arms on the same rows, and draw `folder`/loss.png and confusion.png.

    `measured`: the tuned model is judged as a rung too, at `now` (unix seconds)."""
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
        loss_plot=loss_plot.draw(metrics, title, folder / "loss.png"),
        confusion_plot=confusion_plot.draw(matrix, compared, title, folder / "confusion.png")
        if matrix
        else None,
        loss_curve=loss_curve(metrics),
        beside=beside(measured, now) if measured else None,
    )


def beside(measured: Measured, now: float) -> Ladder:
    """The tuned model as a rung, after the best alternative with the same kind of score, and the test of the two."""
    from trainers.measuring import ladder

    path = measured.holdout
    alone = ladder.judge(
        {measured.arm: measured.replies},
        examples(path.parent, path.stem),
        measured.labels,
        measured.bar,
        {str(measured.arm.model): measured.price},
        dataset=measured.dataset,
        version=measured.version,
        holdout_sha256=path.stem,
        measured_at=now,
    )
    (tuned,) = alone.rungs
    alike = [one for one in measured.alternatives if (one.scoring, one.n) == (tuned.scoring, tuned.n)]
    best = max(alike, key=lambda one: one.score, default=None)
    if best is None:
        return alone
    first, second = (tuned, best) if tuned.score >= best.score else (best, tuned)
    return replace(alone, rungs=(best, tuned), pairs=(ladder.pair(first, second),))


def loss_curve(metrics: Sequence[Metric], most: int = CURVE_POINTS) -> tuple[tuple[int, float], ...]:
    """(last step, mean training loss) of at most `most` stretches of equal length."""
    trained = [(m.step, m.train_loss) for m in metrics if m.train_loss is not None]
    stretch = max(-(-len(trained) // most), 1)
    parts = [trained[at : at + stretch] for at in range(0, len(trained), stretch)]
    return tuple((part[-1][0], sum(loss for _, loss in part) / len(part)) for part in parts)


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
