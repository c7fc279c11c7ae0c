"""Tuned models by the names that people use: finds and lists them, and shows the cards of those in use."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import date

from bot.cards.common.blocks import CardBlock, Listing, code
from bot.cards.common.candidates import table_name
from bot.cards.common.plan_money import foreseen_text
from bot.cards.datasets.datasets import unchecked_dataset
from bot.cards.models import promotions as promotion_views
from bot.cards.models import publications as publication_views
from bot.cards.models.actuals import ModelActuals
from bot.cards.models.call_instructions import Calling
from bot.cards.models.deployments import stopped_refusal
from bot.cards.models.models import InUse, ModelEntry
from bot.cards.models.promotions import PromotionSummary, SealedProof
from bot.cards.models.token_serving import not_loaded_refusal, not_served_refusal
from bot.context import AppContext, CoreContext
from bot.rules.facts import Looks
from bot.rules.models.promotion import PromotionEvidence, alias_for, compare_models, find_objections
from bot.rules.plans import Plan, plan_from_json
from bot.services.common import authorization, finished_measurements, token_serving
from bot.services.datasets import datasets
from bot.services.datasets.pairs import name_in_use
from bot.services.evidence import evidence, notifications, promotion_evidence
from bot.services.evidence.looks import load_looks, load_looks_at_run
from bot.services.models import deployments
from bot.services.models.fallback_summaries import fallback_hint, fallback_in_use, fallback_of
from bot.settings import Settings
from bot.values.runs import Refusal
from storage.deployments import DeploymentRecord
from storage.promotions import Promotion
from storage.records import Model, Promotable, Run
from trainers.evaluation.results import Candidate, MeasuredCandidate
from trainers.providers.pricing import (
    PriceList,
    PriceRow,
    UnknownPrice,
    find_prompted_price,
    served_price,
    tuned_price,
)
from trainers.recipes.folder import RecipeFolder

SHOWN = 40  # lines that fit on a card


def find_of_run(context: AppContext, number: int, person: str, channel: str) -> Model | Refusal:
    """Returns the model of a run if this person may ask it in this channel, and it answers."""
    refusal = authorization.refusal(context, person, "try", channel)
    if refusal:
        return refusal
    run = context.store.runs.get(number)
    name = f"run {number}"
    if run and run.model:
        name = run.model
    model = find_to_use(context, name, person, channel)
    if isinstance(model, Refusal):
        return model
    return machine_refusal(context, model) or model


def machine_refusal(context: AppContext, model: Model) -> Refusal | None:
    """Returns why a model that needs a machine by the hour doesn't answer, None if it does."""
    plan = plan_of(context, model)
    if plan.hosting is None or deployments.is_running(context, model.run_id):
        return None
    machine = notifications.link_to_machine(context, model.run_id)
    terms = plan.hosting.by_token
    if terms is not None:
        title = context.settings.title_of(terms.provider)
        return Refusal(not_served_refusal(model.name, title, machine, is_uploaded=terms.is_uploaded))
    newest = deployment_of(context, model)
    if newest is not None and newest.by_token:
        title = context.settings.title_of(newest.provider)
        return Refusal(not_loaded_refusal(model.name, title, machine))
    title = context.settings.title_of(model.provider)
    return Refusal(stopped_refusal(model.name, title, machine))


def deployment_of(context: CoreContext, model: Model) -> DeploymentRecord | None:
    """Returns the deployment that a model answers by, or needs to; None if its trainer answers."""
    records = context.store.deployments.of_run(model.run_id)
    if not records:
        return None
    newest = records[0]
    # Before it is served by the token, and afterwards, its trainer answers, unless its plan says otherwise.
    if newest.by_token and newest.state != "ready" and plan_of(context, model).hosting is None:
        return None
    return newest


def deleted_refusal(context: AppContext, model: Model) -> Refusal | None:
    run = context.store.runs.of_model(model)
    dataset = context.store.datasets.get(run.dataset_id)
    if dataset.forgotten_at is None:
        return None
    return Refusal(f"`{model.name}` was deleted with its dataset. `/finetune models` lists the others.")


