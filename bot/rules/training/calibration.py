"""How accurate our estimates have been: a run's actual figures beside the estimated ones, and the error over all runs.
Also what a month's calls to a model in use cost, and what the alternative would have cost for the same calls.

Values only; the sentences are in bot/cards/common/calibration.py. A ratio of 1 is an exact estimate, a ratio of 2
means that the actual was twice the estimate. A factor is the error in either direction: 2 is twice or half the
estimate.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from typing import Literal, get_args

from bot.rules.bills import MILLION, Rates, Tokens, Traffic, bill
from bot.rules.roi import Inputs
from bot.rules.units import Period
from trainers.money import from_micros

Quantity = Literal["tokens", "dollars", "minutes", "quality"]
QUANTITIES: tuple[Quantity, ...] = get_args(Quantity)

FEW_RUNS = 5


@dataclass(frozen=True)
class Actual:
    """An estimate for a run and the actual figure, in the unit of the quantity. `quality` is the share of right
    answers."""

    run: int
    quantity: Quantity
    estimated: Decimal
    actual: Decimal

    def __post_init__(self) -> None:
        for amount in (self.estimated, self.actual):
            if not amount.is_finite() or amount < 0:
                raise ValueError(
                    f"run {self.run}: {self.quantity} must be finite and not negative, not {amount}"
                )

    @property
    def is_free(self) -> bool:
        """True if both are 0: the estimate was right, but says nothing about accuracy."""
        return not self.estimated and not self.actual

    @property
    def ratio(self) -> Decimal | None:
        """The actual divided by the estimate; None if the estimate was 0."""
        if not self.estimated:
            return None
        return self.actual / self.estimated

    @property
    def factor(self) -> Decimal | None:
        """The larger of the two divided by the smaller, so 1 or more; None if one of them is 0."""
        if not self.estimated or not self.actual:
            return None
        larger = max(self.actual, self.estimated)
        smaller = min(self.actual, self.estimated)
        return larger / smaller


@dataclass(frozen=True)
class RunningError:
    """The error over the `runs` runs whose estimate and actual are both above 0.

    `typical_factor` is the geometric mean of their factors, rounded to six decimals; None if there is no such run. Left
    out are `free` runs, where both figures are 0, and `one_sided` runs, where only one of them is.
    """

    quantity: Quantity
    runs: int
    typical_factor: Decimal | None
    free: int
    one_sided: int

    @property
    def is_early(self) -> bool:
        """True if there are so few runs that the next one may change the figure."""
        return self.runs < FEW_RUNS


def run_actuals(
    run: int,
    *,
    tokens: tuple[int, int] | None = None,
    micros: tuple[int, int] | None = None,
    seconds: tuple[float, float] | None = None,
    quality: tuple[float, float] | None = None,
) -> tuple[Actual, ...]:
    """Returns a value for each argument given. Each is a pair (estimated, actual), None if one of the two is unknown.
    `micros` are micro-dollars."""
    pairs: list[Actual] = []
    if tokens is not None:
        planned, counted = map(Decimal, tokens)
        pairs.append(Actual(run, "tokens", planned, counted))
    if micros is not None:
        planned, counted = map(from_micros, micros)
        pairs.append(Actual(run, "dollars", planned, counted))
    if seconds is not None:
        planned, counted = (Decimal(round(second)) / 60 for second in seconds)
        pairs.append(Actual(run, "minutes", planned, counted))
    if quality is not None:
        # By way of text, since a float like 0.9 has no exact value.
        planned, counted = (Decimal(str(share)) for share in quality)
        pairs.append(Actual(run, "quality", planned, counted))
    return tuple(pairs)


def running_error(actuals: Iterable[Actual]) -> tuple[RunningError, ...]:
    """Returns one error for each quantity that has a pair, in the order of QUANTITIES."""
    by_quantity: dict[Quantity, list[Actual]] = {quantity: [] for quantity in QUANTITIES}
    for actual in actuals:
        by_quantity[actual.quantity].append(actual)
    errors = []
    for quantity, pairs in by_quantity.items():
        if not pairs:
            continue
        factors = [pair.factor for pair in pairs if pair.factor is not None]
        free = sum(pair.is_free for pair in pairs)
        error = RunningError(
            quantity,
            runs=len(factors),
            typical_factor=_geometric_mean(factors),
            free=free,
            one_sided=len(pairs) - free - len(factors),
        )
        errors.append(error)
    return tuple(errors)


def _geometric_mean(factors: Sequence[Decimal]) -> Decimal | None:
    """With it, twice and half the estimate count the same, and one outlier counts less than in a mean."""
    if not factors:
        return None
    logs = [factor.ln() for factor in factors]
    mean = sum(logs, Decimal(0)) / len(logs)
    return round(mean.exp(), 6)


@dataclass(frozen=True)
class CallTotals:
    """Answered calls and their tokens. `cached_tokens` are those among the prompt's that the provider said it had
    cached."""

    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0

    def plus(self, calls: int, prompt_tokens: int, completion_tokens: int) -> CallTotals:
        return CallTotals(
            self.calls + calls,
            self.prompt_tokens + prompt_tokens,
            self.completion_tokens + completion_tokens,
            self.cached_tokens,
        )


def tuned_calls_usd(use: CallTotals, rates: Rates, traffic: Traffic, share: Decimal) -> Decimal:
    """Returns what the calls to the tuned model cost. As in the estimate, the team's own machine is up for a `share`
    (0 to 1) of the month. Batches are not considered, because a batch can't call an alias."""
    # Tokens need at least one request; without a call there are none to bill.
    tokens = Tokens(max(use.calls, 1), use.prompt_tokens, use.completion_tokens)
    requests = Fraction(use.calls)
    usd = bill(tokens, rates, requests, _traffic_for(traffic, share)).total
    if rates.cached_input is None or rates.usd_per_hour:
        return usd
    discount = rates.input - rates.cached_input
    return usd - use.cached_tokens * discount / MILLION


