"""What is in use: the commands current, watch, promote and rollback; and models in use, their machines and their ends,
as text for the terminal and as JSON.

A running bot has the database for itself, so the two that change something need it stopped. Anybody who has the machine
may do what takes one person in Slack. What takes two is refused, as nobody else is there to approve it.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from bot.cards.common.plan_money import foreseen_text
from bot.cards.common.words import money
from bot.cards.models.deployments import DeploymentSummary
from bot.cli.options import DATABASE, EXIT_BLOCKED, JSON, exit_on_storage_error, load, refuse
from bot.command_options import CANDIDATE_MODEL, CANDIDATE_SHOTS, KIND, SECONDS
from bot.rules.plans import plan_from_json
from bot.values.runs import RunResult
from bot.values.sunsets import ModelUse
from storage.actuals import ActualMonth, CurrentUse
from storage.records import Promotable

if TYPE_CHECKING:
    from bot.context import AppContext
    from bot.embedded_trainer import EmbeddedTrainer
    from bot.settings import Settings
    from bot.values.runs import Refusal
    from storage.store import Store
    from trainers.evaluation.results import CandidateKind

T = TypeVar("T")
PATIENCE_S = 120.0
IN_SLACK = "/finetune promote, rollback and fallback in Slack do the same"


@dataclass(frozen=True)
class Reach:
    """Whether programs reach what is in use, at `base_url` (None if there is no address): `is_answering` is True if the
    process that answers them does, and `unanswered` says of each dataset why it still gets them no answer, and
    `on_fallback` why it gets them its fallback."""

    base_url: str | None
    is_answering: bool
    unanswered: Mapping[str, str | None]
    on_fallback: Mapping[str, str | None]


@click.command()
@click.argument("dataset")
@DATABASE
@click.option("--how", "is_how", is_flag=True, help="Print how programs call it, in Python and with curl.")
def current(dataset: str, database: Path | None, is_how: bool) -> None:
    """Print the name by which programs call what is in use for DATASET.

    For a tuned model, that is its provider's id; for what needed no training, team/DATASET. Exits with 1 if nothing is
    in use, or if its machine at the vendor is not running.
    """
    from bot.cards.common.candidates import promotable_name
    from bot.rules.models.promotion import alias_for
    from bot.values.upload_fields import normalize_name
    from storage.promotions import current_model

    name = normalize_name(dataset)
    if is_how and database is not None:
        refuse("--how reads what this installation publishes to programs, so it takes no --database.")
    if is_how:
        _print_how_to_call(name)
        return
    with exit_on_storage_error():
        used = current_model(database or load().database, name)
    if used is None:
        click.echo(
            f"Nothing is in use for {dataset}: /finetune promote or finetune promote deploys what was measured.",
            err=True,
        )
        sys.exit(EXIT_BLOCKED)
    called = used.called
    if used.what.candidate is not None:
        called = alias_for(name)
    if called is None:
        click.echo(
            f"{promotable_name(used.what)} is not running: press Start again on its card in Slack.", err=True
        )
        sys.exit(EXIT_BLOCKED)
    # The only line on stdout, so that a script can use it as it is.
    click.echo(called)


def _print_how_to_call(dataset: str) -> None:
    from bot.cards.models.call_instructions import calling_text
    from bot.services.models.models import calling_of
    from trainers.recipes.folder import RecipeFolder

    settings = load()
    calling = calling_of(settings, dataset)
    try:
        published = RecipeFolder(settings.recipes).published(calling.name)
    except ValueError as error:
        refuse(str(error))
    if published is None:
        click.echo(f"Nothing is in use for {dataset}: /finetune promote deploys what was measured.", err=True)
        sys.exit(EXIT_BLOCKED)
    if published.unavailable:
        click.echo(published.unavailable.message, err=True)
        sys.exit(EXIT_BLOCKED)
    click.echo(calling_text(calling))


@click.command()
@click.argument("name")
@click.argument("candidate", type=KIND, required=False)
@CANDIDATE_MODEL
@CANDIDATE_SHOTS
def promote(name: str, candidate: CandidateKind | None, model: str | None, shots: int | None) -> None:
    """Deploy a tuned model by its NAME, or a CANDIDATE like encoder that was measured on the dataset NAME.

    The bot must be stopped. What the evidence doesn't support needs another person, so it has to be asked for in Slack.
    """
    from bot.services.models import promotions
    from bot.values.requests import Promote
    from bot.values.upload_fields import normalize_name

    if candidate is not None:
        name = normalize_name(name)
    with stopped_bot(IN_SLACK) as context:
        summary = plain_value(promotions.promote_as_operator(context, Promote(name, candidate, model, shots)))
        click.echo(_published_text(context, summary.dataset))


@click.command()
@click.argument("dataset")
@click.option("--to", type=click.Choice(["nothing"]), help="Take it out of use, whatever was in use before.")
@click.option("--because", help="Why; shown to the team.")
def rollback(dataset: str, to: str | None, because: str | None) -> None:
    """Go back to what was deployed for DATASET before; the first one is taken out of use. The bot must be stopped."""
    from bot.services.models import promotions
    from bot.values.upload_fields import normalize_name

    name = normalize_name(dataset)
    with stopped_bot(IN_SLACK) as context:
        plain_value(promotions.roll_back_as_operator(context, name, because, to_nothing=to is not None))
        click.echo(_published_text(context, name))


@click.command()
@click.argument("dataset")
@JSON
def watch(dataset: str, as_json: bool) -> None:
    """Print how what is in use for the watched DATASET did this week so far, as its card says. The bot may be running.

    What is watched and sampled is decided in Slack, since other people may have to agree to it. With --json, money is
    in micro-dollars.
    """
    from bot.cli.output import show, show_json
    from bot.services.monitoring import weeks
    from bot.values.upload_fields import normalize_name

    name = normalize_name(dataset)
    with exit_on_storage_error(), context_on_copy() as context:
        facts = weeks.facts_so_far(context, name)
        card = weeks.week_so_far(context, name)
    if facts is None or card is None:
        click.echo(f"{dataset} isn't watched: /finetune watch {dataset} in Slack begins that.", err=True)
        sys.exit(EXIT_BLOCKED)
    if as_json:
        show_json(asdict(facts))
    else:
        show(card.parts)


@click.command()
@click.argument("dataset")
@click.argument("candidate", type=KIND, required=False)
@CANDIDATE_MODEL
@CANDIDATE_SHOTS
@click.option(
    "--after", type=SECONDS, help="Also if what is in use has given no answer after so many seconds."
)
@click.option("--to", type=click.Choice(["nothing"]), help="No longer have anything answer then.")
def fallback(
    dataset: str,
    candidate: CandidateKind | None,
    model: str | None,
    shots: int | None,
    after: int | None,
    to: str | None,
) -> None:
    """Have a measured CANDIDATE answer programs when what is in use for DATASET can't. The bot must be stopped."""
    from bot.cards.common.terminal import plain_text
    from bot.cards.models.fallbacks import chosen_text, ended_text
    from bot.services.serving import fallbacks
    from bot.values.requests import ChooseFallback, Promote
    from bot.values.upload_fields import normalize_name

    name = normalize_name(dataset)
    with stopped_bot(IN_SLACK) as context:
        if to is not None:
            ended = plain_value(fallbacks.end_as_operator(context, name))
            click.echo(plain_text(ended_text(ended)))
        else:
            wanted = ChooseFallback(Promote(name, candidate, model, shots), after)
            chosen = plain_value(fallbacks.choose_as_operator(context, wanted))
            click.echo(plain_text(chosen_text(chosen)))
        _publish_fallback(context, name)


