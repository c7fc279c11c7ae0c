"""Decides an estimate, in one call: from everything that was looked up for it to costs and savings, their chances, and
the verdict with its reasons.

services/decisions/estimates.py gathers the basis, and cards/decisions/estimates.py shows the result. From the basis on
nothing is looked up: no price, no setting, no machine.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Literal

from bot.rules import plans
from bot.rules.advice import Verdict, advise
from bot.rules.alternatives import Alternative, CurrentModel, MonthlyUse, UnmeasuredModel, choose_alternative
from bot.rules.bills import ZERO, Capacity, MonthlyCost, Rates, Tokens, Traffic, bill
from bot.rules.estimate_inputs import DEFAULT_BUSY, Question
from bot.rules.facts import (
    FEW_PER_LABEL,
    Evidence,
    Facts,
    OwnMachine,
    count_row_faults,
    keep_candidates,
    without_trained_candidate,
)
from bot.rules.fit import aim_of
from bot.rules.forecast import Outlook, simulate
from bot.rules.prices import MissingPrice, RunCost, is_near_end, rates_from_row, run_cost
from bot.rules.reasons import ModelEnd
from bot.rules.roi import (
    USD_PER_HOUR,
    Estimate,
    Inputs,
    Quality,
    Range,
    Training,
    Usage,
    estimate,
    retraining_usd,
)
from bot.rules.units import HOURS_PER_MONTH, MonthlyVolume, monthly_volume
from bot.values.estimate_basis import EstimateBasis, ServedByToken
from bot.values.targets import MemoryHeadroom, PricedModel, Target
from trainers.dataset import Report
from trainers.evaluation.results import MeasuredCandidate
from trainers.providers.pricing import PriceRow
from trainers.providers.providers import model_verdict
from trainers.types import Hyperparameter

# An estimate, its details and its plan each need the same ten thousand draws.
_simulate = lru_cache(maxsize=32)(simulate)


MainNumber = Literal[
    "today",
    "saving",
    "one-off",
    "payback",
    "net value",
    "untrained",
    "machine",
    "by token",
    "prices",
    "minutes",
]


@dataclass(frozen=True, kw_only=True)
class EstimateSummary:
    """An estimate as the card needs it. `prices` has the rows of the tuned model, its base, and today's model.

    `estimate`, `outlook`, `alternative` and `inputs` are None if a price is missing or today's bill is unknown.
    `outlook` is also None if the verdict withholds the saving. `today` is the bill of today's model, which may be known
    even without an estimate; so may `volume`. `training`, `measuring_usd` (both models' answers to the held-out rows,
    and the judge's) and `machine_usd` (the part of it for a machine billed by the hour) cover all expected runs.
    `is_guess` is True if `minutes` is guessed from the model's size. `memory` says in one line whether the training
    fits. `by_token` is what a month would cost elsewhere, None unless the target needs a machine by the hour.
    `sweep_note` follows the tokens of a sweep. `offered` is the cheapest capable model, if it costs less than
    today's and is not measured. `asks_vendor` is True if the vendor confirms its price before approval.
    `made_on` is the day of the estimate.
    """

    name: str
    report: Report
    training: Training | None
    minutes: Range | None
    estimate: Estimate | None
    outlook: Outlook | None
    alternative: Alternative | None
    prices: tuple[PriceRow, ...]
    evidence: Evidence
    inputs: Inputs | None
    verdict: Verdict
    memory: str | None = None
    sweep_note: str = ""
    is_guess: bool = False
    offered: UnmeasuredModel | None = None
    measuring_usd: Decimal = ZERO
    machine_usd: Decimal = ZERO
    asks_vendor: bool = False
    today: MonthlyCost | None = None
    volume: MonthlyVolume | None = None
    by_token: ServedByToken | None = None
    made_on: date | None = None

    @property
    def hides_savings(self) -> bool:
        """True if no saving is shown, because the tuned model must not or need not be used."""
        has_ended = self.estimate is not None and self.estimate.months_left == 0
        return self.verdict.withholds_saving or has_ended

    @property
    def main_numbers(self) -> tuple[MainNumber, ...]:
        """The few numbers that the decision depends on, in the order in which people read them."""
        if self.estimate is None:
            numbers: list[MainNumber] = ["one-off", "prices", "minutes"]
            if self.today is not None:
                numbers.insert(0, "today")
        elif self.hides_savings:
            return ("today",)
        else:
            numbers = self._saving_numbers(self.estimate)
        if self.offered is not None:
            numbers.append("untrained")
        # The machine that serves it is often the largest cost.
        if self.estimate is not None and self.prices[0].is_hosted:
            numbers.append("machine")
        if self.by_token is not None:
            numbers.append("by token")
        return tuple(numbers)

    def _saving_numbers(self, estimate: Estimate) -> list[MainNumber]:
        numbers: list[MainNumber] = ["saving", "one-off", "payback"]
        if self.outlook is not None and self.outlook.net_points is not None:
            numbers.append("net value")
        facts = self.verdict.facts
        if estimate.payback_months is not None and aim_of(facts.task_kind):
            # The aim is not money, so less about money will do.
            numbers.remove("payback")
            if "net value" in numbers:
                numbers.remove("one-off")
        elif estimate.payback_months is None and estimate.saving_month <= 0 and facts.is_for_money:
            # Beside a loss, the one-off cost would be one number too many.
            numbers.remove("one-off")
        return numbers

    @property
    def cheaper_untrained(self) -> UnmeasuredModel | None:
        """The unmeasured model if it would cost no more than the tuned one: training saves nothing beside it."""
        if self.offered is None or self.estimate is None:
            return None
        if self.offered.monthly.total > self.estimate.monthly_after.total:
            return None
        return self.offered


@dataclass(frozen=True, kw_only=True)
class EstimateResult(EstimateSummary):
    """An estimate with everything that a plan is made from.

    `current` is the price of today's model. `cost` is that of one run, or the price that is missing to compute it.
    `room` is the headroom in the training machine's memory, None at a vendor. `judge` scores the tuned model's
    free text.
    """

    question: Question
    target: Target
    hyperparameters: tuple[tuple[str, Hyperparameter], ...]
    current: PriceRow | None
    cost: RunCost | MissingPrice
    room: MemoryHeadroom | None
    judge: PricedModel | None


@dataclass(frozen=True)
class _Sums:
    """The money of an estimate. `cost` is that of one run. `missing` is the first price that is missing for the rest.
    `todays` are inputs that are enough for today's bill, None if that is unknown."""

    cost: RunCost | MissingPrice
    missing: MissingPrice | None = None
    inputs: Inputs | None = None
    estimate: Estimate | None = None
    outlook: Outlook | None = None
    todays: Inputs | None = None


def decide(basis: EstimateBasis) -> EstimateResult:
    """Takes a few hundredths of a second, and over a second at a cold start."""
    basis = replace(basis, evidence=_usable_evidence(basis))
    sums = _calculate(basis)
    verdict = advise(_facts(basis, sums))
    return _result(basis, sums, verdict)


def _result(basis: EstimateBasis, sums: _Sums, verdict: Verdict) -> EstimateResult:
    needs = basis.needs
    question = basis.question
    training = None
    measuring_usd = ZERO
    machine_usd = ZERO
    if isinstance(sums.cost, RunCost):
        runs = question.runs or 1
        training = replace(sums.cost.training, runs=runs)
        measuring_usd = sums.cost.evaluation_usd * runs
        machine_usd = sums.cost.machine_usd * runs
    outlook = sums.outlook
    if verdict.withholds_saving:
        outlook = None
    rows = (needs.tuned, needs.base, basis.current, _listed_price(basis))
    return EstimateResult(
        name=basis.name,
        report=basis.report,
        question=question,
        target=basis.target,
        hyperparameters=needs.hyperparameters,
        prices=tuple(row for row in rows if row),
        current=basis.current,
        cost=sums.cost,
        training=training,
        measuring_usd=measuring_usd,
        machine_usd=machine_usd,
        minutes=needs.time.minutes if needs.time else None,
        is_guess=needs.time is not None and needs.time.is_guess,
        room=needs.room,
        memory=needs.room.line if needs.room else None,
        sweep_note=plans.trial_count_text(question.sweep),
        asks_vendor=basis.target.row.provider.can("estimate"),
        made_on=basis.today,
        estimate=sums.estimate,
        outlook=outlook,
        alternative=sums.inputs.alternative if sums.inputs else None,
        evidence=basis.evidence,
        inputs=sums.inputs,
        verdict=verdict,
        judge=basis.judge.model if basis.judge else None,
        offered=verdict.facts.offered,
        today=_todays_bill(sums.todays) if sums.todays else None,
        volume=_volume(basis),
        by_token=_served_by_token(basis, sums.inputs),
    )


def _served_by_token(basis: EstimateBasis, inputs: Inputs | None) -> ServedByToken | None:
    if basis.by_token is None or inputs is None or inputs.tuned_tokens is None:
        return None
    rates = rates_from_row(basis.by_token)
    if isinstance(rates, MissingPrice):
        return None
    monthly = bill(inputs.tuned_tokens, rates, inputs.requests, inputs.traffic)
    return ServedByToken(basis.by_token.served_by, monthly)


def _usable_evidence(basis: EstimateBasis) -> Evidence:
    """Leaves out candidates whose model was shut down since they were measured, which nobody can use any more, and the
    one that is the same model as the one to train."""
    evidence = basis.evidence
    usable = []
    for candidate in evidence.candidates:
        price = basis.prices.get(candidate.model or "")
        has_ended = price is not None and price.has_ended(basis.today)
        if candidate.kind == "tuned" or not has_ended:
            usable.append(candidate)
    return without_trained_candidate(keep_candidates(evidence, usable), basis.question.method)


# Costs and savings.


def _calculate(basis: EstimateBasis) -> _Sums:
    cost = run_cost(basis.needs, basis.report, basis.judge)
    inputs = _all_inputs(basis, cost)
    if isinstance(inputs, MissingPrice):
        return _Sums(cost, missing=inputs, todays=_inputs_at_current_price(basis))
    return _Sums(cost, inputs=inputs, estimate=estimate(inputs), outlook=_simulate(inputs), todays=inputs)


def _all_inputs(basis: EstimateBasis, cost: RunCost | MissingPrice) -> Inputs | MissingPrice:
    """Returns the inputs of the sums, or the first price that is missing for them."""
    if isinstance(cost, MissingPrice):
        return cost
    if basis.current is None or basis.question.volume is None:
        return MissingPrice("today")
    now = rates_from_row(basis.current)
    if isinstance(now, MissingPrice):
        return now
    tuned = rates_from_row(basis.needs.tuned)
    if isinstance(tuned, MissingPrice):
        return tuned

    inputs = _inputs(basis, _with_successors(basis, now), _with_tuned_capacity(basis, tuned), cost)
    if basis.is_trained:
        return _without_sunk_costs(inputs)
    return inputs


def _inputs(basis: EstimateBasis, now: Rates, tuned: Rates, cost: RunCost) -> Inputs:
    """Returns the inputs, with the alternative that the saving is compared with."""
    question = basis.question
    evidence = basis.evidence
    usage = _usage(basis)
    volume = _volume(basis)
    hours = HOURS_PER_MONTH if question.hosting_hours is None else question.hosting_hours
    without = Inputs(
        monthly_input_tokens=volume.input_tokens if volume else 0,
        usage=usage,
        now=now,
        tuned=tuned,
        training=replace(cost.training, runs=question.runs or 1),
        today=basis.today,
        ends=basis.target.model.ends,
        tuned_tokens=_tuned_tokens(basis.report, evidence.trained),
        traffic=Traffic(batch_share=question.batch_share or ZERO, hosting_hours=hours),
        evaluation_usd=cost.evaluation_usd,
        people_hours=question.people_hours,
        people_usd_per_hour=USD_PER_HOUR if question.people_rate is None else question.people_rate,
        labels=question.label_count or 0,
        usd_per_label=question.label_usd or ZERO,
        retrain_months=question.retrain_months,
        monitoring_usd=question.monitoring_usd or ZERO,
    )
    current = CurrentModel(usage.today, now, _prompted_today(basis))
    use = MonthlyUse(without.requests, usage.own, without.traffic)
    alternative = choose_alternative(current, evidence.measured_alternatives, _cheapest_rates(basis), use)
    quality = _quality(evidence.trained, alternative.candidate, question.wrong_usd)
    return replace(without, alternative=alternative, quality=quality)


def _inputs_at_current_price(basis: EstimateBasis) -> Inputs | None:
    """Returns inputs with today's price in place of the tuned model's unknown one: enough for today's bill. None if
    today's price or volume is unknown too."""
    volume = basis.question.volume
    if basis.current is None or volume is None or not volume.amount:
        return None
    now = rates_from_row(basis.current)
    if isinstance(now, MissingPrice):
        return None
    free = Training(0, 1, usd_per_million=ZERO)
    return _inputs(basis, now, now, RunCost(free, ZERO, ZERO))


def _without_sunk_costs(inputs: Inputs) -> Inputs:
    """Returns the inputs for a run that is over: money that is already spent no longer counts, future retrainings
    do."""
    # Before the training becomes free: each retraining will be paid for.
    again = inputs.monitoring_usd + retraining_usd(inputs)
    free = Training(inputs.training.tokens, inputs.training.epochs, usd_per_million=ZERO)
    spent = replace(inputs, training=free, evaluation_usd=ZERO, people_hours=ZERO, labels=0)
    return replace(spent, retrain_months=None, monitoring_usd=again)


def _todays_bill(inputs: Inputs) -> MonthlyCost:
    return bill(inputs.usage.today, inputs.now, inputs.requests, inputs.traffic)


def _prompted_today(basis: EstimateBasis) -> MeasuredCandidate | None:
    """Returns today's model as it was measured with its prompt alone."""
    return basis.evidence.measured_alternatives.prompted(basis.question.current or "")


def _volume(basis: EstimateBasis) -> MonthlyVolume | None:
    """Returns a month's requests and tokens, None if the question gives no volume. Needs no price."""
    if basis.question.volume is None:
        return None
    return monthly_volume(basis.question.volume, _usage(basis).tokens_per_request)


def _usage(basis: EstimateBasis) -> Usage:
    """Returns the tokens of today's requests. The length of the prompt is the one that a person stated, else the one
    measured on the holdout, else the one that the dataset's rows suggest."""
    counted = basis.report.tokens
    prompted = _prompted_today(basis)
    if prompted is None:
        requests = basis.report.rows
        before = counted.prompted_mean
        output = counted.answer_mean
    else:
        requests = prompted.n
        before = prompted.prompt_tokens / prompted.n
        output = prompted.completion_tokens / prompted.n
    if basis.question.prompt_tokens is not None:
        before = float(basis.question.prompt_tokens)
    return Usage.from_means(requests, max(before, 1.0), counted.prompt_mean, output)


def _tuned_tokens(report: Report, trained: MeasuredCandidate | None) -> Tokens:
    if trained is not None and trained.n:
        return Tokens(trained.n, trained.prompt_tokens, trained.completion_tokens)
    rows = report.rows
    prompts = round(report.tokens.prompt_mean * rows)
    answers = round(report.tokens.answer_mean * rows)
    return Tokens(rows, prompts, answers)


def _quality(
    trained: MeasuredCandidate | None, other: MeasuredCandidate | None, usd_per_wrong: Decimal | None
) -> Quality | None:
    """Compares the answers of the tuned model and the alternative. None unless both answered the same rows and a wrong
    answer has a price."""
    if trained is None or other is None or not usd_per_wrong or not 0 < trained.n == other.n:
        return None
    gained = ZERO
    lost = ZERO
    for ours, theirs in zip(trained.scores, other.scores, strict=True):
        gap = Decimal(str(ours)) - Decimal(str(theirs))
        gained += max(gap, ZERO)
        lost += max(-gap, ZERO)
    return Quality(trained.n, gained, lost, usd_per_wrong)


# Rates.


def _listed_price(basis: EstimateBasis) -> PriceRow | None:
    """Returns the list price of the cheapest measured alternative; None if it asks no model, or no list has it."""
    cheapest = basis.evidence.measured_alternatives.cheapest
    if cheapest is None or cheapest.model is None:
        return None
    return basis.prices.get(cheapest.model)


def _cheapest_rates(basis: EstimateBasis) -> Rates | None:
    """Returns the list price of the cheapest measured candidate that meets the bar, None if there is none. If no list
    has its model any more, a request costs what it cost when it was measured."""
    cheapest = basis.evidence.measured_alternatives.cheapest
    if cheapest is None:
        return None
    listed = _listed_price(basis)
    if listed:
        rates = rates_from_row(listed)
        if isinstance(rates, Rates):
            return _with_own_capacity(basis, _with_successors(basis, rates))
    if cheapest.model is None:
        free = "no vendor: it runs on any machine, and its time is not counted"
        return Rates(cheapest.kind, ZERO, ZERO, free)
    a_request = (cheapest.usd_per_1000 or ZERO) / 1000
    return Rates(cheapest.model, ZERO, ZERO, "the measurement", usd_per_request=a_request)


def _with_successors(basis: EstimateBasis, rates: Rates, before: tuple[str, ...] = ()) -> Rates:
    """Adds the price of the model's successor, and of that one's successor, as far as they are known."""
    name = rates.successor
    # Two models may name each other as successors.
    if rates.ends is None or name is None or name in before or name not in basis.prices:
        return rates
    successor = rates_from_row(basis.prices[name])
    if isinstance(successor, MissingPrice):
        return rates
    return replace(rates, after_end=_with_successors(basis, successor, (*before, name)))


def _with_tuned_capacity(basis: EstimateBasis, rates: Rates) -> Rates:
    """Adds the throughput of the machine that serves the tuned model: as a person gave it, as it was measured on ours,
    or as guessed for a vendor's."""
    speed = basis.question.serving_speed
    stated = basis.target.model.serving_tokens_per_second
    if speed is None and stated:
        speed = Decimal(stated)
    if speed is not None:
        busy = basis.question.utilisation or DEFAULT_BUSY
        return replace(rates, capacity=Capacity(speed, speed, busy, "given"))
    if rates.usd_per_hour and not rates.on_own_machine:
        return replace(rates, capacity=basis.vendor_capacity)
    return _with_own_capacity(basis, rates)


def _with_own_capacity(basis: EstimateBasis, rates: Rates) -> Rates:
    if not rates.on_own_machine:
        return rates
    return replace(rates, capacity=basis.capacities.get(rates.model))


def monthly_cost(inputs: Inputs, row: PriceRow) -> MonthlyCost | None:
    """Returns what today's requests would cost with another model at the same number of tokens, None if its price is
    unknown or it has ended."""
    if row.has_ended(inputs.today):
        return None
    rates = rates_from_row(row)
    if isinstance(rates, MissingPrice):
        return None
    return bill(inputs.usage.today, rates, inputs.requests, inputs.traffic)


# Facts.


def _facts(basis: EstimateBasis, sums: _Sums) -> Facts:
    report = basis.report
    evidence = basis.evidence
    payback_days = None
    if sums.estimate and sums.estimate.payback_months is not None:
        payback_days = float(sums.estimate.payback_months * HOURS_PER_MONTH / 24)
    run_usd = None
    if isinstance(sums.cost, RunCost):
        run_usd = sums.cost.training.usd.expected + sums.cost.evaluation_usd
    return Facts(
        dataset=basis.name,
        rows=report.rows,
        n_holdout=report.n_holdout,
        smallest_label=report.labels[-1].rows if report.labels else None,
        target=model_verdict(basis.target.row, basis.target.model, basis.today, payback_days),
        run_usd=run_usd,
        estimate=sums.estimate,
        missing=sums.missing,
        evidence=evidence,
        outlook=sums.outlook,
        few_labels=tuple((label.label, label.rows) for label in report.labels if label.rows < FEW_PER_LABEL),
        n_labels=len(report.labels) or None,
        n_combined=report.n_combined,
        has_objects=report.scoring == "json",
        floor=report.floor,
        current=basis.question.current,
        faults=count_row_faults(report, evidence.label_checks),
        full_current=basis.full_current,
        to_measure=basis.to_measure,
        machine=_own_machine(basis, sums),
        providers_without_key=basis.providers_without_key,
        has_models=basis.has_models,
        offered=_unmeasured_model(basis, sums.todays),
        model_ends=_near_ends(basis),
        is_vendor_speed_unknown=_is_vendor_speed_unknown(sums.inputs),
    )


def _is_vendor_speed_unknown(inputs: Inputs | None) -> bool:
    """True if nobody can say how many of a vendor's machines the volume takes."""
    if inputs is None or inputs.tuned.on_own_machine or not inputs.tuned.usd_per_hour:
        return False
    return inputs.tuned.capacity is None


def _own_machine(basis: EstimateBasis, sums: _Sums) -> OwnMachine | None:
    """Returns what is known of our own machine for this model, None if a vendor trains and serves it."""
    needs = basis.needs
    if needs.tuned.usd_per_hour is None:
        return None
    too_large = None
    if needs.room and needs.room.shortage and needs.room.shortage.is_certain:
        too_large = needs.room.shortage
    knows_training_time = False
    if isinstance(sums.cost, RunCost):
        training = sums.cost.training
        knows_training_time = training.minutes is not None and not training.is_guess
    is_given = basis.question.serving_speed or basis.target.model.serving_tokens_per_second
    return OwnMachine(
        too_large=too_large,
        knows_training_time=knows_training_time,
        knows_serving_speed=bool(is_given or needs.tuned.served_by) or basis.target.name in basis.capacities,
        machines=sums.estimate.machines if sums.estimate else None,
        has_price=basis.target.model.is_hourly_price_set,
        is_free=not needs.tuned.usd_per_hour,
    )


def _near_ends(basis: EstimateBasis) -> tuple[tuple[str, ModelEnd], ...]:
    """Returns the ends of measured models within the year, by their names in the comparison."""
    models = dict.fromkeys(candidate.model for candidate in basis.evidence.candidates if candidate.model)
    ends = [(model, basis.ends[model]) for model in models if model in basis.ends]
    return tuple((model, end) for model, end in ends if is_near_end(end.day, basis.today))


def _unmeasured_model(basis: EstimateBasis, todays: Inputs | None) -> UnmeasuredModel | None:
    """Returns the cheapest capable model other than today's with its monthly bill, None if it was measured already or
    its bill is unknown."""
    others = basis.to_measure
    if basis.full_current:
        others = others[1:]  # the first is today's model
    if todays is None or basis.question.current is None or not others:
        return None
    cheapest = others[0]
    if any(candidate.model == cheapest for candidate in basis.evidence.candidates):
        return None
    if cheapest not in basis.prices:
        return None
    monthly = monthly_cost(todays, basis.prices[cheapest])
    if monthly is None:
        return None
    measuring_usd = None
    requests = Decimal(todays.requests.numerator) / todays.requests.denominator
    if requests:
        measuring_usd = monthly.total * basis.report.n_holdout / requests
    return UnmeasuredModel(cheapest, monthly, measuring_usd)