def alternative_usd(use: CallTotals, inputs: Inputs, share: Decimal) -> Decimal:
    """Returns what the best alternative would have cost for the same calls. Token counts are scaled by the ratio
    between the two models that was measured on the held-out rows."""
    tuned = inputs.tuned_tokens or inputs.usage.tuned
    other = inputs.usage.today
    if inputs.alternative:
        other = inputs.alternative.tokens
    prompt_ratio = _ratio(other.prompt, other.requests, tuned.prompt, tuned.requests)
    output_ratio = _ratio(other.output, other.requests, tuned.output, tuned.requests)
    prompt = round(use.prompt_tokens * prompt_ratio)
    shared_each = Fraction(other.shared, other.requests)
    shared = round(shared_each * use.calls)
    tokens = Tokens(
        requests=max(use.calls, 1),
        prompt=prompt,
        output=round(use.completion_tokens * output_ratio),
        # The prompts of a month may be shorter than those that were measured.
        shared=min(prompt, shared),
    )
    traffic = _traffic_for(inputs.traffic, share)
    return bill(tokens, inputs.alternative_rates, Fraction(use.calls), traffic).total


def _traffic_for(traffic: Traffic, share: Decimal) -> Traffic:
    hours = traffic.hosting_hours * share
    return replace(traffic, hosting_hours=hours, batch_share=Decimal(0))


def _ratio(other: int, other_requests: int, tuned: int, tuned_requests: int) -> Fraction:
    if not tuned:
        return Fraction(1)
    return Fraction(other * tuned_requests, other_requests * tuned)


def share_of_month(period: Period, spans: Sequence[tuple[float, float]]) -> Decimal:
    """Returns how much of a month (0 to 1) lies within `spans` during a period. The spans are unix seconds and don't
    overlap. A week is at most 7 / 30.4 of a month."""
    within = 0.0
    for since, until in spans:
        overlap = min(period.end_s, until) - max(period.start_s, since)
        within += max(0.0, overlap)
    seconds_per_month = period.hours_per_month * 3600
    return Decimal(round(within)) / seconds_per_month
