"""A run's result: what to do with the tuned model, what it cost and saves, what speaks for and against it. How it
compares is in result_comparison.py, its details in result_details.py."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path

from bot.cards.common.advice import NOT_OFFERED, Offered, in_use_text, use_button
from bot.cards.common.blocks import (
    Block,
    CardBlock,
    Headline,
    Message,
    Text,
    button,
    code,
    escape,
    sentence,
)
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import bar_text, counted_as_right, meaning, scoring_text, short_meaning
from bot.cards.common.general import Attachment
from bot.cards.common.judge_agreement import agreement_text, judge_notes, trust_text
from bot.cards.common.payback import payback_text
from bot.cards.common.plan_money import foreseen_text, net_value, saves_until
from bot.cards.common.words import about_usd, at_most, by_whom, charge, day, percent, pluralize, shorten
from bot.cards.datasets.datasets import MEASURE as MEASURE_DATASET
from bot.cards.decisions.aims import result_aim_facts
from bot.cards.decisions.plan_training import taught_facts
from bot.cards.decisions.run_again import run_again_button
from bot.cards.evidence.judge_checks import judge_button
from bot.cards.evidence.wrong_rows import wrong_rows_button
from bot.cards.models.promotions import prices_text, promotion_button, try_button, worse_labels_text
from bot.cards.models.token_serving import TokenOffer, serve_buttons, why_not_line
from bot.cards.training.result_comparison import (
    before_name,
    before_text,
    better_name,
    compared_with_base,
    compared_with_best,
    comparison_facts,
    right_text,
)
from bot.rules.facts import is_silent
from bot.rules.judge_agreement import UNCHECKED, CheckedJudge
from bot.rules.plans import Plan
from bot.rules.training import results as rules
from bot.rules.training.results import SAME_MEASURE, Decision, best_alternative, is_base_best, is_before
from bot.values.runs import NOTHING_SINCE, AfterResult, RunResult, TimeInUse
from storage.records import Run
from trainers.evaluation.results import Standing
from trainers.money import from_micros

DETAILS = "run_details"
MEASURE = "measure_after_run"
STANDS: Mapping[Standing, str] = {
    "meets": "meets {bar}",
    "misses": "below {bar}",
    "undecided": "too close to {bar} to call",
}
DECISIONS: Mapping[Decision, str] = {
    "in use": "In use",
    "deploy": "Use it",  # as its button
    "undecided": "Undecided",
    "not now": "Not now",
    "not needed": "Not needed",
    "failed": "Failed",
    "not good enough": "Not good enough",
    "good enough": "Good enough",
}
NOTHING_MEASURED = "measure"  # the rule that asks for the alternatives to be measured first
IN_HEADLINE = "tuned"  # the rule whose reason is already in the headline
TRAINING_CHARTS: Mapping[str, str] = {
    "loss": "Loss by training step, where lower is better",
    "reward": "Mean reward of answers by training step, where higher is better",
    "preference-accuracy": "Share of preferred right answers by training step, where higher is better",
    "reward-margin": "Margin of right over wrong answers by training step, where higher is better",
}
DELETED = (
    "*Its dataset was deleted*, with the model, the verdict and the alternatives' answers. "
    "Only these numbers are kept."
)


def card(
    run: Run,
    plan: Plan,
    result: RunResult,
    *,
    may_be_used: bool = False,
    is_deleted: bool = False,
    name: str | None = None,
    machine: str | None = None,
    is_stopped: bool = False,
    after: AfterResult = NOTHING_SINCE,
    offered: Offered = NOT_OFFERED,
    by_token: TokenOffer | None = None,
) -> Message:
    """The card. `may_be_used` is True if the model is better than the measured alternatives and not in use yet;
    `after` says what happened to it since. `is_deleted` is True if its dataset was deleted. `name` links to the run's
    card, `machine` to the card of the machine on which its model runs by the hour; `is_stopped` is True once that
    machine is stopped, and its cost final. `offered` says whether the best alternative can be used, if the verdict is
    for that; `by_token` whether a vendor could serve the model by the token."""
    headline = _headline(result, may_be_used=may_be_used, is_in_use=after.is_in_use)
    name = name or f"Run {run.id}"

    parts = Parts()
    parts.add(Headline(headline))
    parts.note(f"{name}: {_subject(plan, result)}")
    parts.facts(
        [
            *_quality_facts(plan, result),
            ("Cost", _cost(run, plan, result, is_stopped=is_stopped)),
            *taught_facts(plan),
        ]
    )
    if is_deleted:
        # The verdict and the alternatives' answers went with the dataset.
        parts.text(DELETED)
    else:
        parts.add(*_reasons(plan, result, after))
        parts.add(*_next(run, plan, result, after, offered, may_be_used=may_be_used))
    if after.is_gone or is_deleted:
        by_token = None
    why_not = why_not_line(by_token)
    if why_not:
        parts.note(why_not)
    if machine and is_stopped:
        parts.note(f"Its machine is stopped; start it again on {machine}.")
    elif machine:
        parts.note(f"Its machine costs money by the hour; keep or stop it on {machine}.")
    parts.buttons(
        *_buttons(run, plan, result, after, offered, may_be_used=may_be_used, is_deleted=is_deleted),
        *serve_buttons(run.id, by_token),
    )
    notification = f"Result of run {run.id}. {escape(headline)}{_saves_in_short(plan, result)}"
    return Message(notification, tuple(parts))


def _subject(plan: Plan, result: RunResult) -> str:
    """What was trained on what, measured on how many rows, and how."""
    model = escape(shorten(plan.base_model, 60))
    if plan.starts_from is not None:
        model += f", from {code(plan.starts_from.name)},"
    dataset = escape(shorten(plan.dataset))
    rows = pluralize(result.tuned.n, "held-out row")
    subject = f"{model} on {dataset}, {rows}"
    judge = _judge(plan, result)
    if judge:
        subject += f", judged by {escape(shorten(judge.name))}"
    return subject + scoring_text(result.comparison)


def _quality_facts(plan: Plan, result: RunResult) -> list[tuple[str, str]]:
    """How good the model is and what it saves, the team's aim first."""
    aim = result_aim_facts(plan, result)
    facts = [*aim, ("Right", right_text(result)), *comparison_facts(result)]
    if result.not_worse:
        facts.append(("Price", prices_text(result.not_worse)))

    saves = saving_text(plan, result)
    if not saves:
        return facts
    net = net_value(plan)
    # If the aim is not money, the net value says it in one number, and the monthly saving would be one too many.
    if not aim or not net:
        facts.append(("Planned saving", saves))
    return [*facts, *net]


