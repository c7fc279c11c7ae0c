"""What a fine-tune is compared with: the cheapest measured candidate that meets the bar, else today's model,
with the reason."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from bot.rules import candidates as words
from bot.rules.billing import Rates, Tokens, Traffic, bill
from trainers.evaluation.results import Rung
from trainers.money import usd


@dataclass(frozen=True)
class MonthlyUse:
    """`requests` a month. A request has `own` tokens of its own; the rest of a prompt is the same each time."""

    requests: Fraction
    own: Fraction
    asking: Traffic


@dataclass(frozen=True)
class Alternative:
    """`why` completes `sentence`. `rung` is how well it does on the held-out rows, None where nobody measured."""

    name: str
    tokens: Tokens
    rates: Rates
    why: str
    rung: Rung | None = None

    @property
    def sentence(self) -> str:
        return f"Held against {self.name}: {self.why}."

    def monthly(self, use: MonthlyUse) -> Decimal:
        return bill(self.tokens, self.rates, use.requests, use.asking).total


@dataclass(frozen=True)
class CurrentModel:
    """The model that is asked today. `rung` where its prompt alone was measured."""

    tokens: Tokens
    rates: Rates
    rung: Rung | None = None


@dataclass(frozen=True)
class MeasuredCandidates:
    """The `rungs` that can be told by `bar`; none where they were judged by `other_bar`."""

    rungs: Sequence[Rung]
    bar: float
    other_bar: float | None = None

    @property
    def good(self) -> tuple[Rung, ...]:
        return tuple(rung for rung in self.rungs if rung.standing == "meets" and self.other_bar is None)

    @property
    def cheapest(self) -> Rung | None:
        """Of the good ones with a price."""
        return words.cheapest([rung for rung in self.good if rung.usd_per_1000 is not None])

    def prompted(self, current: str) -> Rung | None:
        """How today's model does with its prompt alone; 'gpt-4o' is 'openai/gpt-4o' too."""
        named = (rung for rung in self.rungs if rung.arm.rung == "zero" and rung.arm.model is not None)
        return next((rung for rung in named if current in (rung.arm.model, _bare(str(rung.arm.model)))), None)


def choose(
    today: CurrentModel, measured: MeasuredCandidates, rates: Rates | None, use: MonthlyUse
) -> Alternative:
    """`rates` are those of the cheapest measured rung that meets the bar. Today's model stays where it costs
    less and nobody has measured that it misses the bar: a saving against something dearer would be none."""
    rung = measured.cheapest
    if rung is None or rates is None:
        return _todays(today, _why_today(measured))
    alternative = _measured(rung, rates, measured.bar, use)
    stored_alternative = _todays(
        today, f"it costs less than {alternative.name}, the cheapest measured that meets the bar"
    )
    misses = today.rung is not None and today.rung.standing == "misses"
    return (
        stored_alternative
        if not misses and stored_alternative.monthly(use) < alternative.monthly(use)
        else alternative
    )


def tokens_of(rung: Rung, own: Fraction) -> Tokens:
    """What is looked up differs in each request: of that no beginning is shared."""
    shared = 0
    if rung.arm.rung in ("zero", "kshot"):
        shared = max(0, rung.prompt_tokens - math.ceil(own * rung.n))
    return Tokens(rung.n, rung.prompt_tokens, rung.completion_tokens, shared)


def _measured(rung: Rung, rates: Rates, bar: float, use: MonthlyUse) -> Alternative:
    name, tokens = words.candidate_name(rung.arm), tokens_of(rung, use.own)
    a_month = bill(tokens, rates, use.requests, use.asking).total
    why = (
        f"{words.score_text(rung)}, the cheapest measured that meets the bar of {words.percent(bar)}, for "
        f"{usd(a_month)} a month"
    )
    return Alternative(name, tokens, rates, why, rung)


def _todays(today: CurrentModel, why: str) -> Alternative:
    name = f"today's model, {today.rates.model}"
    return Alternative(name, today.tokens, today.rates, why, today.rung)


def _why_today(measured: MeasuredCandidates) -> str:
    bar = words.percent(measured.bar)
    if measured.other_bar is not None:
        return f"the others were judged by a bar of {words.percent(measured.other_bar)}, not by {bar}"
    if not measured.rungs:
        return "nothing else has been measured, and a cheaper model or a better prompt may do as well"
    if measured.good:
        return "others meet the bar, but nobody told me what they cost"
    return f"nothing that was measured can be said to meet the bar of {bar}"


def _bare(model: str) -> str:
    """'openai/gpt-4o' without the one who sells it."""
    return model.partition("/")[2] or model
