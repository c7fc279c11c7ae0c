"""The rules on what the model is for: the good reasons to fine-tune, and the bad ones."""

from __future__ import annotations

from bot.rules.candidates import as_evidence, might_meet
from bot.rules.facts import ENOUGH_ROWS, FASTER, STYLE_PROMPTED, Evidence, Facts
from bot.rules.reasons import Measure, OwnClasses, Reason, RetrievalMissed, Speeds, Step, StyleReached
from trainers.evaluation.results import Rung


def about_task(facts: Facts) -> tuple[Reason, ...]:
    """The article's good and bad reasons. What was measured to be good is no longer a bad idea."""
    match facts.task_kind:
        case "knowledge":
            return (_about_knowledge(facts),)
        case "reasoning":
            return (_about_reasoning(facts),)
        case "style" | "format" as kind:
            best = _best(_prompted(facts.evidence))
            if best is None:
                return ()
            is_good = best.score >= STYLE_PROMPTED
            reached = StyleReached(kind, best.score)
            return (Reason("style", "go" if is_good else "unknown", reached, weighs=is_good),)
        case "classification" | "quality" if facts.has_own_classes:
            best = _best(as_evidence(_prompted(facts.evidence), facts.evidence.bar))
            if best is None or best.standing != "misses":
                return ()
            return (Reason("own classes", "go", OwnClasses(best.score)),)
        case "latency":
            return _about_speed(facts.evidence)
        case "classification" | "extraction" | "quality" | "cost" | None:
            return ()  # a narrow task, to be distilled: said where a dearer model meets the bar


def _about_knowledge(facts: Facts) -> Reason:
    retrieval = [rung for rung in facts.evidence.alternatives if rung.arm.rung == "retrieval"]
    best = _best(retrieval)
    missed = best is not None and all(
        rung.standing == "misses" and not might_meet(rung, facts.evidence.bar) for rung in retrieval
    )
    if best and missed and facts.questions >= ENOUGH_ROWS and not facts.evidence.is_stale:
        return Reason("knowledge", "unknown", RetrievalMissed(best), weighs=False)
    if facts.evidence.is_good:
        return Reason("knowledge", "unknown", "retrieval may serve better", weighs=False)
    look_up = Measure("knowledge", facts.dataset, "retrieval", has_knowledge=best is not None)
    return Reason("knowledge", "no_go", "facts are looked up", step=Step(look_up, usd=None))


def _about_reasoning(facts: Facts) -> Reason:
    if facts.evidence.is_good:
        return Reason("reasoning", "unknown", "reasoning was measured", weighs=False)
    stronger = Step(Measure("stronger base", facts.dataset), usd=None)
    return Reason("reasoning", "no_go", "reasoning is not taught", step=stronger)


def _about_speed(evidence: Evidence) -> tuple[Reason, ...]:
    slow = min(_prompted(evidence), key=lambda rung: rung.p95_s, default=None)
    if slow is None:
        return ()
    classical = next((rung.p95_s for rung in evidence.alternatives if rung.arm.rung == "classical"), None)
    tuned = evidence.trained.p95_s if evidence.trained else None
    is_faster = tuned is not None and tuned * FASTER <= slow.p95_s
    speeds = Speeds(slow.p95_s, classical, tuned)
    return (Reason("latency", "go" if is_faster else "unknown", speeds, weighs=is_faster),)


def _best(rungs: list[Rung]) -> Rung | None:
    return max(rungs, key=lambda rung: rung.score, default=None)


def _prompted(evidence: Evidence) -> list[Rung]:
    return [rung for rung in evidence.alternatives if rung.arm.rung != "classical"]
