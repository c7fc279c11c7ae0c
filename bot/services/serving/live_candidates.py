"""What is tried on live calls, as the door gets it: its recipe, and whether sampled calls are put to it now."""

from __future__ import annotations

from bot.context import AppContext, CoreContext
from bot.services.common import budgets
from bot.services.serving import call_samples, recipes
from bot.values.evaluations import promoted_candidate
from bot.values.monitoring import Pause
from bot.values.runs import Refusal
from storage.monitoring.live_tests import LiveTest
from storage.promotions import Promotion

AGAIN_S = 600.0


def current_with_recipe(context: CoreContext, promotion: Promotion) -> LiveTest | None:
    """Returns the live test against what is in use, None if there is none or its recipe is not built yet."""
    test = context.store.live_tests.current(promotion.dataset)
    if test is None or test.recipe is None or test.promotion != promotion.id:
        return None
    if not recipes.folder_of(context).recipe_path(test.recipe).exists():
        context.store.live_tests.forget_recipe(test)
        return None
    return test


def asks_sampled(context: CoreContext, test: LiveTest) -> bool:
    """True if sampled calls are put to it now: as long as calls are sampled and, unless its answers are free, the money
    for this month lasts."""
    if not test.is_shadow or call_samples.sampling_of(context, test.dataset) is None:
        return False
    if is_free(test):
        return True
    if context.store.freezes.current() is not None:
        return False
    budget = budgets.tightest(context, test.channel, test.person)
    return min(budgets.left_for_watching(context), budget.left_micros) > 0


def pause_of(context: CoreContext, test: LiveTest) -> Pause | None:
    """Returns why no sampled call is put to it now, None if they are, or never should be."""
    if test.recipe is None:
        return "no_recipe"
    if not test.is_shadow or asks_sampled(context, test):
        return None
    if call_samples.sampling_of(context, test.dataset) is None:
        return "no_sample"
    return "no_money"


def is_free(test: LiveTest) -> bool:
    candidate = promoted_candidate(test.what)
    return candidate is not None and candidate.model is None


def build_step(context: AppContext, test: LiveTest) -> None:
    """Builds the recipe of what is tried; publications.py publishes it at each tick."""
    recipe = recipes.recipe_of_live_test(context, test)
    if recipe is None:
        return
    if isinstance(recipe, Refusal):
        context.store.live_tests.postpone(test, context.clock() + AGAIN_S, recipe.text)
        return
    context.store.live_tests.set_recipe(test, recipe)


def handle_build_failure(context: CoreContext, test: LiveTest) -> None:
    context.store.live_tests.postpone(test, context.clock() + AGAIN_S, "something went wrong in the bot.")
