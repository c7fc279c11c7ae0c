"""What a run really cost, by the price list that was frozen into its plan. Pure; micro-dollars out."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal

from trainers.money import to_micros
from trainers.pricing import PriceList, PriceRow

MILLION = 1_000_000


@dataclass(frozen=True)
class Asked:
    """Tokens that a model was sent and that it answered with."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


NOTHING_ASKED = Asked()


def actual_micros(
    prices: PriceList,
    seconds: float,
    trained_tokens: int,
    base: Asked = NOTHING_ASKED,
    tuned: Asked = NOTHING_ASKED,
) -> int:
    """The plan's list begins with the tuned model's row and the base model's. A machine of our own is paid by
    the hour that it trained; a vendor by trained tokens and by both models' answers to the holdout."""
    tuned_row, base_row = prices.rows[0], prices.rows[1]
    if tuned_row.usd_per_hour is not None:
        return to_micros(tuned_row.usd_per_hour * Decimal(round(seconds)) / 3600)
    trained = (tuned_row.price.training or Decimal(0)) * trained_tokens / MILLION
    return to_micros(trained + _answers_usd(base_row, base) + _answers_usd(tuned_row, tuned))


def _answers_usd(row: PriceRow, asked: Asked) -> Decimal:
    sent = (row.price.input or Decimal(0)) * asked.prompt_tokens
    return (sent + (row.price.output or Decimal(0)) * asked.completion_tokens) / MILLION
