"""A run that needs a person: why, what can be decided, who has said what, and what came of it."""

from __future__ import annotations

from collections.abc import Sequence

from bot.decisions.doubts import WORDS_NEEDED
from bot.decisions.planning import Plan
from bot.views.blocks import (
    Block,
    Message,
    actions,
    button,
    context,
    escape,
    header,
    modal,
    plain,
    section,
)
from bot.views.plans import what
from bot.views.words import at_most
from storage.doubts import Choice, Word
from storage.records import Run

FORM = "doubt_form"
BUTTONS: dict[str, Choice] = {"doubt_retry": "retry", "doubt_adopt": "adopt", "doubt_give_up": "give_up"}
TITLES: dict[Choice, str] = {
    "retry": "It was never started",
    "adopt": "It runs under an id",
    "give_up": "Give it up",
}
SAYS: dict[Choice, str] = {
    "retry": "says that it was never started and may be tried again",
    "adopt": "says that it runs as job",
    "give_up": "gives it up",
}
MEANS: dict[Choice, str] = {
    "retry": "The bot looks for the job once more, and for twelve minutes; only then it creates one. The money stays "
    "reserved for that. A job that you overlooked would be paid twice, so two approvers have to say it.",
    "adopt": "The job is looked at there: it has to carry our key, or to have this plan's model, settings and file, "
    "and to belong to no other run. Then the run goes on with it.",
    "give_up": "A job that the bot finds there is cancelled and what it has cost is settled; without one all of the "
    "reserved money is free again. Two approvers have to say it.",
}


def card(run: Run, plan: Plan, words: Sequence[Word], note: str | None = None) -> Message:
    """With the buttons. The run's `error` is ours and may hold mrkdwn."""
    headline = f"Run {run.id} needs a person: {what(plan)}"
    why = run.error or ""
    said = [section("\n".join(_word(one) for one in words))] if words else []
    return Message(
        f"{escape(headline)}. {why}",
        (
            header(headline),
            section(why),
            section(
                f"{at_most(plan.maximum_micros).capitalize()} stay reserved. Look at {escape(run.provider)}'s list of "
                f"jobs for one with `finetune_key` {run.key}, then decide."
            ),
            *said,
            *([context(escape(note))] if note else []),
            actions(*(button(TITLES[choice], action, str(run.id)) for action, choice in BUTTONS.items())),
            context(
                "Approvers decide who neither asked for the run nor uploaded its data; each says why. The decision is "
                "kept in the audit log."
            ),
        ),
    )


def settled(run: Run, plan: Plan, words: Sequence[Word], outcome: str) -> Message:
    """The buttons gave way to what came of it. `outcome` is ours and may hold mrkdwn."""
    headline = f"Run {run.id} was decided on: {what(plan)}"
    said = "\n".join([*(_word(one, waits=False) for one in words), outcome])
    return Message(
        f"{escape(headline)}. {outcome}", (header(headline), section(run.error or ""), section(said))
    )


def form(choice: Choice, run: Run) -> Block:
    return modal(
        TITLES[choice],
        FORM,
        [section(MEANS[choice]), *([_job_id()] if choice == "adopt" else []), _reason()],
        submit="Decide",
        private=f"{choice} {run.id}",
    )


def about(private: str) -> tuple[Choice, int]:
    """What a form that comes back is about: the choice, and the run's number."""
    choice, number = private.split()
    return next(one for one in TITLES if one == choice), int(number)


def _word(word: Word, *, waits: bool = True) -> str:
    job = f" {escape(word.job_id)}" if word.job_id else ""
    missing = WORDS_NEEDED[word.choice] - 1
    wants = " One more approver has to say so." if waits and word.outcome is None and missing else ""
    void = f" Not carried out: {word.outcome}" if word.outcome else ""
    return f"• <@{word.person}> {SAYS[word.choice]}{job}: {escape(word.reason)}.{wants}{void}"


def _job_id() -> Block:
    return {
        "type": "input",
        "block_id": "job",
        "label": plain("Id of the job at the provider", 75),
        "element": {"type": "plain_text_input", "action_id": "value", "max_length": 200},
    }


def _reason() -> Block:
    return {
        "type": "input",
        "block_id": "reason",
        "label": plain("How do you know?", 75),
        "element": {"type": "plain_text_input", "action_id": "value", "multiline": True, "max_length": 300},
    }