def find_to_use(context: AppContext, name: str, person: str, channel: str) -> Model | Refusal:
    """Finds a model for somebody who asks or deploys it."""
    visible = authorization.visible_datasets(context, person, channel)
    model = find(context, name, visible)
    if isinstance(model, Refusal):
        return model
    # What is visible may rest on an answer of some minutes ago, which is enough for reading only.
    dataset = _dataset_of(context, model)
    may_act = authorization.may_act_on(context, dataset, person, channel)
    if may_act is None:
        return Refusal(unchecked_dataset(dataset))
    if not may_act:
        # The same answer as for a name that doesn't exist, so that nobody learns of it.
        return find(context, name, visible - {dataset})
    return model


def find(context: AppContext, name: str, datasets: Collection[str]) -> Model | Refusal:
    """Finds a model by its name. `datasets` are those that the person may know about; models of others are treated as
    if they didn't exist."""
    by_name = context.store.model(name)
    matches = [by_name] if by_name else context.store.models_at_provider(name)
    for model in matches:
        if _dataset_of(context, model) in datasets:
            return deleted_refusal(context, model) or model
    names = context.store.model_names(datasets)
    if not names:
        return Refusal("There are no tuned models yet. `/finetune start DATASET` trains one.")
    listed = ", ".join(code(other) for other in names[:10])
    existing = f"There are {listed}."
    if name in datasets:
        what = f"`{name}` is a dataset, and no model is in use for it."
        if context.store.promotions.current(name) is not None:
            what = f"`{name}` is a dataset, not a model."
        return Refusal(f"{what} `/finetune promote MODEL` deploys one. {existing}")
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    if near:
        return Refusal(f"There is no model of that name. Did you mean `{near[0]}`?")
    return Refusal(f"There is no model of that name. {existing}")


def _dataset_of(context: AppContext, model: Model) -> str:
    run = context.store.runs.of_model(model)
    return context.store.datasets.get(run.dataset_id).name


def plan_of(context: CoreContext, model: Model) -> Plan:
    run = context.store.runs.of_model(model)
    return plan_from_json(run.plan)


def price_of(context: CoreContext, model: Model) -> PriceRow | Refusal:
    """Returns the current price from the provider's row, or the plan's price if the row is gone."""
    plan = plan_of(context, model)
    # The plan's rows begin with that of the tuned model.
    price = PriceList.from_json(plan.prices).rows[0]
    row = context.settings.provider(model.provider)
    if row:
        base = row.model(plan.base_model)
        if base:
            price = _with_server(context, model, plan, tuned_price(row, base))
    is_unknown = None in (price.price.input, price.price.output)
    if is_unknown and price.usd_per_hour is None:
        return Refusal(
            f"The price of a question to {model.name} is unknown: the bot's operator can set `input` and `output` of "
            f"{plan.base_model} under [providers.{model.provider}.models] in finetune.toml."
        )
    return price


def _with_server(context: CoreContext, model: Model, plan: Plan, price: PriceRow) -> PriceRow:
    """Returns the price with that of the vendor that serves the model by the token, if there is one."""
    server = token_serving.planned_server(context.settings, plan.hosting)
    deployed = token_serving.serving(context, model.run_id)
    if server is None and deployed is not None:
        now = token_serving.server_for(context.settings, deployed.provider, plan)
        if not isinstance(now, Refusal):
            server = now
    if server is None:
        return price
    return served_price(price, server.row, server.base)


def listing(context: AppContext, person: str, channel: str) -> tuple[Listing[ModelEntry], Listing[InUse]]:
    """Returns the tuned models that a person may know about, those in use first, then newest first; and what is in use
    that needed no training."""
    visible = authorization.visible_datasets(context, person, channel)
    current = context.store.promotions.all_current()
    standing = {promotion.model: promotion for promotion in current if promotion.model}
    names = sorted(context.store.model_names(visible), key=lambda name: name not in standing)
    entries = []
    for name in names[:SHOWN]:
        model = context.store.model(name)
        if model:
            entries.append(_entry(context, model, standing.get(name)))
    untrained = []
    for promotion in current:
        if promotion.model is None and promotion.dataset in visible:
            untrained.append(promotion)
    used = [_in_use(context, promotion) for promotion in untrained[:SHOWN]]
    return Listing(entries, len(names), visible.unchecked), Listing(used, len(untrained))


