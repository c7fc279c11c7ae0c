"""Gathers what an estimate needs (report, prices, the target's row) and lets the pure rules decide. Slack
and the terminal use it alike: no store, no trainer."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import date
from functools import cached_property, lru_cache
from importlib.util import find_spec

from bot.cards.blocks import code
from bot.cards.estimate_details import EstimateSummary
from bot.cards.plans import unswept_text
from bot.rules import plans
from bot.rules.advice import advise
from bot.rules.alternatives import UnmeasuredModel
from bot.rules.bills import ZERO, MonthlyCost, Rates, bill
from bot.rules.estimate_inputs import DEFAULT_BUSY, Question, find_implausible_figure
from bot.rules.facts import FEW_PER_LABEL, NOTHING_MEASURED, Evidence, Facts, OwnMachine, count_row_faults
from bot.rules.forecast import Outlook, simulate
from bot.rules.prices import MissingPrice, rates_from_row
from bot.rules.roi import Estimate, Inputs, Training, estimate
from bot.rules.units import HOURS_PER_MONTH
from bot.services.candidates import (
    Candidate,
    find_run_judge,
    full_name,
    own_models,
    providers_without_key,
    refuse_ended_model,
    suggest_models,
)
from bot.services.estimate_inputs import (
    EstimatePrices,
    RunCost,
    TrainingNeeds,
    build_inputs,
    measured_alternatives,
    rung_price,
    rung_rates,
    training_needs,
    with_successors,
    without_ended_models,
    without_sunk_costs,
    without_trained_rung,
)
from bot.services.hardware import MemoryHeadroom, Target, capacity_of, find_target
from bot.settings import Settings
from bot.values.runs import Refusal
from trainers.dataset import Report
from trainers.dataset.checks import MAX_LABELS
from trainers.methods import BUILTIN, METHODS, option_of, specs
from trainers.payloads import PLAIN_HYPERPARAMETERS
from trainers.pricing import PriceRow, UnknownPrice, prompted_price
from trainers.providers import file_problem, find_misfit, model_verdict
from trainers.types import Hyperparameter

# An estimate, its details and the plan after it ask the same: ten thousand draws each time.
_simulate = lru_cache(maxsize=32)(simulate)


@dataclass(frozen=True, kw_only=True)
class EstimateResult(EstimateSummary):
    """An estimate with all that it rests on. `current`: the price of today's model. `cost` of one run, or the price
    that nobody told us. `room`: in this machine's memory, for a model that trains here. `judge` of the tuned model's
    free text."""

    question: Question
    target: Target
    hyperparameters: tuple[tuple[str, Hyperparameter], ...]
    current: PriceRow | None
    cost: RunCost | MissingPrice
    room: MemoryHeadroom | None
    judge: Candidate | None


@dataclass(frozen=True)
class _Request:
    """What is asked of a dataset, `question` as it is meant for the `target`, and the price of today's model."""

    settings: Settings
    name: str
    report: Report
    question: Question
    target: Target
    current: PriceRow | None
    today: date
    is_trained: bool
    reachable: Collection[str] | None


@dataclass(frozen=True)
class _Sums:
    """What it brings; `inputs` is the first thing that is missing where that can't be said. `listed`: the price of
    the cheapest alternative that was measured."""

    inputs: Inputs | MissingPrice
    listed: PriceRow | None

    @property
    def known(self) -> Inputs | None:
        return None if isinstance(self.inputs, MissingPrice) else self.inputs

    @cached_property
    def estimate(self) -> Estimate | None:
        return estimate(self.known) if self.known else None

    @cached_property
    def outlook(self) -> Outlook | None:
        return _simulate(self.known) if self.known else None


