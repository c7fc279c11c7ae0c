"""What a fine-tune costs, what it saves per month, and when it pays back: exact sums over measured tokens.

Volume means *input* tokens per month with today's prompt; output tokens are added in the ratio measured in the data.
estimates.py turns a number of requests into tokens. The saving is relative to the cheapest alternative that is good
enough (alternatives.py). Reads no price list (prices.py) and gives no verdict (advice.py). Money is in USD, a month has
730 hours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from fractions import Fraction
from typing import Literal

from bot.rules.alternatives import Alternative
from bot.rules.bills import (
    MILLION,
    ZERO,
    Flow,
    MachineTime,
    MonthlyCost,
    Phase,
    Rates,
    Tokens,
    Traffic,
    bill,
    least_lasting_volume,
    machine_time,
    machines_needed,
    monthly_savings,
    net_present_value,
    payback_months,
)
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

    def quantile(self, p: Decimal) -> Decimal:
        """Returns the value below which a share `p` of the triangular distribution lies."""
        width = self.high - self.low
        rise = self.expected - self.low
        fall = self.high - self.expected
        if not width:
            return self.expected
        if p * width <= rise:
            return self.low + (p * width * rise).sqrt()
        return self.high - ((1 - p) * width * fall).sqrt()


@dataclass(frozen=True)
class Usage:
    """Tokens summed over `requests` measured requests; totals keep the ratios exact.

    `prompt_before` are the tokens of today's prompts, `prompt_after` those of the tuned model's shorter prompts. The
    difference is the part of today's prompt that is the same in each request.
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
        """Builds the value from mean tokens per request; a mean times its count is a whole number again."""
        return Usage(requests, round(before * requests), round(after * requests), round(output * requests))

    @property
    def today(self) -> Tokens:
        shared = max(0, self.prompt_before - self.prompt_after)
        return Tokens(self.requests, self.prompt_before, self.output, shared)

    @property
    def tuned(self) -> Tokens:
        return Tokens(self.requests, self.prompt_after, self.output)

    @property
    def tokens_per_request(self) -> Fraction:
        """The mean input tokens of one request with today's prompt."""
        return Fraction(self.prompt_before, self.requests)

    @property
    def own(self) -> Fraction:
        """The most prompt tokens per request that other requests don't share."""
        return Fraction(min(self.prompt_before, self.prompt_after), self.requests)


@dataclass(frozen=True)
class Training:
    """A training of `tokens` per epoch. It is paid by the token or by the hour; exactly one of the two prices is set.

    `runs` is the expected number of runs until one is good enough. `speed_measured` is the day on which the machine's
    speed was measured; None if a person gave the time, a queue decides, or the time `is_guess`, made from the model's
    size. `is_estimated` is true if the tokens were counted with another model's tokenizer.
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
    """The tuned model and the alternative on the same held-out `rows`: `gained` and `lost` are the sums of the row
    scores by which the tuned model is better and worse."""

    rows: int
    gained: Decimal
    lost: Decimal
    usd_per_wrong: Decimal

    @property
    def gap(self) -> Decimal:
        """The difference in quality from -1 to 1, above 0 if the tuned model is better."""
        return (self.gained - self.lost) / self.rows


@dataclass(frozen=True)
class Inputs:
    """Everything that an estimate depends on; bot/cards/decisions/assumptions.py lists the fields that have a default.

    - `ends` is the first day on which the tuned model is gone.
    - `alternative` is None if the saving is relative to today's model.
    - `tuned_tokens` is None if the tuned model was not measured.
    - `evaluation_usd` is the cost of evaluating one run.
    - `people_hours` is None if not given. `labels` are the rows still to be labelled.
    - The training is paid again every `retrain_months`.
    - `price_fall` is the share by which the alternative's token prices fall per year, `discount` the discount rate per
      year. `run_fails` is the share of runs that have to be repeated; only the outlook uses it.
    - `volume_spread` of 0.25 means ±25%.

    If the model that the saving is compared with is shut down, its successor replaces it, with the same number of
    tokens at its own price. If that price is unknown, no savings are counted from then on."""

    monthly_input_tokens: int
    usage: Usage
    now: Rates
    tuned: Rates
    training: Training
    today: date
    ends: date | None = None
    alternative: Alternative | None = None
    tuned_tokens: Tokens | None = None
    traffic: Traffic = ONE_BY_ONE
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
            raise ValueError("volume, labels, hours and monitoring can't be negative")

    @property
    def requests(self) -> Fraction:
        """Requests per month."""
        return self.monthly_input_tokens / self.usage.tokens_per_request

    @property
    def months_left(self) -> Decimal | None:
        """Months until the tuned model is gone; None if it has no known end."""
        if self.ends is None:
            return None
        return self.months_to(self.ends)

    def months_to(self, day: date) -> Decimal:
        return Decimal(max(0, (day - self.today).days) * 24) / HOURS_PER_MONTH

    @property
    def alternative_rates(self) -> Rates:
        if self.alternative is None:
            return self.now
        return self.alternative.rates

    @property
    def yearly_price_fall(self) -> Decimal:
        """The expected share by which the alternative gets cheaper in a year; 0 if it isn't paid by the token."""
        rates = self.alternative_rates
        is_by_token = bool(rates.input or rates.output) and not rates.usd_per_hour
        if not is_by_token:
            return ZERO
        return self.price_fall.expected

    @property
    def months_known(self) -> Decimal | None:
        """Months until the tuned model is gone, or until the model that it is compared with ends without a known
        successor; None if neither has an end."""
        rates = self.alternative_rates
        while rates.ends and rates.after_end:
            rates = rates.after_end
        if rates.ends is None:
            return self.months_left
        months = self.months_to(rates.ends)
        if self.months_left is None:
            return months
        return min(self.months_left, months)

    @property
    def horizon(self) -> Decimal:
        ahead = Decimal(self.horizon_months)
        if self.months_known is None:
            return ahead
        return min(ahead, self.months_known)


