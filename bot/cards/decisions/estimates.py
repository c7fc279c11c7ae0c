"""The estimate card and its form: the verdict, the numbers behind it, the strongest reasons, and the next step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bot.cards.common import advice
from bot.cards.common.advice import NOT_OFFERED, USE, Offered, in_use_text, use_button
from bot.cards.common.blocks import (
    Block,
    Headline,
    Lines,
    Message,
    Note,
    button,
    cut,
    escape,
    sentence,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import (
    LONG_NAMES,
    alternative_name,
    bar_share,
    candidate_name,
    floor_text,
    several_labels_text,
)
from bot.cards.common.general import details_modal
from bot.cards.common.judge_agreement import notes_on_evidence
from bot.cards.common.payback import (
    monthly_saving_text,
    net_value_name,
    net_value_text,
    payback_condition,
    short_payback_text,
)
from bot.cards.common.prices import doubtful_successors
from bot.cards.common.words import SLACK, Spelling, about_usd, shorten, volume_text
from bot.cards.datasets.datasets import MEASURE as MEASURE_DATASET
from bot.cards.datasets.datasets import UPLOAD_AGAIN
from bot.cards.decisions.aims import aim_facts
from bot.cards.decisions.estimate_details import (
    by_token_facts,
    details,
    escaped_facts,
    other_bill,
    price_facts,
    saving_range,
    training_time,
)
from bot.cards.evidence.judge_checks import REPLACE_JUDGE_WORDS, judge_button
from bot.rules.advice import Verdict, may_start_anyway, next_action
from bot.rules.estimates import EstimateSummary, MainNumber
from bot.rules.facts import TASK_KINDS, Standard, TaskKind
from bot.rules.fit import aim_numbers, aim_of
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
from bot.rules.roi import Estimate
from trainers.models.model_list import strip_effort
from trainers.money import usd

SHARE = "share_estimate"
DETAILS = "estimate_details"
# Buttons for the next step; their value is the estimate's number. Uploading has its own button, with the dataset.
START = "start_estimate"
MEASURE = "measure_next"
ANSWER = "answer_estimate"
CHECK_LABELS = "check_labels"
ADOPT = "adopt_estimate"  # makes the bar or the kind of task that an estimate tried out the team's
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
# Plans store the rules by these names, so an old word such as “rung” stays.
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
    offered: Offered = NOT_OFFERED,
    judge: CheckedJudge | None = None,
    tried: TriedOut | None = None,
    spelling: Spelling = SLACK,
) -> Message:
    """The decision, the numbers behind it, the strongest reason on each side, and the next step as a button.

    `number` is the estimate's; None leaves out the buttons. `shared_by` is the person who shared it. `offered` says
    whether the candidate that the verdict names can be used. `judge` is the model whose verdicts are the scores.
    `tried` is what this estimate tries out: plans are made by the team's own standard, so making it the team's comes
    before a start."""
    verdict = summary.verdict
    headline = _headline(summary, target)
    next_step = _next_step(verdict, offered, spelling)
    check = None
    if judge and judge.next_step:
        check = judge_button(judge, judge.next_step, summary.name)
    step = None
    if number is not None:
        step = _next_button(summary, number, offered, check)
        if tried and step and step["action_id"] in (START, USE):
            step = button(_adopt_label(tried), ADOPT, str(number), style="primary")

    parts = Parts([Headline(headline)])
    parts.note(_subject_line(summary, target, shared_by))
    of_aim = aim_facts(aim_numbers(verdict.facts))
    parts.add(escaped_facts([*of_aim, *_main_numbers(summary)]))
    parts.add(Lines(advice.main_reasons(verdict, spelling)))
    parts.note(several_labels_text(verdict.facts.n_combined))
    parts.add(*notes_on_evidence(summary.evidence))
    parts.add(*_successor_notes(summary))
    # A green button says the next step already.
    if next_step and (step is None or "style" not in step):
        parts.text(f"*Next*: {next_step}")
    if tried:
        parts.note(_tried_text(tried, is_private=shared_by is None))
    if number is not None:
        is_shared = shared_by is not None
        parts.buttons(*_buttons(verdict, number, step, tried, check, is_shared=is_shared))
    # A notification has no buttons, so it names the next step in any case.
    return Message(f"{escape(headline)}. {next_step}", tuple(parts))


def _next_step(verdict: Verdict, offered: Offered, spelling: Spelling) -> str:
    step = verdict.deciding.step
    if offered.in_use_since is not None and step and isinstance(step.todo, UseCandidate):
        return in_use_text(step.todo.candidate, offered.in_use_since)
    return sentence(advice.next_step(verdict, spelling))


def _subject_line(summary: EstimateSummary, target: str, shared_by: str | None) -> str:
    line = _subject(summary, target)
    if shared_by:
        line += f", shared by <@{shared_by}>"
    return f"{line}{_floor(summary)}"


def _successor_notes(summary: EstimateSummary) -> list[Note]:
    """Names the successors that the money rests on and no vendor's page confirms."""
    if summary.made_on is None:
        return []
    lines = doubtful_successors(summary.prices, summary.made_on)
    return [Note(escape(cut(line, 300))) for line in lines]


