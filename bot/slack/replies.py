"""What a command answers: a message, a form to open, or work that sends its answer itself, once Slack has its ack.

An ack has three seconds, and the trigger that opens a form is as short-lived, so a handler returns what it found at
once, and whatever takes longer as AfterAck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from prometheus_client import Counter
from slack_sdk import WebClient

from bot.cards.common import general
from bot.cards.common.blocks import Message
from bot.cards.models import promotion_requests as request_cards
from bot.cards.models import promotions as promotion_cards
from bot.cards.models.promotion_requests import RequestSummary
from bot.cards.models.promotions import PromotionSummary
from bot.context import AppContext
from bot.health import metrics
from bot.services.models.promotions import Promoted
from bot.values.runs import Refusal

_Value = TypeVar("_Value")
Form = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """The person who typed a command, the channel, the thread if it was a mention in one, and the people whom the text
    mentions. `delivery` names Slack's delivery of the text, '' for a button's; `is_direct`: it was said to the bot
    alone."""

    context: AppContext
    person: str
    channel: str
    thread: str | None = None
    mentioned: tuple[str, ...] = ()
    delivery: str = ""
    is_direct: bool = False


@dataclass(frozen=True)
class AfterAck:
    """Work that sends its answer itself. It returns a refusal that it sent, so that the refusal can be counted."""

    work: Callable[[], Refusal | None]


# A dict is a form to open. None means that a message in the channel is the answer.
Reply = Message | str | Refusal | Form | AfterAck | None


def counted_reply(counter: Counter, name: str, find: Callable[[], Reply]) -> Reply:
    """Finds a reply, and counts what it is. Work that sends its answer itself is counted once it is done."""
    with metrics.counting_failures(counter, name):
        reply = find()
    if isinstance(reply, AfterAck):
        return AfterAck(partial(metrics.counted, counter, name, reply.work))
    metrics.count(counter, name, reply)
    return reply


def give_reply(reply: Reply, trigger: str, client: WebClient, send: Callable[[Message], None]) -> None:
    """Opens the form, sends the message, or does the work that sends its answer itself."""
    if isinstance(reply, dict):
        client.views_open(trigger_id=trigger, view=reply)
        return
    if isinstance(reply, AfterAck):
        reply.work()
        return
    if isinstance(reply, str | Refusal):
        reply = general.answer(reply)
    if reply is not None:
        send(reply)


def card_or_refusal(result: _Value | Refusal, card: Callable[[_Value], Message | None]) -> Reply:
    if isinstance(result, Refusal):
        return result
    return card(result)


def refusal_or_none(result: object) -> Refusal | None:
    """Returns only a refusal. Otherwise a message in the channel shows what was recorded."""
    if isinstance(result, Refusal):
        return result
    return None


def promotion_reply(call: Call, promoted: Promoted) -> Reply:
    """Returns nothing if the card that answers is in this channel, else where it is."""
    match promoted:
        case Refusal():
            return promoted
        case RequestSummary():
            channel = promoted.request.channel
            text = request_cards.request_sent(promoted)
        case PromotionSummary():
            channel = promoted.promotion.channel
            text = promotion_cards.card_location(promoted)
        case sealed_test:
            return promotion_cards.sealed_test_begun(sealed_test)
    if channel == call.channel:
        return None
    return general.text_message(text)
