"""The rules on quality: does a cheaper candidate meet the bar, was every candidate measured, and is the tuned model
good enough?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal

from bot.rules.alternatives import (
    cheapest,
    cost_to_repeat_usd,
    costs_no_more,
    exclude_misread,
    is_cheaper,
    is_mostly_unreadable,
    is_shown_better,
    might_meet,
)
from bot.rules.facts import FAR_BAR, FASTER, Evidence, Facts, is_silent
from bot.rules.promotion import ModelComparison, compare_models
from bot.rules.reasons import (
    AllMissBar,
    BarFar,
    HoldOut,
    LabelFirst,
    Measure,
    MeetsBar,
    NeverAnswered,
    NoAnswer,
    NotMeasurable,
    NotMeasured,
    NotTrainedYet,
    Reason,
    Step,
    TodayNotMeasured,
    Todo,
    TooCloseToBar,
    TunedScore,
    TunedVersusBest,
    UnreadableAnswers,
    UseCandidate,
    WritePrice,
    answer_step,
    labelling_step,
)
from trainers.dataset.splits import HOLDOUT_MOST
from trainers.evaluation.quality_threshold import rows_to_hold_out
from trainers.evaluation.results import FREE_RUNGS, Rung, RungName, find_best

SHOTS = 10  # examples in a k-shot prompt
MOST_NEAREST = 20  # the most rows that retrieval adds to a prompt
SHOWN = 3  # models without answers that are listed
PROMPTED: tuple[RungName, ...] = ("zero", "kshot", "retrieval")


def alternative_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Judges the alternatives to fine-tuning. Never empty: if nothing was measured, that is the first reason."""
    evidence = facts.evidence
    if evidence.ladder is None:
        step = facts.measure_step(Measure("prompts", facts.dataset, models=facts.to_measure))
        if facts.has_free_candidates:
            step = Step(Measure("free", facts.dataset, FREE_RUNGS))
        return (Reason("measure", "unknown", "nothing measured", step=step),)
    notes = _notes(evidence, evidence.ladder.never_answered)
    enough = cheapest([rung for rung in evidence.alternatives if rung.standing == "meets"])
    if enough is None:
        return (
            *_unmeasured_reasons(facts),
            *_undecided_reasons(facts, None),
            *_all_missed_reasons(evidence),
            *_today_reasons(facts),
            *notes,
        )
    met = _bar_met_reason(enough, facts)
    if met.kind == "no_go":
        return (met, *notes)
    return (met, *_unmeasured_reasons(facts), *_undecided_reasons(facts, enough), *notes)


def tuned_reasons(facts: Facts) -> tuple[Reason, ...]:
    evidence = facts.evidence
    tuned = evidence.trained
    if tuned is None:
        return (Reason("quality", "unknown", NotTrainedYet(facts.n_holdout), weighs=False),)
    if is_silent(tuned):
        again = Step("see why it does not answer", cost_to_repeat_usd(tuned))
        return (Reason("tuned", "unknown", NoAnswer(tuned), step=again),)
    standing = _tuned_score_reason(tuned, evidence)
    if _price_win_reason(evidence):
        # It is not worse than a candidate that is shown to meet the bar, so it need not be shown to meet it as well.
        return (replace(standing, weighs=standing.kind != "unknown"),)
    return (standing, *_versus_best_reasons(tuned, evidence))


def is_worth_replacing(rung: Rung, facts: Facts) -> bool | None:
    """Returns whether a tuned model is worth having although `rung` is good enough: because it is cheaper, or faster if
    speed is the aim. None if unknown. A free rung can't be undercut, nor outrun, since it answers at once."""
    if rung.arm.is_free:
        return False
    tuned = facts.evidence.trained
    if facts.task_kind == "latency":
        if tuned is None:
            return None
        return tuned.p95_s * FASTER <= rung.p95_s
    if rung.usd_per_1000 == 0 or facts.is_for_better:
        return False
    if tuned and tuned.usd_per_1000 is not None and rung.usd_per_1000 is not None:
        return is_cheaper(tuned, rung)
    if facts.estimate is None and facts.task_kind != "cost":
        return False  # nobody has said that money is the aim
    if facts.estimate is None or rung.usd_per_1000 is None:
        return None
    return facts.estimate.saving_month > 0