def all_in_use(context: AppContext, names: Collection[str]) -> Listing[InUse]:
    """Returns what is in use for these datasets, by dataset."""
    current = context.store.promotions.all_current()
    promotions = [promotion for promotion in current if promotion.dataset in names]
    entries = [_in_use(context, promotion) for promotion in promotions[:SHOWN]]
    return Listing(entries, len(promotions))


def proof_of(context: AppContext, promotion: Promotion) -> PromotionEvidence:
    """Returns the comparison of what was promoted with what it replaced. This may read two files of held-out rows, so
    call it before a transaction."""
    replaced = _what(context, promotion.instead_of)
    return promotion_evidence.promotion_proof(context, promotion.what, replaced)


def calling_of(settings: Settings, dataset: str) -> Calling:
    """Returns how programs call what is in use for a dataset."""
    key_file = RecipeFolder(settings.recipes).key_path.resolve()
    return Calling(alias_for(dataset), settings.serving.base_url, str(key_file))


def card_values(context: AppContext, promotion: Promotion, proof: PromotionEvidence) -> PromotionSummary:
    before = _what(context, promotion.instead_of)
    earlier = _what(context, promotion.returns_to)
    approved_by = _approvers(context, promotion)
    if promotion.model is None:
        return PromotionSummary(
            promotion=promotion,
            model=None,
            proof=proof,
            before=before,
            earlier=earlier,
            provider="",
            has_alias=True,
            approved_by=approved_by,
            looks=_looks_at_measurement(context, promotion),
            calling=calling_of(context.settings, promotion.dataset),
            fallback=fallback_of(context, promotion),
        )
    model = model_of(context, promotion)
    return PromotionSummary(
        promotion=promotion,
        model=model,
        proof=proof,
        before=before,
        earlier=earlier,
        provider=context.settings.title_of(model.provider),
        has_alias=has_alias(context, model),
        approved_by=approved_by,
        left=_provider_left(context, promotion, model),
        looks=_looks(context, model),
        sealed=_sealed(context, model),
        machine=_machine(context, model),
        calling=calling_of(context.settings, promotion.dataset),
        fallback=fallback_of(context, promotion),
    )


def _approvers(context: AppContext, promotion: Promotion) -> tuple[str, ...]:
    """Returns who approved the promotion against the evidence, nobody if that was not needed."""
    if promotion.request is None:
        return ()
    decisions = context.store.promotion_requests.decisions(promotion.request)
    return tuple(decision.person for decision in decisions if decision.decision == "approve")


def _machine(context: AppContext, model: Model) -> promotion_views.Machine | None:
    newest = deployment_of(context, model)
    if newest is None:
        return None
    called = None
    if newest.state == "ready":
        called = newest.chat_model
    link = notifications.link_to_machine(context, model.run_id)
    return promotion_views.Machine(called, link)


def _sealed(context: AppContext, model: Model) -> SealedProof | None:
    """Returns the result of the newest test of a model on sealed rows, None if there is none."""
    measurement = context.store.measurements.for_promotion(model.name)
    if measurement is None:
        return None
    evaluation = finished_measurements.read_evaluation(measurement)
    if evaluation is None:
        return None
    comparison = evaluation.comparison
    identity = Candidate("tuned", f"{model.provider}/{model.provider_model}")
    own = [candidate for candidate in comparison.candidates if candidate.identity == identity]
    others = [candidate for candidate in comparison.candidates if candidate.identity != identity]
    if not own:
        return None
    candidate = own[0]
    held = []
    for other in others:
        name = table_name(other.identity)
        held.append(compare_models(name, candidate.scores, other.scores))
    # Not `find_best`: they were measured in one look, and the model has to stand up to the highest score.
    best = max(held, key=lambda other: other.score, default=None)
    looks = context.store.looks([measurement.dataset_id])
    opened = looks.get(comparison.holdout_sha256, 1)
    return SealedProof(measurement.id, candidate, best, opened - 1)


