"""A run: the card that is edited in place while it goes on, the card of its end, and lists of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common import calibration, general
from bot.cards.common.blocks import (
    Actions,
    Block,
    CardBlock,
    Lines,
    Message,
    Note,
    Steps,
    Task,
    TaskStatus,
    actions,
    button,
    code,
    confirm,
    cut,
    escape,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import looks_sentence
from bot.cards.common.general import text_message, unchecked_notes, unchecked_text
from bot.cards.common.plan_money import foreseen_text
from bot.cards.common.words import (
    at_most,
    charge,
    duration,
    listed,
    percent,
    percent_done,
    pluralize,
    progress_bar,
    time_left,
    time_of_day,
)
from bot.cards.decisions.plans import DETAILS as PLAN_DETAILS
from bot.cards.decisions.plans import ONE_APPROVER, Pending, plan_title
from bot.cards.decisions.run_again import run_again_button
from bot.cards.evidence.wrong_rows import details_note
from bot.cards.training import interventions, result_details, results
from bot.rules.facts import Looks
from bot.rules.plan_settings import unusual_hyperparameters
from bot.rules.plans import Plan, format_value
from bot.rules.training.calibration import Actual, RunningError
from bot.values.runs import NOTHING_SINCE, AfterResult, Progress, RunResult
from storage.jobs import InterventionDecision
from storage.records import Run, RunState
from trainers.methods import option_name

CANCEL = "cancel_run"
PAUSE = "pause_run"
RESUME = "resume_run"
STAGES: tuple[tuple[str, tuple[RunState, ...]], ...] = (
    ("approved", ("approved",)),
    ("sent", ("creating",)),
    ("training", ("training",)),
    ("measuring", ("evaluating",)),
    ("done", ("done",)),
)
STATE_WORDS: dict[RunState, str] = {
    "awaiting_approval": "waiting for approval",
    "approved": "approved, starting",
    "creating": "being sent to the trainer",
    "training": "training",
    "evaluating": "being measured",
    "done": "done",
    "rejected": "rejected",
    "expired": "expired",
    "cancelled": "cancelled",
    "failed": "failed",
    "needs_human": "needs a decision",
}
# The same, as the end of a sentence that begins with the run.
STATE_TEXTS: dict[RunState, str] = {
    "awaiting_approval": "is waiting for approval",
    "approved": "is approved and about to start",
    "creating": "is being sent to the trainer",
    "training": "is training",
    "evaluating": "is being measured",
    "done": "is done",
    "rejected": "was rejected",
    "expired": "has expired",
    "cancelled": "was cancelled",
    "failed": "failed",
    "needs_human": "needs a decision",
}
UNDER_WAY: tuple[RunState, ...] = ("approved", "creating", "training", "evaluating")
FRESH_S = 60.0
SHOWN_SETTINGS = 3


@dataclass(frozen=True)
class RunSummary:
    """A run with everything that its cards show. `result` is None until there is one. `actuals` compares its estimates
    with the actual figures; `running` is the error of our estimates over recent runs. `may_be_used` is True if its
    model is better and not in use yet, `is_deleted` if its dataset was deleted, `is_stopped` if its machine, which is
    billed by the hour, is stopped. `looks` counts the looks at its held-out rows. `pending` is what a plan still needs
    that waits for the person's approval. `after` is what happened to its model since the result."""

    run: Run
    plan: Plan
    progress: Progress
    result: RunResult | None
    now: float
    actuals: Sequence[Actual] = ()
    running: Sequence[RunningError] = ()
    can_pause: bool = False
    decisions: Sequence[InterventionDecision] = ()
    may_be_used: bool = False
    is_deleted: bool = False
    looks: Looks | None = None
    is_stopped: bool = False
    pending: Pending = ONE_APPROVER
    after: AfterResult = NOTHING_SINCE


def no_such_run(number: int) -> str:
    return f"There is no run {number}. `/finetune runs` lists all runs."


