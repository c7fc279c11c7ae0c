"""Cards that need a person: a run whose job may already exist at its provider, the choices and the outcome; and
messages about jobs that should not exist."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.common.blocks import Block, CardBlock, Message, Text, button, code, escape
from bot.cards.common.builder import Parts
from bot.cards.common.forms import modal, required_text_input
from bot.cards.common.general import text_message
from bot.cards.common.words import at_most, capitalize
from bot.cards.decisions.plans import plan_title
from bot.rules.permissions import VOTES_NEEDED
from bot.rules.plans import Plan
from storage.jobs import InterventionChoice, InterventionDecision
from storage.records import Run
from trainers.types import Job

FORM = "doubt_form"
BUTTONS: dict[str, InterventionChoice] = {
    "doubt_retry": "retry",
    "doubt_adopt": "adopt",
    "doubt_give_up": "give_up",
}
TITLES: dict[InterventionChoice, str] = {
    "retry": "It never started",
    "adopt": "It is running",
    "give_up": "Give it up",
}
SAYS: dict[InterventionChoice, str] = {
    "retry": "says that it never started and may be tried again",
    "adopt": "says that it is running as job",
    "give_up": "gives it up",
}
MEANS: dict[InterventionChoice, str] = {
    "retry": "The bot looks for the job for another twelve minutes and then creates a new one. The money stays "
    "reserved. If the job does exist, it would be paid for twice, so two approvers have to confirm this.",
    "adopt": "The bot checks the job: it must have our key, or this plan's model, settings and file, and belong to no "
    "other run. Then the run continues with it.",
    "give_up": "If the bot finds the job, it cancels it and books its cost; otherwise all of the reserved money is "
    "free again. Two approvers have to confirm this.",
}


def card(run: Run, plan: Plan, decisions: Sequence[InterventionDecision], note: str | None = None) -> Message:
    """The question with its buttons. The run's `error` is our own mrkdwn."""
    why = run.error or ""
    check = f"Check {escape(run.provider)}'s list of jobs for one with `finetune_key` {run.key}, then decide."
    if plan.maximum_micros:
        check = f"{capitalize(at_most(plan.maximum_micros))} stays reserved. {check}"

    parts = Parts()
    parts.text(why)
    parts.text(check)
    parts.text("\n".join(map(_line, decisions)))
    if note:
        parts.note(escape(note))
    buttons = [button(TITLES[choice], action, str(run.id)) for action, choice in BUTTONS.items()]
    parts.buttons(*buttons)
    parts.note(
        "Needs approvers who neither requested the run nor uploaded its data. Decisions and reasons are kept in the "
        "audit log."
    )
    return parts.titled(f"Run {run.id} needs a decision: {plan_title(plan)}", notice=why)


def settled_card(run: Run, plan: Plan, decisions: Sequence[InterventionDecision], outcome: str) -> Message:
    """The same card with the outcome in place of the buttons. `outcome` is our own mrkdwn."""
    headline = f"Run {run.id} was decided: {plan_title(plan)}"
    parts = Parts()
    parts.text(run.error or "")
    lines = [_line(decision, waits=False) for decision in decisions]
    parts.text("\n".join([*lines, outcome]))
    return parts.titled(headline, notice=outcome)


def form(choice: InterventionChoice, run: Run) -> Block:
    fields: list[CardBlock | Block] = [Text(MEANS[choice])]
    if choice == "adopt":
        fields.append(required_text_input("job", "Job id at the provider", most=200, multiline=False))
    fields.append(required_text_input("reason", "How do you know?", most=300))
    return modal(TITLES[choice], FORM, fields, submit="Decide", private=f"{choice} {run.id}")


def parse_metadata(private: str) -> tuple[InterventionChoice, int]:
    """The choice and the run's number from a submitted form's private metadata."""
    choice, number = private.split()
    return next(title for title in TITLES if title == choice), int(number)


def _line(decision: InterventionDecision, *, waits: bool = True) -> str:
    says = SAYS[decision.choice]
    if decision.job_id:
        says += f" {escape(decision.job_id)}"
    line = f"• <@{decision.person}> {says}: {escape(decision.reason)}."
    if decision.outcome:
        line += f" Not done: {decision.outcome}"
    elif waits and decision.outcome is None and VOTES_NEEDED[decision.choice] > 1:
        line += " One more approver has to confirm this."
    return line


def duplicate_job(owner: str, provider: str, extra: Job) -> Message:
    """A second job of `owner` (like 'Run 3') was cancelled."""
    return text_message(
        f"*{owner} had a second job at {escape(provider)}*: {code(extra.id)} was cancelled. Its cost until then is on "
        f"{escape(provider)}'s bill and not in the budget here, so check the bill."
    )


def cancelled_job(owner: str, provider: str, job: Job) -> Message:
    """A job that outlived its cancelled owner was cancelled."""
    return text_message(
        f"*{owner} was cancelled, but its job was still running at {escape(provider)}*: {code(job.id)} is now "
        f"cancelled there. Its cost is on {escape(provider)}'s bill and not in the budget here."
    )


def job_still_running(owner: str, provider: str, job: Job) -> Message:
    """A job that still runs after its owner ended. Nothing was done about it."""
    return text_message(
        f"*{owner} is over, but its job is still running at {escape(provider)}*: {code(job.id)}, {escape(job.status)}. "
        "It is still being billed. Cancel it there, unless another bot with a copy of this database uses "
        "the same account."
    )


def unknown_job(provider: str, job: Job) -> Message:
    """A job that belongs to no run here. Nothing was done about it, since it may be another bot's."""
    labels = [
        f"{name} {value}" for name, value in sorted(job.metadata.items()) if name in ("run", "measurement")
    ]
    about = f"{code(job.id)}, {escape(job.model)}, {escape(job.status)}"
    if labels:
        about += f" (labelled {escape(', '.join(labels))})"
    return text_message(
        f"*A job at {escape(provider)} has a Finetune key but belongs to no run here*: {about}. If another "
        "Finetune uses this account, the job is probably its own. If you restored a backup, the job started after the "
        "backup was made: it costs money that is in no budget here. Cancel it there, or let it end and take its model "
        "from there."
    )
