"""The estimate under uncertainty: probabilities and ranges from 10,000 seeded draws of the uncertain inputs. Which of
them moves the net value most is computed without draws, in swings.py.

Draws are floats, because probabilities need no exact cents; money is returned as Decimal, rounded to cents. Each input
has its own stream of random numbers, so changing one doesn't change the draws of the others. A simulation takes a few
hundredths of a second. numpy is imported where it is used, because it slows the start.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

from bot.rules.bills import Flow, MachineTime, least_lasting_volume, month_weights, months_to
from bot.rules.roi import (
    Inputs,
    Quality,
    Range,
    evaluations_usd,
    net_value,
    people_usd,
    saving_phases,
    target_months,
    wrong_answers_usd,
)
from bot.rules.swings import LABOUR, Swing, rank_swings

# Go if the chance of paying back in time is at least 0.8, no-go if it is 0.2 or less.
LIKELY = 0.8
UNLIKELY = 0.2


@dataclass(frozen=True)
class Quantiles:
    """The 5%, 50% and 95% points of the draws. None means never: at this quantile the draws don't pay back."""

    p5: Decimal | None
    p50: Decimal | None
    p95: Decimal | None


@dataclass(frozen=True)
class Month:
    """Cumulative net USD (saved minus spent) after `month` months, by quantile over the draws."""

    month: Decimal
    p5: Decimal
    p50: Decimal
    p95: Decimal


@dataclass(frozen=True)
class Outlook:
    """The result of the seeded Monte Carlo simulation over an estimate's inputs. Amounts are in USD.

    - `p_payback` is the share of draws that pay back within `target_months`.
    - `npv` is the net present value over `horizon_months`, which end no later than the model does. `p_gain` is the
      share of draws in which it is not a loss.
    - `swings` has the widest first. They are around `expected`, the net value with every input as expected, which
      differs from the median draw if inputs are skewed.
    - `is_time_said` is true if the hours of people's time were given. If not, they count as 0, and `bearable_hours` are
      the most hours with which a share LIKELY of the draws still pays back in time; None if not even 0 hours do.
    - `likely_from` is the volume, in input tokens per month, from which on at least a share LIKELY of the draws pays
      back in time; None if no volume is enough.
    """

    draws: int
    seed: int
    target_months: Decimal
    horizon_months: Decimal
    p_payback: float
    p_gain: float
    payback_months: Quantiles
    saving_month: Quantiles
    npv: Quantiles
    swings: tuple[Swing, ...]
    months: tuple[Month, ...]
    expected: Decimal | None = None
    is_time_said: bool = True
    bearable_hours: Decimal | None = None
    likely_from: int | None = None

    @property
    def net_points(self) -> tuple[Decimal, Decimal, Decimal] | None:
        """The 5%, 50% and 95% points of the net value; None if the model has ended, so that there is no horizon."""
        if not self.horizon_months:
            return None
        npv = self.npv
        if npv.p5 is None or npv.p50 is None or npv.p95 is None:
            return None
        return npv.p5, npv.p50, npv.p95


if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Draws: TypeAlias = npt.NDArray[np.float64]

SEED = 20261124
DRAWS = 10_000
# A longer payback counts as never.
LOOKS_AHEAD_MONTHS = 60
A_MILLION = 1_000_000  # tokens per month
Z95 = 1.6448536269514722  # the 95% point of the standard normal distribution


@dataclass(frozen=True)
class InputDraws:
    """One value per draw. `volume` and `labour` are factors, `fall` is the share by which the price falls per year,
    `runs` the number of repeated runs, `training` the USD of all planned runs, `gap` the difference in quality. A
    guessed throughput is multiplied by its spread to the power of `speed`."""

    volume: Draws
    labour: Draws
    fall: Draws
    runs: Draws
    training: Draws
    gap: Draws
    speed: Draws


def simulate(inputs: Inputs, seed: int = SEED, draws: int = DRAWS) -> Outlook:
    """Returns the outlook for the inputs; the same seed gives the same result."""
    import numpy as np

    drawn = _draw_inputs(inputs, seed, draws)
    target = target_months(inputs)
    spent = _spent_usd(inputs, drawn)

    # Payback is looked for beyond the horizon: "after 40 months" says more than "not within 24".
    looks_ahead = Decimal(max(LOOKS_AHEAD_MONTHS, inputs.horizon_months))
    savings = _monthly_savings(inputs, drawn, looks_ahead)
    payback = _payback_months(spent, savings, inputs.months_known)
    p_payback = 0.0
    if target:
        p_payback = float(np.mean(payback <= float(target)))

    counted = _monthly_savings(inputs, drawn, inputs.horizon)
    # Discounted from the month's end, when all of its saving has been made.
    _, n_months = counted.shape
    years = np.arange(1, n_months + 1) / 12
    a_year = 1 + float(inputs.discount)
    saved = (counted / a_year**years).sum(axis=1)
    net = saved - spent

    swings: tuple[Swing, ...] = ()
    if inputs.horizon:
        swings = rank_swings(inputs, _gap_range(inputs, drawn))

    return Outlook(
        draws=draws,
        seed=seed,
        target_months=target,
        horizon_months=inputs.horizon,
        p_payback=p_payback,
        p_gain=float(np.mean(net >= 0)),
        payback_months=_quantiles(payback, digits=4),
        saving_month=_quantiles(_first_saving(inputs, drawn)),
        npv=_quantiles(net),
        swings=swings,
        months=_cumulative_band(spent, counted, inputs.horizon),
        expected=round(net_value(inputs), 2),
        is_time_said=inputs.people_hours is not None,
        bearable_hours=_bearable_hours(inputs, drawn, spent, savings, target),
        likely_from=_likely_volume(inputs, drawn, spent, target),
    )


