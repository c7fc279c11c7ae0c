"""A tuned model's learning curve before its result: what it would train and cost, how far it is, how it
ended."""

from __future__ import annotations

from bot.cards.blocks import (
    Block,
    CardBlock,
    Facts,
    Headline,
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
from bot.cards.evaluations import CANCEL, ENDED
from bot.cards.plans import budget_left
from bot.cards.words import at_most, charge, pluralize, progress_bar, shorten
from bot.rules.budgets import Budget
from bot.values.learning_curves import SizeProgress, TunedCurvePlan, TunedCurveProgress
from storage.records import Measurement

TRAIN = "train_curve"
TRAINING_SHARE = 0.8


def request_card(
    measurement: Measurement, plan: TunedCurvePlan, known: TunedCurveProgress, budget: Budget
) -> Message:
    """What will be trained and what it costs at most, before anything is spent."""
    number = str(measurement.id)
    what = (
        f"Train {pluralize(known.to_train, 'time')}"
        if known.to_train
        else "Ask models that are trained already"
    )
    headline = f"{what} for {at_most(known.most_micros)}?"
    return Message(
        escape(f"{headline} The learning curve of {shorten(plan.target)} on {shorten(plan.title)}"),
        (
            Headline(headline),
            Text(
                f"The learning curve of {escape(shorten(plan.target))} on {escape(shorten(plan.title))}: the same "
                "training on a quarter, half and all of the rows, each model asked every held-out row."
            ),
            Facts(_facts(measurement, plan, known, budget)),
            Lines([_asked_line(one) for one in known.sizes]),
            actions(
                button("Train", TRAIN, number, style="primary", confirm=_sure(known)),
                button("Cancel", CANCEL, number),
            ),
            Note(f"Measurement m{number}. Nobody's yes within 24 hours means no."),
        ),
    )


def progress_card(measurement: Measurement, plan: TunedCurvePlan, known: TunedCurveProgress) -> Message:
    """The card that is edited in place."""
    headline = (
        f"Learning curve m{measurement.id}: {_where(known)}, {shorten(plan.target)} on {shorten(plan.title)}"
    )
    below: list[CardBlock] = [
        Text(progress_bar(_share(plan, known))),
        Facts(_spent(known)),
        *([Note(escape(cut(known.note, 900)))] if known.note else []),
        actions(button("Cancel", CANCEL, str(measurement.id), style="danger", confirm=_stop(measurement))),
    ]
    return Message(
        escape(headline),
        (Headline(headline), _steps(plan, known), *below),
    )


def closed_card(
    measurement: Measurement, plan: TunedCurvePlan, known: TunedCurveProgress, why: str = ""
) -> Message:
    """The same card once nothing is to be pressed any more. `why` is ours and may hold mrkdwn."""
    ended = ENDED[measurement.state]
    headline = f"Learning curve m{measurement.id} {ended}: {shorten(plan.target)} on {shorten(plan.title)}"
    said = why or ("The result stands in a message of its own." if measurement.state == "done" else "")
    kept = [one for one in known.sizes if one.model and one.from_before is None]
    again = "Models that are trained are kept: the same curve asked for again trains only the rest."
    sizes = (Lines([_line(plan, one) for one in known.sizes]), Facts(_spent(known))) if known.sizes else ()
    return Message(
        f"{escape(headline)}. {said}".strip(),
        (
            Headline(headline),
            *([Text(said)] if said else []),
            *sizes,
            *([Note(again)] if kept and measurement.state != "done" else []),
        ),
    )


def progress_line(plan: TunedCurvePlan, known: TunedCurveProgress) -> str:
    """Where an open curve stands, after its name in a list."""
    match known.stage:
        case "preparing":
            return "is getting its rows ready"
        case "asking":
            return f"waits for a yes, {at_most(known.most_micros)}"
        case "training":
            return f"is at {_where(known)}, {100 * _share(plan, known):.0f}% done"
        case "judging":
            return "is being worked out"


def _where(known: TunedCurveProgress) -> str:
    if known.at is None:
        return "working out what it means"
    return f"size {known.at + 1} of {len(known.sizes)}"


def _facts(
    measurement: Measurement, plan: TunedCurvePlan, known: TunedCurveProgress, budget: Budget
) -> list[tuple[str, str]]:
    return [
        ("Cost", at_most(known.most_micros)),
        ("Budget left", budget_left(budget)),
        ("Measured on", pluralize(plan.n_holdout, "held-out row")),
        ("Asked for by", f"<@{measurement.requested_by}>"),
    ]


def _asked_line(one: SizeProgress) -> str:
    before = f": trained before, by {escape(one.from_before)}" if one.from_before else ""
    return f"• {pluralize(one.rows, 'row')}{before}"


def _line(plan: TunedCurvePlan, one: SizeProgress) -> str:
    return f"• {escape(_state(plan, one))}"


def _steps(plan: TunedCurvePlan, known: TunedCurveProgress) -> Steps:
    steps = [Task(f"size {one.rows}", _state(plan, one), _status(one)) for one in known.sizes]
    lines = Lines([_line(plan, one) for one in known.sizes])
    return Steps("Trained on a quarter, half and all of the rows", steps, otherwise=(lines,))


def _status(one: SizeProgress) -> TaskStatus:
    if one.state == "done":
        return "complete"
    return "pending" if one.state == "waiting" else "in_progress"


def _state(plan: TunedCurvePlan, one: SizeProgress) -> str:
    rows = pluralize(one.rows, "row")
    match one.state:
        case "waiting":
            return f"{rows}: waits"
        case "creating":
            return f"{rows}: on its way to the trainer"
        case "training":
            known = one.training
            steps = f", step {known.step:,} of {known.total_steps:,}" if known.total_steps else ""
            return f"{rows}: training{steps}"
        case "evaluating":
            done = one.answered + len(one.declined)
            return f"{rows}: {_trained(one)}, {done:,} of {plan.n_holdout:,} held-out rows answered"
        case "done":
            return f"{rows}: {_trained(one)} and measured"


def _trained(one: SizeProgress) -> str:
    return f"trained by {one.from_before}" if one.from_before else "trained"


def _share(plan: TunedCurvePlan, known: TunedCurveProgress) -> float:
    """Larger sizes take longer. Training is four fifths of a size, measuring the rest."""
    whole = sum(one.rows for one in known.sizes)
    return sum(one.rows * _share_of(plan, one) for one in known.sizes) / whole if whole else 0.0


def _share_of(plan: TunedCurvePlan, one: SizeProgress) -> float:
    trained = one.training.step / one.training.total_steps if one.training.total_steps else 0.0
    match one.state:
        case "waiting" | "creating":
            return 0.0
        case "training":
            return TRAINING_SHARE * trained
        case "evaluating":
            answered = (one.answered + len(one.declined)) / max(plan.n_holdout, 1)
            return TRAINING_SHARE + (1 - TRAINING_SHARE) * answered
        case "done":
            return 1.0


def _spent(known: TunedCurveProgress) -> list[tuple[str, str]]:
    done = sum(one.state == "done" for one in known.sizes)
    sizes = ("Sizes", f"{done} of {len(known.sizes)} measured")
    if not known.most_micros:
        return [sizes, ("Cost", "no charge")]
    return [sizes, ("Cost so far", f"{charge(known.spent_micros)}, {at_most(known.most_micros)} agreed")]


def _sure(known: TunedCurveProgress) -> Block:
    return confirm(
        f"Spend {at_most(known.most_micros)}?",
        f"{pluralize(known.to_train, 'model')} will be trained and measured. It reserves "
        f"{charge(known.most_micros)} of "
        "this month's budget; what is not used becomes free again.",
        "Train",
        "Not now",
    )


def _stop(measurement: Measurement) -> Block:
    return confirm(
        f"Cancel learning curve m{measurement.id}?",
        "Its job is cancelled. What was trained so far is kept and paid.",
        "Cancel it",
        "Let it go on",
    )