def list_headline(result: RunResult, *, may_be_used: bool, is_in_use: bool = False) -> str:
    """The card's headline with the number of rows, for lists; unescaped."""
    headline = _headline(result, may_be_used=may_be_used, is_in_use=is_in_use)
    return f"{headline}, on {pluralize(result.tuned.n, 'held-out row')}"


def chart(path: Path, plan: Plan, result: RunResult) -> Attachment:
    """A chart of the run, with what it shows. `path` has the name that the charts give it."""
    subject = f"{shorten(plan.base_model)} on {shorten(plan.dataset)}"
    if path.stem in TRAINING_CHARTS:
        title = f"{TRAINING_CHARTS[path.stem]}, {subject}"
        return Attachment(path, title, _course(path.stem, result))
    if path.stem == "quality":
        finding = list_headline(result, may_be_used=bool(result.is_offered))
        title = f"Quality against price of the tuned model and its alternatives, {subject}"
        return Attachment(path, title, finding)
    finding = f"{percent(result.tuned.share)} of {pluralize(result.tuned.n, 'row')} are right"
    return Attachment(path, f"Expected labels against the tuned model's answers, {subject}", finding)


def _course(stem: str, result: RunResult) -> str:
    """'From 3.21 to 0.42', by the means of the first and the last stretch; '' if no two are stored."""
    curves = {
        "loss": result.loss_curve,
        "reward": result.reward_curve,
        "preference-accuracy": result.preference_curve,
        "reward-margin": result.margin_curve,
    }
    curve = curves[stem]
    if len(curve) < 2:
        return ""
    (_, first), (last_step, last) = curve[0], curve[-1]
    return f"From {first:.3g} to {last:.3g} after {pluralize(last_step, 'step')}"


