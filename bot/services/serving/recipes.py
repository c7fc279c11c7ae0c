"""The recipe of what was promoted: what answers programs, built from the plan by which the candidate was measured, so
that a later measurement changes nothing that is in use. Publishes nothing."""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from bot.context import AppContext, CoreContext
from bot.services.common import finished_measurements
from bot.services.common.finished_measurements import FinishedEvaluation
from bot.services.datasets import datasets
from bot.services.evidence.candidate_prompts import read_instructions
from bot.services.evidence.evaluation_worker import report_max_tokens
from bot.services.models import models
from bot.services.models.promotables import origin_of
from bot.services.serving.recipe_worker import MeasuredParts, build_recipe
from bot.values.evaluations import ComparisonPlan, promoted_candidate
from bot.values.runs import Refusal
from storage import backup
from storage.monitoring.live_tests import LiveTest
from storage.promotions import Fallback, Promotion
from storage.records import Document, Model, Promotable
from trainers.errors import FileChanged
from trainers.evaluation.results import Candidate, Comparison, MeasuredCandidate
from trainers.recipes import usage
from trainers.recipes.folder import RecipeFolder
from trainers.recipes.values import Recipe

KEPT_S = 30 * 24 * 3600.0  # after the end of its use, as somebody may roll back to it
UNNAMED_S = 24 * 3600.0  # a worker's recipe may only be named at a later tick

log = logging.getLogger(__name__)


def folder_of(context: CoreContext) -> RecipeFolder:
    return RecipeFolder(context.settings.recipes)


def learnt_from(context: CoreContext, versions: Collection[int]) -> set[str]:
    """Returns the hashes of all recipes that were built from these versions of a dataset, of whose rows they have some,
    whichever dataset they are used for."""
    return {
        use.recipe
        for use in _with_recipes(context)
        if use.recipe and origin_of(context, use.what).dataset.id in versions
    }


def built_with(context: CoreContext, document: Document) -> set[str]:
    """Returns the hashes of all recipes of a dataset that have passages of this document."""
    return {
        use.recipe
        for use in _with_recipes(context)
        if use.recipe
        and use.dataset == document.dataset
        and document.sha256 in documents_of(context, use.what)
    }


def _with_recipes(context: CoreContext) -> Sequence[Promotion | Fallback | LiveTest]:
    return [
        *context.store.promotions.with_recipes(),
        *context.store.fallbacks.with_recipes(),
        *context.store.live_tests.with_recipes(),
    ]


def documents_of(context: CoreContext, what: Promotable) -> Collection[str]:
    """Returns the hashes of the documents that a promoted retrieval looks passages up in."""
    candidate = promoted_candidate(what)
    measurement = context.store.measurements.get(what.measurement or 0)
    if candidate is None or candidate.kind != "retrieval" or measurement is None:
        return ()
    return ComparisonPlan.from_json(measurement.plan).documents


def delete_unneeded(context: AppContext) -> None:
    """Deletes the recipes that were not in use during the last month, each night and when the bot starts."""
    if not backup.is_night_over(context.checked_at.get("recipes", 0.0), context.clock()):
        return
    folder = folder_of(context)
    since = context.clock() - KEPT_S
    needed = context.store.promotions.recipes_since(since)
    needed |= context.store.fallbacks.recipes_since(since)
    needed |= context.store.live_tests.recipes_since(since)
    unnamed_since = context.clock() - UNNAMED_S
    folder.remove_unfinished(unnamed_since)
    for sha256 in folder.hashes() - needed:
        if folder.recipe_path(sha256).stat().st_mtime < unnamed_since:
            folder.remove(sha256)
            usage.forget(folder.root, [sha256])  # its calls were added to their months long ago
            log.info("deleted the recipe %s, which was not in use during the last month", sha256[:12])
    context.checked_at["recipes"] = context.clock()


def recipe_of(context: AppContext, promotion: Promotion) -> str | Refusal | None:
    """Returns the hash of the promotion's recipe, which is stored by then, or why it can't be built; None while a
    worker builds it. One that was in use before, as after a rollback, is built again only if its files are gone."""
    before = _built_before(context, promotion)
    if before is not None:
        return before
    candidate = promoted_candidate(promotion.what)
    if candidate is None:
        return _recipe_of_model(context, models.model_of(context, promotion))
    return _recipe_of_candidate(
        context, candidate, promotion.measurement, promotion.dataset, f"recipe {promotion.id}"
    )