def _floor(summary: EstimateSummary) -> str:
    """What the commonest values alone would get, for answers in JSON: much of a score there is no merit."""
    facts = summary.verdict.facts
    if not facts.has_objects:
        return ""
    floor = floor_text("json", facts.floor)
    if not floor:
        return ""
    return f". {floor}"


def _tried_text(tried: TriedOut, *, is_private: bool) -> str:
    """'Tried out: a bar of 99% instead of the usual 85%. Nothing changes for others.'"""
    standard = tried.standard
    what = []
    if tried.bar is not None:
        whose = "the team's" if standard.is_bar_set else "the usual"
        what.append(f"a bar of {bar_share(tried.bar)} instead of {whose} {bar_share(standard.bar)}")
    if tried.task is not None:
        task = f"the task {tried.task}"
        if standard.task:
            task += f" instead of {standard.task}"
        what.append(task)
    text = f"Tried out: {' and '.join(what)}."
    if is_private:
        text += " Nothing changes for others."
    return text


def _adopt_label(tried: TriedOut) -> str:
    if tried.bar is not None and tried.task is not None:
        return f"Make {bar_share(tried.bar)} and {tried.task} the team's"
    if tried.bar is not None:
        return f"Make {bar_share(tried.bar)} the team's bar"
    return f"Make {tried.task} the team's task"


def adopted_text(tried: TriedOut, channel: str, again: str) -> str:
    """The answer to the person who made it the team's. `again` is the command that asks the same question again."""
    sentences = []
    if tried.bar is not None:
        sentences.append(f"The bar is now {bar_share(tried.bar)}.")
    if tried.task is not None:
        sentences.append(f"The kind of task is now {tried.task}.")
    sentences.append(f"<#{channel}> has been told. Ask again to go on from here: `{again.strip()}`")
    return " ".join(sentences)


def details_form(summary: EstimateSummary, target: str) -> Block:
    return details_modal("Details of the estimate", details(summary, target))


def _next_button(
    summary: EstimateSummary, number: int, offered: Offered, check: Block | None
) -> Block | None:
    """The button for the step that the verdict asks for, or "Start anyway". `check` is the button to check the
    judge."""
    step = summary.verdict.deciding.step
    named = _named_step(step.todo) if step else None
    action = next_action(
        summary.verdict,
        can_check_judge=check is not None,
        can_use=offered.measurement is not None,
        can_do_step=named is not None,
    )
    match action:
        case "start":
            return button("Start", START, str(number), style="primary")
        case "start anyway":
            # Not green, as the verdict doesn't recommend it.
            return button("Start anyway", START, str(number))
        case "check the judge" if check:
            return {**check, "style": "primary"}
        case "use it" if offered.measurement and step and isinstance(step.todo, UseCandidate):
            return use_button(step.todo.candidate, offered.measurement)
        case "do the step" if named:
            words, does = named
            # These two begin with the dataset, the others with the estimate's question.
            value = summary.name if does in (UPLOAD_AGAIN, MEASURE_DATASET) else str(number)
            return button(words, does, value, style="primary")
        case _:
            return None


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
    share = []
    if not is_shared:
        share.append(button("Share in the channel", SHARE, str(number)))

    if tried and (step is None or step["action_id"] != ADOPT):
        adopt = button(_adopt_label(tried), ADOPT, str(number))
        if step:
            return [step, adopt, details_button]
        if is_shared:
            return [details_button, adopt]
        return [*share, adopt, details_button]
    if step is None:
        return [*share, details_button]
    if not tried and may_start_anyway(verdict):
        return [step, button("Start anyway", START, str(number)), details_button]
    if check and step["action_id"] != check["action_id"]:
        return [step, check, details_button]
    return [step, *share, details_button]


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
    if measure.kinds:
        return " and ".join(LONG_NAMES[kind] for kind in measure.kinds)
    # One model with several efforts would fill the button with its name.
    models = dict.fromkeys(map(strip_effort, measure.models))
    names = [shorten(model.rpartition("/")[2], 24) for model in models]
    return " and ".join(names) or "prompts"


