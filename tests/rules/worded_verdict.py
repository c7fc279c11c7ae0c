"""A verdict with its sentences, as people read it."""

from __future__ import annotations

from dataclasses import dataclass

from bot.cards import advice
from bot.rules import advice as rules
from bot.rules.facts import Facts
from bot.rules.plans import VerdictKind
from bot.rules.reasons import Reason


@dataclass(frozen=True)
class WordedReason:
    rule: str
    kind: VerdictKind
    text: str
    weighs: bool


@dataclass(frozen=True)
class Worded:
    kind: VerdictKind
    rule: str
    headline: str
    reasons: tuple[WordedReason, ...]
    next_step: str
    withheld: str | None
    deciding: Reason


def advise(facts: Facts) -> Worded:
    verdict = rules.advise(facts)
    return Worded(
        verdict.kind,
        verdict.rule,
        advice.headline(verdict),
        tuple(
            WordedReason(reason.rule, reason.kind, advice.reason_text(verdict, reason), reason.weighs)
            for reason in verdict.reasons
        ),
        advice.next_step(verdict),
        advice.NO_SAVING if verdict.withholds_saving else None,
        verdict.deciding,
    )