@dataclass(frozen=True)
class Succession:
    """The model that the saving is compared with `ends` within the horizon. `saving_month` is the monthly saving
    relative to its `successor`; both are None if unknown. If the tuned model `ends_too` on that day, there is no saving
    relative to a successor."""

    model: str
    ends: date
    successor: str | None
    saving_month: Decimal | None
    ends_too: bool = False


LossCause = Literal["successor", "price fall"]


@dataclass(frozen=True)
class Estimate:
    """An estimate in expected values; outlooks with chances are in forecast.py.

    - `tokens_per_request` are the input tokens of one request with today's prompt.
    - `training_tokens` are those of all epochs and runs.
    - `one_off_usd` is the sum of training, evaluation, labels and people.
    - `monthly_before` is today's bill, `monthly_alternative` the bill that the saving is relative to, `monthly_after`
      the tuned model's. saving_month = alternative - after + errors_avoided_usd.
    - `payback_months` is None if the cost is never recovered while the tuned model is there, and the model that it is
      compared with, or a known successor of that.
    - `break_even_tokens_per_month` is the volume that pays back within `payback_target_months` (which end with the
      model at the latest); None if no volume does.
    - `bearable_hours` are the most hours of people's time that still pay back within the target; None if the hours were
      given.
    - `npv_usd` is the net present value over `horizon_months`. `loss_cause` says why it is below 0 although money is
      saved at first; None otherwise.
    - `yearly_price_fall` is the share by which the alternative is expected to get cheaper in a year. It lowers the net
      value, but neither the monthly saving nor the payback time.
    - `ends` is the first day on which the tuned model is gone, None if that is not within the horizon.
    - `machines` that are paid by the hour serve the volume; None if it is paid by the token, or if their speed is
      unknown. `machines_range` is set if their number rests on a throughput guessed from the model's size.
    """

    monthly_input_tokens: int
    tokens_per_request: Fraction
    training_tokens: int
    training_usd: Decimal
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
    machines_range: tuple[int, int] | None = None
    loss_cause: LossCause | None = None
    ends: date | None = None
    yearly_price_fall: Decimal = ZERO

    @property
    def rests_on_one_machine(self) -> bool:
        """True if one machine is counted because nobody knows how many the volume needs."""
        return bool(self.monthly_after.hosting) and self.machines is None

    @property
    def saving_ends(self) -> date | None:
        """The first day on which the saving is another one, or none at all, because a model has ended."""
        if self.succession is None:
            return self.ends
        if self.ends is None:
            return self.succession.ends
        return min(self.ends, self.succession.ends)