def _main_numbers(summary: EstimateSummary) -> list[tuple[str, str]]:
    """The few numbers that the decision depends on, rounded."""
    pairs = []
    for number in summary.main_numbers:
        pairs += _number_facts(summary, number)
    return pairs


def _number_facts(summary: EstimateSummary, number: MainNumber) -> list[tuple[str, str]]:
    match number:
        case "today":
            return _today(summary)
        case "saving":
            return _saves(summary)
        case "one-off":
            return [("One-off cost", _one_off_cost(summary))]
        case "payback":
            return _pays_back(summary)
        case "net value":
            return _net_value(summary)
        case "untrained":
            return _without_training(summary)
        case "machine":
            return price_facts(summary, is_short=True)
        case "by token":
            return by_token_facts(summary)
        case "prices":
            return price_facts(summary)
        case "minutes":
            return [("Training takes", training_time(summary))]


def _today(summary: EstimateSummary) -> list[tuple[str, str]]:
    bill = summary.today
    if summary.estimate is not None:
        bill = summary.estimate.monthly_before
    if bill is None:
        return []
    return [("Today", about_usd(bill.total, per="a month"))]


def _pays_back(summary: EstimateSummary) -> list[tuple[str, str]]:
    if summary.estimate is None:
        return []
    months = summary.estimate.payback_months
    outlook = summary.outlook
    text = short_payback_text(months, outlook)
    if outlook and months is not None:
        text += payback_condition(is_good=True, is_time_said=outlook.is_time_said)
    return [("Pays back", text)]


def _without_training(summary: EstimateSummary) -> list[tuple[str, str]]:
    """The cost of a cheaper model without training, with which a tuned one has to compete."""
    if summary.offered is None:
        return []
    cost = about_usd(summary.offered.monthly.total)
    name = shorten(summary.offered.name.rpartition("/")[2], 30)
    return [("Without training", f"{name}, {cost} a month if it is good enough")]


def _saves(summary: EstimateSummary) -> list[tuple[str, str]]:
    """The monthly saving with what it rests on, or the loss."""
    estimate = summary.estimate
    if estimate is None:
        return []
    a_month = saving_range(estimate, summary.outlook)
    machine = _machine_bill(estimate)
    if a_month.expected == 0:
        return [("Saves", "nothing")]
    if a_month.expected < 0:
        more = about_usd(-a_month.expected, -a_month.high, -a_month.low, per="a month")
        if machine:
            more += f", with {machine}"
        return [("Costs more", more)]

    less = about_usd(a_month.expected, a_month.low, a_month.high, per="a month")
    less += _until(estimate)
    if machine:
        less += f", after {machine}"
    if estimate.rests_on_one_machine:
        less += ", if one machine is enough"
    return [("Saves", less)]


def _net_value(summary: EstimateSummary) -> list[tuple[str, str]]:
    """What is gained or lost over the horizon, after all costs."""
    estimate = summary.estimate
    outlook = summary.outlook
    if estimate is None or outlook is None or outlook.net_points is None:
        return []
    name = net_value_name(outlook.horizon_months, estimate.yearly_price_fall)
    return [(name, net_value_text(*outlook.net_points))]


def _machine_bill(estimate: Estimate) -> str:
    """The monthly bill of the machines that serve the tuned model, often the largest cost of all: '$73 for its
    machine'; '' if it is paid by the token."""
    bill = estimate.monthly_after.hosting
    if not bill:
        return ""
    # The saving in front of it says “about” already.
    amount = about_usd(bill).removeprefix("about ")
    count = estimate.machines or 1
    if count == 1:
        return f"{amount} for its machine"
    return f"{amount} for its {count:,} machines"


