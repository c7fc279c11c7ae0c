"""Gathers what an estimate needs (report, prices, the target's row) and lets the pure rules decide.

Used by Slack and by the terminal alike: it holds no store and no trainer.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from functools import cached_property

from bot.decisions import sweeping
from bot.decisions.amounts import HOURS_PER_MONTH
from bot.decisions.planning import hyperparameters_for
from bot.decisions.verdict.advice import Facts, Verdict, advise
from bot.decisions.verdict.facts import FEW_PER_LABEL, NOTHING_MEASURED, Evidence
from bot.decisions.worth.alternatives import Alternative
from bot.decisions.worth.assumptions import Assumption, assumptions
from bot.decisions.worth.bills import Rates
from bot.decisions.worth.outlook import Outlook
from bot.decisions.worth.question import Question as Question
from bot.decisions.worth.question import absurd
from bot.decisions.worth.quotes import Gap, evaluation_usd, rates_of, training_of
from bot.decisions.worth.roi import Estimate, Inputs, Range, Training, estimate
from bot.decisions.worth.simulation import simulate
from bot.results import Refusal
from bot.settings import Settings
from bot.views.blocks import code
from bot.work.climbing import max_tokens
from bot.workflows.inputs import (
    Priced,
    holdout_usage,
    inputs_of,
    longest_holdout_usage,
    measured,
    once_trained,
)
from bot.workflows.machine import Room, base_of, room_for, time_for
from bot.workflows.measuring.contestants import full_name, with_a_cheap_one
from bot.workflows.rung_prices import rung_price, rung_rates
from trainers import chatting
from trainers.creation import sent_hyperparameters
from trainers.dataset import Report
from trainers.pricing import PriceRow, UnknownPrice, prompted_price, tuned_price
from trainers.providers import ModelRow, ModelVerdict, ProviderRow, model_verdict
from trainers.sweeps import Sweep, courses_of
from trainers.types import Hyperparameter

HOSTED_MINUTES = Range(Decimal(10), Decimal(30), Decimal(120))
START_UP_S = 20


@dataclass(frozen=True)
class Target:
    row: ProviderRow
    model: ModelRow

    @property
    def name(self) -> str:
        return f"{self.row.name}/{self.model.name}"


@dataclass(frozen=True)
class RunCost:
    """What one run costs: the training, and both models' answers to the held-out rows, as expected and at most."""

    training: Training
    evaluation_usd: Decimal
    evaluation_most_usd: Decimal


@dataclass(frozen=True)
class Estimated:
    """An estimate with all that it rests on. `prices`: the tuned model's row, its base's, and today's model's.

    `cost` is a Gap where nobody told us a price; `estimate`, `outlook` and `alternative` are None there, and where
    today's bill is not known. `room`: in this machine's memory, for a model that trains here.
    """

    name: str
    report: Report
    question: Question
    target: Target
    hyperparameters: tuple[tuple[str, Hyperparameter], ...]
    prices: tuple[PriceRow, ...]
    cost: RunCost | Gap
    minutes: Range
    room: Room | None
    estimate: Estimate | None
    outlook: Outlook | None
    alternative: Alternative | None
    evidence: Evidence
    assumptions: tuple[Assumption, ...]
    verdict: Verdict

    @property
    def memory(self) -> str | None:
        """Whether it fits, in a line."""
        return self.room.line if self.room else None

    @property
    def of_arms(self) -> str:
        """What follows on the tokens of a sweep."""
        return sweeping.of_arms(self.question.sweep)

    @property
    def training(self) -> Training | None:
        return None if isinstance(self.cost, Gap) else self.cost.training


@dataclass(frozen=True)
class _Work:
    """What training this target on these rows takes, and at which prices its models are asked."""

    hyperparameters: tuple[tuple[str, Hyperparameter], ...]
    tuned: PriceRow
    base: PriceRow
    room: Room | None
    minutes: Range
    cost: RunCost | Gap


@dataclass(frozen=True)
class _Sums:
    """What it brings; `inputs` is the first thing that is missing where that can't be said. `listed`: the price of
    the cheapest alternative that was measured."""

    inputs: Inputs | Gap
    listed: PriceRow | None

    @property
    def known(self) -> Inputs | None:
        return None if isinstance(self.inputs, Gap) else self.inputs

    @cached_property
    def estimate(self) -> Estimate | None:
        return estimate(self.known) if self.known else None

    @cached_property
    def outlook(self) -> Outlook | None:
        return simulate(self.known) if self.known else None