def estimate(inputs: Inputs) -> Estimate:
    """Returns the whole estimate."""
    one_off = one_off_usd(inputs)
    target = target_months(inputs)
    stages = saving_phases(inputs)
    monthly = stages[0].flow
    saving = monthly.saving()
    net = net_value(inputs)
    ends = [monthly.saving(factor=1 + sign * inputs.volume_spread) for sign in (-1, 1)]
    bearable_hours = None
    if inputs.people_hours is None and inputs.people_usd_per_hour:
        saved = ZERO
        for stage in stages:
            saved += stage.within(ZERO, target) * stage.flow.saving()
        bearable_hours = max(ZERO, saved - one_off) / inputs.people_usd_per_hour
    return Estimate(
        monthly_input_tokens=inputs.monthly_input_tokens,
        tokens_per_request=inputs.usage.tokens_per_request,
        training_tokens=inputs.training.billed_tokens,
        training_usd=inputs.training.usd.expected,
        evaluation_usd=evaluations_usd(inputs),
        people_usd=people_usd(inputs),
        labels_usd=inputs.labels * inputs.usd_per_label,
        one_off_usd=one_off,
        monthly_before=bill(inputs.usage.today, inputs.now, inputs.requests, inputs.traffic),
        monthly_alternative=_alternative_bill(inputs, inputs.alternative_rates),
        monthly_after=_tuned_bill(inputs),
        errors_avoided_usd=_errors_avoided_usd(inputs),
        saving_month=saving,
        # The bills for machines grow in steps, so more requests may save less.
        saving_month_range=Range(min(*ends, saving), saving, max(*ends, saving)),
        payback_months=_payback_while_known(inputs, one_off, stages),
        payback_target_months=target,
        break_even_tokens_per_month=_break_even(inputs, one_off, target),
        months_left=inputs.months_left,
        npv_usd=net,
        horizon_months=inputs.horizon,
        bearable_hours=bearable_hours,
        succession=_succession(inputs, stages),
        machines=machines_needed(_tuned_tokens(inputs), inputs.tuned, inputs.requests, inputs.traffic),
        on_own_machine=inputs.tuned.on_own_machine,
        machines_range=_machines_range(monthly.spent_machines),
        loss_cause=_cause_of_loss(inputs, net) if saving > 0 > net else None,
        ends=_end_within_horizon(inputs),
        yearly_price_fall=inputs.yearly_price_fall,
    )


def _machines_range(machines: MachineTime | None) -> tuple[int, int] | None:
    if machines is None or machines.spread <= 1:
        return None
    return machines.count_range


def _payback_while_known(inputs: Inputs, one_off: Decimal, stages: Sequence[Phase]) -> Decimal | None:
    """Returns the months until `one_off` is recovered; None if the tuned model, or what it is compared with, is gone
    before."""
    # A model that is gone pays nothing back, even if its training cost nothing.
    if inputs.months_left == 0:
        return None
    months = payback_months(one_off, stages)
    until = inputs.months_known
    if months is None or (until is not None and months > until):
        return None
    return months


def _end_within_horizon(inputs: Inputs) -> date | None:
    left = inputs.months_left
    if left is None or left >= inputs.horizon_months:
        return None
    return inputs.ends


def _cause_of_loss(inputs: Inputs, net: Decimal) -> LossCause | None:
    """Returns why the net value `net` is a loss although money is saved at first: the successor of the model that the
    saving is compared with, or the falling price, whichever costs more. None if both cost nothing, so that the one-off
    cost is the reason."""
    now = inputs.alternative_rates
    by_successor = ZERO
    if now.ends is not None and now.after_end is not None:
        lasting = replace(now, ends=None)
        by_successor = net_value(_compared_with(inputs, lasting)) - net
    by_price = net_value(replace(inputs, price_fall=Range.exactly(ZERO))) - net
    if max(by_successor, by_price) <= 0:
        return None
    if by_successor >= by_price:
        return "successor"
    return "price fall"


def _compared_with(inputs: Inputs, rates: Rates) -> Inputs:
    """Returns the inputs with other rates of the model that the saving is compared with."""
    if inputs.alternative is None:
        return replace(inputs, now=rates)
    return replace(inputs, alternative=replace(inputs.alternative, rates=rates))


def one_off_usd(inputs: Inputs) -> Decimal:
    """Returns what is spent before anything is saved (C₀): training, evaluation, labels and people."""
    labels = inputs.labels * inputs.usd_per_label
    return inputs.training.usd.expected + evaluations_usd(inputs) + labels + people_usd(inputs)


def evaluations_usd(inputs: Inputs) -> Decimal:
    """Returns the cost of all evaluations; each run is measured once."""
    return inputs.evaluation_usd * inputs.training.runs


def people_usd(inputs: Inputs) -> Decimal:
    return (inputs.people_hours or ZERO) * inputs.people_usd_per_hour


def target_months(inputs: Inputs) -> Decimal:
    """Returns the months within which the fine-tune has to pay back: the target, or less if the model or the knowledge
    of the saving ends before."""
    target = inputs.payback_target_months
    if inputs.months_known is None:
        return target
    return min(target, inputs.months_known)


def net_value(inputs: Inputs) -> Decimal:
    """Returns the expected net present value over the horizon."""
    savings = monthly_savings(saving_phases(inputs), inputs.price_fall.expected, inputs.horizon)
    return net_present_value(one_off_usd(inputs), savings, inputs.discount)