def _until(estimate: Estimate) -> str:
    """Until when it saves that, and what follows, since a saving that ends in weeks is no reason to train."""
    succession = estimate.succession
    if succession is None and estimate.ends:
        return f" until {estimate.ends}, when the model to train ends"
    if succession is None:
        return ""
    until = f" until {succession.ends}"
    saving = succession.saving_month
    if succession.ends_too:
        return f"{until}, when both models end"
    if saving is None:
        return f"{until}, then unknown"
    if saving < 0:
        return f"{until}, then costs {about_usd(-saving)} more"
    return f"{until}, then saves {about_usd(saving)}"


def _one_off_cost(summary: EstimateSummary) -> str:
    training = summary.training
    estimate = summary.estimate
    if training is None:
        return "unknown"
    if estimate is not None and estimate.people_usd + estimate.labels_usd:
        return f"{about_usd(estimate.one_off_usd)}, including staff time and labels"

    measuring = summary.measuring_usd
    high = training.usd.high + measuring
    if not high:
        return "only the machine's time"
    cost = about_usd(training.usd.expected + measuring, training.usd.low + measuring, high)
    if summary.machine_usd:
        cost += f", of which {usd(summary.machine_usd)} for its machine during measuring"
    return cost


def _headline(summary: EstimateSummary, target: str) -> str:
    verdict = summary.verdict
    if verdict.kind == "no_go":
        step = verdict.deciding.step
        if verdict.rule == "cheaper rung" and step and isinstance(step.todo, UseCandidate):
            return f"Not now: {shorten(candidate_name(step.todo.candidate), 80)} is good enough"
        return verdict_summary("no_go", verdict.rule)
    if verdict.kind == "go":
        return _go_headline(summary, target)

    because = verdict.deciding.because
    if isinstance(because, PriceGap) and because.missing.what == "today":
        return "Undecided: add today's model and the monthly volume"
    if isinstance(because, CheapModelUntried):
        name = shorten(because.model.rpartition("/")[2], 30)
        costs = about_usd(because.monthly_usd, per="a month")
        return f"Undecided: measure {name} first, which would cost {costs}"
    if summary.evidence.comparison is None and summary.evidence.trained is None:
        return _unmeasured_headline(summary)
    return verdict_summary("unknown", verdict.rule)


def _go_headline(summary: EstimateSummary, target: str) -> str:
    model = shorten(target.partition("/")[2] or target, 30)
    go = f"Go: train {model} on {shorten(summary.name, 30)}"
    if summary.evidence.trained is not None:
        # It is trained and measured, so there is nothing to train.
        go = "Go: use the tuned model"
    if aim_of(summary.verdict.facts.task_kind):
        return go  # the aim is not money, and its numbers are the first below
    return f"{go}{_saving_clause(';', summary.estimate, is_good=summary.evidence.is_good)}"


def _unmeasured_headline(summary: EstimateSummary) -> str:
    """Why a measurement is worth its cost, as long as there is none."""
    aim = aim_of(summary.verdict.facts.task_kind)
    if aim:
        return f"Worth measuring, to {TASK_KINDS[aim].lower()}"
    cheaper = summary.cheaper_untrained
    if cheaper:
        name = shorten(cheaper.name.rpartition("/")[2], 30)
        cost = about_usd(cheaper.monthly.total, per="a month")
        return f"Worth measuring: {name} may do without training, for {cost}"
    saving = _saving_clause(":", summary.estimate, is_good=False)
    return f"Worth measuring{saving or ': the saving is still unknown'}"


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
            # The plan may be of another version of the bot, with a rule that this one doesn't know.
            return NOT_NOW.get(rule, "Not now")
        case "unknown":
            return f"Undecided: {OPEN.get(rule, 'something is still unknown')}"


def _subject(summary: EstimateSummary, target: str) -> str:
    subject = f"{escape(shorten(summary.name))} on {escape(shorten(target, 60))}"
    if summary.volume:
        subject += f", {volume_text(summary.volume)}"
    if summary.alternative and other_bill(summary) and not summary.hides_savings:
        other = shorten(alternative_name(summary.alternative), 60)
        subject += f", compared with {escape(other)}"
    aim = summary.evidence.task_kind
    if aim:
        subject += f"; the aim: {TASK_KINDS[aim].lower()}"
    return subject


@dataclass(frozen=True)
class TriedOut:
    """What an estimate tries out: a bar and a kind of task, None where they are the team's, and the team's
    `standard`."""

    bar: float | None
    task: TaskKind | None
    standard: Standard