def make_estimate(
    settings: Settings,
    name: str,
    report: Report,
    question: Question,
    today: date,
    evidence: Evidence = NOTHING_MEASURED,
    *,
    is_trained: bool = False,
    reachable: Collection[str] | None = None,
) -> EstimateResult | Refusal:
    """Takes a few hundredths of a second, and over a second at a cold start.

    `is_trained`: the run is over, so that what it took is spent either way and only what is to come counts.
    `reachable`: the names of providers with a key, which a next step may ask; None: all.
    """
    target = _target(settings, question)
    if isinstance(target, Refusal):
        return target
    if target.row.rents and target.row.rental is None and not is_trained:
        return Refusal(f"What a machine for {code(target.name)} costs was not asked.", "target")
    question = for_target(question, target)
    now = _unfit(name, report, question, target) or _price_today(settings, question, today)
    if isinstance(now, Refusal):
        return now
    judge = find_run_judge(settings, reachable, question, evidence.judge, report, today)
    if isinstance(judge, Refusal):
        return judge
    evidence = without_trained_rung(without_ended_models(settings, evidence, today), question.method)
    effort = training_needs(settings, target, report, question, today, judge)
    request = _Request(settings, name, report, question, target, now, today, is_trained, reachable)
    sums = _sums(request, effort, evidence)
    facts = _facts(request, effort, sums, evidence)
    verdict = advise(facts)
    inputs = sums.known or _as_today(question, report, evidence, now, today)
    cost, runs = (effort.cost if isinstance(effort.cost, RunCost) else None), question.runs or 1
    return EstimateResult(
        name=name,
        report=report,
        question=question,
        target=target,
        hyperparameters=effort.hyperparameters,
        prices=tuple(row for row in (effort.tuned, effort.base, now, sums.listed) if row),
        current=now,
        cost=effort.cost,
        training=replace(cost.training, runs=runs) if cost else None,
        measuring_usd=cost.evaluation_usd * runs if cost else ZERO,
        machine_usd=cost.machine_usd * runs if cost else ZERO,
        minutes=effort.time.minutes if effort.time else None,
        is_guess=effort.time is not None and effort.time.is_guess,
        room=effort.room,
        memory=effort.room.line if effort.room else None,
        sweep_note=plans.arm_count_text(question.sweep),
        asks_vendor=target.row.provider.can("estimate"),
        estimate=sums.estimate,
        outlook=None if verdict.withholds_saving else sums.outlook,
        alternative=sums.known.alternative if sums.known else None,
        evidence=evidence,
        inputs=sums.known,
        verdict=verdict,
        judge=judge,
        offered=_offered(settings, facts, inputs, today),
        today=estimate(inputs).monthly_before if inputs else None,
    )


def _as_today(
    question: Question, report: Report, evidence: Evidence, now: PriceRow | None, today: date
) -> Inputs | None:
    """Returns the inputs of a model that costs as much as today's, for what can be said without the tuned one's
    price."""
    rates = rates_from_row(now) if now and question.volume else None
    if not isinstance(rates, Rates):
        return None
    free = Training(0, 1, usd_per_million=ZERO)
    priced = EstimatePrices(question.volume or 0, rates, rates, free, ZERO, None)
    return build_inputs(question, report, evidence, priced, None, today)


def _unfit(name: str, report: Report, question: Question, target: Target) -> Refusal | None:
    """Refuses a method or a kind of model that the rows don't suit."""
    if METHODS[question.method].reads_pairs and report.pairs is None:
        return Refusal(
            f"`method={question.method}` learns from preference pairs, and the rows of `{name}` have one answer each. "
            'Upload JSONL with two answers a line, `{"input": {"messages": […]}, "preferred_output": […], '
            '"non_preferred_output": […]}`, or leave `method=` out.',
            "method",
        )
    if problem := file_problem(target.row.provider, report.n_train):
        return Refusal(
            f"{target.row.title} {problem} of {code(name)} once a part is held out. Add rows, or train elsewhere.",
            "target",
        )
    if target.model.is_encoder and report.task != "labels":
        return Refusal(
            f"An encoder learns labels, and the answers of {code(name)} are free text, or more than {MAX_LABELS} "
            "different ones. Choose a chat model as the target.",
            "target",
        )
    return None


def monthly_cost(settings: Settings, inputs: Inputs, model: str, today: date) -> MonthlyCost | None:
    """Returns what today's requests would cost with another model, with as many tokens; None: nobody knows."""
    row = prompted_price(model, settings.providers, settings.prices, today)
    rates = None if isinstance(row, UnknownPrice) or row.has_ended(today) else rates_from_row(row)
    return (
        bill(inputs.usage.today, rates, inputs.requests, inputs.traffic) if isinstance(rates, Rates) else None
    )


def _offered(settings: Settings, facts: Facts, inputs: Inputs | None, today: date) -> UnmeasuredModel | None:
    others = facts.to_measure[1:] if facts.full_current else facts.to_measure
    if inputs is None or facts.current is None or not others:
        return None
    is_measured = any(rung.arm.model == others[0] for rung in facts.evidence.rungs)
    monthly = None if is_measured else monthly_cost(settings, inputs, others[0], today)
    return UnmeasuredModel(others[0], monthly) if monthly else None


