"""What asking a model costs per month (measured tokens, cached prompt beginnings, batches, retries, the machine), and
what a stream of monthly savings is worth today while the alternative's price falls.

The cost of training and the comparison of two models are in roi.py. Money is in USD, a month has 730 hours. Tokens are
whole sums over measured requests and are multiplied as fractions, so that a bill is rounded only once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction
from functools import lru_cache
from typing import Literal

from bot.rules.units import HOURS_PER_MONTH

MILLION = Decimal(1_000_000)
ZERO = Decimal(0)
ONE = Decimal(1)
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
        least = min(self.prompt, self.output, self.shared)
        if self.requests < 1 or least < 0 or self.shared > self.prompt:
            raise ValueError(
                f"tokens need at least one request and no negative or larger shared count: {self}"
            )

    @property
    def is_cacheable(self) -> bool:
        return self.shared >= CACHEABLE_PROMPT * self.requests


@dataclass(frozen=True)
class Capacity:
    """Throughput of one machine: tokens per second that it `reads` and `writes`, while it is busy. It is busy for a
    share `busy` (0 to 1) of the time. Nine times in ten the true throughput is within a factor of `spread`, which is
    above 1 only if it was "guessed" from the model's size. "given": by a person."""

    reads: Decimal
    writes: Decimal
    busy: Decimal
    basis: Literal["measured", "given", "guessed"] = "measured"
    spread: Decimal = ONE

    def times(self, factor: Decimal) -> Capacity:
        return replace(self, reads=self.reads * factor, writes=self.writes * factor)


