"""A run as it goes: the card that is edited in place, its end, and lists."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.decisions.planning import Plan
from bot.results import Progress, RunResult
from bot.views import results
from bot.views.blocks import (
    Block,
    Message,
    actions,
    button,
    confirm,
    context,
    escape,
    fields,
    header,
    section,
)
from bot.views.words import bar, duration, left, money
from storage.records import Run, RunState

CANCEL, DETAILS = "cancel_run", "run_details"
STAGES: tuple[tuple[str, tuple[RunState, ...]], ...] = (
    ("approved", ("approved",)),
    ("sent", ("creating",)),
    ("training", ("training",)),
    ("measuring", ("evaluating",)),
    ("done", ("done",)),
)
STATE_WORDS: dict[RunState, str] = {
    "awaiting_approval": "waits for approval",
    "approved": "approved, starting",
    "creating": "being sent to the trainer",
    "training": "training",
    "evaluating": "being measured",
    "done": "done",
    "rejected": "rejected",
    "expired": "expired",
    "cancelled": "cancelled",
    "failed": "failed",
    "needs_human": "needs a person",
}
TRAINING_SHARE = 0.8


@dataclass(frozen=True)
class Look:
    """One run from all sides. `result` once there is one."""

    run: Run
    plan: Plan
    progress: Progress
    result: RunResult | None
    now: float


def card(run: Run, plan: Plan, progress: Progress, now: float) -> Message:
    """Stages, step, loss, time left, cost so far."""
    headline = f"Run {run.id}: {plan.base_model} on {plan.dataset} {_headline(run)}"
    blocks: list[Block] = [header(headline), section(_stages(run))]
    if run.state in ("training", "evaluating"):
        blocks += [section(f"{bar(share_done(run, progress))}  {_time_left(run, progress, now)}")]
        blocks += [fields(_numbers(plan, progress))]
    if progress.note:
        blocks.append(context(escape(progress.note)))
    if run.state in ("approved", "creating", "training", "evaluating"):
        blocks.append(_buttons(run))
    return Message(headline, tuple(blocks))


def ended(run: Run, plan: Plan, why: str) -> Message:
    """`why` is ours and may hold mrkdwn."""
    headline = f"Run {run.id} {STATE_WORDS[run.state]}: {plan.base_model} on {plan.dataset}"
    return Message(f"{headline}. {why}", (header(headline), section(why), context(_next_step(run))))


def ended_short(run: Run, why: str) -> str:
    return f"Your run {run.id} {STATE_WORDS[run.state]}. {why}"


def listing(looks: Sequence[Look]) -> Message:
    if not looks:
        text = "Nothing is running. `/finetune runs` lists what ran before, `/finetune start DATASET` starts."
        return Message(text, (section(text),))
    lines = [
        f"• *{look.run.id}*  {escape(look.plan.base_model)} on {escape(look.plan.dataset)}: {_line(look)}"
        for look in looks
    ]
    return Message(f"{len(looks)} runs", (header("Runs"), section("\n".join(lines))))


def look(seen: Look) -> Message:
    if seen.result:
        return results.card(seen.run, seen.plan, seen.result)
    if seen.run.error:
        return ended(seen.run, seen.plan, seen.run.error)
    return card(seen.run, seen.plan, seen.progress, seen.now)


def share_done(run: Run, progress: Progress) -> float:
    """Of the whole run: training is four fifths, measuring the rest."""
    trained = progress.step / progress.total_steps if progress.total_steps else 0.0
    if run.state == "evaluating":
        measured = progress.evaluated / progress.to_evaluate if progress.to_evaluate else 0.0
        return TRAINING_SHARE + (1 - TRAINING_SHARE) * measured
    return TRAINING_SHARE * trained


def _headline(run: Run) -> str:
    return STATE_WORDS[run.state]


def _stages(run: Run) -> str:
    reached = [run.state in states for _, states in STAGES]
    at = reached.index(True) if True in reached else len(STAGES)
    words = []
    for number, (name, _) in enumerate(STAGES):
        is_done = number < at or run.state == "done"
        words.append(f"✓ {name}" if is_done else f"*{name}*" if number == at else name)
    return STATE_WORDS[run.state] if at == len(STAGES) else "  ›  ".join(words)


def _time_left(run: Run, progress: Progress, now: float) -> str:
    if run.state == "evaluating":
        return (
            f"{progress.evaluated} of {progress.to_evaluate} answers"
            if progress.to_evaluate
            else "starting to ask"
        )
    if progress.estimated_finish:
        return left(progress.estimated_finish - now)
    return "getting ready"


def _numbers(plan: Plan, progress: Progress) -> list[tuple[str, str]]:
    pairs = []
    if progress.total_steps:
        pairs.append(("Step", f"{progress.step:,} of {progress.total_steps:,}"))
    if progress.train_loss is not None:
        pairs.append(("Training loss", f"{progress.train_loss:.3f}"))
    if progress.valid_loss is not None:
        pairs.append(("Validation loss", f"{progress.valid_loss:.3f}"))
    pairs.append(
        ("On the machine", duration(progress.train_seconds) if progress.train_seconds else "not yet")
    )
    pairs.append(("Approved", f"up to {money(plan.maximum_micros)}"))
    return pairs


def _buttons(run: Run) -> Block:
    sure = confirm(
        f"Cancel run {run.id}?",
        "What was trained so far is lost; what it has cost so far stays spent.",
        "Cancel the run",
        "Let it go on",
    )
    number = str(run.id)
    return actions(
        button("Details", DETAILS, number), button("Cancel", CANCEL, number, style="danger", confirm=sure)
    )


def _line(look: Look) -> str:
    words = STATE_WORDS[look.run.state]
    if look.result:
        return f"{words}, {results.in_short(look.result)}"
    if look.run.state == "training" and look.progress.total_steps:
        return f"{words}, step {look.progress.step:,} of {look.progress.total_steps:,}"
    return words


def _next_step(run: Run) -> str:
    if run.state == "needs_human":
        return "Its budget stays reserved until a person has looked at the trainer and decided."
    return "The reserved budget is free again. `/finetune start` makes a new plan."
