"""The rules on the task and the data. Does the task suit a fine-tune, and which numbers does it put first? Are there
enough rows, rows per label and held-out rows, how many labels look wrong, and would more rows help? Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from bot.rules.alternatives import exclude_misread, might_meet
from bot.rules.facts import (
    ENOUGH_ROWS,
    FASTER,
    FEW_PER_LABEL,
    NOT_YET_ROWS,
    SMALL_HOLDOUT,
    STYLE_PROMPTED,
    Evidence,
    Facts,
    TaskKind,
)
from bot.rules.reasons import (
    BarUnprovable,
    HoldOutAtLeast,
    HoldoutSmall,
    HoldoutTooSmall,
    LabelMore,
    LabelRows,
    Measure,
    MoreRows,
    OwnClasses,
    RareLabels,
    Reason,
    RetrievalMissed,
    RowCount,
    Speeds,
    Step,
    StyleReached,
    WrongLabels,
    answer_step,
    labelling_step,
)
from trainers.evaluation.claims import claim_level
from trainers.evaluation.results import Curve, MeasuredCandidate, find_best

Aim = Literal["quality", "style", "latency"]


@dataclass(frozen=True)
class AimNumbers:
    """`now` is today's model if it was measured (`is_today`), else the best alternative for the aim. `tuned` is the
    tuned model. Both are None if nobody measured them, for a style also if no judge did: the share of right labels or
    equal words says nothing about it."""

    aim: Aim
    now: MeasuredCandidate | None = None
    is_today: bool = False
    tuned: MeasuredCandidate | None = None


def task_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Some tasks are good and some are bad reasons to fine-tune. A tuned model that was measured to be good overrules
    the bad ones."""
    match facts.task_kind:
        case "knowledge":
            return (_knowledge_reason(facts),)
        case "reasoning":
            if facts.evidence.is_good:
                return (Reason("reasoning", "unknown", "reasoning was measured", weighs=False),)
            stronger = Step(Measure("stronger base", facts.dataset), usd=None)
            return (Reason("reasoning", "no_go", "reasoning is not taught", step=stronger),)
        case "style" | "format" as kind:
            best = find_best(_prompted_candidates(facts.evidence))
            if best is None:
                return ()
            reached = StyleReached(kind, best.score, STYLE_PROMPTED)
            if reached.is_enough:
                return (Reason("style", "go", reached),)
            return (Reason("style", "unknown", reached, weighs=False),)
        case "classification" | "quality" if facts.has_own_classes:
            readable = exclude_misread(_prompted_candidates(facts.evidence), facts.evidence.bar)
            best = find_best(readable)
            if best is None or best.standing != "misses":
                return ()
            return (Reason("own classes", "go", OwnClasses(best.score)),)
        case "latency":
            return _speed_reasons(facts.evidence)
        case "classification" | "extraction" | "quality" | "cost" | None:
            return ()  # quality.py covers these, if a dearer model meets the bar and could be distilled


def _knowledge_reason(facts: Facts) -> Reason:
    bar = facts.evidence.bar
    retrieval = [candidate for candidate in facts.evidence.alternatives if candidate.kind == "retrieval"]
    best = find_best(retrieval)
    has_missed = best is not None
    for candidate in retrieval:
        # One that might still meet it leaves the question open.
        if candidate.standing != "misses" or might_meet(candidate, bar):
            has_missed = False
    if best and has_missed and facts.questions >= ENOUGH_ROWS:
        return Reason("knowledge", "unknown", RetrievalMissed(best), weighs=False)
    if facts.evidence.is_good:
        return Reason("knowledge", "unknown", "retrieval may serve better", weighs=False)
    look_up = Measure("knowledge", facts.dataset, ("retrieval",), has_knowledge=best is not None)
    return Reason("knowledge", "no_go", "facts are looked up", step=Step(look_up, usd=None))


def _speed_reasons(evidence: Evidence) -> tuple[Reason, ...]:
    prompted = _prompted_candidates(evidence)
    fastest = min(prompted, key=lambda candidate: candidate.p95_s, default=None)
    if fastest is None:
        return ()
    free = find_best(candidate for candidate in evidence.alternatives if candidate.is_free)
    tuned = None
    if evidence.trained is not None:
        tuned = evidence.trained.p95_s
    is_faster = tuned is not None and tuned * FASTER <= fastest.p95_s
    speeds = Speeds(fastest.p95_s, free, tuned)
    if not is_faster:
        return (Reason("latency", "unknown", speeds, weighs=False),)
    return (Reason("latency", "go", speeds),)


def _prompted_candidates(evidence: Evidence) -> list[MeasuredCandidate]:
    return [candidate for candidate in evidence.alternatives if not candidate.is_free]


