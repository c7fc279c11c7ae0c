"""Makes plans: freezes one from an estimate, with its destination and its validation rows, posts it for the team to
decide on (approvals.py), and supersedes it by a newer one.

Plans of a dataset that try different things wait side by side, each with its own approval. One that tries the same as a
waiting plan supersedes it, approved or not; a plan whose job may already exist is not superseded. The destination is
checked again before a job is created.
"""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from decimal import Decimal
from importlib.metadata import version

from bot.cards.common import advice
from bot.cards.common.blocks import code, escape
from bot.cards.common.prices import missing_price_text
from bot.cards.decisions import plan_refusals
from bot.command_parser import parse_question
from bot.context import AppContext
from bot.rules.estimate_inputs import NO_JUDGE
from bot.rules.estimates import EstimateResult
from bot.rules.permissions import Caller
from bot.rules.plan_settings import plan_changes, trains_the_same
from bot.rules.plans import (
    Destination,
    EarlyStopping,
    Plan,
    RunAgain,
    SweepPlan,
    ascii_name,
    canonical_json,
    plan_from_json,
    plan_hash,
    plan_key,
)
from bot.rules.prices import OTHER_TOKENIZER, MissingPrice, RunCost, find_price_rise
from bot.services.common import authorization, budgets, hourly_prices, starting_models
from bot.services.common.provider_jobs import LEAST_SWEEP_USD
from bot.services.common.targets import engine_of, find_target
from bot.services.common.token_serving import TokenServer, find_server, no_access_text, planned_server
from bot.services.datasets import data_policy, datasets, taught_rows
from bot.services.datasets.data_policy import EgressPermission
from bot.services.datasets.dataset_worker import SEED
from bot.services.datasets.datasets import CheckedDataset
from bot.services.decisions import estimate_requests
from bot.services.decisions.estimates import find_hosting
from bot.services.decisions.plan_requests import (
    approval_request,
    approver_refusal,
    find_away,
    find_earlier_run,
    note_away,
    ping_approvers,
    show_beside,
    show_request,
)
from bot.services.decisions.plan_warnings import plan_warnings
from bot.services.decisions.superseded_plans import find_superseded, supersede
from bot.settings import Settings
from bot.values.requests import Start
from bot.values.runs import Refusal
from bot.values.targets import Target
from storage.records import Run
from storage.runs import NewRun
from trainers.dataset.splits import VALIDATION_LEAST_ROWS, split_validation
from trainers.errors import TrainerError
from trainers.host import ENGINES_FOLDER, installed_version, weights_fingerprint
from trainers.hyperparameters import combinations, halving_steps
from trainers.methods import BUILTIN, METHODS, MethodName
from trainers.models import base_models
from trainers.money import to_micros
from trainers.providers.pricing import PriceList, served_price, tuned_price
from trainers.providers.providers import ProviderRow, file_problem
from trainers.rentals.prices import fetch_rental

ELIGIBILITY_TIMEOUT_S = 1.5  # a person waits for the answer to their command
log = logging.getLogger(__name__)
LEAST_MAXIMUM_USD = Decimal("0.10")


def split_off_validation(context: AppContext, plan: Plan, estimated: EstimateResult) -> Plan | Refusal:
    """Sets a part of the training rows aside for validation if the question asks for a sweep or for early stopping.
    Both parts are written into the folder of files; the holdout is not touched."""
    sweep = estimated.question.sweep
    patience = estimated.question.patience
    if not sweep and patience is None:
        return plan
    row = estimated.target.row
    option = "sweep" if sweep else "patience"
    if not sweep and not row.provider.can("early_stopping"):
        return Refusal(
            f"`patience=` needs a trainer that can stop early, and {row.title} can't. Leave it out, or choose a "
            "target that starts with `local/`.",
            option,
        )
    carved = split_validation(context.settings.files, plan.train_sha256, plan.seed)
    if carved is None:
        return Refusal(
            f"`{option}=` sets a tenth of the training rows aside for validation, so it needs at least "
            f"{VALIDATION_LEAST_ROWS} different ones; `{plan.dataset}` has {plan.n_train}. Leave it out, or add rows.",
            option,
        )
    parts = (carved.fitted_sha256, carved.validation_sha256, carved.n_fitted, carved.n_validation)
    if patience is not None:
        return replace(plan, stopping=EarlyStopping(patience, *parts))
    single = dict(plan.hyperparameters)
    courses = []  # the number of steps of each trial's full training
    for chosen in combinations(sweep):
        trial = {**single, **chosen}
        steps = math.ceil(carved.n_fitted / int(trial["batch_size"]))
        courses.append(steps * int(trial["n_epochs"]))
    usd_per_hour = _sweep_price(estimated)
    return replace(plan, swept=SweepPlan(sweep, *parts, halving_steps(courses), usd_per_hour))