def refusal(settings: Settings, question: Question, today: date) -> Refusal | None:
    """Returns why `make_estimate` would refuse, without its sums."""
    target = _target(settings, question)
    if isinstance(target, Refusal):
        return target
    price = _price_today(settings, question, today)
    return price if isinstance(price, Refusal) else None


def _target(settings: Settings, question: Question) -> Target | Refusal:
    """Returns the target, if the question makes sense and the target can do what is asked of it."""
    misread = find_implausible_figure(question)
    if misread:
        return Refusal(misread.sentence)
    target = find_target(settings.providers, question.target)
    if isinstance(target, Refusal):
        return target
    question = for_target(question, target)
    refusal = _not_for_its_kind(question, target)
    if refusal:
        return refusal
    unswept = plans.find_sweep_conflict(question, can_sweep=target.row.provider.can("sweep"))
    if unswept:
        return Refusal(unswept_text(unswept, target.row.title), "sweep")
    return _unsupported(question, target) or target


def for_target(question: Question, target: Target) -> Question:
    """Returns the question as the target takes it: an encoder gets a head unless a method is named."""
    is_usual = target.model.is_encoder and question.method == "supervised"
    return replace(question, method="head") if is_usual else question


def _not_for_its_kind(question: Question, target: Target) -> Refusal | None:
    """Refuses to train an encoder as a chat model, or the other way round."""
    method, name = METHODS[question.method], code(target.name)
    if method.is_for_encoders != target.model.is_encoder:
        wants = "is an encoder, which learns labels" if target.model.is_encoder else "is no encoder"
        cure = (
            "Leave `method=` out"
            if target.model.is_encoder
            else "Leave it out, or choose an encoder as the target"
        )
        return Refusal(f"{name} {wants}: `method={method.name}` can't train it. {cure}.", "method")
    if not method.is_for_encoders:
        return None
    others = [option_of(option) for option in question.chosen if option not in specs(method.name)]
    others += [name for name in ("patience", "sweep") if getattr(question, name)]
    if not others:
        return None
    takes = "`, `".join(f"{option_of(option)}=" for option in specs("full"))
    return Refusal(
        f"`{others[0]}=` means nothing for {name} by `method={method.name}`: leave it out. `method=full` trains all of "
        f"it, with `{takes}`.",
        others[0],
    )


def _unsupported(question: Question, target: Target) -> Refusal | None:
    """Refuses what the target's trainer can't do. One on another machine says so itself when the job is created."""
    row = target.row
    method = METHODS[question.method]
    if method.reads_pairs and not row.provider.can("dpo"):
        return Refusal(
            f"`method={method.name}` needs a trainer that takes preference pairs, and {row.title} takes none. Leave it "
            "out, or choose a target that starts with `local/`.",
            "method",
        )
    if not (method.is_plain or method.reads_pairs or row.provider.can("sweep")):
        return Refusal(
            f"`method={method.name}` needs our own trainer, and {row.title} trains by its own means. Leave it out, or "
            "choose a target that starts with `local/`.",
            "method",
        )
    engine = question.chosen.get("engine", BUILTIN)
    if engine not in method.engines:
        return Refusal(
            f"`engine={engine}` can't train by `method={method.name}`. Leave `engine=` out, or `method=`.",
            "engine",
        )
    extra = [option_of(name) for name in question.chosen if name not in PLAIN_HYPERPARAMETERS]
    if extra and not row.provider.can("extra_hyperparameters"):
        return Refusal(
            f"{row.title} trains by its own means: leave `{extra[0]}=` out, or choose a model of our trainer.",
            extra[0],
        )
    misfit = find_misfit(row.provider, question.chosen)
    if misfit:
        name = option_of(misfit.name)
        takes = f"takes {misfit.allowed} for `{name}=`" if misfit.allowed else f"doesn't take `{name}=`"
        cure = "choose a value there, or leave it out" if misfit.allowed else "leave it out"
        return Refusal(f"{row.title} {takes}: {cure}.", name)
    quantization = question.chosen.get("quantization", "none")
    if quantization != "none" and row.is_started_by_us and find_spec("bitsandbytes") is None:
        return Refusal(
            f"`quantization={quantization}` needs the package bitsandbytes beside our trainer: the bot's operator "
            "installs it with `pip install '.[quantized]'` in a checkout. Or leave it out.",
            "quantization",
        )
    return None


