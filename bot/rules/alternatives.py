"""Which measured candidate a fine-tune is compared with, how candidates compare in cost, and which of them count as
evidence. Doesn't judge whether they are good enough."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from bot.rules.bills import MonthlyCost, Rates, Tokens, Traffic, bill
from bot.rules.models.promotion import compare_models
from trainers.evaluation.results import Comparison, MeasuredCandidate


def is_same_model(name: str, full_name: str) -> bool:
    """'gpt-4o' also means 'openai/gpt-4o'."""
    return name in (full_name, full_name.partition("/")[2])


def cheapest(candidates: Sequence[MeasuredCandidate]) -> MeasuredCandidate | None:
    """Returns the first of equally cheap ones. A candidate without a known price is returned only if none has one."""
    return min(
        candidates,
        key=lambda candidate: (candidate.usd_per_1000 is None, candidate.usd_per_1000 or 0),
        default=None,
    )


def is_cheaper(candidate: MeasuredCandidate, other: MeasuredCandidate) -> bool:
    """False if either price is unknown."""
    if candidate.usd_per_1000 is None or other.usd_per_1000 is None:
        return False
    return candidate.usd_per_1000 < other.usd_per_1000


def cost_to_repeat_usd(candidate: MeasuredCandidate, times: int = 1) -> Decimal | None:
    """Returns the USD to measure a candidate again on the same rows, with prompts `times` as long; None if unknown."""
    if candidate.usd_per_1000 is None:
        return None
    return candidate.usd_per_1000 * candidate.n * times / 1000


def costs_no_more(candidate: MeasuredCandidate, other: MeasuredCandidate) -> bool:
    """False if either price is unknown."""
    if candidate.usd_per_1000 is None or other.usd_per_1000 is None:
        return False
    return candidate.usd_per_1000 <= other.usd_per_1000


def might_meet(candidate: MeasuredCandidate, bar: float) -> bool:
    """True if the candidate misses the bar, but would reach it if all its unreadable answers were right."""
    if candidate.standing != "misses" or not candidate.unread:
        return False
    return candidate.score + candidate.unread / candidate.n >= bar


def is_mostly_unreadable(candidate: MeasuredCandidate) -> bool:
    """True if more than half of the answers could not be read or are empty: the model can't do the task at all, so its
    score says nothing about what a prompt can do."""
    return 2 * (candidate.unread + candidate.empty) > candidate.n


# Our own choice: fewer unreadable answers than this share can't change a decision.
MANY_UNREAD = 0.03


def with_many_unread(comparison: Comparison) -> list[MeasuredCandidate]:
    """Returns the candidates with so many unreadable or empty answers, which count as wrong, that it matters; the one
    with the most of them first."""
    many = []
    for candidate in comparison.candidates:
        if candidate.n and _unread(candidate) / candidate.n >= MANY_UNREAD:
            many.append(candidate)
    return sorted(many, key=lambda candidate: -_unread(candidate))


def _unread(candidate: MeasuredCandidate) -> int:
    return candidate.unread + candidate.empty


def exclude_misread(candidates: Iterable[MeasuredCandidate], bar: float) -> list[MeasuredCandidate]:
    """Returns the candidates whose score can be trusted. Where unreadable answers might have reached the bar, or are
    most of the answers, the prompt or the model is at fault, and more rows would not help."""
    return [
        candidate
        for candidate in candidates
        if not might_meet(candidate, bar) and not is_mostly_unreadable(candidate)
    ]


def is_shown_better(
    candidate: MeasuredCandidate, other: MeasuredCandidate, comparison: Comparison | None, look: int = 1
) -> bool:
    """Uses the paired test if the comparison has one for these two. Two others are compared row by row if they answered
    the same rows and were scored in the same way; if not, their intervals may not overlap.

    A tuned model has to pass the promotion's own comparison as well, at the level of the `look`-th tuned one on these
    rows: a verdict that is milder would recommend a model that must not be used."""
    are_alike = (candidate.scoring, candidate.n) == (other.scoring, other.n)
    is_passed = False
    if are_alike:
        is_passed = compare_models(
            "", candidate.scores, other.scores, look=look, read=candidate.read
        ).is_better
    pairs = comparison.pairs if comparison else ()
    for pair in pairs:
        if {pair.better, pair.worse} == {candidate.identity, other.identity}:
            is_won = pair.is_significant and pair.better == candidate.identity
            has_to_pass = candidate.kind == "tuned" and are_alike
            return is_won and (is_passed or not has_to_pass)
    if are_alike:
        return is_passed
    return candidate.low > other.high


def find_dominated(comparison: Comparison) -> tuple[MeasuredCandidate, ...]:
    """Returns the candidates that nobody would choose: another one is shown to be better, costs no more and is as
    fast."""

    def beats(other: MeasuredCandidate, candidate: MeasuredCandidate) -> bool:
        is_as_fast = other.p95_s <= candidate.p95_s
        if not is_as_fast or not costs_no_more(other, candidate):
            return False
        return is_shown_better(other, candidate, comparison)

    beaten = []
    for candidate in comparison.candidates:
        if any(beats(other, candidate) for other in comparison.candidates):
            beaten.append(candidate)
    return tuple(beaten)


@dataclass(frozen=True)
class MonthlyUse:
    """`requests` per month. Each has `own` prompt tokens of its own; the rest of the prompt is always the same."""

    requests: Fraction
    own: Fraction
    traffic: Traffic


@dataclass(frozen=True)
class CurrentModel:
    """The model in use today. `candidate` is its measurement with the prompt alone, None if there is none."""

    tokens: Tokens
    rates: Rates
    candidate: MeasuredCandidate | None = None


@dataclass(frozen=True)
class MeasuredCandidates:
    """The candidates that answered, judged by `bar`."""

    candidates: Sequence[MeasuredCandidate]
    bar: float

    @property
    def good(self) -> tuple[MeasuredCandidate, ...]:
        return tuple(candidate for candidate in self.candidates if candidate.standing == "meets")

    @property
    def cheapest(self) -> MeasuredCandidate | None:
        """The cheapest good candidate with a known price."""
        return cheapest([candidate for candidate in self.good if candidate.usd_per_1000 is not None])

    def prompted(self, current: str) -> MeasuredCandidate | None:
        """Returns the candidate of today's model with its prompt alone; 'gpt-4o' also matches 'openai/gpt-4o'."""
        for candidate in self.candidates:
            model = candidate.model
            if candidate.kind == "zero" and model and is_same_model(current, model):
                return candidate
        return None