def _sweep_price(estimated: EstimateResult) -> str | None:
    """Returns the USD per hour with which our trainer limits a sweep, None if the machine costs nothing."""
    if estimated.training is None or estimated.training.usd_per_hour is None:
        return None
    price = round(estimated.training.usd_per_hour, 6)
    # The trainer refuses a smaller price; without one it limits the sweep's cost in no way.
    if price < LEAST_SWEEP_USD:
        return None
    return f"{price.normalize():f}"


def current_destination(
    context: AppContext, row: ProviderRow, base_model: str, engine: str = BUILTIN
) -> Destination:
    """Returns where the plan would be carried out now. The trainer that we start has another port each time, so the
    cluster, or '' for this machine, takes the place of its address."""
    trainer = context.trainers.get(row.name)
    account = trainer.account if trainer else None
    hosted_base = None
    model = row.model(base_model)
    if row.engine is not None and model is not None:
        hosted_base = model.base_name
    if not row.is_started_by_us:
        return Destination(row.provider.base_url, account, weights=None, engine=None, hosted_base=hosted_base)
    own = context.settings.trainer
    folders = {**own.models, own.encoder_name: own.encoder}
    folder = folders.get(base_model)
    return Destination(
        base_url=row.cluster or "",
        account=account,
        weights=weights_fingerprint(folder) if folder else None,
        # A cluster has engines of its own, which can't be looked up from here.
        engine=_engine(context, engine) if row.cluster is None else None,
        hosted_base=hosted_base,
    )


def destination_change(context: AppContext, plan: Plan) -> str | None:
    """Returns a sentence about what differs from the approved destination, None if nothing does. Fields that a plan of
    an older release lacks are not compared."""
    before = plan.destination
    row = context.settings.provider(plan.provider)
    if before is None or row is None:
        return None
    # The plan has a name and a version; what is installed now is looked up by the name.
    engine, *_version = (before.engine or BUILTIN).split()
    now = current_destination(context, row, plan.base_model, engine)
    if plan.starts_from is not None:
        lost = starting_models.lost_text(context.store, context.settings, plan.starts_from.name)
        if lost:
            return lost
    name = escape(row.title)
    if before.base_url != now.base_url:
        there = code(before.base_url or "this machine")
        here = code(now.base_url or "this machine")
        return f"The trainer of {name} was at {there} when the plan was made, and is at {here} now."
    # Without a key no account is known; that a key is missing is reported elsewhere.
    if None not in (before.account, now.account) and before.account != now.account:
        return f"The key for {name} has changed since the plan was made, so it may belong to another account."
    server = planned_server(context.settings, plan.hosting)
    terms = plan.hosting.by_token if plan.hosting else None
    if server is not None and terms is not None and server.row.provider.account != terms.account:
        account = server.row.provider.account
        return f"Its adapter was to go to {code(terms.account)}, and would go to {code(account)} now."
    if before.weights is not None and before.weights != now.weights:
        return f"The files of {code(plan.base_model)} have changed since the plan was made."
    if before.hosted_base != now.hosted_base:
        return (
            f"{code(plan.base_model)} was {code(before.hosted_base or 'trained here')} when the plan was made, and is "
            f"{code(now.hosted_base or 'trained here')} now."
        )
    if before.engine is not None and before.engine != now.engine:
        here = code(now.engine) if now.engine else "not installed"
        return f"The training engine was {code(before.engine)} when the plan was made, and is {here} now."
    return None


