"""Has a model read a question in plain words and name the command that answers it, if [assistant] in finetune.toml
names one. What it names is checked, and run if it only reads, where the commands are (`context.commands`).

The model gets the commands, the question, and names that belong to the channel where it was asked; never a row. Its
maximum cost is reserved first. Without a clear answer it counts as spent, the question is not sent again, and the words
of the question decide what is offered.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bot.cards import plain_questions as views
from bot.cards.common import freeze as freeze_cards
from bot.cards.common.blocks import Message as Card
from bot.context import AppContext, ReadQuestion
from bot.llm_client import TEMPLATE_TOKENS, Question, key_of
from bot.questions.model_prompt import (
    LONGEST_ANSWER,
    MOST_DATASETS,
    MOST_RUNS,
    Names,
    write_prompt,
)
from bot.questions.nearest import names_in
from bot.rules import units
from bot.rules.budgets import question_micros
from bot.services.common import authorization, budgets, candidates, freeze_scope, messages
from bot.services.datasets import data_policy
from bot.values.runs import Refusal
from bot.values.targets import PricedModel
from storage.questions import NewPlainQuestion, PlainQuestion
from storage.records import CachedAnswer
from trainers.models.chat_parameters import thinking_tokens
from trainers.money import to_micros
from trainers.providers.providers import ProviderRow
from trainers.types import Message

PATIENCE_S = 45.0
# Names may be added between the reservation and the sending, a second later.
SPARE_TOKENS = 1000


@dataclass(frozen=True)
class PlainWords:
    """A question as somebody asked it; the fields are those of storage.questions.NewPlainQuestion."""

    delivery: str
    text: str
    person: str
    channel: str
    thread: str | None = None
    is_direct: bool = False
    mentioned: tuple[str, ...] = ()


def ask(context: AppContext, words: PlainWords) -> Refusal | None:
    """Records a question and reserves its maximum cost; later ticks answer it. Returns why no model reads it, None if
    one does or already did."""
    if context.store.plain_questions.has(words.delivery):
        return None
    refusal = authorization.refusal(context, words.person, "read", words.channel)
    if refusal:
        return refusal
    model = _find_model(context, context.settings.assistant.model)
    if isinstance(model, Refusal):
        return model
    refusal = egress_refusal(context, words.text, words.person, words.channel, model.row)
    if refusal:
        return refusal
    prompt = _prompt(context, words.text, words.channel, model.row)
    most = _max_micros(model, prompt, spare=SPARE_TOKENS)
    freeze = freeze_scope.question_freeze(context, most)
    if freeze:
        return Refusal(freeze_cards.refusal(freeze, "A model that costs money can't read your question now"))
    return _reserve(context, words, model, most)


def _reserve(context: AppContext, words: PlainWords, model: PricedModel, most: int) -> Refusal | None:
    now = context.clock()
    new = NewPlainQuestion(
        delivery=words.delivery,
        person=words.person,
        channel=words.channel,
        thread=words.thread,
        is_direct=words.is_direct,
        mentioned=" ".join(words.mentioned),
        model=model.name,
        text=words.text,
        month=units.month_of(now),
        day=units.day_of(now).isoformat(),
        reserved_micros=most,
    )
    # The budgets are read in the transaction that reserves the cost, so that two questions can't both take the rest.
    with context.store.transaction():
        refusal = _cap_refusal(context, new)
        if refusal:
            return refusal
        too_dear = budgets.refusal(context, words.channel, words.person, most, "question")
        if too_dear:
            return Refusal(too_dear)
        if context.store.plain_questions.add(new, now=now):
            context.audit(words.person, "ask in words", f"model {model.name}", views.most_text(most))
    return None


def _cap_refusal(context: AppContext, new: NewPlainQuestion) -> Refusal | None:
    """The cap of a day is the whole installation's. What costs nothing fits into any."""
    cap = to_micros(context.settings.assistant.daily_usd)
    spent = context.store.plain_questions.committed(new.month, new.day)
    if new.reserved_micros == 0 or spent + new.reserved_micros <= cap:
        return None
    return Refusal(views.cap_reached(cap))


def is_waiting(context: AppContext, delivery: str) -> bool:
    """True if a model reads the question of this delivery now."""
    return any(question.delivery == delivery for question in context.store.plain_questions.waiting())


def step(context: AppContext, question: PlainQuestion) -> None:
    """Takes one step: sends the question once, and on a later tick gives the person the answer."""
    key = _key(question)
    reply = context.store.answers.read([key]).get(key)
    if reply:
        _pass_on(context, question, reply)
    elif question.sent_at is None:
        _send(context, question)
    else:
        _wait(context, question)


def handle_step_failure(context: AppContext, question: PlainQuestion) -> None:
    """Gives up a question whose step failed, so that the fault doesn't repeat at each tick."""
    _fail(context, question, views.BOT_FAILED, _spent(question))


def judge(context: AppContext, number: int, person: str, *, is_right: bool) -> str | Refusal:
    """Records whether the person who asked found the answer right."""
    question = context.store.plain_questions.get(number)
    if question is None or question.person != person:
        return Refusal("Only the person who asked can say whether the answer was right.")
    context.store.plain_questions.judge(question, is_right=is_right)
    return views.verdict_noted(context.store.plain_questions.counts(question.model), question.model)


def egress_refusal(
    context: AppContext, text: str, person: str, channel: str, row: ProviderRow
) -> Refusal | None:
    """Returns why the question may not be sent to this provider, None if it may."""
    refusal = data_policy.question_refusal(context, text, channel, row)
    if refusal:
        return refusal
    visible = authorization.visible_datasets(context, person, channel)
    for name in names_in(text, sorted(visible)):
        if not data_policy.may_name(context, name, row):
            return Refusal(views.names_withheld(name, row.title))
    return None


