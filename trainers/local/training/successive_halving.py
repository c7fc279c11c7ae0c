"""Decides which arm of a sweep trains next and how far, and which one wins. Pure.

The decisions depend only on the arms' progress, so nothing else has to survive a kill. If an arm drops out, the others
continue through the rungs that were planned for all arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainers.hyperparameters import HalvingRung, halving_rungs


@dataclass(frozen=True)
class TrialScore:
    """The progress of arm `number` (from 1). `course` is its total number of steps, `losses` are its validation losses
    by step, and `out` explains why it dropped out, if it did."""

    number: int
    course: int
    step: int = 0
    losses: Mapping[int, float] | None = None
    out: str | None = None

    def loss_at(self, rung: HalvingRung) -> float | None:
        """Returns None if the arm hasn't finished the rung."""
        return (self.losses or {}).get(rung.steps(self.course))

    @property
    def lowest(self) -> tuple[float, int] | None:
        """The lowest loss and its step, or None. The first of equal losses wins."""
        return min(((loss, step) for step, loss in (self.losses or {}).items()), default=None)


@dataclass(frozen=True)
class Round:
    """A rung (from 1) and the arms that train in it, ordered by their results in the rung before."""

    number: int
    rung: HalvingRung
    arms: tuple[TrialScore, ...]

    @property
    def waiting(self) -> TrialScore | None:
        """The first arm that hasn't finished the rung."""
        return next((arm for arm in self.arms if arm.loss_at(self.rung) is None), None)

    @property
    def ranking(self) -> list[TrialScore]:
        """The arms from best to worst, once the rung is over. Of equal losses the arm with the lower number is
        better."""
        return sorted(self.arms, key=lambda arm: (arm.loss_at(self.rung), arm.number))


@dataclass(frozen=True)
class Decision:
    """Arm `number` trains to step `until` in round `round`."""

    number: int
    until: int
    round: int


def list_rounds(trial_scores: Sequence[TrialScore]) -> tuple[Round, ...]:
    """Returns the rounds up to the first one that isn't over."""
    arms = [arm for arm in trial_scores if arm.out is None]
    rounds: list[Round] = []
    for number, rung in enumerate(halving_rungs(len(trial_scores)), start=1):
        current = Round(number, rung, tuple(arms[: rung.arms]))
        rounds.append(current)
        if current.waiting:
            break
        arms = current.ranking
    return tuple(rounds)


def next_decision(trial_scores: Sequence[TrialScore]) -> Decision | None:
    """Returns None if all rungs are over, or if no arm is left."""
    last = list_rounds(trial_scores)[-1]
    arm = last.waiting
    return Decision(arm.number, last.rung.steps(arm.course), last.number) if arm else None


def steps_left(trial_scores: Sequence[TrialScore]) -> int:
    """Returns the maximum number of steps that all arms together may still train."""
    *_, now = list_rounds(trial_scores)
    left = sum(max(0, now.rung.steps(arm.course) - arm.step) for arm in now.arms)
    done = now.rung
    for rung in halving_rungs(len(trial_scores))[now.number :]:
        further = sorted((rung.steps(arm.course) - done.steps(arm.course) for arm in now.arms), reverse=True)
        left += sum(further[: rung.arms])
        done = rung
    return left


def find_winner(trial_scores: Sequence[TrialScore]) -> TrialScore | None:
    """Returns the arm with the lowest validation loss at any step, or None if nothing was validated."""
    measured = [(arm.lowest, arm.number, arm) for arm in trial_scores if arm.out is None and arm.lowest]
    return min(measured, key=lambda pair: (pair[0][0], pair[1]))[2] if measured else None
