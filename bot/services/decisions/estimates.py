"""Makes an estimate: gathers prices, evidence and hardware, and lets the pure rules decide. Touches neither the store
nor a trainer, so that Slack and the terminal share it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from functools import cached_property, lru_cache
from importlib.util import find_spec

from bot.cards.common.blocks import code
from bot.cards.common.candidates import answers_name
from bot.cards.decisions.estimate_details import EstimateSummary
from bot.cards.decisions.plan_refusals import unswept_text
from bot.rules import plans
from bot.rules.advice import advise
from bot.rules.alternatives import UnmeasuredModel
from bot.rules.bills import ZERO, Capacity, MonthlyCost, Rates, bill
from bot.rules.estimate_inputs import DEFAULT_BUSY, Question, find_implausible_figure
from bot.rules.facts import (
    FEW_PER_LABEL,
    NOTHING_MEASURED,
    Evidence,
    Facts,
    OwnMachine,
    count_row_faults,
    without_trained_candidate,
)
from bot.rules.forecast import Outlook, simulate
from bot.rules.prices import MissingPrice, rates_from_row
from bot.rules.reasons import ModelEnd
from bot.rules.roi import Estimate, Inputs, Training, estimate
from bot.rules.units import HOURS_PER_MONTH
from bot.services.common.candidates import (
    ModelToAsk,
    find_run_judge,
    full_name,
    own_models,
    providers_without_key,
    refuse_ended_model,
    suggest_models,
)
from bot.services.common.hardware import (
    MemoryHeadroom,
    capacity_of,
    guess_vendor_capacity,
)
from bot.services.common.targets import Target, find_target
from bot.services.decisions.estimate_inputs import (
    EstimatePrices,
    RunCost,
    TrainingNeeds,
    build_inputs,
    candidate_price,
    candidate_rates,
    find_monthly_volume,
    measured_alternatives,
    training_needs,
    with_successors,
    without_ended_models,
    without_sunk_costs,
)
from bot.settings import PACKAGED_TARGET, Settings
from bot.values.runs import Refusal
from trainers.dataset import Report
from trainers.dataset.checks import MAX_LABELS
from trainers.encoders import TORCH_WEIGHTS, TORCH_WEIGHTS_PIN
from trainers.methods import BUILTIN, METHODS, option_name, specs
from trainers.payloads import PLAIN_HYPERPARAMETERS
from trainers.pricing import PriceRow, UnknownPrice, find_prompted_price, find_retirement
from trainers.providers import file_problem, find_rejected_value, model_verdict
from trainers.types import Hyperparameter

# An estimate, its details and its plan each need the same ten thousand draws.
_simulate = lru_cache(maxsize=32)(simulate)
# A model that ends within a year is not advised without naming that day.
NEAR_END = timedelta(days=365)


@dataclass(frozen=True, kw_only=True)
class EstimateResult(EstimateSummary):
    """An estimate with everything it is based on.

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
    judge: ModelToAsk | None


