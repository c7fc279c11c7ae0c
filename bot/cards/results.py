"""A run's result: base against tuned on rows that neither has seen, the actual cost beside the estimate, and
a sweep's arms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from bot.cards.blocks import (
    CardBlock,
    Chart,
    Divider,
    Facts,
    Figure,
    Headline,
    Lines,
    Message,
    Note,
    Table,
    Text,
    code,
    cut,
    escape,
    sentence,
)
from bot.cards.calibration import alternative_bill, recent_errors
from bot.cards.candidates import MEANS, MEASURED
from bot.cards.candidates import candidate_name as rung_name
from bot.cards.models import promotion_offer
from bot.cards.words import (
    charge,
    duration,
    duration_range,
    money,
    p_value,
    percent,
    pluralize,
    points,
    points_range,
    shorten,
    with_interval,
)
from bot.cards.words import share_text as bar_percent
from bot.rules.calibration import RunningError
from bot.rules.facts import is_silent
from bot.rules.plans import Plan, format_value
from bot.rules.units import HOURS_PER_MONTH
from bot.rules.units import duration as in_months
from bot.values.runs import ArmScore, ChangedRow, RunResult
from storage.records import Run
from trainers.evaluation.results import Ladder, Rung, Standing
from trainers.types import SweepArm

SIGNIFICANT = 0.05
STANDS: Mapping[Standing, str] = {
    "meets": "meets your {bar}",
    "misses": "below your {bar}",
    "undecided": "too close to your {bar} to tell",
}
SHOWN_CHANGES = 8
WON = "won"  # the outcome of a sweep's best arm


def card(
    run: Run,
    plan: Plan,
    result: RunResult,
    running: Sequence[RunningError] = (),
    *,
    may_be_used: bool = False,
) -> Message:
    """`running`: how good our estimates have been over the latest runs, this one among them. `may_be_used`: the model
    is shown to be better than what was measured beside it."""
    headline, saves = _headline(result), _saves(plan, result)
    monthly = []
    if saves:
        monthly.append(("Saves", saves))
        if plan.monthly_before_micros is not None:
            bill = f"{money(plan.monthly_before_micros)} → {money(plan.monthly_after_micros)}"
            monthly.append(("Each month, as planned", bill))
        monthly += alternative_bill(plan)
    subject = f"Run {run.id}: {escape(shorten(plan.base_model, 60))} on {escape(shorten(plan.dataset))}"
    top = (Headline(headline), Note(subject))
    difference = [
        ("Difference", f"{points(result.gain)} ({points_range(result.gain_low, result.gain_high)})"),
        (
            "Rows that changed",
            f"{result.better:,} better, {result.worse:,} worse ({p_value(result.p_value)})",
        ),
        *_beside(result),
    ]
    curve = [(f"{step:,}", round(loss, 3)) for step, loss in result.loss_curve]
    loss = (
        [Chart("Training loss", "training", curve, "step", "nats per answer token")] if len(curve) > 1 else []
    )
    end = (
        Divider(),
        Facts([*monthly, *_actuals(plan, result)]),
        *recent_errors(running),
        *_not_shown(plan, result),
        *([Text(f"*Verdict*: {sentence(result.advice.headline)}")] if result.advice else []),
        Text(_next_step(run, result)),
        *([promotion_offer(run.id, run.model)] if may_be_used and run.model else []),
        Note(_method(plan, result)),
    )
    return Message(
        f"{escape(headline)}, on {result.tuned.n:,} held-out rows{f'. Saves {saves}' if saves else ''}",
        (*top, _arms_table(plan, result), Facts(difference), *loss, *end),
    )


def in_short(result: RunResult) -> str:
    return f"{percent(result.base.share)} → {percent(result.tuned.share)} right on {result.tuned.n:,} held-out rows"


def changed_rows_card(rows: Sequence[ChangedRow]) -> Message:
    """Customers' words: for private channels only."""
    worse = [row for row in rows if not row.is_better]
    better = [row for row in rows if row.is_better]
    parts = [_changes("Got worse", worse), _changes("Got better", better)]
    return Message(
        f"{pluralize(len(better), 'row')} got better, {len(worse):,} worse",
        tuple(block for part in parts for block in part),
    )


