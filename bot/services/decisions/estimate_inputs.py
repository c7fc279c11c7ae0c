"""Works out the inputs of an estimate from a question, a report, prices and evidence: tokens, the cost and duration of
training, the prices of today's model and its successors. Asks no trainer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal

from bot.rules import plans
from bot.rules.alternatives import CurrentModel, MeasuredCandidates, MonthlyUse, choose_alternative
from bot.rules.bills import MILLION, ZERO, Rates, Tokens, Traffic
from bot.rules.budgets import DEFAULT_IDLE_S, Hosting
from bot.rules.estimate_inputs import Question
from bot.rules.facts import Evidence, keep_candidates
from bot.rules.plans import hyperparameters_for
from bot.rules.prices import MissingPrice, evaluation_usd, rates_from_row, training_from_row
from bot.rules.roi import USD_PER_HOUR, Inputs, Quality, Range, Training, Usage, retraining_usd
from bot.rules.units import HOURS_PER_MONTH, MonthlyVolume, Volume, monthly_volume
from bot.services.common.candidates import ModelToAsk
from bot.services.common.hardware import (
    MemoryHeadroom,
    TrainingTime,
    encoder_needs,
    known_base,
    local_base,
    memory_headroom,
    rented_training,
    stated_training_time,
    training_time,
)
from bot.services.common.targets import Target
from bot.services.evidence.evaluation_worker import MAX_TOKENS_VERDICT, max_tokens, report_max_tokens
from bot.settings import Settings
from trainers import chat_parameters
from trainers.dataset import Report
from trainers.evaluation.results import MeasuredCandidate
from trainers.hyperparameters import ENCODER_RATE, Sweep, count_full_trainings, rate_for
from trainers.methods import METHODS, MethodName
from trainers.money import from_micros, to_micros
from trainers.payloads import accepted_hyperparameters
from trainers.pricing import PriceRow, UnknownPrice, find_prompted_price, tuned_price
from trainers.providers import fit_hyperparameters
from trainers.tokens import encoding_of
from trainers.types import Hyperparameter

OTHER_TOKENIZER = 1.25  # another model's tokenizer may count up to this many times as many tokens as ours
HOSTED_MINUTES = Range(Decimal(10), Decimal(30), Decimal(120))
JUDGE_INSTRUCTIONS = 150  # tokens of the prompt around the texts that a judge reads


@dataclass(frozen=True)
class EstimatePrices:
    """The prices that an estimate needs; `training` is for one run. `cheapest` are the rates of the cheapest measured
    candidate that meets the bar, None if there is none."""

    volume: Volume
    now: Rates
    tuned: Rates
    training: Training
    evaluation_usd: Decimal
    cheapest: Rates | None


def measured_alternatives(evidence: Evidence) -> MeasuredCandidates:
    return MeasuredCandidates(evidence.alternatives, evidence.bar)


def build_inputs(
    question: Question,
    report: Report,
    evidence: Evidence,
    priced: EstimatePrices,
    ends: date | None,
    today: date,
) -> Inputs:
    """Returns the inputs of an estimate. `ends` is the day on which the target's vendor shuts it down, None if no day
    is known."""
    prompted = measured_alternatives(evidence).prompted(question.current or "")
    hours = HOURS_PER_MONTH if question.hosting_hours is None else question.hosting_hours
    usage = _usage(report, question, prompted)
    without = Inputs(
        monthly_input_tokens=monthly_volume(priced.volume, usage.tokens_per_request).input_tokens,
        usage=usage,
        now=priced.now,
        tuned=priced.tuned,
        training=replace(priced.training, runs=question.runs or 1),
        today=today,
        ends=ends,
        tuned_tokens=_tuned_tokens(report, evidence.trained),
        traffic=Traffic(batch_share=question.batch_share or ZERO, hosting_hours=hours),
        evaluation_usd=priced.evaluation_usd,
        people_hours=question.people_hours,
        people_usd_per_hour=USD_PER_HOUR if question.people_rate is None else question.people_rate,
        labels=question.label_count or 0,
        usd_per_label=question.label_usd or ZERO,
        retrain_months=question.retrain_months,
        monitoring_usd=question.monitoring_usd or ZERO,
    )
    current = CurrentModel(without.usage.today, without.now, prompted)
    use = MonthlyUse(without.requests, without.usage.own, without.traffic)
    alternative = choose_alternative(current, measured_alternatives(evidence), priced.cheapest, use)
    quality = _quality(evidence.trained, alternative.candidate, question.wrong_usd)
    return replace(without, alternative=alternative, quality=quality)


def find_monthly_volume(question: Question, report: Report, evidence: Evidence) -> MonthlyVolume | None:
    """Returns a month's requests and tokens, None if the question gives no volume. Needs no price."""
    if question.volume is None:
        return None
    prompted = measured_alternatives(evidence).prompted(question.current or "")
    return monthly_volume(question.volume, _usage(report, question, prompted).tokens_per_request)


