"""The trials of a sweep, in the thread of its result: the winner, and how far the others got. The plan's card names the
values that are tried (plan_training.py)."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.common.blocks import NOTHING, Message, Table, escape
from bot.cards.common.builder import Parts
from bot.cards.common.words import duration, percent, pluralize, shorten
from bot.rules.plans import Plan, format_value
from trainers.types import SweepTrial

WON = "won"  # the outcome of a sweep's best trial


def table(plan: Plan, trials: Sequence[SweepTrial]) -> Message:
    """A line for each trial, the winner first, then by validation loss; trials without a loss are last."""
    # All trials of a sweep choose values for the same names.
    names = [name for name, _ in trials[0].chosen]
    heading = ["trial", *names, "steps", "loss", "token acc.", "time", "outcome"]
    ranked = sorted(trials, key=_rank)
    winner = _winner(trials)
    parts = Parts()
    parts.text(winner)
    parts.add(Table([heading, *map(_row, ranked)]))
    for trial in trials:
        if trial.is_out:
            parts.text(f"• Trial {trial.number}: {escape(trial.outcome)}")
    parts.note(_method(plan))
    title = f"Sweep on {shorten(plan.dataset)}: {pluralize(len(trials), 'trial')}"
    return parts.titled(title, notice=winner)


def _winner(trials: Sequence[SweepTrial]) -> str:
    for trial in trials:
        if trial.outcome == WON:
            chosen = ", ".join(f"{name} {format_value(value)}" for name, value in trial.chosen)
            return f"Trial {trial.number} won: {escape(chosen)}. It is the tuned model of this run."
    return "No trial has won."


def _rank(trial: SweepTrial) -> tuple[bool, bool, float]:
    return trial.outcome != WON, trial.valid_loss is None, trial.valid_loss or 0.0


def _method(plan: Plan) -> str:
    rows = 0
    if plan.swept:
        rows = plan.swept.n_validation
    return (
        f"Chosen on {rows:,} training rows; the worse half stopped at each round. Token accuracy is the share of "
        "single tokens, not of right answers."
    )


def _row(trial: SweepTrial) -> list[str]:
    name = str(trial.number)
    if trial.outcome == WON:
        name += " ★"
    loss = NOTHING
    if trial.valid_loss is not None:
        loss = f"{trial.valid_loss:.3f}"
    accuracy = NOTHING
    if trial.valid_accuracy is not None:
        accuracy = percent(trial.valid_accuracy)
    outcome = trial.outcome
    if trial.is_out:
        # Why it is out is a sentence, which stands below the table.
        outcome = "out"
    return [
        name,
        *(format_value(value) for _, value in trial.chosen),
        f"{trial.step:,}/{trial.total_steps:,}",
        loss,
        accuracy,
        duration(trial.seconds),
        outcome,
    ]
