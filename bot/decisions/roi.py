"""What a fine-tune costs, what it saves a month, and when that pays: exact sums over measured tokens.

Volume is *input* tokens a month with today's prompt; output comes on top, by the ratio measured in the data.
Knows no price (trainers/pricing.py) and gives no verdict (advice.py). Money in USD, months of 730 hours.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, Decimal

from bot.decisions.amounts import HOURS_PER_MONTH
from trainers.pricing import PriceRow

MILLION = Decimal(1_000_000)
ZERO = Decimal(0)


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

    `prompt_before` is today's prompt with the text, `prompt_after` the tuned model's shorter one.
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
        """Out of means a request; a mean times its count is whole again."""
        return Usage(requests, round(before * requests), round(after * requests), round(output * requests))


@dataclass(frozen=True)
class Rates:
    """What a model costs to ask: USD per 1M tokens, and per hour for a machine of our own."""

    model: str
    input: Decimal
    output: Decimal
    said_by: str
    usd_per_hour: Decimal = ZERO
    note: str | None = None


@dataclass(frozen=True)
class Training:
    """`tokens` of one epoch. Paid by the token or by the hour; exactly one of the two is set.

    `runs` is how many runs are expected until one is good enough.
    """

    tokens: int
    epochs: int
    usd_per_million: Decimal | None = None
    usd_per_hour: Decimal | None = None
    minutes: Range | None = None
    runs: int = 1

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
class Inputs:
    """Everything that an estimate depends on. `ends`: the first day on which the tuned model is gone.

    `hosting_hours` a month that a machine of our own is kept up. `volume_spread` 0.25 means ±25%.
    """

    monthly_input_tokens: int
    usage: Usage
    now: Rates
    tuned: Rates
    training: Training
    today: date
    ends: date | None = None
    hosting_hours: Decimal = HOURS_PER_MONTH
    evaluation_usd: Decimal = ZERO
    people_hours: Decimal = ZERO
    people_usd_per_hour: Decimal = ZERO
    volume_spread: Decimal = Decimal("0.25")
    payback_target_months: Decimal = Decimal(3)


@dataclass(frozen=True)
class Assumption:
    """`why` says where the value comes from and how to change it."""

    name: str
    value: str
    why: str


@dataclass(frozen=True)
class MonthlyCost:
    input: Decimal
    output: Decimal
    hosting: Decimal

    @property
    def total(self) -> Decimal:
        return self.input + self.output + self.hosting


@dataclass(frozen=True)
class Estimate:
    """`training_tokens` over all epochs and runs. `one_off_usd`: training, evaluation and people.

    `payback_months` is None where nothing is saved. `break_even_tokens_per_month` is the volume that pays
    back within `payback_target_months` (less where the model ends before); None where no volume does.
    """

    monthly_input_tokens: int
    training_tokens: int
    training_minutes: Range | None
    training_usd: Decimal
    training_usd_range: Range
    evaluation_usd: Decimal
    people_usd: Decimal
    one_off_usd: Decimal
    monthly_before: MonthlyCost
    monthly_after: MonthlyCost
    saving_month: Decimal
    saving_month_range: Range
    payback_months: Decimal | None
    payback_target_months: Decimal
    break_even_tokens_per_month: int | None
    months_left: Decimal | None


@dataclass(frozen=True)
class Gap:
    """A price that is needed and not known. `sentence` says which and where to put it."""

    sentence: str


def estimate(inputs: Inputs) -> Estimate:
    """The article's sum, done right: 10M tokens at $2.50 per 1M are $25."""
    training, left = inputs.training.usd, _months_until(inputs.ends, inputs.today)
    people = inputs.people_hours * inputs.people_usd_per_hour
    one_off = training.expected + inputs.evaluation_usd + people
    saving = _savings(inputs)
    target = inputs.payback_target_months if left is None else min(inputs.payback_target_months, left)
    return Estimate(
        monthly_input_tokens=inputs.monthly_input_tokens,
        training_tokens=inputs.training.billed_tokens,
        training_minutes=inputs.training.minutes,
        training_usd=training.expected,
        training_usd_range=training,
        evaluation_usd=inputs.evaluation_usd,
        people_usd=people,
        one_off_usd=one_off,
        monthly_before=_before(inputs, Decimal(inputs.monthly_input_tokens)),
        monthly_after=_after(inputs, Decimal(inputs.monthly_input_tokens)),
        saving_month=saving.expected,
        saving_month_range=saving,
        payback_months=one_off / saving.expected if saving.expected > 0 else None,
        payback_target_months=target,
        break_even_tokens_per_month=_break_even(inputs, one_off, target),
        months_left=left,
    )


