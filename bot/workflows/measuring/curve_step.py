"""What one step of a tuned model's curve works on, how it is written down, and how a curve ends without a result."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bot.decisions.actuals import NOTHING_ASKED, Asked, actual_micros
from bot.results import Progress
from bot.tuned_curves import PlannedSize, SizeProgress, TunedCurvePlan, TunedCurveProgress
from bot.views.blocks import escape
from bot.workflows.desk import Desk
from bot.workflows.measuring import measurements
from storage.records import Measurement
from trainers.money import usd_micros
from trainers.pricing import PriceList

DOUBT_S = 24 * 3600.0
DOUBT_LOOK_S = 600.0


@dataclass(frozen=True)
class CurveStep:
    """`progress` is as far as this step knows; `measurement` is as it was last written. `size` is at work."""

    desk: Desk
    measurement: Measurement
    plan: TunedCurvePlan
    progress: TunedCurveProgress
    size: SizeProgress

    @property
    def owner(self) -> str:
        return f"m{self.measurement.id}"

    @property
    def planned(self) -> PlannedSize:
        return next(one for one in self.plan.sizes if one.rows == self.size.rows)

    @property
    def is_stopped(self) -> bool:
        """By a person, or because it costs more than was agreed."""
        return self.measurement.cancel_asked_by is not None or self.progress.is_too_dear

    def with_size(self, size: SizeProgress) -> CurveStep:
        return replace(self, size=size, progress=self.progress.with_size(size))

    def noted(self, note: str | None) -> CurveStep:
        return replace(self, progress=replace(self.progress, note=note))

    def spent(self, training: Progress, asked: Asked = NOTHING_ASKED) -> int:
        """Micro-dollars of the size at work. One that was trained before has no training to pay."""
        prices = PriceList.from_json(self.plan.prices)
        (tuned,) = prices.rows
        both = replace(prices, rows=(tuned, tuned))
        return actual_micros(both, training.train_seconds, training.trained_tokens, tuned=asked)


def keep(step: CurveStep, *, seconds: float = 0.0) -> CurveStep | None:
    """Written, and shown where there is something new to see; the next step in so many seconds. None where another
    hand was quicker."""
    desk, before = step.desk, step.measurement
    now = desk.clock()
    with desk.store.transaction():
        moved = desk.store.measurements.move(
            before, before.state, now=now, progress=step.progress.to_json(), next_at=now + seconds, tries=0
        )
        if moved is None:
            return None
        if step.progress != TunedCurveProgress.from_json(before.progress):
            measurements.show(desk, moved)
    return replace(step, measurement=moved)


def over(step: CurveStep) -> None:
    """Stopped, and nothing goes on at the trainer."""
    measurement, progress = step.measurement, step.progress
    if measurement.cancel_asked_by:
        by = f"Cancelled by <@{measurement.cancel_asked_by}>."
        measurements.end(step.desk, measurement, "cancelled", by, actual_micros=progress.spent_micros)
    else:
        fail(step, f"It has cost more than the {usd_micros(progress.most_micros)} that were agreed.")


def fail(step: CurveStep, why: str) -> None:
    """`why` is ours and may hold mrkdwn."""
    measurements.end(step.desk, step.measurement, "failed", why, actual_micros=step.progress.spent_micros)


def _give_up(step: CurveStep, said: str) -> None:
    by = step.measurement.cancel_asked_by
    if by is None:
        fail(step, said)
        return
    spent = step.progress.spent_micros
    measurements.end(
        step.desk, step.measurement, "cancelled", f"Cancelled by <@{by}>. {said}", actual_micros=spent
    )


def wait_in_doubt(step: CurveStep, why: str) -> None:
    """Money may be owed for the size at work, and only a later look can tell: looked again until one does, until a
    person gives it up, or for a day. What nobody could tell by then counts as spent, as much as the size could cost.

    `why` is a sentence, unescaped."""
    now, most = step.desk.clock(), max(step.size.spent_micros, step.planned.most_micros)
    since = step.size.doubted_since or now
    if step.is_stopped or now - since > DOUBT_S:
        said = f"{escape(why)} Whether a job ran there stayed in doubt: the most that it could cost counts as spent."
        _give_up(step.with_size(replace(step.size, spent_micros=most)), said)
        return
    note = (
        f"{why} Looking again every ten minutes, for a day. Cancel gives it up; where nobody can tell by then, "
        f"{usd_micros(most)} count as spent, the most that it could cost."
    )
    keep(step.with_size(replace(step.size, doubted_since=since)).noted(note), seconds=DOUBT_LOOK_S)
