"""Answers `try`: a person's question to a tuned model or to what is in use for a dataset, sent to its model once.

It is sent by the same threads as the questions of measurements, but before them, because a person waits. Its maximum
cost is reserved first. Without a clear answer it counts as spent, and the question is not sent again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from bot.cards.common import freeze as freeze_cards
from bot.cards.common.blocks import Message as Card
from bot.cards.models import tried_answers as views
from bot.context import AppContext
from bot.llm_client import TEMPLATE_TOKENS, Question, key_of
from bot.rules import units
from bot.rules.budgets import question_micros
from bot.rules.models.promotion import alias_for
from bot.services.common import authorization, budgets, candidates, freeze_scope
from bot.services.datasets import data_policy
from bot.services.models import models, recipe_worker, recipes
from bot.values.runs import Refusal
from bot.worker_pool import WorkerStopped
from storage.promotions import Promotion
from storage.questions import NewAsk, TriedAnswer
from storage.records import Ask, CachedAnswer, Draft, Model, Promotable
from trainers.models.chat_parameters import thinking_tokens
from trainers.money import usd_micros
from trainers.providers.pricing import PriceRow
from trainers.providers.providers import ProviderRow
from trainers.recipes import library, prompts
from trainers.recipes.free import FreeAnswer
from trainers.recipes.library import NOTHING_SHOWN, Shown
from trainers.recipes.values import Recipe
from trainers.types import Answer, Message

MAX_TOKENS = 300  # of a tuned model's answer; a recipe has its own
PATIENCE_S = 15 * 60

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


def ask(context: AppContext, name: str, text: str, person: str, channel: str) -> Ask | Refusal:
    """Records a question and reserves its maximum cost; later ticks answer it. `name` is that of a model, or of a
    dataset, which means what is in use for it."""
    refusal = authorization.refusal(context, person, "try", channel)
    if refusal:
        return refusal
    answerer = _find(context, name, person, channel)
    if isinstance(answerer, Refusal):
        return answerer
    rows = _asked_providers(context, answerer)
    refusal = data_policy.typed_text_refusal(context, text, "Your question", answerer.dataset_id, rows)
    if refusal:
        return refusal
    most = _max_micros(context, answerer, text)
    if isinstance(most, Refusal):
        return most
    freeze = freeze_scope.question_freeze(context, most)
    if freeze:
        return Refusal(freeze_cards.refusal(freeze, "Models that cost money can't be asked now"))
    now = context.clock()
    detail = f"up to {usd_micros(most)}" if most else ""
    new = NewAsk(
        person=person,
        channel=channel,
        model=answerer.name,
        dataset=answerer.dataset,
        text=text,
        month=units.month_of(now),
        most_micros=most,
        promotion=answerer.promotion,
    )
    # The budget is read in the transaction that reserves the cost, so that two questions can't both take the rest.
    with context.store.transaction():
        too_dear = budgets.refusal(context, channel, person, most, "question")
        if too_dear:
            return Refusal(too_dear)
        ask = context.store.questions.add(new, now=now)
        context.audit(person, "try", f"model {answerer.name}", detail)
    return ask


def step(context: AppContext, ask: Ask) -> None:
    """Takes one step: sends the question once, and on a later tick gives the person the answer."""
    answerer = _answerer_of(context, ask)
    if isinstance(answerer, Refusal):
        _fail(context, ask, answerer.text, ask.most_micros if ask.sent_at else 0)
        return
    if answerer.is_free:
        _answer_free(context, ask, answerer)
        return
    key = _key(ask, answerer)
    reply = context.store.answers.read([key]).get(key)
    if reply:
        _pass_on(context, ask, answerer, reply)
    elif not ask.is_priced:
        _fail(context, ask, "the bot was updated before it was sent. Ask again.", 0)
    elif ask.sent_at is None:
        _send(context, ask, answerer)
    else:
        _wait(context, ask, answerer)


def _answer_free(context: AppContext, ask: Ask, answerer: Answerer) -> None:
    answer = _free_answer(context, answerer, ask)
    if isinstance(answer, Refusal):
        _fail(context, ask, answer.text, 0)
    elif answer is not None:
        _give(context, ask, answerer, answer.text, views.free_note(answerer.what, answer), 0)


def _pass_on(context: AppContext, ask: Ask, answerer: Answerer, reply: CachedAnswer) -> None:
    """Gives the person the answer, and books what it cost."""
    assert answerer.price is not None  # noqa: S101  only free candidates have none
    answer = Answer(reply.text, reply.prompt_tokens, reply.completion_tokens, reply.seconds)
    micros = question_micros(answerer.price, answer.prompt_tokens, answer.completion_tokens)
    note = views.answer_note(answerer.what, answer)
    with context.store.transaction():
        context.store.answers.forget(reply.key)
        _give(context, ask, answerer, answer.text, note, micros)


def _give(context: AppContext, ask: Ask, answerer: Answerer, text: str, note: str, micros: int) -> None:
    """Stores the answer for the person's verdict, and sends it to them."""
    tried = TriedAnswer(
        id=ask.id,
        dataset=answerer.dataset,
        model=answerer.name,
        person=ask.person,
        question=ask.text,
        answer=text,
        at=context.clock(),
    )
    with context.store.transaction():
        context.store.tried_answers.add(tried)
        _tell(context, ask, views.answer_card(ask, text, note), micros)


