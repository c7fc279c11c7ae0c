"""What asking a model costs a month (measured tokens, cached beginnings, batches, repeats, the machine), and what a
stream of monthly savings is worth today, with a falling price of the alternative.

Knows no training and no saving against another model (roi.py). Money in USD, months of 730 hours. Tokens are whole
sums over measured requests and the sums run in fractions, so a bill is rounded once, at its end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction

from bot.rules.units import HOURS_PER_MONTH

MILLION = Decimal(1_000_000)
ZERO, ONE = Decimal(0), Decimal(1)
# From this length on OpenAI and others bill a repeated beginning of a prompt at a lower price.
CACHEABLE_PROMPT = 1024


@dataclass(frozen=True)
class Tokens:
    """The tokens of `requests` measured requests, summed. `shared` tokens of the prompts are the same beginning
    each time."""

    requests: int
    prompt: int
    output: int
    shared: int = 0

    def __post_init__(self) -> None:
        if self.requests < 1 or min(self.prompt, self.output, self.shared) < 0 or self.shared > self.prompt:
            raise ValueError(f"tokens of at least one request, and no fewer than none: {self}")

    @property
    def is_cacheable(self) -> bool:
        return self.shared >= CACHEABLE_PROMPT * self.requests


@dataclass(frozen=True)
class Capacity:
    """What one machine can answer: tokens a second that it reads and writes, while it is `busy` (0 to 1)."""

    reads: Decimal
    writes: Decimal
    busy: Decimal


@dataclass(frozen=True)
class Rates:
    """What a model costs to ask: USD per 1M tokens, per request beside them, and per hour for a machine of our own.

    `cached_input` is None where the list has no such price; `batch_discount` 0.5 halves what can wait a day. `ends` is
    the first day without an answer; from then on `then` is asked, None where its `successor` or its price is unknown.
    `on_own_machine`: no vendor charges for it; `capacity` of that machine, where it was measured. `idle_window_s`: so
    long after a request the machine costs nothing until the next one; None: it costs the same.
    """

    model: str
    input: Decimal
    output: Decimal
    said_by: str
    usd_per_hour: Decimal = ZERO
    note: str | None = None
    cached_input: Decimal | None = None
    batch_discount: Decimal = ZERO
    usd_per_request: Decimal = ZERO
    ends: date | None = None
    successor: str | None = None
    then: Rates | None = None
    on_own_machine: bool = False
    capacity: Capacity | None = None
    idle_window_s: int | None = None

    def __post_init__(self) -> None:
        amounts = (
            self.input,
            self.output,
            self.usd_per_hour,
            self.cached_input or ZERO,
            self.usd_per_request,
        )
        if min(amounts) < 0:
            raise ValueError(f"a price is not negative: {self}")


@dataclass(frozen=True)
class Speed:
    """A machine that is paid by use: it makes `tokens_per_second` while busy, `busy` (0 to 1) of its time."""

    tokens_per_second: Decimal
    busy: Decimal

    def usd_per_million(self, usd_per_hour: Decimal) -> Decimal:
        return usd_per_hour * MILLION / (self.tokens_per_second * self.busy * 3600)


@dataclass(frozen=True)
class Traffic:
    """How requests are sent, whichever model answers them. `retries` 0.02: two in a hundred are sent twice.

    `batch_share` of the requests can wait for a batch. A machine of our own is kept up for `hosting_hours` a
    month, or paid by use where its `speed` is known.
    """

    retries: Decimal = ZERO
    batch_share: Decimal = ZERO
    hosting_hours: Decimal = HOURS_PER_MONTH
    speed: Speed | None = None


@dataclass(frozen=True)
class MonthlyCost:
    """`requests`: what each request costs beside its tokens, like a look-up. `upkeep`: retraining, monitoring."""

    input: Decimal
    output: Decimal
    hosting: Decimal
    requests: Decimal = ZERO
    upkeep: Decimal = ZERO

    @property
    def total(self) -> Decimal:
        return self.input + self.output + self.hosting + self.requests + self.upkeep


def bill(tokens: Tokens, rates: Rates, requests: Fraction, asking: Traffic) -> MonthlyCost:
    """The bill of `requests` a month, each with the measured mean of tokens."""
    sent = requests * (1 + Fraction(asking.retries))
    times_measured = sent / tokens.requests
    batched = Fraction(asking.batch_share) if rates.batch_discount else Fraction(0)
    later = batched * (1 - Fraction(rates.batch_discount))
    prompts = later * tokens.prompt * Fraction(rates.input) + (1 - batched) * _prompt_price(tokens, rates)
    answers = (later + 1 - batched) * tokens.output * Fraction(rates.output)
    return MonthlyCost(
        input=_usd(times_measured * prompts / 1_000_000),
        output=_usd(times_measured * answers / 1_000_000),
        hosting=_hosting(tokens, rates, requests, asking),
        requests=_usd(sent * Fraction(rates.usd_per_request)),
    )


def is_cached(tokens: Tokens, rates: Rates) -> bool:
    return tokens.is_cacheable and rates.cached_input is not None and rates.cached_input < rates.input


def _prompt_price(tokens: Tokens, rates: Rates) -> Fraction:
    """Prompt tokens times their price per 1M, the shared beginning at the cached price."""
    if rates.cached_input is None or not is_cached(tokens, rates):
        return tokens.prompt * Fraction(rates.input)
    full, cached = Fraction(rates.input), Fraction(rates.cached_input)
    return (tokens.prompt - tokens.shared) * full + tokens.shared * cached


def machines_needed(tokens: Tokens, rates: Rates, requests: Fraction, asking: Traffic) -> int | None:
    """How many of our machines answer so many `requests` a month. None: a vendor serves it, or no speed is known."""
    capacity, hours = rates.capacity, asking.hosting_hours
    if asking.speed:
        speed, busy = asking.speed.tokens_per_second, asking.speed.busy
        capacity, hours = Capacity(speed, speed, busy), HOURS_PER_MONTH
    if not rates.on_own_machine or capacity is None or not hours:
        return None
    times_measured = requests * (1 + Fraction(asking.retries)) / tokens.requests
    work_s = times_measured * (
        tokens.prompt / Fraction(capacity.reads) + tokens.output / Fraction(capacity.writes)
    )
    return max(1, math.ceil(work_s / (Fraction(hours) * 3600 * Fraction(capacity.busy))))


def _hosting(tokens: Tokens, rates: Rates, requests: Fraction, asking: Traffic) -> Decimal:
    """USD a month: by use where somebody said the speed of the machine, else for as many machines as it takes, kept
    up."""
    if asking.speed is None or not rates.usd_per_hour:
        count = machines_needed(tokens, rates, requests, asking) or 1
        hours = asking.hosting_hours
        if rates.idle_window_s is not None:  # at most a window for each request
            hours = min(hours, _usd(requests * rates.idle_window_s / 3600))
        return rates.usd_per_hour * hours * count
    n_tokens = requests * (1 + Fraction(asking.retries)) / tokens.requests * (tokens.prompt + tokens.output)
    return _usd(n_tokens * Fraction(asking.speed.usd_per_million(rates.usd_per_hour)) / 1_000_000)


def _usd(amount: Fraction) -> Decimal:
    return Decimal(amount.numerator) / Decimal(amount.denominator)


@dataclass(frozen=True)
class Flow:
    """A month's saving, by what it hangs on.

    With the volume grow `falling` (what the alternative's tokens cost: its price may fall), `steady` (all else,
    saved minus spent) and `errors` (worth of wrong answers avoided). `fixed`: saved minus spent at any volume.
    """

    falling: Decimal
    steady: Decimal
    errors: Decimal
    fixed: Decimal

    @property
    def by_volume(self) -> Decimal:
        return self.falling + self.steady + self.errors

    def saving(self, amount: Decimal = ONE) -> Decimal:
        """The saving with `amount` (0 to 1) of the alternative's price left."""
        return self.falling * amount + self.steady + self.errors + self.fixed

    def at_volume(self, factor: Decimal) -> Decimal:
        return self.by_volume * factor + self.fixed


