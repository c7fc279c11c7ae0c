"""Makes an estimate: gathers all that it is based on (prices, evidence, hardware), and has it decided in one call
(bot/rules/estimates.py). Reads neither the store nor a trainer, so that Slack and the terminal share it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal

from bot.cards.common.blocks import code
from bot.cards.common.candidates import answers_name
from bot.rules import plans
from bot.rules.bills import Capacity
from bot.rules.estimate_inputs import DEFAULT_BUSY, Question
from bot.rules.estimates import EstimateResult, decide
from bot.rules.facts import NOTHING_MEASURED, Evidence
from bot.rules.models.deployments import DEFAULT_IDLE_S, Hosting
from bot.rules.models.starting_models import StartingModel
from bot.rules.plans import hyperparameters_for
from bot.rules.reasons import ModelEnd
from bot.rules.roi import Range
from bot.services.common.candidates import (
    find_run_judge,
    full_name,
    own_models,
    providers_without_key,
    refuse_ended_model,
    suggest_models,
)
from bot.services.common.hardware import (
    capacity_of,
    encoder_needs,
    guess_vendor_capacity,
    known_base,
    local_base,
    memory_headroom,
    rented_training,
    stated_training_time,
    training_time,
)
from bot.services.common.targets import find_trainable, with_target_defaults
from bot.services.common.token_serving import TokenServer, find_base, find_server, upload_servers
from bot.services.evidence.evaluation_worker import MAX_TOKENS_VERDICT, max_tokens, report_max_tokens
from bot.settings import Settings
from bot.values.estimate_basis import EstimateBasis
from bot.values.runs import Refusal
from bot.values.targets import (
    JudgeTerms,
    MemoryHeadroom,
    PricedModel,
    Target,
    TrainingNeeds,
    TrainingTime,
)
from trainers.client.payloads import accepted_hyperparameters
from trainers.dataset import Report
from trainers.dataset.checks import MAX_LABELS
from trainers.hyperparameters import ENCODER_RATE, count_full_trainings, rate_for
from trainers.methods import ADAPTER_SETTINGS, METHODS, MethodName, all_specs, specs
from trainers.models import chat_parameters
from trainers.models.tokens import encoding_of
from trainers.money import to_micros
from trainers.providers.pricing import (
    PriceRow,
    UnknownPrice,
    base_price_at,
    find_prompted_price,
    find_retirement,
    served_price,
    tuned_price,
)
from trainers.providers.providers import file_problem, fit_hyperparameters
from trainers.types import Hyperparameter

HOSTED_MINUTES = Range(Decimal(10), Decimal(30), Decimal(120))


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
    start: StartingModel | None = None,
) -> EstimateResult | Refusal:
    """Takes a few hundredths of a second, and over a second at a cold start.

    `is_trained` is True if the run is over: its costs are sunk, so only future costs count. `reachable` are the names
    of the providers with a key, which a next step may suggest; None means all. `start` is the tuned model that the
    question names as its target, None if that is a base model.
    """
    basis = gather(
        settings,
        name,
        report,
        question,
        today,
        evidence,
        is_trained=is_trained,
        reachable=reachable,
        start=start,
    )
    if isinstance(basis, Refusal):
        return basis
    return decide(basis)


def gather(
    settings: Settings,
    name: str,
    report: Report,
    question: Question,
    today: date,
    evidence: Evidence,
    *,
    is_trained: bool,
    reachable: Collection[str] | None,
    start: StartingModel | None = None,
) -> EstimateBasis | Refusal:
    """Looks up everything that an estimate is based on, or returns why the question can't be answered."""
    target = _find_target(settings, name, report, question, start, is_trained=is_trained)
    if isinstance(target, Refusal):
        return target
    question = with_target_defaults(question, target)
    server = find_server(settings, question, target)
    if isinstance(server, Refusal):
        return server
    current = _current_price(settings, question, today)
    if isinstance(current, Refusal):
        return current
    judge = find_run_judge(settings, reachable, question, evidence.judge, report, today)
    if isinstance(judge, Refusal):
        return judge

    needs = _training_needs(settings, target, report, question, today, server)
    measured = tuple(dict.fromkeys(each.model for each in evidence.candidates if each.model))
    # Unless it is known who has a key, no model is suggested: it might have none.
    to_measure = suggest_models(settings, question.current, today, reachable or ())
    prices = _prices_with_successor(settings, [*measured, *to_measure], current, today)
    without_key: tuple[tuple[str, str], ...] = ()
    has_models = True  # as far as is known: without `reachable`, nobody said which providers have a key
    if reachable is not None:
        without_key = providers_without_key(settings, reachable)
        has_models = bool(own_models(settings, reachable))
    busy = question.utilisation or DEFAULT_BUSY
    return EstimateBasis(
        name=name,
        report=report,
        question=question,
        target=target,
        today=today,
        evidence=evidence,
        needs=needs,
        current=current,
        judge=_judge_terms(judge, report) if judge else None,
        prices=prices,
        ends=_look_up_ends(settings, measured),
        capacities=_own_capacities(settings, target, (needs.tuned, *prices.values()), busy),
        vendor_capacity=_vendor_capacity(settings, target, needs.tuned, busy),
        by_token=_price_by_token(settings, target, needs.tuned),
        full_current=full_name(settings, question.current),
        to_measure=to_measure,
        providers_without_key=without_key,
        has_models=has_models,
        is_trained=is_trained,
    )


