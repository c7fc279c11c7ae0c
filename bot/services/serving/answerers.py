"""What answers a person's question: a tuned model, or what is in use for a dataset, with the prompt that it is asked
with and what that shows."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bot.cards.models import tried_answers as views
from bot.context import AppContext
from bot.rules.models.promotion import alias_for
from bot.services.common import authorization, candidates
from bot.services.models import models
from bot.services.serving import recipe_worker, recipes
from bot.values.runs import Refusal
from bot.worker_pool import WorkerStopped
from storage.promotions import Promotion
from storage.records import Ask, Model, Promotable
from trainers.models.chat_parameters import thinking_tokens
from trainers.providers.pricing import PriceRow
from trainers.providers.providers import ProviderRow
from trainers.recipes import library, prompts
from trainers.recipes.free import FreeAnswer
from trainers.recipes.library import NOTHING_SHOWN, Shown
from trainers.recipes.values import Recipe
from trainers.types import Message

MAX_TOKENS = 300  # of a tuned model's answer; a recipe has its own

Prompt = tuple[Message, ...]


@dataclass(frozen=True)
class Answerer:
    """What answers as `name`: 'tickets-1', or 'team/tickets' for what is in use without training.

    `provider` and `model` say who is asked, by the provider's name for it; `price` is its price. All three are None for
    free candidates. A tuned model has `instructions`, anything else a `recipe` and the number of its `promotion`.
    `dataset_id` is the version whose waivers cover what is sent.
    """

    name: str
    dataset: str
    dataset_id: int
    max_tokens: int
    what: Promotable
    provider: str | None = None
    model: str | None = None
    price: PriceRow | None = None
    instructions: Prompt = ()
    recipe: Recipe | None = None
    promotion: int | None = None

    @property
    def is_free(self) -> bool:
        """True if no model is asked."""
        return self.provider is None


def find(context: AppContext, name: str, person: str, channel: str) -> Answerer | Refusal:
    """Finds what somebody asks: a model by its name, or by a dataset's name what is in use for it."""
    standing = None
    if context.store.model(name) is None:
        standing = context.store.promotions.current(name)
    if standing is None or not authorization.may_use_dataset(context, name, person, channel):
        return _find_model(context, name, person, channel)
    if standing.model is not None:
        return _find_model(context, standing.model, person, channel)
    refusal = authorization.dataset_refusal(context, name, person, channel)
    return refusal or _of_promotion(context, standing)


def answerer_of(context: AppContext, ask: Ask) -> Answerer | Refusal:
    """Returns what a stored question was put to, or why that can't answer any more."""
    if ask.promotion is None:
        model = context.store.model(ask.model)
        if model is None:
            return Refusal("there is no model of that name any more.")
        return _of_model(context, model)
    promotion = context.store.promotions.get(ask.promotion)
    if promotion is None:
        return Refusal("what was in use then is not known any more.")
    return _of_promotion(context, promotion)


def _find_model(context: AppContext, name: str, person: str, channel: str) -> Answerer | Refusal:
    model = models.find_to_use(context, name, person, channel)
    if isinstance(model, Refusal):
        return model
    return models.machine_refusal(context, model) or _of_model(context, model)


def _of_model(context: AppContext, model: Model) -> Answerer | Refusal:
    price = models.price_of(context, model)
    if isinstance(price, Refusal):
        return price
    plan = models.plan_of(context, model)
    is_thinking = context.settings.thinks(f"{model.provider}/{model.provider_model}")
    return Answerer(
        name=model.name,
        dataset=plan.dataset,
        dataset_id=plan.dataset_id,
        max_tokens=MAX_TOKENS + thinking_tokens(is_thinking),
        what=Promotable(model.name),
        instructions=instructions_of(context, model),
        provider=model.provider,
        model=model.provider_model,
        price=price,
    )


def _of_promotion(context: AppContext, promotion: Promotion) -> Answerer | Refusal:
    try:
        recipe = recipes.folder_of(context).read(promotion.recipe or "")
    except ValueError as error:
        return recipe_worker.unreadable(error)
    if recipe is None:
        return Refusal(views.not_ready(promotion))
    measurement = context.store.measurements.get(promotion.measurement or 0)
    if measurement is None:
        return Refusal("it was never measured here.")
    answerer = Answerer(
        name=alias_for(promotion.dataset),
        dataset=promotion.dataset,
        dataset_id=measurement.dataset_id,
        max_tokens=0,
        what=promotion.what,
        recipe=recipe,
        promotion=promotion.id,
    )
    if recipe.is_free:
        return answerer
    full_name = f"{recipe.provider}/{recipe.model}"
    priced = candidates.find_model(context.settings, tuple(context.trainers), full_name, context.today())
    if isinstance(priced, Refusal):
        return priced
    most = (recipe.max_tokens or prompts.MOST_ANSWER_TOKENS) + thinking_tokens(recipe.is_thinking)
    return replace(
        answerer, max_tokens=most, provider=recipe.provider, model=recipe.model, price=priced.price
    )


def asked_providers(context: AppContext, answerer: Answerer) -> list[ProviderRow | None]:
    """Returns who the question is sent to, nobody for a free candidate."""
    if answerer.provider is None:
        return []
    return [context.settings.provider(answerer.provider)]


def longest_prompt(context: AppContext, answerer: Answerer, text: str) -> Prompt | Refusal:
    """Returns a prompt that is at least as long as the one that is sent with this text."""
    recipe = answerer.recipe
    if recipe is None:
        return (*answerer.instructions, Message("user", text))
    shown = NOTHING_SHOWN
    if recipe.retrieved:
        try:
            shown = library.longest_shown(recipes.folder_of(context), recipe)
        except (OSError, ValueError) as error:
            return recipe_worker.unreadable(error)
    return _written(recipe, text, shown)


def prompt_for(context: AppContext, answerer: Answerer, ask: Ask) -> Prompt | Refusal | None:
    """Returns what is sent; None while a worker looks up what it shows."""
    recipe = answerer.recipe
    if recipe is None:
        return (*answerer.instructions, Message("user", ask.text))
    if not recipe.retrieved:
        return _written(recipe, ask.text, NOTHING_SHOWN)
    try:
        shown = context.workers.poll(
            f"shown with ask {ask.id}", recipe_worker.show, context.settings.recipes, recipe, ask.text
        )
    except WorkerStopped as stopped:
        return Refusal(f"looking up what its prompt shows {stopped}.")
    if shown is None or isinstance(shown, Refusal):
        return shown
    return _written(recipe, ask.text, shown)


def free_answer(context: AppContext, answerer: Answerer, ask: Ask) -> FreeAnswer | Refusal | None:
    """Returns a free candidate's answer; None while a worker reads the question."""
    assert answerer.recipe is not None  # noqa: S101  a tuned model isn't free
    try:
        return context.workers.poll(
            f"answer to ask {ask.id}",
            recipe_worker.answer_free,
            context.settings.recipes,
            answerer.recipe,
            ask.text,
        )
    except WorkerStopped as stopped:
        return Refusal(f"reading the question {stopped}.")


def instructions_of(context: AppContext, model: Model) -> Prompt:
    """Returns the instructions that a model was trained with, which precede the person's text."""
    plan = models.plan_of(context, model)
    return (Message("system", plan.system),) if plan.system else ()


def _written(recipe: Recipe, text: str, shown: Shown) -> Prompt:
    written = prompts.write_prompt(recipe, [{"role": "user", "content": text}], shown)
    return tuple(Message(turn["role"], turn["content"]) for turn in written)