def without_sunk_costs(inputs: Inputs) -> Inputs:
    """Returns the inputs for a run that is over: money that is already spent no longer counts, future retrainings
    do."""
    again = inputs.monitoring_usd + retraining_usd(inputs)
    free = Training(inputs.training.tokens, inputs.training.epochs, usd_per_million=ZERO)
    spent = replace(inputs, training=free, evaluation_usd=ZERO, people_hours=ZERO, labels=0)
    return replace(spent, retrain_months=None, monitoring_usd=again)


def _usage(report: Report, question: Question, prompted: MeasuredCandidate | None) -> Usage:
    """Returns the tokens of today's requests. The length of the prompt is the one that a person stated, else the one
    measured on the holdout, else the one that the dataset's rows suggest."""
    counted = report.tokens
    if prompted is None:
        requests = report.rows
        before = counted.prompted_mean
        output = counted.answer_mean
    else:
        requests = prompted.n
        before = prompted.prompt_tokens / prompted.n
        output = prompted.completion_tokens / prompted.n
    if question.prompt_tokens is not None:
        before = float(question.prompt_tokens)
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


@dataclass(frozen=True)
class RunCost:
    """What one run costs: the training, and the evaluation of base and tuned model on the held-out rows, expected and
    at most. The evaluation includes `machine_usd`, the expected hours of a machine that serves the tuned model."""

    training: Training
    evaluation_usd: Decimal
    evaluation_most_usd: Decimal
    machine_usd: Decimal = ZERO


@dataclass(frozen=True)
class TrainingNeeds:
    """What training a target on a dataset takes, and the prices of asking the tuned model and its base. `time` is None
    if it can't be estimated. `room` is the headroom in the training machine's memory, None at a vendor."""

    hyperparameters: tuple[tuple[str, Hyperparameter], ...]
    tuned: PriceRow
    base: PriceRow
    room: MemoryHeadroom | None
    time: TrainingTime | None
    cost: RunCost | MissingPrice


def training_needs(
    settings: Settings,
    target: Target,
    report: Report,
    question: Question,
    today: date,
    judge: ModelToAsk | None = None,
) -> TrainingNeeds:
    tuned = tuned_price(target.row, target.model)
    base = _base_price(settings, target, tuned, today)
    # a vendor's batch discount covers tuned models too
    tuned = replace(tuned, batch_discount=base.batch_discount)
    chosen = _hyperparameters(settings, target, report, question)
    # tokens of one epoch, counted by the model's own tokenizer if it is on this machine
    counted_here: dict[str, int] = {}
    if target.row.is_started_by_us or target.row.name == "local":
        counted_here = dict(report.trained_tokens)
    pairs = None
    if METHODS[question.method].reads_pairs:
        pairs = report.pairs
    if pairs:  # the prompt is read twice, once with each answer
        tokens = round(2 * pairs.longer.mean * report.n_train)
    else:
        tokens = counted_here.get(target.model.name, report.tokens.train)
        tokens *= int(dict(chosen).get("samples", 1))  # GRPO learns from this many answers to each question
    room, time = _memory_and_time(settings, target, report, tokens, chosen, question.sweep)
    thinks = target.row.thinks(target.model.name)
    answer = report_max_tokens(report) + chat_parameters.thinking_tokens(thinks)
    all_tokens = round(tokens * count_full_trainings(question.sweep))
    cost = _run_cost(report, all_tokens, tuned, base, _epochs(chosen), time, answer)
    if isinstance(cost, RunCost):
        # a guess if the model's own tokenizer is neither on this machine nor published by its vendor
        is_assumed = target.model.name not in counted_here and encoding_of(target.model.name).assumed
        is_estimated = pairs is not None or is_assumed
        cost = replace(cost, training=replace(cost.training, is_estimated=is_estimated))
        if judge:
            cost = _with_judge(cost, report, judge)
        hosting = find_hosting(settings, target)
        if hosting:
            cost = _with_hosting(cost, hosting)
    return TrainingNeeds(chosen, tuned, base, room, time, cost)