def _prices_with_successor(
    settings: Settings, names: Sequence[str], current: PriceRow | None, today: date
) -> Mapping[str, PriceRow]:
    """Returns the prices of these models, and of the one that replaces today's."""
    if current is None or current.successor is None:
        return _look_up_prices(settings, names, today)
    return _look_up_prices(settings, [*names, current.successor], today)


def question_refusal(
    settings: Settings, question: Question, today: date, start: StartingModel | None = None
) -> Refusal | None:
    """Returns why `make_estimate` would refuse the question, without computing anything."""
    target = find_trainable(settings.providers, question, start)
    if isinstance(target, Refusal):
        return target
    server = find_server(settings, question, target)
    if isinstance(server, Refusal):
        return server
    price = _current_price(settings, question, today)
    if isinstance(price, Refusal):
        return price
    return None


def _find_target(
    settings: Settings,
    name: str,
    report: Report,
    question: Question,
    start: StartingModel | None,
    *,
    is_trained: bool,
) -> Target | Refusal:
    """Returns the model to train, unless the cost of its machine is unknown or it can't learn from these rows."""
    target = find_trainable(settings.providers, question, start)
    if isinstance(target, Refusal):
        return target
    if target.row.rents and target.row.rental is None and not is_trained:
        return Refusal(f"The hourly price of a machine for {code(target.name)} is not known.", "target")
    return _unsuitable_rows(name, report, question, target) or target


def _unsuitable_rows(name: str, report: Report, question: Question, target: Target) -> Refusal | None:
    """Refuses rows that the method or the kind of model can't learn from."""
    if METHODS[question.method].reads_pairs and report.pairs is None:
        return Refusal(
            f"`method={question.method}` learns from preference pairs, and the rows of `{name}` have one answer each. "
            'Upload JSONL with two answers per line, `{"input": {"messages": […]}, "preferred_output": […], '
            '"non_preferred_output": […]}`, or leave out `method=`.',
            "method",
        )
    # An estimate reads no file, so the file's size is checked only when a plan is made.
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


def _look_up_prices(settings: Settings, names: Iterable[str], today: date) -> Mapping[str, PriceRow]:
    """Returns the list prices of these models and of their successors, by name, as far as they are known."""
    prices: dict[str, PriceRow] = {}
    waiting = list(names)
    while waiting:
        name = waiting.pop()
        if name in prices:
            continue
        row = find_prompted_price(name, settings.providers, settings.prices, today)
        if isinstance(row, UnknownPrice):
            continue
        prices[name] = row
        if row.successor:
            # A successor may have ended or be about to end as well, and has one of its own.
            waiting.append(row.successor)
    return prices


def _look_up_ends(settings: Settings, models: Iterable[str]) -> Mapping[str, ModelEnd]:
    """Returns the announced ends of these models, by name."""
    ends = {}
    for model in models:
        end = find_retirement(model, settings.providers)
        if end:
            ends[model] = ModelEnd(end.day, model, end.successor)
    return ends