def _send(context: AppContext, question: PlainQuestion) -> None:
    # Checked again here, because finetune.toml may have changed since the question was accepted.
    model = _find_model(context, question.model)
    if isinstance(model, Refusal):
        _fail(context, question, model.text, 0)
        return
    refusal = egress_refusal(context, question.text, question.person, question.channel, model.row)
    if refusal:
        _fail(context, question, refusal.text, 0)
        return
    if freeze_scope.question_freeze(context, question.reserved_micros):
        _fail(context, question, views.FROZEN, 0)
        return
    prompt = _prompt(context, question.text, question.channel, model.row)
    if _max_micros(model, prompt) > question.reserved_micros:
        _fail(context, question, views.DEARER, 0)
        return
    # Marked before it is sent: after a kill in between it counts as sent, and is not sent twice.
    context.store.plain_questions.mark_sent(question, now=context.clock())
    sent = Question(
        key=_key(question),
        model=model.name,
        at_provider=model.name.partition("/")[2],
        messages=prompt,
        max_tokens=_max_tokens(model),
        is_first=True,
        is_once=True,
    )
    context.llm.ask(_owner(question), model.row.name, [sent])


def _wait(context: AppContext, question: PlainQuestion) -> None:
    """Handles a question that was sent by this process or by one that has ended since."""
    owner = _owner(question)
    # Read before the outcomes are collected, as in serving/questions.py.
    is_under_way = context.llm.waiting(owner) > 0
    is_overdue = context.clock() - question.at > PATIENCE_S
    declined = next(iter(context.llm.collect(owner)), None)
    if declined:
        micros = _spent(question) if declined.is_unclear else 0
        _fail(context, question, views.failed(question.model, declined.why), micros)
    elif is_under_way and is_overdue:
        is_sent = bool(context.llm.drop(owner))
        micros = _spent(question) if is_sent else 0
        _fail(context, question, views.too_slow(question.model, PATIENCE_S), micros)
    elif is_under_way or context.store.answers.read([_key(question)]):
        context.llm.wake()
    else:
        _fail(context, question, views.INTERRUPTED, _spent(question))


def _pass_on(context: AppContext, question: PlainQuestion, reply: CachedAnswer) -> None:
    """Gives the person the answer, and books what it cost. What reads is run before the transaction, which must not
    wait for Slack."""
    read = context.commands.read(context, question, reply.text)
    model = _find_model(context, question.model)
    micros = _spent(question)
    if isinstance(model, PricedModel):
        micros = question_micros(model.price, reply.prompt_tokens, reply.completion_tokens)
    with context.store.transaction():
        context.store.answers.forget(reply.key)
        _tell(context, question, read, micros)


def _fail(context: AppContext, question: PlainQuestion, why: str, micros: int) -> None:
    """Offers what the words are nearest to. `micros` counts as spent, because the question may have been answered all
    the same."""
    card = context.commands.by_words(context, question, why)
    with context.store.transaction():
        _tell(context, question, ReadQuestion("by_words", (card,)), micros)


def _tell(context: AppContext, question: PlainQuestion, read: ReadQuestion, micros: int) -> None:
    if not context.store.plain_questions.end(question, read.outcome, micros):
        return
    for number, message in enumerate(read.messages):
        _put(context, question, message, f"{_owner(question)} {number}")


def _put(context: AppContext, question: PlainQuestion, message: Card, once: str) -> None:
    if not question.is_direct:
        messages.tell_person(
            context,
            once,
            question.person,
            question.channel,
            message,
            topic="answers",
            thread_ts=question.thread,
        )
        return
    body = messages.in_thread(message, question.thread)
    context.post(question.channel, body, topic="answers", dedupe=once)


def _find_model(context: AppContext, name: str) -> PricedModel | Refusal:
    return candidates.find_model(context.settings, tuple(context.trainers), name, context.today())


def _prompt(context: AppContext, text: str, channel: str, row: ProviderRow) -> tuple[Message, ...]:
    return write_prompt(context.commands.schemas(), _names_of(context, channel, row), text)


def _names_of(context: AppContext, channel: str, row: ProviderRow) -> Names:
    """Returns the datasets that belong to this very channel, and their runs. Not even a public channel's are named
    elsewhere, nor any whose rows may not go to this provider."""
    owners = context.store.datasets.owners()
    here = [name for name, owner in owners.items() if owner == channel]
    datasets = [name for name in here if data_policy.may_name(context, name, row)]
    runs = []
    for run in context.store.runs.newest_on(datasets, MOST_RUNS):
        dataset = context.store.datasets.get(run.dataset_id).name
        runs.append(f"{run.id} on {dataset} ({run.state.replace('_', ' ')})")
    return Names(tuple(datasets[-MOST_DATASETS:]), tuple(runs))


def _max_micros(model: PricedModel, prompt: Sequence[Message], spare: int = 0) -> int:
    """Returns the maximum cost in micro-dollars: a token has at least one byte, and a template adds a few to each
    message."""
    sent = sum(len(message.content.encode()) + TEMPLATE_TOKENS for message in prompt)
    return question_micros(model.price, sent + spare, _max_tokens(model))


def _max_tokens(model: PricedModel) -> int:
    return LONGEST_ANSWER + thinking_tokens(model.thinks)


def _spent(question: PlainQuestion) -> int:
    """Returns what a question without a clear answer counts as: its maximum if it was sent."""
    return 0 if question.sent_at is None else question.reserved_micros


def _key(question: PlainQuestion) -> str:
    """Returns the name of the stored answer, which no other question shares."""
    return key_of(f"{_owner(question)} {question.model}", (), LONGEST_ANSWER)


def _owner(question: PlainQuestion) -> str:
    return f"plain question {question.id}"