def promotion_details(
    context: AppContext, number: int, person: str, channel: str
) -> Sequence[CardBlock] | Refusal:
    """Returns the details of a promotion that don't fit on its card."""
    promotion = context.store.promotions.get(number)
    hidden = Refusal("There is no such promotion. `/finetune models` lists what is in use.")
    if promotion is None:
        return hidden
    if not authorization.may_use_dataset(context, promotion.dataset, person, channel):
        return hidden
    hint = fallback_hint(context, promotion)
    if promotion.model is None:
        actuals = actuals_of_candidate(context, promotion)
        looks = _looks_at_measurement(context, promotion)
    else:
        model = model_of(context, promotion)
        actuals = actuals_of(context, model, promotion.dataset)
        looks = _looks(context, model)
    return promotion_views.details(actuals, looks, hint)


def _looks(context: AppContext, model: Model) -> Looks | None:
    run = context.store.runs.of_model(model)
    return load_looks_at_run(context, run)


def _looks_at_measurement(context: AppContext, promotion: Promotion) -> Looks | None:
    measurement = context.store.measurements.get(promotion.measurement or 0)
    if measurement is None:
        return None
    dataset = context.store.datasets.get(measurement.dataset_id)
    report = datasets.report_of(dataset)
    if report is None:
        return None
    return load_looks(context, dataset.name, report)


def show_card(context: AppContext, promotion: Promotion, proof: PromotionEvidence) -> None:
    """Posts or edits the promotion's card."""
    values = card_values(context, promotion, proof)
    card = promotion_views.promotion_card(values)
    context.show(card_name(promotion), promotion.channel, card, concerns=promotion.person)


def show_where_used(context: AppContext, name: str) -> None:
    """Edits the card of a model in use after its machine was started or stopped, as another name answers now."""
    for promotion in context.store.promotions.all_current():
        if promotion.model == name:
            show_again(context, promotion)


def show_again(context: AppContext, promotion: Promotion) -> None:
    """Edits the promotion's card, outside of any transaction."""
    proof = proof_of(context, promotion)
    with context.store.transaction():
        show_card(context, promotion, proof)


def card_name(promotion: Promotion) -> str:
    return f"promotion {promotion.id}"


def may_be_offered(context: AppContext, run: Run) -> bool:
    """True if the run's model is not in use and there are no objections to using it."""
    proof = proof_of_run(context, run)
    return proof is not None and not find_objections(proof)


def proof_of_run(context: AppContext, run: Run) -> PromotionEvidence | None:
    """Returns the evidence for promoting the run's model; None if there is no model, or if it is already in use."""
    model = context.store.model(run.model or "")
    if run.result is None or model is None or model.state == "promoted":
        return None
    version = context.store.datasets.get(run.dataset_id)
    # A dataset of pairs is used under the name of the one that it was made from.
    standing = context.store.promotions.current(name_in_use(context, version))
    used = None
    if standing is not None:
        used = standing.what
    return promotion_evidence.promotion_proof(context, Promotable(model.name), used, run)


def has_alias(context: CoreContext, model: Model) -> bool:
    """True if the model's provider supports aliases."""
    row = context.settings.provider(model.provider)
    return row is not None and row.provider.can("aliases")


def _entry(context: AppContext, model: Model, promotion: Promotion | None) -> ModelEntry:
    plan, candidate = promotion_evidence.measured_score(context, model)
    ancestors: tuple[str, ...] = ()
    if plan.starts_from is not None:
        ancestors = plan.starts_from.lineage
    entry = ModelEntry(
        model=model,
        dataset=plan.dataset,
        version=plan.dataset_version,
        base=plan.base_model,
        candidate=candidate,
        promotion=promotion,
        is_stopped=_is_stopped(context, model, plan),
        ancestors=ancestors,
    )
    if promotion is None:
        return entry
    return replace(
        entry,
        actuals=actuals_of(context, model, promotion.dataset),
        unanswered=why_unanswered(context.settings, promotion),
        fallback=fallback_in_use(context, promotion),
    )


