"""The estimate card and its form: the verdict, the numbers behind it, the strongest reasons, and the next step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as new_field

from bot.cards.common import advice, forms
from bot.cards.common.advice import USE_ENCODER, encoder_button
from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Headline,
    Lines,
    Message,
    Note,
    Text,
    actions,
    button,
    cut,
    escape,
    sentence,
)
from bot.cards.common.candidates import (
    LONG_NAMES,
    alternative_name,
    bar_share,
    candidate_name,
    floor_text,
    several_labels_text,
)
from bot.cards.common.forms import modal
from bot.cards.common.general import details_modal
from bot.cards.common.judge_agreement import notes_on_evidence
from bot.cards.common.payback import monthly_saving_text, net_value_text, payback_condition, payback_text
from bot.cards.common.prices import doubtful_successors
from bot.cards.common.words import SLACK, Spelling, about_usd, share_text, shorten, volume_text
from bot.cards.datasets.datasets import MEASURE as MEASURE_DATASET
from bot.cards.datasets.datasets import UPLOAD_AGAIN
from bot.cards.decisions.aims import aim_facts
from bot.cards.decisions.estimate_details import (
    EstimateSummary,
    details,
    escaped_facts,
    hides_savings,
    other_bill,
    payback_range_text,
    price_facts,
    rests_on_one_machine,
    saving_range,
    training_time,
)
from bot.cards.evidence.judge_checks import REPLACE_JUDGE_WORDS, judge_button
from bot.rules.advice import Verdict, rests_on_scores
from bot.rules.alternatives import UnmeasuredModel
from bot.rules.facts import TASK_KINDS, Standard, TaskKind
from bot.rules.fit import aim_numbers, aim_of
from bot.rules.forecast import Outlook
from bot.rules.judge_agreement import CheckedJudge
from bot.rules.plans import VerdictKind
from bot.rules.reasons import (
    CheapModelUntried,
    FillGap,
    HoldOut,
    HoldOutAtLeast,
    LabelFirst,
    LabelMore,
    LabelRows,
    Measure,
    PinDown,
    PriceGap,
    Todo,
    UseCandidate,
)
from bot.rules.roi import USD_PER_HOUR, Estimate
from bot.rules.units import format_months
from bot.values.runs import Refusal
from trainers.evaluation.results import DEFAULT_QUALITY_THRESHOLD
from trainers.model_list import strip_effort
from trainers.money import usd

SHARE, ESTIMATE, DETAILS = "share_estimate", "estimate", "estimate_details"
# Buttons for the next step; their value is the estimate's number. Uploading has its own button, with the dataset.
START, MEASURE, ANSWER = "start_estimate", "measure_next", "answer_estimate"
CHECK_LABELS = "check_labels"
ADOPT = "adopt_estimate"  # makes the bar or the kind of task that an estimate tried out the team's
# The form's fields that are also options of the command.
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
# What a person can add in the form, and the button's words for it.
ANSWERS: Mapping[Todo, str] = {
    "say model and volume": "Add model and volume",
    "say the volume": "Add the volume",
    "say the hours": "Add the hours",
    "say what a wrong answer costs": "Add the cost of an error",
    "say the task": "Add the kind of task",
    "lower the bar": "Change the bar",
    "decide by the score": "Change the bar",
}
PINNED = {"volume": "Correct the volume", "staff time": "Add the hours"}
NOT_NOW = {
    "rows": "Not now: too few rows",
    "one label": "Not now: all rows have the same label",
    "wrong labels": "Not now: too many labels are wrong",
    "closed": "Not now: no model is trained there any more",
    "end date": "Not now: the model to train is being retired",
    "cheaper rung": "Not now: something cheaper is good enough",
    "tuned": "Not now: the tuned model is not good enough",
    "worse": "Not now: the tuned model is worse and costs as much",
    "knowledge": "Not now: facts should be looked up, not trained",
    "reasoning": "Not now: reasoning needs a better model",
    "cost": "Not now: it would cost more than it saves",
    "payback": "Not now: it would not pay back in time",
    "net value": "Not now: it saves money at first, but loses it later",
    "people's time": "Not now: too little is at stake",
    "memory": "Not now: the training does not fit on your machine",
}
OPEN = {
    "measure": "not every cheaper alternative is measured",
    "bar": "whether the bar is met is unknown",
    "undecided": "the results are too close to call",
    "holdout": "there are too few held-out rows",
    "unread": "too many answers could not be read",
    "tuned": "the tuned model's result is not conclusive",
    "may be worse": "the tuned model may be worse than the alternative",
    "rows": "there are few rows",
    "wrong labels": "too many labels may be wrong",
    "judge": "people disagree with the judge of the scores",
    "today's model": "today's model is not measured",
    "cheaper rung": "the cost of a tuned model is unknown",
    "cost": "the saving is unknown",
    "payback": "it may not pay back in time",
    "net value": "it saves money at first, but may lose it later",
    "people's time": "staff time is not counted",
    "successor": "the successor of today's model is not measured",
    "cheap model": "a much cheaper model is not measured",
    "only way": "the value of better answers is not given",
    "latency": "the speed of a tuned model is unknown",
    "machine": "the capacity of the serving machine is unknown",
}


def card(
    summary: EstimateSummary,
    target: str,
    *,
    number: int | None = None,
    shared_by: str | None = None,
    encoder: str | None = None,
    judge: CheckedJudge | None = None,
    tried: TriedOut | None = None,
    spelling: Spelling = SLACK,
) -> Message:
    """The decision, the numbers behind it, the strongest reason on each side, and the next step as a button.

    `number` is the estimate's; None leaves out the buttons. `shared_by` is the person who shared it. `encoder` is the
    target to train if the next step is to use the encoder. `judge` is the model whose verdicts are the scores. `tried`
    is what this estimate tries out: plans are made by the team's own standard, so making it the team's comes before a
    start."""
    verdict, headline = summary.verdict, _headline(summary, target)
    next_step = sentence(advice.next_step(verdict, spelling))
    check = judge_button(judge, judge.next_step, summary.name) if judge and judge.next_step else None
    step = _next_button(summary, number, encoder, check) if number is not None else None
    if tried and number is not None and step and step["action_id"] in (START, USE_ENCODER):
        step = button(_adopt_label(tried), ADOPT, str(number), style="primary")
    by = f", shared by <@{shared_by}>" if shared_by else ""
    parts: list[CardBlock] = [
        Headline(headline),
        Note(f"{_subject(summary, target)}{by}{_floor(summary)}"),
        escaped_facts([*aim_facts(aim_numbers(verdict.facts)), *_main_numbers(summary)]),
        Lines(advice.main_reasons(verdict, spelling)),
        *_several_labels_note(summary),
        *notes_on_evidence(summary.evidence),
        *_successor_note(summary),
    ]
    if next_step and (step is None or "style" not in step):
        parts.append(Text(f"*Next*: {next_step}"))
    if tried:
        parts.append(Note(_tried_text(tried, is_private=shared_by is None)))
    if number is not None:
        is_shared = shared_by is not None
        parts.append(actions(*_buttons(verdict, number, step, tried, check, is_shared=is_shared)))
    return Message(f"{escape(headline)}. {next_step}", tuple(parts))


def _several_labels_note(summary: EstimateSummary) -> list[Note]:
    text = several_labels_text(summary.verdict.facts.n_combined)
    if not text:
        return []
    return [Note(text)]


def _successor_note(summary: EstimateSummary) -> list[Note]:
    """Names the successors that the money rests on and no vendor's page confirms."""
    if summary.made_on is None:
        return []
    return [Note(escape(cut(line, 300))) for line in doubtful_successors(summary.prices, summary.made_on)]


