"""The topics of messages: the form and the lists in which people and channels choose what they get, and why some topics
can't be switched off."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bot.cards.common import forms
from bot.cards.common.blocks import Block, CardBlock, Message, Note, Text, code, escape
from bot.cards.common.builder import Parts
from bot.values.requests import ALWAYS_ON, CHANNEL_TOPICS, PERSON_TOPICS, Notify
from storage.records import Topic

FORM = "notify"
OPEN_FORM = "choose_messages"
IN_CHANNEL: Mapping[Topic, str] = {
    "results": "results of trainings; reports and charts of measurements",
    "changes": "a dataset's new bar or task; what changed in a new version",
    "money": "budget warnings; machines by the hour that nobody needs",
    "ends": "models that end, have vanished or are back",
    "weekly": "the Monday card of a watched dataset",
    "problems": "a trainer's warnings; what is in use doesn't answer any more",
}
TO_PERSON: Mapping[Topic, str] = {
    "results": "results of what you asked for, if its channel doesn't get them",
    "approvals": "decisions on your plans and requests",
    "money": "your budget; machines by the hour that you keep for nothing",
    "problems": "what you asked for has failed, or doesn't answer any more",
}
# Each completes the sentence that refuses to switch the topic off.
WHY_ALWAYS: Mapping[Topic, str] = {
    "answers": "they answer what somebody typed or pressed",
    "questions": "somebody has to decide, often about money that is already being spent",
    "receipts": "a deletion, a freeze, an overridden rule or a message that got lost must not go unnoticed",
    "cards": "people act on them, and editing them notifies nobody",
}
WHY_APPROVALS_OF_CHANNEL = (
    "A plan waits for its approvers in its channel, so the channel can't switch off `approvals`. What each person gets "
    f"directly is their own choice: {code('/finetune notify approvals=off')}."
)
ALWAYS_COMES = (
    "Answers, cards that people act on, questions that somebody has to decide, deletions and freezes always come. "
    f"{code('/finetune results RUN')} shows any result."
)


@dataclass(frozen=True)
class ChosenTopics:
    """The topics that a person and the channel get now. `of_channel` is None where there is no channel to choose for:
    on the App Home, and in the conversation with the bot."""

    of_person: Collection[Topic]
    of_channel: Collection[Topic] | None


def option_help(topic: Topic) -> str:
    """What a topic is about, for the help of `/finetune notify`."""
    if topic in WHY_ALWAYS:
        return f"Always on: {WHY_ALWAYS[topic]}."
    in_channel = IN_CHANNEL.get(topic)
    directly = TO_PERSON.get(topic)
    texts = []
    if in_channel:
        texts.append(f"In a channel: {in_channel}.")
    if directly:
        texts.append(f"Directly: {directly}.")
    return " ".join(texts)


def form(channel: str, chosen: ChosenTopics) -> Block:
    """Checkboxes for the person and, if there is a channel, for it. A ticked topic is on."""
    blocks: list[CardBlock | Block] = [
        _checkboxes("person", "Direct messages to you", TO_PERSON, chosen.of_person)
    ]
    if chosen.of_channel is not None:
        blocks.append(_checkboxes("channel", "Messages in this channel", IN_CHANNEL, chosen.of_channel))
    blocks.append(Note(ALWAYS_COMES))
    return forms.modal("Messages", FORM, blocks, submit="Save", private=channel)


def card(channel: str, chosen: ChosenTopics) -> Message:
    """What the person gets and, if there is a channel, what it gets."""
    lines = [f"Direct messages to you: {_all_but(PERSON_TOPICS, chosen.of_person)}."]
    if chosen.of_channel is not None:
        lines.append(f"Messages in <#{channel}>: {_all_but(CHANNEL_TOPICS, chosen.of_channel)}.")
    note = Note(
        f"{code('/finetune notify')} opens a form; {code('/finetune help notify')} says what each means."
    )
    text = "\n".join(lines)
    return Message(text, (Text(text), note))


def channel_notice(person: str, switches: Mapping[Topic, bool]) -> Message:
    """Posted in the channel whose topics a person has switched."""
    parts = Parts()
    text = f"<@{person}> has changed which messages this channel gets."
    parts.text(text)
    parts.lines(
        [f"• {code(topic)} {on_or_off(is_on)}: {IN_CHANNEL[topic]}" for topic, is_on in switches.items()]
    )
    parts.note(f"{code('/finetune notify channel')} changes it again.")
    return Message(text, tuple(parts))


def no_topic_refusal(request: Notify, topic: Topic) -> str:
    """Why this topic can't be switched: nobody may, or the person or channel gets no messages about it."""
    if topic in ALWAYS_ON:
        return f"{code(topic)} can't be switched off: {WHY_ALWAYS[topic]}."
    if request.is_for_channel:  # the only topic that just people can switch
        return WHY_APPROVALS_OF_CHANNEL
    state = on_or_off(request.switches[topic])
    there = code(f"/finetune notify channel {topic}={state}")
    return f"You get no direct messages about {code(topic)}, but this channel may: {there}."


def on_or_off(is_on: bool) -> str:
    return "on" if is_on else "off"


def result_notice(name: str, headline: str, number: str) -> str:
    """Tells the person who asked for a result in a channel that doesn't want results. `name` is a link, `headline`
    unescaped; `number` is what `/finetune results` takes."""
    command = code(f"/finetune results {number}")
    return (
        f"Your {name} is done. {escape(headline)}. {command} shows everything; its channel gets no results."
    )


def _checkboxes(name: str, label: str, words: Mapping[Topic, str], ticked: Collection[Topic]) -> Block:
    options = [(topic, f"{topic}: {text}") for topic, text in words.items()]
    return forms.checkbox_input(name, label, options, ticked=ticked)


def _all_but(topics: Sequence[Topic], chosen: Collection[Topic]) -> str:
    missing = [code(topic) for topic in topics if topic not in chosen]
    if not missing:
        return "all topics"
    if len(missing) == len(topics):
        return "only what always comes"
    return f"all topics but {', '.join(missing)}"