def _headline(result: RunResult, *, may_be_used: bool, is_in_use: bool) -> str:
    """What to do with the tuned model, then how it compares with the bar and with the best alternative on the same
    rows."""
    comparison = result.comparison
    decision = rules.decide(result, may_be_used=may_be_used, is_in_use=is_in_use)
    if comparison is None or decision is None:
        return f"Tuned model: {percent(result.tuned.share)} right; {compared_with_base(result)}"
    (tuned,) = comparison.of_kind("tuned")
    if is_silent(tuned):
        return f"{DECISIONS[decision]}: no answer to {tuned.empty:,} of {tuned.n:,} rows"
    score = f"{percent(tuned.score)} {short_meaning(tuned)}"
    by_bar = STANDS[tuned.standing].format(bar=bar_text(comparison.bar, comparison.is_bar_set))
    return f"{DECISIONS[decision]}: {score}, {by_bar}; {compared_with_best(result, comparison)}"


def _judge(plan: Plan, result: RunResult) -> CheckedJudge | None:
    """The model whose verdicts are the scores, None if they were scored without one."""
    if plan.judge is None or not rules.is_judged(result):
        return None
    return CheckedJudge(plan.judge, result.judge_checks or UNCHECKED, result.checkable)


def _saves_in_short(plan: Plan, result: RunResult) -> str:
    """The planned saving in a notification: over the year, since a monthly saving may hide a later loss."""
    saves = saving_text(plan, result)
    if not saves:
        return ""
    if net_value(plan):
        return f". Planned: {foreseen_text(plan)}"
    return f". Saves {saves}"


def saving_text(plan: Plan, result: RunResult) -> str:
    """The monthly saving that the plan expected, and the payback time including staff time and labels; '' if the model
    should not be used."""
    saved = rules.planned_saving_micros(plan, result)
    if not saved:
        return ""
    amount = about_usd(from_micros(saved), per="a month")
    return f"{amount}{saves_until(plan)}{_back(plan, result, saved)}"


def _back(plan: Plan, result: RunResult, saved: int) -> str:
    """When the cost is paid back; '' for an older plan without the cost of staff time and labels."""
    advised = plan.advised
    foreseen = plan.predicted
    if advised is None or foreseen is None:
        return ""
    spent = result.actual_micros + advised.people_micros + advised.labels_micros
    ignored = ""
    if not foreseen.is_time_said:
        ignored = ", ignoring staff time"
    if not spent:
        return f"; nothing was spent{ignored}"
    months = Decimal(spent) / saved
    return f"; pays back {payback_text(months)}{ignored}"


def _cost(run: Run, plan: Plan, result: RunResult, *, is_stopped: bool) -> str:
    spent_micros = result.actual_micros
    if plan.hosting and run.actual_micros is not None:
        # Includes what the machine has cost since the result.
        spent_micros = run.actual_micros
    hosting_micros = result.hosting_micros + spent_micros - result.actual_micros
    actual = charge(spent_micros)
    estimated = charge(result.estimated_micros)
    text = actual
    if hosting_micros:
        text += f", of which {charge(hosting_micros)} for its machine"
        if not is_stopped:
            text += " so far"
    if result.lost_micros:
        text += f", including {at_most(result.lost_micros)} for lost answers"
    if not hosting_micros and actual == estimated:
        text += ", as estimated"
    else:
        text += f", estimated {estimated}"
    if result.vendor_micros is not None:
        text += f" ({escape(plan.provider)}'s own estimate: {charge(result.vendor_micros)})"
    if result.actual_micros > plan.maximum_micros:
        text += f"; exceeds the approved {charge(plan.maximum_micros)}"
    if result.is_uncounted:
        text += "; calculated from the planned tokens, since the vendor reports none"
    elif result.bill is not None:
        text += f"; {charge(result.bill.micros)} of it by the vendor's bill for the training"
    elif plan.destination and plan.destination.hosted_base:
        text += "; the tokens that were sent at their list price, not the vendor's bill"
    return text


def _reasons(plan: Plan, result: RunResult, after: AfterResult) -> list[CardBlock]:
    """At most one reason for the model, one against it, and one unknown."""
    reasons = (
        ("For", _for(plan, result)),
        ("Against", _against(result)),
        ("Unknown", _unknown(plan, result, after)),
    )
    parts = Parts()
    parts.lines([f"• *{kind}*: {text}" for kind, text in reasons if text])
    return parts