def _floor(summary: EstimateSummary) -> str:
    """What the commonest values alone would get, for answers in JSON: much of a score there is no merit."""
    facts = summary.verdict.facts
    floor = floor_text("json", facts.floor) if facts.has_objects else ""
    return f". {floor}" if floor else ""


def _tried_text(tried: TriedOut, *, is_private: bool) -> str:
    """'Tried out: a bar of 99% instead of the usual 85%. Nothing changes for others.'"""
    standard = tried.standard
    what = []
    if tried.bar is not None:
        whose = "the team's" if standard.is_bar_set else "the usual"
        what.append(f"a bar of {bar_share(tried.bar)} instead of {whose} {bar_share(standard.bar)}")
    if tried.task is not None:
        before = f" instead of {standard.task}" if standard.task else ""
        what.append(f"the task {tried.task}{before}")
    others = " Nothing changes for others." if is_private else ""
    return f"Tried out: {' and '.join(what)}.{others}"


def _adopt_label(tried: TriedOut) -> str:
    if tried.bar is not None and tried.task is not None:
        return f"Make {bar_share(tried.bar)} and {tried.task} the team's"
    if tried.bar is not None:
        return f"Make {bar_share(tried.bar)} the team's bar"
    return f"Make {tried.task} the team's task"


def adopted_text(tried: TriedOut, channel: str, again: str) -> str:
    """The answer to the person who made it the team's. `again` is the command that asks the same question again."""
    bar = f"The bar is now {bar_share(tried.bar)}. " if tried.bar is not None else ""
    task = f"The kind of task is now {tried.task}. " if tried.task is not None else ""
    return f"{bar}{task}<#{channel}> has been told. Ask again to go on from here: `{again.strip()}`"