def _send(context: AppContext, ask: Ask, answerer: Answerer) -> None:
    # Checked again here, because finetune.toml may have changed since the question was accepted.
    provider = str(answerer.provider)
    rows = _asked_providers(context, answerer)
    refusal = data_policy.typed_text_refusal(context, ask.text, "Your question", answerer.dataset_id, rows)
    if refusal:
        _fail(context, ask, refusal.text, 0)
        return
    if freeze_scope.question_freeze(context, ask.most_micros):
        _fail(context, ask, "it costs money, and new spending is frozen. Ask again later.", 0)
        return
    if provider not in context.trainers:
        _fail(context, ask, f"there is no key for {provider} where the bot runs.", 0)
        return
    prompt = _prompt_for(context, answerer, ask)
    if isinstance(prompt, Refusal):
        _fail(context, ask, prompt.text, 0)
    elif prompt is not None:
        # Marked before it is sent: after a kill in between it counts as sent, and what costs money is not sent twice.
        context.store.questions.mark_sent(ask, now=context.clock())
        context.llm.ask(_owner(ask), provider, [_question(ask, answerer, prompt)])


def _wait(context: AppContext, ask: Ask, answerer: Answerer) -> None:
    """Handles a question that was sent by this process or by one that has ended since."""
    owner = _owner(ask)
    # Read before the outcomes are collected. A thread declines a question, or stores its answer, before the question
    # stops waiting, so none falls between the two looks and seems lost.
    is_waiting = context.llm.waiting(owner) > 0
    is_overdue = context.clock() - ask.created_at > PATIENCE_S
    declined = next(iter(context.llm.collect(owner)), None)
    if declined:
        micros = ask.most_micros if declined.is_unclear else 0
        _fail(context, ask, declined.why, micros)
    elif is_waiting and is_overdue and not context.llm.drop(owner):
        why = context.llm.trouble(str(answerer.provider)) or "other questions come first."
        _fail(context, ask, f"{why} It was not sent within 15 minutes. Ask again later.", 0)
    elif is_waiting or context.store.answers.read([_key(ask, answerer)]):
        context.llm.wake()
    elif ask.most_micros:
        _fail(context, ask, "the bot was stopped in the meantime.", ask.most_micros)
    else:
        _send(context, ask, answerer)


def _asked_providers(context: AppContext, answerer: Answerer) -> list[ProviderRow | None]:
    """Returns who the question is sent to, nobody for a free candidate."""
    if answerer.provider is None:
        return []
    return [context.settings.provider(answerer.provider)]


def _key(ask: Ask, answerer: Answerer) -> str:
    """Returns the name of the stored answer. It includes the ask's id, so that no other question shares the answer."""
    return key_of(f"ask {ask.id} {answerer.provider}/{answerer.model}", (), answerer.max_tokens)


def _question(ask: Ask, answerer: Answerer, prompt: Prompt) -> Question:
    return Question(
        key=_key(ask, answerer),
        model=f"{answerer.provider}/{answerer.model}",
        at_provider=str(answerer.model),
        messages=prompt,
        max_tokens=answerer.max_tokens,
        is_first=True,
        is_once=ask.most_micros > 0,
    )


def _max_micros(context: AppContext, answerer: Answerer, text: str) -> int | Refusal:
    """Returns the maximum cost in micro-dollars: a token has at least one byte, and a template adds a few to each
    message."""
    if answerer.price is None:
        return 0
    prompt = _longest_prompt(context, answerer, text)
    if isinstance(prompt, Refusal):
        return prompt
    sent = sum(len(message.content.encode()) + TEMPLATE_TOKENS for message in prompt)
    return question_micros(answerer.price, sent, answerer.max_tokens)


def _fail(context: AppContext, ask: Ask, why: str, micros: int) -> None:
    """Tells the person why there is no answer. `micros` counts as spent, because the question may have been answered
    all the same."""
    if micros:
        why = (
            f"{why} It may have been answered there, so its maximum cost counts as spent ({usd_micros(micros)}). It "
            "is not sent again automatically."
        )
    with context.store.transaction():
        _tell(context, ask, views.failure_card(ask, why), micros)


def _tell(context: AppContext, ask: Ask, message: Card, micros: int) -> None:
    if context.store.questions.end(ask, micros):
        context.send(Draft("ephemeral", ask.channel, message.body(), person=ask.person))


def _owner(ask: Ask) -> str:
    return f"ask {ask.id}"


def _find(context: AppContext, name: str, person: str, channel: str) -> Answerer | Refusal:
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


def _answerer_of(context: AppContext, ask: Ask) -> Answerer | Refusal:
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


def _longest_prompt(context: AppContext, answerer: Answerer, text: str) -> Prompt | Refusal:
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


def _prompt_for(context: AppContext, answerer: Answerer, ask: Ask) -> Prompt | Refusal | None:
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


def _free_answer(context: AppContext, answerer: Answerer, ask: Ask) -> FreeAnswer | Refusal | None:
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
