"""What a tuned model's curve needs of a worker process: the files to train on, and what its answers say.

Runs in worker processes: scikit-learn, numpy and matplotlib are imported here only, at use. Trains nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bot.tuned_curves import TunedCurvePlan
from bot.work.climbing import examples
from trainers.dataset import Example, store_chat
from trainers.measuring.scoring import as_label, is_label
from trainers.measuring.values import Curve, CurvePoint


@dataclass(frozen=True)
class JudgedTunedCurve:
    """`beside` is the classical rung's, None where there are too many rows for it to be quick."""

    curve: Curve
    beside: Curve | None
    plot: Path | None


def write_sizes(plan: TunedCurvePlan, files: Path) -> tuple[str, ...]:
    """The sha256 of each size's file in `files`: every larger one holds the smaller, each label in its share.
    All rows are the training file itself, so that a run on it has trained this size. The same plan gives the
    same files."""
    from trainers.measuring.curve import nested

    order = nested(examples(files, plan.train_sha256), plan.seed)
    return tuple(
        plan.train_sha256 if size.rows == len(order) else store_chat(files, order[: size.rows])
        for size in plan.sizes
    )


def judge(
    plan: TunedCurvePlan, texts: Sequence[Sequence[str]], files: Path, folder: Path, seed: int
) -> JudgedTunedCurve:
    """`texts`: what the model of each size said to each held-out row."""
    from bot.drawings import curve as drawing
    from trainers.measuring.curve import MOST_ROWS, classical_curve, curve_of, needs_of

    train, holdout = examples(files, plan.train_sha256), examples(files, plan.holdout_sha256)
    largest = [as_label(text, plan.labels) for text in texts[-1]]
    found = curve_of(
        plan.arm,
        [_point(plan, size.rows, said, holdout) for size, said in zip(plan.sizes, texts, strict=True)],
        plan.predict,
        rows=len(train),
        held=len(holdout),
        seed=seed,
        needs=needs_of(train, holdout, largest),
        dataset=plan.dataset,
        version=plan.version,
        holdout_sha256=plan.holdout_sha256,
    )
    beside = None
    if len(train) <= MOST_ROWS:
        beside = classical_curve(
            train,
            holdout,
            seed,
            plan.predict,
            dataset=plan.dataset,
            version=plan.version,
            holdout_sha256=plan.holdout_sha256,
        )
    folder.mkdir(parents=True, exist_ok=True)
    return JudgedTunedCurve(found, beside, drawing.draw(found, folder / "curve.png", beside))


def _point(plan: TunedCurvePlan, rows: int, said: Sequence[str], holdout: Sequence[Example]) -> CurvePoint:
    right = [is_label(row.answer, text, plan.labels) for row, text in zip(holdout, said, strict=True)]
    share = sum(right) / len(right)
    return CurvePoint(rows, share, (share,))