def card(
    run: Run,
    plan: Plan,
    progress: Progress,
    now: float,
    *,
    spent_micros: int | None = None,
    can_pause: bool = False,
    as_of: float | None = None,
    decided: str = "",
    result: str = "a message below",
) -> Message:
    """Stages, step, loss, time left and cost so far. `as_of` is the time of the numbers, if the card should show it.
    `decided` says who approved the run, `result` where its result is; both are our own mrkdwn."""
    headline = _headline(run, plan)
    if progress.is_paused:
        headline = f"Run {run.id} is paused: {plan_title(plan)}"

    parts = Parts([_steps(run, plan, progress)])
    parts.text(decided)
    if run.state in ("training", "evaluating"):
        bar = progress_bar(share_done(run, progress))
        parts.text(f"{bar}, {_time_left(run, progress, now)}")
        parts.facts(_numbers(plan, progress, spent_micros))
    if as_of is not None:
        parts.note(f"Numbers as of {time_of_day(as_of)}.")
    if progress.is_paused and run.wished_by:
        parts.note(f"Paused by <@{run.wished_by}>.")
    if progress.note:
        parts.note(escape(progress.note))
    if run.state in UNDER_WAY:
        parts.add(_buttons(run, progress, can_pause))
    elif run.state == "done":
        answer = f"Ask the model with `/finetune try {run.model} your text`."
        parts.note(f"The result is in {result}. {answer}")
    elif run.state == "awaiting_approval":
        parts.note("Its plan is waiting in the channel for approval.")
    else:
        parts.note("The question is in a message below.")
    return parts.titled(headline)


def ended_card(run: Run, plan: Plan, why: str) -> Message:
    """The card of a run that ended without a result. `why` is our own mrkdwn."""
    spent = run.actual_micros or 0
    rest = "The reserved budget"
    sentences = []
    if spent:
        sentences.append(f"It has cost {charge(spent)}.")
        rest = "The rest of the reserved budget"
    # Nothing is reserved before an approval, and nothing is left after an overrun.
    if run.reserved_micros > spent:
        sentences.append(f"{rest} is free again.")
    sentences.append("`/finetune start` makes a new plan.")
    parts = Parts()
    parts.text(why)
    parts.note(" ".join(sentences))
    parts.buttons(run_again_button(run.id))
    return parts.titled(_headline(run, plan), notice=why)


def ended_notice(run: Run, name: str, why: str) -> str:
    """`name` links to the run's card."""
    return f"Your {name} {STATE_TEXTS[run.state]}. {why}"


def trainer_warning(warning: str) -> str:
    return f"The trainer warns: {escape(cut(warning, 900))}"


def listing(summaries: Sequence[RunSummary], unchecked: int = 0) -> Message:
    """`unchecked` channels have datasets whose runs are left out, because Slack did not answer about them."""
    if not summaries and unchecked:
        return text_message(unchecked_text(unchecked))
    if not summaries:
        return text_message("There are no runs yet. `/finetune start DATASET` asks the team to approve one.")
    return Message.titled(
        "The latest runs",
        Lines([*map(list_entry, summaries)]),
        *unchecked_notes(unchecked),
        Note("`/finetune status RUN` shows a run."),
    )


def list_entry(summary: RunSummary) -> str:
    """One line of a list."""
    return f"• *Run {summary.run.id}*, {escape(plan_title(summary.plan))}: {status_line(summary)}"


def details_card(summary: RunSummary) -> Message:
    if summary.result:
        return results.card(
            summary.run,
            summary.plan,
            summary.result,
            may_be_used=summary.may_be_used,
            is_deleted=summary.is_deleted,
            is_stopped=summary.is_stopped,
            after=summary.after,
        )
    if summary.run.state == "needs_human":
        return interventions.card(summary.run, summary.plan, summary.decisions)
    if summary.run.error:
        why = summary.run.error
        if summary.run.state == "rejected":
            # A person's reason is stored as typed; the other reasons are our own mrkdwn.
            why = escape(why)
        return ended_card(summary.run, summary.plan, why)
    # Many jobs are polled in turn, so the numbers may be old.
    read_at = summary.progress.shown_at
    as_of = None
    if summary.run.state == "training" and 0 < read_at < summary.now - FRESH_S:
        as_of = read_at
    return card(
        summary.run, summary.plan, summary.progress, summary.now, can_pause=summary.can_pause, as_of=as_of
    )