def _engine(context: AppContext, name: str) -> str | None:
    """Returns the engine's name and version, None if it is not installed."""
    if name == BUILTIN:
        return f"{BUILTIN} {version('finetune-bot')}"
    result = _engine_version(context.settings, name)
    if result is None:
        return None
    return f"{name} {result}"


def is_engine_installed(settings: Settings, name: str) -> bool:
    return _engine_version(settings, name) is not None


def _engine_version(settings: Settings, name: str) -> str | None:
    return installed_version(settings.data / "trainer" / ENGINES_FOLDER / name / "env", name)


def no_key_refusal(row: ProviderRow) -> Refusal:
    return Refusal(f"There is no key for {row.title}: set {row.provider.variables} where the bot runs.")


def closed_to_us_text(context: AppContext, row: ProviderRow) -> str | None:
    """Returns why this account can't train there any more, None if it can or if that can't be checked now.

    A service that has closed training to newcomers still lists jobs and takes uploads, and refuses only to create the
    job, which is after the approvals. An empty list of jobs shows it earlier.
    """
    trainer = context.trainers.get(row.name)
    since = row.closed_to_new
    if trainer is None or since is None or context.today() < since:
        return None
    try:
        if trainer.has_jobs(ELIGIBILITY_TIMEOUT_S):
            return None
    except TrainerError as trouble:
        # A trainer that is away must not prevent a plan: it is asked again while the plan waits.
        log.warning("checking whether %s trains for this account: %s", row.name, trouble)
        return None
    return (
        f"Since {since}, {row.title} trains only for organisations that have trained there before, and the account of "
        f"{row.provider.key_env} has no job there. Choose a target that starts with `local/`, or open weights like "
        "`crusoe/llama-3.1-8b`."
    )


def untrainable_text(
    settings: Settings, target: Target, method: MethodName = "supervised", engine: str = BUILTIN
) -> str | None:
    """Returns why our trainer can't train the target's base model by this method and engine on this machine, None if it
    can or is not asked to."""
    row = target.row
    model = target.model
    is_beside_us = row.is_started_by_us and row.cluster is None
    if engine != BUILTIN and is_beside_us and not is_engine_installed(settings, engine):
        return (
            f"The engine {engine} is not installed beside our trainer. Ask the bot's operator to run "
            f"`finetune engines install {engine}`."
        )
    if model.is_encoder or row.cluster or not row.keeps_models_here:
        return None
    folder = None
    if row.is_started_by_us:
        folder = settings.trainer.models.get(model.name)
    source = folder or model.base_name or model.name
    why = base_models.why_untrainable(source, learns_all=METHODS[method].leaves_model)
    if why or folder is None:
        return why
    missing = base_models.why_not_served(model.name, folder)
    if not missing:
        return None
    cure = "Correct it under [trainer.models] in finetune.toml."
    return f"{code(target.name)} can't be trained: {escape(missing)} {cure}"


def may_start(
    context: AppContext, command: Start, person: str, channel: str
) -> tuple[Caller, CheckedDataset] | Refusal:
    """Returns who asks and the dataset, or a refusal. Makes only the checks that fit into Slack's three seconds."""
    caller = authorization.look_up(context, person, "start", channel)
    refusal = authorization.refusal_for(caller, "start")
    refusal = refusal or authorization.channel_refusal(context, channel, by_others=True)
    if refusal:
        return refusal
    checked = datasets.load_usable(context, command.dataset, person, channel, is_posted=True)
    if isinstance(checked, Refusal):
        return checked
    return caller, checked


