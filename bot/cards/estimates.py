"""The estimate card and its form: the verdict first, then the numbers that carry it, then what they rest on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bot.cards import advice, forms
from bot.cards.blocks import (
    Block,
    CardBlock,
    Headline,
    Lines,
    Message,
    Note,
    Text,
    actions,
    button,
    escape,
    sentence,
)
from bot.cards.candidates import LONG_NAMES, alternative_name
from bot.cards.datasets import UPLOAD_AGAIN
from bot.cards.estimate_details import (
    EstimateSummary,
    details,
    escaped_facts,
    hides_savings,
    other_bill,
    paid_between,
    payback_text,
    price_facts,
    rests_on_one_machine,
    saving_range,
    training_time,
)
from bot.cards.forms import modal
from bot.cards.general import details_modal
from bot.cards.payback import monthly_saving_text, payback_condition
from bot.cards.words import SLACK, Spelling, about_usd, shorten
from bot.rules.advice import Verdict
from bot.rules.plans import VerdictKind
from bot.rules.reasons import (
    FillGap,
    Gap,
    HoldOut,
    HoldOutAtLeast,
    LabelFirst,
    LabelMore,
    LabelRows,
    Measure,
    PinDown,
    Todo,
    Use,
)
from bot.rules.roi import USD_PER_HOUR, Estimate
from bot.rules.units import tokens
from bot.values.runs import Refusal
from trainers.model_list import without_effort
from trainers.money import usd

SHARE, ESTIMATE, DETAILS = "share_estimate", "estimate", "estimate_details"
# The next steps that a button does; each has the estimate's number. Uploading is a dataset's button.
START, MEASURE, ANSWER = "start_estimate", "measure_next", "answer_estimate"
USE_ENCODER = "use_encoder"  # its value: the dataset and the encoder that is trained
# The form's fields as the command's options.
TYPED = (
    "current",
    "volume",
    "target",
    "hours",
    "rate",
    "labels",
    "label_usd",
    "wrong_usd",
    "retrain",
    "bar",
    "task",
)
FIELDS = ("dataset", *TYPED)
# What a person can say in the form, as the button names it.
ANSWERS: Mapping[Todo, str] = {
    "say model and volume": "Add model and volume",
    "say the volume": "Add the volume",
    "say the hours": "Add the hours",
    "say what a wrong answer costs": "Say what an error costs",
    "say the task": "Say what it is for",
    "lower the bar": "Change the bar",
}
PINNED = {"volume": "Correct the volume", "people's time": "Add the hours"}
NOT_NOW = {
    "rows": "Not now: too few rows",
    "one label": "Not now: there is nothing to tell apart",
    "wrong labels": "Not now: too many labels are wrong",
    "end date": "Not now: the model to train is at its end",
    "cheaper rung": "Not now: something cheaper is good enough",
    "tuned": "Not now: the tuned model is not good enough",
    "worse": "Not now: the tuned model is worse and costs as much",
    "knowledge": "Not now: facts are looked up, not learnt",
    "reasoning": "Not now: thinking calls for a better model",
    "cost": "Not now: it would cost more than it saves",
    "payback": "Not now: it pays back too late",
    "people's time": "Not now: too little is at stake",
    "memory": "Not now: the training does not fit your machine",
}
OPEN = {
    "measure": "not every cheaper alternative is measured",
    "bar": "whether the bar is met is not known",
    "undecided": "the held-out rows can't tell yet",
    "holdout": "there are too few held-out rows",
    "unread": "no prompt's answers could be read",
    "tuned": "the tuned model is not measured well enough",
    "rows": "there are few rows",
    "wrong labels": "too many labels may be wrong",
    "today's model": "today's model is not measured",
    "cheaper rung": "what a tuned model costs is not known",
    "cost": "what it saves is not known",
    "payback": "whether it pays back in time is uncertain",
    "net value": "it pays back, and loses later",
    "people's time": "people's time is not counted",
    "successor": "the successor of today's model is not measured",
    "only way": "what better answers are worth is not given",
    "latency": "how fast a tuned model answers is not known",
    "machine": "how much your own machine can do is not known",
}


def card(
    estimated: EstimateSummary,
    target: str,
    *,
    number: int | None = None,
    shared_by: str | None = None,
    encoder: str | None = None,
    spelling: Spelling = SLACK,
) -> Message:
    """The decision, the numbers that carry it, the strongest reason on each side, and the next step as a button.

    `number`: the estimate's, None where nothing can be clicked; `shared_by`: who has shared it; `encoder`: the target
    that is trained where the encoder is to be used."""
    verdict, headline = estimated.verdict, _headline(estimated, target)
    next_step = sentence(advice.next_step(verdict, spelling))
    step = _next_button(estimated, number, encoder) if number is not None else None
    by = f", shared by <@{shared_by}>" if shared_by else ""
    parts: list[CardBlock] = [
        Headline(headline),
        Note(f"{_subject(estimated, target)}{by}"),
        escaped_facts(_in_short(estimated)),
        Lines(advice.main_reasons(verdict, spelling)),
    ]
    if next_step and (step is None or "style" not in step):
        parts.append(Text(f"*Next*: {next_step}"))
    if number is not None:
        share = [] if shared_by else [button("Share in the channel", SHARE, str(number))]
        details_button = button("Details", DETAILS, str(number))
        parts.append(actions(*([step] if step else []), *share, details_button))
    return Message(f"{escape(headline)}. {next_step}", tuple(parts))


def details_form(estimated: EstimateSummary, target: str) -> Block:
    return details_modal("Details of the estimate", details(estimated, target))


def _next_button(estimated: EstimateSummary, number: int, encoder: str | None) -> Block | None:
    """Does the step that the verdict asks for. Where no button can, training is still possible unless the verdict is
    against it."""
    verdict = estimated.verdict
    is_trained = estimated.evidence.trained is not None
    if verdict.kind == "go":
        return None if is_trained else button("Start", START, str(number), style="primary")
    step = verdict.deciding.step
    if step and encoder and isinstance(step.todo, Use) and step.todo.arm.rung == "encoder":
        return encoder_button(estimated.name, encoder)
    named = _named_step(step.todo) if step else None
    if named:
        words, action = named
        value = estimated.name if action == UPLOAD_AGAIN else str(number)
        return button(words, action, value, style="primary")
    return None if verdict.kind == "no_go" or is_trained else button("Start anyway", START, str(number))


def encoder_button(dataset: str, encoder: str) -> Block:
    return button("Use the encoder", USE_ENCODER, f"{dataset} {encoder}", style="primary")


def _named_step(todo: Todo) -> tuple[str, str] | None:
    """What the button of a step is called and does; None where none can do it."""
    match todo:
        case Measure() if todo.is_command:
            return f"Measure {_measured(todo)}", MEASURE
        case HoldOut() | HoldOutAtLeast() | LabelFirst() | LabelRows() | LabelMore():
            return "Upload more rows", UPLOAD_AGAIN
        case "collect rows" | "add rows of other labels":
            return "Upload more rows", UPLOAD_AGAIN
        case "correct rows":
            return "Upload a corrected file", UPLOAD_AGAIN
        case FillGap() if todo.missing.of == "today":
            return ANSWERS["say model and volume"], ANSWER
        case PinDown() if todo.name in PINNED:
            return PINNED[todo.name], ANSWER
        case str() if todo in ANSWERS:
            return ANSWERS[todo], ANSWER
    return None


def _measured(measure: Measure) -> str:
    """'gpt-4o and gpt-4o-mini', 'the classical model'."""
    if measure.what == "again":
        return "again"
    if measure.what == "free":
        return "the free models"
    if measure.rungs:
        return " and ".join(LONG_NAMES[rung] for rung in measure.rungs)
    models = dict.fromkeys(map(without_effort, measure.models))
    names = [shorten(model.rpartition("/")[2], 24) for model in models]
    return " and ".join(names) or "prompts"


def alt_text(plot: str, dataset: str) -> str:
    """`plot` as its file is called."""
    if plot == "tornado":
        return f"What the net value hangs on, {shorten(dataset)}"
    return f"Saved minus spent, month by month, {shorten(dataset)}"


def verdict_blocks(verdict: Verdict, spelling: Spelling = SLACK) -> list[CardBlock]:
    """The verdict where another subject has the headline."""
    headline = advice.headline(verdict, spelling)
    reasons = advice.reason_blocks(verdict, spelling, above=headline)
    return [Text(f"*Verdict*: {sentence(headline)}"), *reasons]


def _in_short(estimated: EstimateSummary) -> list[tuple[str, str]]:
    """The two or three numbers of the decision, rounded as people say them."""
    estimate, outlook = estimated.estimate, estimated.outlook
    if estimate is not None and hides_savings(estimated):
        return [("Today", about_usd(estimate.monthly_before.total, per="a month"))]
    once = ("Costs once", _once_in_short(estimated))
    offered = []  # what a cheaper model would cost as it is, which a tuned one has to be held against
    if estimated.offered:
        cost = about_usd(estimated.offered.monthly.total)
        name = shorten(estimated.offered.name.rpartition("/")[2], 30)
        offered = [("Without training", f"{name}, {cost} a month if it is good enough")]
    if estimate is None:
        bill = [("Today", about_usd(estimated.today.total, per="a month"))] if estimated.today else []
        takes = ("Training takes", training_time(estimated))
        return [*bill, once, *price_facts(estimated), takes, *offered]
    by_the_hour = price_facts(estimated, is_short=True) if estimated.prices[0].is_hosted else []
    a_month, back = saving_range(estimate, outlook), payback_text(estimate.payback_months)
    unsure = "; one machine has to be enough" if rests_on_one_machine(estimate) else ""
    less = about_usd(a_month.expected, a_month.low, a_month.high, per="a month")
    saves = ("Saves", f"{less}{_until(estimate)}{unsure}")
    if a_month.expected <= 0:
        more = about_usd(-a_month.expected, -a_month.high, -a_month.low, per="a month")
        saves = ("Costs more", more if a_month.expected else "nothing, and saves nothing")
    if estimate.payback_months is None:
        # Beside a loss that is reason enough it would be one number too many.
        is_asked = a_month.expected > 0 or not estimated.verdict.facts.is_for_money
        return [saves, *([once] if is_asked else []), ("Pays back", back), *offered, *by_the_hour]
    back += paid_between(outlook) if back != "within a day" else ""
    if outlook:
        back += payback_condition(is_good=True, is_time_said=outlook.is_time_said)
    return [saves, once, ("Pays back", back), *offered, *by_the_hour]


def _until(estimate: Estimate) -> str:
    """For how long it saves that, and what comes then: a saving that ends in weeks is none to decide by."""
    succession = estimate.succession
    if succession is None:
        return ""
    until, saving = f" until {succession.ends}", succession.saving_month
    if saving is None:
        return f"{until}, then unknown"
    then = "saves" if saving >= 0 else "costs"
    more = "" if saving >= 0 else " more"
    return f"{until}, then {then} {about_usd(abs(saving))}{more}"


def _once_in_short(estimated: EstimateSummary) -> str:
    training, estimate, measuring = estimated.training, estimated.estimate, estimated.measuring_usd
    if training is None:
        return "unknown"
    if estimate is not None and estimate.people_usd + estimate.labels_usd:
        return f"{about_usd(estimate.one_off_usd)}, people and labels included"
    low, expected, high = (
        end + measuring for end in (training.usd.low, training.usd.expected, training.usd.high)
    )
    if not high:
        return "nothing but your machine's time"
    machine = estimated.machine_usd
    of_it = f", {usd(machine)} of it for its machine while it is measured" if machine else ""
    return f"{about_usd(expected, low, high)}{of_it}"


def _headline(estimated: EstimateSummary, target: str) -> str:
    verdict, estimate, rule = estimated.verdict, estimated.estimate, estimated.verdict.rule
    if verdict.kind == "no_go":
        return verdict_in_short("no_go", rule)
    what = f"{shorten(target.partition('/')[2] or target, 30)} on {shorten(estimated.name, 30)}"
    if verdict.kind == "go":
        is_trained = estimated.evidence.trained is not None
        go = "use the tuned model" if is_trained else f"train {what}"
        return f"Go: {go}{_saving_clause(';', estimate, is_good=estimated.evidence.is_good)}"
    because = verdict.deciding.because
    if isinstance(because, Gap) and because.missing.of == "today":
        return "Undecided: tell me today's model and monthly volume"
    if estimated.evidence.ladder is None and estimated.evidence.trained is None:
        return f"Worth measuring{_saving_clause(':', estimate, is_good=False) or ': what it saves is not known yet'}"
    return verdict_in_short("unknown", rule)


def _saving_clause(stop: str, estimate: Estimate | None, *, is_good: bool) -> str:
    if estimate is None:
        return ""
    condition = payback_condition(is_good=is_good, is_time_said=True)
    if estimate.saving_month < 0:
        return f"{stop} it would cost {about_usd(-estimate.saving_month)} more a month"
    return f"{stop} it would save {monthly_saving_text(estimate)}{condition.replace(',', '')}"


def verdict_in_short(kind: VerdictKind, rule: str) -> str:
    """The verdict and the rule that decided it, without a sum."""
    match kind:
        case "go":
            return "Go"
        case "no_go":
            return NOT_NOW.get(rule, "Not now")
        case "unknown":
            return f"Undecided: {OPEN.get(rule, 'something is still open')}"


def _subject(estimated: EstimateSummary, target: str) -> str:
    estimate = estimated.estimate
    volume = f", {tokens(estimate.monthly_input_tokens)} input tokens a month" if estimate else ""
    other = estimated.alternative if other_bill(estimated) and not hides_savings(estimated) else None
    against = f", compared with {escape(shorten(alternative_name(other), 60))}" if other else ""
    return f"{escape(shorten(estimated.name))} on {escape(shorten(target, 60))}{volume}{against}"


@dataclass(frozen=True)
class AskedEstimate:
    """What an estimate was asked about: `typed` has its options, each as a person types it."""

    number: int
    dataset: str
    typed: Mapping[str, str]


@dataclass(frozen=True)
class EstimateChoices:
    """What the form offers. Empty where there is nothing to choose from yet. `cheapest`: a model that can be asked
    here."""

    datasets: Sequence[str]
    targets: Sequence[str]
    cheapest: str | None = None


def form(
    channel: str,
    choices: EstimateChoices,
    dataset: str | None = None,
    before: AskedEstimate | None = None,
) -> Block:
    """`dataset` is chosen at first. `before`: an estimate that this one changes."""
    typed = before.typed if before else {}
    cheapest = f"None yet? {choices.cheapest} is the cheapest here that may do." if choices.cheapest else ""

    def field(name: str, label: str, example: str, hint: str = "") -> Block:
        return forms.text_input(name, label, example, hint=hint, initial=typed.get(name, ""))

    blocks = [
        forms.select_input("dataset", "Dataset", choices.datasets, initial=dataset),
        field("current", "Model that you prompt today", "gpt-4o", cheapest),
        field("volume", "Input tokens a month", "10M"),
        forms.select_input("target", "Model to train", choices.targets, initial=typed.get("target")),
        field("hours", "Hours of people's time, once", "16", "Empty: none are counted."),
        field("rate", "Dollars for an hour of a person", "75", f"Empty: {usd(USD_PER_HOUR)}."),
        field("labels", "Rows still to be labelled", "500", "Empty: none."),
        field("label_usd", "Dollars for one label", "0.10", "Empty: nothing beside the hours."),
        field("wrong_usd", "Dollars that a wrong answer costs", "0.50", "Empty: not counted."),
        field("retrain", "Months until it is trained again", "6", "Empty: never."),
        forms.text_input(
            "bar", "Good enough from", "85%", hint="The share of right answers. Empty: as it is set."
        ),
        forms.task_input("Empty: as it is set for the dataset."),
    ]
    private = f"{channel} {before.number}" if before else channel
    return modal("Estimate a fine-tune", ESTIMATE, blocks, submit="Estimate", private=private)


def refused_field(refused: object) -> str:
    """The field of the form under which a refusal or an answer stands."""
    about = refused.about if isinstance(refused, Refusal) else None
    return about if about in FIELDS else "dataset"
