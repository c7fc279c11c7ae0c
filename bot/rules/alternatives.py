"""Which measured candidate a fine-tune is held against, what one costs beside another, and which of them count as
evidence. Judges none of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from bot.rules.bills import MonthlyCost, Rates, Tokens, Traffic, bill
from trainers.evaluation.results import Ladder, Rung


def cheapest(rungs: Sequence[Rung]) -> Rung | None:
    """Returns the first of equal ones; one without a price is the last choice."""
    return min(rungs, key=lambda rung: (rung.usd_per_1000 is None, rung.usd_per_1000 or 0), default=None)


def is_cheaper(rung: Rung, other: Rung) -> bool:
    """False as well where a price is not known."""
    price, other_price = rung.usd_per_1000, other.usd_per_1000
    return price is not None and other_price is not None and price < other_price


def cost_to_repeat_usd(rung: Rung, times: int = 1) -> Decimal | None:
    """USD to ask a rung once more on its rows, with prompts `times` as long."""
    return None if rung.usd_per_1000 is None else rung.usd_per_1000 * rung.n * times / 1000


def is_no_dearer(rung: Rung, other: Rung) -> bool:
    """False as well where a price is not known."""
    price, other_price = rung.usd_per_1000, other.usd_per_1000
    return price is not None and other_price is not None and price <= other_price


def might_meet(rung: Rung, bar: float) -> bool:
    """Whether it misses, and would not if the answers that could not be read were right."""
    return bool(rung.standing == "misses" and rung.unread and rung.score + rung.unread / rung.n >= bar)


def exclude_misread(rungs: Iterable[Rung], bar: float) -> list[Rung]:
    """Returns those whose score says how good they are: an answer that could not be read shows a bad prompt or model,
    and not that rows are needed."""
    return [rung for rung in rungs if not might_meet(rung, bar)]


def is_shown_better(rung: Rung, other: Rung, ladder: Ladder | None) -> bool:
    """By the paired test where it was made, else by intervals that don't overlap."""
    for pair in ladder.pairs if ladder else ():
        if {pair.better, pair.worse} == {rung.arm, other.arm}:
            return pair.is_told_apart and pair.better == rung.arm
    return rung.low > other.high


def find_dominated(ladder: Ladder) -> tuple[Rung, ...]:
    """Returns those that another is shown to beat, at no more cost and no slower: nobody would choose them."""

    def beats(other: Rung, rung: Rung) -> bool:
        is_as_fast = other.p95_s <= rung.p95_s
        return is_as_fast and is_no_dearer(other, rung) and is_shown_better(other, rung, ladder)

    return tuple(rung for rung in ladder.rungs if any(beats(other, rung) for other in ladder.rungs))


@dataclass(frozen=True)
class MonthlyUse:
    """`requests` a month. A request has `own` tokens of its own; the rest of a prompt is the same each time."""

    requests: Fraction
    own: Fraction
    asking: Traffic


@dataclass(frozen=True)
class CurrentModel:
    """The model that is asked today. `rung` where its prompt alone was measured."""

    tokens: Tokens
    rates: Rates
    rung: Rung | None = None


@dataclass(frozen=True)
class MeasuredCandidates:
    """What was measured. `other_bar`: the rungs were judged by that one, so none of them is known to be good by
    `bar`."""

    rungs: Sequence[Rung]
    bar: float
    other_bar: float | None = None

    @property
    def good(self) -> tuple[Rung, ...]:
        return tuple(rung for rung in self.rungs if rung.standing == "meets" and self.other_bar is None)

    @property
    def cheapest(self) -> Rung | None:
        """The cheapest of the good ones with a price."""
        return cheapest([rung for rung in self.good if rung.usd_per_1000 is not None])

    def prompted(self, current: str) -> Rung | None:
        """How today's model does with its prompt alone; 'gpt-4o' is 'openai/gpt-4o' too."""
        for rung in self.rungs:
            model = rung.arm.model
            if rung.arm.rung == "zero" and model and current in (model, model.partition("/")[2] or model):
                return rung
        return None


@dataclass(frozen=True)
class UnmeasuredModel:
    """A model that nobody has measured yet, and what today's requests would cost with it."""

    name: str
    monthly: MonthlyCost


Why = Literal[
    "cheapest that meets the bar",
    "today's costs less",
    "judged by another bar",
    "nothing measured",
    "price unknown",
    "nothing meets the bar",
]


@dataclass(frozen=True)
class Alternative:
    """Today's model, but where it is the "cheapest that meets the bar" of those `measured`. `rung` is how well it does
    on the held-out rows, None where nobody measured."""

    tokens: Tokens
    rates: Rates
    why: Why
    monthly_usd: Decimal
    measured: MeasuredCandidates
    rung: Rung | None = None


def choose_alternative(
    today: CurrentModel, measured: MeasuredCandidates, rates: Rates | None, use: MonthlyUse
) -> Alternative:
    """`rates` are those of the cheapest measured rung that meets the bar. Today's model stays where it costs
    less and nobody has measured that it misses the bar: a saving against something dearer would be none."""
    rung, todays_usd = measured.cheapest, _monthly_usd(today.tokens, today.rates, use)
    why: Why = "price unknown" if measured.good else "nothing meets the bar"
    if measured.other_bar is not None:
        why = "judged by another bar"
    elif not measured.rungs:
        why = "nothing measured"
    if rung is not None and rates is not None:
        tokens = measured_tokens(rung, use.own)
        usd = _monthly_usd(tokens, rates, use)
        misses = today.rung is not None and today.rung.standing == "misses"
        if misses or usd <= todays_usd:
            return Alternative(tokens, rates, "cheapest that meets the bar", usd, measured, rung)
        why = "today's costs less"
    return Alternative(today.tokens, today.rates, why, todays_usd, measured, today.rung)


def measured_tokens(rung: Rung, own: Fraction) -> Tokens:
    """Its measured tokens. What retrieval looks up differs in each request: of that no beginning is shared."""
    shared = 0
    if rung.arm.rung in ("zero", "optimised", "kshot"):
        shared = max(0, rung.prompt_tokens - math.ceil(own * rung.n))
    return Tokens(rung.n, rung.prompt_tokens, rung.completion_tokens, shared)


def _monthly_usd(tokens: Tokens, rates: Rates, use: MonthlyUse) -> Decimal:
    return bill(tokens, rates, use.requests, use.asking).total
