"""Publishes what programs get under team/NAME in the folder that the door reads: the recipe in use, or a sentence that
says why nothing answers.

What is published follows from the database at each tick, so that a kill at any line loses nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date
from urllib.parse import urlsplit

from bot.cards.models import publications as views
from bot.context import CoreContext
from bot.rules import units
from bot.rules.models.promotion import alias_for
from bot.services.models import models, sunsets
from bot.services.serving import call_samples, live_candidates, recipes
from bot.settings import Settings
from storage.deployments import DeploymentRecord
from storage.monitoring.live_tests import LiveTest
from storage.promotions import Fallback, Promotion
from trainers.providers.providers import ProviderRow
from trainers.recipes.folder import KEY_FILE, RecipeFolder
from trainers.recipes.values import Published, PublishedTest, Unavailable, Upstream, Upstreams

OPENAI = "api.openai.com"


def publish_upstreams(settings: Settings) -> None:
    """Writes where each provider is called and where its key is. Our own trainer has another address after each start:
    where `settings` lack it, as in a process of its own, the one that was written last stays."""
    folder = RecipeFolder(settings.recipes)
    before = {upstream.name: upstream for upstream in folder.upstreams().upstreams}
    upstreams = []
    for row in settings.providers:
        upstream = before.get(row.name)
        if row.provider.base_url:
            upstream = upstream_of(settings, row)
        if upstream is not None:
            upstreams.append(upstream)
    folder.publish_upstreams(Upstreams(tuple(upstreams)))


def sync(context: CoreContext) -> None:
    """Publishes whatever has changed, but for the ends of models, which `sync_ends` follows."""
    current = context.store.promotions.all_current()
    out_of_use = context.store.promotions.out_of_use()
    _withdraw_unknown(context, [*current, *out_of_use])
    for promotion in current:
        if promotion.recipe is None:
            continue
        # After a backup was restored on another machine, its files have to be made again.
        if not recipes.folder_of(context).recipe_path(promotion.recipe).exists():
            context.store.promotions.forget_recipe(promotion)
            continue
        _publish_changed(context, _published(context, promotion, None), keeps_end=True)
    for promotion in out_of_use:
        unavailable = Published(alias_for(promotion.dataset), unavailable=views.out_of_use(promotion))
        _publish_changed(context, unavailable)


def sync_ends(context: CoreContext) -> None:
    """Has programs read that the model in use has ended, or has it asked again if its provider took that back."""
    ends = _ends_in_use(context)
    for promotion in context.store.promotions.all_current():
        if promotion.recipe is None:
            continue
        published = _published(context, promotion, ends.get(promotion.dataset))
        _publish_changed(context, published)


def publish(context: CoreContext, promotion: Promotion) -> None:
    """Publishes a promotion whose recipe is stored."""
    _publish_changed(context, _published(context, promotion, None))


def _withdraw_unknown(context: CoreContext, promotions: Sequence[Promotion]) -> None:
    """Withdraws the names for which nothing was ever in use, by a database that was restored from before."""
    folder = recipes.folder_of(context)
    in_database = {alias_for(promotion.dataset) for promotion in promotions}
    for name in folder.published_names() - in_database:
        folder.withdraw(name)


def _publish_changed(context: CoreContext, published: Published, *, keeps_end: bool = False) -> None:
    folder = recipes.folder_of(context)
    before = folder.published(published.name)
    if keeps_end and before is not None:
        # `sync` doesn't know when models end, so it must not take back what `sync_ends` has published.
        is_same = before.promotion == published.promotion
        if is_same and _says_ended(before):
            published = replace(published, unavailable=before.unavailable)
    if before != published:
        folder.publish(published)


def _says_ended(published: Published) -> bool:
    return published.unavailable is not None and published.unavailable.code == views.MODEL_ENDED


def _published(context: CoreContext, promotion: Promotion, ends: date | None) -> Published:
    published = Published(
        name=alias_for(promotion.dataset),
        recipe=promotion.recipe,
        promotion=promotion.id,
        model=_name_on_machine(context, promotion.model),
        provider=_served_elsewhere(context, promotion.model),
        unavailable=_why_unavailable(context, promotion, ends),
        sampling=call_samples.sampling_of(context, promotion.dataset),
    )
    fallback = _fallback(context, promotion.dataset)
    if fallback is not None:
        published = replace(published, fallback=fallback.recipe, fallback_after_s=fallback.after_s)
    test = live_candidates.current_with_recipe(context, promotion)
    if test is not None:
        published = replace(published, live_test=_published_test(context, test))
    return published


def _published_test(context: CoreContext, test: LiveTest) -> PublishedTest:
    return PublishedTest(
        number=test.id,
        recipe=str(test.recipe),
        slow_s=context.settings.policy.watch.slow_s,
        model=_name_on_machine(context, test.model),
        provider=_served_elsewhere(context, test.model),
        asks_sampled=live_candidates.asks_sampled(context, test),
        share=test.canary,
    )


def _fallback(context: CoreContext, dataset: str) -> Fallback | None:
    """Returns what stands in for what is in use, None if nothing does or its recipe is not built yet."""
    fallback = context.store.fallbacks.current(dataset)
    if fallback is None or fallback.recipe is None:
        return None
    if not recipes.folder_of(context).recipe_path(fallback.recipe).exists():
        context.store.fallbacks.forget_recipe(fallback)
        return None
    return fallback


def _why_unavailable(context: CoreContext, promotion: Promotion, ends: date | None) -> Unavailable | None:
    settings = context.settings
    model = context.store.model(promotion.model or "")
    # Somebody who put it to work although its provider didn't list it knew better.
    if model is not None and model.gone_at is not None and model.gone_at > promotion.at:
        return views.model_gone(promotion, settings.title_of(model.provider))
    if ends is not None and ends <= units.day_of(context.clock()):
        title = _title_of_provider(context, promotion)
        return views.model_ended(promotion, title, ends)
    machine = _newest_machine(context, promotion.model)
    if machine is not None and machine.state != "ready":
        return views.machine_stopped(promotion, settings.title_of(machine.provider))
    return None


def _title_of_provider(context: CoreContext, promotion: Promotion) -> str:
    recipe = recipes.folder_of(context).read(promotion.recipe or "")
    if recipe is None or recipe.provider is None:
        return "its provider"
    return context.settings.title_of(recipe.provider)


def _name_on_machine(context: CoreContext, tuned: str | None) -> str | None:
    """Returns the name by which a deployed model is called now; None if it needs no deployment, or has none that
    answers."""
    machine = _newest_machine(context, tuned)
    if machine is None or machine.state != "ready":
        return None
    return machine.chat_model


def _served_elsewhere(context: CoreContext, tuned: str | None) -> str | None:
    """Returns who serves a tuned model now, if that isn't its trainer."""
    model = context.store.model(tuned or "")
    deployed = _newest_machine(context, tuned)
    if model is None or deployed is None or deployed.state != "ready":
        return None
    if deployed.provider == model.provider:
        return None
    return deployed.provider


