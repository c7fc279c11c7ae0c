"""The rules on quality: does a cheaper way meet the bar, was every way measured, is the tuned model good
enough?"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from bot.rules.alternatives import as_evidence, asking_usd, cheapest, is_cheaper, is_no_dearer, might_meet
from bot.rules.facts import FASTER, Evidence, Facts, is_silent
from bot.rules.reasons import (
    BesideBest,
    HoldOut,
    LabelFirst,
    Measure,
    MeetsBar,
    NeverAnswered,
    NoAnswer,
    NotMeasured,
    NotTrainedYet,
    OtherBar,
    Reason,
    Step,
    TodayNotMeasured,
    TooClose,
    TunedStands,
    Unread,
    Use,
    WaysMiss,
    WritePrice,
    answer_step,
    labelling_step,
)
from trainers.evaluation.results import Ladder, Rung, RungName

SHOTS = 10  # examples in a k-shot prompt, and rows that retrieval puts in
SHOWN = 3  # silent models
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
        return (Reason("quality", "unknown", NotTrainedYet(facts.n_holdout), weighs=False),)
    if evidence.is_stale:
        return ()  # to be judged again with the others
    if is_silent(tuned):
        again = Step("see why it does not answer", asking_usd(tuned))
        return (Reason("tuned", "unknown", NoAnswer(tuned), step=again),)
    return (_standing(tuned, evidence), *_beside_best(tuned, evidence))


def replaces(rung: Rung, facts: Facts) -> bool | None:
    """Would a tuned model be worth having where `rung` is good enough: cheaper, or faster where speed counts?

    None: not known. What costs nothing cannot be undercut, and the classical model not be outrun.
    """
    if rung.arm.rung == "classical":
        return False
    tuned, kind, estimate = facts.evidence.trained, facts.task_kind, facts.estimate
    if kind == "latency":
        return tuned.p95_s * FASTER <= rung.p95_s if tuned else None
    if rung.usd_per_1000 == 0 or kind == "quality":
        return False
    if tuned and tuned.usd_per_1000 is not None and rung.usd_per_1000 is not None:
        return is_cheaper(tuned, rung)
    if estimate is None:
        return None if kind == "cost" else False
    return None if rung.usd_per_1000 is None else estimate.saving_month > 0


def is_worth_being_better(rung: Rung, facts: Facts) -> bool:
    """Is the tuned model shown to be right more often than `rung`, which is good enough, and does that count: as the
    aim, or as what wrong answers cost?"""
    tuned, estimate = facts.evidence.trained, facts.estimate
    if tuned is None or not facts.evidence.is_good or not _is_better(tuned, rung, facts.evidence.ladder):
        return False
    return facts.task_kind == "quality" or bool(
        estimate and estimate.errors_avoided_usd > 0 and estimate.saving_month > 0
    )


def _nothing_measured(facts: Facts) -> Reason:
    step = Step(Measure("prompts", facts.dataset, models=facts.to_measure), usd=None)
    if facts.smallest_label is not None:
        step = Step(Measure("classical", facts.dataset, "classical"))
    return Reason("measure", "unknown", "nothing measured", step=step)


def _other_bar(ladder: Ladder, facts: Facts) -> Reason:
    models = tuple(dict.fromkeys(rung.arm.model for rung in ladder.rungs if rung.arm.model))
    again = Measure("again", facts.dataset, None if models else "classical", models[:MOST_NAMED])
    return Reason("bar", "unknown", OtherBar(ladder.bar, facts.evidence.bar), step=Step(again))


def _met(rung: Rung, facts: Facts) -> Reason:
    bar, is_for_speed = facts.evidence.bar, facts.task_kind == "latency"
    if is_worth_being_better(rung, facts):
        is_the_aim = facts.task_kind == "quality" or facts.estimate is None
        worth = None if is_the_aim or facts.estimate is None else facts.estimate.errors_avoided_usd
        return Reason("fewer errors", "go", MeetsBar(rung, bar, "is right more often", worth))
    match replaces(rung, facts):
        case True:
            return Reason("distil", "go", MeetsBar(rung, bar, "is faster" if is_for_speed else "is cheaper"))
        case False:
            return Reason(
                "cheaper rung", "no_go", MeetsBar(rung, bar, "is not needed"), step=Step(Use(rung.arm))
            )
        case None if is_for_speed:
            start = Step("measure speed by a run", facts.training_usd)
            return Reason("latency", "unknown", MeetsBar(rung, bar, "may be faster"), step=start)
        case None:
            say = answer_step(
                WritePrice(rung.arm.model) if rung.usd_per_1000 is None else "say model and volume"
            )
            return Reason("cheaper rung", "unknown", MeetsBar(rung, bar, "may be cheaper"), step=say)


def _missing(facts: Facts) -> tuple[Reason, ...]:
    """A fine-tune is never advised over a way that nobody tried."""
    have = {rung.arm.rung for rung in facts.evidence.alternatives}
    wanted = CLIMBED if facts.smallest_label is not None else CLIMBED[1:]
    missing = tuple(rung for rung in wanted if rung not in have)
    if not missing:
        return ()
    first, wanted_rung = missing[0], _cheapest_prompted(facts.evidence)
    models: tuple[str, ...] = () if first == "classical" else facts.to_measure
    if wanted_rung and wanted_rung.arm.model and first != "classical":
        models = (wanted_rung.arm.model,)
    price = _price(first, wanted_rung)
    measure = Measure("rung", facts.dataset, first, models, price)
    return (Reason("measure", "unknown", NotMeasured(missing), step=Step(measure, price)),)


def _todays(facts: Facts) -> tuple[Reason, ...]:
    """What is to be replaced is an alternative too."""
    if facts.is_today_measured or facts.current is None:
        return ()
    step = Step(Measure("today", facts.dataset, models=facts.to_measure, today=facts.current), usd=None)
    weighs = not facts.evidence.is_good
    return (Reason("today's model", "unknown", TodayNotMeasured(facts.current), weighs=weighs, step=step),)


def _cheapest_prompted(evidence: Evidence) -> Rung | None:
    return cheapest(
        [alternative for alternative in evidence.alternatives if alternative.arm.rung != "classical"]
    )


def _price(rung: RungName, wanted_rung: Rung | None) -> Decimal | None:
    """By the cheapest prompt that was measured, `wanted_rung`. Ten examples make a prompt at most "
    "eleven times as long."""
    if rung == "classical":
        return Decimal(0)
    if wanted_rung is None:
        return None
    is_longer = wanted_rung.arm.rung == "zero" and rung != "zero"
    return asking_usd(wanted_rung, SHOTS + 1 if is_longer else 1)


