"""What is shown of what answers when what is in use can't. Changes nothing; services/serving/fallbacks.py does."""

from __future__ import annotations

from bot.cards.models import fallbacks as views
from bot.cards.models import publications as publication_views
from bot.cards.models.fallbacks import FallbackSummary
from bot.cards.models.models import FallbackInUse
from bot.context import AppContext
from bot.rules.models.promotion import alias_for
from bot.services.common import finished_measurements
from bot.values.evaluations import promoted_candidate
from storage.promotions import Fallback, Promotion
from trainers.evaluation.results import MeasuredCandidate
from trainers.recipes.folder import RecipeFolder


def fallback_of(context: AppContext, promotion: Promotion) -> FallbackSummary | None:
    """Returns the fallback of what is in use, None if it has none or is not in use."""
    fallback = context.store.fallbacks.current(promotion.dataset)
    if fallback is None or promotion.ended_at is not None:
        return None
    return fallback_summary(context, fallback, promotion)


def fallback_summary(context: AppContext, fallback: Fallback, standing: Promotion | None) -> FallbackSummary:
    """Returns a fallback with what is shown of it. `standing` is what it stands in for, None if nothing is in use."""
    measured = _measured_candidate(context, fallback)
    shared = _shared_provider(context, fallback, standing)
    return FallbackSummary(fallback, measured, shared)


def _measured_candidate(context: AppContext, fallback: Fallback) -> MeasuredCandidate | None:
    """Returns the fallback's scores, None if its measurement is gone or can't be read any more."""
    measurement = context.store.measurements.get(fallback.measurement)
    if measurement is None:
        return None
    evaluation = finished_measurements.read_evaluation(measurement)
    if evaluation is None:
        return None
    candidate = promoted_candidate(fallback.what)
    for measured in evaluation.comparison.candidates:
        if measured.identity == candidate:
            return measured
    return None


def fallback_in_use(context: AppContext, promotion: Promotion) -> FallbackInUse | None:
    fallback = context.store.fallbacks.current(promotion.dataset)
    if fallback is None:
        return None
    folder = RecipeFolder(context.settings.recipes)
    published = folder.published(alias_for(promotion.dataset))
    why = publication_views.why_on_fallback(published)
    return FallbackInUse(fallback.what, why)


def fallback_hint(context: AppContext, promotion: Promotion) -> str:
    """Returns how to choose a fallback, "" if there is one or none is needed."""
    candidate = promoted_candidate(promotion.what)
    # Without a model to ask, nothing can be down.
    is_free = candidate is not None and candidate.model is None
    if is_free or promotion.ended_at is not None:
        return ""
    if context.store.fallbacks.current(promotion.dataset) is not None:
        return ""
    return views.hint(promotion.dataset)


def _shared_provider(context: AppContext, fallback: Fallback, standing: Promotion | None) -> str | None:
    """Returns the title of a provider that both ask, None if there is none."""
    candidate = promoted_candidate(fallback.what)
    if standing is None or candidate is None or candidate.model is None:
        return None
    provider, _, _ = candidate.model.partition("/")
    if provider != _provider_in_use(context, standing):
        return None
    return context.settings.title_of(provider)


def _provider_in_use(context: AppContext, standing: Promotion) -> str | None:
    """Returns who is asked by what is in use, None if nobody is."""
    candidate = promoted_candidate(standing.what)
    if candidate is None:
        model = context.store.model(standing.model or "")
        return model.provider if model else None
    if candidate.model is None:
        return None
    provider, _, _ = candidate.model.partition("/")
    return provider
