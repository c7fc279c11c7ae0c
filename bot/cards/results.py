"""A run's result: what to do with the tuned model, how it compares, its details, and the trials of a sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from bot.cards.blocks import (
    Block,
    CardBlock,
    Facts,
    Headline,
    Lines,
    Message,
    Note,
    Text,
    actions,
    button,
    code,
    cut,
    escape,
    sentence,
)
from bot.cards.calibration import alternative_bill
from bot.cards.candidates import (
    bar_text,
    counted_as_right,
    meaning,
    scoring_text,
    short_meaning,
    whole_rows_text,
)
from bot.cards.candidates import candidate_name as rung_name
from bot.cards.datasets import MEASURE as MEASURE_DATASET
from bot.cards.judge_agreement import judge_notes, trust_text
from bot.cards.models import (
    not_worse_text,
    prices_text,
    promotion_button,
    try_button,
    worse_labels_text,
)
from bot.cards.words import (
    about_usd,
    capitalize,
    charge,
    duration,
    duration_range,
    interval,
    money,
    p_value,
    percent,
    pluralize,
    points,
    points_range,
    share_with_interval,
    shorten,
)
from bot.rules.facts import is_silent
from bot.rules.judge_agreement import UNCHECKED
from bot.rules.plans import MONEY_RULES, Plan
from bot.rules.units import HOURS_PER_MONTH, format_months
from bot.values.runs import ChangedRow, RunResult
from storage.records import Run
from trainers.evaluation.results import Ladder, Rung, Standing
from trainers.money import from_micros

DETAILS, MEASURE = "run_details", "measure_after_run"
SIGNIFICANT = 0.05
SAME_MEASURE = ("label", "judge", "calls")  # scorings that base and tuned model share with the alternatives
STANDS: Mapping[Standing, str] = {
    "meets": "meets {bar}",
    "misses": "below {bar}",
    "undecided": "too close to {bar} to call",
}
NOTHING_MEASURED = "measure"  # the rule that asks for the alternatives to be measured first
IN_HEADLINE = "tuned"  # the rule whose reason is already in the headline
DELETED = (
    "*Its dataset was deleted*, with the model, the verdict and the alternatives' answers. "
    "Only these numbers are kept."
)
SHOWN_CHANGES = 8
NAMES_BEFORE: Mapping[str, str] = {
    "base": "the prompted base model",
    "classical": "the free classical model",
}


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
) -> Message:
    """The card. `may_be_used` is True if the model is better than the measured alternatives and not in use yet.
    `is_deleted` is True if its dataset was deleted. `name` links to the run's card, `machine` to the card of the
    machine on which its model runs by the hour; `is_stopped` is True once that machine is stopped, and its cost
    final."""
    headline, saves = _headline(result, may_be_used=may_be_used), _saves(plan, result)
    rows = pluralize(result.tuned.n, "held-out row")
    what = f"{escape(shorten(plan.base_model, 60))} on {escape(shorten(plan.dataset))}"
    is_judged = plan.judge and result.ladder and result.ladder.scoring == "judge"
    by = f", judged by {escape(shorten(str(plan.judge)))}" if is_judged else ""
    subject = f"{name or f'Run {run.id}'}: {what}, {rows}{by}"
    facts = [
        ("Right", _right(result)),
        *_comparison(result),
        *([("Price", prices_text(result.not_worse))] if result.not_worse else []),
        *([("Planned saving", saves)] if saves else []),
    ]
    about_machine = f"Its machine costs money by the hour; keep or stop it on {machine}."
    if is_stopped:
        about_machine = f"Its machine is stopped; start it again on {machine}."
    return Message(
        f"Result of run {run.id}. {escape(headline)}{f'. Saves {saves}' if saves else ''}",
        (
            Headline(headline),
            Note(f"{subject}{scoring_text(result.ladder)}"),
            Facts([*facts, ("Cost", _cost(run, plan, result, is_stopped=is_stopped))]),
            *([Text(DELETED)] if is_deleted else _reasons(plan, result)),
            *([] if is_deleted else _next(run, result, may_be_used=may_be_used)),
            *([Note(about_machine)] if machine else []),
            actions(*_buttons(run, plan, result, may_be_used=may_be_used, is_deleted=is_deleted)),
        ),
    )


def details(plan: Plan, result: RunResult) -> tuple[CardBlock, ...]:
    """What the card has no room for, except the comparison with the estimates."""
    verdict = [Text(f"*Verdict*: {sentence(result.advice.headline)}")] if result.advice else []
    bills = []
    if _saves(plan, result):
        if plan.monthly_before_micros is not None:
            bill = f"{money(plan.monthly_before_micros)} → {money(plan.monthly_after_micros)}"
            bills.append(("Planned monthly cost", bill))
        bills += alternative_bill(plan)
    is_base = result.before == "base"
    changed = f"{result.better:,} better, {result.worse:,} worse ({p_value(result.p_value)})"
    scores = [
        (f"Tuned model, {counted_as_right(result.ladder)}", share_with_interval(result.tuned)),
        (
            f"{escape(shorten(plan.base_model))}, prompted" if is_base else capitalize(before_name(result)),
            share_with_interval(result.base),
        ),
        ("Difference", f"{points(result.gain)} ({points_range(result.gain_low, result.gain_high)})"),
        ("Rows that changed", changed),
        *_comparison(result, is_full=True),
    ]
    return (
        *verdict,
        Facts([*scores, *bills, *_times(plan, result)]),
        *_got_worse(result),
        *_caveats(plan, result),
        Text(_method(result)),
    )


def list_headline(result: RunResult, *, may_be_used: bool) -> str:
    """The card's headline with the number of rows, for lists; unescaped."""
    return f"{_headline(result, may_be_used=may_be_used)}, on {pluralize(result.tuned.n, 'held-out row')}"


