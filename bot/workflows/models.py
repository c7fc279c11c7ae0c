"""Tuned models by the names that people use, and what they answer to `try`.

A question is put by the askers as those of measurements are, before them, since a person waits. What it may cost is
reserved before; where no clear answer comes, that counts as spent and nothing is sent a second time.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass

from bot.asking.askers import key_of
from bot.asking.lanes import Question
from bot.commands import Try
from bot.decisions.planning import Plan, plan_from_json
from bot.decisions.spending import question_micros
from bot.results import Refusal
from bot.views import freezing
from bot.views import models as views
from bot.views.blocks import Message as Card
from bot.workflows import holding, leaving, money, permits, sharing, telling
from bot.workflows.desk import Desk
from storage.questions import NewAsk
from storage.records import Ask, Draft, KeptReply, Model
from trainers.chatting import room
from trainers.money import usd_micros
from trainers.pricing import PriceList, PriceRow, tuned_price
from trainers.types import Answer, Message

MAX_TOKENS = 300
TEMPLATE_TOKENS = 16  # that a chat template may put around a message
PATIENCE_S = 15 * 60


@dataclass(frozen=True)
class Tried:
    """What was asked of which model, and what it answered."""

    ask: Ask
    answer: Answer


def ask(desk: Desk, command: Try, person: str, channel: str) -> Ask | Refusal:
    """Recorded now, with the most that it may cost, and answered by later ticks."""
    refused = permits.may(desk, person, "try", channel)
    if refused:
        return refused
    model = asked_for(desk, command.model, sharing.visible(desk, person, channel))
    if isinstance(model, Refusal):
        return model
    price = _price(desk, model)
    if isinstance(price, Refusal):
        return price
    refused = _must_stay(desk, model, command.text)
    if refused:
        return refused
    most = _most(desk, model, price, command.text)
    freeze = holding.on_question(desk, most)
    if freeze:
        return Refusal(freezing.refused(freeze, "No model that costs money is asked now"))
    now = desk.clock()
    with desk.store.transaction():
        too_dear = money.refusal(desk, channel, person, most)
        if too_dear:
            return Refusal(too_dear.replace("This run", "This question"))
        new = NewAsk(
            person, channel, model.name, _plan(desk, model).dataset, command.text, telling.month(now), most
        )
        asked = desk.store.questions.add(new, now=now)
        detail = f"up to {usd_micros(most)}" if most else ""
        desk.store.audit.add(at=now, who=person, action="try", subject=f"model {model.name}", detail=detail)
    return asked


def asked_for(desk: Desk, name: str, known: Collection[str]) -> Model | Refusal:
    """By its name, else the one in use for the dataset of this name, among the datasets `known` to who asks."""
    standing = desk.store.promotions.standing(name) if name in known else None
    if standing is None or desk.store.model(name):
        return find(desk, name, known)
    return find(desk, standing.model, known)


def find(desk: Desk, name: str, known: Collection[str]) -> Model | Refusal:
    """Of the datasets `known` to who asks: others' models are answered as if they didn't exist."""
    models = desk.store.models_of(known)
    found = next((model for model in models if name in (model.name, model.provider_model)), None)
    if found:
        return found
    names = [model.name for model in models]
    if not names:
        return Refusal("There is no tuned model yet: `/finetune start DATASET` makes one.")
    if name in known:
        return Refusal(
            f"`{name}` is a dataset, and no model is in use for it. `/finetune promote MODEL` puts one to work: there "
            "are " + ", ".join(f"`{one}`" for one in names[:10]) + "."
        )
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = (
        f"Did you mean `{near[0]}`?"
        if near
        else "There are " + ", ".join(f"`{one}`" for one in names[:10]) + "."
    )
    return Refusal(f"There is no model of that name. {hint}")


def _must_stay(desk: Desk, model: Model, text: str) -> Refusal | None:
    run, row = desk.store.runs.get(model.run_id), desk.settings.provider(model.provider)
    return leaving.question(desk, text, run.dataset_id, row) if run else None


def step(desk: Desk, ask: Ask) -> None:
    """Hand the question on to be asked, once; at a later tick tell the person what came of it."""
    model = desk.store.model(ask.model)
    may_be_owed = ask.most_micros if ask.sent_at else 0
    if model is None:
        _fail(desk, ask, "there is no model of that name any more.", may_be_owed)
        return
    price = _price(desk, model)
    if isinstance(price, Refusal):
        _fail(desk, ask, price.text, may_be_owed)
        return
    question = _question(desk, model, ask)
    reply = desk.store.replies.found([question.key]).get(question.key)
    if reply:
        _answered(desk, ask, price, reply)
    elif not ask.is_priced:
        _fail(desk, ask, "the bot was updated before it was asked. Ask again.", 0)
    elif ask.sent_at is None:
        _send(desk, ask, question)
    else:
        _wait(desk, ask, question)


def _send(desk: Desk, ask: Ask, question: Question) -> None:
    provider = question.model.partition("/")[0]
    if holding.on_question(desk, ask.most_micros):
        _fail(desk, ask, "it costs money, and everything new is frozen. Ask again later.", 0)
    elif provider not in desk.trainers:
        _fail(desk, ask, f"there is no key for {provider} where the bot runs.", 0)
    else:
        desk.store.questions.sent(ask, now=desk.clock())
        desk.askers.ask(_owner(ask), provider, [question])


def _wait(desk: Desk, ask: Ask, question: Question) -> None:
    """It was handed on: to this process, else to one that has ended since."""
    owner, is_waiting = _owner(ask), desk.askers.waiting(_owner(ask)) > 0
    declined = next(iter(desk.askers.collect(owner)), None)
    if declined:
        _fail(desk, ask, declined.why, ask.most_micros if declined.is_unclear else 0)
    elif is_waiting and desk.clock() - ask.created_at > PATIENCE_S and not desk.askers.drop(owner):
        why = desk.askers.trouble(question.model.partition("/")[0]) or "others are asked before it."
        _fail(desk, ask, f"{why} It was not asked within 15 minutes. Ask again later.", 0)
    elif is_waiting or desk.store.replies.found([question.key]):
        desk.askers.wake()
    elif ask.most_micros:
        _fail(desk, ask, "the bot was stopped meanwhile.", ask.most_micros)
    else:
        _send(desk, ask, question)


def _question(desk: Desk, model: Model, ask: Ask) -> Question:
    """Its key is its own: what another asked, or what was asked before, answers nobody else."""
    name, messages = f"{model.provider}/{model.provider_model}", _messages(desk, model, ask.text)
    most = _cap(desk, model)
    key = key_of(f"ask {ask.id} {name}", messages, most)
    return Question(
        key, name, model.provider_model, messages, most, is_first=True, is_once=ask.most_micros > 0
    )


def _cap(desk: Desk, model: Model) -> int:
    row = desk.settings.provider(model.provider)
    return MAX_TOKENS + room(row is not None and row.thinks(model.provider_model))


def _messages(desk: Desk, model: Model, text: str) -> tuple[Message, ...]:
    """The instructions that the model was trained with, then the person's text."""
    plan = _plan(desk, model)
    instructions = [Message("system", plan.system)] if plan.system else []
    return (*instructions, Message("user", text))