def details_form(summary: EstimateSummary, target: str) -> Block:
    return details_modal("Details of the estimate", details(summary, target))


def _next_button(
    summary: EstimateSummary, number: int, encoder: str | None, check: Block | None
) -> Block | None:
    """The button for the step that the verdict asks for. If there is none, "Start anyway", unless the verdict is
    against training. `check` is the button to check the judge, which comes before anything that rests on its scores,
    except for the last measurements that the verdict lacks."""
    verdict = summary.verdict
    is_trained = summary.evidence.trained is not None
    if verdict.kind == "go":
        return None if is_trained else button("Start", START, str(number), style="primary")
    step = verdict.deciding.step
    lacks_measurement = step is not None and isinstance(step.todo, Measure)
    if check and rests_on_scores(verdict) and not lacks_measurement:
        return {**check, "style": "primary"}
    if step and encoder and isinstance(step.todo, UseCandidate) and step.todo.arm.rung == "encoder":
        return encoder_button(summary.name, encoder)
    named = _named_step(step.todo) if step else None
    if named:
        words, action = named
        value = summary.name if action in (UPLOAD_AGAIN, MEASURE_DATASET) else str(number)
        return button(words, action, value, style="primary")
    return None if verdict.kind == "no_go" or is_trained else button("Start anyway", START, str(number))


def _buttons(
    verdict: Verdict,
    number: int,
    step: Block | None,
    tried: TriedOut | None,
    check: Block | None,
    *,
    is_shared: bool,
) -> list[Block]:
    """At most three, the next step first. What somebody tries out becomes the team's before it is shared; where there
    is no step to take, the channel hears of the answer first."""
    details_button = button("Details", DETAILS, str(number))
    share = [] if is_shared else [button("Share in the channel", SHARE, str(number))]
    if tried and (step is None or step["action_id"] != ADOPT):
        adopt = button(_adopt_label(tried), ADOPT, str(number))
        if step:
            return [step, adopt, details_button]
        return [*share, adopt, details_button] if share else [details_button, adopt]
    if step is None:
        return [*share, details_button]
    if not tried and _may_start_anyway(verdict):
        return [step, button("Start anyway", START, str(number)), details_button]
    if check and step["action_id"] != check["action_id"]:
        return [step, check, details_button]
    return [step, *share, details_button]


def _may_start_anyway(verdict: Verdict) -> bool:
    """True if the next step is to label more rows or else to start: then there is a button for each."""
    step = verdict.deciding.step
    return verdict.kind == "unknown" and step is not None and isinstance(step.todo, LabelRows)