def changed_rows_card(rows: Sequence[ChangedRow], before: str = "base") -> Message:
    """Contains customers' words, so it is for private channels only. `before` names what answered before training."""
    worse = [row for row in rows if not row.is_better]
    better = [row for row in rows if row.is_better]
    parts = [_changes("Got worse", worse, before), _changes("Got better", better, before)]
    return Message(
        f"{pluralize(len(better), 'row')} got better, {len(worse):,} worse",
        tuple(block for part in parts for block in part),
    )


def alt_text(plot: str, plan: Plan) -> str:
    subject = f"{shorten(plan.base_model)} on {shorten(plan.dataset)}"
    if plot == "loss":
        return f"Loss by training step, {subject}"
    if plot == "quality":
        return f"Quality against price of the tuned model and its alternatives, {subject}"
    return f"Expected labels against the tuned model's answers, {subject}"


def _headline(result: RunResult, *, may_be_used: bool) -> str:
    """What to do with the tuned model, then how it compares with the bar and with the best alternative on the same
    rows."""
    ladder = result.ladder
    if ladder is None or not ladder.rung("tuned"):  # measured before there was a quality bar
        return f"Tuned model: {percent(result.tuned.share)} right; {_compared_with_base(result)}"
    (tuned,), other = ladder.rung("tuned"), _best_alternative(ladder)
    if is_silent(tuned):
        return f"Failed: no answer to {tuned.empty:,} of {tuned.n:,} rows"
    measured = f" {short_meaning(tuned)}"
    by_bar = STANDS[tuned.standing].format(bar=bar_text(ladder.bar, ladder.is_bar_set))
    decision = _decision(result, tuned, other, may_be_used=may_be_used)
    return f"{decision}: {percent(tuned.score)}{measured}, {by_bar}; {_compared_with_best(result, ladder, tuned)}"


def _decision(result: RunResult, tuned: Rung, other: Rung | None, *, may_be_used: bool) -> str:
    if _is_open(result):
        return "Undecided"  # the same word as the verdict in Details, so that there is only one answer
    if may_be_used:
        return "Deploy it"
    is_no = result.advice is not None and result.advice.kind == "no_go"
    match tuned.standing:
        case "undecided":
            return "Not now" if is_no else "Undecided"
        case "misses":
            return "Failed" if _is_worse(result, tuned, other) else "Not good enough"
        case "meets" if is_no:
            is_about_money = result.advice is not None and result.advice.rule in MONEY_RULES
            is_needless = other is not None and other.standing == "meets" and not is_about_money
            return "Not needed" if is_needless else "Not now"
        case "meets":
            return "Good enough"


def _is_open(result: RunResult) -> bool:
    """True if the verdict asks to find something out first."""
    return result.advice is not None and result.advice.kind == "unknown"


def _is_worse(result: RunResult, tuned: Rung, other: Rung | None) -> bool:
    """True if it is significantly worse than the best alternative, or than its own base."""
    ladder = result.ladder
    if ladder and ladder.pairs and other is not None and not _is_base_best(result, other):
        (pair,) = ladder.pairs
        return pair.better != tuned.arm and pair.p < SIGNIFICANT
    return result.gain < 0 and result.p_value < SIGNIFICANT


