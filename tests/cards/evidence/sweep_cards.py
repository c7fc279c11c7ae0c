"""Cards of a sweep: its request, and the table of its trials."""

from __future__ import annotations

from dataclasses import replace

from bot.cards.common.blocks import Message
from bot.cards.decisions import estimates, plans
from bot.cards.evidence import sweeps
from bot.rules.plans import SweepPlan, trial_count_text
from tests.cards import builders
from tests.cards.builders import BUDGET, HASH
from trainers.hyperparameters import Sweep
from trainers.types import SweepTrial

SWEEP: Sweep = (("lora_r", (8, 16)), ("learning_rate", (0.0005, 0.001)))
SWEPT = SweepPlan(SWEEP, HASH, HASH, 720, 80, 540, "0.1")
NO_MEMORY = (
    "out after step 12: Memory is too small for one row of 900 tokens at a time. "
    "Set max_length or lora_r lower."
)


def values(rank: int, rate: str) -> tuple[tuple[str, str], ...]:
    return (("lora_r", str(rank)), ("learning_rate", rate))


TRIALS = (
    SweepTrial(1, values(8, "0.0005"), 68, 270, 0.8123, 0.712, 61.0, "stopped after round 1"),
    SweepTrial(2, values(8, "0.001"), 135, 270, 0.5012, 0.802, 130.2, "stopped after round 2"),
    SweepTrial(3, values(16, "0.0005"), 12, 270, None, None, 11.0, NO_MEMORY),
    SweepTrial(4, values(16, "0.001"), 270, 270, 0.3120, 0.934, 251.0, "won"),
)


def cards() -> dict[str, Message]:
    plan = builders.plan(swept=SWEPT, base_model="smollm2-135m", provider="local")
    none_won = [replace(trial, outcome="not finished") for trial in TRIALS[:2]]
    return {
        "plan-asked-sweep": plans.approval_card(
            builders.run("awaiting_approval"), plan, BUDGET, plans.ONE_APPROVER
        ),
        "estimate-sweep": estimates.card(
            replace(builders.estimate_summary(), sweep_note=trial_count_text(SWEEP)),
            "local/smollm2-135m",
            number=4,
        ),
        "sweep-trials": sweeps.table(plan, TRIALS),
        "sweep-trials-unfinished": sweeps.table(plan, none_won),
    }
