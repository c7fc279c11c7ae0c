"""A sweep's arms in the thread of the result: one line an arm, the winner marked."""

from __future__ import annotations

from collections.abc import Sequence

from bot.decisions.planning import Plan
from bot.decisions.sweeping import number
from bot.views.blocks import Message, context, escape, header, section
from bot.views.tables import monospaced
from bot.views.words import counted, duration, percent, short
from trainers.types import SweepArm

WON = "won"


def table(plan: Plan, arms: Sequence[SweepArm]) -> Message:
    """From the lowest validation loss to the highest; arms without one last."""
    names = [name for name, _ in arms[0].chosen]
    heading = ["arm", *names, "steps", "loss", "right", "time", "outcome"]
    title = f"Sweep on {short(plan.dataset)}: {counted(len(arms), 'arm')}"
    said = [
        section(f"• Arm {arm.number}: {escape(arm.outcome)}") for arm in arms if arm.outcome.startswith("out")
    ]
    return Message(
        f"{escape(title)}. {_in_short(arms)}",
        (
            header(title),
            section(_in_short(arms)),
            monospaced([heading, *(_row(arm) for arm in sorted(arms, key=_place))]),
            *said,
            context(_method(plan)),
        ),
    )


def _in_short(arms: Sequence[SweepArm]) -> str:
    won = next((arm for arm in arms if arm.outcome == WON), None)
    if won is None:
        return "No arm has won."
    chosen = ", ".join(f"{name} {number(value)}" for name, value in won.chosen)
    return f"Arm {won.number} won: {escape(chosen)}. It is the tuned model of this run."


def _place(arm: SweepArm) -> tuple[bool, bool, float]:
    return arm.outcome != WON, arm.valid_loss is None, arm.valid_loss or 0.0


def _row(arm: SweepArm) -> list[str]:
    return [
        f"{arm.number} ★" if arm.outcome == WON else f"{arm.number}",
        *(number(value) for _, value in arm.chosen),
        f"{arm.step:,}/{arm.total_steps:,}",
        "–" if arm.valid_loss is None else f"{arm.valid_loss:.3f}",
        "–" if arm.valid_accuracy is None else percent(arm.valid_accuracy),
        duration(arm.seconds),
        "out" if arm.outcome.startswith("out") else arm.outcome,
    ]


def _method(plan: Plan) -> str:
    rows = plan.swept.n_validation if plan.swept else 0
    return (
        f"Loss and tokens right on {rows:,} training rows that were kept back, each arm at its best validation. The "
        "worse half stopped at each rung (successive halving). The held-out rows chose nothing: they measured the "
        "winner alone."
    )
