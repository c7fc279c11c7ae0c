"""What a result's card has no room for: exact scores, times, labels that got worse, how it was measured, and the rows
that changed."""

from __future__ import annotations

from collections.abc import Sequence

from bot.cards.common.blocks import CardBlock, Message, code, cut, escape, sentence
from bot.cards.common.builder import Parts
from bot.cards.common.calibration import alternative_bill
from bot.cards.common.candidates import counted_as_right, meaning
from bot.cards.common.words import (
    capitalize,
    duration,
    duration_range,
    money,
    p_value,
    percent,
    pluralize,
    points,
    points_range,
    score_with_interval,
    shorten,
)
from bot.cards.training.result_comparison import (
    before_name,
    better_name,
    comparison_facts,
    partial_meaning,
)
from bot.cards.training.results import notes_on_judge, saving_text
from bot.rules.plans import Plan
from bot.rules.training.results import SAME_MEASURE
from bot.values.runs import ChangedRow, RunResult

SHOWN_CHANGES = 8


def details(plan: Plan, result: RunResult) -> tuple[CardBlock, ...]:
    """What the card has no room for, except the comparison with the estimates."""
    parts = Parts()
    if result.advice:
        parts.text(f"*Verdict*: {sentence(result.advice.headline)}")
    parts.facts([*_scores(plan, result), *_bills(plan, result), *_times(plan, result)])
    parts.add(*_got_worse(result))
    parts.add(*_caveats(plan, result))
    parts.text(_method(result))
    return tuple(parts)


def _scores(plan: Plan, result: RunResult) -> list[tuple[str, str]]:
    """The scores before and after training, and how the tuned model compares with the best alternative."""
    change = result.change
    measured = partial_meaning(result) or f", {counted_as_right(result.comparison)}"
    name_before = capitalize(before_name(result))
    if result.before == "base":
        name_before = f"{escape(shorten(plan.base_model))}, prompted"
    elif result.before == "start":
        name_before = f"{escape(result.start)}, from which it goes on"
    difference = f"{points(change.gain)} ({points_range(change.low, change.high)})"
    if result.partial is not None:
        # If rows are right or wrong, the rows that changed have this p.
        difference += f", {p_value(change.p)}"
    return [
        (f"Tuned model{measured}", score_with_interval(change.after)),
        (name_before, score_with_interval(change.before)),
        ("Difference", difference),
        _changed_fact(result),
        *comparison_facts(result, is_full=True),
    ]


def _bills(plan: Plan, result: RunResult) -> list[tuple[str, str]]:
    """The planned bills, exactly; empty where the card shows no saving either."""
    if not saving_text(plan, result):
        return []
    facts = []
    if plan.monthly_before_micros is not None:
        bill = f"{money(plan.monthly_before_micros)} → {money(plan.monthly_after_micros)}"
        facts.append(("Planned monthly cost", bill))
    return [*facts, *alternative_bill(plan)]


def _changed_fact(result: RunResult) -> tuple[str, str]:
    changed = f"{result.better:,} better, {result.worse:,} worse ({p_value(result.p_value)})"
    if result.partial is None:
        return "Rows that changed", changed
    shares = f"{percent(result.base.share)} → {percent(result.tuned.share)}"
    return f"Rows {counted_as_right(result.comparison)}", f"{shares}: {changed}"


def changed_rows_card(rows: Sequence[ChangedRow], before: str = "base") -> Message:
    """Contains customers' words, so it is for private channels only. `before` names what answered before training."""
    worse = [row for row in rows if not row.is_better]
    better = [row for row in rows if row.is_better]
    parts = Parts()
    # Those that got worse decide whether the model can be used.
    parts.add(*_changes("Got worse", worse, before))
    parts.add(*_changes("Got better", better, before))
    got_better = pluralize(len(better), "row")
    return Message(f"{got_better} got better, {len(worse):,} worse", tuple(parts))


def _times(plan: Plan, result: RunResult) -> list[tuple[str, str]]:
    took = duration(result.train_seconds)
    if plan.seconds_low is not None and plan.seconds_high is not None:
        estimated = duration_range(plan.seconds_low, plan.seconds_high)
        took += f", estimated {estimated}"
    facts = [("Training took", took)]
    curve = result.loss_curve
    if len(curve) > 1:
        loss = _from_first_to_last(curve)
        if result.steps:
            loss += f" in {result.steps:,} steps"
        facts.append(("Training loss", loss))
    return [*facts, *_learnt(result), ("Time per answer", _answer_time(result))]


def _from_first_to_last(curve: Sequence[tuple[int, float]]) -> str:
    """'2.31 → 0.42'. `curve` has pairs of a step and a value."""
    _, first = curve[0]
    _, last = curve[-1]
    return f"{first:.2f} → {last:.2f}"


def _answer_time(result: RunResult) -> str:
    median = "median"
    if result.at_once and result.at_once > 1:
        # Simultaneous questions share the trainer, so each answer takes longer.
        median += f", {result.at_once} at a time"
    text = f"{result.tuned.p50_s:.1f} s ({median})"
    if result.before == "base":
        tuned = result.tuned.prompt_tokens / result.tuned.n
        base = result.base.prompt_tokens / result.base.n
        text += f", {tuned:,.0f} prompt tokens instead of {base:,.0f}"
    return text


