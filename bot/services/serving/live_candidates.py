"""What is tried on live calls, as the door gets it: its recipe, and whether sampled calls are put to it now."""

from __future__ import annotations

from bot.context import AppContext, CoreContext
from bot.rules import units
from bot.services.common import budgets
from bot.services.serving import call_costs, call_samples, recipes
from bot.values.evaluations import promoted_candidate
from bot.values.monitoring import Pause
from bot.values.runs import Refusal
from storage.monitoring.live_tests import LiveTest
from storage.promotions import Promotion
from storage.records import Promotable

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
    if costs_nothing(context, test.what):
        return True
    # Nobody agrees to each of these answers, so a freeze has to stop them here.
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


def costs_nothing(context: CoreContext, what: Promotable) -> bool:
    """True if another answer of it costs nothing: no model is asked, or one on a machine that runs anyway."""
    candidate = promoted_candidate(what)
    if candidate is not None and candidate.model is None:
        return True
    rates = call_costs.rates_of(context, what, units.day_of(context.clock()))
    if rates is None:
        return False
    if rates.usd_per_hour:
        return True
    return not (rates.input or rates.output or rates.usd_per_request)


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