def _newest_machine(context: CoreContext, tuned: str | None) -> DeploymentRecord | None:
    """Returns None if the model needs no deployment."""
    model = context.store.model(tuned or "")
    if model is None:
        return None
    return models.deployment_of(context, model)


def _ends_in_use(context: CoreContext) -> Mapping[str, date]:
    """Returns the first day without an answer of each model in use that ends, by dataset."""
    today = units.day_of(context.clock())
    ends = {}
    for use in sunsets.list_uses(context.store, context.settings, today):
        if use.kind == "in use" and use.ends:
            ends[use.dataset] = use.ends
    return ends


def upstream_of(settings: Settings, row: ProviderRow) -> Upstream:
    """Returns where a provider is called, and where its key is."""
    provider = row.provider
    extra = ""
    if provider.chat_extra:
        extra = json.dumps(dict(provider.chat_extra))
    # Our own trainer, by what only it can do, and OpenAI.
    is_ours = provider.can("aliases")
    is_openai = urlsplit(provider.base_url).hostname == OPENAI
    upstream = Upstream(
        row.name,
        provider.chat_base_url or provider.base_url,
        chat_extra=extra,
        has_responses=is_ours or is_openai,
        headers=tuple(provider.headers.items()),
    )
    if row.is_started_by_us:
        # The trainer's key for programs, which can do nothing but ask.
        key_file = (settings.data / "trainer" / KEY_FILE).resolve()
        return replace(upstream, key_file=str(key_file))
    return replace(upstream, key_variable=provider.key_env)
