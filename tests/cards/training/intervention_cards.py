"""Cards and forms of runs that need a person's decision, and cards of orphan jobs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bot.cards.common.blocks import Message
from bot.cards.training import interventions
from storage.jobs import InterventionDecision
from tests.cards import builders
from tests.cards.builders import BEN, NOW
from trainers.types import Job

WHY = "The trainer was asked 5 times to create the job and gave no clear answer."
YES = InterventionDecision(1, 7, NOW, "retry", None, BEN, "Nothing is listed there since noon", NOW, None)
VOID = InterventionDecision(
    2, 7, NOW, "adopt", "ftjob-1", BEN, "it is this one", NOW, "job ftjob-1 belongs to run 6."
)
ORPHAN = Job("ftjob-9", "running", "gpt-4.1-mini", int(NOW), metadata={"run": "8", "plan": "abc"})


def cards() -> dict[str, Message]:
    run, plan = replace(builders.run("needs_human"), error=WHY), builders.plan()
    return {
        "doubt": interventions.card(run, plan, ()),
        "doubt-unexplained": interventions.card(replace(run, error=None), plan, ()),
        "doubt-with-words": interventions.card(run, plan, [VOID, YES], "No answer in time. Looking again."),
        "doubt-settled": interventions.settled_card(
            run, plan, [YES], "Job ftjob-1 was found there and is taken over, not created again."
        ),
        "stray-second": interventions.duplicate_job("Run 7", "openai", ORPHAN),
        "stray-wanted-no-more": interventions.cancelled_job("Run 7", "openai", ORPHAN),
        "stray-runs-on": interventions.job_still_running("Run 7", "openai", ORPHAN),
        "stray-unknown": interventions.unknown_job("openai", ORPHAN),
    }


def forms() -> dict[str, Any]:
    run = builders.run("needs_human")
    return {f"form-doubt-{choice}": interventions.form(choice, run) for choice in interventions.TITLES}
