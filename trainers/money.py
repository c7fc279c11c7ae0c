"""Formats amounts of US dollars and converts them to whole micro-dollars. Amounts are Decimal, never float."""

from __future__ import annotations

from decimal import ROUND_CEILING, ROUND_HALF_UP, Decimal

MICROS = 1_000_000
CENT = Decimal("0.01")
# No real price is outside these bounds. Beyond them sums could overflow, and amounts would not fit on a line.
MOST_USD = Decimal(10) ** 9
FINEST_USD = Decimal("1e-12")


def is_payable(amount: Decimal) -> bool:
    """True if an amount is 0 or between a trillionth of a dollar and a billion dollars."""
    if not amount.is_finite():
        return False
    if amount == 0:
        return True
    return FINEST_USD <= amount <= MOST_USD


def usd(amount: Decimal) -> str:
    """Formats an amount, from a thousand on in whole dollars: $25.00, $0.54, $24,948, under 1 cent."""
    if amount < 0:
        return f"minus {usd(-amount)}"
    if 0 < amount < CENT:
        return "under 1 cent"
    cents = amount.quantize(CENT, ROUND_HALF_UP)
    if cents >= 1000:
        return f"${amount.quantize(Decimal(1), ROUND_HALF_UP):,}"
    return f"${cents}"


def usd_micros(micros: int) -> str:
    return usd(from_micros(micros))


def rate(usd_per_million: Decimal) -> str:
    """Formats a token price with all its digits, at least two of them decimals: $0.025 per 1M tokens."""
    without_zeros = usd_per_million.normalize()
    decimals = -int(without_zeros.as_tuple().exponent)
    digits = max(2, decimals)
    return f"${usd_per_million:,.{digits}f} per 1M tokens"


def to_micros(amount: Decimal) -> int:
    """Converts to whole micro-dollars, rounded up, so that a reservation is never less than what is owed."""
    micros = amount * MICROS
    return int(micros.to_integral_value(ROUND_CEILING))


def from_micros(micros: int) -> Decimal:
    return Decimal(micros) / MICROS