def _spent_usd(inputs: Inputs, drawn: InputDraws) -> Draws:
    """Returns what each draw spends before the tuned model is in use. A repeated run is paid for and evaluated
    again."""
    labels_usd = inputs.labels * inputs.usd_per_label
    planned = float(labels_usd + evaluations_usd(inputs)) + drawn.training
    one_training = drawn.training / inputs.training.runs
    one_run_again = one_training + float(inputs.evaluation_usd)
    people = float(people_usd(inputs)) * drawn.labour
    return planned + one_run_again * drawn.runs + people


def _first_saving(inputs: Inputs, drawn: InputDraws) -> Draws:
    """Returns the savings of one month at today's prices."""
    first = saving_phases(inputs)[0].flow
    in_tokens = float(first.falling + first.steady)
    in_errors = float(wrong_answers_usd(inputs)) * drawn.gap
    by_volume = in_tokens + in_errors
    fixed = float(first.fixed) + _machines_usd(first, drawn)
    return drawn.volume * by_volume + fixed


def _gap_range(inputs: Inputs, drawn: InputDraws) -> tuple[Decimal, Decimal] | None:
    """Returns the 5% and 95% points of the difference in quality, None if it is not counted."""
    import numpy as np

    if inputs.quality is None:
        return None
    low, high = np.quantile(drawn.gap, (0.05, 0.95))
    return _decimal(low, 6), _decimal(high, 6)


def _draw_inputs(inputs: Inputs, seed: int, draws: int) -> InputDraws:
    import numpy as np

    # Each input has a stream of its own, so that changing one leaves the others' draws as they are.
    volume, labour, fall, runs, training, share, better, speed = (
        np.random.default_rng([seed, stream]) for stream in range(8)
    )
    # So that the 95% point of the volume is 1 + volume_spread times the given one.
    most_volume = 1 + float(inputs.volume_spread)
    spread = math.log(most_volume) / Z95
    # At 1 no number of runs would ever be enough.
    fails = min(float(inputs.run_fails), 0.99)
    shape = (inputs.training.runs, draws)
    tries = runs.geometric(1 - fails, shape)  # until each planned run has succeeded
    return InputDraws(
        volume=volume.lognormal(0.0, spread, draws),
        labour=_triangular(labour, LABOUR, draws),
        fall=_triangular(fall, inputs.price_fall, draws),
        # Less the one that succeeds: planned runs are paid for in `training`.
        runs=(tries - 1.0).sum(axis=0),
        training=_triangular(training, inputs.training.usd, draws),
        gap=_draw_gap(inputs.quality, share, better, draws),
        # Its 95% point is 1, where the throughput differs by the whole spread.
        speed=speed.normal(0.0, 1 / Z95, draws),
    )


def _triangular(rng: np.random.Generator, between: Range, draws: int) -> Draws:
    import numpy as np

    low = float(between.low)
    expected = float(between.expected)
    high = float(between.high)
    if low >= high:  # numpy refuses a triangle without a width
        return np.full(draws, expected)
    return rng.triangular(low, expected, high, draws)


def _draw_gap(
    quality: Quality | None,
    share: np.random.Generator,
    better: np.random.Generator,
    draws: int,
) -> Draws:
    """Draws the difference in quality of two models on the same rows. Only rows that just one of them got right count:
    their share is drawn from a beta distribution, and the tuned model's part of them from another (both with Jeffreys'
    prior of ½)."""
    import numpy as np

    if quality is None:
        return np.zeros(draws)
    gained = float(quality.gained)
    lost = float(quality.lost)
    same = max(quality.rows - gained - lost, 0.0)
    share_that_differs = share.beta(gained + lost + 0.5, same + 0.5, draws)
    share_that_gained = better.beta(gained + 0.5, lost + 0.5, draws)
    gained_minus_lost = 2 * share_that_gained - 1
    return share_that_differs * gained_minus_lost


