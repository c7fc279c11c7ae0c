"""A run's actual figures beside its plan's estimates, and the typical error of our estimates over recent runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal

from bot.cards.common.blocks import CardBlock, Text, escape
from bot.cards.common.builder import Parts
from bot.cards.common.candidates import meaning
from bot.cards.common.payback import payback_condition, share_of_draws
from bot.cards.common.words import duration, money, multiple, percent, pluralize, ratio_text, shorten
from bot.rules.plans import Plan
from bot.rules.training.calibration import Actual, Quantity, RunningError
from bot.rules.units import format_months
from bot.values.runs import RunResult
from trainers.money import usd

MOST_CANDIDATES = 8
QUANTITIES: Mapping[Quantity, str] = {
    "tokens": "Tokens",
    "dollars": "Cost",
    "minutes": "Training time",
    "quality": "Quality",
}


def estimate_comparison(plan: Plan, result: RunResult, actuals: Sequence[Actual]) -> tuple[CardBlock, ...]:
    """The run's actual figures (`actuals`) beside the estimates."""
    lines = [f"• {QUANTITIES[actual.quantity]}: {_pair(actual)}" for actual in actuals]
    if not any(actual.quantity == "quality" for actual in actuals):
        lines.append(f"• Quality: {_quality(result, 'no estimate was made')}")
    return Text("\n".join(["*Estimate and actual*", *lines])), *_forecast(plan, result)


def alternative_bill(plan: Plan) -> list[tuple[str, str]]:
    """The bill of the alternative that the saving is compared with, unless that is today's model."""
    foreseen = plan.predicted
    if foreseen is None or foreseen.alternative is None or foreseen.alternative.startswith("today's model"):
        return []
    name = escape(shorten(foreseen.alternative, 60))
    bill = money(foreseen.alternative_micros)
    return [("Compared with", f"{name}: {bill} a month")]


def recent_errors(errors: Sequence[RunningError]) -> list[CardBlock]:
    """How good our estimates have been. Quantities with too few runs are left out, since those could be chance."""
    lines = []
    for error in errors:
        if error.typical_factor is None or error.is_early:
            continue
        typically = f"typically off by a factor of {multiple(error.typical_factor)}, either way"
        if error.typical_factor < Decimal("1.01"):
            typically = "typically within 1% of the estimate"
        lines.append(f"• {QUANTITIES[error.quantity]}: {typically} ({pluralize(error.runs, 'run')})")
    if not lines:
        return []
    return [Text("\n".join(["*Our estimates over the latest runs*", *lines]))]


def _pair(compared: Actual) -> str:
    actual = _amount(compared.quantity, compared.actual)
    estimated = _amount(compared.quantity, compared.estimated)
    if actual == estimated:
        return f"{actual}, as estimated"
    text = f"{actual}, estimated {estimated}"
    if compared.quantity == "quality":
        # A ratio of two shares says little: 90% is only 1.06 times 85%.
        off = 100 * abs(compared.actual - compared.estimated)
        return f"{text} ({off:.1f} points off)"
    if compared.ratio:
        return f"{text} ({ratio_text(compared.ratio)})"
    return text


def _amount(quantity: Quantity, amount: Decimal) -> str:
    match quantity:
        case "tokens":
            return f"{amount:,.0f}"
        case "dollars":
            if not amount:
                return "no charge"
            return usd(amount)
        case "minutes":
            return duration(float(amount) * 60)
        case "quality":
            return percent(float(amount))


def _quality(result: RunResult, but: str = "") -> str:
    """The tuned model's score. If alternatives were measured, it uses their measure, which for free text is not exact
    equality."""
    about = []
    if result.comparison:
        tuned = result.comparison.of_kind("tuned")[0]
        if tuned.scoring != "label":
            about.append(meaning(tuned))
    if but:
        about.append(but)
    quality = percent(result.quality)
    if not about:
        return quality
    return f"{quality} ({'; '.join(about)})"


def _forecast(plan: Plan, result: RunResult) -> list[CardBlock]:
    """What was expected when the plan was made."""
    foreseen = plan.predicted
    if foreseen is None:
        return []
    sentences = []
    if foreseen.p_payback is not None and foreseen.target_months is not None:
        within = format_months(Decimal(foreseen.target_months))
        rests_on = payback_condition(is_good=False, is_time_said=foreseen.is_time_said)
        likely = share_of_draws(foreseen.p_payback)
        sentences.append(f"Expected: pays back within {within} in {likely}{rests_on}.")
    if foreseen.measured:
        scores = []
        for name, score in foreseen.measured[:MOST_CANDIDATES]:
            scores.append(f"{escape(shorten(name, 60))} {percent(score)}")
        sentences.append(f"Measured before: {'; '.join(scores)}. The tuned model: {_quality(result)}.")
    parts = Parts()
    parts.text(" ".join(sentences))
    return parts