def rates_of(row: PriceRow) -> Rates | Gap:
    price = row.price
    if price.input is None or price.output is None:
        return Gap(f"Nobody told me what a token of {row.model} costs: {_where_to_put(row)}")
    return Rates(row.model, price.input, price.output, row.said_by, row.usd_per_hour or ZERO, row.note)


def training_of(row: PriceRow, tokens: int, epochs: int, minutes: Range | None) -> Training | Gap:
    """`tokens` of one epoch; `minutes` where the speed is known."""
    if row.usd_per_hour is not None:
        if row.usd_per_hour and minutes is None:
            return Gap(f"Training on {row.model} is paid by the hour, and its speed is not known yet.")
        return Training(tokens, epochs, usd_per_hour=row.usd_per_hour, minutes=minutes)
    if row.price.training is None:
        return Gap(f"Nobody told me what training on {row.model} costs: {_where_to_put(row)}")
    return Training(tokens, epochs, usd_per_million=row.price.training, minutes=minutes)


def evaluation_usd(holdout: Usage, base: Rates, tuned: Rates) -> Decimal:
    """Both arms asked once on every held-out row: the base with the long prompt, the tuned with the short."""
    asked_base = holdout.prompt_before * base.input + holdout.output * base.output
    asked_tuned = holdout.prompt_after * tuned.input + holdout.output * tuned.output
    return (asked_base + asked_tuned) / MILLION


def _before(inputs: Inputs, volume: Decimal) -> MonthlyCost:
    usage = inputs.usage
    output = volume * usage.output / usage.prompt_before
    return _monthly(inputs.now, volume, output, inputs.hosting_hours)


def _after(inputs: Inputs, volume: Decimal) -> MonthlyCost:
    """The same requests with the tuned prompt: their input shrinks by the measured ratio."""
    usage = inputs.usage
    shrunk = volume * usage.prompt_after / usage.prompt_before
    output = volume * usage.output / usage.prompt_before
    return _monthly(inputs.tuned, shrunk, output, inputs.hosting_hours)


def _monthly(rates: Rates, tokens_in: Decimal, tokens_out: Decimal, hours: Decimal) -> MonthlyCost:
    return MonthlyCost(
        input=tokens_in * rates.input / MILLION,
        output=tokens_out * rates.output / MILLION,
        hosting=rates.usd_per_hour * hours,
    )


def _saving(inputs: Inputs, volume: Decimal) -> Decimal:
    return _before(inputs, volume).total - _after(inputs, volume).total


def _savings(inputs: Inputs) -> Range:
    """Saving is a straight line over volume: its ends are at the ends of the volume."""
    volume = Decimal(inputs.monthly_input_tokens)
    ends = (_saving(inputs, volume * (1 + sign * inputs.volume_spread)) for sign in (-1, 1))
    low, high = sorted(ends)
    return Range(low, _saving(inputs, volume), high)


def _break_even(inputs: Inputs, one_off: Decimal, within_months: Decimal) -> int | None:
    """(C₀/T + what hosting adds) / Δp a token, with T = `within_months`."""
    more_hosting = -_saving(inputs, ZERO)
    saved_per_million = _saving(inputs, MILLION) + more_hosting
    if saved_per_million <= 0 or within_months <= 0:
        return None
    needed = max(ZERO, one_off / within_months + more_hosting)
    return int((needed * MILLION / saved_per_million).to_integral_value(ROUND_CEILING))


def _months_until(ends: date | None, today: date) -> Decimal | None:
    return None if ends is None else Decimal(max(0, (ends - today).days) * 24) / HOURS_PER_MONTH


def _where_to_put(row: PriceRow) -> str:
    provider, slash, model = row.model.partition("/")
    if row.kind == "prompted" or not slash:
        return f'put it into finetune.toml under [prices."{row.model}"].'
    return f'put it into finetune.toml under [providers.{provider}.models."{model}"].'