# Northcutt, Athalye and Mueller, "Pervasive Label Errors in Test Sets", 2021: with 5% (CIFAR-10) or 6% (ImageNet) more
# wrong labels in the test set, the worse of two models comes out ahead.
MISLEADING = 0.05
ROWS_TO_CHECK = 20  # a usual batch of doubted labels


def row_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Are there enough different questions? Copies of a row don't count."""
    if facts.questions >= ENOUGH_ROWS:
        enough = RowCount(facts.rows, facts.questions, "enough", rare_labels=len(facts.lacking))
        return (Reason("rows", "go", enough),)
    if facts.evidence.is_good:
        few = RowCount(facts.rows, facts.questions, "few, and it is good")
        return (Reason("rows", "unknown", few, weighs=False),)
    if facts.questions < NOT_YET_ROWS:
        is_style = facts.task_kind in ("style", "format")
        too_few = RowCount(facts.rows, facts.questions, "too few", is_style=is_style)
        collect = labelling_step(NOT_YET_ROWS - facts.questions, "collect rows")
        return (Reason("rows", "no_go", too_few, step=collect),)
    few_of_a_label = facts.has_own_classes and facts.has_few_of_a_label
    # Fewer rows are enough for a style that prompting nearly reaches and for classes of the team's own that it misses.
    good_reasons = [reason for reason in task_reasons(facts) if reason.kind == "go"]
    has_good_reason = any(reason.rule in ("style", "own classes") for reason in good_reasons)
    if has_good_reason and not few_of_a_label:
        rare = len(facts.lacking)
        enough = RowCount(facts.rows, facts.questions, "enough for the task", rare_labels=rare)
        return (Reason("rows", "go", enough),)
    try_it = RowCount(facts.rows, facts.questions, "worth a try", few_of_a_label=few_of_a_label)
    if facts.task_kind is None:
        step = answer_step("say the task")
    elif few_of_a_label:
        step = _label_more_step(facts)
    else:
        lacking = ENOUGH_ROWS - facts.questions
        step = labelling_step(lacking, LabelRows(lacking))
    return (Reason("rows", "unknown", try_it, step=step),)


def label_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Points out labels with few rows. This doesn't weigh: they won't be learnt, but all others will."""
    if not facts.has_few_of_a_label and not facts.lacking:
        return ()
    rare = RareLabels(len(facts.lacking) or None, facts.smallest_label)
    return (Reason("labels", "unknown", rare, weighs=False, step=_label_more_step(facts)),)


def _label_more_step(facts: Facts) -> Step:
    if facts.lacking:
        missing = sum(lacks for _, lacks in facts.lacking)
        return labelling_step(missing, LabelMore(facts.lacking))
    lacking = max(FEW_PER_LABEL - (facts.smallest_label or 0), 1)
    return labelling_step(lacking, LabelMore((), lacking))


def holdout_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Is the holdout large enough to show that a model meets the bar? This weighs only until something was measured:
    then the scores' intervals show it."""
    n = facts.n_holdout
    evidence = facts.evidence
    bar = evidence.bar
    needed = min_holdout_rows(bar)
    if needed is None:
        lower = answer_step("lower the bar")
        return (Reason("bar", "unknown", BarUnprovable(bar), not evidence.is_good, lower),)
    if n < needed:
        more = labelling_step(needed - n, HoldOutAtLeast(needed - n))
        is_measured = bool(evidence.candidates or evidence.trained)
        too_small = HoldoutTooSmall(n, needed, bar)
        return (Reason("holdout", "unknown", too_small, weighs=not is_measured, step=more),)
    if n < SMALL_HOLDOUT:
        return (Reason("holdout", "unknown", HoldoutSmall(n), weighs=False),)
    return ()


def min_holdout_rows(bar: float) -> int | None:
    """Returns the fewest rows that show `bar` to be met in the first look if all answers are right: the n from which
    bar^n, the probability that they are all right by chance, is at most the look's level. None if no number does."""
    if bar >= 1:
        return None
    if bar <= 0:
        return 0
    rows = math.log(claim_level(1)) / math.log(bar)
    return math.ceil(rows)