def find_hosting(settings: Settings, target: Target) -> Hosting | None:
    """Returns the terms of the machine that serves the tuned model. None if the bot starts no machine for it, or an
    hour of it has no known price."""
    row = target.row
    if not row.is_hosted or not row.provider.can("deploy"):
        return None
    price = row.hourly_price(target.model.name)
    if price is None:
        return None
    day = to_micros(settings.budget.hosting_usd_per_day)
    return Hosting(to_micros(price), row.idle_stop_s or DEFAULT_IDLE_S, day, row.scales_to_zero)


def _with_hosting(cost: RunCost, hosting: Hosting) -> RunCost:
    machine_usd = from_micros(hosting.expected_micros)
    return replace(
        cost,
        machine_usd=machine_usd,
        evaluation_usd=cost.evaluation_usd + machine_usd,
        evaluation_most_usd=cost.evaluation_most_usd + from_micros(hosting.most_micros),
    )


def _with_judge(cost: RunCost, report: Report, judge: ModelToAsk) -> RunCost:
    rows = report.n_holdout
    answer = report.tokens.answer_mean
    question = report.tokens.prompt_mean + answer
    amount = _judge_usd(judge, rows, question, answer)
    # the judge's tokenizer may count more tokens than ours
    longest = max_tokens((), report.tokens.answer_most, report.scoring)
    most = _judge_usd(judge, rows, question * OTHER_TOKENIZER, longest * OTHER_TOKENIZER)
    return replace(
        cost,
        evaluation_usd=cost.evaluation_usd + amount,
        evaluation_most_usd=cost.evaluation_most_usd + max(amount, most),
    )


def _judge_usd(judge: ModelToAsk, rows: int, question: float, answer: float) -> Decimal:
    """Returns the USD for judging both models' answers to `rows` questions: each answer alone, then the two compared in
    both orders. `question` is the tokens of a question with its right answer, `answer` those of a model's answer."""
    # four questions a row: two with one answer, two with both
    read = 4 * (JUDGE_INSTRUCTIONS + question) + 6 * answer
    written = 4 * (MAX_TOKENS_VERDICT + chat_parameters.thinking_tokens(judge.thinks))
    price = judge.price.price
    a_row = (price.input or ZERO) * Decimal(str(read)) + (price.output or ZERO) * written
    return rows * a_row / MILLION


def _learning_rate(settings: Settings, target: Target, method: MethodName) -> float | None:
    """Returns None if the base isn't known here, or the hosted service chooses the learning rate."""
    if METHODS[method].is_for_encoders:
        return ENCODER_RATE
    if not target.row.provider.can("sweep"):  # not our own trainer
        return None
    base = known_base(settings, target.row, target.model)
    if base is None:
        return None
    return METHODS[method].rate(rate_for(base.architecture.hidden, base.architecture.model_type))


def _hyperparameters(
    settings: Settings, target: Target, report: Report, question: Question
) -> tuple[tuple[str, Hyperparameter], ...]:
    provider = target.row.provider
    defaults: Mapping[str, Hyperparameter] = {}
    if not target.model.is_encoder:
        defaults = target.row.defaults
    chosen = hyperparameters_for(
        report.n_train,
        question.chosen,
        takes_lora=provider.can("extra_hyperparameters"),
        defaults=defaults,
        rate=_learning_rate(settings, target, question.method),
        method=question.method,
    )
    single = plans.drop_swept(dict(chosen), question.sweep, {**defaults, **question.chosen})
    accepted = accepted_hyperparameters(provider, single)
    return tuple(sorted(fit_hyperparameters(provider, accepted).items()))


def _memory_and_time(
    settings: Settings,
    target: Target,
    report: Report,
    tokens: int,
    hyperparameters: tuple[tuple[str, Hyperparameter], ...],
    sweep: Sweep,
) -> tuple[MemoryHeadroom | None, TrainingTime | None]:
    """Returns the memory headroom and the duration of a training; `tokens` are one epoch's."""
    chosen = dict(hyperparameters)
    if target.model.is_encoder:
        is_here = target.row.cluster is None and target.row.keeps_models_here
        room, minutes = encoder_needs(target.model.name, report, tokens, chosen, is_here=is_here)
        return room, TrainingTime(minutes)
    if target.row.rental is not None:
        room, minutes = rented_training(settings, target, report, tokens, chosen, sweep, target.row.rental)
        return room, TrainingTime(minutes, is_guess=True)
    base = local_base(settings, target.row, target.model)
    room = None
    if base:
        room = memory_headroom(base, report, chosen, sweep)
    if target.model.usd_per_hour is None:
        return room, TrainingTime(HOSTED_MINUTES)
    by_size = None
    if base:
        by_size = training_time(settings, base, report, tokens, chosen, sweep)
    total = round(tokens * count_full_trainings(sweep)) * _epochs(hyperparameters)
    return room, stated_training_time(settings, target, total, by_size)