def is_worth_being_better(rung: Rung, facts: Facts) -> bool:
    """True if the tuned model is shown to be right more often than `rung`, and that matters: because better answers
    are the aim, or because the wrong answers avoided are worth more than they cost."""
    if not facts.evidence.is_good or not _is_tuned_better(rung, facts.evidence):
        return False
    if facts.is_for_better:
        return True
    estimate = facts.estimate
    return estimate is not None and estimate.errors_avoided_usd > 0 and estimate.saving_month > 0


def _bar_met_reason(rung: Rung, facts: Facts) -> Reason:
    """`rung` meets the bar. Says whether a tuned model is worth having beside it."""
    reason = _worth_reason(rung, facts)
    if reason.kind != "go":
        return reason
    # A promotion also compares the tuned model with the best alternative, which may be another one than the cheapest.
    return _may_be_worse_reason(facts.evidence) or reason


def _worth_reason(rung: Rung, facts: Facts) -> Reason:
    bar = facts.evidence.bar
    is_for_speed = facts.task_kind == "latency"
    if is_worth_being_better(rung, facts):
        worth = None  # better answers that are the aim need no price
        if facts.estimate and not facts.is_for_better:
            worth = facts.estimate.errors_avoided_usd
        return Reason("fewer errors", "go", MeetsBar(rung, bar, "is right more often", worth))
    match is_worth_replacing(rung, facts):
        case True if is_for_speed:
            return Reason("distil", "go", MeetsBar(rung, bar, "is faster"))
        case True:
            won = _price_win_reason(facts.evidence)
            return won or Reason("distil", "go", MeetsBar(rung, bar, "is cheaper"))
        case False:
            not_needed = MeetsBar(rung, bar, "is not needed")
            use = UseCandidate(rung.arm, end=facts.end_of(rung.arm.model))
            return Reason("cheaper rung", "no_go", not_needed, step=Step(use))
        case None if is_for_speed:
            start = Step("measure speed by a run", facts.run_usd)
            return Reason("latency", "unknown", MeetsBar(rung, bar, "may be faster"), step=start)
        case None:
            todo: Todo = "say model and volume"
            if rung.usd_per_1000 is None:
                todo = WritePrice(rung.arm.model)
            may_be = MeetsBar(rung, bar, "may be cheaper")
            return Reason("cheaper rung", "unknown", may_be, step=answer_step(todo))


def _unmeasured_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Lists the rungs that nobody measured: a fine-tune is never advised before they are."""
    tried = {*facts.evidence.tried, facts.evidence.own_rung}
    candidates: tuple[RungName, ...] = PROMPTED
    if facts.has_free_candidates:
        candidates = (*FREE_RUNGS, *PROMPTED)
    missing = tuple(rung for rung in candidates if rung not in tried)
    if not missing:
        return ()
    if missing[:2] == FREE_RUNGS:
        free_ones = Measure("free", facts.dataset, FREE_RUNGS)
        return (Reason("measure", "unknown", NotMeasured(missing), step=Step(free_ones, Decimal(0))),)
    first = missing[0]
    models = facts.to_measure
    usd = None
    prompted = cheapest([rung for rung in facts.evidence.alternatives if not rung.arm.is_free])
    if first in FREE_RUNGS:
        models = ()
        usd = Decimal(0)
    elif prompted is not None:
        usd = cost_to_repeat_usd(prompted, _times_as_long(first, prompted))
        if prompted.arm.model:
            models = (prompted.arm.model,)
    measure = Measure("rung", facts.dataset, (first,), models, usd)
    return (Reason("measure", "unknown", NotMeasured(missing), step=facts.measure_step(measure, usd)),)


def _times_as_long(rung: RungName, measured: Rung) -> int:
    """Returns how many times as long as the measured prompts the rung's are at most: with ten examples, a prompt is at
    most eleven times as long."""
    if measured.arm.rung != "zero" or rung == "zero":
        return 1
    if rung == "retrieval":
        return 1 + MOST_NEAREST
    return 1 + SHOTS


def _today_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Asks to measure today's model, which is an alternative too."""
    if facts.is_today_measured or facts.current is None:
        return ()
    step = facts.measure_step(Measure("today", facts.dataset, models=facts.to_measure, today=facts.current))
    weighs = not facts.evidence.is_good
    return (Reason("today's model", "unknown", TodayNotMeasured(facts.current), weighs=weighs, step=step),)