def more_rows_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Would labelling more rows alone reach the bar, according to the learning curve?"""
    evidence = facts.evidence
    curve = evidence.curve
    if curve is None or evidence.is_good:
        return ()
    larger = [size for size in curve.predicted if size.rows > facts.rows]
    enough = (size for size in larger if size.score >= evidence.bar)
    reached = next(enough, None)
    points = None
    if is_settled(curve):
        points = curve.points_per_100
    more = MoreRows(curve.candidate.kind, points, reached)
    step = None
    if reached is not None:
        rows = reached.rows - facts.rows
        step = labelling_step(rows, LabelRows(rows, is_another_way=True))
    return (Reason("more rows", "unknown", more, weighs=False, step=step),)


HARDLY_PER_100 = 0.1  # points per 100 rows that count as no gain, if no size was asked about


def hardly_help(curve: Curve) -> bool:
    """True if more rows like these would gain next to nothing."""
    if curve.farthest is None:
        return curve.points_per_100 < HARDLY_PER_100
    return curve.farthest.is_negligible


def is_settled(curve: Curve) -> bool:
    """True unless the gain of the largest size that was asked about may be none."""
    return curve.farthest is None or curve.farthest.is_certain


def more_rows_help(curve: Curve, ahead: MeasuredCandidate | None = None) -> bool:
    """True if it is clear that more rows gain something, and no free candidate (`ahead`) is as good without them."""
    if not is_settled(curve) or hardly_help(curve):
        return False
    return not is_overtaken(curve, ahead)


def best_free_ahead(curve: Curve, free: Sequence[MeasuredCandidate]) -> MeasuredCandidate | None:
    """Returns the best free candidate other than the curve's own, None if it gets no more right today."""
    best = find_best(candidate for candidate in free if candidate.identity != curve.candidate)
    if best is None or not curve.points:
        return None
    today = curve.points[-1]
    if best.score <= today.score:
        return None
    return best


def is_overtaken(curve: Curve, ahead: MeasuredCandidate | None) -> bool:
    """True if a free candidate gets more right today than the curve's would with the most rows asked about."""
    farthest = max(curve.predicted, key=lambda prediction: prediction.rows, default=None)
    if ahead is None or farthest is None:
        return False
    return ahead.score >= farthest.score


def dollars_per_point(curve: Curve, label_usd: Decimal) -> Decimal | None:
    """Returns the cost of a point in labels over the next 100 rows, to two digits; None if it is not clear that rows
    gain anything."""
    if curve.points_per_100 <= 0 or not is_settled(curve):
        return None
    points_per_100 = Decimal(str(curve.points_per_100))
    usd = 100 * label_usd / points_per_100
    return Decimal(f"{usd:.1e}")


def wrong_label_reasons(facts: Facts) -> tuple[Reason, ...]:
    """Says no if so many labels are shown to be wrong that even a perfect model would miss the bar. What only a
    classifier suspects leaves the verdict open until people have checked some of it. If the tuned model was measured to
    meet the bar, most labels must be right."""
    share = facts.wrong_share
    bar = facts.evidence.bar
    faults = facts.faults
    if share < MISLEADING:
        return ()

    def wrong(effect: Literal["none", "misleads", "hides the bar"]) -> WrongLabels:
        return WrongLabels(
            doubted=faults.doubted,
            contradicting=faults.contradicting,
            share=share,
            rows=facts.rows,
            bar=bar,
            effect=effect,
            checked=faults.checked,
            found=faults.found,
        )

    if facts.evidence.is_good:
        return (Reason("wrong labels", "unknown", wrong("none"), weighs=False),)
    correct = labelling_step(faults.wrong, "correct rows")
    if facts.shown_wrong_share > 1 - bar:
        return (Reason("wrong labels", "no_go", wrong("hides the bar"), step=correct),)
    if not faults.checked and facts.shown_wrong_share < MISLEADING:
        check = labelling_step(ROWS_TO_CHECK, "check labels")
        return (Reason("wrong labels", "unknown", wrong("misleads"), step=check),)
    return (Reason("wrong labels", "unknown", wrong("misleads"), step=correct),)


def aim_of(kind: TaskKind | None) -> Aim | None:
    """Returns None for an aim whose cards begin with money."""
    match kind:
        case "quality" | "style" | "latency":
            return kind
        case _:
            return None


def aim_numbers(facts: Facts) -> AimNumbers | None:
    return numbers_of(facts.evidence, facts.task_kind, (facts.current, facts.full_current))


def numbers_of(
    evidence: Evidence, kind: TaskKind | None, today: Sequence[str | None] = ()
) -> AimNumbers | None:
    """Returns the numbers that the aim `kind` puts first. `today` has the names of today's model."""
    aim = aim_of(kind)
    if aim is None:
        return None
    candidates = evidence.alternatives
    if aim != "quality":
        # A free model has no tone, and its answers take no time that anybody waits for.
        candidates = tuple(candidate for candidate in candidates if not candidate.is_free)
    tuned = evidence.trained
    if aim == "style":
        candidates = tuple(candidate for candidate in candidates if candidate.scoring == "judge")
        if tuned is not None and tuned.scoring != "judge":
            tuned = None
    prompted = [candidate for candidate in candidates if candidate.model is not None]
    todays = tuple(candidate for candidate in prompted if candidate.model in today)
    now = _best_for(aim, todays or candidates)
    return AimNumbers(aim, now, is_today=bool(todays), tuned=tuned)


def _best_for(aim: Aim, candidates: Sequence[MeasuredCandidate]) -> MeasuredCandidate | None:
    if aim == "latency":
        return min(candidates, key=lambda candidate: candidate.p95_s, default=None)
    return find_best(candidates)
