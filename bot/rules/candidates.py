"""Measured candidates in words, what one costs beside another, and which of them count as evidence. Judges
none of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal

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