def start(context: AppContext, command: Start, person: str, channel: str) -> Run | Refusal:
    """Freezes a plan and asks the channel to approve it. This simulates thousands of outcomes, so call it after the
    ack."""
    allowed = may_start(context, command, person, channel)
    if isinstance(allowed, Refusal):
        return allowed
    caller, checked = allowed
    # Before the estimate, which uses the price per hour that this refreshes.
    unhosted = _hosting_refusal(context, command)
    if unhosted:
        return unhosted
    estimated = _estimate(context, checked, command, person, channel)
    if isinstance(estimated, Refusal):
        return estimated
    refusal = _start_refusal(context, estimated)
    if refusal:
        return refusal
    server = find_server(context.settings, estimated.question, estimated.target)
    if isinstance(server, Refusal):
        return server

    readers = [estimated.target.row]
    if server is not None:
        no_access = no_access_text(context, server.row)
        if no_access:
            return Refusal(no_access, "serve")
        readers.append(server.row)
    if estimated.judge and estimated.judge.row not in readers:
        readers.append(estimated.judge.row)
    permission = data_policy.decide_egress(
        context, checked.dataset, estimated.report, readers, command.because
    )
    if isinstance(permission, Refusal):
        return permission
    if isinstance(estimated.cost, MissingPrice):
        return Refusal(f"A run with an unknown cost can't be approved. {missing_price_text(estimated.cost)}")

    plan = _build_plan(context, checked, estimated, estimated.cost, server, person, channel)
    identified = _with_catalogue_id(context, plan, estimated.target)
    if isinstance(identified, Refusal):
        return identified
    refusal = authorization.refusal_for(caller, "start", approval_request(identified))
    refusal = refusal or approver_refusal(context, identified)
    if refusal:
        return refusal
    # After all refusals, because it writes files that a refused plan would leave behind.
    split = split_off_validation(context, identified, estimated)
    if isinstance(split, Refusal):
        return split
    plan = replace(
        _without_other_models_verdict(context, checked, split, estimated),
        warnings=(*split.warnings, *permission.notes),
        overridden=permission.overridden,
        taught=taught_rows.count_taught(context, split, estimated.evidence),
        retrains=command.retrains,
        continued=command.continued,
    )
    plan = replace(plan, again=_compare_with_earlier(context, plan, command.again))
    return _submit(context, plan, permission)


def _compare_with_earlier(context: AppContext, plan: Plan, number: int | None) -> RunAgain | None:
    """Returns what differs from the run that the plan repeats, None if it repeats none."""
    run = context.store.runs.get(number) if number else None
    if run is None:
        return None
    return RunAgain(run.id, plan_changes(plan, plan_from_json(run.plan)))


def start_estimated(context: AppContext, number: int, person: str) -> Run | Refusal:
    """Handles the button on an estimate: starts a run from its question, in the channel where it was asked."""
    estimate = estimate_requests.load_estimate_for(context, number, person)
    if isinstance(estimate, Refusal):
        return estimate
    question = parse_question(estimate.asked)
    if isinstance(question, Refusal):
        return estimate_requests.outdated_step_refusal(estimate.dataset)
    return start(context, Start(estimate.dataset, question), person, estimate.channel)


def _estimate(
    context: AppContext, checked: CheckedDataset, command: Start, person: str, channel: str
) -> EstimateResult | Refusal:
    """Estimates the run. A judge that nobody named is left out if the rows may not be sent to it."""
    estimated = estimate_requests.estimate_for_person(context, checked, command.question, person, channel)
    if isinstance(estimated, Refusal) or estimated.judge is None or command.question.judge:
        return estimated
    permission = data_policy.decide_egress(
        context, checked.dataset, estimated.report, [estimated.judge.row], command.because
    )
    if not isinstance(permission, Refusal):
        return estimated
    without_judge = replace(command.question, judge=NO_JUDGE)
    return estimate_requests.estimate_for(context, checked, without_judge, start=estimated.target.start)


def _without_other_models_verdict(
    context: AppContext, checked: CheckedDataset, plan: Plan, estimated: EstimateResult
) -> Plan:
    """Returns the plan with a verdict that leaves the last tuned model out: with other rows or settings, its score is
    not this model's. The card shows that score beside the verdict."""
    before = find_earlier_run(context, plan)
    if estimated.evidence.tuned is None:
        return plan
    if before is not None and trains_the_same(plan, before.plan):
        return plan
    start = estimated.target.start
    fresh = estimate_requests.estimate_for(
        context, checked, estimated.question, is_new_model=True, start=start
    )
    if isinstance(fresh, Refusal) or plan.predicted is None:
        return plan
    predicted = estimate_requests.prediction_of(fresh)
    return replace(plan, predicted=replace(predicted, quality=plan.predicted.quality))