def _publish_fallback(context: AppContext, dataset: str) -> None:
    """Has programs get the dataset's fallback from now on, if it has one."""
    from bot.services.serving import fallbacks, publications

    until = time.monotonic() + PATIENCE_S
    current = context.store.fallbacks.current(dataset)
    while current is not None and current.recipe is None and current.trouble is None:
        if time.monotonic() > until:
            click.echo("Its recipe is not built yet: programs get it once the bot runs.")
            break
        fallbacks.build_step(context, current)
        current = context.store.fallbacks.current(dataset)
        time.sleep(0.05)
    if current is not None and current.trouble is not None:
        click.echo(f"Programs don't get it yet: {current.trouble}")
    publications.sync(context)


def _published_text(context: AppContext, dataset: str) -> str:
    """Has programs get what is in use now, and says so."""
    from bot.cards.common.candidates import promotable_title
    from bot.rules.models.promotion import alias_for
    from bot.services.serving import alias_sync, publications

    until = time.monotonic() + PATIENCE_S
    promotion = context.store.promotions.current(dataset)
    while promotion is not None and promotion.recipe is None and promotion.trouble is None:
        if time.monotonic() > until:
            break
        alias_sync.publish_step(context, promotion)
        promotion = context.store.promotions.current(dataset)
        time.sleep(0.05)
    publications.sync(context)
    alias = alias_for(dataset)
    if promotion is None:
        return (
            f"Nothing is in use for {dataset} any more: programs that call {alias} get an error that says so."
        )
    name = promotable_title(promotion.what)
    if promotion.trouble is not None:
        return f"{name} is in use for {dataset}, but programs don't get it yet: {promotion.trouble}"
    if promotion.recipe is None:
        return f"{name} is in use for {dataset}. Programs get it once the bot runs."
    return f"{name} is in use for {dataset}. Programs that call {alias} get it, once `finetune serve` or the bot runs."


