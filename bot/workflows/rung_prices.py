"""What asking a measured rung costs, by the price list or as it was measured, and what its successor costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date

from bot.decisions.verdict.facts import Evidence
from bot.decisions.verdict.rungs import cheapest
from bot.decisions.worth.bills import ZERO, Rates
from bot.decisions.worth.quotes import rates_of
from bot.settings import Settings
from trainers.measuring.values import Rung
from trainers.pricing import PriceRow, UnknownPrice, prompted_price


def rung_price(settings: Settings, rung: Rung | None, today: date) -> PriceRow | None:
    if rung is None or rung.arm.model is None:
        return None
    found = prompted_price(rung.arm.model, settings.providers, settings.prices, today)
    return None if isinstance(found, UnknownPrice) else found


def followed(settings: Settings, rates: Rates, today: date, before: Sequence[str] = ()) -> Rates:
    """With the price of its successor, and of that one's, as far as they are known."""
    if rates.ends is None or rates.successor is None or rates.successor in before:
        return rates
    found = prompted_price(rates.successor, settings.providers, settings.prices, today)
    then = None if isinstance(found, UnknownPrice) else rates_of(found)
    if not isinstance(then, Rates):
        return rates
    return replace(rates, then=followed(settings, then, today, (*before, rates.successor)))


def still_asked(settings: Settings, evidence: Evidence, today: date) -> Evidence:
    """Without what was measured of models that have ended since: nobody can use them any more."""
    ladder = evidence.ladder
    if ladder is None:
        return evidence
    prices = [(rung, rung_price(settings, rung, today)) for rung in ladder.rungs]
    kept = tuple(
        rung
        for rung, price in prices
        if rung.arm.rung == "tuned" or price is None or not price.has_ended(today)
    )
    if len(kept) == len(ladder.rungs):
        return evidence
    arms = {rung.arm for rung in kept}
    best = cheapest([rung for rung in kept if rung.standing == "meets"])
    pairs = tuple(pair for pair in ladder.pairs if {pair.better, pair.worse} <= arms)
    left = replace(ladder, rungs=kept, pairs=pairs, cheapest=best.arm if best else None)
    return replace(evidence, ladder=left)


def rung_rates(rung: Rung | None, listed: PriceRow | None) -> Rates | None:
    """Where the list has the model no longer: what a request cost as it was measured."""
    if rung is None:
        return None
    rates = rates_of(listed) if listed else None
    if isinstance(rates, Rates):
        return rates
    if rung.arm.model is None:
        return Rates("classical", ZERO, ZERO, "no vendor: it runs on any machine, whose time is not counted")
    a_request = (rung.usd_per_1000 or ZERO) / 1000
    return Rates(rung.arm.model, ZERO, ZERO, "the measurement", usd_per_request=a_request)
