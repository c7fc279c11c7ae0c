"""What models cost, for whoever asks: all that are configured, or those that were named."""

from __future__ import annotations

from collections.abc import Sequence

from bot.workflows import plans
from bot.workflows.desk import Desk
from bot.workflows.measuring.contestants import price_of
from trainers.pricing import PriceRow, UnknownPrice, prompted_price, tuned_price


def look(desk: Desk, names: Sequence[str]) -> list[PriceRow | UnknownPrice]:
    """Named: what asking it costs. Nothing named: our own prices, then each configured model as it is and tuned."""
    if names:
        return [_named(desk, name) for name in names]
    rows: list[PriceRow | UnknownPrice] = list(desk.settings.prices)
    today = plans.today(desk)
    for provider in desk.settings.providers:
        for model in provider.models:
            asked, tuned = price_of(desk.settings, provider, model.name, today), tuned_price(provider, model)
            rows += [tuned] if isinstance(asked, UnknownPrice) or asked == tuned else [asked, tuned]
    return rows


def _named(desk: Desk, name: str) -> PriceRow | UnknownPrice:
    provider, slash, bare = name.partition("/")
    row = desk.settings.provider(provider) if slash else None
    if row is not None:
        return price_of(desk.settings, row, bare, plans.today(desk))
    return prompted_price(name, desk.settings.providers, desk.settings.prices, plans.today(desk))