def plain_value(result: T | Refusal) -> T:
    """Returns the value. Prints a refusal that is written for Slack, and exits."""
    from bot.cards.common.terminal import plain_text
    from bot.values.runs import Refusal

    if isinstance(result, Refusal):
        refuse(plain_text(result.text))
    return result


@contextmanager
def stopped_bot(instead: str) -> Iterator[AppContext]:
    """Opens the database of a bot that is stopped. `instead` says what does the same while it runs."""
    from storage.database import StorageError
    from storage.store import Store

    settings = load(need_slack=False)
    if not settings.database.exists():
        refuse(f"There is no database at {settings.database}, so nothing was measured yet.")
    try:
        store = Store(settings.database)
    except StorageError as error:
        refuse(f"{error} While the bot runs, {instead}.")
    try:
        with context_without_slack(settings, store) as context:
            yield context
    finally:
        store.close()


@contextmanager
def context_on_copy() -> Iterator[AppContext]:
    """Opens a copy of the database, as a running bot has it open itself."""
    from storage.backup import open_copy

    settings = load()
    with open_copy(settings.database) as store, context_without_slack(settings, store) as context:
        yield context


@contextmanager
def context_without_slack(
    settings: Settings, store: Store, embedded: EmbeddedTrainer | None = None
) -> Iterator[AppContext]:
    """Yields a context in which nobody is known. `embedded` is our own trainer, if the caller starts it."""
    context = _build_context(settings, store, embedded)
    try:
        yield context
    finally:
        context.workers.close()
        for trainer in context.trainers.values():
            trainer.close()