def _learnt(result: RunResult) -> list[tuple[str, str]]:
    """What the method improves, besides the loss: the reward of GRPO, the preferred answers of DPO. Results of older
    versions know the last step only."""
    pairs = []
    rewards = result.reward_curve
    if len(rewards) > 1:
        pairs.append(("Mean reward", f"{_from_first_to_last(rewards)}, the most is 1"))
    elif result.reward is not None:
        pairs.append(("Mean reward", f"{result.reward:.2f} at the last step"))
    shares = result.preference_curve
    if len(shares) > 1:
        _, first = shares[0]
        _, last = shares[-1]
        pairs.append(("Preference accuracy", f"{percent(first)} → {percent(last)} of pairs"))
    elif result.preference_accuracy is not None:
        share = percent(result.preference_accuracy)
        pairs.append(("Preference accuracy", f"{share} of the last step's pairs"))
    margins = result.margin_curve
    if len(margins) > 1:
        pairs.append(("Reward margin", _from_first_to_last(margins)))
    return pairs


def _got_worse(result: RunResult) -> list[CardBlock]:
    """The labels that the tuned model gets right significantly less often."""
    if not result.worse_labels:
        return []
    lines = []
    for loss in result.worse_labels:
        label = escape(shorten(loss.label, 60))
        rows = pluralize(loss.rows, "row")
        lines.append(f"• {label}: {loss.before:,} → {loss.after:,} of {rows}, {p_value(loss.p)}")
    name = escape(shorten(better_name(result), 60))
    parts = Parts()
    parts.text(f"*Labels that it gets right less often than {name} does*")
    parts.lines(lines)
    parts.note("McNemar's exact test for each label, corrected for the number of labels (Holm).")
    return parts


def _caveats(plan: Plan, result: RunResult) -> list[CardBlock]:
    """What a reader might wrongly conclude from this measurement."""
    sentences = [escape(note) for note in notes_on_judge(plan, result)]
    comparison = result.comparison
    if (
        comparison
        and comparison.candidates
        and comparison.scoring not in SAME_MEASURE
        and result.partial is None
    ):
        (tuned,) = comparison.of_kind("tuned")
        right = counted_as_right(comparison)
        than = result.start or "its base"
        sentences.append(
            f"Two measures are used. Against {than}, the tuned model's answers count that are {right}; beside the "
            f"alternatives its score counts, which is {percent(tuned.score)} {meaning(tuned)}."
        )
    if result.base.unlisted:
        sentences.append(
            f"{result.base.unlisted:,} of the {result.base.n:,} answers of {before_name(result)} and "
            f"{result.tuned.unlisted:,} of the tuned model's were not one of the labels and count as wrong."
        )
    parts = Parts()
    parts.bullets(sentences)
    return parts


def _method(result: RunResult) -> str:
    text = "the base model had the same prompt"
    if result.labelled:
        text = "the base model had the labels listed in its prompt"
    elif result.names_fields:
        text = "the base model had the fields of the answer named in its prompt"
    if result.before == "start":
        text = f"{before_name(result)} had the same prompt"
    elif result.before != "base":
        text = f"{before_name(result)} learnt from the same training rows"
    counted = f"“Right” means {counted_as_right(result.comparison)}"
    tests = "Ranges are 95% intervals (Wilson; Newcombe for the difference), p is McNemar's exact test."
    if result.partial is not None and result.comparison is not None:
        (tuned,) = result.comparison.of_kind("tuned")
        counted = f"Scores are the share {meaning(tuned)}"
        tests = (
            "Ranges are 95% intervals of the mean, p is that of a paired bootstrap, and for whole rows of McNemar's "
            "exact test."
        )
    return (
        f"*How this was measured*: {counted}. Both answered the same {result.tuned.n:,} rows, "
        f"which were set aside before training; {text}. {tests}"
    )


def _changes(title: str, rows: Sequence[ChangedRow], before: str) -> list[CardBlock]:
    if not rows:
        return []
    heading = f"*{title}: {pluralize(len(rows), 'row')}.*"
    if len(rows) > SHOWN_CHANGES:
        heading += f" The first {SHOWN_CHANGES} of them:"
    parts = Parts()
    parts.text(heading)
    parts.lines([_change(row, before) for row in rows[:SHOWN_CHANGES]])
    return parts


def _change(row: ChangedRow, before: str) -> str:
    question = escape(cut(_on_one_line(row.text), 140))
    expected = f"expected {_answer(row.expected)}"
    answers = f"{before} said {_answer(row.base)}, tuned {_answer(row.tuned)}"
    return f"• {question}\n      {expected}, {answers}"


def _answer(text: str) -> str:
    answer = _on_one_line(text)
    if not answer:
        return "nothing"
    return code(cut(answer, 40))


def _on_one_line(text: str) -> str:
    return " ".join(text.split())