def _monthly_savings(inputs: Inputs, drawn: InputDraws, horizon: Decimal) -> Draws:
    """Returns the savings with one row per draw and one column per month, at the alternative's price in that month."""
    saved, phases = _savings_by_volume(inputs, drawn, horizon)
    for phase in phases:
        usd_a_month = phase.fixed_usd(drawn)
        saved += phase.share * usd_a_month[:, None]
    return saved


@dataclass(frozen=True)
class _FixedSavings:
    """The savings of a phase that don't grow with the volume. `share` is the part of each month that lies in it."""

    flow: Flow
    share: Draws

    @property
    def is_zero(self) -> bool:
        flow = self.flow
        has_machines = flow.saved_machines or flow.spent_machines
        return not flow.fixed and not has_machines

    def fixed_usd(self, drawn: InputDraws) -> Draws:
        """The USD a month."""
        return float(self.flow.fixed) + _machines_usd(self.flow, drawn)


def _savings_by_volume(
    inputs: Inputs,
    drawn: InputDraws,
    horizon: Decimal,
) -> tuple[Draws, tuple[_FixedSavings, ...]]:
    """Returns the monthly savings that are in proportion to the volume, and the others by phase."""
    import numpy as np

    spans = months_to(horizon)
    # The price at the end of the month, its lowest in it, so that the saving is not overrated.
    years = np.arange(1, len(spans) + 1) / 12
    yearly = np.maximum(1 - drawn.fall, 1e-12)  # the logarithm of 0 would be infinite
    log_yearly = np.log(yearly)
    price = np.exp(log_yearly[:, None] * years)  # as a share of today's, by draw and month
    error_usd = float(wrong_answers_usd(inputs))
    saved = np.zeros_like(price)
    phases = []
    for number, phase in enumerate(saving_phases(inputs)):
        flow = phase.flow
        share = np.array([float(phase.within(begin, end)) for begin, end in spans])
        rest = np.full_like(drawn.volume, float(flow.steady))
        # As in roi.py: nobody measured the successor, so the difference in errors counts only if it costs money.
        if inputs.quality is not None and (number == 0 or inputs.quality.gap < 0):
            rest += drawn.gap * error_usd
        by_request = float(flow.falling) * price + rest[:, None]
        saved += share * (drawn.volume[:, None] * by_request)
        phases.append(_FixedSavings(flow, share))
    return saved, tuple(phases)


def _machines_usd(flow: Flow, drawn: InputDraws) -> Draws:
    """Returns the USD per month that are saved minus spent on machines."""
    saved = _machine_usd(flow.saved_machines, drawn)
    spent = _machine_usd(flow.spent_machines, drawn)
    return saved - spent


def _machine_usd(machines: MachineTime | None, drawn: InputDraws) -> Draws:
    """Returns what the machines cost per month, as MachineTime.usd does."""
    import numpy as np

    if machines is None or not machines.usd_per_hour or not machines.hours:
        return np.zeros_like(drawn.volume)
    hours = float(machines.hours)
    seconds = hours * 3600
    work_s = np.zeros_like(drawn.volume)
    if machines.work_s is not None:
        speed = float(machines.spread) ** drawn.speed
        work_s = float(machines.work_s) * drawn.volume / speed
    busy_s = seconds * float(machines.busy)
    count = np.maximum(1.0, np.ceil(work_s / busy_s))
    hours_up = np.full_like(drawn.volume, hours)
    if machines.idle_window_s is not None:
        # The machine stops after a quiet window, so requests at random times keep it up for this share of the hours.
        requests = float(machines.requests) * drawn.volume
        waited_s = requests * machines.idle_window_s
        share_up = -np.expm1(-(waited_s + work_s) / seconds)
        hours_up = hours * share_up
    cost: Draws = float(machines.usd_per_hour) * hours_up * count
    return cost


def _payback_months(spent: Draws, savings: Draws, months_known: Decimal | None) -> Draws:
    """Returns the months until each draw has recovered what was spent; inf if it doesn't within the simulated months or
    before the model is gone."""
    import numpy as np

    so_far = np.cumsum(savings, axis=1)
    is_back = so_far >= spent[:, None]
    month = is_back.argmax(axis=1)
    row = np.arange(len(spent))
    before = np.where(month > 0, so_far[row, month - 1], 0.0)
    rising = savings[row, month]
    # If nothing was spent, the first month is "back" even if it saves nothing.
    pays = is_back.any(axis=1) & (rising > 0)
    missing = spent - before
    share = np.divide(missing, rising, out=np.zeros_like(spent), where=pays)
    months = month + np.clip(share, 0.0, 1.0)
    payback = np.where(pays, months, np.inf)
    if months_known is None:
        return payback
    return np.where(payback <= float(months_known), payback, np.inf)