def details_form(summary: RunSummary) -> Block:
    """The dialog behind *Details*: what a result's card has no room for, or the current card without its buttons."""
    parts: Sequence[CardBlock] = [
        part for part in details_card(summary).parts if not isinstance(part, Actions)
    ]
    if summary.result:
        parts = _result_details(summary, summary.result)
    return general.details_modal(f"Run {summary.run.id}", parts)


def _result_details(summary: RunSummary, result: RunResult) -> Parts:
    parts = Parts(result_details.details(summary.plan, result))
    if summary.looks:
        parts.note(looks_sentence(summary.looks))
    parts.add(*calibration.estimate_comparison(summary.plan, result, summary.actuals))
    parts.add(*calibration.recent_errors(summary.running))
    if not summary.is_deleted:
        parts.add(details_note(str(summary.run.id)))
        parts.note(f"{code(f'/finetune again {summary.run.id}')} repeats it with changes.")
    return parts


def status_line(summary: RunSummary) -> str:
    """A run's progress or result; follows its name in a list."""
    if summary.result:
        headline = results.list_headline(
            summary.result, may_be_used=summary.may_be_used, is_in_use=summary.after.is_in_use
        )
        return escape(headline[:1].lower() + headline[1:])
    words = STATE_WORDS[summary.run.state]
    if summary.progress.is_paused:
        words = "paused"
    if summary.run.state == "training" and _step_text(summary.progress):
        done = f"{words}, {percent_done(share_done(summary.run, summary.progress))}% done"
        finish = summary.progress.estimated_finish
        # The estimated finish supposes that it runs.
        if summary.progress.is_paused or not finish:
            return done
        return f"{done}, {time_left(finish - summary.now)}"
    if summary.run.state != "awaiting_approval":
        return words
    # Several plans of one dataset may wait, which only these tell apart.
    chosen = [
        f"{option_name(name)} {format_value(value)}" for name, value in unusual_hyperparameters(summary.plan)
    ]
    if chosen:
        words = f"{words}, with {escape(listed(chosen, SHOWN_SETTINGS))}"
    foreseen = foreseen_text(summary.plan)
    if foreseen:
        return f"{words}; {foreseen}"
    return words


def share_done(run: Run, progress: Progress) -> float:
    """The share of the present stage that is done, 0 to 1: what the numbers beside it count, steps or answers."""
    if run.state == "evaluating" and not progress.to_evaluate:
        return 0.0
    if run.state == "evaluating":
        return progress.evaluated / progress.to_evaluate
    if progress.total_steps:
        return progress.step / progress.total_steps
    return (progress.percent or 0) / 100


def _headline(run: Run, plan: Plan) -> str:
    return f"Run {run.id} {STATE_TEXTS[run.state]}: {plan_title(plan)}"


def _at(run: Run) -> int:
    """The index of the run's stage; the number of stages if the run is over."""
    for index, (_, states) in enumerate(STAGES):
        if run.state in states:
            return index
    return len(STAGES)


def _stages(run: Run) -> str:
    current = _at(run)
    words = []
    for number, (name, _) in enumerate(STAGES):
        if number < current or run.state == "done":
            words.append(f"✓ {name}")
        elif number == current:
            words.append(f"*now {name}*")  # a screen reader doesn't say that it is bold
        else:
            words.append(name)
    return "  ›  ".join(words)


