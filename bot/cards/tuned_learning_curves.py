"""A tuned model's learning curve before its result: the question about its cost, its progress, and its end."""

from __future__ import annotations

from collections.abc import Mapping

from bot.cards.blocks import (
    Facts,
    Lines,
    Message,
    Note,
    Steps,
    Task,
    TaskStatus,
    Text,
    actions,
    button,
    confirm,
    cut,
    escape,
)
from bot.cards.evaluations import CANCEL, ENDED, EXPIRY, cost_so_far
from bot.cards.plan_money import budget_left
from bot.cards.words import at_most, charge, percent_done, pluralize, progress_bar, shorten
from bot.rules.budgets import Budget
from bot.values.learning_curves import SizeProgress, SizeState, TunedCurvePlan, TunedCurveProgress
from storage.records import Measurement

TRAIN = "train_curve"
TRAINING_SHARE = 0.8
STATUSES: Mapping[SizeState, TaskStatus] = {
    "waiting": "pending",
    "creating": "in_progress",
    "training": "in_progress",
    "evaluating": "in_progress",
    "done": "complete",
}


def request_card(
    measurement: Measurement, plan: TunedCurvePlan, progress: TunedCurveProgress, budget: Budget
) -> Message:
    """What will be trained and the maximum cost, before anything is spent."""
    number = str(measurement.id)
    what = "Measure models that are trained already"
    if progress.to_train:
        what = f"Train {pluralize(progress.to_train, 'model')}"
    headline = f"{what} for {at_most(progress.most_micros)}?"
    sizes = []
    for size in progress.sizes:
        before = f": trained already by {escape(size.from_before)}" if size.from_before else ""
        sizes.append(f"• {pluralize(size.rows, 'row')}{before}")
    facts = [
        ("Cost", at_most(progress.most_micros)),
        ("Budget left", budget_left(budget)),
        ("Measured on", pluralize(plan.n_holdout, "held-out row")),
    ]
    sure = confirm(
        f"Spend {at_most(progress.most_micros)}?",
        f"{pluralize(progress.to_train, 'model')} will be trained and measured. It reserves "
        f"{charge(progress.most_micros)} of this month's budget; what is not spent becomes free again.",
        "Train",
        "Not now",
    )
    subject = f"Learning curve of {escape(shorten(plan.target))} on {escape(shorten(plan.title))}"
    same = "the same training on a quarter, half and all of the rows, each measured on every held-out row"
    train = button("Train", TRAIN, number, style="primary", confirm=sure)
    return Message.titled(
        headline,
        Text(f"{subject}: {same}."),
        Facts(facts),
        Lines(sizes),
        actions(train, button("Cancel", CANCEL, number)),
        Note(f"Measurement m{number}, requested by <@{measurement.requested_by}>. {EXPIRY}"),
        notice=subject,
    )


def progress_card(measurement: Measurement, plan: TunedCurvePlan, progress: TunedCurveProgress) -> Message:
    """The card that is edited in place."""
    headline = f"Learning curve m{measurement.id}: {_where(progress)}, {shorten(plan.target)} on {shorten(plan.title)}"
    stop = confirm(
        f"Cancel learning curve m{measurement.id}?",
        "Its job is cancelled. Models trained so far are kept, and their cost stays.",
        "Cancel it",
        "Keep it running",
    )
    steps = [Task(f"size {size.rows}", _state(plan, size), STATUSES[size.state]) for size in progress.sizes]
    return Message.titled(
        headline,
        Steps("Trained on a quarter, half and all of the rows", steps, otherwise=(_sizes(plan, progress),)),
        Text(progress_bar(_share(plan, progress))),
        Facts(_spent(progress)),
        Note(escape(cut(progress.note, 900))) if progress.note else None,
        actions(button("Cancel", CANCEL, str(measurement.id), style="danger", confirm=stop)),
    )


def closed_card(
    measurement: Measurement, plan: TunedCurvePlan, progress: TunedCurveProgress, why: str = ""
) -> Message:
    """The same card after the end, without buttons. `why` is our own mrkdwn."""
    ended = ENDED[measurement.state]
    headline = f"Learning curve m{measurement.id} {ended}: {shorten(plan.target)} on {shorten(plan.title)}"
    trained = [size for size in progress.sizes if size.model and size.from_before is None]
    again = "Trained models are kept. Asking for the same curve again trains only the missing ones."
    sizes = (_sizes(plan, progress), Facts(_spent(progress))) if progress.sizes else ()
    return Message.titled(
        headline, Text(why) if why else None, *sizes, Note(again) if trained else None, notice=why
    )


def progress_line(plan: TunedCurvePlan, progress: TunedCurveProgress) -> str:
    """The progress of an open curve; follows its name in a list."""
    match progress.stage:
        case "preparing":
            return "preparing its rows"
        case "asking":
            return f"waiting for confirmation, {at_most(progress.most_micros)}"
        case "training":
            return f"{_where(progress)}, {percent_done(_share(plan, progress))}% done"
        case "judging":
            return "being calculated"


def _where(progress: TunedCurveProgress) -> str:
    if progress.current_index is None:
        return "calculating the result"
    return f"size {progress.current_index + 1} of {len(progress.sizes)}"


def _sizes(plan: TunedCurvePlan, progress: TunedCurveProgress) -> Lines:
    return Lines([f"• {escape(_state(plan, size))}" for size in progress.sizes])


def _state(plan: TunedCurvePlan, size_progress: SizeProgress) -> str:
    rows = pluralize(size_progress.rows, "row")
    match size_progress.state:
        case "waiting":
            return f"{rows}: waiting"
        case "creating":
            return f"{rows}: being sent to the trainer"
        case "training":
            progress = size_progress.training
            steps = f", step {progress.step:,} of {progress.total_steps:,}" if progress.total_steps else ""
            return f"{rows}: training{steps}"
        case "evaluating":
            done = size_progress.answered + len(size_progress.declined)
            return f"{rows}: {_trained(size_progress)}, {done:,} of {plan.n_holdout:,} held-out rows answered"
        case "done":
            return f"{rows}: {_trained(size_progress)} and measured"


def _trained(progress: SizeProgress) -> str:
    return f"trained by {progress.from_before}" if progress.from_before else "trained"


def _share(plan: TunedCurvePlan, progress: TunedCurveProgress) -> float:
    """The share that is done, 0 to 1, weighted by rows, since larger sizes take longer."""
    rows = sum(size.rows for size in progress.sizes)
    return sum(size.rows * _share_of(plan, size) for size in progress.sizes) / rows if rows else 0.0


def _share_of(plan: TunedCurvePlan, progress: SizeProgress) -> float:
    """The share of one size that is done: training counts four fifths, measuring the rest."""
    trained = progress.training.step / progress.training.total_steps if progress.training.total_steps else 0.0
    match progress.state:
        case "waiting" | "creating":
            return 0.0
        case "training":
            return TRAINING_SHARE * trained
        case "evaluating":
            answered = (progress.answered + len(progress.declined)) / max(plan.n_holdout, 1)
            return TRAINING_SHARE + (1 - TRAINING_SHARE) * answered
        case "done":
            return 1.0


def _spent(progress: TunedCurveProgress) -> list[tuple[str, str]]:
    done = sum(size.state == "done" for size in progress.sizes)
    sizes = ("Sizes", f"{done} of {len(progress.sizes)} measured")
    return [sizes, cost_so_far(progress.booked_micros, progress.most_micros, progress.lost_micros)]
