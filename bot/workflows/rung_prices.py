"""What asking a measured rung costs: by the price list, or as it was measured."""

from __future__ import annotations

from datetime import date

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
