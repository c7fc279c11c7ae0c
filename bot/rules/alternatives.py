"""Measured candidates in words, what one costs beside another, and which of them count as evidence. Judges
none of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction

from bot.rules.bills import Rates, Tokens, Traffic, bill
from trainers.evaluation.results import Candidate, Rung, RungName
from trainers.money import usd

# In a sentence.
LONG_NAMES: Mapping[RungName, str] = {
    "classical": "the classical model",
    "zero": "the prompt alone",
    "kshot": "the prompt with ten examples",
    "retrieval": "retrieval",
    "tuned": "the tuned model",
}
# In a table or a plot.
SHORT_NAMES: Mapping[RungName, str] = {
    "classical": "classical",
    "zero": "prompt alone",
    "kshot": "ten examples",
    "retrieval": "retrieval",
    "tuned": "tuned",
}


def candidate_name(arm: Candidate) -> str:
    """'the prompt with ten examples on openai/gpt-4o-mini'."""
    return LONG_NAMES[arm.rung] if arm.model is None else f"{LONG_NAMES[arm.rung]} on {arm.model}"


def capitalize(text: str) -> str:
    """With a capital; a model's name inside stays as it is."""
    return text[:1].upper() + text[1:]


def percent(share: float) -> str:
    """85%, 85.5%."""
    return f"{100 * share:.1f}".removesuffix(".0") + "%"


def score_text(rung: Rung) -> str:
    """'91.2% right (90.1% to 92.1%) on 3,080 held-out rows'."""
    right = "right" if rung.scoring == "label" else "by score"
    between = f"{percent(rung.low)} to {percent(rung.high)}"
    return f"{percent(rung.score)} {right} ({between}) on {held_out_rows(rung.n)}"


def held_out_rows(rows: int) -> str:
    return "1 held-out row" if rows == 1 else f"{rows:,} held-out rows"


def price_text(rung: Rung) -> str:
    if rung.usd_per_1000 is None:
        return "at a price that is not known"
    if not rung.usd_per_1000:
        return "at no charge per request"
    return f"at {usd(rung.usd_per_1000)} per 1,000 requests"


def seconds_text(count: float) -> str:
    return f"{1000 * count:.0f} ms" if count < 1 else f"{count:.1f} s"


def cheapest(rungs: Sequence[Rung]) -> Rung | None:
    """Equal ones: the first to be climbed. One without a price is the last choice."""
    return min(rungs, key=lambda rung: (rung.usd_per_1000 is None, rung.usd_per_1000 or 0), default=None)


def is_cheaper(rung: Rung, other: Rung) -> bool:
    """False as well where a price is not known."""
    ours, theirs = rung.usd_per_1000, other.usd_per_1000
    return ours is not None and theirs is not None and ours < theirs


def asking_usd(rung: Rung, times: int = 1) -> Decimal | None:
    """USD to ask a rung once more on its rows, with prompts `times` as long."""
    return None if rung.usd_per_1000 is None else rung.usd_per_1000 * rung.n * times / 1000


def is_no_dearer(rung: Rung, other: Rung) -> bool:
    """False as well where a price is not known."""
    ours, theirs = rung.usd_per_1000, other.usd_per_1000
    return ours is not None and theirs is not None and ours <= theirs


def cost_text(price: Decimal | None) -> str:
    """What asking once would take: 'free', 'about $1.20', 'under 1 cent'."""
    if price is None:
        return "it says its price first"
    if not price:
        return "free"
    text = usd(price)
    return f"about {text}" if text.startswith("$") else text


# Which answers are evidence: one that could not be read shows a bad prompt or model, not that rows are
# needed.


def might_meet(rung: Rung, bar: float) -> bool:
    """It misses, and would not if the answers that could not be read were right."""
    return bool(rung.standing == "misses" and rung.unread and rung.score + rung.unread / rung.n >= bar)


def as_evidence(rungs: Iterable[Rung], bar: float) -> list[Rung]:
    """Those whose score says how good they are."""
    return [rung for rung in rungs if not might_meet(rung, bar)]


# What a fine-tune is compared with: the cheapest measured candidate that meets the bar, else today's
# model, with the reason.


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
        return cheapest([rung for rung in self.good if rung.usd_per_1000 is not None])

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
    todays_model = _todays(
        today, f"it costs less than {alternative.name}, the cheapest measured that meets the bar"
    )
    misses = today.rung is not None and today.rung.standing == "misses"
    return (
        todays_model if not misses and todays_model.monthly(use) < alternative.monthly(use) else alternative
    )


def tokens_of(rung: Rung, own: Fraction) -> Tokens:
    """What is looked up differs in each request: of that no beginning is shared."""
    shared = 0
    if rung.arm.rung in ("zero", "kshot"):
        shared = max(0, rung.prompt_tokens - math.ceil(own * rung.n))
    return Tokens(rung.n, rung.prompt_tokens, rung.completion_tokens, shared)


def _measured(rung: Rung, rates: Rates, bar: float, use: MonthlyUse) -> Alternative:
    name, tokens = candidate_name(rung.arm), tokens_of(rung, use.own)
    a_month = bill(tokens, rates, use.requests, use.asking).total
    why = (
        f"{score_text(rung)}, the cheapest measured that meets the bar of {percent(bar)}, for "
        f"{usd(a_month)} a month"
    )
    return Alternative(name, tokens, rates, why, rung)


def _todays(today: CurrentModel, why: str) -> Alternative:
    name = f"today's model, {today.rates.model}"
    return Alternative(name, today.tokens, today.rates, why, today.rung)


def _why_today(measured: MeasuredCandidates) -> str:
    bar = percent(measured.bar)
    if measured.other_bar is not None:
        return f"the others were judged by a bar of {percent(measured.other_bar)}, not by {bar}"
    if not measured.rungs:
        return "nothing else has been measured, and a cheaper model or a better prompt may do as well"
    if measured.good:
        return "others meet the bar, but nobody told me what they cost"
    return f"nothing that was measured can be said to meet the bar of {bar}"


def _bare(model: str) -> str:
    """'openai/gpt-4o' without the one who sells it."""
    return model.partition("/")[2] or model