def _named_step(todo: Todo) -> tuple[str, str] | None:
    """The words and the action of a step's button; None if no button can do the step."""
    match todo:
        case Measure() if todo.is_command:
            return f"Measure {_measured_names(todo)}", MEASURE
        case HoldOut() | HoldOutAtLeast() | LabelFirst() | LabelRows() | LabelMore():
            return "Upload more rows", UPLOAD_AGAIN
        case "collect rows" | "add rows of other labels":
            return "Upload more rows", UPLOAD_AGAIN
        case "check labels":
            return "Check 20 doubtful labels", CHECK_LABELS
        case "another judge":
            return REPLACE_JUDGE_WORDS, MEASURE_DATASET
        case "correct rows":
            return "Upload a corrected file", UPLOAD_AGAIN
        case FillGap() if todo.missing.what == "today":
            return ANSWERS["say model and volume"], ANSWER
        case PinDown() if todo.name in PINNED:
            return PINNED[todo.name], ANSWER
        case str() if todo in ANSWERS:
            return ANSWERS[todo], ANSWER
    return None


def _measured_names(measure: Measure) -> str:
    """'gpt-4o and gpt-4o-mini', 'the classical model'."""
    if measure.what == "free":
        return "the free models"
    if measure.rungs:
        return " and ".join(LONG_NAMES[rung] for rung in measure.rungs)
    models = dict.fromkeys(map(strip_effort, measure.models))
    names = [shorten(model.rpartition("/")[2], 24) for model in models]
    return " and ".join(names) or "prompts"


def alt_text(dataset: str) -> str:
    return f"Savings minus costs, month by month, {shorten(dataset)}"


def _main_numbers(summary: EstimateSummary) -> list[tuple[str, str]]:
    """The few numbers that the decision depends on, rounded."""
    estimate, outlook = summary.estimate, summary.outlook
    if estimate is not None and hides_savings(summary):
        return [("Today", about_usd(estimate.monthly_before.total, per="a month"))]
    once = ("One-off cost", _one_off_cost(summary))
    offered = []  # the cost of a cheaper model without training, with which a tuned one has to compete
    if summary.offered:
        cost = about_usd(summary.offered.monthly.total)
        name = shorten(summary.offered.name.rpartition("/")[2], 30)
        offered = [("Without training", f"{name}, {cost} a month if it is good enough")]
    if estimate is None:
        bill = [("Today", about_usd(summary.today.total, per="a month"))] if summary.today else []
        takes = ("Training takes", training_time(summary))
        return [*bill, once, *price_facts(summary), takes, *offered]
    by_the_hour = price_facts(summary, is_short=True) if summary.prices[0].is_hosted else []
    a_month = saving_range(estimate, outlook)
    back = payback_text(estimate.payback_months)
    unsure = ", if one machine is enough" if rests_on_one_machine(estimate) else ""
    less = about_usd(a_month.expected, a_month.low, a_month.high, per="a month")
    machine = _machine_bill(estimate)
    after = f", after {machine}" if machine else ""
    saves = ("Saves", f"{less}{_until(estimate)}{after}{unsure}")
    if a_month.expected < 0:
        more = about_usd(-a_month.expected, -a_month.high, -a_month.low, per="a month")
        of_it = f", with {machine}" if machine else ""
        saves = ("Costs more", f"{more}{of_it}")
    elif not a_month.expected:
        saves = ("Saves", "nothing")
    in_total = net_value_fact(outlook)
    if estimate.payback_months is None:
        # If the loss alone decides, the one-off cost would be one number too many.
        is_asked = a_month.expected > 0 or not summary.verdict.facts.is_for_money
        spent = [once] if is_asked else []
        return [saves, *spent, ("Pays back", back), *in_total, *offered, *by_the_hour]
    if aim_of(summary.verdict.facts.task_kind):
        # The aim is not money, so less about money will do.
        return [saves, *(in_total or [once]), *offered, *by_the_hour]
    back += payback_range_text(outlook) if back != "within a day" else ""
    if outlook:
        back += payback_condition(is_good=True, is_time_said=outlook.is_time_said)
    return [saves, once, ("Pays back", back), *in_total, *offered, *by_the_hour]


def net_value_fact(outlook: Outlook | None) -> list[tuple[str, str]]:
    """What is gained or lost over the horizon, after all costs."""
    points = outlook.net_points if outlook else None
    if outlook is None or points is None:
        return []
    return [(f"Over {format_months(outlook.horizon_months)}", net_value_text(*points))]