def _plan(desk: Desk, model: Model) -> Plan:
    run = desk.store.runs.get(model.run_id)
    if run is None:
        raise ValueError(f"{model.name} is of no run")
    return plan_from_json(run.plan)


def _most(desk: Desk, model: Model, price: PriceRow, text: str) -> int:
    """A token is a byte at least, and a template adds a few to each message."""
    messages = _messages(desk, model, text)
    sent = sum(len(one.content.encode()) + TEMPLATE_TOKENS for one in messages)
    return question_micros(price, sent, _cap(desk, model))


def _price(desk: Desk, model: Model) -> PriceRow | Refusal:
    """As the provider's row says it now; where that is gone, as the plan had it."""
    plan, row = _plan(desk, model), desk.settings.provider(model.provider)
    base = row.model(plan.base_model) if row else None
    price = tuned_price(row, base) if row and base else PriceList.from_json(plan.prices).rows[0]
    if price.usd_per_hour is None and None in (price.price.input, price.price.output):
        return Refusal(
            f"What a question to {model.name} costs is not known: whoever runs the bot sets `input` and `output` of "
            f"{plan.base_model} under [providers.{model.provider}.models] in finetune.toml."
        )
    return price


def _answered(desk: Desk, ask: Ask, price: PriceRow, reply: KeptReply) -> None:
    said = Answer(reply.text, reply.prompt_tokens, reply.completion_tokens, reply.seconds)
    micros = question_micros(price, said.prompt_tokens, said.completion_tokens)
    with desk.store.transaction():
        desk.store.replies.forget(reply.key)
        _tell(desk, ask, views.answered(Tried(ask, said)), micros)


def _fail(desk: Desk, ask: Ask, why: str, micros: int) -> None:
    """`micros`: what counts as spent, since it may have been asked and answered all the same."""
    if micros:
        why = (
            f"{why} Whether it was answered there is not known, so the most that it can have cost counts as spent "
            f"({usd_micros(micros)}). It is not asked a second time by itself."
        )
    with desk.store.transaction():
        _tell(desk, ask, views.failed(ask, why), micros)


def _tell(desk: Desk, ask: Ask, message: Card, micros: int) -> None:
    if desk.store.questions.end(ask, micros):
        desk.store.outbox.put(
            Draft(kind="ephemeral", channel=ask.channel, person=ask.person, body=message.body()),
            now=desk.clock(),
        )


def _owner(ask: Ask) -> str:
    return f"ask {ask.id}"