def _for(plan: Plan, result: RunResult) -> str:
    """What the training gained. If what answered before is the best alternative, the headline has the difference."""
    comparison = result.comparison
    if not rules.has_gained(result):
        return ""
    base = before_name(result)
    if plan.method == "head":
        return f"It is the free encoder's model, ready to be deployed; {base} has {before_text(result)}."
    other = best_alternative(comparison)
    is_in_headline = other is None or is_base_best(result, other) or is_before(result, other)
    if result.partial is None and (comparison is None or not comparison.pairs or is_in_headline):
        if result.better == 1:
            return f"1 row that {base} got wrong is now right."
        return f"{result.better:,} rows that {base} got wrong are now right."
    if result.before not in ("base", "start"):
        # Being ahead of a model that was trained in another way doesn't show what this training gained.
        return f"It is right more often than {base}, which has {before_text(result)}."
    helped = f"{base} has {before_text(result)}"
    if comparison and comparison.scoring not in SAME_MEASURE and result.partial is None:
        # The headline's score is by another measure, so the two can't be read side by side.
        tuned = f"{percent(result.tuned.share)} {counted_as_right(comparison)}"
        than = result.start or "its base"
        helped = f"{tuned} against {percent(result.base.share)} for {than}"
    if rules.is_base_lost(result):
        helped += f", with no label in {result.base.unlisted:,} of {result.base.n:,} answers"
    return f"Training helped: {helped}."


def _against(result: RunResult) -> str:
    if result.advice and result.advice.kind == "no_go" and result.advice.rule != IN_HEADLINE:
        return sentence(result.advice.reason or result.advice.headline)
    if result.worse_labels:
        name = escape(shorten(better_name(result), 60))
        return f"Right less often than {name}: {worse_labels_text(result.worse_labels)}."
    if not result.worse:
        return ""
    before = before_name(result)
    if result.partial is None:
        if result.worse == 1:
            return f"1 row that {before} got right is now wrong."
        return f"{result.worse:,} rows that {before} got right are now wrong."
    if result.comparison and result.comparison.scoring == "json":
        if result.worse == 1:
            return f"1 row in which {before} got every field right has a wrong field now."
        return f"{result.worse:,} rows in which {before} got every field right have a wrong field now."
    # A text that shares a few words fewer with the expected one is not a row that got worse.
    return ""


def _unknown(plan: Plan, result: RunResult, after: AfterResult) -> str:
    advice = result.advice
    comparison = result.comparison
    judge = _judge(plan, result)
    # The scores rest on the judge, so doubts about it come before all others.
    if judge and rules.is_judge_distrusted(result):
        agreed = escape(agreement_text(f"the judge {shorten(judge.name)}", judge.checks))
        return f"How good the answers are: {agreed}, so its scores say little."
    if advice and advice.kind == "unknown" and advice.rule != IN_HEADLINE:
        return sentence(advice.reason or advice.headline)
    if judge and not judge.is_trusted:
        name = escape(shorten(judge.name))
        return f"How far to trust the judge {name}: {escape(trust_text(judge.checks))}."
    if result.no_encoder:
        why = sentence(result.no_encoder)
        return f"How it compares with the free encoder, which could not answer for this run: {why}"
    if plan.current and not after.is_current_measured and saving_text(plan, result):
        current = escape(shorten(plan.current))
        return f"Whether it can replace {current}, which was not measured on these rows."
    if comparison and comparison.candidates and comparison.scoring == "f1":
        (tuned,) = comparison.of_kind("tuned")
        text = f"Whether the answers are right: {percent(tuned.score)} is {meaning(tuned)}."
        about_failure = notes_on_judge(plan, result)[:1]
        return " ".join([text, *map(escape, about_failure)])
    return ""


def notes_on_judge(plan: Plan, result: RunResult) -> list[str]:
    if plan.judge is None or result.judge is None or result.comparison is None:
        return []
    models = [f"{plan.provider}/{plan.base_model}"]
    people = result.judge_checks or UNCHECKED
    return judge_notes(plan.judge, models, result.judge, result.comparison, people)