def _best_alternative(ladder: Ladder) -> Rung | None:
    """The best alternative that answered the same rows."""
    return next((rung for rung in ladder.rungs if rung.arm.rung != "tuned"), None)


def _compared_with_best(result: RunResult, ladder: Ladder, tuned: Rung) -> str:
    other = _best_alternative(ladder)
    if result.not_worse:
        return not_worse_text(result.not_worse, result.margin, is_named=True)
    if _is_base_best(result, other):
        return _compared_with_base(result)
    if other is None:
        return "nothing else was measured"
    (pair,) = ladder.pairs
    gain = pair.difference if pair.better == tuned.arm else -pair.difference
    return _difference(gain, shorten(_name(other), 50), other.score, is_clear=pair.p < SIGNIFICANT)


def _name(rung: Rung) -> str:
    name = rung_name(rung.arm)
    return f"the free {name.removeprefix('the ')}" if rung.arm.is_free else name


def _is_base_best(result: RunResult, other: Rung | None) -> bool:
    """True if the prompted base model is the best alternative. It isn't one if most of its answers were no label, or if
    its score is by another measure."""
    base, ladder = result.base, result.ladder
    is_alike = result.labelled if ladder is None else ladder.scoring in SAME_MEASURE
    if not is_alike or 2 * base.unlisted > base.n:
        return False
    return other is None or base.share > other.score


def _compared_with_base(result: RunResult) -> str:
    return _difference(
        result.gain, before_name(result), result.base.share, is_clear=result.p_value < SIGNIFICANT
    )


def before_name(result: RunResult) -> str:
    """The name of what answered the same rows without training."""
    return NAMES_BEFORE[result.before]


def _difference(gain: float, name: str, score: float, *, is_clear: bool) -> str:
    if not is_clear:
        return f"no clear difference from {name} ({percent(score)})"
    count = f"{100 * abs(gain):.0f}"
    amount = "under 1 point" if count == "0" else f"{count} point{'' if count == '1' else 's'}"
    return f"{amount} {'above' if gain > 0 else 'below'} {name}"


def _saves(plan: Plan, result: RunResult) -> str:
    """The monthly saving that the plan expected, and the payback time including staff time and labels; '' if the model
    should not be used."""
    saved = 0  # compared with the cheapest known alternative; older plans knew today's model only
    if plan.predicted and plan.predicted.saving_micros is not None:
        saved = plan.predicted.saving_micros
    elif plan.monthly_before_micros is not None and plan.monthly_after_micros is not None:
        saved = plan.monthly_before_micros - plan.monthly_after_micros
    if saved <= 0 or not _is_usable(result):
        return ""
    until = f" until {plan.advised.saves_until}" if plan.advised and plan.advised.saves_until else ""
    return f"{about_usd(from_micros(saved), per='a month')}{until}{_back(plan, result, saved)}"


def _is_usable(result: RunResult) -> bool:
    """True if it meets the bar, the verdict is not against it, and the prompted base model is not as good."""
    ladder, advice = result.ladder, result.advice
    if ladder is None or not ladder.rung("tuned") or (advice and advice.kind == "no_go"):
        return False
    (tuned,) = ladder.rung("tuned")
    is_better = result.gain > 0 and result.p_value < SIGNIFICANT
    return tuned.standing == "meets" and (is_better or not _is_base_best(result, _best_alternative(ladder)))


def _back(plan: Plan, result: RunResult, saved: int) -> str:
    """When the cost is paid back; '' for an older plan without the cost of staff time and labels."""
    advised, foreseen = plan.advised, plan.predicted
    if advised is None or foreseen is None:
        return ""
    spent = result.actual_micros + advised.people_micros + advised.labels_micros
    months = Decimal(spent) / saved
    ignored = "" if foreseen.is_time_said else ", ignoring staff time"
    if not spent:
        return f"; nothing was spent{ignored}"
    is_soon = months * HOURS_PER_MONTH < 24
    return f"; pays back {'within a day' if is_soon else 'in ' + format_months(months)}{ignored}"


def _right(result: RunResult) -> str:
    """The tuned model's score, by the measure of the alternatives if there are any."""
    ladder = result.ladder
    if ladder is None or not ladder.rung("tuned"):
        return share_with_interval(result.tuned)
    (tuned,) = ladder.rung("tuned")
    measured = "" if tuned.scoring == "label" else f" {short_meaning(tuned)}"
    rows = f"; {whole_rows_text(tuned)}" if tuned.scoring == "json" else ""
    return f"{percent(tuned.score)}{measured} ({interval(tuned.low, tuned.high)}){rows}"


