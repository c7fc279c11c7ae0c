"""What a plan trains, in short, for its card and its forms: the method, the settings that somebody chose, the rows that
a model labelled, and why it is trained now. The money and the verdict are in plans.py."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards.common.blocks import NOTHING, code, escape
from bot.cards.common.candidates import quality, short_meaning
from bot.cards.common.words import (
    about_usd,
    at_most,
    interval,
    listed,
    percent,
    pluralize,
    share_text,
    shorten,
)
from bot.cards.decisions.starting_models import start_facts
from bot.rules.plan_settings import ChangedSetting, chosen_settings, trains_the_same
from bot.rules.plans import (
    Continued,
    Plan,
    PlanChange,
    Retraining,
    RunAgain,
    TaughtRows,
    describe_sweep,
    format_value,
)
from trainers.evaluation.results import MeasuredCandidate
from trainers.methods import option_name
from trainers.money import from_micros

SHOWN_SETTINGS = 4
SHOWN_CHANGES = 6
SHOWN_PLANS = 3
SHOWN_DIFFERENCES = 2
IN_TITLE = {
    "dpo": "DPO",
    "grpo": "GRPO",
    "head": "classifier only",
    "full": "whole encoder",
    "all_weights": "all weights",
}
# What people call the fields of a question that a plan took over.
CONTINUED = {
    "current": "today's model",
    "volume": "the volume",
    "prompt_tokens": "the tokens of a request",
    "batch_share": "the share that can wait",
    "wrong_usd": "the cost of a wrong answer",
    "target": "the model to train",
    "people_hours": "the staff time",
    "people_rate": "the staff time",
    "label_count": "the labels to pay",
    "label_usd": "the labels to pay",
    "retrain_months": "the upkeep",
    "monitoring_usd": "the upkeep",
    "judge": "the judge",
    "hosting_hours": "the serving machine",
    "serving_speed": "the serving machine",
    "utilisation": "the serving machine",
    "runs": "the number of runs",
    "method": "the training's settings",
    "hyperparameters": "the training's settings",
    "sweep": "the training's settings",
    "patience": "the training's settings",
}


@dataclass(frozen=True)
class EarlierRun:
    """The newest finished run on the same dataset and target. `name` links to its card. `candidate` is its model's
    score on the plan's held-out rows, None if it was measured on others."""

    name: str
    plan: Plan
    candidate: MeasuredCandidate | None = None


@dataclass(frozen=True)
class PlanBeside:
    """Another plan of the dataset that waits for approval, too. `name` links to its card; `changes` are what differs
    in it from the plan on whose card it is named."""

    name: str
    changes: tuple[PlanChange, ...]
    plan: Plan


def method_suffix(plan: Plan) -> str:
    """What is special about the method, for headlines: ' (GRPO)', ' (sweep of 3 trials)'; '' for a plain run."""
    if plan.swept is not None:
        return f" (sweep of {plan.swept.trials} trials)"
    return f" ({IN_TITLE[plan.method]})" if plan.method in IN_TITLE else ""


def training_facts(plan: Plan, before: EarlierRun | None = None) -> list[tuple[str, str]]:
    """The tuned model that it goes on from, the method, and the settings that differ from those of the run before;
    nothing for a plain run."""
    started = start_facts(plan.starts_from)
    changed = chosen_settings(plan, before.plan if before else None)
    # The sweep's own words name the values that it tries.
    told_elsewhere = {name for name, _ in plan.swept.sweep} if plan.swept else set()
    if before is None:
        told_elsewhere.add("samples")  # named with the method
    settings = [_setting(each, before) for each in changed if each.name not in told_elsewhere]
    is_plain = plan.method == "supervised" and plan.validation_split is None
    if is_plain and not settings:
        return started
    text = _method(plan)
    if settings:
        text = f"{text}; {listed(settings, SHOWN_SETTINGS)}"
    return [*started, ("Training", text)]


def taught_facts(plan: Plan) -> list[tuple[str, str]]:
    """How many of the training rows a model labelled, and how many of these labels may be wrong."""
    if not plan.taught:
        return []
    return [("Training rows", f"{plan.n_train:,}, {'; '.join(map(_taught, plan.taught))}")]


def without_training_facts(plan: Plan) -> list[tuple[str, str]]:
    """The cheapest model that could do without training, with which a tuned one has to compete."""
    other = plan.advised.unmeasured if plan.advised else None
    if other is None:
        return []
    cost = about_usd(from_micros(other.monthly_micros))
    name = escape(shorten(other.name.rpartition("/")[2], 30))
    return [("Without training", f"{name}, {cost} a month if it is good enough")]