def _build_context(settings: Settings, store: Store, embedded: EmbeddedTrainer | None) -> AppContext:
    from bot.context import AppContext, WaitClock
    from bot.embedded_trainer import own_keys
    from bot.llm_client import LlmClient
    from bot.process_health import Heartbeat
    from bot.provider_threads import ProviderThreads
    from bot.services.common.provider_clients import open_all_deployments, open_trainers
    from bot.worker_pool import WorkerPool

    trainers = open_trainers(settings, own_keys(embedded))
    offline: Any = _Offline()
    return AppContext(
        settings=settings,
        store=store,
        trainers=trainers,
        deployments=open_all_deployments(settings),
        workers=WorkerPool(),
        llm=LlmClient(store, trainers, settings.providers, time.time),
        threads=ProviderThreads(store, Heartbeat(settings.data, (), settings.service.watchdog_s)),
        files=offline,
        directory=offline,
        recent=offline,
        clock=time.time,
        waits=WaitClock(time.time, time.monotonic),
        started_at=time.time(),
        answers_programs=lambda: False,  # asked only for cards in Slack
        commands=offline,
    )


class _Offline:
    """Stands for Slack, which isn't asked. It knows nobody and nothing."""

    def permalink(self, channel: str, ts: str) -> None:
        return None

    def is_private(self, channel: str) -> None:
        return None

    def is_shared(self, channel: str) -> None:
        return None

    def is_member(self, person: str, channel: str) -> None:
        return None


def load_reach(settings: Settings, in_use: Sequence[CurrentUse]) -> Reach:
    """Asks the process that answers programs, and reads what it answers them."""
    from bot.cards.models.publications import why_on_fallback, why_unanswered
    from bot.door_process import ask_door
    from bot.rules.models.promotion import alias_for
    from trainers.recipes.folder import RecipeFolder

    folder = RecipeFolder(settings.recipes)
    unanswered = {}
    on_fallback = {}
    for model in in_use:
        published = folder.published(alias_for(model.dataset))
        unanswered[model.dataset] = why_unanswered(published, model.promotion, model.trouble)
        on_fallback[model.dataset] = why_on_fallback(published)
    serving = settings.serving
    is_answering = bool(serving.address) and ask_door(serving.host, serving.port) is not None
    return Reach(serving.base_url, is_answering, unanswered, on_fallback)


def models_text(in_use: Sequence[CurrentUse], reach: Reach | None) -> str:
    """Returns a line for what is in use for each dataset, and one for each month of it. Without `reach` nothing is
    known of programs."""
    from bot.cards.common.terminal import plain_text
    from bot.cards.models.call_instructions import calling_line

    if not in_use:
        return "Nothing is in use: /finetune promote deploys a tuned model or what was measured."
    lines = []
    for model in in_use:
        lines.append(_in_use_text(model, reach))
        lines += [f"  {_month_text(month)}" for month in model.months]
        if not model.months:
            lines.append("  no calls known")
    if reach:
        lines.append(plain_text(calling_line(reach.base_url, is_answering=reach.is_answering)))
    return "\n".join(lines)


def _in_use_text(model: CurrentUse, reach: Reach | None) -> str:
    from bot.cards.common.candidates import promotable_name

    text = f"{model.dataset}: {promotable_name(model.what)}"
    if model.model is not None:
        text += f" ({model.provider_model} at {model.provider})"
    foreseen = _foreseen(model)
    if foreseen:
        text += f"; planned: {foreseen}"
    return f"{text}; {_programs_text(model, reach)}"


def _programs_text(model: CurrentUse, reach: Reach | None) -> str:
    """What programs get that call it."""
    from bot.cards.common.candidates import promotable_text
    from bot.cards.common.terminal import plain_text
    from bot.rules.models.promotion import alias_for

    name = alias_for(model.dataset)
    unanswered = reach.unanswered[model.dataset] if reach else None
    if unanswered:
        return f"programs that call {name} get no answer: {unanswered}"
    if model.fallback is None:
        return f"programs call {name}"
    fallback = plain_text(promotable_text(Promotable(candidate=model.fallback)))
    why = reach.on_fallback[model.dataset] if reach else None
    if why:
        return f"programs that call {name} get the fallback, {fallback}: {why}"
    return f"programs call {name}, and get {fallback} if it can't answer"