def _bearable_hours(
    inputs: Inputs,
    drawn: InputDraws,
    spent: Draws,
    savings: Draws,
    target: Decimal,
) -> Decimal | None:
    """Returns the hours of people's time with which a share LIKELY of the draws still pays back by `target`. In each
    draw, the money left by then pays for a number of hours; this is a quantile of those numbers."""
    import numpy as np

    if inputs.people_hours is not None or not inputs.people_usd_per_hour or not target:
        return None
    left = _most_saved_by(savings, float(target)) - spent
    usd_per_hour = float(inputs.people_usd_per_hour) * drawn.labour
    hours = left / usd_per_hour
    # A drawn value, as in `_quantiles`.
    value = float(np.quantile(hours, 1 - LIKELY, method="inverted_cdf"))
    if value <= 0:
        return None
    return _decimal(value, 2)


def _most_saved_by(savings: Draws, months: float) -> Draws:
    """Returns the largest cumulative saving at any time within `months`."""
    import numpy as np

    draws, n_months = savings.shape
    full_months = int(months)
    at_first = np.zeros((draws, 1))
    later = np.cumsum(savings, axis=1)
    so_far = np.concatenate([at_first, later], axis=1)
    most: Draws = so_far[:, : full_months + 1].max(axis=1)
    if full_months >= n_months:
        return most
    part_of_month = (months - full_months) * savings[:, full_months]
    at_the_end = so_far[:, full_months] + part_of_month
    return np.maximum(most, at_the_end)


def _likely_volume(
    inputs: Inputs,
    drawn: InputDraws,
    spent: Draws,
    target: Decimal,
) -> int | None:
    """Returns the input tokens per month from which on a share LIKELY of the draws pays back in time."""
    import numpy as np

    if not target:
        return None
    # The others are multiples of this volume, which therefore can't be 0.
    volume = max(inputs.monthly_input_tokens, A_MILLION)
    some = replace(inputs, monthly_input_tokens=volume)
    weights = np.array([float(weight) for weight in month_weights(target)])
    by_volume, phases = _savings_by_volume(some, drawn, Decimal(len(weights)))
    # About a hundred volumes are tried, so what doesn't depend on the volume is computed once, and the months come
    # first: numpy is several times as fast along the draws.
    by_volume = np.ascontiguousarray(by_volume.T)
    by_volume_so_far = (by_volume * weights[:, None]).cumsum(axis=0)
    fixed = [phase for phase in phases if not phase.is_zero]
    shares_so_far = [(phase.share * weights).cumsum() for phase in fixed]

    def is_likely(tokens: int) -> bool:
        factor = tokens / volume
        savings = by_volume * factor
        so_far = by_volume_so_far * factor
        if fixed:
            at_volume = replace(drawn, volume=drawn.volume * factor)
            for phase, share_so_far in zip(fixed, shares_so_far, strict=True):
                usd_a_month = phase.fixed_usd(at_volume)
                savings += phase.share[:, None] * usd_a_month
                so_far += share_so_far[:, None] * usd_a_month
        # As in `_payback_months`, only a month that saves can be the one that pays back.
        is_back = (so_far >= spent) & (savings > 0)
        return bool(is_back.any(axis=0).mean() >= LIKELY)

    return least_lasting_volume(is_likely)


def _cumulative_band(spent: Draws, counted: Draws, horizon: Decimal) -> tuple[Month, ...]:
    """Returns the cumulative net USD after each month; the last month may be a partial one."""
    import numpy as np

    at_first = -spent[:, None]
    so_far = np.concatenate([at_first, counted], axis=1).cumsum(axis=1)
    low, middle, high = np.quantile(so_far, (0.05, 0.5, 0.95), axis=0, method="inverted_cdf")
    months: list[Month] = []
    for number, (p5, p50, p95) in enumerate(zip(low, middle, high, strict=True)):
        month = Month(
            min(Decimal(number), horizon),
            p5=_decimal(p5, 2),
            p50=_decimal(p50, 2),
            p95=_decimal(p95, 2),
        )
        months.append(month)
    return tuple(months)


def _quantiles(values: Draws, digits: int = 2) -> Quantiles:
    """Returns the quantiles of `values`. Each is a drawn value: interpolating between a payback and never (inf) would
    make no sense."""
    import numpy as np

    p5, p50, p95 = np.quantile(values, (0.05, 0.5, 0.95), method="inverted_cdf")
    return Quantiles(
        p5=_finite_decimal(p5, digits),
        p50=_finite_decimal(p50, digits),
        p95=_finite_decimal(p95, digits),
    )


def _finite_decimal(value: float, digits: int) -> Decimal | None:
    if not math.isfinite(value):
        return None
    return _decimal(value, digits)


def _decimal(value: float, digits: int) -> Decimal:
    return Decimal(f"{value:.{digits}f}")
