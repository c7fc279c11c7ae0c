"""A measured candidate as people read it: name, quality, price, speed. Plain text, to be escaped by the card
that shows it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

from bot.cards.words import interval, percent, pluralize, share_text, shorten
from bot.rules.alternatives import Alternative
from bot.rules.facts import Looks
from trainers.evaluation.results import Candidate, Rung, RungName, Scoring, Standing
from trainers.money import usd

# In a sentence.
LONG_NAMES: Mapping[RungName, str] = {
    "classical": "the classical model",
    "encoder": "the encoder",
    "zero": "the prompt alone",
    "optimised": "the optimised prompt",
    "kshot": "the prompt with ten examples",
    "retrieval": "retrieval",
    "tuned": "the tuned model",
}
# In a table or a plot.
SHORT_NAMES: Mapping[RungName, str] = {
    "classical": "classical",
    "encoder": "encoder",
    "zero": "prompt alone",
    "optimised": "optimised",
    "kshot": "ten examples",
    "retrieval": "retrieval",
    "tuned": "tuned",
}
# For the form, where a person chooses.
EXPLAINED: Mapping[RungName, str] = {
    "classical": "Classical: word counts and a linear rule, free",
    "encoder": "Encoder: a small model's vectors and a linear rule, free",
    "zero": "Prompt alone: the instructions and the labels",
    "optimised": "Optimised prompt: looked for on your rows",
    "kshot": "Ten examples: of your rows, in the prompt",
    "retrieval": "Retrieval: the nearest rows, or your documents",
    "tuned": "Tuned",
}
# Of a model's name in a table: with it and the other columns a line has 72 letters.
NARROW = 17
LEAST_PRICE = Decimal("0.01")
STANDINGS: Mapping[Standing, str] = {"meets": "meets", "misses": "misses", "undecided": "can't tell"}
MEASURED: Mapping[Scoring, str] = {
    "label": "Right",
    "json": "Fields",
    "calls": "Calls",
    "f1": "F1",
    "judge": "Judged",
}
# After a share, where there is little room.
IN_SHORT: Mapping[Scoring, str] = {
    "label": "right",
    "json": "of fields right",
    "calls": "right calls",
    "f1": "F1",
    "judge": "acceptable",
}
# After a share, in a sentence.
MEANS: Mapping[Scoring, str] = {
    "label": "right",
    "json": "of the JSON fields right",
    "calls": "right calls, by name and arguments",
    "f1": "F1, the words shared with the expected answer",
    "judge": "acceptable to the judging model",
}


def short_name(arm: Candidate) -> str:
    """Without the model, in a table or a plot."""
    return pluralize(arm.shots, "example") if arm.shots else SHORT_NAMES[arm.rung]


def long_name(arm: Candidate) -> str:
    """Without the model, in a sentence."""
    return f"the prompt with {pluralize(arm.shots, 'example')}" if arm.shots else LONG_NAMES[arm.rung]


def arm_name(arm: Candidate, longest: int = 60) -> str:
    """'classical', 'prompt alone, local/smollm2-135m'."""
    return f"{short_name(arm)}, {shorten(arm.model, longest)}" if arm.model else short_name(arm)


def row_name(arm: Candidate) -> str:
    """For a narrow column: without who sells the model, whose end tells it apart."""
    if arm.model is None:
        return short_name(arm)
    return f"{short_name(arm)}, {shorten(arm.model.partition('/')[2] or arm.model, NARROW)}"


def quality(rung: Rung) -> str:
    """The share with its interval."""
    return f"{percent(rung.score)} ({interval(rung.low, rung.high)})"


def price(amount: Decimal | None) -> str:
    """The price of 1,000 requests, for a table's cell."""
    if amount is None:
        return "unknown"
    if not amount:
        return "free"
    return "<$0.01" if amount < LEAST_PRICE else usd(amount)


def price_in_sentence(amount: Decimal | None) -> str:
    """The price of 1,000 requests, for a sentence."""
    if amount is None:
        return "at an unknown price"
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


def candidate_name(arm: Candidate) -> str:
    """'the prompt with ten examples on openai/gpt-4o-mini'."""
    return long_name(arm) if arm.model is None else f"{long_name(arm)} on {arm.model}"


def score_text(rung: Rung) -> str:
    """'91.2% right', its interval, 'on 3,080 held-out rows'."""
    right = "right" if rung.scoring == "label" else "by score"
    between = interval(rung.low, rung.high)
    return f"{percent(rung.score)} {right} ({between}) on {pluralize(rung.n, 'held-out row')}"


def looks_text(looks: Looks) -> str:
    """'looked at 3 times', of held-out rows."""
    times = {0: "not looked at yet", 1: "looked at once", 2: "looked at twice"}
    return times.get(looks.count, f"looked at {looks.count:,} times")


def looks_in_list(looks: Looks | None) -> str:
    """What follows on a dataset's line in a list; nothing where nobody has looked."""
    if looks is None or not looks.count:
        return ""
    return f". Held-out rows {looks_text(looks)}{': upload fresh rows' if looks.are_spent else ''}"


def looks_sentence(looks: Looks) -> str:
    """With what to do once they are spent."""
    text = f"The {pluralize(looks.rows, 'held-out row')} were {looks_text(looks)}."
    return f"{text} {FRESH_ROWS}" if looks.are_spent else text


FRESH_ROWS = "After so many looks the best score is probably too high: upload a version with fresh rows."


def seconds_text(count: float) -> str:
    return f"{1000 * count:.0f} ms" if count < 1 else f"{count:.1f} s"


def cost_text(price: Decimal | None) -> str:
    """What asking once would take: 'free', 'about $1.20', 'under 1 cent'."""
    if price is None:
        return "it says its price first"
    if not price:
        return "free"
    text = usd(price)
    return f"about {text}" if text.startswith("$") else text


def alternative_name(alternative: Alternative) -> str:
    if alternative.why == "cheapest that meets the bar" and alternative.rung:
        return candidate_name(alternative.rung.arm)
    return f"today's model, {alternative.rates.model}"


def alternative_text(alternative: Alternative) -> str:
    return f"Compared with {alternative_name(alternative)}: {why_alternative(alternative)}."


def why_alternative(alternative: Alternative) -> str:
    """Why the saving is held against it, to stand after its name."""
    measured, rung = alternative.measured, alternative.rung
    bar = share_text(measured.bar)
    match alternative.why:
        case "cheapest that meets the bar":
            score = f"{score_text(rung)}, " if rung else ""
            cost = usd(alternative.monthly_usd)
            return f"{score}the cheapest measured that meets the bar of {bar}, for {cost} a month"
        case "today's costs less":
            name = candidate_name(measured.cheapest.arm) if measured.cheapest else "any"
            return f"it costs less than {name}, the cheapest measured that meets the bar"
        case "judged by another bar":
            return f"the others were judged by a bar of {share_text(measured.other_bar or 0)}, not by {bar}"
        case "nothing measured":
            return "nothing else has been measured, and a cheaper model or a better prompt may do as well"
        case "price unknown":
            return "others meet the bar, but their price is unknown"
        case "nothing meets the bar":
            return f"no measured option clearly reaches {bar}"
