"""Formats money, and converts it to whole micro-dollars. USD as Decimal; a float never comes in."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

MICROS = 1_000_000
# What nobody pays, and digits that no price has: beyond them sums overflow and no line of text is wide enough.
MOST_USD, FINEST_USD = Decimal(10) ** 9, Decimal("1e-12")


def is_payable(amount: Decimal) -> bool:
    """Says whether an amount that a person wrote is 0, or between a trillionth of a dollar and a billion."""
    return amount.is_finite() and (amount == 0 or FINEST_USD <= amount <= MOST_USD)


def usd(amount: Decimal) -> str:
    """Formats an amount: $25.00, $0.54, $24,948, under 1 cent. Whole dollars from a thousand on."""
    if amount < 0:
        return f"minus {usd(-amount)}"
    if 0 < amount < Decimal("0.01"):
        return "under 1 cent"
    cents = amount.quantize(Decimal("0.01"))
    if cents >= 1000:
        return f"${amount.quantize(Decimal(1)):,}"
    return f"${cents}"


def usd_micros(micros: int) -> str:
    return usd(from_micros(micros))


def rate(usd_per_million: Decimal) -> str:
    """Formats a price of tokens with all its digits, at least two behind the point: $0.025 per 1M tokens."""
    digits = max(2, -int(usd_per_million.normalize().as_tuple().exponent))
    return f"${usd_per_million:,.{digits}f} per 1M tokens"


def to_micros(amount: Decimal) -> int:
    """Converts to whole micro-dollars, rounded up: what is reserved is never less than what is owed."""
    return int((amount * MICROS).to_integral_value(ROUND_CEILING))


def from_micros(micros: int) -> Decimal:
    return Decimal(micros) / MICROS