def _comparison(result: RunResult, *, is_full: bool = False) -> list[tuple[str, str]]:
    """A fact that compares the tuned model with the best alternative on the same rows."""
    ladder = result.ladder
    other = _best_alternative(ladder) if ladder else None
    if ladder is None or other is None or not ladder.pairs or (not is_full and _is_base_best(result, other)):
        is_clear = result.p_value < SIGNIFICANT
        gain_text = _gain(result.gain, result.gain_low, result.gain_high, is_clear=is_clear)
        return (
            [] if is_full else [(f"Against {before_name(result)}, {percent(result.base.share)}", gain_text)]
        )
    (pair,), (tuned,) = ladder.pairs, ladder.rung("tuned")
    is_better = pair.better == tuned.arm
    low, high = (pair.low, pair.high) if is_better else (-pair.high, -pair.low)
    gain = pair.difference if is_better else -pair.difference
    measured = "" if other.scoring == "label" else f" {short_meaning(other)}"
    name = f"Against {escape(shorten(_name(other), 60))}, {percent(other.score)}{measured}"
    if is_full:
        return [(name, f"{points(gain)} ({points_range(low, high)}), {p_value(pair.p)}")]
    return [(name, _gain(gain, low, high, is_clear=pair.p < SIGNIFICANT))]


def _gain(gain: float, low: float, high: float, *, is_clear: bool) -> str:
    between = points_range(low, high)
    if not is_clear:
        return f"no clear difference ({between} points)"
    return f"{points(gain)} ({between})"


def _cost(run: Run, plan: Plan, result: RunResult, *, is_stopped: bool) -> str:
    spent_micros = result.actual_micros
    if plan.hosting and run.actual_micros is not None:
        spent_micros = run.actual_micros  # includes what the machine has cost since the result
    hosting_micros = result.hosting_micros + spent_micros - result.actual_micros
    actual, estimated = charge(spent_micros), charge(result.estimated_micros)
    if hosting_micros:
        so_far = "" if is_stopped else " so far"
        actual += f", of which {charge(hosting_micros)} for its machine{so_far}"
    theirs = result.vendor_micros
    by_vendor = f" ({escape(plan.provider)}'s own estimate: {charge(theirs)})" if theirs is not None else ""
    is_over = result.actual_micros > plan.maximum_micros
    over = f"; exceeds the approved {charge(plan.maximum_micros)}" if is_over else ""
    as_expected = "as estimated" if actual == estimated else f"estimated {estimated}"
    uncounted = (
        "; calculated from the planned tokens, since the vendor reports none" if result.is_uncounted else ""
    )
    return f"{actual}, {as_expected}{by_vendor}{over}{uncounted}"


def _reasons(plan: Plan, result: RunResult) -> list[CardBlock]:
    """At most one reason for the model, one against it, and one unknown."""
    reasons = (
        ("For", _for(plan, result)),
        ("Against", _against(result)),
        ("Unknown", _unknown(plan, result)),
    )
    lines = [f"• *{kind}*: {text}" for kind, text in reasons if text]
    return [Lines(lines)] if lines else []


def _for(plan: Plan, result: RunResult) -> str:
    """What the training gained. If the base is the best alternative, the headline has the difference already."""
    ladder = result.ladder
    if result.gain <= 0 or result.p_value >= SIGNIFICANT:
        return ""
    if ladder is None or not ladder.pairs or _is_base_best(result, _best_alternative(ladder)):
        is_one = result.better == 1
        rows = f"{pluralize(result.better, 'row')} that {before_name(result)} got wrong"
        return f"{rows} {'is' if is_one else 'are'} now right."
    base = f"{before_name(result)} has {percent(result.base.share)}"
    if plan.method == "head":
        return f"It is the free encoder's model, ready to be deployed; {base}."
    if result.before != "base":
        # Being ahead of another model doesn't show what the training gained.
        return f"It is right more often than {before_name(result)}, which has {percent(result.base.share)}."
    if ladder.scoring not in SAME_MEASURE:
        shares = (
            f"{percent(result.tuned.share)} {counted_as_right(ladder)} against {percent(result.base.share)}"
        )
        base = f"{shares} for its base"
    unread = f", with no label in {result.base.unlisted:,} of {result.base.n:,} answers"
    return f"Training helped: {base}{unread if 2 * result.base.unlisted > result.base.n else ''}."