def _undecided(facts: Facts, enough: Rung | None) -> tuple[Reason, ...]:
    """Rungs that may yet meet the bar for less than `enough` costs. Nobody needs to know once the tuned model
    meets it and costs no more than they do."""
    evidence, tuned = facts.evidence, facts.evidence.trained
    undecided = tuple(
        rung
        for rung in evidence.alternatives
        if rung.standing == "undecided" and not (enough and is_cheaper(enough, rung))
    )
    if not undecided:
        return ()
    is_settled = bool(tuned and evidence.is_good and all(is_no_dearer(tuned, rung) for rung in undecided))
    close = TooClose(undecided, evidence.bar)
    return (Reason("undecided", "unknown", close, not is_settled, _hold_out(undecided)),)


def _hold_out(undecided: Sequence[Rung]) -> Step:
    """The fewest rows that would settle one of them."""
    needed = [(rung.rows_to_decide, rung) for rung in undecided if rung.rows_to_decide is not None]
    if not needed:
        most = max(rung.n for rung in undecided)
        return labelling_step(most, HoldOut(most, None))
    rows, rung = min(needed, key=lambda pair: pair[0])
    return labelling_step(rows, HoldOut(rows, rung.arm))


def _missed(evidence: Evidence) -> tuple[Reason, ...]:
    readable = as_evidence(evidence.alternatives, evidence.bar)
    if not readable or any(rung.standing != "misses" for rung in evidence.alternatives):
        return ()
    best = max(readable, key=lambda rung: rung.score)
    missed = WaysMiss(len(readable), len(evidence.alternatives), best, evidence.bar)
    return (Reason("alternatives", "go", missed),)


