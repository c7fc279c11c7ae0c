"""The rules on what the model is for: the good reasons to fine-tune, and the bad ones."""

from __future__ import annotations

from bot.rules.candidates import as_evidence, might_meet, percent, score_text, seconds_text
from bot.rules.facts import (
    ENOUGH_ROWS,
    FASTER,
    STYLE_PROMPTED,
    Evidence,
    Facts,
    Reason,
    Step,
    baseline_command,
)
from trainers.evaluation.results import Rung


def about_task(facts: Facts) -> tuple[Reason, ...]:
    """The article's good and bad reasons. What was measured to be good is no longer a bad idea."""
    match facts.task_kind:
        case "knowledge":
            return (_about_knowledge(facts),)
        case "reasoning":
            return (_about_reasoning(facts),)
        case "style" | "format":
            return _about_style(facts)
        case "classification" | "quality" if facts.has_own_classes:
            return _about_own_classes(facts)
        case "latency":
            return _about_speed(facts.evidence)
        case "classification" | "extraction" | "quality" | "cost" | None:
            return ()  # a narrow task, to be distilled: said where a dearer model meets the bar


def _about_knowledge(facts: Facts) -> Reason:
    changing = "facts change, and each change would need another run"
    retrieval = [rung for rung in facts.evidence.alternatives if rung.arm.rung == "retrieval"]
    best = max(retrieval, key=lambda rung: rung.score, default=None)
    missed = best is not None and all(
        rung.standing == "misses" and not might_meet(rung, facts.evidence.bar) for rung in retrieval
    )
    if best and missed and facts.questions >= ENOUGH_ROWS and not facts.evidence.is_stale:
        text = f"Retrieval was tried and misses: {score_text(best)}. Training is defensible, but {changing}."
        return Reason("knowledge", "unknown", text, weighs=False)
    if facts.evidence.is_good:
        return Reason("knowledge", "unknown", f"Retrieval may serve better: {changing}.", weighs=False)
    what = "Upload the documents" if best is None else "Upload better or more documents"
    measure = baseline_command(facts.dataset, "retrieval")
    look_up = Step(f"{what} as knowledge and measure retrieval ({measure}).", usd=None)
    text = f"Facts are looked up, not trained: {changing}, and a tuned model makes up what it was not taught."
    return Reason("knowledge", "no_go", text, step=look_up)


def _about_reasoning(facts: Facts) -> Reason:
    if facts.evidence.is_good:
        text = "Fine-tuning seldom teaches reasoning; here it was measured to be good enough."
        return Reason("reasoning", "unknown", text, weighs=False)
    measure = baseline_command(facts.dataset)
    stronger = Step(f"Measure a stronger base model: {measure} with it as models=.", usd=None)
    text = "Fine-tuning does not teach a model to think better: a better base model does."
    return Reason("reasoning", "no_go", text, step=stronger)


def _about_style(facts: Facts) -> tuple[Reason, ...]:
    best = _best_prompted(facts.evidence)
    if best is None:
        return ()
    reached = f"Prompting gets the {facts.task_kind} right {percent(best.score)} of the time"
    least = percent(STYLE_PROMPTED)
    if best.score >= STYLE_PROMPTED:
        text = f"{reached}, which is {least} or more: training makes it steady, a good reason."
        return (Reason("style", "go", text),)
    return (Reason("style", "unknown", f"{reached}; from {least} on it is a good reason.", weighs=False),)


def _about_own_classes(facts: Facts) -> tuple[Reason, ...]:
    prompted = as_evidence(_prompted(facts.evidence), facts.evidence.bar)
    best = max(prompted, key=lambda rung: rung.score, default=None)
    if best is None or best.standing != "misses":
        return ()
    text = (
        f"These are your own categories: a prompt can only describe them ({percent(best.score)} at best), "
        f"rows teach them, a good reason."
    )
    return (Reason("own classes", "go", text),)


def _about_speed(evidence: Evidence) -> tuple[Reason, ...]:
    """95 of 100 answers are as fast as said, or faster."""
    prompted = [rung for rung in evidence.alternatives if rung.arm.rung != "classical"]
    slow = min(prompted, key=lambda rung: rung.p95_s, default=None)
    if slow is None:
        return ()
    classical = next((rung for rung in evidence.alternatives if rung.arm.rung == "classical"), None)
    said = f"The fastest prompted way answers within {seconds_text(slow.p95_s)} (p95)"
    if classical:
        said += f", the classical model within {seconds_text(classical.p95_s)}"
    tuned = evidence.trained
    if tuned is None:
        return (
            Reason("latency", "unknown", f"{said}; the tuned model's speed is not measured.", weighs=False),
        )
    text = f"{said}; the tuned model within {seconds_text(tuned.p95_s)}."
    if tuned.p95_s * FASTER <= slow.p95_s:
        return (Reason("latency", "go", text),)
    return (Reason("latency", "unknown", f"{text} That is not {FASTER} times as fast.", weighs=False),)


def _best_prompted(evidence: Evidence) -> Rung | None:
    return max(_prompted(evidence), key=lambda rung: rung.score, default=None)


def _prompted(evidence: Evidence) -> list[Rung]:
    return [rung for rung in evidence.alternatives if rung.arm.rung != "classical"]