@dataclass(frozen=True)
class Rates:
    """What it costs to ask a model: USD per 1M tokens, USD per request on top, and USD per hour if it needs a machine.

    `cached_input` is None if the price list has no such price. A `batch_discount` of 0.5 halves the price of requests
    that can wait a day. `ends` is the first day on which the model no longer answers; `after_end` are the rates of the
    model asked from that day on, None if the `successor` or its price is unknown. `on_own_machine` is true if no vendor
    charges for it; `capacity` is that of its machine, None if unknown. A machine that stops by itself is paid for until
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
class Traffic:
    """How requests are sent, whichever model answers them. `retries` of 0.02 means that two in a hundred are sent
    twice.

    A share `batch_share` (0 to 1) of the requests can wait for a batch. A machine that doesn't stop by itself runs for
    `hosting_hours` a month.
    """

    retries: Decimal = ZERO
    batch_share: Decimal = ZERO
    hosting_hours: Decimal = HOURS_PER_MONTH


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
    batched = Fraction(0)
    if rates.batch_discount:
        batched = Fraction(traffic.batch_share)
    at_once = 1 - batched
    later = batched * (1 - Fraction(rates.batch_discount))
    # The cached price holds only for requests at once: a batch has its own discount.
    prompts_later = later * tokens.prompt * Fraction(rates.input)
    prompts_at_once = at_once * _prompt_price(tokens, rates)
    prompts = prompts_later + prompts_at_once
    answers = (later + at_once) * tokens.output * Fraction(rates.output)
    return MonthlyCost(
        input=_usd(times_measured * prompts / 1_000_000),
        output=_usd(times_measured * answers / 1_000_000),
        hosting=_hosting_usd(tokens, rates, requests, traffic),
        requests=_usd(sent * Fraction(rates.usd_per_request)),
    )


def is_cached(tokens: Tokens, rates: Rates) -> bool:
    return tokens.is_cacheable and rates.cached_input is not None and rates.cached_input < rates.input


def _prompt_price(tokens: Tokens, rates: Rates) -> Fraction:
    """Returns the prompt tokens times their price per 1M tokens, with the shared beginning at the cached price."""
    if rates.cached_input is None or not is_cached(tokens, rates):
        return tokens.prompt * Fraction(rates.input)
    full = Fraction(rates.input)
    cached = Fraction(rates.cached_input)
    return (tokens.prompt - tokens.shared) * full + tokens.shared * cached


@dataclass(frozen=True)
class MachineTime:
    """The machines that serve `requests` per month, and what they cost at other volumes. `factor` is a volume relative
    to these requests.

    - Each costs `usd_per_hour` and is up for at most `hours` a month.
    - The requests take `work_s` seconds of work, None if the speed is unknown. One machine is then counted.
    - It is busy for a share `busy` of the time at most; `spread` is as in Capacity.
    - With an `idle_window_s` it stops that many seconds after the last request.
    """

    usd_per_hour: Decimal
    hours: Decimal
    requests: Fraction
    work_s: Fraction | None
    busy: Decimal
    spread: Decimal = ONE
    idle_window_s: int | None = None

    def count(self, factor: Decimal = ONE) -> int:
        if self.work_s is None or not self.hours:
            return 1
        available_s = Fraction(self.hours) * 3600 * Fraction(self.busy)
        return max(1, math.ceil(self.work_s * Fraction(factor) / available_s))

    @property
    def count_range(self) -> tuple[int, int]:
        """The fewest and the most machines that a guessed throughput would take."""
        return self.count(1 / self.spread), self.count(self.spread)

    def usd(self, factor: Decimal = ONE) -> Decimal:
        return self.usd_per_hour * self.hours_up(factor) * self.count(factor)

    def hours_up(self, factor: Decimal = ONE) -> Decimal:
        """Returns the hours a month that are paid for each machine.

        Each request keeps a machine that stops by itself up for s seconds: its work and the idle window. With requests
        at random times (a Poisson process of rate λ) it is up for the share 1 - exp(-λ·s) of the time, which is how
        long an M/G/∞ queue is not empty.
        """
        if self.idle_window_s is None or not self.hours:
            return self.hours
        month_s = Fraction(self.hours) * 3600
        work_s = self.work_s or Fraction(0)
        busy_s = (self.requests * self.idle_window_s + work_s) * Fraction(factor) / month_s
        return self.hours * (1 - (-_usd(busy_s)).exp())


def machine_time(tokens: Tokens, rates: Rates, requests: Fraction, traffic: Traffic) -> MachineTime | None:
    """Returns the machines that answer `requests` per month; None if the model is paid by the token alone."""
    if not rates.usd_per_hour and not rates.on_own_machine:
        return None
    capacity = rates.capacity
    work_s = None
    busy = ONE
    spread = ONE
    if capacity is not None:
        read_s = tokens.prompt / Fraction(capacity.reads)
        written_s = tokens.output / Fraction(capacity.writes)
        times_measured = requests * (1 + Fraction(traffic.retries)) / tokens.requests
        work_s = times_measured * (read_s + written_s)
        busy = capacity.busy
        spread = capacity.spread
    return MachineTime(
        usd_per_hour=rates.usd_per_hour,
        hours=traffic.hosting_hours,
        requests=requests,
        work_s=work_s,
        busy=busy,
        spread=spread,
        idle_window_s=rates.idle_window_s,
    )


def machines_needed(tokens: Tokens, rates: Rates, requests: Fraction, traffic: Traffic) -> int | None:
    """Returns how many machines it takes to answer `requests` per month; None if the model is paid by the token alone,
    or if no speed is known."""
    machines = machine_time(tokens, rates, requests, traffic)
    if machines is None or machines.work_s is None:
        return None
    return machines.count()


def _hosting_usd(tokens: Tokens, rates: Rates, requests: Fraction, traffic: Traffic) -> Decimal:
    machines = machine_time(tokens, rates, requests, traffic)
    if machines is None:
        return ZERO
    return machines.usd()


def _usd(amount: Fraction) -> Decimal:
    return Decimal(amount.numerator) / Decimal(amount.denominator)


@dataclass(frozen=True)
class Flow:
    """A month's saving in USD, split by what it depends on.

    Three parts are proportional to the volume: `falling` (the cost of the alternative's tokens, whose price may fall),
    `errors` (the value of wrong answers avoided) and `steady` (everything else, saved minus spent). `fixed` is saved
    minus spent at any volume. The bills for machines grow in steps: `saved_machines` would serve the alternative,
    `spent_machines` the tuned model; None if they are paid by the token.
    """

    falling: Decimal
    steady: Decimal
    errors: Decimal
    fixed: Decimal
    saved_machines: MachineTime | None = None
    spent_machines: MachineTime | None = None

    def saving(self, amount: Decimal = ONE, factor: Decimal = ONE) -> Decimal:
        """Returns the saving when the alternative's price has fallen to `amount` (0 to 1) of today's, at `factor` times
        the volume."""
        saving = (self.falling * amount + self.steady + self.errors) * factor + self.fixed
        if self.saved_machines:
            saving += self.saved_machines.usd(factor)
        if self.spent_machines:
            saving -= self.spent_machines.usd(factor)
        return saving


@dataclass(frozen=True)
class Phase:
    """The time from month `start` to month `end`, counted from today, in which `flow` is saved each month. `end` is
    None if it never ends."""

    start: Decimal
    end: Decimal | None
    flow: Flow

    def within(self, begin: Decimal, end: Decimal) -> Decimal:
        """Returns how many months of the phase lie between `begin` and `end`."""
        if self.end is not None:
            end = min(end, self.end)
        return max(Decimal(0), end - max(begin, self.start))


# More tokens a month than any vendor serves today.
MOST_TOKENS = 10**15


def least_lasting_volume(pays: Callable[[int], bool]) -> int | None:
    """Returns the smallest volume, in tokens a month, from which on `pays` holds. None if it doesn't hold at any volume
    that matters.

    Walks down from the largest volume, because one volume that pays says nothing about a larger one: a further machine
    is paid for at once, and used only later."""
    enough = MOST_TOKENS
    if not pays(enough):
        return None
    less = _four_fifths(enough)
    while less and pays(less):
        enough = less
        less = _four_fifths(less)
    while enough - less > 1:
        middle = (enough + less) // 2
        if pays(middle):
            enough = middle
        else:
            less = middle
    # The walk ends at one token a month, so it pays at any volume.
    if enough <= 1:
        return 0
    return enough


def _four_fifths(volume: int) -> int:
    return volume * 4 // 5


def month_weights(horizon: Decimal) -> tuple[Decimal, ...]:
    """Returns 1 for each whole month of the horizon and the remainder for its last one: 2.4 gives 1, 1, 0.4."""
    count = int(horizon.to_integral_value(ROUND_CEILING))
    return tuple(min(ONE, horizon - month) for month in range(count))


def months_to(horizon: Decimal) -> tuple[tuple[Decimal, Decimal], ...]:
    """Returns the beginning and end of each month: 2.4 gives (0, 1), (1, 2), (2, 2.4)."""
    months = []
    for number, weight in enumerate(month_weights(horizon)):
        begin = Decimal(number)
        months.append((begin, begin + weight))
    return tuple(months)


def monthly_savings(phases: Sequence[Phase], fall_a_year: Decimal, horizon: Decimal) -> tuple[Decimal, ...]:
    """Returns the savings of months 1, 2, …, while the alternative's price falls by `fall_a_year` (0 to 1) per year."""
    savings = []
    for month, (begin, end) in enumerate(months_to(horizon), start=1):
        price = compound(1 - fall_a_year, month)
        saving = Decimal(0)
        for phase in phases:
            saving += phase.within(begin, end) * phase.flow.saving(price)
        savings.append(saving)
    return tuple(savings)


def payback_months(one_off: Decimal, phases: Sequence[Phase]) -> Decimal | None:
    """Returns the months until `one_off` is recovered; None if it never is within the phases."""
    left = one_off
    for phase in phases:
        saving = phase.flow.saving()
        if phase.end is None:
            if saving <= 0:
                return None
            return phase.start + left / saving
        saved_in_phase = saving * (phase.end - phase.start)
        if saving > 0 and left <= saved_in_phase:
            return phase.start + left / saving
        left -= saved_in_phase
    return None


def net_present_value(one_off: Decimal, savings: Sequence[Decimal], a_year: Decimal) -> Decimal:
    """-C₀ + Σ S_t / (1 + r)^(t/12), t from 1."""
    worth = (saving / compound(1 + a_year, month) for month, saving in enumerate(savings, start=1))
    return sum(worth, -one_off)


# Decimal takes a tenth of a millisecond for it, and each swing of an estimate asks for the same.
@lru_cache(maxsize=4096)
def compound(factor_a_year: Decimal, months: int) -> Decimal:
    return factor_a_year ** (Decimal(months) / 12)