def _own_capacities(
    settings: Settings, target: Target, rows: Iterable[PriceRow], busy: Decimal
) -> Mapping[str, Capacity]:
    """Returns the throughput of our own machine with each model that runs on it, as far as it was measured."""
    names = [row.model for row in rows if row.answers_by_hour]
    if target.model.usd_per_hour is not None:
        names.append(target.name)
    capacities = {}
    for name in dict.fromkeys(names):
        capacity = capacity_of(settings, name, busy)
        if capacity:
            capacities[name] = capacity
    return capacities


def _vendor_capacity(settings: Settings, target: Target, tuned: PriceRow, busy: Decimal) -> Capacity | None:
    """Returns a guess for a vendor's machine that is billed by the hour, None without one."""
    if tuned.usd_per_hour is not None or not tuned.hosted_usd_per_hour:
        return None
    return guess_vendor_capacity(settings, target, busy)


def _price_by_token(settings: Settings, target: Target, tuned: PriceRow) -> PriceRow | None:
    """Returns the lowest price at which somebody would serve the same base's adapter by the token, to compare with a
    machine by the hour; None without such a machine, or if nobody would."""
    if not tuned.is_hosted:
        return None
    prices = []
    for row in upload_servers(settings):
        base = find_base(settings, row, target.model)
        if not isinstance(base, Refusal):
            prices.append(served_price(tuned, row, base))
    return min(prices, key=lambda price: price.price.input or Decimal(0), default=None)


def _judge_terms(judge: PricedModel, report: Report) -> JudgeTerms:
    verdict = MAX_TOKENS_VERDICT + chat_parameters.thinking_tokens(judge.thinks)
    return JudgeTerms(judge, verdict, max_tokens((), report.tokens.answer_most, report.scoring))


# What the training takes.


def _training_needs(
    settings: Settings,
    target: Target,
    report: Report,
    question: Question,
    today: date,
    server: TokenServer | None,
) -> TrainingNeeds:
    tuned = tuned_price(target.row, target.model)
    if server is not None:
        tuned = served_price(tuned, server.row, server.base)
    base = _base_price(settings, target, tuned, today, server)
    # a vendor's batch discount covers tuned models too
    tuned = replace(tuned, batch_discount=base.batch_discount)
    if target.start is not None:
        base = tuned  # what answers before the training is a tuned model already, at its price
    chosen = _hyperparameters(settings, target, report, question)
    # tokens of one epoch, counted by the model's own tokenizer if it is on this machine
    counted_here: dict[str, int] = {}
    if target.row.is_started_by_us or target.row.name == "local" or target.row.engine:
        counted_here = dict(report.trained_tokens)
    pairs = None
    if METHODS[question.method].reads_pairs:
        pairs = report.pairs
    if pairs:  # the prompt is read twice, once with each answer
        tokens = round(2 * pairs.longer.mean * report.n_train)
    else:
        tokens = counted_here.get(target.model.name, report.tokens.train)
        tokens *= int(dict(chosen).get("samples", 1))  # GRPO learns from this many answers to each question
    room, time = _memory_and_time(settings, target, report, tokens, chosen, question)
    # a guess if the model's own tokenizer is neither on this machine nor published by its vendor
    is_assumed = target.model.name not in counted_here and encoding_of(target.model.name).assumed
    thinks = target.row.thinks(target.model.name)
    return TrainingNeeds(
        hyperparameters=chosen,
        tuned=tuned,
        base=base,
        room=room,
        time=time,
        tokens=round(tokens * count_full_trainings(question.sweep)),
        is_estimated=pairs is not None or is_assumed,
        answer_tokens=report_max_tokens(report) + chat_parameters.thinking_tokens(thinks),
        hosting=find_hosting(settings, target, server),
    )


