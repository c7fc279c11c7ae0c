"""A tuned model's learning curve before its result: what it would train and cost, how far it is, how it
ended."""

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
from bot.cards.evaluations import CANCEL, ENDED, NO_YES, cost_so_far
from bot.cards.plans import budget_left
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
    """What will be trained and what it costs at most, before anything is spent."""
    number = str(measurement.id)
    what = "Ask models that are trained already"
    if progress.to_train:
        what = f"Train {pluralize(progress.to_train, 'time')}"
    headline = f"{what} for {at_most(progress.most_micros)}?"
    sizes = []
    for size in progress.sizes:
        before = f": trained before, by {escape(size.from_before)}" if size.from_before else ""
        sizes.append(f"• {pluralize(size.rows, 'row')}{before}")
    facts = [
        ("Cost", at_most(progress.most_micros)),
        ("Budget left", budget_left(budget)),
        ("Measured on", pluralize(plan.n_holdout, "test row")),
    ]
    sure = confirm(
        f"Spend {at_most(progress.most_micros)}?",
        f"{pluralize(progress.to_train, 'model')} will be trained and measured. It reserves "
        f"{charge(progress.most_micros)} of this month's budget; what is not used becomes free again.",
        "Train",
        "Not now",
    )
    subject = f"The learning curve of {escape(shorten(plan.target))} on {escape(shorten(plan.title))}"
    same = "the same training on a quarter, half and all of the rows, each model asked every test row"
    train = button("Train", TRAIN, number, style="primary", confirm=sure)
    return Message.titled(
        headline,
        Text(f"{subject}: {same}."),
        Facts(facts),
        Lines(sizes),
        actions(train, button("Cancel", CANCEL, number)),
        Note(f"Measurement m{number}, asked for by <@{measurement.requested_by}>. {NO_YES}"),
        notice=subject,
    )


def progress_card(measurement: Measurement, plan: TunedCurvePlan, progress: TunedCurveProgress) -> Message:
    """The card that is edited in place."""
    headline = f"Learning curve m{measurement.id}: {_where(progress)}, {shorten(plan.target)} on {shorten(plan.title)}"
    stop = confirm(
        f"Cancel learning curve m{measurement.id}?",
        "Its job is cancelled. What was trained so far is kept and paid.",
        "Cancel it",
        "Let it go on",
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
    """The same card once nothing is to be pressed any more. `why` is ours and may hold mrkdwn."""
    ended = ENDED[measurement.state]
    headline = f"Learning curve m{measurement.id} {ended}: {shorten(plan.target)} on {shorten(plan.title)}"
    trained = [size for size in progress.sizes if size.model and size.from_before is None]
    again = "Models that are trained are kept: the same curve asked for again trains only the rest."
    sizes = (_sizes(plan, progress), Facts(_spent(progress))) if progress.sizes else ()
    return Message.titled(
        headline, Text(why) if why else None, *sizes, Note(again) if trained else None, notice=why
    )


def progress_line(plan: TunedCurvePlan, progress: TunedCurveProgress) -> str:
    """How far an open curve is, to follow its name in a list."""
    match progress.stage:
        case "preparing":
            return "is getting its rows ready"
        case "asking":
            return f"waits for a yes, {at_most(progress.most_micros)}"
        case "training":
            return f"is at {_where(progress)}, {percent_done(_share(plan, progress))}% done"
        case "judging":
            return "is being worked out"


def _where(progress: TunedCurveProgress) -> str:
    if progress.at is None:
        return "working out what it means"
    return f"size {progress.at + 1} of {len(progress.sizes)}"


def _sizes(plan: TunedCurvePlan, progress: TunedCurveProgress) -> Lines:
    return Lines([f"• {escape(_state(plan, size))}" for size in progress.sizes])


def _state(plan: TunedCurvePlan, size_progress: SizeProgress) -> str:
    rows = pluralize(size_progress.rows, "row")
    match size_progress.state:
        case "waiting":
            return f"{rows}: waits"
        case "creating":
            return f"{rows}: on its way to the trainer"
        case "training":
            progress = size_progress.training
            steps = f", step {progress.step:,} of {progress.total_steps:,}" if progress.total_steps else ""
            return f"{rows}: training{steps}"
        case "evaluating":
            done = size_progress.answered + len(size_progress.declined)
            return f"{rows}: {_trained(size_progress)}, {done:,} of {plan.n_holdout:,} test rows answered"
        case "done":
            return f"{rows}: {_trained(size_progress)} and measured"


def _trained(progress: SizeProgress) -> str:
    return f"trained by {progress.from_before}" if progress.from_before else "trained"


def _share(plan: TunedCurvePlan, progress: TunedCurveProgress) -> float:
    """How much is done, 0 to 1. Larger sizes take longer."""
    rows = sum(size.rows for size in progress.sizes)
    return sum(size.rows * _share_of(plan, size) for size in progress.sizes) / rows if rows else 0.0


def _share_of(plan: TunedCurvePlan, progress: SizeProgress) -> float:
    """How much of one size is done: training is four fifths, measuring the rest."""
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
    return [sizes, cost_so_far(progress.spent_micros, progress.most_micros)]