@dataclass(frozen=True)
class Phase:
    """Months `start` to `end` from today, None: on and on. In each of them `flow` is saved."""

    start: Decimal
    end: Decimal | None
    flow: Flow

    def within(self, begin: Decimal, end: Decimal) -> Decimal:
        """Months of it between `begin` and `end`."""
        last = end if self.end is None else min(end, self.end)
        return max(Decimal(0), last - max(begin, self.start))


def month_weights(horizon: Decimal) -> tuple[Decimal, ...]:
    """1 for each whole month of the horizon, and what is left for its last one: 2.4 gives 1, 1, 0.4."""
    count = int(horizon.to_integral_value(ROUND_CEILING))
    return tuple(min(ONE, horizon - month) for month in range(count))


def months_to(horizon: Decimal) -> tuple[tuple[Decimal, Decimal], ...]:
    """Beginning and end of each month: 2.4 gives (0, 1), (1, 2), (2, 2.4)."""
    return tuple((Decimal(i), i + weight) for i, weight in enumerate(month_weights(horizon)))


def monthly_savings(phases: Sequence[Phase], fall_a_year: Decimal, horizon: Decimal) -> tuple[Decimal, ...]:
    """The savings of month 1, 2, …: the alternative's price falls by `fall_a_year` (0 to 1) every twelve months."""
    return tuple(
        sum(
            (
                phase.within(begin, end) * phase.flow.saving(compound(1 - fall_a_year, month))
                for phase in phases
            ),
            Decimal(0),
        )
        for month, (begin, end) in enumerate(months_to(horizon), start=1)
    )


def payback_months(one_off: Decimal, phases: Sequence[Phase]) -> Decimal | None:
    """Months until `one_off` has come back; None where it never does while it is known what is saved."""
    left = one_off
    for phase in phases:
        saving = phase.flow.saving()
        if saving > 0 and (phase.end is None or left <= saving * (phase.end - phase.start)):
            return phase.start + left / saving
        if phase.end is None:
            return None
        left -= saving * (phase.end - phase.start)
    return None


def net_present_value(one_off: Decimal, savings: Sequence[Decimal], a_year: Decimal) -> Decimal:
    """-C₀ + Σ S_t / (1 + r)^(t/12), t from 1."""
    worth = (saving / compound(1 + a_year, month) for month, saving in enumerate(savings, start=1))
    return sum(worth, -one_off)


def compound(factor_a_year: Decimal, months: int) -> Decimal:
    return factor_a_year ** (Decimal(months) / 12)
