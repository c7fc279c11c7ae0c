"""The arms of a sweep against each other: which one trains next and how far, and which one wins. Pure.

Everything follows from how far each arm is, so that a kill needs no memory of its own. An arm that is out makes place:
the others go on as if it had not been there, in the rungs that were planned for all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from trainers.hyperparameters import HalvingRung, halving_rungs


@dataclass(frozen=True)
class TrialScore:
    """How far arm `number` is, counted from 1, on a course of so many steps. `losses`: of validation, by step.
    `out` is the sentence that says why it trains no more."""

    number: int
    course: int
    step: int = 0
    losses: Mapping[int, float] | None = None
    out: str | None = None

    def loss_at(self, rung: HalvingRung) -> float | None:
        """None where the rung isn't over for it."""
        return (self.losses or {}).get(rung.steps(self.course))

    @property
    def lowest(self) -> tuple[float, int] | None:
        """The lowest loss and its step; of equal ones the first."""
        return min(((loss, step) for step, loss in (self.losses or {}).items()), default=None)


@dataclass(frozen=True)
class Round:
    """A rung, counted from 1, and the arms that train in it: the best of the rung before first."""

    number: int
    rung: HalvingRung
    arms: tuple[TrialScore, ...]

    @property
    def waiting(self) -> TrialScore | None:
        """The first arm that isn't at its end."""
        return next((arm for arm in self.arms if arm.loss_at(self.rung) is None), None)

    @property
    def ranking(self) -> list[TrialScore]:
        """Once it is over; of equal losses the first arm's is the better."""
        return sorted(self.arms, key=lambda arm: (arm.loss_at(self.rung), arm.number))


@dataclass(frozen=True)
class Decision:
    """Arm `number` trains to step `until` in round `round`."""

    number: int
    until: int
    round: int


def rounds(standings: Sequence[TrialScore]) -> tuple[Round, ...]:
    """Up to the first that isn't over."""
    field = [arm for arm in standings if arm.out is None]
    rounds: list[Round] = []
    for number, rung in enumerate(halving_rungs(len(standings)), start=1):
        current = Round(number, rung, tuple(field[: rung.arms]))
        rounds.append(current)
        if current.waiting:
            break
        field = current.ranking
    return tuple(rounds)


def next_decision(standings: Sequence[TrialScore]) -> Decision | None:
    """None where all rungs are over, or nobody is left."""
    last = rounds(standings)[-1]
    arm = last.waiting
    return Decision(arm.number, last.rung.steps(arm.course), last.number) if arm else None


def steps_left(standings: Sequence[TrialScore]) -> int:
    """At most, over all arms."""
    *_, now = rounds(standings)
    left = sum(max(0, now.rung.steps(arm.course) - arm.step) for arm in now.arms)
    done = now.rung
    for rung in halving_rungs(len(standings))[now.number :]:
        further = sorted((rung.steps(arm.course) - done.steps(arm.course) for arm in now.arms), reverse=True)
        left += sum(further[: rung.arms])
        done = rung
    return left


def winner(standings: Sequence[TrialScore]) -> TrialScore | None:
    """Of the lowest validation loss at any step, as among the checkpoints of a single job. None: nobody has one."""
    measured = [(arm.lowest, arm.number, arm) for arm in standings if arm.out is None and arm.lowest]
    return min(measured, key=lambda pair: (pair[0][0], pair[1]))[2] if measured else None