def _hosting_refusal(context: AppContext, command: Start) -> Refusal | None:
    """Checks with the vendor, before anybody approves, whether the tuned model can be deployed there, and refreshes the
    price per hour."""
    target = find_target(context.settings.providers, command.question.target)
    if isinstance(target, Refusal) or target.row.name not in context.trainers:
        return None  # the checks that follow in `start` report what is wrong
    if not target.row.is_hosted or not target.row.provider.can("deploy"):
        return None  # people deploy it themselves
    return hourly_prices.refresh_price(context, target.row, target.model.name)


def _start_refusal(context: AppContext, estimated: EstimateResult) -> Refusal | None:
    verdict = estimated.verdict
    for reason in verdict.reasons:
        # Approvers may overrule any other reason, but a model that is gone can't be trained.
        if reason.rule in ("closed", "end date") and reason.kind == "no_go":
            return Refusal(f"{advice.reason_text(verdict, reason)} {advice.next_step(verdict)}")
    row = estimated.target.row
    if row.name not in context.trainers:
        return no_key_refusal(row)
    question = estimated.question
    why = closed_to_us_text(context, row) or untrainable_text(
        context.settings, estimated.target, question.method, engine_of(question, row)
    )
    if why is None:
        return None
    return Refusal(why)


def _build_plan(
    context: AppContext,
    checked: CheckedDataset,
    estimated: EstimateResult,
    cost: RunCost,
    server: TokenServer | None,
    person: str,
    channel: str,
) -> Plan:
    dataset = checked.dataset
    report = estimated.report
    estimate = estimated.estimate
    minutes = estimated.minutes
    judge = estimated.judge
    train_sha256 = report.train_sha256
    if METHODS[estimated.question.method].reads_pairs:
        train_sha256 = report.pairs_sha256
    prices = estimated.prices
    if judge:
        prices = (*prices, judge.price)
    row = estimated.target.row
    engine = engine_of(estimated.question, row)
    destination = current_destination(context, row, estimated.target.model.name, engine)
    return Plan(
        dataset=dataset.name,
        dataset_version=dataset.version,
        dataset_id=dataset.id,
        uploaded_by=dataset.uploaded_by,
        source_sha256=report.source_sha256,
        train_sha256=str(train_sha256),
        holdout_sha256=str(report.holdout_sha256),
        n_train=report.n_train,
        n_holdout=report.n_holdout,
        labels=tuple(sorted(count.label for count in report.labels)),
        system=report.system,
        provider=estimated.target.row.name,
        base_model=estimated.target.model.name,
        current=estimated.question.current,
        method=estimated.question.method,
        hyperparameters=estimated.hyperparameters,
        seed=SEED,
        suffix=ascii_name(dataset.name),
        prices=PriceList(prices, context.today()).to_json(),
        training_tokens=cost.training.billed_tokens,
        expected_micros=to_micros(cost.training.usd.expected + cost.evaluation_usd),
        maximum_micros=_maximum_micros(cost, is_rented=estimated.target.row.rents),
        seconds_low=round(minutes.low * 60) if minutes else None,
        seconds_high=round(minutes.high * 60) if minutes else None,
        warnings=plan_warnings(estimated),
        monthly_before_micros=to_micros(estimate.monthly_before.total) if estimate else None,
        monthly_after_micros=to_micros(estimate.monthly_after.total) if estimate else None,
        requester=person,
        channel=channel,
        asked_at=context.clock(),
        predicted=estimate_requests.prediction_of(estimated),
        destination=destination,
        judge=judge.name if judge else None,
        hosting=find_hosting(context.settings, estimated.target, server),
        starts_from=estimated.target.start,
    )