def recipe_of_fallback(context: AppContext, fallback: Fallback) -> str | Refusal | None:
    """Returns the hash of a fallback's recipe, as `recipe_of` does."""
    candidate = promoted_candidate(fallback.what)
    assert candidate is not None  # noqa: S101 - a fallback is never a tuned model
    owner = f"recipe of fallback {fallback.id}"
    return _recipe_of_candidate(context, candidate, fallback.measurement, fallback.dataset, owner)


def recipe_of_live_test(context: AppContext, test: LiveTest) -> str | Refusal | None:
    """Returns the hash of the recipe of what a live test tries, as `recipe_of` does."""
    candidate = promoted_candidate(test.what)
    if candidate is not None:
        owner = f"recipe of live test {test.id}"
        return _recipe_of_candidate(context, candidate, test.measurement, test.dataset, owner)
    model = context.store.model(test.model or "")
    if model is None:
        return Refusal(f"There is no model {test.model} any more.")
    return _recipe_of_model(context, model)


def _recipe_of_candidate(
    context: AppContext, candidate: Candidate, measurement: int | None, dataset: str, owner: str
) -> str | Refusal | None:
    """Has a worker build the recipe of a candidate as it was measured; None until that is done."""
    evaluation = _evaluation_of(context, measurement)
    measured = _find_measured(evaluation, candidate) if evaluation else None
    if evaluation is None or measured is None:
        return Refusal(
            f"What m{measurement} measured can't be read by this version of the bot. Measure {dataset} again."
        )
    return context.workers.poll(
        owner,
        build_recipe,
        candidate,
        evaluation.plan,
        parts_of(evaluation.plan, evaluation.comparison, measured),
        context.settings.files,
        context.settings.recipes,
    )


def _built_before(context: CoreContext, promotion: Promotion) -> str | None:
    """Returns the stored recipe of this promotion, or of an earlier one of the same."""
    for each in reversed(context.store.promotions.for_dataset(promotion.dataset)):
        is_same = each.what == promotion.what
        if is_same and each.recipe and folder_of(context).recipe_path(each.recipe).exists():
            return each.recipe
    return None


def measured_of(context: CoreContext, promotion: Promotion) -> MeasuredCandidate | None:
    """Returns a promoted candidate with its scores, as it was measured; None if that can't be read any more."""
    candidate = promoted_candidate(promotion.what)
    evaluation = _evaluation_of(context, promotion.measurement)
    if candidate is None or evaluation is None:
        return None
    return _find_measured(evaluation, candidate)


def _recipe_of_model(context: AppContext, model: Model) -> str | Refusal:
    """A tuned model is asked with the program's own prompt, as it was trained."""
    run = context.store.runs.of_model(model)
    version = context.store.datasets.get(run.dataset_id)
    report = datasets.report_of(version)
    if report is None:
        return Refusal(f"The rows that {model.name} was trained on were deleted.")
    recipe = Recipe(
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
    try:
        instructions = read_instructions(context.settings.files, str(report.holdout_sha256))
    except (FileChanged, FileNotFoundError):
        return Refusal(f"The rows on which {model.name} was measured were deleted or changed.")
    return folder_of(context).add(replace(recipe, instructions=instructions), {}).sha256


def _evaluation_of(context: CoreContext, number: int | None) -> FinishedEvaluation | None:
    measurement = context.store.measurements.get(number or 0)
    if measurement is None or not measurement.result:
        return None
    return finished_measurements.read_evaluation(measurement)


def _find_measured(evaluation: FinishedEvaluation, candidate: Candidate) -> MeasuredCandidate | None:
    measured = evaluation.comparison.candidates
    return next((each for each in measured if each.identity == candidate), None)


def parts_of(plan: ComparisonPlan, comparison: Comparison, measured: MeasuredCandidate) -> MeasuredParts:
    """Returns the parts of a candidate as the evaluation with this plan and outcome measured it."""
    encoder = plan.encoder
    if comparison.encoder:
        encoder = comparison.encoder.name
    nearest = measured.retrieval.k if measured.retrieval else 0
    return MeasuredParts(measured.scoring, encoder, nearest)
