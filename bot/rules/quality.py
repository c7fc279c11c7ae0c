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
from bot.rules.models.promotion import ModelComparison, compare_models, exceeds_holdout
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
from trainers.evaluation.quality_threshold import rows_to_hold_out
from trainers.evaluation.results import FREE_KINDS, CandidateKind, MeasuredCandidate, find_best

SHOTS = 10  # examples in a k-shot prompt
MOST_NEAREST = 20  # the most rows that retrieval adds to a prompt
SHOWN = 3  # models without answers that are listed
PROMPTED: tuple[CandidateKind, ...] = ("zero", "kshot", "retrieval")


def alternative_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Judges the alternatives to fine-tuning. Never empty: if nothing was measured, that is the first reason."""
    evidence = facts.evidence
    if evidence.comparison is None:
        prompts = Measure("prompts", facts.dataset, models=facts.to_measure)
        step = facts.measure_step(prompts)
        if facts.has_free_candidates:
            # They cost nothing, and may be enough.
            step = Step(Measure("free", facts.dataset, FREE_KINDS))
        return (Reason("measure", "unknown", "nothing measured", step=step),)
    notes = _notes(evidence, evidence.comparison.never_answered)
    meeting = [candidate for candidate in evidence.alternatives if candidate.standing == "meets"]
    enough = cheapest(meeting)
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


def is_worth_replacing(candidate: MeasuredCandidate, facts: Facts) -> bool | None:
    """Returns whether a tuned model is worth having although `candidate` is good enough: because it is cheaper, or
    faster if speed is the aim. None if unknown. A free candidate can't be undercut, nor outrun, since it answers at
    once."""
    if candidate.is_free:
        return False
    tuned = facts.evidence.trained
    if facts.task_kind == "latency":
        if tuned is None:
            return None
        return tuned.p95_s * FASTER <= candidate.p95_s
    if candidate.usd_per_1000 == 0 or facts.is_for_better:
        return False
    if tuned and tuned.usd_per_1000 is not None and candidate.usd_per_1000 is not None:
        return is_cheaper(tuned, candidate)
    if facts.estimate is None and facts.task_kind != "cost":
        # Nobody has said that money is the aim.
        return False
    if facts.estimate is None or candidate.usd_per_1000 is None:
        return None
    return facts.estimate.saving_month > 0


def is_worth_being_better(candidate: MeasuredCandidate, facts: Facts) -> bool:
    """True if the tuned model is shown to be right more often than `candidate`, and that matters: because better
    answers are the aim, or because the wrong answers avoided are worth more than they cost."""
    if not facts.evidence.is_good:
        return False
    if not _is_tuned_better(candidate, facts.evidence):
        return False
    if facts.is_for_better:
        return True
    estimate = facts.estimate
    if estimate is None or estimate.errors_avoided_usd <= 0:
        return False
    return estimate.saving_month > 0


def _bar_met_reason(candidate: MeasuredCandidate, facts: Facts) -> Reason:
    """`candidate` meets the bar. Says whether a tuned model is worth having beside it."""
    reason = _worth_reason(candidate, facts)
    if reason.kind != "go":
        return reason
    # A promotion also compares the tuned model with the best alternative, which may be another one than the cheapest.
    return _may_be_worse_reason(facts.evidence) or reason


def _worth_reason(candidate: MeasuredCandidate, facts: Facts) -> Reason:
    bar = facts.evidence.bar
    is_for_speed = facts.task_kind == "latency"
    if is_worth_being_better(candidate, facts):
        worth = None
        if facts.estimate and not facts.is_for_better:
            # Better answers that are the aim need no price; others do.
            worth = facts.estimate.errors_avoided_usd
        return Reason("fewer errors", "go", MeetsBar(candidate, bar, "is right more often", worth))
    match is_worth_replacing(candidate, facts):
        case True if is_for_speed:
            return Reason("distil", "go", MeetsBar(candidate, bar, "is faster"))
        case True:
            won = _price_win_reason(facts.evidence)
            if won is not None:
                return won
            return Reason("distil", "go", MeetsBar(candidate, bar, "is cheaper"))
        case False:
            not_needed = MeetsBar(candidate, bar, "is not needed")
            use = UseCandidate(candidate.identity, end=facts.end_of(candidate.model))
            return Reason("cheaper rung", "no_go", not_needed, step=Step(use))
        case None if is_for_speed:
            start = Step("measure speed by a run", facts.run_usd)
            return Reason("latency", "unknown", MeetsBar(candidate, bar, "may be faster"), step=start)
        case None:
            todo: Todo = "say model and volume"
            if candidate.usd_per_1000 is None:
                todo = WritePrice(candidate.model)
            may_be = MeetsBar(candidate, bar, "may be cheaper")
            return Reason("cheaper rung", "unknown", may_be, step=answer_step(todo))


def _unmeasured_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Lists the kinds of candidates that nobody measured: a fine-tune is never advised before they are."""
    tried = {*facts.evidence.tried, facts.evidence.own_kind}
    kinds: tuple[CandidateKind, ...] = PROMPTED
    if facts.has_free_candidates:
        kinds = (*FREE_KINDS, *PROMPTED)
    missing = tuple(kind for kind in kinds if kind not in tried)
    if not missing:
        return ()
    if missing[:2] == FREE_KINDS:
        free_ones = Measure("free", facts.dataset, FREE_KINDS)
        return (Reason("measure", "unknown", NotMeasured(missing), step=Step(free_ones, Decimal(0))),)
    first = missing[0]
    models = facts.to_measure
    usd = None
    prompted = cheapest([candidate for candidate in facts.evidence.alternatives if not candidate.is_free])
    if first in FREE_KINDS:
        models = ()
        usd = Decimal(0)
    elif prompted is not None:
        usd = cost_to_repeat_usd(prompted, _times_as_long(first, prompted))
        if prompted.model:
            models = (prompted.model,)
    measure = Measure("kind", facts.dataset, (first,), models, usd)
    return (Reason("measure", "unknown", NotMeasured(missing), step=facts.measure_step(measure, usd)),)


