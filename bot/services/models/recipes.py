"""The recipe of what was promoted: what answers programs, built from the plan by which the candidate was measured, so
that a later measurement changes nothing that is in use. Publishes nothing."""

from __future__ import annotations

from bot.context import AppContext
from bot.services.common import finished_measurements
from bot.services.common.finished_measurements import FinishedEvaluation
from bot.services.datasets import datasets
from bot.services.evidence.evaluation_worker import report_max_tokens
from bot.services.models.recipe_worker import MeasuredParts, build_recipe
from bot.values.evaluations import promoted_candidate
from bot.values.runs import Refusal
from storage.promotions import Promotion
from storage.records import Model
from trainers.evaluation.results import Candidate, MeasuredCandidate
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.values import Recipe


def folder_of(context: AppContext) -> RecipeFolder:
    return RecipeFolder(context.settings.recipes)


def recipe_of(context: AppContext, promotion: Promotion) -> str | Refusal | None:
    """Returns the hash of the promotion's recipe, which is stored by then, or why it can't be built; None while a
    worker builds it. A recipe that was built before is built again only if its folder was lost."""
    if promotion.recipe and folder_of(context).recipe_path(promotion.recipe).exists():
        return promotion.recipe
    candidate = promoted_candidate(promotion.what)
    if candidate is None:
        return _store_recipe_of_model(context, promotion)
    evaluation = _evaluation_of(context, promotion)
    measured = _find_measured(evaluation, candidate) if evaluation else None
    if evaluation is None or measured is None:
        return Refusal(
            f"What m{promotion.measurement} measured can't be read by this version of the bot. Measure "
            f"{promotion.dataset} again."
        )
    return context.workers.poll(
        f"recipe {promotion.id}",
        build_recipe,
        candidate,
        evaluation.plan,
        _parts_of(evaluation, measured),
        context.settings.files,
        context.settings.recipes,
    )


def _store_recipe_of_model(context: AppContext, promotion: Promotion) -> str | Refusal:
    """Stores the recipe of a tuned model: it is asked with the program's own prompt, as it was trained."""
    model = context.store.model(promotion.model or "")
    if model is None:
        return Refusal(f"{promotion.model} is gone.")
    recipe = _recipe_of_model(context, model)
    if isinstance(recipe, Refusal):
        return recipe
    return folder_of(context).add(recipe, {}).sha256


def _recipe_of_model(context: AppContext, model: Model) -> Recipe | Refusal:
    run = context.store.runs.of_model(model)
    version = context.store.datasets.get(run.dataset_id)
    report = datasets.report_of(version)
    if report is None:
        return Refusal(f"The rows that {model.name} was trained on were deleted.")
    return Recipe(
        kind="tuned",
        dataset=version.name,
        version=version.version,
        task=report.task,
        scoring=report.scoring or "f1",
        labels=tuple(sorted(count.label for count in report.labels)),
        provider=model.provider,
        model=model.provider_model,
        max_tokens=report_max_tokens(report),
        is_thinking=context.settings.thinks(f"{model.provider}/{model.provider_model}"),
    )


def _evaluation_of(context: AppContext, promotion: Promotion) -> FinishedEvaluation | None:
    if promotion.measurement is None:
        return None
    measurement = context.store.measurements.get(promotion.measurement)
    if measurement is None or not measurement.result:
        return None
    return finished_measurements.read_evaluation(measurement)


def _find_measured(evaluation: FinishedEvaluation, candidate: Candidate) -> MeasuredCandidate | None:
    measured = evaluation.comparison.candidates
    return next((each for each in measured if each.identity == candidate), None)


def _parts_of(evaluation: FinishedEvaluation, measured: MeasuredCandidate) -> MeasuredParts:
    encoder = evaluation.plan.encoder
    if evaluation.comparison.encoder:
        encoder = evaluation.comparison.encoder.name
    nearest = measured.retrieval.k if measured.retrieval else 0
    return MeasuredParts(measured.scoring, encoder, nearest)
