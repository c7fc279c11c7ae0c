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
from bot.rules.promotion import compare_models
from trainers.evaluation.results import Ladder, Rung


def is_same_model(name: str, full_name: str) -> bool:
    """'gpt-4o' also means 'openai/gpt-4o'."""
    return name in (full_name, full_name.partition("/")[2])


def cheapest(rungs: Sequence[Rung]) -> Rung | None:
    """Returns the first of equally cheap ones. A rung without a known price is returned only if none has one."""
    return min(rungs, key=lambda rung: (rung.usd_per_1000 is None, rung.usd_per_1000 or 0), default=None)


def is_cheaper(rung: Rung, other: Rung) -> bool:
    """False if either price is unknown."""
    if rung.usd_per_1000 is None or other.usd_per_1000 is None:
        return False
    return rung.usd_per_1000 < other.usd_per_1000


def cost_to_repeat_usd(rung: Rung, times: int = 1) -> Decimal | None:
    """Returns the USD to measure a rung again on the same rows, with prompts `times` as long; None if unknown."""
    if rung.usd_per_1000 is None:
        return None
    return rung.usd_per_1000 * rung.n * times / 1000


def costs_no_more(rung: Rung, other: Rung) -> bool:
    """False if either price is unknown."""
    if rung.usd_per_1000 is None or other.usd_per_1000 is None:
        return False
    return rung.usd_per_1000 <= other.usd_per_1000


def might_meet(rung: Rung, bar: float) -> bool:
    """True if the rung misses the bar, but would reach it if all its unreadable answers were right."""
    if rung.standing != "misses" or not rung.unread:
        return False
    return rung.score + rung.unread / rung.n >= bar


def is_mostly_unreadable(rung: Rung) -> bool:
    """True if more than half of the answers could not be read or are empty: the model can't do the task at all, so its
    score says nothing about what a prompt can do."""
    return 2 * (rung.unread + rung.empty) > rung.n


def exclude_misread(rungs: Iterable[Rung], bar: float) -> list[Rung]:
    """Returns the rungs whose score can be trusted. Where unreadable answers might have reached the bar, or are most of
    the answers, the prompt or the model is at fault, and more rows would not help."""
    return [rung for rung in rungs if not might_meet(rung, bar) and not is_mostly_unreadable(rung)]


def is_shown_better(rung: Rung, other: Rung, ladder: Ladder | None, look: int = 1) -> bool:
    """Uses the paired test if the ladder has one for these two. Two others are compared row by row if they answered the
    same rows and were scored in the same way; if not, their intervals may not overlap.

    A tuned model has to pass the promotion's own comparison as well, at the level of the `look`-th tuned one on these
    rows: a verdict that is milder would recommend a model that must not be used."""
    are_alike = (rung.scoring, rung.n) == (other.scoring, other.n)
    is_passed = False
    if are_alike:
        is_passed = compare_models("", rung.scores, other.scores, look=look, read=rung.read).is_better
    pairs = ladder.pairs if ladder else ()
    for pair in pairs:
        if {pair.better, pair.worse} == {rung.arm, other.arm}:
            is_won = pair.is_significant and pair.better == rung.arm
            has_to_pass = rung.arm.rung == "tuned" and are_alike
            return is_won and (is_passed or not has_to_pass)
    if are_alike:
        return is_passed
    return rung.low > other.high


def find_dominated(ladder: Ladder) -> tuple[Rung, ...]:
    """Returns the rungs that nobody would choose: another one is shown to be better, costs no more and is as fast."""

    def beats(other: Rung, rung: Rung) -> bool:
        is_as_fast = other.p95_s <= rung.p95_s
        return is_as_fast and costs_no_more(other, rung) and is_shown_better(other, rung, ladder)

    return tuple(rung for rung in ladder.rungs if any(beats(other, rung) for other in ladder.rungs))


@dataclass(frozen=True)
class MonthlyUse:
    """`requests` per month. Each has `own` prompt tokens of its own; the rest of the prompt is always the same."""

    requests: Fraction
    own: Fraction
    traffic: Traffic


@dataclass(frozen=True)
class CurrentModel:
    """The model in use today. `rung` is its measurement with the prompt alone, None if there is none."""

    tokens: Tokens
    rates: Rates
    rung: Rung | None = None


@dataclass(frozen=True)
class MeasuredCandidates:
    """The candidates that answered, judged by `bar`."""

    rungs: Sequence[Rung]
    bar: float

    @property
    def good(self) -> tuple[Rung, ...]:
        return tuple(rung for rung in self.rungs if rung.standing == "meets")

    @property
    def cheapest(self) -> Rung | None:
        """The cheapest good rung with a known price."""
        return cheapest([rung for rung in self.good if rung.usd_per_1000 is not None])

    def prompted(self, current: str) -> Rung | None:
        """Returns the rung of today's model with its prompt alone; 'gpt-4o' also matches 'openai/gpt-4o'."""
        for rung in self.rungs:
            model = rung.arm.model
            if rung.arm.rung == "zero" and model and is_same_model(current, model):
                return rung
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
    (`why` says which). `rung` is its score on the held-out rows, None if it was not measured."""

    tokens: Tokens
    rates: Rates
    why: Why
    monthly_usd: Decimal
    measured: MeasuredCandidates
    rung: Rung | None = None


def choose_alternative(
    today: CurrentModel, measured: MeasuredCandidates, rates: Rates | None, use: MonthlyUse
) -> Alternative:
    """`rates` are those of `measured.cheapest`. Today's model stays the alternative if it costs less and was not shown
    to miss the bar: compared with something dearer, the saving would not be real."""
    rung = measured.cheapest
    todays_usd = _monthly_usd(today.tokens, today.rates, use)
    why: Why
    if rung is not None and rates is not None:
        tokens = measured_tokens(rung, use.own)
        usd = _monthly_usd(tokens, rates, use)
        todays_misses = today.rung is not None and today.rung.standing == "misses"
        if todays_misses or usd <= todays_usd:
            return Alternative(tokens, rates, "cheapest that meets the bar", usd, measured, rung)
        why = "today's costs less"
    elif not measured.rungs:
        why = "nothing measured"
    elif measured.good:
        why = "price unknown"
    else:
        why = "nothing meets the bar"
    return Alternative(today.tokens, today.rates, why, todays_usd, measured, today.rung)


def measured_tokens(rung: Rung, own: Fraction) -> Tokens:
    """Returns the rung's measured tokens. With retrieval no beginning is shared, since each request has other texts."""
    shared = 0
    if rung.arm.rung in ("zero", "optimised", "kshot"):
        shared = max(0, rung.prompt_tokens - math.ceil(own * rung.n))
    return Tokens(rung.n, rung.prompt_tokens, rung.completion_tokens, shared)


def _monthly_usd(tokens: Tokens, rates: Rates, use: MonthlyUse) -> Decimal:
    return bill(tokens, rates, use.requests, use.traffic).total