def alt_text(plot: str, plan: Plan) -> str:
    subject = f"{shorten(plan.base_model)} on {shorten(plan.dataset)}"
    if plot == "loss":
        return f"Loss by training step, {subject}"
    if plot == "quality":
        return f"Quality against price of the tuned model and what it was measured beside, {subject}"
    return f"Expected labels against the tuned model's answers, {subject}"


def _headline(result: RunResult) -> str:
    """Against the bar, then against the best that was measured without the training, on the same rows."""
    ladder = result.ladder
    if ladder is None or not ladder.rung("tuned"):  # of before there was a bar to judge by
        return f"Tuned model: {percent(result.tuned.share)}; {_above_base(result)}"
    (tuned,) = ladder.rung("tuned")
    if is_silent(tuned):
        return f"Tuned model: no answer to {tuned.empty:,} of {tuned.n:,} rows"
    measured = "" if tuned.scoring == "label" else f" {MEASURED[tuned.scoring]}"
    by_bar = STANDS[tuned.standing].format(bar=bar_percent(ladder.bar))
    return f"Tuned model: {percent(tuned.score)}{measured}, {by_bar}; {_above_best(result, ladder, tuned)}"


def _above_best(result: RunResult, ladder: Ladder, tuned: Rung) -> str:
    other = next((rung for rung in ladder.rungs if rung is not tuned), None)
    if _is_base_best(result, other):
        return _above_base(result)
    if other is None:
        return "nothing else was measured"
    is_free = other.arm.rung == "classical" and other.usd_per_1000 == 0
    name = "the free classical model" if is_free else shorten(rung_name(other.arm), 60)
    (pair,) = ladder.pairs
    gain = pair.difference if pair.better == tuned.arm else -pair.difference
    return _apart(gain, name, other.score, is_told=pair.p < SIGNIFICANT)


def _is_base_best(result: RunResult, other: Rung | None) -> bool:
    """The prompted base answered the same rows. One that mostly said no label is no alternative, and a score by
    another measure can't be held against it."""
    base = result.base
    if not result.labelled or 2 * base.unlisted > base.n:
        return False
    return other is None or base.share > other.score


def _above_base(result: RunResult) -> str:
    return _apart(result.gain, "its base, prompted", result.base.share, is_told=result.p_value < SIGNIFICANT)


def _apart(gain: float, name: str, score: float, *, is_told: bool) -> str:
    if not is_told:
        return f"not told apart from {name} ({percent(score)})"
    count = f"{100 * abs(gain):.0f}"
    amount = "under 1 point" if count == "0" else f"{count} point{'' if count == '1' else 's'}"
    return f"{amount} {'above' if gain > 0 else 'below'} {name}"


def _saves(plan: Plan, result: RunResult) -> str:
    """What the plan promised a month, and how soon what was spent is back, people and labels included; '' for a model
    that may not be used."""
    saved = 0  # against the cheapest alternative that was known; an older plan knew today's model alone
    if plan.predicted and plan.predicted.saving_micros is not None:
        saved = plan.predicted.saving_micros
    elif plan.monthly_before_micros is not None and plan.monthly_after_micros is not None:
        saved = plan.monthly_before_micros - plan.monthly_after_micros
    if saved <= 0 or not _is_usable(result):
        return ""
    until = f" until {plan.advised.saves_until}" if plan.advised and plan.advised.saves_until else ""
    return f"{money(saved)} a month{until}, as planned{_back(plan, result, saved)}"


def _is_usable(result: RunResult) -> bool:
    """Whether it meets the bar, nothing speaks against it, and its own base, prompted, is not as good."""
    ladder, advice = result.ladder, result.advice
    if ladder is None or not ladder.rung("tuned") or (advice and advice.kind == "no_go"):
        return False
    (tuned,) = ladder.rung("tuned")
    other = next((rung for rung in ladder.rungs if rung is not tuned), None)
    is_better = result.gain > 0 and result.p_value < SIGNIFICANT
    return tuned.standing == "meets" and (is_better or not _is_base_best(result, other))


def _back(plan: Plan, result: RunResult, saved: int) -> str:
    """When what was spent is back; '' for a plan that did not keep what people and labels cost."""
    advised, foreseen = plan.advised, plan.predicted
    if advised is None or foreseen is None:
        return ""
    spent = result.actual_micros + advised.people_micros + advised.labels_micros
    months = Decimal(spent) / saved
    timed = "" if foreseen.is_time_said else ", if it took no one's time"
    if not spent:
        return f"; nothing was spent{timed}"
    is_soon = months * HOURS_PER_MONTH < 24
    return f"; back {'within a day' if is_soon else 'in ' + in_months(months)}{timed}"


