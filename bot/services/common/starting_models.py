"""Finds the tuned model that a person names as the target of a training, and says why a training can't go on from it.
Writes nothing.

Whether held-out rows are among those that it learnt from is found in services/datasets/trained_rows.py.
"""

from __future__ import annotations

from collections.abc import Collection

from bot.cards.datasets.datasets import unchecked_dataset
from bot.cards.decisions import starting_models as views
from bot.context import AppContext, CoreContext
from bot.rules.models.starting_models import StartingModel, adapter_shape
from bot.rules.plans import Plan, plan_from_json
from bot.services.common import authorization
from bot.services.common.targets import find_target
from bot.settings import Settings
from bot.values.runs import Refusal
from storage.records import Model
from storage.store import Store
from trainers.methods import METHODS
from trainers.types import Hyperparameter

OFFERED = 20  # so many models are looked at, since a form has to open within three seconds


def find_start(
    context: AppContext, wanted: str | None, person: str, channel: str
) -> StartingModel | Refusal | None:
    """Returns the tuned model that somebody names as a target, None if they name a base model or nothing known. For
    somebody who may not know about its dataset it doesn't exist."""
    providers = context.settings.providers
    if wanted is None or not isinstance(find_target(providers, wanted), Refusal):
        return None
    model = _find_model(context, wanted, person, channel)
    if model is None or isinstance(model, Refusal):
        return model
    return start_refusal(context.store, context.settings, model) or starting_model(context.store, model)


def starting_model(store: Store, model: Model) -> StartingModel:
    """Returns a tuned model with what has to be known of it and of those from which it came."""
    run = store.runs.of_model(model)
    plan = plan_from_json(run.plan)
    before = plan.starts_from
    ancestors: tuple[str, ...] = ()
    earlier_files: tuple[str, ...] = ()
    overridden = plan.overridden
    teachers = tuple(taught.teacher for taught in plan.taught)
    if before is not None:
        ancestors = before.lineage
        earlier_files = before.train_files
        overridden += before.overridden
        teachers += before.teachers
    return StartingModel(
        name=model.name,
        provider=model.provider,
        provider_model=model.provider_model,
        base_model=plan.base_model,
        run=run.id,
        plan_hash=run.plan_hash,
        dataset=plan.dataset,
        version=plan.dataset_version,
        ancestors=ancestors,
        train_files=(plan.train_sha256, *earlier_files),
        shape=_shape(plan),
        overridden=tuple(dict.fromkeys(overridden)),
        teachers=tuple(dict.fromkeys(teachers)),
    )


def start_refusal(store: Store, settings: Settings, model: Model) -> Refusal | None:
    """Returns why no training can go on from this model, None if one can."""
    plan = plan_from_json(store.runs.of_model(model).plan)
    base = f"{plan.provider}/{plan.base_model}"
    lost = lost_text(store, settings, model.name)
    if lost:
        return Refusal(lost, "target")
    if METHODS[plan.method].is_for_encoders:
        return Refusal(views.encoder_text(model.name, base), "target")
    if METHODS[plan.method].leaves_model:
        return Refusal(views.all_weights_text(model.name, base), "target")
    row = settings.provider(model.provider)
    if row is None or not row.provider.can("going_on"):
        able = [each.title for each in settings.providers if each.provider.can("going_on")]
        title = settings.title_of(model.provider)
        return Refusal(views.unable_text(model.name, base, title, able), "target")
    return None


def names(context: CoreContext, datasets: Collection[str]) -> list[str]:
    """Returns the newest models of these datasets from which a training can go on, for a form."""
    able = []
    for name in context.store.model_names(datasets)[:OFFERED]:
        model = context.store.model(name)
        if model is not None and start_refusal(context.store, context.settings, model) is None:
            able.append(name)
    return able


def lost_text(store: Store, settings: Settings, name: str) -> str | None:
    """Returns a sentence if the tuned model of this name doesn't exist any more, None if it does."""
    model = store.model(name)
    if model is None:
        return views.deleted_text(name)
    run = store.runs.of_model(model)
    if store.datasets.get(run.dataset_id).forgotten_at is not None:
        return views.deleted_text(name)
    if model.gone_at is not None:
        return views.gone_text(name, settings.title_of(model.provider))
    return None


def _shape(plan: Plan) -> tuple[tuple[str, Hyperparameter], ...]:
    """Returns the shape of a plan's adapter. A sweep's winner may have another one than the plan's, which the trainer
    knows and keeps."""
    if plan.swept is not None:
        return ()
    return adapter_shape(plan.hyperparameters)


def _find_model(context: AppContext, wanted: str, person: str, channel: str) -> Model | Refusal | None:
    """Returns the model of this name if the person may act on its dataset. Slack is asked, since the model's answers
    may repeat rows of that dataset."""
    by_name = context.store.model(wanted)
    models = [by_name] if by_name else context.store.models_at_provider(wanted)
    for model in models:
        dataset = context.store.datasets.get(context.store.runs.of_model(model).dataset_id).name
        may_act = authorization.may_act_on(context, dataset, person, channel)
        if may_act is None:
            return Refusal(unchecked_dataset(dataset))
        if may_act:
            return model
    return None