def _with_catalogue_id(context: AppContext, plan: Plan, target: Target) -> Plan | Refusal:
    """Adds the trainer's id of the base model to the plan, and checks that the trainer accepts the file."""
    file = context.settings.files / f"{plan.train_sha256}.jsonl"
    size = None
    if file.exists():
        size = file.stat().st_size
    problem = file_problem(target.row.provider, plan.n_train, size)
    if problem:
        return Refusal(
            f"{target.row.title} {problem}. Train on a part of the rows, or choose another target."
        )
    names = (target.model.name, *target.model.aliases)
    try:
        catalogue_id = context.trainers[plan.provider].catalogue_id(names)
    except TrainerError as trouble:
        return Refusal(escape(str(trouble)))
    if plan.destination is None or catalogue_id is None:
        return plan
    return replace(plan, destination=replace(plan.destination, catalogue_id=catalogue_id))


def _maximum_micros(cost: RunCost, *, is_rented: bool) -> int:
    """Returns the cost in micro-dollars at which a run is stopped while it trains or is measured.

    It leaves some room, since nobody wants a run to be stopped for a few cents. Training by the hour may cost at least
    ten cents, because its time is known only roughly; training by the token may use as many tokens as another tokenizer
    would count. Answers count with their maximum length. A rented machine is stopped in time by its vendor.
    """
    most = cost.training.usd.high
    if cost.training.usd_per_hour and not is_rented:
        most = max(most, LEAST_MAXIMUM_USD)
    elif cost.training.usd_per_million:
        most *= Decimal(str(OTHER_TOKENIZER))
    return to_micros(most + cost.evaluation_most_usd)


def listed_price_rise(context: AppContext, plan: Plan) -> str | None:
    """Returns a sentence if a price of the plan's target is higher in the price list now, None if not."""
    target = find_target(context.settings.providers, f"{plan.provider}/{plan.base_model}")
    if isinstance(target, Refusal):
        return None
    planned = PriceList.from_json(plan.prices).rows[0]
    now = tuned_price(target.row, target.model)
    server = planned_server(context.settings, plan.hosting)
    if server is not None:
        now = served_price(now, server.row, server.base)
    rise = find_price_rise(planned, now)
    if rise is None:
        return None
    return plan_refusals.listed_price_rise_text(rise)


def price_rise(context: AppContext, plan: Plan) -> str | None:
    """Returns a sentence if the plan costs more now than when it was approved, None if not. Raises TrainerError if the
    price of a rented machine can't be read."""
    approved = PriceList.from_json(plan.prices).rows[0].rental
    if approved is None:
        return listed_price_rise(context, plan)
    now = fetch_rental(approved.hardware, approved.minutes)
    if now.usd_per_minute <= approved.usd_per_minute:
        return None
    return plan_refusals.price_rise_text(approved, now)


def _submit(context: AppContext, plan: Plan, permission: EgressPermission) -> Run | Refusal:
    """Adds a run for the plan, posts its card, and supersedes waiting plans that try the same."""
    now = context.clock()
    hash_of_plan = plan_hash(plan)
    away = find_away(context, plan)
    with context.store.transaction():
        # In this transaction, so that nobody can approve a former plan before it is superseded.
        former = find_superseded(context, plan)
        for waiting in former:
            other = plan_from_json(waiting.plan)
            # Who asked, where, when and after which run is no difference: the same model would be trained twice.
            same = replace(
                other,
                asked_at=plan.asked_at,
                requester=plan.requester,
                channel=plan.channel,
                again=plan.again,
            )
            if waiting.state == "awaiting_approval" and same == plan:
                return Refusal(f"The same plan is already waiting for approval: it is run {waiting.id}.")
        run = context.store.runs.add(
            NewRun(
                plan_hash=hash_of_plan,
                plan=canonical_json(plan),
                key=plan_key(hash_of_plan),
                dataset_id=plan.dataset_id,
                requester=plan.requester,
                channel=plan.channel,
                provider=plan.provider,
            ),
            now=now,
        )
        if run is None:
            return Refusal("This same plan was posted before; `/finetune runs` shows its state.")
        context.audit(plan.requester, "ask", f"run {run.id}", hash_of_plan)
        data_policy.record_egress(context, permission, plan.requester, f"run {run.id}")
        for waiting in former:
            supersede(context, waiting, run, budgets.team_budget(context))
        run = note_away(context, run, away)
        show_request(context, run, plan)
        show_beside(context, run, plan)
        ping_approvers(context, run, plan)
    return run