def _undecided_reasons(facts: Facts, enough: Rung | None) -> tuple[Reason, ...]:
    """Lists rungs that may still be shown to meet the bar for less than `enough` costs. This doesn't weigh once the
    tuned model meets the bar and costs no more than they do."""
    evidence = facts.evidence
    tuned = evidence.trained
    undecided = tuple(
        rung
        for rung in evidence.alternatives
        if rung.standing == "undecided" and not (enough and is_cheaper(enough, rung))
    )
    if not undecided:
        return ()
    weighs = True
    if tuned and evidence.is_good and all(costs_no_more(tuned, rung) for rung in undecided):
        weighs = False
    close = TooCloseToBar(undecided, evidence.bar)
    return (Reason("undecided", "unknown", close, weighs, _hold_out_step(undecided)),)


def _hold_out_step(undecided: Sequence[Rung]) -> Step:
    """Returns the step that settles one of the rungs with the fewest additional rows. If as many as a dataset may hold
    out would settle none of them, only the team can."""
    possible = [(rows_to_hold_out(rung), rung) for rung in undecided]
    needed = [(rows, rung) for rows, rung in possible if rows is not None]
    if not needed:
        return answer_step("decide by the score")
    rows, rung = min(needed, key=lambda pair: pair[0])
    hold_out = HoldOut(rows, rung.arm)
    return labelling_step(hold_out.new, hold_out)


def _all_missed_reasons(evidence: Evidence) -> tuple[Reason, ...]:
    readable = exclude_misread(evidence.alternatives, evidence.bar)
    prompted = [rung for rung in evidence.alternatives if not rung.arm.is_free]
    if prompted and all(is_mostly_unreadable(rung) for rung in prompted):
        return ()  # no evidence of what a capable model would do
    best = find_best(readable)
    if best is None or any(rung.standing != "misses" for rung in evidence.alternatives):
        return ()
    missed = AllMissBar(len(readable), len(evidence.alternatives), best, evidence.bar)
    return (Reason("alternatives", "go", missed), *_far_bar_reasons(best, evidence))


def _far_bar_reasons(best: Rung, evidence: Evidence) -> tuple[Reason, ...]:
    """The bar allows so few errors that hardly any tuned model will meet it. This doesn't weigh: a run costs little
    beside the certainty that it gives. Nothing to say once the tuned model was measured."""
    allowed = 1 - evidence.bar
    if evidence.trained is not None or FAR_BAR * allowed > 1 - best.score:
        return ()
    far = BarFar(best, evidence.bar)
    return (Reason("far bar", "unknown", far, weighs=False, step=answer_step("lower the bar")),)


def _tuned_score_reason(tuned: Rung, evidence: Evidence) -> Reason:
    stands = TunedScore(tuned, evidence.bar)
    match tuned.standing:
        case "meets":
            return Reason("tuned", "go", stands)
        case "misses":
            step = Step("look at wrong rows")
            if evidence.curve and evidence.curve.needs:
                step = Step(LabelFirst(tuple(need.label for need in evidence.curve.needs)))
            return Reason("tuned", "no_go", stands, step=step)
        case "undecided":
            return Reason("tuned", "unknown", stands, step=_hold_out_step([tuned]))


def _is_tuned_better(other: Rung, evidence: Evidence) -> bool:
    tuned = evidence.trained
    return tuned is not None and is_shown_better(tuned, other, evidence.ladder, evidence.tuned_look)


def _price_win_reason(evidence: Evidence) -> Reason | None:
    """Returns a reason if the best alternative meets the bar, and the tuned model is cheaper and shown to be no worse
    within the margin. They are compared row by row, so both have to be scored in the same way on the same rows."""
    best = find_best(evidence.alternatives)
    tuned = evidence.trained
    if best is None or tuned is None or best.standing != "meets" or tuned.standing == "misses":
        return None
    comparison = _compare_prices(tuned, best, evidence)
    if comparison is None or not comparison.is_not_worse(evidence.margin):
        return None
    not_worse = TunedVersusBest(
        tuned, best, "not worse and cheaper", low=comparison.bound, margin=evidence.margin
    )
    return Reason("not worse", "go", not_worse)


def _may_be_worse_reason(evidence: Evidence) -> Reason | None:
    """Returns a reason if the tuned model meets the bar and is cheaper than the best alternative, but may be worse by
    more than the margin: its promotion would object, so that the verdict can't be to deploy it."""
    best = find_best(evidence.alternatives)
    tuned = evidence.trained
    if best is None or tuned is None or tuned.standing != "meets":
        return None
    comparison = _compare_prices(tuned, best, evidence)
    if comparison is None or comparison.is_enough(evidence.margin):
        return None
    may_be = TunedVersusBest(
        tuned, best, "cheaper and may be worse", low=comparison.bound, margin=evidence.margin
    )
    step = _settle_margin_step(tuned, best, comparison, evidence.margin)
    return Reason("may be worse", "unknown", may_be, step=step)


