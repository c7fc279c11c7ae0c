"""A measured candidate as people read it: name, quality, price, speed. Plain text, to be escaped by the card
that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from bot.cards.words import percent, shorten
from bot.rules.alternatives import SHORT_NAMES
from trainers.evaluation.results import Candidate, Rung, RungName, Scoring, Standing
from trainers.money import usd

# For the form, where a person chooses.
EXPLAINED: Mapping[RungName, str] = {
    "classical": "Classical: word counts and a linear rule, free",
    "zero": "Prompt alone: the instructions and the labels",
    "kshot": "Ten examples: of your rows, in the prompt",
    "retrieval": "Retrieval: the nearest rows, or your documents",
    "tuned": "Tuned",
}
# Of a model's name in a table: with it and the other columns a line has 72 letters.
NARROW = 17
LEAST_PRICE = Decimal("0.01")
STANDINGS: Mapping[Standing, str] = {"meets": "meets", "misses": "misses", "undecided": "can't tell"}
MEASURED: Mapping[Scoring, str] = {"label": "Right", "json": "Fields", "f1": "F1", "judge": "Judged"}


# After a share, in a sentence.
MEANS: Mapping[Scoring, str] = {
    "label": "right",
    "json": "of the JSON fields right",
    "f1": "F1, the words shared with the expected answer",
    "judge": "acceptable to the judging model",
}


def arm_name(arm: Candidate, longest: int = 60) -> str:
    """'classical', 'prompt alone, local/smollm2-135m'."""
    return f"{SHORT_NAMES[arm.rung]}, {shorten(arm.model, longest)}" if arm.model else SHORT_NAMES[arm.rung]


def row_name(arm: Candidate) -> str:
    """For a narrow column: without who sells the model, whose end tells it apart."""
    if arm.model is None:
        return SHORT_NAMES[arm.rung]
    return f"{SHORT_NAMES[arm.rung]}, {shorten(arm.model.partition('/')[2] or arm.model, NARROW)}"


def quality(rung: Rung) -> str:
    """The share and its interval."""
    return f"{percent(rung.score)} ({interval(rung)})"


def interval(rung: Rung) -> str:
    return f"{100 * rung.low:.0f}–{100 * rung.high:.0f}%"


def price(amount: Decimal | None) -> str:
    """Of 1,000 requests, as a cell."""
    if amount is None:
        return "unknown"
    if not amount:
        return "free"
    return "<$0.01" if amount < LEAST_PRICE else usd(amount)


def price_in_sentence(amount: Decimal | None) -> str:
    """The same in a sentence."""
    if amount is None:
        return "at a price that nobody told me"
    return "free" if not amount else f"{usd(amount)} per 1,000 requests"


def seconds(rung: Rung) -> str:
    """p50 and p95 of an answer."""
    return f"{_seconds(rung.p50_s)} / {_seconds(rung.p95_s)} s"


def slowest(rung: Rung) -> str:
    """p95 of an answer, for a narrow column."""
    return f"{_seconds(rung.p95_s)} s"


def bar_share(bar: float) -> str:
    """85%, 92.5%."""
    return f"{round(100 * bar, 2):g}%"


def _seconds(count: float) -> str:
    if count < 0.1:
        return "<0.1"
    return f"{count:.1f}" if count < 10 else f"{count:,.0f}"