def _next(
    run: Run, plan: Plan, result: RunResult, after: AfterResult, offered: Offered, *, may_be_used: bool
) -> list[CardBlock]:
    """What happened since, or the next step; empty if the first button does it."""
    since = _since(run, after)
    if since:
        return [Text(since, run_again_button(run.id))]
    other = best_alternative(result.comparison)
    if offered.in_use_since is not None and other:
        return [Text(in_use_text(other.identity, offered.in_use_since), run_again_button(run.id))]
    # Each of these has its own next step on the card.
    if _about_judge(plan, result) or _to_measure(result):
        return []
    if may_be_used and not rules.is_open(result):
        return []
    step = _next_step(run, result)
    if not step:
        return []
    return [Text(f"*Next*: {step}", run_again_button(run.id))]


def _next_step(run: Run, result: RunResult) -> str:
    match rules.next_step(result, has_model=run.model is not None):
        case "stay":
            return "Stay with what you have, or measure again with more held-out rows."
        case "look at worse rows":
            return "Look at the rows that got worse before you train again."
        case "see what speaks against it":
            return f"{code(f'/finetune promote {run.model}')} explains what speaks against deploying it."
        case "as advised" if result.advice:
            return sentence(result.advice.next_step)
        case _:
            return ""


def _since(run: Run, after: AfterResult) -> str:
    """Who deployed the model, what took its place, and whether it is gone; '' if nothing happened."""
    use = after.use
    sentences = []
    if use is not None:
        sentences.append(f"*Deployed* by {by_whom(use.person)} on {day(use.since)}.")
    if use is not None and use.until is not None:
        sentences.append(_ended(use, use.until))
    if after.is_gone:
        sentences.append(
            f"*Gone*: {escape(run.provider)} no longer has the model, so it has to be trained again."
        )
    elif use is not None and use.until is not None:
        sentences.append(f"{code(f'/finetune promote {run.model}')} deploys it again.")
    return " ".join(sentences)


def _ended(use: TimeInUse, until: float) -> str:
    if use.is_rolled_back:
        return f"*Rolled back* to {code(use.other)} by {by_whom(use.ended_by)} on {day(until)}."
    if use.other:
        return f"*Replaced* by {code(use.other)} on {day(until)}, by {by_whom(use.ended_by)}."
    return f"In use until {day(until)}."


def _buttons(
    run: Run,
    plan: Plan,
    result: RunResult,
    after: AfterResult,
    offered: Offered,
    *,
    may_be_used: bool,
    is_deleted: bool,
) -> list[Block]:
    """The next step first. Only "Details" if the model was deleted."""
    number = str(run.id)
    if is_deleted:
        return [button("Details", DETAILS, number)]
    may_be_used = may_be_used and not rules.is_judge_distrusted(result)
    steps = [*_about_judge(plan, result), *_to_measure(result, plan.dataset, number)]
    other = best_alternative(result.comparison)
    if offered.measurement and other:
        steps.append(use_button(other.identity, offered.measurement, is_named=True))
    if run.model and not after.is_gone:
        if may_be_used:
            steps.append(promotion_button(run.id, run.model))
        steps.append(try_button(run.id))
    if steps and not _next(run, plan, result, after, offered, may_be_used=may_be_used):
        # Only a button that is the next step stands out.
        steps[0]["style"] = "primary"
    details = button("Details", DETAILS, number)
    if len(steps) < 2 and result.comparison is not None:
        return [*steps, wrong_rows_button(f"run {number}"), details]
    return [*steps[:2], details]


def _about_judge(plan: Plan, result: RunResult) -> list[Block]:
    """The button to check the judge or to choose another one, which every other step rests on."""
    judge = _judge(plan, result)
    if judge is None or judge.next_step is None:
        return []
    return [judge_button(judge, judge.next_step, plan.dataset)]


def _to_measure(result: RunResult, dataset: str = "", number: str = "") -> list[Block]:
    """The button for a missing comparison: it measures the named model, or opens the form if none is named."""
    advice = result.advice
    if advice is None or not rules.is_open(result):
        return []
    if advice.measure:
        _, _, model = advice.measure[0].partition("/")
        return [button(f"Measure {model}", MEASURE, number)]
    if advice.rule == NOTHING_MEASURED:
        return [button("Measure alternatives", MEASURE_DATASET, dataset)]
    return []