def _against(result: RunResult) -> str:
    if result.advice and result.advice.kind == "no_go" and result.advice.rule != IN_HEADLINE:
        return sentence(result.advice.reason or result.advice.headline)
    if result.worse_labels:
        name = escape(shorten(_better_name(result), 60))
        return f"Right less often than {name}: {worse_labels_text(result.worse_labels)}."
    if result.worse:
        rows = f"{pluralize(result.worse, 'row')} that {before_name(result)} got right"
        return f"{rows} {'is' if result.worse == 1 else 'are'} now wrong."
    return ""


def _unknown(plan: Plan, result: RunResult) -> str:
    advice, current = result.advice, escape(shorten(plan.current or ""))
    if advice and advice.kind == "unknown" and advice.rule != IN_HEADLINE:
        return sentence(advice.reason or advice.headline)
    ladder = result.ladder
    people = result.judge_checks or UNCHECKED
    if plan.judge and ladder and ladder.scoring == "judge" and people.trust != "trusted":
        return f"How far to trust the judge {escape(shorten(plan.judge))}: {escape(trust_text(people))}."
    if current and _saves(plan, result):
        return f"Whether it can replace {current}, which was not measured on these rows."
    if ladder and ladder.rungs and ladder.scoring != "label":
        (tuned,) = ladder.rung("tuned")
        failed = f" {escape(_judge_notes(plan, result)[0])}" if plan.judge and result.judge else ""
        return f"Whether the answers are right: {percent(tuned.score)} is {meaning(tuned)}.{failed}"
    return ""


def _judge_notes(plan: Plan, result: RunResult) -> list[str]:
    if plan.judge is None or result.judge is None or result.ladder is None:
        return []
    models = [f"{plan.provider}/{plan.base_model}"]
    people = result.judge_checks or UNCHECKED
    return judge_notes(plan.judge, models, result.judge, result.ladder, people)


def _next(run: Run, result: RunResult, *, may_be_used: bool) -> list[CardBlock]:
    """The next step; empty if the first button does it."""
    if _to_measure(result) or (may_be_used and not _is_open(result)):
        return []
    text = f"*Next*: {sentence(result.advice.next_step)}" if result.advice and result.advice.next_step else ""
    if result.advice and result.advice.kind == "go" and run.model:
        # It is in use already, or there is an objection that the verdict doesn't consider, such as the model in use.
        text = f"*Next*: {code(f'/finetune promote {run.model}')} explains what speaks against deploying it."
    elif result.advice is None and result.p_value >= SIGNIFICANT:
        text = "*Next*: Stay with what you have, or measure again with more held-out rows."
    elif result.advice is None and result.gain <= 0:
        text = "*Next*: Look at the rows that got worse before you train again."
    return [Text(text)] if text else []


def _buttons(run: Run, plan: Plan, result: RunResult, *, may_be_used: bool, is_deleted: bool) -> list[Block]:
    """The next step first. Only "Details" if the model was deleted."""
    number = str(run.id)
    if is_deleted:
        return [button("Details", DETAILS, number)]
    steps = [
        *_to_measure(result, plan.dataset, number),
        *([promotion_button(run.id, run.model)] if may_be_used and run.model else []),
        *([try_button(run.id)] if run.model else []),
    ]
    if steps and not _next(run, result, may_be_used=may_be_used):
        steps[0]["style"] = "primary"
    return [*steps[:2], button("Details", DETAILS, number)]


def _to_measure(result: RunResult, dataset: str = "", number: str = "") -> list[Block]:
    """The button for a missing comparison: it measures the named model, or opens the form if none is named."""
    if result.advice is None or not _is_open(result):
        return []
    if result.advice.measure:
        return [button(f"Measure {result.advice.measure[0].partition('/')[2]}", MEASURE, number)]
    is_lacking = result.advice.rule == NOTHING_MEASURED
    return [button("Measure alternatives", MEASURE_DATASET, dataset)] if is_lacking else []