def _foreseen(model: CurrentUse) -> str:
    """What the plan expected to save; '' if the model turned out not to be good enough for that."""
    if not model.result or not model.plan:
        return ""
    comparison = RunResult.from_json(model.result).comparison
    if comparison is None or not comparison.of_kind("tuned"):
        return ""
    (tuned,) = comparison.of_kind("tuned")
    if tuned.standing == "misses":
        return ""
    return foreseen_text(plan_from_json(model.plan))


def _month_text(month: ActualMonth) -> str:
    text = f"{month.month} {month.model}: {month.calls:,} calls, {month.tokens:,} tokens, cost {money(month.micros)}"
    if month.alternative is None:
        return text
    return f"{text}; {money(month.alternative_micros)} with {month.alternative}: saved {money(month.saving_micros)}"


def models_json(in_use: Sequence[CurrentUse], reach: Reach | None) -> list[dict[str, Any]]:
    """Money is in micro-dollars. `net_value` is what the plan expected to gain or lose over its horizon, null if it is
    older than that, or if nothing was trained. `answers` says whether programs that call `name` get an answer, null if
    that is not known; `unanswered` is why this dataset's get none. `fallback` is the key of the candidate that
    answers when it can't."""
    return [_model_json(model, reach) for model in in_use]


def _model_json(model: CurrentUse, reach: Reach | None) -> dict[str, Any]:
    from bot.rules.models.promotion import alias_for
    from bot.values.evaluations import promoted_candidate

    fields = asdict(model)
    candidate = promoted_candidate(model.what)
    fields["candidate"] = candidate.key if candidate else None
    fields["name"] = alias_for(model.dataset)
    fields["answers"] = None
    fields["unanswered"] = None
    fields["fallback"] = None
    if model.fallback:
        fallback = promoted_candidate(Promotable(candidate=model.fallback))
        fields["fallback"] = fallback.key if fallback else None
    if reach:
        unanswered = reach.unanswered[model.dataset]
        fields["answers"] = reach.is_answering and unanswered is None
        fields["unanswered"] = unanswered
    # All their prices and scores would hide these few figures.
    del fields["plan"]
    del fields["result"]
    fields["net_value"] = None
    advised = plan_from_json(model.plan).advised if model.plan else None
    if advised and advised.net:
        fields["net_value"] = asdict(advised.net)
    fields["months"] = [{**asdict(month), "saving_micros": month.saving_micros} for month in model.months]
    return fields


def deployments_json(running: Sequence[DeploymentSummary]) -> list[dict[str, Any]]:
    """Money is in micro-dollars, times are in unix seconds."""
    return [_deployment_json(each) for each in running]


def _deployment_json(running: DeploymentSummary) -> dict[str, Any]:
    record = running.record
    idle_since = None
    if record.state == "ready":
        idle_since = record.used_at
    return {
        "model": record.model,
        "name": record.name,
        "vendor": record.provider,
        "run": record.run_id,
        "person": record.person,
        "state": record.state,
        "micros_per_hour": record.micros_per_hour,
        "today_micros": running.today_micros,
        "micros": record.micros,
        "idle_since": idle_since,
        "kept_by": record.kept_by,
        "seen_at": record.updated_at,
    }


def uses_json(uses: Sequence[ModelUse], today: date) -> list[dict[str, Any]]:
    """Returns one object per use, ordered by the models' ends. `use` is in use, planned, today's, target (it can be
    trained) or price (finetune.toml has a price for it)."""
    ordered = sorted(uses, key=lambda use: (use.ends or date.max, use.model))
    return [_use_json(use, today) for use in ordered]


def _use_json(use: ModelUse, today: date) -> dict[str, Any]:
    ends = None
    if use.ends:
        ends = use.ends.isoformat()
    return {
        "use": use.kind,
        "dataset": use.dataset or None,
        "model": use.model,
        "name": use.name,
        "ends": ends,
        "days_left": use.days_left(today),
        "has_ended": use.has_ended(today),
        "successor": use.successor,
        "said_by": use.said_by,
    }
