"""What a fine-tune costs, what it saves a month, and when it pays back: exact sums over measured tokens.

Volume is *input* tokens a month with today's prompt; output comes on top, by the ratio measured in the data. The
saving is against the cheapest alternative that is good enough (alternatives.py). Reads no price list (prices.py) and
gives no verdict (advice.py). Money in USD, months of 730 hours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import ROUND_CEILING, Decimal
from fractions import Fraction

from bot.rules.alternatives import Alternative
from bot.rules.bills import (
    MILLION,
    ZERO,
    Flow,
    Phase,
    Tokens,
    Traffic,
    bill,
    machines_needed,
    monthly_savings,
    net_present_value,
    payback_months,
)
from bot.rules.bills import MonthlyCost as MonthlyCost
from bot.rules.bills import Rates as Rates
from bot.rules.units import HOURS_PER_MONTH

USD_PER_HOUR = Decimal(75)
ONE_BY_ONE = Traffic()


@dataclass(frozen=True)
class Range:
    low: Decimal
    expected: Decimal
    high: Decimal

    @staticmethod
    def exactly(value: Decimal) -> Range:
        return Range(value, value, value)

    def times(self, factor: Decimal) -> Range:
        """`factor` is not negative."""
        return Range(self.low * factor, self.expected * factor, self.high * factor)

    def over(self, divisor: int) -> Range:
        return Range(self.low / divisor, self.expected / divisor, self.high / divisor)


@dataclass(frozen=True)
class Usage:
    """Tokens of `requests` measured requests, summed: totals keep the ratios exact.

    `prompt_before` is today's prompt with the text, `prompt_after` the tuned model's shorter one: what the former
    has more, each request repeats.
    """

    requests: int
    prompt_before: int
    prompt_after: int
    output: int

    def __post_init__(self) -> None:
        if min(self.requests, self.prompt_before, self.prompt_after) < 1 or self.output < 0:
            raise ValueError(f"a request has a prompt of at least one token: {self}")

    @staticmethod
    def from_means(requests: int, before: float, after: float, output: float) -> Usage:
        """Reads means of a request; a mean times its count is whole again."""
        return Usage(requests, round(before * requests), round(after * requests), round(output * requests))

    @property
    def today(self) -> Tokens:
        shared = max(0, self.prompt_before - self.prompt_after)
        return Tokens(self.requests, self.prompt_before, self.output, shared)

    @property
    def tuned(self) -> Tokens:
        return Tokens(self.requests, self.prompt_after, self.output)

    @property
    def own(self) -> Fraction:
        """Prompt tokens a request that no other request repeats, at most."""
        return Fraction(min(self.prompt_before, self.prompt_after), self.requests)


@dataclass(frozen=True)
class Training:
    """`tokens` of one epoch. Paid by the token or by the hour; exactly one of the two is set.

    `runs` is how many runs are expected until one is good enough. `speed_measured`: the day on which the speed of
    the machine was measured; None where a person said it, a queue decides, or it `is_guess` by sizes.
    `is_estimated`: the tokens were counted by another model's tokenizer.
    """

    tokens: int
    epochs: int
    usd_per_million: Decimal | None = None
    usd_per_hour: Decimal | None = None
    minutes: Range | None = None
    runs: int = 1
    speed_measured: str | None = None
    is_guess: bool = False
    is_estimated: bool = False

    def __post_init__(self) -> None:
        if (self.usd_per_million is None) == (self.usd_per_hour is None):
            raise ValueError("training is paid either by the token or by the hour")
        if self.usd_per_hour and self.minutes is None:
            raise ValueError("training that is paid by the hour needs its minutes")

    @property
    def billed_tokens(self) -> int:
        return self.tokens * self.epochs * self.runs

    @property
    def usd(self) -> Range:
        if self.usd_per_million is not None:
            return Range.exactly(self.billed_tokens * self.usd_per_million / MILLION)
        if self.minutes is None or self.usd_per_hour is None:
            return Range.exactly(ZERO)
        return self.minutes.times(self.usd_per_hour * self.runs).over(60)


@dataclass(frozen=True)
class Quality:
    """Two models on the same held-out `rows`: sums of what the tuned model did better than the alternative, and
    worse."""

    rows: int
    gained: Decimal
    lost: Decimal
    usd_per_wrong: Decimal

    @property
    def gap(self) -> Decimal:
        """-1 to 1; above 0 where the tuned model is better."""
        return (self.gained - self.lost) / self.rows


@dataclass(frozen=True)
class Inputs:
    """Everything that an estimate depends on; what has a default is listed by assumptions.py.

    `ends`: the first day on which the tuned model is gone. `alternative` None: today's model. `tuned_tokens`
    where the tuned model was measured. `evaluation_usd` is one run's. `people_hours` None: nobody said. `labels` are
    those still to be made.
    Each `retrain_months` the training is paid again. `price_fall` is the share by which the alternative's tokens
    get cheaper a year, `run_fails` that of runs which must be done again (the outlook reckons with it),
    `discount` a year. `volume_spread` 0.25 means ±25%.

    Where the model that the saving is held against ends, its successor takes its place, with as many tokens and at its
    own price. Where that is not known nothing is counted from then on.
    """

    monthly_input_tokens: int
    usage: Usage
    now: Rates
    tuned: Rates
    training: Training
    today: date
    ends: date | None = None
    alternative: Alternative | None = None
    tuned_tokens: Tokens | None = None
    asking: Traffic = ONE_BY_ONE
    evaluation_usd: Decimal = ZERO
    people_hours: Decimal | None = None
    people_usd_per_hour: Decimal = USD_PER_HOUR
    labels: int = 0
    usd_per_label: Decimal = ZERO
    quality: Quality | None = None
    retrain_months: int | None = None
    monitoring_usd: Decimal = ZERO
    price_fall: Range = Range(ZERO, Decimal("0.3"), Decimal("0.7"))
    run_fails: Decimal = Decimal("0.2")
    discount: Decimal = Decimal("0.1")
    horizon_months: int = 12
    volume_spread: Decimal = Decimal("0.25")
    payback_target_months: Decimal = Decimal(3)

    def __post_init__(self) -> None:
        hours = self.people_hours or ZERO
        if min(self.monthly_input_tokens, self.labels) < 0 or min(hours, self.monitoring_usd) < 0:
            raise ValueError("volume, labels, hours and monitoring are not negative")

    @property
    def requests(self) -> Fraction:
        """Requests a month."""
        return Fraction(self.monthly_input_tokens * self.usage.requests, self.usage.prompt_before)

    @property
    def months_left(self) -> Decimal | None:
        """Months until the tuned model is gone; None: nobody has said that it will be."""
        return None if self.ends is None else self.months_to(self.ends)

    def months_to(self, day: date) -> Decimal:
        return Decimal(max(0, (day - self.today).days) * 24) / HOURS_PER_MONTH

    @property
    def alternative_rates(self) -> Rates:
        return self.alternative.rates if self.alternative else self.now

    @property
    def months_known(self) -> Decimal | None:
        """Months until the tuned model is gone, or until nobody knows any more what it is held against; None: no
        end."""
        rates = self.alternative_rates
        while rates.ends and rates.then:
            rates = rates.then
        ends = (self.months_left, None if rates.ends is None else self.months_to(rates.ends))
        return min((end for end in ends if end is not None), default=None)

    @property
    def horizon(self) -> Decimal:
        ahead, amount = Decimal(self.horizon_months), self.months_known
        return ahead if amount is None else min(ahead, amount)


@dataclass(frozen=True)
class Succession:
    """`model`, which the saving is held against, `ends` before the horizon does. Against its `successor` it is
    `saving_month` a month; None where its price, or even its name, is not known."""

    model: str
    ends: date
    successor: str | None
    saving_month: Decimal | None


@dataclass(frozen=True)
class Estimate:
    """`training_tokens` over all epochs and runs. `one_off_usd`: training, evaluation, labels and people.

    `monthly_before` is today's bill, `monthly_alternative` what the saving is held against, and
    `errors_avoided_usd` what better answers are worth a month: saving = alternative - after + errors avoided.
    `payback_months` is None where it never comes back, as far as is known. `break_even_tokens_per_month` is the
    volume that pays back within `payback_target_months` (less where the model ends before); None where no volume does.
    `bearable_hours` of people's time are the most that still do, None where the hours were said.
    `npv_usd` is over `horizon_months`. `machines` of our own serve the volume: None where a vendor does, or
    nobody knows.
    """

    monthly_input_tokens: int
    training_tokens: int
    training_minutes: Range | None
    training_usd: Decimal
    training_usd_range: Range
    evaluation_usd: Decimal
    people_usd: Decimal
    labels_usd: Decimal
    one_off_usd: Decimal
    monthly_before: MonthlyCost
    monthly_alternative: MonthlyCost
    monthly_after: MonthlyCost
    errors_avoided_usd: Decimal
    saving_month: Decimal
    saving_month_range: Range
    payback_months: Decimal | None
    payback_target_months: Decimal
    break_even_tokens_per_month: int | None
    months_left: Decimal | None
    npv_usd: Decimal
    horizon_months: Decimal
    bearable_hours: Decimal | None = None
    succession: Succession | None = None
    machines: int | None = None
    on_own_machine: bool = False


def estimate(inputs: Inputs) -> Estimate:
    """The whole sum. 10M tokens at $2.50 per 1M are $25."""
    monthly, one_off = monthly_flow(inputs), one_off_usd(inputs)
    target = target_months(inputs)
    saving, stages = monthly.saving(), saving_phases(inputs)
    # Saving is a straight line over volume: its ends are at the ends of the volume.
    low, high = sorted(monthly.at_volume(1 + sign * inputs.volume_spread) for sign in (-1, 1))
    bearable_hours = None
    if inputs.people_hours is None and inputs.people_usd_per_hour:
        saved = sum((stage.within(ZERO, target) * stage.flow.saving() for stage in stages), ZERO)
        bearable_hours = max(ZERO, saved - one_off) / inputs.people_usd_per_hour
    return Estimate(
        monthly_input_tokens=inputs.monthly_input_tokens,
        training_tokens=inputs.training.billed_tokens,
        training_minutes=inputs.training.minutes,
        training_usd=inputs.training.usd.expected,
        training_usd_range=inputs.training.usd,
        evaluation_usd=evaluations_usd(inputs),
        people_usd=people_usd(inputs),
        labels_usd=inputs.labels * inputs.usd_per_label,
        one_off_usd=one_off,
        monthly_before=bill(inputs.usage.today, inputs.now, inputs.requests, inputs.asking),
        monthly_alternative=_alternative_bill(inputs, inputs.alternative_rates),
        monthly_after=_tuned_bill(inputs),
        errors_avoided_usd=_errors_avoided_usd(inputs),
        saving_month=saving,
        saving_month_range=Range(low, saving, high),
        payback_months=payback_months(one_off, stages) if inputs.months_left != 0 else None,
        payback_target_months=target,
        break_even_tokens_per_month=_break_even(inputs, one_off, target),
        months_left=inputs.months_left,
        npv_usd=net_value(inputs),
        horizon_months=inputs.horizon,
        bearable_hours=bearable_hours,
        succession=_succession(inputs, stages),
        machines=machines_needed(_tuned_tokens(inputs), inputs.tuned, inputs.requests, inputs.asking),
        on_own_machine=inputs.tuned.on_own_machine,
    )


def one_off_usd(inputs: Inputs) -> Decimal:
    """What is spent before anything is saved, C₀: training, evaluation, labels and people."""
    labels = inputs.labels * inputs.usd_per_label
    return inputs.training.usd.expected + evaluations_usd(inputs) + labels + people_usd(inputs)


def evaluations_usd(inputs: Inputs) -> Decimal:
    """USD of all evaluations: each run is measured once."""
    return inputs.evaluation_usd * inputs.training.runs


def people_usd(inputs: Inputs) -> Decimal:
    return (inputs.people_hours or ZERO) * inputs.people_usd_per_hour


def target_months(inputs: Inputs) -> Decimal:
    """Months within which it must pay back: before the model is gone, and while it is known what is saved."""
    amount, target = inputs.months_known, inputs.payback_target_months
    return target if amount is None else min(target, amount)


def net_value(inputs: Inputs) -> Decimal:
    """The net present value over the horizon."""
    savings = monthly_savings(saving_phases(inputs), inputs.price_fall.expected, inputs.horizon)
    return net_present_value(one_off_usd(inputs), savings, inputs.discount)


def saving_phases(inputs: Inputs) -> tuple[Phase, ...]:
    """The saving against one model after the other: each until it ends, then against its successor. What a successor
    gets right nobody has measured: better answers count no longer, worse ones do."""
    phases: list[Phase] = []
    start, rates = ZERO, inputs.alternative_rates
    while True:
        saved = monthly_flow(inputs, rates)
        if phases:
            saved = replace(saved, errors=min(saved.errors, ZERO))
        end = None if rates.ends is None else max(start, inputs.months_to(rates.ends))
        phases.append(Phase(start, end, saved))
        if end is None or rates.then is None:
            return tuple(phases)
        start, rates = end, rates.then


def monthly_flow(inputs: Inputs, rates: Rates | None = None) -> Flow:
    """A month's saving against a model at `rates`, by default against the alternative. Bills are straight lines over
    volume, so what is left at none is fixed. Machines come one by one, but between none and this volume their cost
    is taken to rise evenly."""
    rates = rates or inputs.alternative_rates
    idle = replace(inputs, monthly_input_tokens=0)
    other, other_idle = _alternative_bill(inputs, rates), _alternative_bill(idle, rates)
    tuned, tuned_idle = _tuned_bill(inputs), _tuned_bill(idle)
    falling = ZERO if rates.usd_per_hour else other.input + other.output
    return Flow(
        falling=falling,
        steady=other.total - other_idle.total - falling - (tuned.total - tuned_idle.total),
        errors=_errors_avoided_usd(inputs),
        fixed=other_idle.total - tuned_idle.total,
    )


def _alternative_bill(inputs: Inputs, rates: Rates) -> MonthlyCost:
    tokens = inputs.alternative.tokens if inputs.alternative else inputs.usage.today
    return bill(tokens, rates, inputs.requests, inputs.asking)


def _tuned_tokens(inputs: Inputs) -> Tokens:
    return inputs.tuned_tokens or inputs.usage.tuned


def _tuned_bill(inputs: Inputs) -> MonthlyCost:
    """The bill of the same requests with the tuned model's prompt, and its upkeep."""
    cost = bill(_tuned_tokens(inputs), inputs.tuned, inputs.requests, inputs.asking)
    return replace(cost, upkeep=inputs.monitoring_usd + retraining_usd(inputs))


