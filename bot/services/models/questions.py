"""Answers `try`: sends a person's question to a tuned model once, and gives them the answer.

It is sent by the same threads as the questions of measurements, but before them, because a person waits. Its maximum
cost is reserved first. Without a clear answer it counts as spent, and the question is not sent again.
"""

from __future__ import annotations

from bot.cards.common import freeze as freeze_cards
from bot.cards.common.blocks import Message as Card
from bot.cards.models import tried_answers as views
from bot.context import AppContext
from bot.llm_client import TEMPLATE_TOKENS, Question, key_of
from bot.rules import units
from bot.rules.budgets import question_micros
from bot.services.common import authorization, budgets, freeze_scope
from bot.services.datasets import data_policy
from bot.services.models import models
from bot.values.runs import Refusal
from storage.questions import NewAsk, TriedAnswer
from storage.records import Ask, CachedAnswer, Draft, Model
from trainers.models.chat_parameters import thinking_tokens
from trainers.money import usd_micros
from trainers.providers.pricing import PriceRow
from trainers.types import Answer, Message

MAX_TOKENS = 300
PATIENCE_S = 15 * 60


def ask(context: AppContext, name: str, text: str, person: str, channel: str) -> Ask | Refusal:
    """Records a question and reserves its maximum cost; later ticks answer it. `name` is that of a model, or of a
    dataset, which means the model in use for it."""
    refusal = authorization.refusal(context, person, "try", channel)
    if refusal:
        return refusal
    model = models.find_to_use(context, name, person, channel, or_dataset=True)
    if isinstance(model, Refusal):
        return model
    price = models.price_of(context, model)
    if isinstance(price, Refusal):
        return price
    stopped = models.machine_refusal(context, model)
    if stopped:
        return stopped
    plan = models.plan_of(context, model)
    row = context.settings.provider(model.provider)
    refusal = data_policy.typed_text_refusal(context, text, "Your question", plan.dataset_id, [row])
    if refusal:
        return refusal
    most = _max_micros(context, model, price, text)
    freeze = freeze_scope.question_freeze(context, most)
    if freeze:
        return Refusal(freeze_cards.refusal(freeze, "Models that cost money can't be asked now"))
    now = context.clock()
    detail = f"up to {usd_micros(most)}" if most else ""
    new = NewAsk(person, channel, model.name, plan.dataset, text, units.month_of(now), most)
    # The budget is read in the transaction that reserves the cost, so that two questions can't both take the rest.
    with context.store.transaction():
        too_dear = budgets.refusal(context, channel, person, most, "question")
        if too_dear:
            return Refusal(too_dear)
        ask = context.store.questions.add(new, now=now)
        context.audit(person, "try", f"model {model.name}", detail)
    return ask


def step(context: AppContext, ask: Ask) -> None:
    """Takes one step: sends the question once, and on a later tick gives the person the answer."""
    model = context.store.model(ask.model)
    may_be_owed = ask.most_micros if ask.sent_at else 0
    if model is None:
        _fail(context, ask, "there is no model of that name any more.", may_be_owed)
        return
    price = models.price_of(context, model)
    if isinstance(price, Refusal):
        _fail(context, ask, price.text, may_be_owed)
        return
    question = _question(context, model, ask)
    reply = context.store.answers.read([question.key]).get(question.key)
    if reply:
        _pass_on(context, ask, model, price, reply)
    elif not ask.is_priced:
        _fail(context, ask, "the bot was updated before it was sent. Ask again.", 0)
    elif ask.sent_at is None:
        _send(context, ask, model, question)
    else:
        _wait(context, ask, model, question)


def _pass_on(context: AppContext, ask: Ask, model: Model, price: PriceRow, reply: CachedAnswer) -> None:
    """Gives the person the answer, and books what it cost."""
    answer = Answer(reply.text, reply.prompt_tokens, reply.completion_tokens, reply.seconds)
    micros = question_micros(price, answer.prompt_tokens, answer.completion_tokens)
    tried = TriedAnswer(
        id=ask.id,
        dataset=models.plan_of(context, model).dataset,
        model=model.name,
        person=ask.person,
        question=ask.text,
        answer=answer.text,
        at=context.clock(),
    )
    with context.store.transaction():
        context.store.answers.forget(reply.key)
        context.store.tried_answers.add(tried)
        _tell(context, ask, views.answer_card(ask, answer), micros)


def _send(context: AppContext, ask: Ask, model: Model, question: Question) -> None:
    provider = model.provider
    row = context.settings.provider(provider)
    dataset = models.plan_of(context, model).dataset_id
    # Checked again here, because finetune.toml may have changed since the question was accepted.
    refusal = data_policy.typed_text_refusal(context, ask.text, "Your question", dataset, [row])
    if refusal:
        _fail(context, ask, refusal.text, 0)
    elif freeze_scope.question_freeze(context, ask.most_micros):
        _fail(context, ask, "it costs money, and new spending is frozen. Ask again later.", 0)
    elif provider not in context.trainers:
        _fail(context, ask, f"there is no key for {provider} where the bot runs.", 0)
    else:
        # Marked before it is sent: after a kill in between it counts as sent, and what costs money is not sent twice.
        context.store.questions.mark_sent(ask, now=context.clock())
        context.llm.ask(_owner(ask), provider, [question])


def _wait(context: AppContext, ask: Ask, model: Model, question: Question) -> None:
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
        why = context.llm.trouble(model.provider) or "other questions come first."
        _fail(context, ask, f"{why} It was not sent within 15 minutes. Ask again later.", 0)
    elif is_waiting or context.store.answers.read([question.key]):
        context.llm.wake()
    elif ask.most_micros:
        _fail(context, ask, "the bot was stopped in the meantime.", ask.most_micros)
    else:
        _send(context, ask, model, question)


def _question(context: AppContext, model: Model, ask: Ask) -> Question:
    """Builds the question. Its key includes the ask's id, so that its answer is never shared with another question."""
    name = f"{model.provider}/{model.provider_model}"
    messages = messages_for(context, model, ask.text)
    most = _max_tokens(context, model)
    return Question(
        key=key_of(f"ask {ask.id} {name}", messages, most),
        model=name,
        at_provider=model.provider_model,
        messages=messages,
        max_tokens=most,
        is_first=True,
        is_once=ask.most_micros > 0,
    )


def _max_tokens(context: AppContext, model: Model) -> int:
    return MAX_TOKENS + thinking_tokens(context.settings.thinks(f"{model.provider}/{model.provider_model}"))


def messages_for(context: AppContext, model: Model, text: str) -> tuple[Message, ...]:
    """Returns the instructions that the model was trained with, followed by the person's text."""
    plan = models.plan_of(context, model)
    instructions = [Message("system", plan.system)] if plan.system else []
    return (*instructions, Message("user", text))


def _max_micros(context: AppContext, model: Model, price: PriceRow, text: str) -> int:
    """Returns the maximum cost in micro-dollars: a token has at least one byte, and a template adds a few to each
    message."""
    messages = messages_for(context, model, text)
    sent = sum(len(message.content.encode()) + TEMPLATE_TOKENS for message in messages)
    return question_micros(price, sent, _max_tokens(context, model))


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
