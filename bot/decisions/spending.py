"""What a measurement may cost and has cost, in micro-dollars. Pure.

Own machines charge nothing for a request: their hours are counted where they train.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from decimal import Decimal
from typing import Protocol

from trainers.chatting import room
from trainers.measuring.values import Arm
from trainers.money import to_micros
from trainers.pricing import PriceRow

MILLION = 1_000_000


class Asked(Protocol):
    """One arm's questions: the keys of their answers, and how many tokens each prompt has at most."""

    @property
    def keys(self) -> tuple[str, ...]: ...

    @property
    def tokens(self) -> tuple[int, ...]: ...


class Answered(Protocol):
    """The tokens of some answers, all in all."""

    @property
    def prompt_tokens(self) -> int: ...

    @property
    def completion_tokens(self) -> int: ...


def most_micros(
    prices: Mapping[str, PriceRow],
    arms: Mapping[Arm, Asked],
    known: Collection[str],
    max_tokens: int,
    thinking: Collection[str],
) -> int:
    """The most that the unanswered questions can cost: each answered with `max_tokens`, and with all that models
    which are `thinking` may think before. A question that two arms share is asked once."""
    dollars, counted = Decimal(0), set(known)
    for arm, asked in arms.items():
        price = prices.get(arm.model or "")
        if price is not None:
            dollars += _most(price, asked, counted, max_tokens + room(arm.model in thinking))
    return to_micros(dollars)


def paid_questions(prices: Mapping[str, PriceRow], arms: Mapping[Arm, Asked]) -> Mapping[str, frozenset[str]]:
    """The keys of what each model is asked, of those that have a price. A question that two arms share is one."""
    keys: dict[str, frozenset[str]] = {}
    for arm, asked in arms.items():
        if arm.model is not None and arm.model in prices:
            keys[arm.model] = keys.get(arm.model, frozenset()).union(asked.keys)
    return keys


def spent_micros(prices: Mapping[str, PriceRow], answers: Mapping[str, Answered]) -> int:
    """What the answers of each model have cost."""
    dollars = (
        _usd(prices[model], one.prompt_tokens, one.completion_tokens) for model, one in answers.items()
    )
    return to_micros(sum(dollars, Decimal(0)))


def most_of_judge(price: PriceRow, asked: Asked, known: Collection[str], max_tokens: int) -> int:
    """As `most_micros`, of the one model that judges answers."""
    return to_micros(_most(price, asked, set(known), max_tokens))


def question_micros(price: PriceRow, sent: int, answered: int) -> int:
    """One question, in tokens that are sent and that come back. Where a machine is paid by the hour it is free."""
    return 0 if price.usd_per_hour is not None else to_micros(_usd(price, sent, answered))


def _most(price: PriceRow, asked: Asked, counted: set[str], max_tokens: int) -> Decimal:
    dollars = Decimal(0)
    for key, tokens in zip(asked.keys, asked.tokens, strict=True):
        if key not in counted:
            counted.add(key)
            dollars += _usd(price, tokens, max_tokens)
    return dollars


def _usd(price: PriceRow, sent: int, said: int) -> Decimal:
    return ((price.price.input or Decimal(0)) * sent + (price.price.output or Decimal(0)) * said) / MILLION
