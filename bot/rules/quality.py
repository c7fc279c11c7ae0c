"""The rules on quality: does a cheaper way meet the bar, was every way measured, is the tuned model good
enough?"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from bot.rules.candidates import (
    LONG_NAMES,
    as_evidence,
    asking_usd,
    candidate_name,
    capitalize,
    cheapest,
    cost_text,
    held_out_rows,
    is_cheaper,
    is_no_dearer,
    might_meet,
    percent,
    price_text,
    score_text,
)
from bot.rules.facts import (
    FASTER,
    Evidence,
    Facts,
    Reason,
    Step,
    answer_step,
    baseline_command,
    is_silent,
    labelling_step,
)
from trainers.evaluation.results import Ladder, Rung, RungName
from trainers.money import usd

SHOTS = 10  # examples in a k-shot prompt, and rows that retrieval puts in
SHOWN, SHOWN_LABELS = 3, 5
MOST_NAMED = 3  # models in a command
CLIMBED: tuple[RungName, ...] = ("classical", "zero", "kshot", "retrieval")


def about_alternatives(facts: Facts) -> tuple[Reason, ...]:
    """Never silent: what is not measured is the first thing to say."""
    evidence = facts.evidence
    if evidence.ladder is None:
        return (_nothing_measured(facts),)
    if evidence.is_stale:
        return (_other_bar(evidence.ladder, facts),)
    notes = (*_silent(evidence), *_unread(evidence), *_never_answered(evidence.ladder))
    enough = cheapest([rung for rung in evidence.alternatives if rung.standing == "meets"])
    if enough is None:
        return (*_missing(facts), *_undecided(facts, None), *_missed(evidence), *_todays(facts), *notes)
    met = _met(enough, facts)
    if met.kind == "no_go":
        return (met, *notes)
    return (met, *_missing(facts), *_undecided(facts, enough), *notes)


def about_tuned(facts: Facts) -> tuple[Reason, ...]:
    evidence, tuned = facts.evidence, facts.evidence.trained
    if tuned is None:
        rows = held_out_rows(facts.n_holdout)
        text = f"How good the tuned model will be is unknown until it has answered the {rows}."
        return (Reason("quality", "unknown", text, weighs=False),)
    if evidence.is_stale:
        return ()  # to be judged again with the others
    if is_silent(tuned):
        again = Step("See why the tuned model does not answer, then measure it again.", asking_usd(tuned))
        return (Reason("tuned", "unknown", _no_answer(tuned), step=again),)
    return (_standing(tuned, evidence), *_beside_best(tuned, evidence))


def replaces(rung: Rung, facts: Facts) -> bool | None:
    """Would a tuned model be worth having where `rung` is good enough: cheaper, or faster where speed counts?

    None: not known. What costs nothing cannot be undercut, and the classical model not be outrun.
    """
    if rung.arm.rung == "classical":
        return False
    tuned, kind, made = facts.evidence.trained, facts.task_kind, facts.estimate
    if kind == "latency":
        return tuned.p95_s * FASTER <= rung.p95_s if tuned else None
    if rung.usd_per_1000 == 0 or kind == "quality":
        return False
    if tuned and tuned.usd_per_1000 is not None and rung.usd_per_1000 is not None:
        return is_cheaper(tuned, rung)
    if made is None:
        return None if kind == "cost" else False
    return None if rung.usd_per_1000 is None else made.saving_month > 0


def is_worth_being_better(rung: Rung, facts: Facts) -> bool:
    """Is the tuned model shown to be right more often than `rung`, which is good enough, and does that count: as the
    aim, or as what wrong answers cost?"""
    tuned, made = facts.evidence.trained, facts.estimate
    if tuned is None or not facts.evidence.is_good or not _is_better(tuned, rung, facts.evidence.ladder):
        return False
    return facts.task_kind == "quality" or bool(
        made and made.errors_avoided_usd > 0 and made.saving_month > 0
    )


def _nothing_measured(facts: Facts) -> Reason:
    if facts.smallest_label is None:
        measure = baseline_command(facts.dataset, models=facts.to_measure)
        step = Step(f"Measure prompts and retrieval ({measure}): it says its price first.", usd=None)
    else:
        measure = baseline_command(facts.dataset, "classical")
        step = Step(f"Measure the classical model ({measure}): free, and done in seconds.")
    text = "No cheaper way has been measured on your data yet: prompts, examples, retrieval."
    return Reason("measure", "unknown", text, step=step)


def _other_bar(ladder: Ladder, facts: Facts) -> Reason:
    bar = percent(facts.evidence.bar)
    text = f"The measurement was judged by a bar of {percent(ladder.bar)}; now it is {bar}."
    asked = dict.fromkeys(rung.arm.model for rung in ladder.rungs if rung.arm.model)
    measure = baseline_command(facts.dataset, None if asked else "classical", list(asked)[:MOST_NAMED])
    again = Step(f"Measure again ({measure}): the answers are kept, so it costs nothing.")
    return Reason("bar", "unknown", text, step=again)


def _met(rung: Rung, facts: Facts) -> Reason:
    bar = percent(facts.evidence.bar)
    text = f"{capitalize(candidate_name(rung.arm))} meets the bar of {bar}: {score_text(rung)}, {price_text(rung)}."
    if is_worth_being_better(rung, facts):
        return Reason("fewer errors", "go", f"{text} {_fewer_errors(facts)}")
    match replaces(rung, facts):
        case True:
            why = "answers faster" if facts.task_kind == "latency" else "costs less"
            learn = f"{text} A tuned model {why} and can learn from its answers: a good reason."
            return Reason("distil", "go", learn)
        case False:
            use = Step(
                f"Use {candidate_name(rung.arm)}. If that is not good enough, raise the bar (bar=) and ask again."
            )
            return Reason("cheaper rung", "no_go", f"{text} It needs no training.", step=use)
        case None:
            return _not_compared(text, facts, rung)


def _fewer_errors(facts: Facts) -> str:
    """What the better answers of the tuned model count for."""
    better = "The tuned model is shown to be right more often"
    if facts.task_kind == "quality" or facts.estimate is None:
        return f"{better}, which is the aim."
    worth = usd(facts.estimate.errors_avoided_usd)
    return f"{better}: {worth} a month, by what you say that a wrong answer costs."


def _not_compared(text: str, facts: Facts, rung: Rung) -> Reason:
    if facts.task_kind == "latency":
        start = Step("Start a run: it measures how fast the tuned model answers.", facts.training_usd)
        return Reason(
            "latency", "unknown", f"{text} Whether a tuned model is faster is not known.", step=start
        )
    say = "Say current= (today's model) and volume=: then the two can be compared."
    if rung.usd_per_1000 is None:
        say = f'Write its price into finetune.toml ([prices."{rung.arm.model}"]) and ask again.'
    text += " Whether a tuned one costs less is not known."
    return Reason("cheaper rung", "unknown", text, step=answer_step(say))


def _missing(facts: Facts) -> tuple[Reason, ...]:
    """A fine-tune is never advised over a way that nobody tried."""
    have = {rung.arm.rung for rung in facts.evidence.alternatives}
    wanted = CLIMBED if facts.smallest_label is not None else CLIMBED[1:]
    missing = [rung for rung in wanted if rung not in have]
    if not missing:
        return ()
    text = f"Not measured yet: {', '.join(LONG_NAMES[rung] for rung in missing)}."
    first, asked = missing[0], _cheapest_prompted(facts.evidence)
    models: Sequence[str] = () if first == "classical" else facts.to_measure
    if asked and asked.arm.model and first != "classical":
        models = (asked.arm.model,)
    price = _price(first, asked)
    measure = baseline_command(facts.dataset, first, models)
    step = Step(f"Measure {LONG_NAMES[first]} ({measure}): {cost_text(price)}.", price)
    return (Reason("measure", "unknown", text, step=step),)


def _todays(facts: Facts) -> tuple[Reason, ...]:
    """What is to be replaced is an alternative too."""
    if facts.is_today_measured:
        return ()
    text = f"{facts.current}, today's model, was not measured on these rows: it, or a cheaper one, may be good enough."
    beside = " and a cheap model beside it" if len(facts.to_measure) != 1 else ""
    how = baseline_command(facts.dataset, models=facts.to_measure) + (
        "" if facts.to_measure else " with models="
    )
    step = Step(f"Measure {facts.current}{beside}: {how}.", usd=None)
    return (Reason("today's model", "unknown", text, weighs=not facts.evidence.is_good, step=step),)


def _cheapest_prompted(evidence: Evidence) -> Rung | None:
    return cheapest([one for one in evidence.alternatives if one.arm.rung != "classical"])


def _price(rung: RungName, asked: Rung | None) -> Decimal | None:
    """By the cheapest prompt that was measured, `asked`. Ten examples make a prompt at most eleven times as long."""
    if rung == "classical":
        return Decimal(0)
    if asked is None:
        return None
    is_longer = asked.arm.rung == "zero" and rung != "zero"
    return asking_usd(asked, SHOTS + 1 if is_longer else 1)


def _undecided(facts: Facts, enough: Rung | None) -> tuple[Reason, ...]:
    """Rungs that may yet meet the bar for less than `enough` costs. Nobody needs to know once the tuned model
    meets it and costs no more than they do."""
    evidence, tuned = facts.evidence, facts.evidence.trained
    undecided = [
        rung
        for rung in evidence.alternatives
        if rung.standing == "undecided" and not (enough and is_cheaper(enough, rung))
    ]
    if not undecided:
        return ()
    shown = "; ".join(f"{candidate_name(rung.arm)} has {score_text(rung)}" for rung in undecided[:SHOWN])
    more = f"; and {len(undecided) - SHOWN} more" if len(undecided) > SHOWN else ""
    text = f"Too close to the bar of {percent(evidence.bar)} to say: {shown}{more}."
    is_settled = bool(tuned and evidence.is_good and all(is_no_dearer(tuned, rung) for rung in undecided))
    return (Reason("undecided", "unknown", text, not is_settled, _hold_out(undecided)),)


def _hold_out(undecided: list[Rung]) -> Step:
    """The fewest rows that would settle one of them."""
    needed = [(rung.rows_to_decide, rung) for rung in undecided if rung.rows_to_decide is not None]
    if not needed:
        most = max(rung.n for rung in undecided)
        return labelling_step(most, "Hold out more labelled rows: twice as many may still not decide it.")
    rows, rung = min(needed, key=lambda pair: pair[0])
    said = "1 more labelled row" if rows == 1 else f"{rows:,} more labelled rows"
    return labelling_step(rows, f"Hold out {said}: that would probably decide on {candidate_name(rung.arm)}.")


def _missed(evidence: Evidence) -> tuple[Reason, ...]:
    told = as_evidence(evidence.alternatives, evidence.bar)
    if not told or any(rung.standing != "misses" for rung in evidence.alternatives):
        return ()
    best = max(told, key=lambda rung: rung.score)
    figures = f"{candidate_name(best.arm)}: {score_text(best)}, {price_text(best)}."
    text = f"{_which_miss(len(told), len(evidence.alternatives))} the bar of {percent(evidence.bar)}."
    best_of = "The best" if len(told) == len(evidence.alternatives) else "The best of those"
    return (Reason("alternatives", "go", f"{text} {best_of} is {figures}"),)


def _which_miss(missing: int, measured: int) -> str:
    if missing < measured:
        return f"{missing} of {measured} measured ways surely {'misses' if missing == 1 else 'miss'}"
    return f"All {missing} measured ways miss" if missing > 1 else "The one measured way misses"


def _standing(tuned: Rung, evidence: Evidence) -> Reason:
    said, bar = score_text(tuned), percent(evidence.bar)
    match tuned.standing:
        case "meets":
            return Reason(
                "tuned", "go", f"The tuned model meets the bar of {bar}: {said}, {price_text(tuned)}."
            )
        case "misses":
            text = f"The tuned model misses the bar of {bar}: {said}."
            return Reason("tuned", "no_go", text, step=_after_a_miss(evidence))
        case "undecided":
            text = f"The tuned model is too close to the bar of {bar} to say: {said}."
            return Reason("tuned", "unknown", text, step=_hold_out([tuned]))


def _after_a_miss(evidence: Evidence) -> Step:
    if evidence.curve and evidence.curve.needs:
        labels = ", ".join(f"“{one.label[:40]}”" for one in evidence.curve.needs[:SHOWN_LABELS])
        return Step(f"Label more rows before you train again, first of {labels}.")
    return Step("Look at the rows that it got wrong before you train again; stay with today's model.")


def _beside_best(tuned: Rung, evidence: Evidence) -> tuple[Reason, ...]:
    best = max(evidence.alternatives, key=lambda rung: rung.score, default=None)
    if best is None or best.n != tuned.n or _is_better(tuned, best, evidence.ladder):
        return ()
    scores = f"{percent(tuned.score)} against {percent(best.score)}"
    if _is_better(best, tuned, evidence.ladder):
        return (_worse(tuned, best, scores),)
    gap = evidence.ladder.detectable_gap if evidence.ladder else None
    shows = f" This holdout shows differences from {100 * gap:.1f} points on." if gap else ""
    text = f"The tuned model is not shown to be better than {candidate_name(best.arm)}: {scores}.{shows}"
    return (Reason("not better", "unknown", text, weighs=False),)


def _worse(tuned: Rung, best: Rung, scores: str) -> Reason:
    """A no where the better one costs no more, nor keeps anybody waiting."""
    text = f"The tuned model is worse than {candidate_name(best.arm)}: {scores}"
    if is_no_dearer(best, tuned) and best.p95_s < FASTER * tuned.p95_s:
        use = Step(f"Use {candidate_name(best.arm)}, and look at the rows that the tuned model got wrong.")
        return Reason("worse", "no_go", f"{text}, and that costs no more.", step=use)
    return Reason("not better", "unknown", f"{text}.", weighs=False)


def _is_better(one: Rung, other: Rung, ladder: Ladder | None) -> bool:
    """Shown to be: by the paired test where it was made, else by intervals that don't overlap."""
    for pair in ladder.pairs if ladder else ():
        if {pair.better, pair.worse} == {one.arm, other.arm}:
            return pair.is_told_apart and pair.better == one.arm
    return one.low > other.high