def _times(plan: Plan, result: RunResult) -> list[tuple[str, str]]:
    low, high = plan.seconds_low, plan.seconds_high
    planned = "" if low is None or high is None else f", estimated {duration_range(low, high)}"
    # Simultaneous questions share the trainer, so each answer takes longer.
    crowd = f"{result.at_once} at a time" if result.at_once and result.at_once > 1 else ""
    tuned, base = (arm.prompt_tokens / arm.n for arm in (result.tuned, result.base))
    prompts = f", {tuned:,.0f} prompt tokens instead of {base:,.0f}" if result.before == "base" else ""
    median = f"{result.tuned.p50_s:.1f} s (median{', ' + crowd if crowd else ''})"
    curve = result.loss_curve
    steps = f" in {result.steps:,} steps" if result.steps else ""
    loss = [("Training loss", f"{curve[0][1]:.2f} → {curve[-1][1]:.2f}{steps}")] if len(curve) > 1 else []
    return [
        ("Training took", f"{duration(result.train_seconds)}{planned}"),
        *loss,
        *_learnt(result),
        ("Time per answer", f"{median}{prompts}"),
    ]


def _learnt(result: RunResult) -> list[tuple[str, str]]:
    """What the method improves, besides the loss: the reward of GRPO, the preferred answers of DPO."""
    pairs = []
    if result.reward is not None:
        pairs.append(("Mean reward", f"{result.reward:.2f} at the last step"))
    if result.preference_accuracy is not None:
        share = percent(result.preference_accuracy)
        pairs.append(("Preference accuracy", f"{share} of the last step's pairs"))
    return pairs


def _got_worse(result: RunResult) -> list[CardBlock]:
    """The labels that the tuned model gets right significantly less often."""
    if not result.worse_labels:
        return []
    name = _better_name(result)
    lines = [
        f"• {escape(shorten(loss.label, 60))}: {loss.before:,} → {loss.after:,} of {pluralize(loss.rows, 'row')}, "
        f"{p_value(loss.p)}"
        for loss in result.worse_labels
    ]
    title = f"*Labels that it gets right less often than {escape(shorten(name, 60))} does*"
    corrected = Note("McNemar's exact test for each label, corrected for the number of labels (Holm).")
    return [Text(title), Lines(lines), corrected]


def _better_name(result: RunResult) -> str:
    """The name of what the labels were compared with: the best alternative, or what answered before if that is better
    (services/run_worker.py)."""
    other = _best_alternative(result.ladder) if result.ladder else None
    return _name(other) if other and other.score >= result.base.share else before_name(result)


def _caveats(plan: Plan, result: RunResult) -> list[CardBlock]:
    """What a reader might wrongly conclude from this measurement."""
    lines, ladder = [escape(note) for note in _judge_notes(plan, result)], result.ladder
    if ladder and ladder.rungs and ladder.scoring not in SAME_MEASURE:
        (tuned,) = ladder.rung("tuned")
        right = counted_as_right(ladder)
        lines.append(
            f"Two measures are used: base and tuned model are compared by answers that are {right}; tuned "
            f"model ({percent(tuned.score)}) and alternative by {meaning(tuned)}."
        )
    if result.base.unlisted:
        lines.append(
            f"{result.base.unlisted:,} of the base model's {result.base.n:,} answers and {result.tuned.unlisted:,} "
            "of the tuned model's were not one of the labels and count as wrong."
        )
    return [Lines([f"• {line}" for line in lines])] if lines else []


def _method(result: RunResult) -> str:
    text = "the base model had the same prompt"
    if result.labelled:
        text = "the base model had the labels listed in its prompt"
    elif result.names_fields:
        text = "the base model had the fields of the answer named in its prompt"
    if result.before != "base":
        text = f"{before_name(result)} learnt from the same training rows"
    right = counted_as_right(result.ladder)
    return (
        f"*How this was measured*: “Right” means {right}. Both answered the same {result.tuned.n:,} rows, "
        f"which were set aside before training; {text}. Ranges are 95% intervals (Wilson; Newcombe for "
        "the difference), p is McNemar's exact test."
    )


def _changes(title: str, rows: Sequence[ChangedRow], before: str) -> list[CardBlock]:
    if not rows:
        return []
    shown = [_change(row, before) for row in rows[:SHOWN_CHANGES]]
    more = f" The first {SHOWN_CHANGES} of them:" if len(rows) > SHOWN_CHANGES else ""
    return [Text(f"*{title}: {pluralize(len(rows), 'row')}.*{more}"), Lines(shown)]


def _change(row: ChangedRow, before: str) -> str:
    return (
        f"• {escape(cut(' '.join(row.text.split()), 140))}\n"
        f"      expected {_answer(row.expected)}, {before} said {_answer(row.base)}, tuned {_answer(row.tuned)}"
    )


def _answer(text: str) -> str:
    one_line = " ".join(text.split())
    return code(cut(one_line, 40)) if one_line else "nothing"