def _steps(run: Run, plan: Plan, progress: Progress) -> Steps:
    """The run's steps. A run that ended early shows how far it got."""
    approve = "Approved"
    if run.state == "awaiting_approval":
        approve = "Approve"
    train = "Train"
    step = _step_text(progress)
    if step:
        train = f"Train: {step}"
    titles = (
        f"{approve}: {at_most(plan.maximum_micros)}",
        f"Send {pluralize(plan.n_train, 'row')} to the trainer",
        train,
        f"Measure on {pluralize(plan.n_holdout, 'held-out row')}",
    )
    reached = _reached(run, progress)
    tasks = [Task(f"step {n}", title, _status(run, n, reached)) for n, title in enumerate(titles)]
    # The line of stages has no place for a run that ended early.
    stages = Parts()
    if _at(run) < len(STAGES):
        stages.text(_stages(run))
    return Steps(STATE_WORDS[run.state].capitalize(), tasks, otherwise=tuple(stages))


def _reached(run: Run, progress: Progress) -> int:
    """The index of the step that the run has come to."""
    if run.state in UNDER_WAY:
        return max(_at(run), 1)
    if run.state in ("awaiting_approval", "rejected", "expired"):
        return 0
    # It ended, and only its progress tells how far it got.
    if progress.to_evaluate:
        return 3
    if progress.running_since is not None:
        return 2
    return 1


def _step_text(progress: Progress) -> str:
    if progress.total_steps:
        return f"step {progress.step:,} of {progress.total_steps:,}"
    if progress.percent is not None:
        return f"{progress.percent}%"
    return ""


def _status(run: Run, number: int, reached: int) -> TaskStatus:
    if number < reached or run.state == "done":
        return "complete"
    if number > reached:
        return "pending"
    if run.state in UNDER_WAY:
        return "in_progress"
    if run.state == "failed":
        return "error"
    return "pending"


def _time_left(run: Run, progress: Progress, now: float) -> str:
    if run.state == "evaluating" and progress.to_evaluate:
        return f"{progress.evaluated:,} of {progress.to_evaluate:,} answers"
    if run.state == "evaluating":
        return "about to measure"
    if progress.is_paused:
        return "paused"
    if progress.estimated_finish:
        return time_left(progress.estimated_finish - now)
    return "getting ready"


def _numbers(plan: Plan, progress: Progress, spent_micros: int | None) -> list[tuple[str, str]]:
    pairs = []
    if progress.total_steps:
        pairs.append(("Step", f"{progress.step:,} of {progress.total_steps:,}"))
    if progress.reward is not None:
        # The loss of GRPO is near 0 by construction.
        pairs.append(("Mean reward", f"{progress.reward:.2f}"))
    elif progress.train_loss is not None:
        pairs.append(("Training loss", f"{progress.train_loss:.2f}"))
    if progress.preference_accuracy is not None:
        pairs.append(("Preference accuracy", percent(progress.preference_accuracy)))
    if progress.reward_margin is not None:
        pairs.append(("Reward margin", f"{progress.reward_margin:.2f}"))
    if progress.valid_loss is not None:
        pairs.append(("Validation loss", f"{progress.valid_loss:.2f}"))
    if progress.train_seconds:
        pairs.append(("Training time", duration(progress.train_seconds)))
    most = at_most(plan.maximum_micros)
    if spent_micros:
        pairs.append(("Cost so far", f"{charge(spent_micros)}, approved {most}"))
    else:
        pairs.append(("Cost", most))
    return pairs


def _buttons(run: Run, progress: Progress, can_pause: bool) -> CardBlock:
    sure = confirm(
        f"Cancel run {run.id}?",
        "The training so far is lost, and its cost stays.",
        "Cancel the run",
        "Keep it running",
    )
    number = str(run.id)
    buttons = [button("Details", PLAN_DETAILS, number)]
    if can_pause and run.state == "training" and progress.is_paused:
        buttons.append(button("Resume", RESUME, number))
    elif can_pause and run.state == "training":
        buttons.append(button("Pause", PAUSE, number))
    buttons.append(button("Cancel", CANCEL, number, style="danger", confirm=sure))
    return actions(*buttons)
