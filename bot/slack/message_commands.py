"""The command by which people and channels choose the topics of which they get messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import click

from bot.cards.common import message_topics as topic_cards
from bot.command_options import TextType, shown
from bot.command_parser import Registry
from bot.rules.units import Misread
from bot.services.common import message_topics
from bot.slack.forms import notify_form
from bot.slack.replies import Call, Reply
from bot.values.requests import TOPICS, Notify

registry = Registry()


def read_switch(text: str) -> bool | Misread:
    """Reads on or off."""
    word = text.lower()
    if word in ("on", "off"):
        return word == "on"
    return Misread(f"“{shown(text)}” should be on or off.")


def read_place(text: str) -> Literal["channel"] | Misread:
    if text.lower() == "channel":
        return "channel"
    return Misread(f"“{shown(text)}” should be channel, or nothing if it is about messages to you.")


SWITCH = TextType("on|off", read_switch)
PLACE = TextType("place", read_place)


def topic_options(handler: Callable[..., Reply]) -> Callable[..., Reply]:
    """Declares an option for each topic, also for those that can't be switched off, so that the answer says why."""
    for topic in reversed(TOPICS):
        handler = click.option(f"--{topic}", type=SWITCH, help=topic_cards.option_help(topic))(handler)
    return handler


@registry.command(
    "notify",
    help="choose which messages you get, or with `channel` which ones this channel gets; alone, it opens a form",
    usage="[channel] [results=off problems=on]",
    alone=notify_form,
)
@click.argument("place", type=PLACE, required=False)
@topic_options
def choose_messages(call: Call, place: str | None, **switches: Any) -> Reply:
    typed = {topic: switches[topic] for topic in TOPICS if switches[topic] is not None}
    if not typed:
        return notify_form(call)
    request = Notify(typed, is_for_channel=place == "channel")
    return message_topics.switch(call.context, request, call.person, call.channel)