def _standing(tuned: Rung, evidence: Evidence) -> Reason:
    stands = TunedStands(tuned, evidence.bar)
    match tuned.standing:
        case "meets":
            return Reason("tuned", "go", stands)
        case "misses":
            return Reason("tuned", "no_go", stands, step=_after_a_miss(evidence))
        case "undecided":
            return Reason("tuned", "unknown", stands, step=_hold_out([tuned]))


def _after_a_miss(evidence: Evidence) -> Step:
    if evidence.curve and evidence.curve.needs:
        return Step(LabelFirst(tuple(need.label for need in evidence.curve.needs)))
    return Step("look at wrong rows")


def _beside_best(tuned: Rung, evidence: Evidence) -> tuple[Reason, ...]:
    """A no where the better one costs no more, nor keeps anybody waiting."""
    best = max(evidence.alternatives, key=lambda rung: rung.score, default=None)
    if best is None or best.n != tuned.n or _is_better(tuned, best, evidence.ladder):
        return ()
    if not _is_better(best, tuned, evidence.ladder):
        gap = evidence.ladder.detectable_gap if evidence.ladder else None
        unclear = BesideBest(tuned, best, "not shown to be better", gap)
        return (Reason("not better", "unknown", unclear, weighs=False),)
    if is_no_dearer(best, tuned) and best.p95_s < FASTER * tuned.p95_s:
        worse = BesideBest(tuned, best, "worse and costs as much")
        return (Reason("worse", "no_go", worse, step=Step(Use(best.arm, instead_of_worse=True))),)
    return (Reason("not better", "unknown", BesideBest(tuned, best, "worse"), weighs=False),)


def _is_better(rung: Rung, other: Rung, ladder: Ladder | None) -> bool:
    """Shown to be: by the paired test where it was made, else by intervals that don't overlap."""
    for pair in ladder.pairs if ladder else ():
        if {pair.better, pair.worse} == {rung.arm, other.arm}:
            return pair.is_told_apart and pair.better == rung.arm
    return rung.low > other.high


def _silent(evidence: Evidence) -> tuple[Reason, ...]:
    silent = [rung for rung in evidence.rungs if is_silent(rung) and rung.arm.rung != "tuned"]
    return tuple(Reason("no answer", "unknown", NoAnswer(rung), weighs=False) for rung in silent[:SHOWN])


def _unread(evidence: Evidence) -> tuple[Reason, ...]:
    """Rungs that would reach the bar if what could not be read were right."""
    hopeful = tuple(rung for rung in evidence.alternatives if might_meet(rung, evidence.bar))
    if not hopeful:
        return ()
    rungs = [rung for rung in evidence.alternatives if rung.arm.rung != "classical"]
    if len(hopeful) == len(rungs) and not evidence.is_good:
        clearer = Step("clearer prompt", usd=None)
        return (Reason("unread", "unknown", Unread(hopeful, is_settled=False), step=clearer),)
    return (Reason("unread", "unknown", Unread(hopeful, is_settled=True), weighs=False),)


def _never_answered(ladder: Ladder) -> tuple[Reason, ...]:
    if not ladder.never_answered:
        return ()
    return (Reason("never answered", "unknown", NeverAnswered(tuple(ladder.never_answered)), weighs=False),)