@dataclass(frozen=True)
class _Request:
    """The inputs of one call of `make_estimate`. `question` has the target's defaults filled in; `current` is the price
    of today's model."""

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
    """Costs and savings. `inputs` is the first missing price if they can't be computed. `listed` is the list price of
    the cheapest measured alternative."""

    inputs: Inputs | MissingPrice
    listed: PriceRow | None

    @property
    def known(self) -> Inputs | None:
        return None if isinstance(self.inputs, MissingPrice) else self.inputs

    @cached_property
    def estimate(self) -> Estimate | None:
        if self.known is None:
            return None
        return estimate(self.known)

    @cached_property
    def outlook(self) -> Outlook | None:
        if self.known is None:
            return None
        return _simulate(self.known)


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

    `is_trained` is True if the run is over: its costs are sunk, so only future costs count. `reachable` are the names
    of the providers with a key, which a next step may suggest; None means all.
    """
    target = _find_target(settings, question)
    if isinstance(target, Refusal):
        return target
    if target.row.rents and target.row.rental is None and not is_trained:
        return Refusal(f"The hourly price of a machine for {code(target.name)} is not known.", "target")
    question = with_target_defaults(question, target)
    now = _unsuitable_rows(name, report, question, target) or _current_price(settings, question, today)
    if isinstance(now, Refusal):
        return now
    judge = find_run_judge(settings, reachable, question, evidence.judge, report, today)
    if isinstance(judge, Refusal):
        return judge
    evidence = without_trained_candidate(without_ended_models(settings, evidence, today), question.method)
    needs = training_needs(settings, target, report, question, today, judge)
    request = _Request(settings, name, report, question, target, now, today, is_trained, reachable)
    return _result(request, needs, evidence, judge)


def _result(
    request: _Request, needs: TrainingNeeds, evidence: Evidence, judge: ModelToAsk | None
) -> EstimateResult:
    question = request.question
    now = request.current
    sums = _calculate(request, needs, evidence)
    inputs = sums.known or _inputs_at_current_price(question, request.report, evidence, now, request.today)
    facts = _gather_facts(request, needs, sums, evidence)
    facts = replace(facts, offered=_unmeasured_model(request.settings, facts, inputs, request.today))
    verdict = advise(facts)
    training = None
    measuring_usd = ZERO
    machine_usd = ZERO
    if isinstance(needs.cost, RunCost):
        runs = question.runs or 1
        training = replace(needs.cost.training, runs=runs)
        measuring_usd = needs.cost.evaluation_usd * runs
        machine_usd = needs.cost.machine_usd * runs
    outlook = sums.outlook
    if verdict.withholds_saving:
        outlook = None
    return EstimateResult(
        name=request.name,
        report=request.report,
        question=question,
        target=request.target,
        hyperparameters=needs.hyperparameters,
        prices=tuple(row for row in (needs.tuned, needs.base, now, sums.listed) if row),
        current=now,
        cost=needs.cost,
        training=training,
        measuring_usd=measuring_usd,
        machine_usd=machine_usd,
        minutes=needs.time.minutes if needs.time else None,
        is_guess=needs.time is not None and needs.time.is_guess,
        room=needs.room,
        memory=needs.room.line if needs.room else None,
        sweep_note=plans.trial_count_text(question.sweep),
        asks_vendor=request.target.row.provider.can("estimate"),
        made_on=request.today,
        estimate=sums.estimate,
        outlook=outlook,
        alternative=sums.known.alternative if sums.known else None,
        evidence=evidence,
        inputs=sums.known,
        verdict=verdict,
        judge=judge,
        offered=facts.offered,
        today=estimate(inputs).monthly_before if inputs else None,
        volume=find_monthly_volume(question, request.report, evidence),
    )


def _inputs_at_current_price(
    question: Question, report: Report, evidence: Evidence, now: PriceRow | None, today: date
) -> Inputs | None:
    """Returns inputs with today's price in place of the tuned model's unknown one: enough for today's bill. None if
    today's price or volume is unknown too."""
    volume = question.volume
    if now is None or volume is None or not volume.amount:
        return None
    rates = rates_from_row(now)
    if not isinstance(rates, Rates):
        return None
    free = Training(0, 1, usd_per_million=ZERO)
    priced = EstimatePrices(volume, rates, rates, free, ZERO, None)
    return build_inputs(question, report, evidence, priced, None, today)


def _unsuitable_rows(name: str, report: Report, question: Question, target: Target) -> Refusal | None:
    """Refuses rows that the method or the kind of model can't learn from."""
    if METHODS[question.method].reads_pairs and report.pairs is None:
        return Refusal(
            f"`method={question.method}` learns from preference pairs, and the rows of `{name}` have one answer each. "
            'Upload JSONL with two answers per line, `{"input": {"messages": […]}, "preferred_output": […], '
            '"non_preferred_output": […]}`, or leave out `method=`.',
            "method",
        )
    problem = file_problem(target.row.provider, report.n_train)
    if problem:
        return Refusal(
            f"{target.row.title} {problem} of {code(name)} once a part is held out. Add rows, or train elsewhere.",
            "target",
        )
    if target.model.is_encoder and report.task != "labels":
        return Refusal(
            f"An encoder learns labels, but the answers of {code(name)} are {_not_labels(report)}. Choose a chat model "
            "as the target.",
            "target",
        )
    return None


def _not_labels(report: Report) -> str:
    if report.scoring == "json":
        return answers_name(report)
    return f"{answers_name(report)} or more than {MAX_LABELS} different labels"


def monthly_cost(settings: Settings, inputs: Inputs, model: str, today: date) -> MonthlyCost | None:
    """Returns what today's requests would cost with `model` at the same number of tokens, None if its price is
    unknown."""
    row = find_prompted_price(model, settings.providers, settings.prices, today)
    if isinstance(row, UnknownPrice) or row.has_ended(today):
        return None
    rates = rates_from_row(row)
    if isinstance(rates, MissingPrice):
        return None
    return bill(inputs.usage.today, rates, inputs.requests, inputs.traffic)


