"""Decides which trial of a sweep trains next and how far, and which one wins. Pure.

The decisions depend only on the trials' progress, so nothing else has to survive a kill. If a trial drops out, the
others continue through the rounds that were planned for all trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

from trainers.hyperparameters import PlannedRound, halving_rounds


@dataclass(frozen=True)
class TrialScore:
    """The progress of trial `number` (from 1). `course` is its total number of steps, `losses` are its validation
    losses by step, and `out` explains why it dropped out, if it did."""

    number: int
    course: int
    step: int = 0
    losses: Mapping[int, float] | None = None
    out: str | None = None

    def loss_at(self, planned: PlannedRound) -> float | None:
        """Returns None if the trial hasn't finished the round."""
        if self.losses is None:
            return None
        return self.losses.get(planned.steps(self.course))

    @property
    def lowest(self) -> tuple[float, int] | None:
        """The lowest loss and its step, or None. The first of equal losses wins."""
        if not self.losses:
            return None
        pairs = [(loss, step) for step, loss in self.losses.items()]
        return min(pairs)


@dataclass(frozen=True)
class Round:
    """A round (from 1) and the trials that train in it, ordered by their results in the round before."""

    number: int
    planned: PlannedRound
    trials: tuple[TrialScore, ...]

    @property
    def waiting(self) -> TrialScore | None:
        """The first trial that hasn't finished the round."""
        for trial in self.trials:
            if trial.loss_at(self.planned) is None:
                return trial
        return None

    @property
    def ranking(self) -> list[TrialScore]:
        """The trials from best to worst, once the round is over. Of equal losses the trial with the lower number is
        better."""

        def order(trial: TrialScore) -> tuple[float | None, int]:
            return trial.loss_at(self.planned), trial.number

        return sorted(self.trials, key=order)


@dataclass(frozen=True)
class Decision:
    """Trial `number` trains to step `until` in round `round`."""

    number: int
    until: int
    round: int


def list_rounds(trial_scores: Sequence[TrialScore]) -> tuple[Round, ...]:
    """Returns the rounds up to the first one that isn't over."""
    trials = [trial for trial in trial_scores if trial.out is None]
    rounds: list[Round] = []
    every_round = halving_rounds(len(trial_scores))
    for number, planned in enumerate(every_round, start=1):
        # Fewer than planned if some have dropped out.
        training = tuple(trials[: planned.trials])
        current = Round(number, planned, training)
        rounds.append(current)
        if current.waiting:
            break
        trials = current.ranking
    return tuple(rounds)


def next_decision(trial_scores: Sequence[TrialScore]) -> Decision | None:
    """Returns None if all rounds are over, or if no trial is left."""
    last = list_rounds(trial_scores)[-1]
    trial = last.waiting
    if trial is None:
        return None
    until = last.planned.steps(trial.course)
    return Decision(trial.number, until, last.number)


def steps_left(trial_scores: Sequence[TrialScore]) -> int:
    """Returns the maximum number of steps that all trials together may still train."""
    *_, now = list_rounds(trial_scores)
    left = 0
    for trial in now.trials:
        missing = now.planned.steps(trial.course) - trial.step
        left += max(0, missing)

    done = now.planned
    later_rounds = halving_rounds(len(trial_scores))[now.number :]
    for planned in later_rounds:
        further = [planned.steps(trial.course) - done.steps(trial.course) for trial in now.trials]
        # Nobody knows yet which trials go on, so those that would take longest are counted.
        further.sort(reverse=True)
        left += sum(further[: planned.trials])
        done = planned
    return left


def find_winner(trial_scores: Sequence[TrialScore]) -> TrialScore | None:
    """Returns the trial with the lowest validation loss at any step, or None if nothing was validated."""
    measured = []
    for trial in trial_scores:
        lowest = trial.lowest
        if trial.out is None and lowest is not None:
            loss, _ = lowest
            measured.append((loss, trial.number, trial))
    if not measured:
        return None
    # Of equal losses the trial with the lower number wins, at whichever step it has its loss.
    _, _, winner = min(measured, key=itemgetter(0, 1))
    return winner
