"""Cards of runs in doubt and of stray jobs, with their forms."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bot.views import doubts, strays
from bot.views.blocks import Message
from storage.doubts import Word
from tests.views import made
from tests.views.made import BEN, NOW
from trainers.types import Job

WHY = "Creating the job stayed without a clear answer 5 times."
YES = Word(1, 7, NOW, "retry", None, BEN, "Nothing is listed there since noon", NOW, None)
VOID = Word(2, 7, NOW, "adopt", "ftjob-1", BEN, "it is this one", NOW, "job ftjob-1 is that of run 6.")
STRAY = Job("ftjob-9", "running", "gpt-4.1-mini", int(NOW), metadata={"run": "8", "plan": "abc"})


def cards() -> dict[str, Message]:
    run, plan = replace(made.run("needs_human"), error=WHY), made.plan()
    return {
        "doubt": doubts.card(run, plan, ()),
        "doubt-with-words": doubts.card(run, plan, [VOID, YES], "No answer in time. Looking again."),
        "doubt-settled": doubts.settled(
            run, plan, [YES], "Job ftjob-1 was found there and is taken over, not created again."
        ),
        "stray-second": strays.second("Run 7", "openai", STRAY),
        "stray-wanted-no-more": strays.wanted_no_more("Run 7", "openai", STRAY),
        "stray-runs-on": strays.runs_on("Run 7", "openai", STRAY),
        "stray-unknown": strays.unknown("openai", STRAY),
    }


def forms() -> dict[str, Any]:
    run = made.run("needs_human")
    return {f"form-doubt-{choice}": doubts.form(choice, run) for choice in doubts.TITLES}