def _unmeasured_model(
    settings: Settings, facts: Facts, inputs: Inputs | None, today: date
) -> UnmeasuredModel | None:
    """Returns the cheapest capable model other than today's with its monthly bill, None if it was measured already or
    its bill is unknown."""
    others = facts.to_measure
    if facts.full_current:
        others = others[1:]  # the first is today's model
    if inputs is None or facts.current is None or not others:
        return None
    cheapest = others[0]
    if any(candidate.model == cheapest for candidate in facts.evidence.candidates):
        return None
    monthly = monthly_cost(settings, inputs, cheapest, today)
    if monthly is None:
        return None
    measuring_usd = None
    requests = Decimal(inputs.requests.numerator) / inputs.requests.denominator
    if requests:
        measuring_usd = monthly.total * facts.n_holdout / requests
    return UnmeasuredModel(cheapest, monthly, measuring_usd)


def _near_ends(settings: Settings, evidence: Evidence, today: date) -> tuple[tuple[str, ModelEnd], ...]:
    """Returns the ends of measured models within the year, by their names in the comparison."""
    models = dict.fromkeys(candidate.model for candidate in evidence.candidates if candidate.model)
    ends = []
    for model in models:
        end = find_retirement(model, settings.providers)
        if end and end.day - today < NEAR_END:
            ends.append((model, ModelEnd(end.day, model, end.successor)))
    return tuple(ends)


def question_refusal(settings: Settings, question: Question, today: date) -> Refusal | None:
    """Returns why `make_estimate` would refuse the question, without computing anything."""
    target = _find_target(settings, question)
    if isinstance(target, Refusal):
        return target
    price = _current_price(settings, question, today)
    if isinstance(price, Refusal):
        return price
    return None


def _find_target(settings: Settings, question: Question) -> Target | Refusal:
    """Returns the question's target, or why the question makes no sense or the target can't do it."""
    misread = find_implausible_figure(question)
    if misread:
        return Refusal(misread.sentence)
    target = find_target(settings.providers, question.target)
    if isinstance(target, Refusal):
        return target
    question = with_target_defaults(question, target)
    refusal = _wrong_kind_of_model(question, target)
    if refusal:
        return refusal
    unswept = plans.find_sweep_conflict(question, can_sweep=target.row.provider.can("sweep"))
    if unswept:
        return Refusal(unswept_text(unswept, target.row.title), "sweep")
    return _unsupported(question, target) or target


def with_target_defaults(question: Question, target: Target) -> Question:
    """Returns the question with the target's default method: an encoder is trained by `head` unless a method is
    named."""
    if target.model.is_encoder and question.method == "supervised":
        return replace(question, method="head")
    return question


def _wrong_kind_of_model(question: Question, target: Target) -> Refusal | None:
    """Refuses to train an encoder as a chat model, or the other way round."""
    method = METHODS[question.method]
    name = code(target.name)
    if target.model.is_encoder and not method.is_for_encoders:
        return Refusal(
            f"{name} is an encoder, which learns labels: `method={method.name}` can't train it. Leave out `method=`.",
            "method",
        )
    if method.is_for_encoders and not target.model.is_encoder:
        return Refusal(
            f"{name} is not an encoder: `method={method.name}` can't train it. Leave it out, or choose an encoder as "
            "the target.",
            "method",
        )
    if not method.is_for_encoders:
        return None
    others = [option_name(option) for option in question.chosen if option not in specs(method.name)]
    others += [option for option in ("patience", "sweep") if getattr(question, option)]
    if not others:
        return None
    takes = "`, `".join(f"{option_name(option)}=" for option in specs("full"))
    return Refusal(
        f"`{others[0]}=` has no effect on {name} with `method={method.name}`: leave it out. `method=full` trains the "
        f"whole encoder, and takes `{takes}`.",
        others[0],
    )


