"""Answers `try`: a person's question to a tuned model or to what is in use for a dataset, sent to its model once.

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
from bot.services.serving import answerers
from bot.services.serving.answerers import Answerer, Prompt
from bot.values.runs import Refusal
from storage.questions import NewAsk, TriedAnswer
from storage.records import Ask, CachedAnswer, Draft
from trainers.money import usd_micros
from trainers.types import Answer

PATIENCE_S = 15 * 60


def ask(context: AppContext, name: str, text: str, person: str, channel: str) -> Ask | Refusal:
    """Records a question and reserves its maximum cost; later ticks answer it. `name` is that of a model, or of a
    dataset, which means what is in use for it."""
    refusal = authorization.refusal(context, person, "try", channel)
    if refusal:
        return refusal
    answerer = answerers.find(context, name, person, channel)
    if isinstance(answerer, Refusal):
        return answerer
    rows = answerers.asked_providers(context, answerer)
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
    detail = ""
    if most:
        detail = f"up to {usd_micros(most)}"
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
    answerer = answerers.answerer_of(context, ask)
    if isinstance(answerer, Refusal):
        # If it was sent, it may have been answered.
        micros = ask.most_micros if ask.sent_at else 0
        _fail(context, ask, answerer.text, micros)
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
    answer = answerers.free_answer(context, answerer, ask)
    if isinstance(answer, Refusal):
        _fail(context, ask, answer.text, 0)
    elif answer is not None:
        note = views.free_note(answerer.what, answer)
        _give(context, ask, answerer, answer.text, note, 0)


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
        card = views.answer_card(ask, text, note)
        _tell(context, ask, card, micros)


def _send(context: AppContext, ask: Ask, answerer: Answerer) -> None:
    # Checked again here, because finetune.toml may have changed since the question was accepted.
    provider = str(answerer.provider)
    rows = answerers.asked_providers(context, answerer)
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
    prompt = answerers.prompt_for(context, answerer, ask)
    if isinstance(prompt, Refusal):
        _fail(context, ask, prompt.text, 0)
    elif prompt is not None:
        # Marked before it is sent: after a kill in between it counts as sent, and what costs money is not sent twice.
        context.store.questions.mark_sent(ask, now=context.clock())
        question = _question(ask, answerer, prompt)
        context.llm.ask(_owner(ask), provider, [question])


def _wait(context: AppContext, ask: Ask, answerer: Answerer) -> None:
    """Handles a question that was sent by this process or by one that has ended since."""
    owner = _owner(ask)
    # Read before the outcomes are collected. A thread declines a question, or stores its answer, before the question
    # stops waiting, so none falls between the two looks and seems lost.
    is_waiting = context.llm.waiting(owner) > 0
    is_overdue = context.clock() - ask.created_at > PATIENCE_S
    outcomes = context.llm.collect(owner)
    declined = outcomes[0] if outcomes else None
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
    prompt = answerers.longest_prompt(context, answerer, text)
    if isinstance(prompt, Refusal):
        return prompt
    sent = 0
    for message in prompt:
        sent += len(message.content.encode()) + TEMPLATE_TOKENS
    return question_micros(answerer.price, sent, answerer.max_tokens)


def _fail(context: AppContext, ask: Ask, why: str, micros: int) -> None:
    """Tells the person why there is no answer. `micros` counts as spent, because the question may have been answered
    all the same."""
    if micros:
        spent = usd_micros(micros)
        why = (
            f"{why} It may have been answered there, so its maximum cost counts as spent ({spent}). It is not sent "
            "again automatically."
        )
    with context.store.transaction():
        _tell(context, ask, views.failure_card(ask, why), micros)


def _tell(context: AppContext, ask: Ask, message: Card, micros: int) -> None:
    # Only once: another tick may have ended the question meanwhile.
    if context.store.questions.end(ask, micros):
        draft = Draft("ephemeral", ask.channel, message.body(), person=ask.person, topic="answers")
        context.send(draft)


def _owner(ask: Ask) -> str:
    return f"ask {ask.id}"