def _arms_table(plan: Plan, result: RunResult) -> Table:
    rows = [
        ("Model", "Right", "Likely between", "Tokens to ask", "An answer takes"),
        ("Tuned", *_measured(result.tuned)),
        (f"{shorten(plan.base_model)}, prompted", *_measured(result.base)),
    ]
    caption = f"{result.tuned.n:,} held-out rows, which neither model has seen"
    facts = [
        ("Tuned model, right", with_interval(result.tuned)),
        (f"{escape(shorten(plan.base_model))}, prompted", with_interval(result.base)),
    ]
    return Table(rows, caption, otherwise=(Facts(facts),))


def _measured(arm: ArmScore) -> tuple[str, str, str, str]:
    between = f"{100 * arm.low:.0f}% and {100 * arm.high:.0f}%"
    return (
        Figure(f"{percent(arm.share)} ({arm.correct:,})", arm.share),
        between,
        Figure(f"{arm.prompt_tokens / arm.n:,.0f}", arm.prompt_tokens / arm.n),
        Figure(f"{arm.p50_s:.1f} s", arm.p50_s),
    )


def _actuals(plan: Plan, result: RunResult) -> list[tuple[str, str]]:
    low, high = plan.seconds_low, plan.seconds_high
    planned = "" if low is None or high is None else f", estimated {duration_range(low, high)}"
    actual, estimated = charge(result.actual_micros), charge(result.estimated_micros)
    is_over = result.actual_micros > plan.maximum_micros
    over = f"; more than the {charge(plan.maximum_micros)} approved" if is_over else ""
    cost = f"{actual}, as estimated" if actual == estimated else f"{actual}, estimated {estimated}{over}"
    pairs = [
        ("Cost", cost),
        ("Training took", f"{duration(result.train_seconds)}{planned}"),
    ]
    if result.trained_tokens:
        pairs.append(("Tokens trained", f"{result.trained_tokens:,}, estimated {plan.training_tokens:,}"))
    question = f"{result.tuned.prompt_tokens / result.tuned.n:,.0f} prompt tokens"
    before = f"{result.base.prompt_tokens / result.base.n:,.0f}"
    # Many questions at once share the trainer, so an answer waits for the others.
    crowd = f"{result.at_once} under way at once" if result.at_once and result.at_once > 1 else ""
    median = f"{result.tuned.p50_s:.1f} s (median{', ' + crowd if crowd else ''})"
    return [*pairs, ("An answer takes", f"{median}, {question} instead of {before}")]


def _next_step(run: Run, result: RunResult) -> str:
    ask = f"`/finetune try {run.model} your text` asks it"
    if result.advice:
        return f"*Next*: {sentence(result.advice.next_step)} {ask}."
    if result.p_value >= SIGNIFICANT:
        return f"*Next*: Stay with what you have, or measure with more held-out rows. {ask}."
    if result.gain <= 0:
        return f"*Next*: Look at the rows that got worse before you train again. {ask}."
    look = " Look at the rows that got worse before it replaces anything." if result.worse else ""
    return f"*Next*: {ask}.{look}"


def _beside(result: RunResult) -> list[tuple[str, str]]:
    """Against the best alternative that answered the same rows, which a prompted base model seldom is."""
    ladder = result.ladder
    if ladder is None or not ladder.pairs:
        return []
    (pair,), (tuned,) = ladder.pairs, ladder.rung("tuned")
    other = next(rung for rung in ladder.rungs if rung is not tuned)
    is_better = pair.better == tuned.arm
    low, high = (pair.low, pair.high) if is_better else (-pair.high, -pair.low)
    gain = f"{points(pair.difference).lstrip('+−')} {'better' if is_better else 'worse'}"
    text = f"{gain} ({points_range(low, high)}, {p_value(pair.p)})"
    if pair.p >= SIGNIFICANT:
        text = f"not told apart ({points_range(low, high)}, {p_value(pair.p)})"
    measured = "" if other.scoring == "label" else f" {MEASURED[other.scoring]}"
    return [(f"Against {escape(rung_name(other.arm))}, {percent(other.score)}{measured}", text)]