def _compare_prices(tuned: Rung, best: Rung, evidence: Evidence) -> ModelComparison | None:
    """Compares a tuned model that is cheaper as its promotion will. None if it is not cheaper, if it is shown to be
    better, or if the two can't be compared row by row."""
    if (tuned.scoring, tuned.n) != (best.scoring, best.n) or _is_tuned_better(best, evidence):
        return None
    comparison = compare_models(
        "",
        tuned.scores,
        best.scores,
        tuned.usd_per_1000,
        best.usd_per_1000,
        look=evidence.tuned_look,
        read=tuned.read,
    )
    if not comparison.is_cheaper:
        return None
    return comparison


def _settle_margin_step(tuned: Rung, best: Rung, comparison: ModelComparison, margin: float) -> Step:
    """Returns the step that would show an equally good model to be not worse. If it is shown to be worse, or if as many
    rows as a dataset may hold out are too few, only people can decide."""
    needed = comparison.rows_for_margin(margin)
    if comparison.is_worse or needed is None or needed > HOLDOUT_MOST:
        return answer_step("decide by the difference")
    hold_out = HoldOut(needed - comparison.rows, tuned.arm, beside=best.arm)
    return labelling_step(hold_out.new, hold_out)


def _versus_best_reasons(tuned: Rung, evidence: Evidence) -> tuple[Reason, ...]:
    """Compares the tuned model with the best alternative. Says no if the alternative is better, costs no more and isn't
    much slower."""
    best = find_best(evidence.alternatives)
    if best is None or best.n != tuned.n or _is_tuned_better(best, evidence):
        return ()
    if not is_shown_better(best, tuned, evidence.ladder):
        gap = evidence.ladder.detectable_gap if evidence.ladder else None
        unclear = TunedVersusBest(tuned, best, "not shown to be better", gap)
        return (Reason("not better", "unknown", unclear, weighs=False),)
    if costs_no_more(best, tuned) and best.p95_s < FASTER * tuned.p95_s:
        worse = TunedVersusBest(tuned, best, "worse and costs as much")
        return (Reason("worse", "no_go", worse, step=Step(UseCandidate(best.arm, instead_of_worse=True))),)
    return (Reason("not better", "unknown", TunedVersusBest(tuned, best, "worse"), weighs=False),)


def _unanswered_reasons(evidence: Evidence) -> Iterator[Reason]:
    """Yields the candidates that gave no answers, and those that could not be measured. Each weighs as long as no other
    of its kind has answered: asking the same again would tell nothing, but another model may do."""
    answered = {rung.arm.rung for rung in evidence.alternatives}
    other_model = Step("measure another model", usd=None)
    silent = [rung for rung in evidence.rungs if is_silent(rung) and rung.arm.rung != "tuned"]
    for rung in silent[:SHOWN]:
        weighs = rung.arm.rung not in answered
        yield Reason("no answer", "unknown", NoAnswer(rung), weighs, other_model)
    for failed in evidence.failed[:SHOWN]:
        because = NotMeasurable(failed.candidate, failed.why)
        weighs = failed.candidate.rung not in answered and not failed.candidate.is_free
        yield Reason("not measurable", "unknown", because, weighs, other_model)


def _notes(evidence: Evidence, never_answered: Sequence[str]) -> tuple[Reason, ...]:
    """Points out rungs without answers, rungs with unreadable answers, and labels that no rung ever answered."""
    notes = list(_unanswered_reasons(evidence))

    # Rungs that would reach the bar if their unreadable answers were right, or that say nothing.
    prompted = [rung for rung in evidence.alternatives if not rung.arm.is_free]
    hopeful = tuple(
        rung for rung in evidence.alternatives if might_meet(rung, evidence.bar) or is_mostly_unreadable(rung)
    )
    if hopeful and len(hopeful) == len(prompted) and not evidence.is_good:
        step = Step("clearer prompt", usd=None)
        if all(is_mostly_unreadable(rung) for rung in hopeful):
            step = Step("measure another model", usd=None)
        notes.append(Reason("unread", "unknown", UnreadableAnswers(hopeful, is_settled=False), step=step))
    elif hopeful:
        notes.append(Reason("unread", "unknown", UnreadableAnswers(hopeful, is_settled=True), weighs=False))

    if never_answered:
        labels = NeverAnswered(tuple(never_answered))
        notes.append(Reason("never answered", "unknown", labels, weighs=False))
    return tuple(notes)
