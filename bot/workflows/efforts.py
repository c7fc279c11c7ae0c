"""What training a target on a dataset's rows takes: settings, memory, time, price. Asks no trainer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from bot.decisions import sweeping
from bot.decisions.planning import hyperparameters_for
from bot.decisions.worth.question import Question
from bot.decisions.worth.quotes import Gap, evaluation_usd, rates_of, training_of
from bot.decisions.worth.roi import Range, Training
from bot.settings import Settings
from bot.work.climbing import max_tokens
from bot.workflows.inputs import holdout_usage, longest_holdout_usage
from bot.workflows.machine import Room, base_of, known_base, room_for, time_for
from bot.workflows.targets import Target
from trainers import chatting
from trainers.auto import rate_for
from trainers.creation import sent_hyperparameters
from trainers.dataset import Report
from trainers.pricing import PriceRow, UnknownPrice, prompted_price, tuned_price
from trainers.sweeps import Sweep, courses_of
from trainers.tokens import encoding_of
from trainers.types import Hyperparameter

HOSTED_MINUTES = Range(Decimal(10), Decimal(30), Decimal(120))
START_UP_S = 20


@dataclass(frozen=True)
class RunCost:
    """What one run costs: the training, and both models' answers to the held-out rows, as expected and at most."""

    training: Training
    evaluation_usd: Decimal
    evaluation_most_usd: Decimal


@dataclass(frozen=True)
class Time:
    """`minutes` None: nobody knows. `measured`: the day on which the machine's speed was; `is_guess`: neither was it
    measured, nor has a person said it, so no maximum that stops a paid run rests on it."""

    minutes: Range | None
    measured: str | None = None
    is_guess: bool = False


@dataclass(frozen=True)
class Effort:
    """What training this target on these rows takes, and at which prices its models are asked."""

    hyperparameters: tuple[tuple[str, Hyperparameter], ...]
    tuned: PriceRow
    base: PriceRow
    room: Room | None
    time: Time
    cost: RunCost | Gap


def effort_for(settings: Settings, target: Target, report: Report, question: Question, today: date) -> Effort:
    tuned = tuned_price(target.row, target.model)
    base = _base_price(settings, target, tuned, today)
    tuned = replace(tuned, batch_discount=base.batch_discount)  # a vendor's batches take tuned models, too
    chosen, tokens = _hyperparameters(settings, target, report, question), _trained_tokens(report, target)
    room, time = _on_the_machine(settings, target, report, tokens, chosen, question.sweep)
    thinks = target.row.thinks(target.model.name)
    answer = max_tokens([one.label for one in report.labels]) + chatting.room(thinks)
    of_all = round(tokens * courses_of(question.sweep))
    cost = _cost(report, of_all, tuned, base, _epochs(chosen), time, answer)
    if isinstance(cost, RunCost):
        cost = replace(cost, training=replace(cost.training, is_estimated=_is_estimated(report, target)))
    return Effort(chosen, tuned, base, room, time, cost)


def _rate(settings: Settings, target: Target) -> float | None:
    """None: the base isn't known here, or a hosted service has a rate of its own."""
    is_ours = target.row.provider.can("sweep")
    base = known_base(settings, target.row, target.model) if is_ours else None
    return rate_for(base.architecture.hidden, base.architecture.model_type) if base else None


def _hyperparameters(
    settings: Settings, target: Target, report: Report, question: Question
) -> tuple[tuple[str, Hyperparameter], ...]:
    provider = target.row.provider
    chosen = hyperparameters_for(
        report.n_train,
        question.epochs,
        takes_lora=provider.can("extra_hyperparameters"),
        defaults=target.row.defaults,
        rate=_rate(settings, target),
    )
    single = sweeping.without_swept(dict(chosen), question.sweep, target.row.defaults)
    ways = {"engine": question.engine, "quantization": question.quantization}
    asked = {name: value for name, value in ways.items() if value}
    return tuple(sorted(sent_hyperparameters(provider, single | asked).items()))


def _on_the_machine(
    settings: Settings,
    target: Target,
    report: Report,
    tokens: int,
    hyperparameters: tuple[tuple[str, Hyperparameter], ...],
    sweep: Sweep,
) -> tuple[Room | None, Time]:
    """`tokens` of one epoch. What a person says of the speed wins over what was measured."""
    chosen = dict(hyperparameters)
    base = base_of(settings, target.row, target.model)
    room = room_for(base, report, chosen, sweep) if base else None
    if target.model.usd_per_hour is None:
        return room, Time(HOSTED_MINUTES)
    if settings.trainer.tokens_per_second:
        in_all = round(tokens * courses_of(sweep)) * _epochs(hyperparameters)
        return room, Time(_minutes(in_all, settings.trainer.tokens_per_second))
    timed = time_for(settings, base, report, tokens, chosen, sweep) if base else None
    if timed is None:
        return room, Time(None)
    return room, Time(timed.minutes, timed.measured, is_guess=timed.measured is None)


def _minutes(tokens: int, a_second: int) -> Range:
    """Half to twice as long."""
    seconds = Decimal(tokens) / a_second + START_UP_S
    return Range(seconds / 120, seconds / 60, seconds / 30)


def _epochs(hyperparameters: tuple[tuple[str, Hyperparameter], ...]) -> int:
    return int(dict(hyperparameters)["n_epochs"])


def _base_price(settings: Settings, target: Target, tuned: PriceRow, today: date) -> PriceRow:
    """What asking the untuned model costs; where no list has it, as much as the tuned one, which is dearer."""
    if tuned.usd_per_hour is not None:
        return tuned
    name = target.model.base_name or target.model.name
    found = prompted_price(name, settings.providers, settings.prices, today)
    return tuned if isinstance(found, UnknownPrice) else found


def _trained_tokens(report: Report, target: Target) -> int:
    """Of one epoch, by the model's own tokenizer where it lies on this machine."""
    return _own_counts(report, target).get(target.model.name, report.tokens.train)


def _own_counts(report: Report, target: Target) -> Mapping[str, int]:
    return dict(report.trained_tokens) if target.row.is_started_by_us or target.row.name == "local" else {}


def _is_estimated(report: Report, target: Target) -> bool:
    """By the tokenizer of another model: its own is not here, and not one that vendors publish."""
    return target.model.name not in _own_counts(report, target) and encoding_of(target.model.name).assumed


def _cost(
    report: Report, tokens: int, tuned: PriceRow, base: PriceRow, epochs: int, time: Time, answer: int
) -> RunCost | Gap:
    """`tokens` of an epoch, in all arms of a sweep; `answer`: the longest asked for. Our own machine's hours are
    in the training already; a vendor bills both models' answers."""
    is_open = time.is_guess and tuned.usd_per_hour
    training = training_of(tuned, tokens, epochs, None if is_open else time.minutes)
    rates_tuned, rates_base = rates_of(tuned), rates_of(base)
    if isinstance(training, Gap):
        return training
    training = replace(training, speed_measured=time.measured, is_guess=time.is_guess)
    if isinstance(rates_tuned, Gap):
        return rates_tuned
    if isinstance(rates_base, Gap):
        return rates_base
    if tuned.usd_per_hour is not None:
        return RunCost(training, Decimal(0), Decimal(0))
    asked = evaluation_usd(holdout_usage(report), rates_base, rates_tuned)
    most = evaluation_usd(longest_holdout_usage(report, answer), rates_base, rates_tuned)
    return RunCost(training, asked, max(asked, most))