def saving_phases(inputs: Inputs) -> tuple[Phase, ...]:
    """Returns the saving relative to the alternative until that ends, then relative to its successor, and so on. Nobody
    has measured a successor's quality, so from then on an advantage in quality no longer counts, but a disadvantage
    does."""
    phases: list[Phase] = []
    start = ZERO
    rates = inputs.alternative_rates
    while True:
        saved = monthly_flow(inputs, rates)
        if phases:
            saved = replace(saved, errors=min(saved.errors, ZERO))
        end = None
        if rates.ends is not None:
            # A successor may itself end before it takes over.
            end = max(start, inputs.months_to(rates.ends))
        phases.append(Phase(start, end, saved))
        if end is None or rates.after_end is None:
            return tuple(phases)
        start = end
        rates = rates.after_end


def monthly_flow(inputs: Inputs, rates: Rates | None = None) -> Flow:
    """Returns a month's saving relative to a model at `rates`, by default to the alternative."""
    rates = rates or inputs.alternative_rates
    other = _alternative_bill(inputs, rates)
    tuned = _tuned_bill(inputs)
    # A machine that is paid by the hour has no token price that could fall.
    falling = ZERO if rates.usd_per_hour else other.input + other.output
    saved = other.input + other.output + other.requests - falling
    spent = tuned.input + tuned.output + tuned.requests
    return Flow(
        falling=falling,
        steady=saved - spent,
        errors=_errors_avoided_usd(inputs),
        fixed=-tuned.upkeep,
        saved_machines=machine_time(_alternative_tokens(inputs), rates, inputs.requests, inputs.traffic),
        spent_machines=machine_time(_tuned_tokens(inputs), inputs.tuned, inputs.requests, inputs.traffic),
    )


def _alternative_tokens(inputs: Inputs) -> Tokens:
    if inputs.alternative is None:
        return inputs.usage.today
    return inputs.alternative.tokens


def _alternative_bill(inputs: Inputs, rates: Rates) -> MonthlyCost:
    return bill(_alternative_tokens(inputs), rates, inputs.requests, inputs.traffic)


def _tuned_tokens(inputs: Inputs) -> Tokens:
    return inputs.tuned_tokens or inputs.usage.tuned


def _tuned_bill(inputs: Inputs) -> MonthlyCost:
    """Returns the bill for the same requests to the tuned model, with its upkeep."""
    cost = bill(_tuned_tokens(inputs), inputs.tuned, inputs.requests, inputs.traffic)
    return replace(cost, upkeep=inputs.monitoring_usd + retraining_usd(inputs))


def retraining_usd(inputs: Inputs) -> Decimal:
    if inputs.retrain_months is None:
        return ZERO
    return (inputs.training.usd.expected + evaluations_usd(inputs)) / inputs.retrain_months


def _errors_avoided_usd(inputs: Inputs) -> Decimal:
    """Returns the USD per month that avoided errors are worth; negative if the tuned model is worse."""
    if inputs.quality is None:
        return ZERO
    return inputs.quality.gap * wrong_answers_usd(inputs)


def wrong_answers_usd(inputs: Inputs) -> Decimal:
    """Returns the USD per month that it would cost if every answer were wrong."""
    if inputs.quality is None:
        return ZERO
    requests = Decimal(inputs.requests.numerator) / inputs.requests.denominator
    return inputs.quality.usd_per_wrong * requests


def _succession(inputs: Inputs, stages: Sequence[Phase]) -> Succession | None:
    rates = inputs.alternative_rates
    if rates.ends is None:
        return None
    months = inputs.months_to(rates.ends)
    left = inputs.months_left
    if months >= inputs.horizon_months or (left is not None and months > left):
        return None
    if months == left:
        return Succession(rates.model, rates.ends, rates.successor, None, ends_too=True)
    later = stages[1].flow.saving() if len(stages) > 1 else None
    return Succession(rates.model, rates.ends, rates.successor, later)


def _break_even(inputs: Inputs, one_off: Decimal, within_months: Decimal) -> int | None:
    """Returns the input tokens per month from which on the cost is recovered within `within_months`, None if no volume
    does."""
    # The others are tried as multiples of this volume, which therefore can't be 0.
    volume = max(inputs.monthly_input_tokens, int(MILLION))
    stages = [
        (phase.within(ZERO, within_months), phase.flow)
        for phase in saving_phases(replace(inputs, monthly_input_tokens=volume))
    ]

    def pays(tokens: int) -> bool:
        factor = Decimal(tokens) / volume
        so_far = -one_off
        for months, flow in stages:
            saving = flow.saving(factor=factor)
            so_far += months * saving
            # To have recovered it once is enough, even if a later phase loses money again.
            if months and saving > 0 and so_far >= 0:
                return True
        return False

    return least_lasting_volume(pays)