def _times_as_long(kind: CandidateKind, measured: MeasuredCandidate) -> int:
    """Returns how many times as long as the measured prompts those of this kind are at most: with ten examples, a
    prompt is at most eleven times as long."""
    if measured.kind != "zero" or kind == "zero":
        return 1
    if kind == "retrieval":
        return 1 + MOST_NEAREST
    return 1 + SHOTS


def _today_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Asks to measure today's model, which is an alternative too."""
    if facts.is_today_measured or facts.current is None:
        return ()
    today = Measure("today", facts.dataset, models=facts.to_measure, today=facts.current)
    step = facts.measure_step(today)
    weighs = not facts.evidence.is_good
    because = TodayNotMeasured(facts.current)
    return (Reason("today's model", "unknown", because, weighs=weighs, step=step),)


def _undecided_reasons(facts: Facts, enough: MeasuredCandidate | None) -> tuple[Reason, ...]:
    """Lists candidates that may still be shown to meet the bar for less than `enough` costs. This doesn't weigh once
    the tuned model meets the bar and costs no more than they do."""
    evidence = facts.evidence
    undecided = tuple(candidate for candidate in evidence.alternatives if candidate.standing == "undecided")
    if enough:
        undecided = tuple(candidate for candidate in undecided if not is_cheaper(enough, candidate))
    if not undecided:
        return ()
    weighs = True
    tuned = evidence.trained
    if tuned and evidence.is_good:
        weighs = not all(costs_no_more(tuned, candidate) for candidate in undecided)
    close = TooCloseToBar(undecided, evidence.bar)
    return (Reason("undecided", "unknown", close, weighs, _hold_out_step(undecided)),)


def _hold_out_step(undecided: Sequence[MeasuredCandidate]) -> Step:
    """Returns the step that settles one of the candidates with the fewest additional rows. If as many as a dataset may
    hold out would settle none of them, only the team can."""
    needed = []
    for candidate in undecided:
        rows = rows_to_hold_out(candidate)
        if rows is not None:
            needed.append((rows, candidate))
    if not needed:
        return answer_step("decide by the score")
    rows, candidate = min(needed, key=lambda pair: pair[0])
    hold_out = HoldOut(rows, candidate.identity)
    return labelling_step(hold_out.new, hold_out)


def _all_missed_reasons(evidence: Evidence) -> tuple[Reason, ...]:
    readable = exclude_misread(evidence.alternatives, evidence.bar)
    prompted = [candidate for candidate in evidence.alternatives if not candidate.is_free]
    if prompted and all(is_mostly_unreadable(candidate) for candidate in prompted):
        # That is no evidence of what a capable model would do.
        return ()
    best = find_best(readable)
    if best is None:
        return ()
    if any(candidate.standing != "misses" for candidate in evidence.alternatives):
        return ()
    missed = AllMissBar(len(readable), len(evidence.alternatives), best, evidence.bar)
    return (Reason("alternatives", "go", missed), *_far_bar_reasons(best, evidence))


def _far_bar_reasons(best: MeasuredCandidate, evidence: Evidence) -> tuple[Reason, ...]:
    """The bar allows so few errors that hardly any tuned model will meet it. This doesn't weigh: a run costs little
    beside the certainty that it gives. Nothing to say once the tuned model was measured."""
    allowed = 1 - evidence.bar
    if evidence.trained is not None:
        return ()
    wrong = 1 - best.score
    if FAR_BAR * allowed > wrong:
        return ()
    far = BarFar(best, evidence.bar)
    return (Reason("far bar", "unknown", far, weighs=False, step=answer_step("lower the bar")),)


def _tuned_score_reason(tuned: MeasuredCandidate, evidence: Evidence) -> Reason:
    stands = TunedScore(tuned, evidence.bar)
    match tuned.standing:
        case "meets":
            return Reason("tuned", "go", stands)
        case "misses":
            step = Step("look at wrong rows")
            if evidence.curve and evidence.curve.needs:
                labels = tuple(need.label for need in evidence.curve.needs)
                step = Step(LabelFirst(labels))
            return Reason("tuned", "no_go", stands, step=step)
        case "undecided":
            return Reason("tuned", "unknown", stands, step=_hold_out_step([tuned]))


