"""Chooses which topics of messages a person or a channel gets. The outbox asks for the choice whenever a message is put
into it (storage/messages.py); nothing here sends or drops one."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from bot.cards.common import message_topics as views
from bot.cards.common.blocks import Message
from bot.cards.common.message_topics import ChosenTopics
from bot.context import AppContext
from bot.services.common import authorization
from bot.values.requests import CHANNEL_TOPICS, PERSON_TOPICS, Notify
from bot.values.runs import Refusal
from storage.records import Topic

DIRECT_REFUSAL = (
    "This is a conversation with me, not a channel. `/finetune notify results=off` is about direct "
    "messages to you."
)


def chosen_topics(context: AppContext, person: str, channel: str) -> ChosenTopics:
    """Returns what the person and the channel get now."""
    of_channel = None
    if _is_channel(channel):
        of_channel = _wanted(context, channel, CHANNEL_TOPICS)
    return ChosenTopics(_wanted(context, person, PERSON_TOPICS), of_channel)


def switch(context: AppContext, request: Notify, person: str, channel: str) -> Message | Refusal:
    """Switches topics for the person, or for the channel, which is told. Returns what both get from now on."""
    for topic in request.switches:
        if topic not in request.topics:
            return Refusal(views.no_topic_refusal(request, topic))
    if request.is_for_channel:
        refusal = _channel_refusal(context, person, channel)
        if refusal:
            return refusal
    with context.store.transaction():
        if request.is_for_channel:
            _switch_channel(context, channel, request.switches, person)
        else:
            _store(context, person, request.switches, person)
    return views.card(channel, chosen_topics(context, person, channel))


def save_form(
    context: AppContext,
    person: str,
    channel: str,
    of_person: Collection[str],
    of_channel: Collection[str] | None,
) -> Refusal | None:
    """Stores what is ticked in the form: the topics of the person and, if the form asked for them (else None), those of
    the channel."""
    mine = {topic: topic in of_person for topic in PERSON_TOPICS}
    theirs: Mapping[Topic, bool] = {}
    if of_channel is not None:
        theirs = {topic: topic in of_channel for topic in CHANNEL_TOPICS}
    if _differs(context, channel, theirs):
        refusal = _channel_refusal(context, person, channel)
        if refusal:
            return refusal
    with context.store.transaction():
        _store(context, person, mine, person)
        _switch_channel(context, channel, theirs, person)
    return None


def _channel_refusal(context: AppContext, person: str, channel: str) -> Refusal | None:
    """Returns why this person can't choose for the channel. Every full member of it may."""
    if not _is_channel(channel):
        return Refusal(DIRECT_REFUSAL)
    refusal = authorization.refusal(context, person, "read", channel)
    if refusal:
        return refusal
    # The channel has to be told that somebody has switched something.
    return authorization.channel_refusal(context, channel)


def _switch_channel(context: AppContext, channel: str, switches: Mapping[Topic, bool], person: str) -> None:
    """Stores what is new, and says so in the channel and in the audit log. Call it in a transaction."""
    new = _store(context, channel, switches, person)
    if not new:
        return
    words = [f"{topic}={views.on_or_off(is_on)}" for topic, is_on in new.items()]
    context.audit(person, "notify", f"channel {channel}", " ".join(words))
    notice = views.channel_notice(person, new)
    context.post(channel, notice.letter(), topic="receipts")


def _store(context: AppContext, whose: str, switches: Mapping[Topic, bool], person: str) -> dict[Topic, bool]:
    """Stores the choices of a person or a channel (`whose` is its id). Returns what is different from before."""
    now = context.clock()
    settings = context.store.message_settings
    new = {}
    for topic, is_on in switches.items():
        if settings.set(whose, topic, is_on=is_on, by=person, now=now):
            new[topic] = is_on
    return new


def _differs(context: AppContext, whose: str, switches: Mapping[Topic, bool]) -> bool:
    return any(context.wants(topic, whose) != is_on for topic, is_on in switches.items())


def _wanted(context: AppContext, whose: str, topics: Collection[Topic]) -> frozenset[Topic]:
    return frozenset(topic for topic in topics if context.wants(topic, whose))


def _is_channel(channel: str) -> bool:
    """False on the App Home, which has no channel, and in the conversation with the bot (D…)."""
    return bool(channel) and not channel.startswith("D")