def make_estimate(
    settings: Settings,
    name: str,
    report: Report,
    question: Question,
    today: date,
    evidence: Evidence = NOTHING_MEASURED,
    *,
    is_trained: bool = False,
) -> Estimated | Refusal:
    """Takes a few hundredths of a second: it may run while Slack waits for an answer.

    `is_trained`: the run is over, so that what it took is spent either way and only what is to come counts.
    """
    target = _target(settings, question)
    if isinstance(target, Refusal):
        return target
    now = _price_today(settings, question, today)
    if isinstance(now, Refusal):
        return now
    work = _work(settings, target, report, question, today)
    sums = _sums(settings, target, report, question, work, now, evidence, today, is_trained=is_trained)
    facts = replace(
        _facts(name, question, report, target, work.cost, sums, evidence, today),
        full_current=full_name(settings, question.current),
        to_measure=with_a_cheap_one(settings, question.current, today),
    )
    return Estimated(
        name=name,
        report=report,
        question=question,
        target=target,
        hyperparameters=work.hyperparameters,
        prices=tuple(row for row in (work.tuned, work.base, now, sums.listed) if row),
        cost=work.cost,
        minutes=work.minutes,
        room=work.room,
        estimate=sums.estimate,
        outlook=sums.outlook,
        alternative=sums.known.alternative if sums.known else None,
        evidence=evidence,
        assumptions=assumptions(sums.known) if sums.known else (),
        verdict=advise(facts),
    )


def _target(settings: Settings, question: Question) -> Target | Refusal:
    """The one that is asked for, where the question makes sense and it can do what is asked of it."""
    misread = absurd(question)
    if misread:
        return Refusal(misread.sentence)
    target = find_target(settings.providers, question.target)
    if isinstance(target, Refusal):
        return target
    unswept = sweeping.refusal(question, target.row.title, can_sweep=target.row.provider.can("sweep"))
    return Refusal(unswept, "sweep") if unswept else target


def _work(settings: Settings, target: Target, report: Report, question: Question, today: date) -> _Work:
    tuned = tuned_price(target.row, target.model)
    base = _base_price(settings, target, tuned, today)
    chosen, tokens = _hyperparameters(target, report, question), _trained_tokens(report, target)
    room, minutes, measured_on = _on_the_machine(settings, target, report, tokens, chosen, question.sweep)
    thinks = target.row.thinks(target.model.name)
    answer = max_tokens([one.label for one in report.labels]) + chatting.room(thinks)
    of_all = round(tokens * courses_of(question.sweep))
    cost = _cost(report, of_all, tuned, base, _epochs(chosen), minutes, answer)
    if measured_on and isinstance(cost, RunCost):
        cost = replace(cost, training=replace(cost.training, speed_measured=measured_on))
    return _Work(chosen, tuned, base, room, minutes, cost)


def _sums(
    settings: Settings,
    target: Target,
    report: Report,
    question: Question,
    work: _Work,
    now: PriceRow | None,
    evidence: Evidence,
    today: date,
    *,
    is_trained: bool,
) -> _Sums:
    rung = measured(evidence).cheapest
    listed = rung_price(settings, rung, today)
    batched = replace(work.tuned, batch_discount=work.base.batch_discount)
    priced = _priced(question, work.cost, now, batched, rung_rates(rung, listed))
    if isinstance(priced, Gap):
        return _Sums(priced, listed)
    inputs = inputs_of(question, report, evidence, priced, target.model.ends, today)
    return _Sums(once_trained(inputs) if is_trained else inputs, listed)


def _facts(
    name: str,
    question: Question,
    report: Report,
    target: Target,
    cost: RunCost | Gap,
    sums: _Sums,
    evidence: Evidence,
    today: date,
) -> Facts:
    return Facts(
        dataset=name,
        rows=report.rows,
        n_holdout=report.n_holdout,
        smallest_label=report.labels[-1].rows if report.labels else None,
        target=_end_verdict(target, sums.estimate, today),
        training_usd=None if isinstance(cost, Gap) else cost.training.usd.expected,
        estimate=sums.estimate,
        gaps=(sums.inputs.sentence,) if isinstance(sums.inputs, Gap) else (),
        evidence=evidence,
        outlook=sums.outlook,
        few_labels=tuple((one.label, one.rows) for one in report.labels if one.rows < FEW_PER_LABEL),
        n_labels=len(report.labels) or None,
        current=question.current,
    )