def _is_tuned_better(other: MeasuredCandidate, evidence: Evidence) -> bool:
    tuned = evidence.trained
    if tuned is None:
        return False
    return is_shown_better(tuned, other, evidence.comparison, evidence.tuned_look)


def _price_win_reason(evidence: Evidence) -> Reason | None:
    """Returns a reason if the best alternative meets the bar, and the tuned model is cheaper and shown to be no worse
    within the margin. They are compared row by row, so both have to be scored in the same way on the same rows."""
    best = find_best(evidence.alternatives)
    tuned = evidence.trained
    if best is None or tuned is None:
        return None
    if best.standing != "meets" or tuned.standing == "misses":
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


def _compare_prices(
    tuned: MeasuredCandidate, best: MeasuredCandidate, evidence: Evidence
) -> ModelComparison | None:
    """Compares a tuned model that is cheaper as its promotion will. None if it is not cheaper, if it is shown to be
    better, or if the two can't be compared row by row."""
    if tuned.scoring != best.scoring or tuned.n != best.n:
        return None
    if _is_tuned_better(best, evidence):
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


def _settle_margin_step(
    tuned: MeasuredCandidate, best: MeasuredCandidate, comparison: ModelComparison, margin: float
) -> Step:
    """Returns the step that would show an equally good model to be not worse. If it is shown to be worse, or if as many
    rows as a dataset may hold out are too few, only people can decide."""
    needed = comparison.rows_for_margin(margin)
    if comparison.is_worse or needed is None or exceeds_holdout(needed):
        return answer_step("decide by the difference")
    hold_out = HoldOut(needed - comparison.rows, tuned.identity, beside=best.identity)
    return labelling_step(hold_out.new, hold_out)


def _versus_best_reasons(tuned: MeasuredCandidate, evidence: Evidence) -> tuple[Reason, ...]:
    """Compares the tuned model with the best alternative. Says no if the alternative is better, costs no more and isn't
    much slower."""
    best = find_best(evidence.alternatives)
    if best is None or best.n != tuned.n or _is_tuned_better(best, evidence):
        return ()
    if not is_shown_better(best, tuned, evidence.comparison):
        gap = None
        if evidence.comparison:
            gap = evidence.comparison.detectable_gap
        unclear = TunedVersusBest(tuned, best, "not shown to be better", gap)
        return (Reason("not better", "unknown", unclear, weighs=False),)
    if costs_no_more(best, tuned) and best.p95_s < FASTER * tuned.p95_s:
        worse = TunedVersusBest(tuned, best, "worse and costs as much")
        use = UseCandidate(best.identity, instead_of_worse=True)
        return (Reason("worse", "no_go", worse, step=Step(use)),)
    return (Reason("not better", "unknown", TunedVersusBest(tuned, best, "worse"), weighs=False),)


def _unanswered_reasons(evidence: Evidence) -> Iterator[Reason]:
    """Yields the candidates that gave no answers, and those that could not be measured. Each weighs as long as no other
    of its kind has answered: asking the same again would tell nothing, but another model may do."""
    answered = {candidate.kind for candidate in evidence.alternatives}
    other_model = Step("measure another model", usd=None)
    silent = []
    for candidate in evidence.candidates:
        if is_silent(candidate) and candidate.kind != "tuned":
            silent.append(candidate)
    for candidate in silent[:SHOWN]:
        weighs = candidate.kind not in answered
        yield Reason("no answer", "unknown", NoAnswer(candidate), weighs, other_model)
    for failed in evidence.failed[:SHOWN]:
        because = NotMeasurable(failed.candidate, failed.why)
        weighs = failed.candidate.kind not in answered and not failed.candidate.is_free
        yield Reason("not measurable", "unknown", because, weighs, other_model)


def _may_be_misread(candidate: MeasuredCandidate, evidence: Evidence) -> bool:
    """True if it would reach the bar if its unreadable answers were right, or if it says nothing."""
    return might_meet(candidate, evidence.bar) or is_mostly_unreadable(candidate)


def _notes(evidence: Evidence, never_answered: Sequence[str]) -> tuple[Reason, ...]:
    """Points out candidates without answers, candidates with unreadable answers, and labels that no candidate ever
    answered."""
    notes = list(_unanswered_reasons(evidence))

    prompted = [candidate for candidate in evidence.alternatives if not candidate.is_free]
    hopeful = tuple(candidate for candidate in evidence.alternatives if _may_be_misread(candidate, evidence))
    if hopeful and len(hopeful) == len(prompted) and not evidence.is_good:
        step = Step("clearer prompt", usd=None)
        if all(is_mostly_unreadable(candidate) for candidate in hopeful):
            step = Step("measure another model", usd=None)
        notes.append(Reason("unread", "unknown", UnreadableAnswers(hopeful, is_settled=False), step=step))
    elif hopeful:
        notes.append(Reason("unread", "unknown", UnreadableAnswers(hopeful, is_settled=True), weighs=False))

    if never_answered:
        labels = NeverAnswered(tuple(never_answered))
        notes.append(Reason("never answered", "unknown", labels, weighs=False))
    return tuple(notes)