@dataclass(frozen=True)
class UnmeasuredModel:
    """A model that has not been measured yet, and the monthly cost of today's requests with it. `measuring_usd` is the
    cost of asking it about the held-out rows once."""

    name: str
    monthly: MonthlyCost
    measuring_usd: Decimal | None = None


Why = Literal[
    "cheapest that meets the bar",
    "today's costs less",
    "nothing measured",
    "price unknown",
    "nothing meets the bar",
]


@dataclass(frozen=True)
class Alternative:
    """What a fine-tune's saving is compared with: today's model, or the cheapest measured candidate that meets the bar
    (`why` says which). `candidate` is its score on the held-out rows, None if it was not measured."""

    tokens: Tokens
    rates: Rates
    why: Why
    monthly_usd: Decimal
    measured: MeasuredCandidates
    candidate: MeasuredCandidate | None = None


def choose_alternative(
    today: CurrentModel, measured: MeasuredCandidates, rates: Rates | None, use: MonthlyUse
) -> Alternative:
    """`rates` are those of `measured.cheapest`. Today's model stays the alternative if it costs less and was not shown
    to miss the bar: compared with something dearer, the saving would not be real."""
    candidate = measured.cheapest
    todays_usd = _monthly_usd(today.tokens, today.rates, use)
    why: Why
    if candidate is not None and rates is not None:
        tokens = measured_tokens(candidate, use.own)
        usd = _monthly_usd(tokens, rates, use)
        todays_misses = today.candidate is not None and today.candidate.standing == "misses"
        if todays_misses or usd <= todays_usd:
            return Alternative(tokens, rates, "cheapest that meets the bar", usd, measured, candidate)
        why = "today's costs less"
    elif not measured.candidates:
        why = "nothing measured"
    elif measured.good:
        why = "price unknown"
    else:
        why = "nothing meets the bar"
    return Alternative(today.tokens, today.rates, why, todays_usd, measured, today.candidate)


def measured_tokens(candidate: MeasuredCandidate, own: Fraction) -> Tokens:
    """Returns the candidate's measured tokens. With retrieval no beginning is shared, since each request has other
    texts."""
    shared = 0
    if candidate.kind in ("zero", "optimised", "kshot"):
        shared = max(0, candidate.prompt_tokens - math.ceil(own * candidate.n))
    return Tokens(candidate.n, candidate.prompt_tokens, candidate.completion_tokens, shared)


def _monthly_usd(tokens: Tokens, rates: Rates, use: MonthlyUse) -> Decimal:
    return bill(tokens, rates, use.requests, use.traffic).total
