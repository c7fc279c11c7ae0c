"""Who serves a tuned model's adapter by the token: finds the vendor and its base, and says why a model can't be served
there and what would. Uploads nothing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec

from bot.cards.common.blocks import code, escape
from bot.cards.models.token_serving import TokenOffer
from bot.context import AppContext, CoreContext
from bot.rules.estimate_inputs import Question
from bot.rules.models.deployments import Hosting, TokenTerms
from bot.rules.plans import Plan
from bot.settings import Settings
from bot.values.runs import Refusal
from bot.values.targets import Target
from storage.deployments import DeploymentRecord
from storage.records import Run
from trainers.deployments.adapters import rank_problem
from trainers.deployments.coreweave import EXTRA, PACKAGE
from trainers.methods import METHODS
from trainers.packages import needs_extra
from trainers.providers.providers import ModelRow, ProviderRow
from trainers.types import Hyperparameter

RANK = "lora_r"
USUAL_RANK = 16  # of our trainer


@dataclass(frozen=True)
class TokenServer:
    """A vendor that serves adapters of a base by the token, with its row for that base."""

    row: ProviderRow
    base: ModelRow

    @property
    def hosting(self) -> Hosting:
        terms = TokenTerms(
            provider=self.row.name,
            base_model=self.base.name,
            input=f"{self.base.price.input:f}",
            output=f"{self.base.price.output:f}",
            most_rank=self.base.most_rank,
            data_terms=self.row.data_terms or "",
            account=self.row.provider.account,
            is_uploaded=self.row.takes_uploads,
        )
        return Hosting.served_by_token(terms)


def upload_servers(settings: Settings) -> Iterator[ProviderRow]:
    """Yields the vendors that serve uploaded adapters by the token."""
    for row in settings.providers:
        if row.takes_uploads:
            yield row


def servers_for(settings: Settings, plan: Plan) -> Iterator[ProviderRow]:
    """Yields the vendors that may serve by the token what was trained where a plan was."""
    is_by_hour = plan.hosting is not None and plan.hosting.by_token is None
    for row in settings.providers:
        is_its_trainers = row.serves_models_of is not None and row.serves_models_of == plan.provider
        # What runs on a vendor's machine was trained there, so there is no adapter here.
        if is_its_trainers or (row.takes_uploads and not is_by_hour):
            yield row


def find_server(settings: Settings, question: Question, target: Target) -> TokenServer | Refusal | None:
    """Returns who serves the tuned model, None if the question names nobody, or why the named vendor can't."""
    if question.serve is None:
        return None
    row = settings.provider(question.serve)
    if row is not None and row.serves_models_of is not None and row.serves_models_of != target.row.name:
        return Refusal(
            f"{_whose_models(settings, row)} Without `serve=` the model answers where it is trained.", "serve"
        )
    if row is None or not row.provider.can("adapters"):
        names = " or ".join(f"`serve={each.name}`" for each in upload_servers(settings)) or "no provider here"
        return Refusal(
            f"{code(question.serve)} serves no adapters by the token; {names} does. Without `serve=` the model answers "
            "where it is trained.",
            "serve",
        )
    refusal = _unfit_training(row, question, target)
    if refusal:
        return refusal
    base = find_base(settings, row, target.model)
    if isinstance(base, Refusal):
        return base
    for rank in _ranks(question, target):
        problem = rank_problem(rank, base.most_rank, escape(row.title), base.name)
        if problem:
            return Refusal(problem, "serve")
    return TokenServer(row, base)


def _whose_models(settings: Settings, row: ProviderRow) -> str:
    """Says which models a vendor serves that takes no uploads, and how a team gets there."""
    trainer = str(row.serves_models_of)
    what = f"{escape(row.title)} serves what was tuned at {escape(settings.title_of(trainer))}"
    if serves_planned(settings, row):
        return f"{what}: choose a target that starts with `{trainer}/`."
    return f"{what}: press *Serve it by the token* on such a result."


def serves_planned(settings: Settings, row: ProviderRow) -> bool:
    """True if a vendor serves what our own trainer has trained there, for which the plan has to say so: only then does
    the job leave its last state there."""
    trainer = settings.provider(row.serves_models_of or "")
    return trainer is not None and trainer.engine is not None


def planned_server(settings: Settings, hosting: Hosting | None) -> TokenServer | None:
    """Returns the vendor of a plan's terms as the settings know it now, None if the terms are not by the token, or the
    settings lack it."""
    if hosting is None or hosting.by_token is None:
        return None
    row = settings.provider(hosting.by_token.provider)
    base = row.model(hosting.by_token.base_model) if row else None
    if row is None or base is None or base.price.input is None or base.price.output is None:
        return None
    return TokenServer(row, base)


def server_for(settings: Settings, name: str, plan: Plan) -> TokenServer | Refusal:
    """Returns the vendor `name` as it serves the model of this plan, or why it can't."""
    planned = planned_server(settings, plan.hosting)
    if planned is not None and planned.row.name == name:
        return planned
    row = settings.provider(name)
    if row is None:
        return Refusal(f"There is no provider {name} any more.")
    if METHODS[plan.method].is_for_encoders:
        return Refusal("An encoder answers here, at no cost.")
    if METHODS[plan.method].leaves_model:
        return Refusal("All weights of this model were trained, and vendors serve adapters by the token.")
    served = _served_base(settings, row, plan)
    if isinstance(served, Refusal):
        return served
    problem = rank_problem(
        rank_of(dict(plan.hyperparameters)), served.most_rank, escape(row.title), served.name
    )
    if problem:
        return Refusal(problem)
    return TokenServer(row, served)