def _unsupported(question: Question, target: Target) -> Refusal | None:
    """Refuses what the target's trainer can't do. Our own trainer on another machine refuses the rest when the
    job is created."""
    row = target.row
    method = METHODS[question.method]
    if method.reads_pairs and not row.provider.can("dpo"):
        return Refusal(
            f"`method={method.name}` needs a trainer that takes preference pairs, which {row.title} does not. Leave it "
            "out, or choose a target that starts with `local/`.",
            "method",
        )
    if not (method.is_plain or method.reads_pairs or row.provider.can("sweep")):
        return Refusal(
            f"`method={method.name}` needs our own trainer, and {row.title} has its own way to train. Leave it out, or "
            "choose a target that starts with `local/`.",
            "method",
        )
    engine = question.chosen.get("engine", BUILTIN)
    if engine not in method.engines:
        return Refusal(
            f"`engine={engine}` can't train with `method={method.name}`. Leave out one of the two.",
            "engine",
        )
    extra = [option_name(name) for name in question.chosen if name not in PLAIN_HYPERPARAMETERS]
    if extra and not row.provider.can("extra_hyperparameters"):
        return Refusal(
            f"{row.title} does not take `{extra[0]}=`: leave it out, or choose a model of our own trainer.",
            extra[0],
        )
    misfit = find_rejected_value(row.provider, question.chosen)
    if misfit:
        name = option_name(misfit.name)
        if not misfit.allowed:
            return Refusal(f"{row.title} doesn't take `{name}=`: leave it out.", name)
        return Refusal(
            f"{row.title} takes {misfit.allowed} for `{name}=`: choose one of those, or leave it out.", name
        )
    quantization = question.chosen.get("quantization", "none")
    if quantization != "none" and row.is_started_by_us and find_spec("bitsandbytes") is None:
        return Refusal(
            f"`quantization={quantization}` needs the package bitsandbytes beside our trainer. Leave it out, or ask "
            "the bot's operator to run `pip install '.[quantized]'` in a checkout.",
            "quantization",
        )
    is_packaged = target.model.name == PACKAGED_TARGET and row.is_started_by_us
    if question.method == "full" and is_packaged and find_spec(TORCH_WEIGHTS) is None:
        return Refusal(
            f"`method=full` needs the PyTorch weights of {code(target.name)} beside our trainer. Use `method=head`, "
            f"which doesn't need them, or ask the bot's operator to run `pip install {TORCH_WEIGHTS_PIN}`.",
            "method",
        )
    return None


def _calculate(request: _Request, needs: TrainingNeeds, evidence: Evidence) -> _Sums:
    settings = request.settings
    question = request.question
    today = request.today
    candidate = measured_alternatives(evidence).cheapest
    listed = candidate_price(settings, candidate, today)
    priced = _gather_prices(
        question, needs.cost, request.current, needs.tuned, candidate_rates(candidate, listed)
    )
    if isinstance(priced, MissingPrice):
        return _Sums(priced, listed)
    cheapest = priced.cheapest
    if cheapest:
        cheapest = with_successors(settings, cheapest, today)
        cheapest = _with_own_capacity(settings, question, cheapest)
    priced = replace(
        priced,
        now=with_successors(settings, priced.now, today),
        tuned=_with_tuned_capacity(request, priced.tuned),
        cheapest=cheapest,
    )
    inputs = build_inputs(question, request.report, evidence, priced, request.target.model.ends, today)
    if request.is_trained:
        inputs = without_sunk_costs(inputs)
    return _Sums(inputs, listed)


def _with_tuned_capacity(request: _Request, rates: Rates) -> Rates:
    """Adds the throughput of the machine that serves the tuned model: as a person gave it, as it was measured on ours,
    or as guessed for a vendor's."""
    question, target = request.question, request.target
    busy = question.utilisation or DEFAULT_BUSY
    speed = question.serving_speed
    if speed is None and target.model.serving_tokens_per_second:
        speed = Decimal(target.model.serving_tokens_per_second)
    if speed is not None:
        return replace(rates, capacity=Capacity(speed, speed, busy, "given"))
    if rates.usd_per_hour and not rates.on_own_machine:
        return replace(rates, capacity=guess_vendor_capacity(request.settings, target, busy))
    return _with_own_capacity(request.settings, question, rates)


def _with_own_capacity(settings: Settings, question: Question, rates: Rates) -> Rates:
    if not rates.on_own_machine:
        return rates
    busy = question.utilisation or DEFAULT_BUSY
    return replace(rates, capacity=capacity_of(settings, rates.model, busy))