def _is_stopped(context: AppContext, model: Model, plan: Plan) -> bool:
    if plan.hosting is None:
        return False
    return not deployments.is_running(context, model.run_id)


def _in_use(context: AppContext, promotion: Promotion) -> InUse:
    scores = promotion_evidence.promotion_scores(context, promotion.what)
    if promotion.model is None:
        return InUse(
            promotion,
            scores.candidate,
            ends=_end_of_candidate(context, scores.candidate),
            actuals=actuals_of_candidate(context, promotion),
            unanswered=why_unanswered(context.settings, promotion),
            fallback=fallback_in_use(context, promotion),
        )
    model = model_of(context, promotion)
    plan = plan_of(context, model)
    row = context.settings.provider(model.provider)
    base = None
    if row:
        base = row.model(plan.base_model)
    ends = None
    if base:
        ends = base.ends
    return InUse(
        promotion,
        scores.candidate,
        ends=ends,
        actuals=actuals_of(context, model, promotion.dataset),
        is_stopped=_is_stopped(context, model, plan),
        unanswered=why_unanswered(context.settings, promotion),
        fallback=fallback_in_use(context, promotion),
    )


def why_unanswered(settings: Settings, promotion: Promotion) -> str | None:
    """Returns why programs get no answer from what is in use, None if they get one."""
    folder = RecipeFolder(settings.recipes)
    published = folder.published(alias_for(promotion.dataset))
    return publication_views.why_unanswered(published, promotion.id, promotion.trouble)


def _end_of_candidate(context: AppContext, candidate: MeasuredCandidate | None) -> date | None:
    """Returns the first day on which the model that a candidate asks is no longer offered, None if none is known."""
    if candidate is None or candidate.model is None:
        return None
    settings = context.settings
    price = find_prompted_price(candidate.model, settings.providers, settings.prices, context.today())
    if isinstance(price, UnknownPrice):
        return None
    return price.ends


def actuals_of_candidate(context: AppContext, promotion: Promotion) -> ModelActuals:
    """Returns the monthly use of a candidate."""
    months = context.store.actuals.of(promotion.dataset)
    return ModelActuals(tuple(months))


def actuals_of(context: AppContext, model: Model, dataset: str) -> ModelActuals:
    """Returns the monthly use of the model in use for `dataset`, with what its plan expected to save if the model
    turned out good enough."""
    run = context.store.runs.of_model(model)
    candidate = evidence.tuned_candidate(context.store, run)
    foreseen = ""
    if candidate is not None and candidate.standing != "misses":
        foreseen = foreseen_text(plan_of(context, model))
    months = context.store.actuals.of(dataset)
    return ModelActuals(tuple(months), foreseen)


def model_of(context: AppContext, promotion: Promotion) -> Model:
    """Returns the tuned model that was promoted. Raises KeyError if it was a candidate."""
    model = context.store.model(promotion.model or "")
    if model is None:
        raise KeyError(promotion.model)
    return model


def _provider_left(context: AppContext, promotion: Promotion, model: Model) -> tuple[str, str] | None:
    """Returns the newest earlier model at another provider whose alias still points to it, as (provider, model)."""
    number = promotion.instead_of
    while number is not None:
        earlier = context.store.promotions.get(number)
        if earlier is None:
            return None
        number = earlier.instead_of
        if earlier.model is None:
            continue
        other = model_of(context, earlier)
        was_set = earlier.carried_at is not None and has_alias(context, other)
        if was_set and other.provider != model.provider:
            return context.settings.title_of(other.provider), other.name
    return None


def _what(context: AppContext, number: int | None) -> Promotable | None:
    """Returns what was promoted under this number."""
    if number is None:
        return None
    promotion = context.store.promotions.get(number)
    if promotion is None:
        return None
    return promotion.what