def _epochs(hyperparameters: tuple[tuple[str, Hyperparameter], ...]) -> int:
    """Returns the passes over the rows: one for the method `head`, whose encoder stays frozen."""
    return int(dict(hyperparameters).get("n_epochs", 1))


def _base_price(settings: Settings, target: Target, tuned: PriceRow, today: date) -> PriceRow:
    """Returns the price of asking the untuned model; if no list has one, the tuned model's, which is higher."""
    if tuned.usd_per_hour is not None:
        return tuned
    name = target.model.base_name or target.model.name
    row = find_prompted_price(name, settings.providers, settings.prices, today)
    if isinstance(row, UnknownPrice):
        return tuned
    return row


def _run_cost(
    report: Report,
    tokens: int,
    tuned: PriceRow,
    base: PriceRow,
    epochs: int,
    time: TrainingTime | None,
    answer: int,
) -> RunCost | MissingPrice:
    """Returns the cost of one run. `tokens` are those of one epoch, summed over all trials of a sweep; `answer` is the
    longest answer's tokens.

    A vendor bills both models' answers. On our own machine they cost nothing beyond its hours of training.
    """
    minutes = time.minutes if time else None
    if time and time.is_guess and tuned.usd_per_hour and tuned.rental is None:
        minutes = None  # too uncertain to turn into dollars, unless the machine is rented
    training = training_from_row(tuned, tokens, epochs, minutes)
    if isinstance(training, MissingPrice):
        return training
    if time:
        training = replace(training, speed_measured=time.measured, is_guess=time.is_guess)
    rates_tuned = rates_from_row(tuned)
    if isinstance(rates_tuned, MissingPrice):
        return rates_tuned
    rates_base = rates_from_row(base)
    if isinstance(rates_base, MissingPrice):
        return rates_base
    if tuned.usd_per_hour is not None:
        return RunCost(training, Decimal(0), Decimal(0))
    rows = report.n_holdout
    before = report.tokens.prompted_mean
    after = report.tokens.prompt_mean
    usage = Usage.from_means(rows, before, after, report.tokens.answer_mean)
    amount = evaluation_usd(usage, rates_base, rates_tuned)
    # the vendor's tokenizer may count more tokens than ours
    longest = Usage.from_means(rows, before * OTHER_TOKENIZER, after * OTHER_TOKENIZER, answer)
    most = evaluation_usd(longest, rates_base, rates_tuned)
    return RunCost(training, amount, max(amount, most))


def candidate_price(settings: Settings, candidate: MeasuredCandidate | None, today: date) -> PriceRow | None:
    """Returns today's list price of the model that a candidate asks, None if it asks no model or no list has it."""
    if candidate is None or candidate.model is None:
        return None
    row = find_prompted_price(candidate.model, settings.providers, settings.prices, today)
    if isinstance(row, UnknownPrice):
        return None
    return row


def with_successors(settings: Settings, rates: Rates, today: date, before: Sequence[str] = ()) -> Rates:
    """Adds the price of the model's successor, and of that one's successor, as far as they are known."""
    if rates.ends is None or rates.successor is None or rates.successor in before:
        return rates
    row = find_prompted_price(rates.successor, settings.providers, settings.prices, today)
    if isinstance(row, UnknownPrice):
        return rates
    successor = rates_from_row(row)
    if isinstance(successor, MissingPrice):
        return rates
    after_end = with_successors(settings, successor, today, (*before, rates.successor))
    return replace(rates, after_end=after_end)


def without_ended_models(settings: Settings, evidence: Evidence, today: date) -> Evidence:
    """Removes candidates of models that were shut down since they were measured: nobody can use them any more."""
    if evidence.comparison is None:
        return evidence
    usable = []
    for candidate in evidence.comparison.candidates:
        price = candidate_price(settings, candidate, today)
        if candidate.kind == "tuned" or price is None or not price.has_ended(today):
            usable.append(candidate)
    return keep_candidates(evidence, usable)


def candidate_rates(candidate: MeasuredCandidate | None, listed: PriceRow | None) -> Rates | None:
    """Returns a candidate's list price; if no list has its model any more, the measured cost of a request."""
    if candidate is None:
        return None
    if listed:
        rates = rates_from_row(listed)
        if isinstance(rates, Rates):
            return rates
    if candidate.model is None:
        return Rates(
            candidate.kind, ZERO, ZERO, "no vendor: it runs on any machine, and its time is not counted"
        )
    a_request = (candidate.usd_per_1000 or ZERO) / 1000
    return Rates(candidate.model, ZERO, ZERO, "the measurement", usd_per_request=a_request)
