"""What asking a model costs per month (measured tokens, cached prompt beginnings, batches, retries, the machine), and
what a stream of monthly savings is worth today while the alternative's price falls.

The cost of training and the comparison of two models are in roi.py. Money is in USD, a month has 730 hours. Tokens are
whole sums over measured requests and are multiplied as fractions, so that a bill is rounded only once, at the end.
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
# OpenAI and others bill a repeated beginning of a prompt at a lower price if it has at least this many tokens.
CACHEABLE_PROMPT = 1024


@dataclass(frozen=True)
class Tokens:
    """Token counts summed over `requests` measured requests. `shared` of the prompt tokens belong to a beginning that
    all prompts have in common."""

    requests: int
    prompt: int
    output: int
    shared: int = 0

    def __post_init__(self) -> None:
        if self.requests < 1 or min(self.prompt, self.output, self.shared) < 0 or self.shared > self.prompt:
            raise ValueError(
                f"tokens need at least one request and no negative or larger shared count: {self}"
            )

    @property
    def is_cacheable(self) -> bool:
        return self.shared >= CACHEABLE_PROMPT * self.requests


@dataclass(frozen=True)
class Capacity:
    """Throughput of one machine: tokens per second that it `reads` and `writes`, while it is busy. It is busy for a
    share `busy` (0 to 1) of the time."""

    reads: Decimal
    writes: Decimal
    busy: Decimal


@dataclass(frozen=True)
class Rates:
    """What it costs to ask a model: USD per 1M tokens, USD per request on top, and USD per hour if it needs a machine.

    `cached_input` is None if the price list has no such price. A `batch_discount` of 0.5 halves the price of requests
    that can wait a day. `ends` is the first day on which the model no longer answers; `after_end` are the rates of the
    model asked from that day on, None if the `successor` or its price is unknown. `on_own_machine` is true if no vendor
    charges for it; `capacity` is that machine's, if measured. A machine that stops by itself is paid for until
    `idle_window_s` seconds after the last request; None means that it is paid for all the time."""

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
    after_end: Rates | None = None
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
            raise ValueError(f"a price can't be negative: {self}")


@dataclass(frozen=True)
class Speed:
    """A machine that is paid by use: it handles `tokens_per_second` while busy, and is busy for a share `busy` (0 to 1)
    of the time."""

    tokens_per_second: Decimal
    busy: Decimal

    def usd_per_million(self, usd_per_hour: Decimal) -> Decimal:
        return usd_per_hour * MILLION / (self.tokens_per_second * self.busy * 3600)


@dataclass(frozen=True)
class Traffic:
    """How requests are sent, whichever model answers them. `retries` of 0.02 means that two in a hundred are sent
    twice.

    A share `batch_share` (0 to 1) of the requests can wait for a batch. The team's own machine runs for `hosting_hours`
    a month, or is paid by use if its `speed` is given.
    """

    retries: Decimal = ZERO
    batch_share: Decimal = ZERO
    hosting_hours: Decimal = HOURS_PER_MONTH
    speed: Speed | None = None


@dataclass(frozen=True)
class MonthlyCost:
    """USD per month. `requests` are charges per request on top of tokens, such as a look-up; `upkeep` is retraining and
    monitoring."""

    input: Decimal
    output: Decimal
    hosting: Decimal
    requests: Decimal = ZERO
    upkeep: Decimal = ZERO

    @property
    def total(self) -> Decimal:
        return self.input + self.output + self.hosting + self.requests + self.upkeep


def bill(tokens: Tokens, rates: Rates, requests: Fraction, traffic: Traffic) -> MonthlyCost:
    """Returns the cost of `requests` per month, each with the measured mean number of tokens."""
    sent = requests * (1 + Fraction(traffic.retries))
    times_measured = sent / tokens.requests
    batched = Fraction(traffic.batch_share) if rates.batch_discount else Fraction(0)
    later = batched * (1 - Fraction(rates.batch_discount))
    prompts = later * tokens.prompt * Fraction(rates.input) + (1 - batched) * _prompt_price(tokens, rates)
    answers = (later + 1 - batched) * tokens.output * Fraction(rates.output)
    return MonthlyCost(
        input=_usd(times_measured * prompts / 1_000_000),
        output=_usd(times_measured * answers / 1_000_000),
        hosting=_hosting(tokens, rates, requests, traffic),
        requests=_usd(sent * Fraction(rates.usd_per_request)),
    )


def is_cached(tokens: Tokens, rates: Rates) -> bool:
    return tokens.is_cacheable and rates.cached_input is not None and rates.cached_input < rates.input


def _prompt_price(tokens: Tokens, rates: Rates) -> Fraction:
    """Returns the prompt tokens times their price per 1M tokens, with the shared beginning at the cached price."""
    if rates.cached_input is None or not is_cached(tokens, rates):
        return tokens.prompt * Fraction(rates.input)
    full, cached = Fraction(rates.input), Fraction(rates.cached_input)
    return (tokens.prompt - tokens.shared) * full + tokens.shared * cached


def machines_needed(tokens: Tokens, rates: Rates, requests: Fraction, traffic: Traffic) -> int | None:
    """Returns how many of the team's machines it takes to answer `requests` per month; None if a vendor serves the
    model or no speed is known."""
    capacity, hours = rates.capacity, traffic.hosting_hours
    if traffic.speed:
        speed, busy = traffic.speed.tokens_per_second, traffic.speed.busy
        capacity, hours = Capacity(speed, speed, busy), HOURS_PER_MONTH
    if not rates.on_own_machine or capacity is None or not hours:
        return None
    times_measured = requests * (1 + Fraction(traffic.retries)) / tokens.requests
    work_s = times_measured * (
        tokens.prompt / Fraction(capacity.reads) + tokens.output / Fraction(capacity.writes)
    )
    return max(1, math.ceil(work_s / (Fraction(hours) * 3600 * Fraction(capacity.busy))))


def _hosting(tokens: Tokens, rates: Rates, requests: Fraction, traffic: Traffic) -> Decimal:
    """Returns USD per month: by use if the machine's speed is given, and otherwise for the hours that the required
    machines are up."""
    if traffic.speed is None or not rates.usd_per_hour:
        count = machines_needed(tokens, rates, requests, traffic) or 1
        hours = traffic.hosting_hours
        if rates.idle_window_s is not None:  # each request keeps the machine up for one window at most
            hours = min(hours, _usd(requests * rates.idle_window_s / 3600))
        return rates.usd_per_hour * hours * count
    n_tokens = requests * (1 + Fraction(traffic.retries)) / tokens.requests * (tokens.prompt + tokens.output)
    return _usd(n_tokens * Fraction(traffic.speed.usd_per_million(rates.usd_per_hour)) / 1_000_000)


def _usd(amount: Fraction) -> Decimal:
    return Decimal(amount.numerator) / Decimal(amount.denominator)


@dataclass(frozen=True)
class Flow:
    """A month's saving in USD, split by what it depends on.

    Three parts are proportional to the volume: `falling` (the cost of the alternative's tokens, whose price may fall),
    `errors` (the value of wrong answers avoided) and `steady` (everything else, saved minus spent). `fixed` is saved
    minus spent at any volume.
    """

    falling: Decimal
    steady: Decimal
    errors: Decimal
    fixed: Decimal

    @property
    def by_volume(self) -> Decimal:
        return self.falling + self.steady + self.errors

    def saving(self, amount: Decimal = ONE) -> Decimal:
        """Returns the saving when the alternative's price has fallen to `amount` (0 to 1) of today's."""
        return self.falling * amount + self.steady + self.errors + self.fixed

    def at_volume(self, factor: Decimal) -> Decimal:
        return self.by_volume * factor + self.fixed


@dataclass(frozen=True)
class Phase:
    """The time from month `start` to month `end`, counted from today, in which `flow` is saved each month. `end` is
    None if it never ends."""

    start: Decimal
    end: Decimal | None
    flow: Flow

    def within(self, begin: Decimal, end: Decimal) -> Decimal:
        """Returns how many months of the phase lie between `begin` and `end`."""
        last = end if self.end is None else min(end, self.end)
        return max(Decimal(0), last - max(begin, self.start))


def month_weights(horizon: Decimal) -> tuple[Decimal, ...]:
    """Returns 1 for each whole month of the horizon and the remainder for its last one: 2.4 gives 1, 1, 0.4."""
    count = int(horizon.to_integral_value(ROUND_CEILING))
    return tuple(min(ONE, horizon - month) for month in range(count))


def months_to(horizon: Decimal) -> tuple[tuple[Decimal, Decimal], ...]:
    """Returns the beginning and end of each month: 2.4 gives (0, 1), (1, 2), (2, 2.4)."""
    return tuple((Decimal(i), i + weight) for i, weight in enumerate(month_weights(horizon)))


def monthly_savings(phases: Sequence[Phase], fall_a_year: Decimal, horizon: Decimal) -> tuple[Decimal, ...]:
    """Returns the savings of months 1, 2, …, while the alternative's price falls by `fall_a_year` (0 to 1) per year."""
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
    """Returns the months until `one_off` is recovered; None if it never is within the phases."""
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
