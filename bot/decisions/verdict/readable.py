"""Which answers are evidence: one that could not be read shows a bad prompt or model, not that rows are needed."""

from __future__ import annotations

from collections.abc import Iterable

from trainers.measuring.values import Rung


def might_meet(rung: Rung, bar: float) -> bool:
    """It misses, and would not if the answers that could not be read were right."""
    return bool(rung.standing == "misses" and rung.unread and rung.score + rung.unread / rung.n >= bar)


def as_evidence(rungs: Iterable[Rung], bar: float) -> list[Rung]:
    """Those whose score says how good they are."""
    return [rung for rung in rungs if not might_meet(rung, bar)]
