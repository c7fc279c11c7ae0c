"""What needs a person: a run whose job may exist twice, its choices and outcome, and jobs at a provider that
no run knows."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.blocks import Block, Message, Note, Text, actions, button, code, escape
from bot.cards.forms import modal, required_text_input
from bot.cards.general import text_message
from bot.cards.plans import plan_title
from bot.cards.words import at_most
from bot.rules.permissions import WORDS_NEEDED
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
    "retry": "It was never started",
    "adopt": "It runs under an id",
    "give_up": "Give it up",
}
SAYS: dict[InterventionChoice, str] = {
    "retry": "says that it was never started and may be tried again",
    "adopt": "says that it runs as job",
    "give_up": "gives it up",
}
MEANS: dict[InterventionChoice, str] = {
    "retry": "The bot looks for the job once more, and for twelve minutes; only then it creates one. The money stays "
    "reserved for that. A job that you overlooked would be paid twice, so two approvers have to say it.",
    "adopt": "The job is looked at there: it has to carry our key, or to have this plan's model, settings and file, "
    "and to belong to no other run. Then the run goes on with it.",
    "give_up": "A job that the bot finds there is cancelled and what it has cost is settled; without one all of the "
    "reserved money is free again. Two approvers have to say it.",
}


def card(run: Run, plan: Plan, decisions: Sequence[InterventionDecision], note: str | None = None) -> Message:
    """The question, with its buttons. The run's `error` is ours and may hold mrkdwn."""
    headline = f"Run {run.id} needs a person: {plan_title(plan)}"
    why = run.error or ""
    return Message.titled(
        headline,
        Text(why),
        Text(
            f"{at_most(plan.maximum_micros).capitalize()} stay reserved. Look at {escape(run.provider)}'s list of "
            f"jobs for one with `finetune_key` {run.key}, then decide."
        ),
        Text("\n".join(map(_line, decisions))) if decisions else None,
        Note(escape(note)) if note else None,
        actions(*(button(TITLES[choice], action, str(run.id)) for action, choice in BUTTONS.items())),
        Note(
            "Approvers decide who neither asked for the run nor uploaded its data; each says why. The decision is "
            "kept in the audit log."
        ),
        notice=why,
    )


def settled_card(run: Run, plan: Plan, decisions: Sequence[InterventionDecision], outcome: str) -> Message:
    """The same card with the outcome in the buttons' place. `outcome` is ours and may hold mrkdwn."""
    headline = f"Run {run.id} was decided on: {plan_title(plan)}"
    text = "\n".join([*(_line(decision, waits=False) for decision in decisions), outcome])
    return Message.titled(headline, Text(run.error or ""), Text(text), notice=outcome)


def form(choice: InterventionChoice, run: Run) -> Block:
    job_id = required_text_input("job", "Id of the job at the provider", most=200, multiline=False)
    reason = required_text_input("reason", "How do you know?", most=300)
    return modal(
        TITLES[choice],
        FORM,
        [Text(MEANS[choice]), *([job_id] if choice == "adopt" else []), reason],
        submit="Decide",
        private=f"{choice} {run.id}",
    )


def parse_metadata(private: str) -> tuple[InterventionChoice, int]:
    """What a form that comes back is about: the choice, and the run's number."""
    choice, number = private.split()
    return next(title for title in TITLES if title == choice), int(number)


def _line(decision: InterventionDecision, *, waits: bool = True) -> str:
    job = f" {escape(decision.job_id)}" if decision.job_id else ""
    is_first = waits and decision.outcome is None and WORDS_NEEDED[decision.choice] > 1
    wants = " One more approver has to say so." if is_first else ""
    void = f" Not carried out: {decision.outcome}" if decision.outcome else ""
    return f"• <@{decision.person}> {SAYS[decision.choice]}{job}: {escape(decision.reason)}.{wants}{void}"


def duplicate_job(owner: str, provider: str, extra: Job) -> Message:
    """A second job of `owner`, as 'Run 3', which was cancelled."""
    return text_message(
        f"*{owner} had a second job at {escape(provider)}*: {code(extra.id)} was cancelled. What it has cost until "
        f"then is on {escape(provider)}'s bill and not in the budget here: look at the bill."
    )


def cancelled_job(owner: str, provider: str, job: Job) -> Message:
    """A job that was cancelled because a person had cancelled what it belongs to."""
    return text_message(
        f"*{owner} was cancelled, and its job still ran at {escape(provider)}*: {code(job.id)} was cancelled there "
        f"now. What it has cost is on {escape(provider)}'s bill and not in the budget here."
    )


def job_still_running(owner: str, provider: str, job: Job) -> Message:
    """A job that runs on after its owner's end. Nothing was done about it."""
    return text_message(
        f"*{owner} is over, and its job still runs at {escape(provider)}*: {code(job.id)}, {escape(job.status)}. "
        "It is still being billed. Cancel it there, unless another bot with a copy of this database uses "
        "the same account."
    )


def unknown_job(provider: str, job: Job) -> Message:
    """A job that no run here knows. Nothing was done about it: it may be another bot's."""
    about = ", ".join(
        f"{name} {value}" for name, value in sorted(job.metadata.items()) if name in ("run", "measurement")
    )
    return text_message(
        f"*A job at {escape(provider)} carries a key of a Finetune, and no run here knows it*: {code(job.id)}, "
        f"{escape(job.model)}, {escape(job.status)}{f' (it names itself {escape(about)})' if about else ''}. After a "
        "restore it is a run that the backup doesn't know: it goes on and costs, and no budget here holds its money. "
        "Cancel it there, or let it end and take its model from there. If another Finetune uses this account, it is "
        "that one's."
    )