def _own_machine(request: _Request, needs: TrainingNeeds, sums: _Sums) -> OwnMachine | None:
    """Returns what is known of our own machine for this model, None if a vendor trains and serves it."""
    if needs.tuned.usd_per_hour is None:
        return None
    too_large = None
    if needs.room and needs.room.shortage and needs.room.shortage.is_certain:
        too_large = needs.room.shortage
    knows_training_time = False
    if isinstance(needs.cost, RunCost):
        training = needs.cost.training
        knows_training_time = training.minutes is not None and not training.is_guess
    is_given = request.question.serving_speed or request.target.model.serving_tokens_per_second
    capacity = capacity_of(request.settings, request.target.name, DEFAULT_BUSY)
    return OwnMachine(
        too_large=too_large,
        knows_training_time=knows_training_time,
        knows_serving_speed=bool(is_given) or capacity is not None,
        machines=sums.estimate.machines if sums.estimate else None,
        has_price=request.target.model.is_hourly_price_set,
        is_free=not needs.tuned.usd_per_hour,
    )


def _gather_facts(request: _Request, needs: TrainingNeeds, sums: _Sums, evidence: Evidence) -> Facts:
    settings = request.settings
    report = request.report
    target = request.target
    reachable = request.reachable
    current = request.question.current
    today = request.today
    payback_days = None
    if sums.estimate and sums.estimate.payback_months is not None:
        payback_days = float(sums.estimate.payback_months * HOURS_PER_MONTH / 24)
    run_usd = None
    if isinstance(needs.cost, RunCost):
        run_usd = needs.cost.training.usd.expected + needs.cost.evaluation_usd
    missing = None
    if isinstance(sums.inputs, MissingPrice):
        missing = sums.inputs
    without_key: tuple[tuple[str, str], ...] = ()
    has_models = True  # as far as is known: without `reachable`, nobody said which providers have a key
    if reachable is not None:
        without_key = providers_without_key(settings, reachable)
        has_models = bool(own_models(settings, reachable))
    return Facts(
        dataset=request.name,
        rows=report.rows,
        n_holdout=report.n_holdout,
        smallest_label=report.labels[-1].rows if report.labels else None,
        target=model_verdict(target.row, target.model, today, payback_days),
        run_usd=run_usd,
        estimate=sums.estimate,
        missing=missing,
        evidence=evidence,
        outlook=sums.outlook,
        few_labels=tuple((label.label, label.rows) for label in report.labels if label.rows < FEW_PER_LABEL),
        n_labels=len(report.labels) or None,
        n_combined=report.n_combined,
        has_objects=report.scoring == "json",
        floor=report.floor,
        current=current,
        faults=count_row_faults(report, evidence.label_checks),
        full_current=full_name(settings, current),
        to_measure=suggest_models(settings, current, today, reachable or ()),
        machine=_own_machine(request, needs, sums),
        providers_without_key=without_key,
        has_models=has_models,
        model_ends=_near_ends(settings, evidence, today),
        is_vendor_speed_unknown=_is_vendor_speed_unknown(sums.known),
    )


def _is_vendor_speed_unknown(inputs: Inputs | None) -> bool:
    """True if nobody can say how many of a vendor's machines the volume takes."""
    if inputs is None or inputs.tuned.on_own_machine or not inputs.tuned.usd_per_hour:
        return False
    return inputs.tuned.capacity is None


def _current_price(settings: Settings, question: Question, today: date) -> PriceRow | Refusal | None:
    """Returns the price of today's model, None if the question names none."""
    if question.current is None:
        return None
    row = find_prompted_price(question.current, settings.providers, settings.prices, today)
    if isinstance(row, UnknownPrice):
        return Refusal(row.sentence, "current")
    if row.has_ended(today):
        return refuse_ended_model(row, question.current, "current")
    return row


def _gather_prices(
    question: Question,
    cost: RunCost | MissingPrice,
    now: PriceRow | None,
    tuned: PriceRow,
    cheapest: Rates | None,
) -> EstimatePrices | MissingPrice:
    """Returns every price that the estimate needs, or the first that is missing."""
    if isinstance(cost, MissingPrice):
        return cost
    if now is None or question.volume is None:
        return MissingPrice("today")
    rates_now = rates_from_row(now)
    if isinstance(rates_now, MissingPrice):
        return rates_now
    rates_tuned = rates_from_row(tuned)
    if isinstance(rates_tuned, MissingPrice):
        return rates_tuned
    return EstimatePrices(
        question.volume, rates_now, rates_tuned, cost.training, cost.evaluation_usd, cheapest
    )
