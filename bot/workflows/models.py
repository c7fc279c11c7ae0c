"""Tuned models by the names that people use, and what they answer to `try`."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from bot.commands import Try
from bot.decisions.planning import plan_from_json
from bot.results import Refusal
from bot.views import freezing
from bot.views import models as views
from bot.views.blocks import Message as Card
from bot.workflows import holding, permits
from bot.workflows.desk import Desk
from storage.records import Ask, Draft, Model
from trainers.chatting import room
from trainers.client import Trainer
from trainers.errors import Refused, TrainerError
from trainers.types import Answer, Message

MAX_TOKENS = 300
PATIENCE_S = 15 * 60


@dataclass(frozen=True)
class Tried:
    """What was asked of which model, and what it answered."""

    ask: Ask
    answer: Answer


def ask(desk: Desk, command: Try, person: str, channel: str) -> Ask | Refusal:
    """Recorded now, answered by a tick."""
    refused = permits.may(desk, person, "try", channel)
    if refused:
        return refused
    model = asked_for(desk, command.model)
    if isinstance(model, Refusal):
        return model
    freeze = holding.on_model(desk, model)
    if freeze:
        return Refusal(freezing.refused(freeze, "No model that costs money is asked now"))
    return desk.store.add_ask(
        person=person, channel=channel, model=model.name, text=command.text, now=desk.clock()
    )


def asked_for(desk: Desk, name: str) -> Model | Refusal:
    """By its name, else the one in use for the dataset of this name."""
    standing = desk.store.promotions.standing(name)
    if standing is None or desk.store.model(name):
        return find(desk, name)
    return find(desk, standing.model)


def find(desk: Desk, name: str) -> Model | Refusal:
    models = desk.store.models()
    found = next((model for model in models if name in (model.name, model.provider_model)), None)
    if found:
        return found
    names = [model.name for model in models]
    if not names:
        return Refusal("There is no tuned model yet: `/finetune start DATASET` makes one.")
    if desk.store.datasets.newest(name):
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


def answer(desk: Desk, ask: Ask) -> None:
    """Ask the model and tell the person; where the trainer is unwell, a later tick tries again."""
    model = find(desk, ask.model)
    if isinstance(model, Refusal):
        _tell(desk, ask, views.failed(ask, model.text))
        return
    if holding.on_model(desk, model):
        _tell(desk, ask, views.failed(ask, "it costs money, and everything new is frozen. Ask again later."))
        return
    trainer = desk.trainers.get(model.provider)
    if trainer is None:
        _tell(desk, ask, views.failed(ask, f"there is no key for {model.provider} where the bot runs."))
        return
    try:
        said = _said(desk, trainer, model, ask.text)
    except Refused as refused:
        _tell(desk, ask, views.failed(ask, str(refused)))
    except TrainerError as trouble:
        if desk.clock() - ask.created_at > PATIENCE_S:
            _tell(desk, ask, views.failed(ask, str(trouble)))
    else:
        _tell(desk, ask, views.answered(Tried(ask, said)))


def _said(desk: Desk, trainer: Trainer, model: Model, text: str) -> Answer:
    row = desk.settings.provider(model.provider)
    thinks = row is not None and row.thinks(model.provider_model)
    most = MAX_TOKENS + room(thinks)
    return trainer.chat(model.provider_model, _messages(desk, model, text), max_tokens=most, thinks=thinks)


def _messages(desk: Desk, model: Model, text: str) -> list[Message]:
    """The instructions that the model was trained with, then the person's text."""
    run = desk.store.runs.get(model.run_id)
    system = plan_from_json(run.plan).system if run else None
    instructions = [Message("system", system)] if system else []
    return [*instructions, Message("user", text)]


def _tell(desk: Desk, ask: Ask, message: Card) -> None:
    with desk.store.transaction():
        if desk.store.answered(ask):
            desk.store.outbox.put(
                Draft(kind="ephemeral", channel=ask.channel, person=ask.person, body=message.body()),
                now=desk.clock(),
            )