def find_target(providers: Sequence[ProviderRow], wanted: str | None) -> Target | Refusal:
    """'local/smollm2-135m', or a model's name where one provider has it; nothing said: the first of our own."""
    targets = [Target(row, model) for row in providers for model in row.models]
    if wanted is None:
        return targets[0] if targets else Refusal("No model to train is configured.", "target")
    provider, slash, _ = wanted.partition("/")
    for target in targets:
        bare = wanted.removeprefix(f"{target.row.name}/")
        is_meant = not slash or provider == target.row.name or wanted == target.model.name
        if is_meant and bare in (target.model.name, *target.model.aliases):
            return target
    names = [target.name for target in targets]
    near = difflib.get_close_matches(wanted, [*names, *(t.model.name for t in targets)], n=1, cutoff=0.5)
    hint = (
        f"Did you mean `{near[0]}`?" if near else "There are " + ", ".join(f"`{one}`" for one in names) + "."
    )
    return Refusal(f"I know no model to train named {code(wanted[:60])}. {hint}", "target")


def _price_today(settings: Settings, question: Question, today: date) -> PriceRow | Refusal | None:
    if question.current is None:
        return None
    found = prompted_price(question.current, settings.providers, settings.prices, today)
    return Refusal(found.sentence, "current") if isinstance(found, UnknownPrice) else found


def _hyperparameters(
    target: Target, report: Report, question: Question
) -> tuple[tuple[str, Hyperparameter], ...]:
    provider = target.row.provider
    chosen = hyperparameters_for(
        report.n_train,
        question.epochs,
        takes_lora=provider.can("extra_hyperparameters"),
        defaults=target.row.defaults,
    )
    single = sweeping.without_swept(dict(chosen), question.sweep, target.row.defaults)
    engine = {"engine": question.engine} if question.engine else {}
    return tuple(sorted(sent_hyperparameters(provider, single | engine).items()))


def _on_the_machine(
    settings: Settings,
    target: Target,
    report: Report,
    tokens: int,
    hyperparameters: tuple[tuple[str, Hyperparameter], ...],
    sweep: Sweep,
) -> tuple[Room | None, Range, str | None]:
    """`tokens` of one epoch. Memory, minutes, and the day on which the machine's speed was measured, where it was."""
    chosen = dict(hyperparameters)
    base = base_of(settings, target.row, target.model)
    room = room_for(base, report, chosen, sweep) if base else None
    timed = time_for(settings, base, report, tokens, chosen, sweep) if base else None
    if timed:
        return room, timed.minutes, timed.measured
    in_all = round(tokens * courses_of(sweep)) * _epochs(hyperparameters)
    return room, _minutes(settings, target, in_all), None


def _minutes(settings: Settings, target: Target, tokens: int) -> Range:
    """By the speed of our own trainer, half to twice as long; a hosted service's queue decides otherwise."""
    if target.model.usd_per_hour is None:
        return HOSTED_MINUTES
    seconds = Decimal(tokens) / settings.trainer.tokens_per_second + START_UP_S
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
    own = dict(report.trained_tokens) if target.row.is_started_by_us or target.row.name == "local" else {}
    return own.get(target.model.name, report.tokens.train)


def _cost(
    report: Report, tokens: int, tuned: PriceRow, base: PriceRow, epochs: int, minutes: Range, answer: int
) -> RunCost | Gap:
    """`tokens` of an epoch, in all arms of a sweep; `answer`: the longest asked for. Our own machine's hours are
    in the training already; a vendor bills both models' answers."""
    training = training_of(tuned, tokens, epochs, minutes)
    rates_tuned, rates_base = rates_of(tuned), rates_of(base)
    if isinstance(training, Gap):
        return training
    if isinstance(rates_tuned, Gap):
        return rates_tuned
    if isinstance(rates_base, Gap):
        return rates_base
    if tuned.usd_per_hour is not None:
        return RunCost(training, Decimal(0), Decimal(0))
    asked = evaluation_usd(holdout_usage(report), rates_base, rates_tuned)
    most = evaluation_usd(longest_holdout_usage(report, answer), rates_base, rates_tuned)
    return RunCost(training, asked, max(asked, most))


def _priced(
    question: Question,
    cost: RunCost | Gap,
    now: PriceRow | None,
    tuned: PriceRow,
    cheapest: Rates | None,
) -> Priced | Gap:
    """Every price for the sum, or the first thing that is missing."""
    if isinstance(cost, Gap):
        return cost
    if now is None or question.volume is None:
        return Gap("Whether it saves money is unknown: say current= (today's model) and volume= as well.")
    rates_now, rates_tuned = rates_of(now), rates_of(tuned)
    if isinstance(rates_now, Gap):
        return rates_now
    if isinstance(rates_tuned, Gap):
        return rates_tuned
    return Priced(question.volume, rates_now, rates_tuned, cost.training, cost.evaluation_usd, cheapest)


def _end_verdict(target: Target, made: Estimate | None, today: date) -> ModelVerdict:
    months = made.payback_months if made else None
    days = float(months * HOURS_PER_MONTH / 24) if months is not None else None
    return model_verdict(target.row, target.model, today, days)