def retraining_text(retraining: Retraining) -> str:
    return (
        f"*Why now*: {code(retraining.model)}, which this dataset relies on today, ends on {retraining.ends}."
    )


def continued_text(plan: Plan, continued: Continued) -> str:
    """What the requester left out, and where it was taken from."""
    names = []
    for field in continued.fields:
        name = CONTINUED[field]
        if field == "current":
            name = f"{name} ({escape(shorten(str(plan.current)))})"
        names.append(name)
    # Several fields share one name, such as the hours and their rate.
    what = listed(list(dict.fromkeys(names)), SHOWN_SETTINGS)
    source = f"the estimate of {continued.day} that <@{continued.person}> shared"
    if continued.run is not None:
        source = f"run {continued.run}, planned on {continued.day}"
    text = f"*Taken from {source}*: {what}."
    if continued.bar is not None:
        tried = share_text(continued.bar)
        text += f" That estimate tried out a bar of {tried}; plans are judged by the team's."
    return text


def beside_text(beside: Sequence[PlanBeside], *, is_too_much: bool) -> str:
    """The other plans of the dataset that wait. `is_too_much` is True if the budget doesn't hold all of them."""
    others = [_other_plan(other) for other in beside]
    left = "Approving one leaves the others."
    all_of_them = "all of them"
    if len(beside) == 1:
        left = "Approving one leaves the other."
        all_of_them = "both"
    if is_too_much:
        left += f" The budget doesn't hold {all_of_them}."
    return f"*Waits beside* {listed(others, SHOWN_PLANS, '; ')}. {left}"


def _other_plan(other: PlanBeside) -> str:
    differences = []
    for change in other.changes:
        now = shorten(change.now or NOTHING, 30)
        before = shorten(change.before or NOTHING, 30)
        differences.append(escape(f"{change.name} {now} instead of {before}"))
    what = listed(differences, SHOWN_DIFFERENCES)
    if other.plan.maximum_micros:
        what = f"{what}, {at_most(other.plan.maximum_micros)}"
    return f"{other.name} ({what})"


def again_text(again: RunAgain) -> str:
    """What differs from the run that the plan repeats."""
    changes = [_change(change) for change in again.changes]
    if not changes:
        return f"*Run {again.run} again*, with nothing changed."
    return f"*Run {again.run} again with*: {listed(changes, SHOWN_CHANGES)}."


def _change(change: PlanChange) -> str:
    before = shorten(change.before or NOTHING, 30)
    now = shorten(change.now or NOTHING, 30)
    return escape(f"{change.name} {before} → {now}")


def earlier_text(plan: Plan, before: EarlierRun) -> str:
    """What the last model on this target reached; the plan's own verdict leaves it out. '' if nobody measured it."""
    if before.candidate is None:
        return ""
    score = f"{quality(before.candidate)} {short_meaning(before.candidate)}"
    if trains_the_same(plan, before.plan):
        return f"Exactly this was trained before ({before.name}): {score}."
    return f"Not in the verdict: the last model on this target ({before.name}) has {score}."


def _method(plan: Plan) -> str:
    if plan.swept is not None:
        return f"sweep of {plan.swept.trials} trials: {escape(describe_sweep(plan.swept.sweep))}"
    match plan.method:
        case "supervised":
            text = "one run"
        case "dpo":
            text = "DPO on preference pairs"
        case "grpo":
            text = "GRPO"
            samples = dict(plan.hyperparameters).get("samples")
            if samples:
                text = f"GRPO, {samples} answers sampled per question"
        case "head":
            text = "a classifier on the encoder, which stays as it is"
        case "full":
            text = "the whole encoder"
        case "all_weights":
            text = "all weights of the model, without an adapter"
    if plan.stopping:
        return f"{text}, stopped after {pluralize(plan.stopping.patience, 'validation')} without improvement"
    return text


def _setting(changed: ChangedSetting, before: EarlierRun | None) -> str:
    value = "default" if changed.value is None else format_value(changed.value)
    text = escape(f"{option_name(changed.name)} {value}")
    if before is None:
        return text
    then = "default" if changed.before is None else format_value(changed.before)
    return f"{text} ({escape(then)} in {before.name})"


def _taught(taught: TaughtRows) -> str:
    text = f"{taught.rows:,} of them labelled by {escape(shorten(taught.teacher, 60))}"
    if taught.score is None or taught.low is None or taught.high is None:
        return f"{text}, whose accuracy is no longer known"
    # Measured on held-out rows; the new rows are assumed to be as hard.
    wrong = round(taught.rows * (1 - taught.score))
    few = f"so about {wrong:,} may be wrong" if wrong else "so hardly any is wrong"
    return f"{text} ({percent(taught.score)} right, {interval(taught.low, taught.high)}), {few}"