def _not_shown(plan: Plan, result: RunResult) -> list[CardBlock]:
    """What a reader might take for granted and this measurement does not tell."""
    lines, ladder = [], result.ladder
    if ladder and ladder.rungs and ladder.rungs[0].scoring != "label":
        (tuned,) = ladder.rung("tuned")
        lines.append(
            "Two measures: base → tuned counts answers that are exactly the expected one, letter by letter; against "
            f"the other alternative it is {MEANS[tuned.scoring]}, where the tuned model has {percent(tuned.score)}."
        )
    if result.base.unlisted:
        lines.append(
            f"{result.base.unlisted:,} of the base model's {result.base.n:,} answers were none of the labels, "
            f"and count as wrong; of the tuned model's, {result.tuned.unlisted:,}."
        )
    if plan.current and _saves(plan, result):
        current = escape(shorten(plan.current))
        lines.append(
            f"{current} did not answer these rows: whether the tuned model can replace it is yours to judge."
        )
    return [Text("\n".join(f"• {item}" for item in lines))] if lines else []


def _method(plan: Plan, result: RunResult) -> str:
    text = "with the labels listed in its prompt" if result.labelled else "with the same prompt"
    return (
        f"Right means the exact answer. Both answered the same {result.tuned.n:,} rows, which were set aside before "
        f"training; the base model {text}. Ranges are 95% intervals (Wilson; Newcombe for the difference), p is "
        f"McNemar's exact test."
    )


def _changes(title: str, rows: Sequence[ChangedRow]) -> list[CardBlock]:
    if not rows:
        return []
    shown = [_change(row) for row in rows[:SHOWN_CHANGES]]
    more = f" The first {SHOWN_CHANGES} of them:" if len(rows) > SHOWN_CHANGES else ""
    return [Text(f"*{title}: {pluralize(len(rows), 'row')}.*{more}"), Lines(shown)]


def _change(row: ChangedRow) -> str:
    one_line = " ".join(row.text.split())
    return (
        f"• {escape(cut(one_line, 140))}\n"
        f"      expected {_answer(row.expected)}, base said {_answer(row.base)}, tuned {_answer(row.tuned)}"
    )


def _answer(text: str) -> str:
    one_line = " ".join(text.split())
    return code(cut(one_line, 40)) if one_line else "nothing"


def sweep_table(plan: Plan, arms: Sequence[SweepArm]) -> Message:
    """A line for each arm, from the lowest validation loss to the highest, the winner marked; arms without a loss
    last."""
    names = [name for name, _ in arms[0].chosen]
    heading = ["arm", *names, "steps", "loss", "right", "time", "outcome"]
    title = f"Sweep on {shorten(plan.dataset)}: {pluralize(len(arms), 'arm')}"
    texts = [Text(f"• Arm {arm.number}: {escape(arm.outcome)}") for arm in arms if arm.is_out]
    winner = "No arm has won."
    for arm in arms:
        if arm.outcome == WON:
            chosen = ", ".join(f"{name} {format_value(value)}" for name, value in arm.chosen)
            winner = f"Arm {arm.number} won: {escape(chosen)}. It is the tuned model of this run."
    ranked = sorted(arms, key=lambda arm: (arm.outcome != WON, arm.valid_loss is None, arm.valid_loss or 0.0))
    rows = plan.swept.n_validation if plan.swept else 0
    method = (
        f"Loss and tokens right on {rows:,} training rows that were kept back, each arm at its best validation. The "
        "worse half stopped at each rung (successive halving). The held-out rows chose nothing: they measured the "
        "winner alone."
    )
    table = Table([heading, *map(_row, ranked)])
    return Message(f"{escape(title)}. {winner}", (Headline(title), Text(winner), table, *texts, Note(method)))


def _row(arm: SweepArm) -> list[str]:
    return [
        f"{arm.number} ★" if arm.outcome == WON else f"{arm.number}",
        *(format_value(value) for _, value in arm.chosen),
        f"{arm.step:,}/{arm.total_steps:,}",
        "–" if arm.valid_loss is None else f"{arm.valid_loss:.3f}",
        "–" if arm.valid_accuracy is None else percent(arm.valid_accuracy),
        duration(arm.seconds),
        "out" if arm.is_out else arm.outcome,
    ]