def _machine_bill(estimate: Estimate) -> str:
    """The monthly bill of the machines that serve the tuned model, often the largest cost of all: '$73 for its
    machine'; '' if it is paid by the token."""
    bill = estimate.monthly_after.hosting
    if not bill:
        return ""
    count = estimate.machines or 1
    what = "its machine" if count == 1 else f"its {count:,} machines"
    return f"{about_usd(bill).removeprefix('about ')} for {what}"


def _until(estimate: Estimate) -> str:
    """Until when it saves that, and what follows, since a saving that ends in weeks is no reason to train."""
    succession = estimate.succession
    if succession is None:
        return f" until {estimate.ends}, when the model to train ends" if estimate.ends else ""
    until = f" until {succession.ends}"
    saving = succession.saving_month
    if succession.ends_too:
        return f"{until}, when both models end"
    if saving is None:
        return f"{until}, then unknown"
    then = "saves" if saving >= 0 else "costs"
    more = "" if saving >= 0 else " more"
    return f"{until}, then {then} {about_usd(abs(saving))}{more}"


def _one_off_cost(summary: EstimateSummary) -> str:
    training, estimate, measuring = summary.training, summary.estimate, summary.measuring_usd
    if training is None:
        return "unknown"
    if estimate is not None and estimate.people_usd + estimate.labels_usd:
        return f"{about_usd(estimate.one_off_usd)}, including staff time and labels"
    low, expected, high = (
        end + measuring for end in (training.usd.low, training.usd.expected, training.usd.high)
    )
    if not high:
        return "only the machine's time"
    machine = summary.machine_usd
    of_it = f", of which {usd(machine)} for its machine during measuring" if machine else ""
    return f"{about_usd(expected, low, high)}{of_it}"


def _headline(summary: EstimateSummary, target: str) -> str:
    verdict, estimate, rule = summary.verdict, summary.estimate, summary.verdict.rule
    if verdict.kind == "no_go":
        todo = verdict.deciding.step.todo if verdict.deciding.step else None
        if rule == "cheaper rung" and isinstance(todo, UseCandidate):
            return f"Not now: {shorten(candidate_name(todo.arm), 80)} is good enough"
        return verdict_summary("no_go", rule)
    what = f"{shorten(target.partition('/')[2] or target, 30)} on {shorten(summary.name, 30)}"
    if verdict.kind == "go":
        is_trained = summary.evidence.trained is not None
        go = "use the tuned model" if is_trained else f"train {what}"
        if aim_of(verdict.facts.task_kind):
            return f"Go: {go}"  # the aim is not money, and its numbers are the first below
        return f"Go: {go}{_saving_clause(';', estimate, is_good=summary.evidence.is_good)}"
    because = verdict.deciding.because
    if isinstance(because, PriceGap) and because.missing.what == "today":
        return "Undecided: add today's model and the monthly volume"
    if isinstance(because, CheapModelUntried):
        name = shorten(because.model.rpartition("/")[2], 30)
        costs = about_usd(because.monthly_usd, per="a month")
        return f"Undecided: measure {name} first, which would cost {costs}"
    if summary.evidence.ladder is None and summary.evidence.trained is None:
        aim = aim_of(verdict.facts.task_kind)
        if aim:
            return f"Worth measuring, to {TASK_KINDS[aim].lower()}"
        cheaper = _cheaper_untrained(summary)
        if cheaper:
            name = shorten(cheaper.name.rpartition("/")[2], 30)
            cost = about_usd(cheaper.monthly.total, per="a month")
            return f"Worth measuring: {name} may do without training, for {cost}"
        return f"Worth measuring{_saving_clause(':', estimate, is_good=False) or ': the saving is still unknown'}"
    return verdict_summary("unknown", rule)


def _cheaper_untrained(summary: EstimateSummary) -> UnmeasuredModel | None:
    """The unmeasured model if it would cost no more than the tuned one: training saves nothing beside it."""
    offered, estimate = summary.offered, summary.estimate
    if offered is None or estimate is None:
        return None
    return offered if offered.monthly.total <= estimate.monthly_after.total else None