def _silent(evidence: Evidence) -> tuple[Reason, ...]:
    silent = [rung for rung in evidence.rungs if is_silent(rung) and rung.arm.rung != "tuned"]
    return tuple(Reason("no answer", "unknown", _no_answer(rung), weighs=False) for rung in silent[:SHOWN])


def _no_answer(rung: Rung) -> str:
    rows = f"{rung.empty:,} of {rung.n:,} held-out rows" if rung.n else "any row"
    return f"{capitalize(candidate_name(rung.arm))} gave no answer to {rows}: that says nothing about how good it is."


def _unread(evidence: Evidence) -> tuple[Reason, ...]:
    """Rungs that would reach the bar if what could not be read were right."""
    hopeful = [rung for rung in evidence.alternatives if might_meet(rung, evidence.bar)]
    if not hopeful:
        return ()
    asked = [rung for rung in evidence.alternatives if rung.arm.rung != "classical"]
    no_prompt_was_read = len(hopeful) == len(asked)
    shown = "; ".join(
        f"{candidate_name(rung.arm)}, {rung.unread:,} of {rung.n:,}" for rung in hopeful[:SHOWN]
    )
    more = f"; and {len(hopeful) - SHOWN} more" if len(hopeful) > SHOWN else ""
    text = f"Answers that could not be read: {shown}{more}."
    if no_prompt_was_read and not evidence.is_good:
        other = Step("Measure a clearer prompt (prompt=) or another model (models=).", usd=None)
        return (Reason("unread", "unknown", text, step=other),)
    help_more = f"{text} A clearer prompt (prompt=) may help more than training."
    return (Reason("unread", "unknown", help_more, weighs=False),)


def _never_answered(ladder: Ladder) -> tuple[Reason, ...]:
    labels = ladder.never_answered
    if not labels:
        return ()
    shown = ", ".join(f"“{label[:40]}”" for label in labels[:SHOWN_LABELS])
    more = f" and {len(labels) - SHOWN_LABELS} more" if len(labels) > SHOWN_LABELS else ""
    text = f"No way ever answers {shown}{more}: look whether these rows are labelled as you mean it."
    return (Reason("never answered", "unknown", text, weighs=False),)
