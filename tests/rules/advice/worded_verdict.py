"""A verdict with its sentences, as people read it, and a check that they read well."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bot.cards.common import advice
from bot.rules import advice as advice_rules
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
class WordedVerdict:
    kind: VerdictKind
    rule: str
    headline: str
    reasons: tuple[WordedReason, ...]
    next_step: str
    withheld: str | None
    deciding: Reason


def advise(facts: Facts) -> WordedVerdict:
    verdict = advice_rules.advise(facts)
    return WordedVerdict(
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


def assert_reads_well(verdict: WordedVerdict) -> None:
    assert verdict.reasons
    for text in (verdict.headline, verdict.next_step, *(reason.text for reason in verdict.reasons)):
        assert text.strip()
        assert text.endswith((".", "?")), text
        assert not re.search(r"\bNone\b|\bnan\b|\binf\b|  |\.\.", text), text


def reason(verdict: WordedVerdict, rule: str) -> WordedReason:
    return next(reason for reason in verdict.reasons if reason.rule == rule)


def rules(verdict: WordedVerdict) -> list[str]:
    return [reason.rule for reason in verdict.reasons]


def weighing_rules(verdict: WordedVerdict, kind: VerdictKind) -> list[str]:
    return [reason.rule for reason in verdict.reasons if reason.kind == kind and reason.weighs]