def _saving_clause(stop: str, estimate: Estimate | None, *, is_good: bool) -> str:
    if estimate is None:
        return ""
    condition = payback_condition(is_good=is_good, is_time_said=True)
    if estimate.saving_month < 0:
        return f"{stop} it would cost {about_usd(-estimate.saving_month)} more a month"
    return f"{stop} it would save {monthly_saving_text(estimate)}{condition.replace(',', '')}"


def verdict_summary(kind: VerdictKind, rule: str) -> str:
    """The verdict and the rule that decided it, without amounts."""
    match kind:
        case "go":
            return "Go"
        case "no_go":
            return NOT_NOW.get(rule, "Not now")
        case "unknown":
            return f"Undecided: {OPEN.get(rule, 'something is still unknown')}"


def _subject(summary: EstimateSummary, target: str) -> str:
    volume = f", {volume_text(summary.volume)}" if summary.volume else ""
    other = summary.alternative if other_bill(summary) and not hides_savings(summary) else None
    against = f", compared with {escape(shorten(alternative_name(other), 60))}" if other else ""
    aim = summary.evidence.task_kind
    for_what = f"; the aim: {TASK_KINDS[aim].lower()}" if aim else ""
    return f"{escape(shorten(summary.name))} on {escape(shorten(target, 60))}{volume}{against}{for_what}"


@dataclass(frozen=True)
class TriedOut:
    """What an estimate tries out: a bar and a kind of task, None where they are the team's, and the team's
    `standard`."""

    bar: float | None
    task: TaskKind | None
    standard: Standard


@dataclass(frozen=True)
class AskedEstimate:
    """An earlier estimate's question. `typed` maps its options to the text that the person typed."""

    number: int
    dataset: str
    typed: Mapping[str, str]


@dataclass(frozen=True)
class EstimateChoices:
    """What the form offers. `cheapest` is the cheapest capable model that can be asked here. `marks` are words about
    the prices of some targets."""

    datasets: Sequence[str]
    targets: Sequence[str]
    cheapest: str | None = None
    marks: Mapping[str, str] = new_field(default_factory=dict)


def form(
    channel: str,
    choices: EstimateChoices,
    dataset: str | None = None,
    before: AskedEstimate | None = None,
) -> Block:
    """`dataset` is preselected. `before` is the estimate that this one changes."""
    typed = before.typed if before else {}
    cheapest = f"None yet? {choices.cheapest} is the cheapest likely candidate." if choices.cheapest else ""

    def field(name: str, label: str, example: str, hint: str = "") -> Block:
        return forms.text_input(name, label, example, hint=hint, initial=typed.get(name, ""))

    blocks = [
        # A manager knows this number, so the form begins with it.
        field("volume", "Requests per month", "20,000", "Or the input tokens of a month: 10M tokens."),
        field("current", "Model that you prompt today", "gpt-4o", cheapest),
        forms.select_input("dataset", "Dataset", choices.datasets, initial=dataset),
        forms.select_input(
            "target", "Model to train", choices.targets, initial=typed.get("target"), marks=choices.marks
        ),
        field("hours", "Hours of staff time, one-off", "16", "Empty: not counted."),
        field("rate", "Dollars per hour of staff time", "75", f"Empty: {usd(USD_PER_HOUR)}."),
        field("labels", "Rows still to be labelled", "500", "Empty: none."),
        field("label_usd", "Dollars per label", "0.10", "Empty: nothing on top of the hours."),
        field("wrong_usd", "Dollars that a wrong answer costs", "0.50", "Empty: not counted."),
        field("retrain", "Retrain every how many months", "6", "Empty: never."),
        forms.text_input(
            "bar",
            "Quality bar",
            share_text(DEFAULT_QUALITY_THRESHOLD),
            hint="The share of right answers to judge by, in this answer only. Empty: the dataset's bar.",
            initial=typed.get("bar", ""),
        ),
        forms.task_input("For this answer only. Empty: the dataset's setting.", initial=typed.get("task")),
    ]
    private = f"{channel} {before.number}" if before else channel
    return modal("Estimate a fine-tune", ESTIMATE, blocks, submit="Estimate", private=private)


def refused_field(refused: object) -> str:
    """The form field under which a refusal is shown."""
    about = refused.about if isinstance(refused, Refusal) else None
    return about if about in FIELDS else "dataset"
