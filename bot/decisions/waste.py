"""What copies in a dataset cost: tokens an epoch, and dollars where a trainer by the token is at hand. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from trainers.providers import ProviderRow, model_verdict

MILLION = 1_000_000


@dataclass(frozen=True)
class Waste:
    """Of one epoch. `usd` at `target`, 'provider/model'; both None where nobody who charges by the token is there."""

    tokens: int
    target: str | None = None
    usd: Decimal | None = None


def waste_of(tokens: int, rows: Sequence[ProviderRow], today: date) -> Waste | None:
    """`rows`: the trainers within reach. The cheapest that still trains is counted with; None without copies."""
    if tokens <= 0:
        return None
    prices = [
        (model.price.training, f"{row.name}/{model.name}")
        for row in rows
        for model in row.models
        if model.price.training and model_verdict(row, model, today).may_train
    ]
    if not prices:
        return Waste(tokens)
    price, target = min(prices)
    return Waste(tokens, target, price * tokens / MILLION)