def find_hosting(settings: Settings, target: Target, server: TokenServer | None) -> Hosting | None:
    """Returns the terms of the machine, or of the `server`, that serves the tuned model. None if the bot starts no
    machine for it, or an hour of it has no known price."""
    if server is not None:
        return server.hosting
    row = target.row
    if not row.is_hosted or not row.provider.can("deploy"):
        return None
    price = row.hourly_price(target.model.name)
    if price is None:
        return None
    day = to_micros(settings.budget.hosting_usd_per_day)
    return Hosting(to_micros(price), row.idle_stop_s or DEFAULT_IDLE_S, day, row.scales_to_zero)


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


def _processes(settings: Settings, target: Target) -> int:
    """Returns how many processes share a step: as many as our own trainer gives a job GPUs."""
    is_ours = target.row.provider.can("sweep") and not target.row.rents and target.row.engine is None
    if not is_ours or target.model.is_encoder:
        return 1
    return max(1, settings.trainer.gpus)


def _hyperparameters(
    settings: Settings, target: Target, report: Report, question: Question
) -> tuple[tuple[str, Hyperparameter], ...]:
    provider = target.row.provider
    defaults: dict[str, Hyperparameter] = {}
    if not target.model.is_encoder:
        # They are written for all methods, one of which may lack some; what is not ours is the vendor's own.
        others = all_specs().keys() - specs(question.method).keys()
        defaults = {name: value for name, value in target.row.defaults.items() if name not in others}
    chosen_before = question.chosen
    if target.start is not None:
        chosen_before |= dict(target.start.shape)
    chosen = hyperparameters_for(
        report.n_train,
        chosen_before,
        takes_lora=provider.can("extra_hyperparameters"),
        defaults=defaults,
        rate=_learning_rate(settings, target, question.method),
        method=question.method,
        processes=_processes(settings, target),
    )
    single = plans.drop_swept(dict(chosen), question.sweep, {**defaults, **question.chosen})
    if target.start is not None and not target.start.shape:
        # The adapter's shape is known to the trainer alone, which keeps it.
        single = {name: value for name, value in single.items() if name not in ADAPTER_SETTINGS}
    accepted = accepted_hyperparameters(provider, single)
    return tuple(sorted(fit_hyperparameters(provider, accepted).items()))


def _memory_and_time(
    settings: Settings,
    target: Target,
    report: Report,
    tokens: int,
    hyperparameters: tuple[tuple[str, Hyperparameter], ...],
    question: Question,
) -> tuple[MemoryHeadroom | None, TrainingTime | None]:
    """Returns the memory headroom and the duration of a training; `tokens` are one epoch's."""
    chosen = dict(hyperparameters)
    sweep = question.sweep
    learns_all = METHODS[question.method].leaves_model
    if target.model.is_encoder:
        is_here = target.row.cluster is None and target.row.keeps_models_here
        room, minutes = encoder_needs(target.model.name, report, tokens, chosen, is_here=is_here)
        return room, TrainingTime(minutes)
    if target.row.rental is not None:
        room, minutes = rented_training(settings, target, report, tokens, chosen, sweep, target.row.rental)
        return room, TrainingTime(minutes, is_guess=True)
    if target.row.engine is not None:
        return None, TrainingTime(HOSTED_MINUTES)
    base = local_base(settings, target.row, target.model)
    room = None
    if base:
        room = memory_headroom(base, report, chosen, sweep, learns_all=learns_all)
    if target.model.usd_per_hour is None:
        return room, TrainingTime(HOSTED_MINUTES)
    by_size = None
    if base:
        by_size = training_time(settings, base, report, tokens, chosen, sweep, learns_all=learns_all)
    total = round(tokens * count_full_trainings(sweep)) * int(chosen.get("n_epochs", 1))
    return room, stated_training_time(settings, target, total, by_size)


def _base_price(
    settings: Settings, target: Target, tuned: PriceRow, today: date, server: TokenServer | None
) -> PriceRow:
    """Returns the price of asking the untuned model; if no list has one, the tuned model's, which is higher."""
    if server is not None:
        return base_price_at(server.row, server.base)
    if tuned.usd_per_hour is not None:
        return tuned
    name = target.model.base_name or target.model.name
    row = find_prompted_price(name, settings.providers, settings.prices, today)
    if isinstance(row, UnknownPrice):
        return tuned
    return row