def offer_of(context: AppContext, run: Run, plan: Plan) -> TokenOffer | None:
    """Returns whether the result's model can be served by the token, or why not; None if no such vendor has a key
    here, or it is served elsewhere already."""
    is_planned_so = plan.hosting is not None and plan.hosting.by_token is not None
    has_adapter = METHODS[plan.method].leaves_adapter
    if run.model is None or is_planned_so or not has_adapter or any_live(context, run):
        return None
    for row in servers_for(context.settings, plan):
        if not _may_offer(context, row, plan):
            continue
        server = server_for(context.settings, row.name, plan)
        if isinstance(server, Refusal):
            return TokenOffer(row.name, row.title, why_not=server.text)
        return TokenOffer(row.name, row.title, server.hosting.by_token)
    return None


def _may_offer(context: AppContext, row: ProviderRow, plan: Plan) -> bool:
    """True if a model that no plan wanted to be served by this vendor can be brought there from here."""
    if row.name not in context.deployments or serves_planned(context.settings, row):
        return False
    if not row.takes_uploads:
        return True
    trained = context.settings.provider(plan.provider)
    return trained is not None and trained.keeps_models_here


def any_live(context: CoreContext, run: Run) -> bool:
    """True if the run's model has a deployment that is not stopped."""
    return any(record.state != "stopped" for record in context.store.deployments.of_run(run.id))


def serving(context: CoreContext, run_id: int) -> DeploymentRecord | None:
    """Returns the deployment by which a run's model is served by the token now, None if it isn't."""
    for record in context.store.deployments.of_run(run_id):
        if record.by_token and record.state == "ready":
            return record
    return None


def no_access_text(context: AppContext, row: ProviderRow) -> str | None:
    """Returns why nothing can be uploaded to a vendor from here, None if it can."""
    if row.name not in context.deployments:
        return f"There is no key for {escape(row.title)}: set {row.provider.variables} where the bot runs."
    if row.takes_uploads and find_spec(PACKAGE) is None:
        return needs_extra(f"Uploading to {escape(row.title)}", EXTRA)
    return None


def find_base(settings: Settings, row: ProviderRow, model: ModelRow) -> ModelRow | Refusal:
    """Returns a vendor's row for a base model, which it may know by another name: the base's own, or the hub id that
    our trainer loads it from."""
    names = set(model.names)
    if model.base_name is not None:
        names.add(model.base_name.lower())
    source = settings.trainer.models.get(model.name)
    if source is not None:
        names.add(source.lower())
    for base in row.models:
        if not names.isdisjoint(base.names):
            return _priced(row, base)
    served = ", ".join(code(base.name) for base in row.models)
    return Refusal(
        f"{escape(row.title)} serves adapters of {served}, and not of {code(model.name)}. Train one of those; if it is "
        "one of them by another name, say so with `base_name` in its row in finetune.toml.",
        "serve",
    )


def _served_base(settings: Settings, row: ProviderRow, plan: Plan) -> ModelRow | Refusal:
    """Returns the row of a plan's base at a vendor that serves what was trained where the plan was."""
    if row.serves_models_of is None:
        trained = settings.provider(plan.provider)
        base = trained.model(plan.base_model) if trained else None
        if base is None:
            return Refusal(f"The settings have no {plan.provider}/{plan.base_model} any more.")
        return find_base(settings, row, base)
    # The same company knows the base by the same name.
    same_base = row.model(plan.base_model)
    if same_base is not None and row.serves_models_of == plan.provider:
        return _priced(row, same_base)
    served = ", ".join(code(base.name) for base in row.models)
    trainer = escape(settings.title_of(row.serves_models_of))
    return Refusal(
        f"{escape(row.title)} serves what was tuned at {trainer} from {served}, and not from {code(plan.base_model)}."
    )


def _priced(row: ProviderRow, base: ModelRow) -> ModelRow | Refusal:
    if base.price.input is None or base.price.output is None:
        return Refusal(
            f"The price of {code(base.name)} at {escape(row.title)} is unknown: set `input` and `output` under "
            f"[providers.{row.name}.models] in finetune.toml.",
            "serve",
        )
    return base


def rank_of(hyperparameters: Mapping[str, Hyperparameter]) -> int:
    return int(hyperparameters.get(RANK, USUAL_RANK))


def _unfit_training(row: ProviderRow, question: Question, target: Target) -> Refusal | None:
    """Refuses what leaves no adapter on this machine."""
    title = escape(row.title)
    if target.model.is_encoder or METHODS[question.method].is_for_encoders:
        return Refusal(f"{title} serves chat models; an encoder answers here, at no cost.", "serve")
    if METHODS[question.method].leaves_model:
        return Refusal(
            f"{title} serves adapters, and `method=full` trains all weights: leave out one of the two.",
            "serve",
        )
    if not (target.row.provider.can("sweep") and target.row.keeps_models_here):
        return Refusal(
            f"{title} serves adapters that our own trainer made on this machine or on a rented one: choose a target "
            "that starts with `local/` or `hf/`.",
            "serve",
        )
    return None


def _ranks(question: Question, target: Target) -> Collection[int]:
    """Returns every rank that the training may give its adapter."""
    swept = [values for name, values in question.sweep if name == RANK]
    if swept:
        return [int(rank) for rank in swept[0]]
    chosen = {**target.row.defaults, **question.chosen}
    if target.start is not None:
        chosen |= dict(target.start.shape)
    return [rank_of(chosen)]