def retraining_usd(inputs: Inputs) -> Decimal:
    if inputs.retrain_months is None:
        return ZERO
    return (inputs.training.usd.expected + evaluations_usd(inputs)) / inputs.retrain_months


def _errors_avoided_usd(inputs: Inputs) -> Decimal:
    """USD a month that avoided errors are worth, below 0 where the tuned model is worse."""
    return inputs.quality.gap * wrong_answers_usd(inputs) if inputs.quality else ZERO


def wrong_answers_usd(inputs: Inputs) -> Decimal:
    """USD a month, if every answer were wrong."""
    if inputs.quality is None:
        return ZERO
    requests = Decimal(inputs.requests.numerator) / inputs.requests.denominator
    return inputs.quality.usd_per_wrong * requests


def _succession(inputs: Inputs, stages: Sequence[Phase]) -> Succession | None:
    rates, left = inputs.alternative_rates, inputs.months_left
    ahead = Decimal(inputs.horizon_months)
    ahead = ahead if left is None else min(ahead, left)
    if rates.ends is None or inputs.months_to(rates.ends) >= ahead:
        return None
    later = stages[1].flow.saving() if len(stages) > 1 else None
    return Succession(rates.model, rates.ends, rates.successor, later)


def _break_even(inputs: Inputs, one_off: Decimal, within_months: Decimal) -> int | None:
    """Input tokens a month from which on it pays back within T = `within_months`: (C₀ + what hosting and upkeep add
    in T) / (T·Δp). None where no volume does."""
    volume = max(inputs.monthly_input_tokens, int(MILLION))
    spans = [
        (phase.within(ZERO, within_months), phase.flow)
        for phase in saving_phases(replace(inputs, monthly_input_tokens=volume))
    ]
    by_volume = sum((months * saved.by_volume for months, saved in spans), ZERO)
    if by_volume <= 0:
        return None
    needed = max(ZERO, one_off - sum((months * saved.fixed for months, saved in spans), ZERO))
    return int((needed * volume / by_volume).to_integral_value(ROUND_CEILING))