def _sums(request: _Request, effort: TrainingNeeds, evidence: Evidence) -> _Sums:
    settings, question, today = request.settings, request.question, request.today
    rung = measured_alternatives(evidence).cheapest
    listed = rung_price(settings, rung, today)
    priced = _priced(question, effort.cost, request.current, effort.tuned, rung_rates(rung, listed))
    if isinstance(priced, MissingPrice):
        return _Sums(priced, listed)
    other = with_successors(settings, priced.cheapest, today) if priced.cheapest else None
    priced = replace(
        priced,
        now=with_successors(settings, priced.now, today),
        tuned=_with_capacity(settings, question, priced.tuned),
        cheapest=_with_capacity(settings, question, other) if other else None,
    )
    inputs = build_inputs(question, request.report, evidence, priced, request.target.model.ends, today)
    return _Sums(without_sunk_costs(inputs) if request.is_trained else inputs, listed)


def _with_capacity(settings: Settings, question: Question, rates: Rates) -> Rates:
    if not rates.on_own_machine:
        return rates
    busy = question.utilisation or DEFAULT_BUSY
    return replace(rates, capacity=capacity_of(settings, rates.model, busy))


def _own_machine(request: _Request, effort: TrainingNeeds, sums: _Sums) -> OwnMachine | None:
    """Returns None if a vendor trains and serves it."""
    if effort.tuned.usd_per_hour is None:
        return None
    training = None if isinstance(effort.cost, MissingPrice) else effort.cost.training
    capacity = capacity_of(request.settings, request.target.name, DEFAULT_BUSY)
    estimate, room = sums.estimate, effort.room
    return OwnMachine(
        too_large=room.shortage if room and room.shortage and room.shortage.is_certain else None,
        knows_training_time=bool(training and training.minutes and not training.is_guess),
        knows_serving_speed=request.question.serving_speed is not None or capacity is not None,
        machines=estimate.machines if estimate else None,
        has_price=request.target.model.is_hour_said,
    )


def _facts(request: _Request, effort: TrainingNeeds, sums: _Sums, evidence: Evidence) -> Facts:
    settings, report, target, reachable = request.settings, request.report, request.target, request.reachable
    current, today, cost = request.question.current, request.today, effort.cost
    months = sums.estimate.payback_months if sums.estimate else None
    days = float(months * HOURS_PER_MONTH / 24) if months is not None else None
    return Facts(
        dataset=request.name,
        rows=report.rows,
        n_holdout=report.n_holdout,
        smallest_label=report.labels[-1].rows if report.labels else None,
        target=model_verdict(target.row, target.model, today, days),
        run_usd=None if isinstance(cost, MissingPrice) else cost.training.usd.expected + cost.evaluation_usd,
        estimate=sums.estimate,
        missing=sums.inputs if isinstance(sums.inputs, MissingPrice) else None,
        evidence=evidence,
        outlook=sums.outlook,
        few_labels=tuple((label.label, label.rows) for label in report.labels if label.rows < FEW_PER_LABEL),
        n_labels=len(report.labels) or None,
        current=current,
        faults=count_row_faults(report),
        full_current=full_name(settings, current),
        to_measure=suggest_models(settings, current, today, reachable or ()),
        machine=_own_machine(request, effort, sums),
        providers_without_key=() if reachable is None else providers_without_key(settings, reachable),
        has_models=reachable is None or bool(own_models(settings, reachable)),
    )


def _price_today(settings: Settings, question: Question, today: date) -> PriceRow | Refusal | None:
    if question.current is None:
        return None
    row = prompted_price(question.current, settings.providers, settings.prices, today)
    if isinstance(row, UnknownPrice):
        return Refusal(row.sentence, "current")
    return refuse_ended_model(row, question.current, "current") if row.has_ended(today) else row


def _priced(
    question: Question,
    cost: RunCost | MissingPrice,
    now: PriceRow | None,
    tuned: PriceRow,
    cheapest: Rates | None,
) -> EstimatePrices | MissingPrice:
    """Returns every price that the sums need, or the first that is missing."""
    if isinstance(cost, MissingPrice):
        return cost
    if now is None or question.volume is None:
        return MissingPrice("today")
    rates_now, rates_tuned = rates_from_row(now), rates_from_row(tuned)
    if isinstance(rates_now, MissingPrice):
        return rates_now
    if isinstance(rates_tuned, MissingPrice):
        return rates_tuned
    return EstimatePrices(
        question.volume, rates_now, rates_tuned, cost.training, cost.evaluation_usd, cheapest
    )
