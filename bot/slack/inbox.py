"""Handles deliveries from Slack that an earlier process did not finish, and sends answers to deliveries.

People saw no answer, or an error from Slack; now they get the answer. After an hour a delivery is not carried out any
more, as the person will have done something else by then; they are told so.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from slack_bolt import App, BoltRequest, BoltResponse, Respond
from slack_bolt.listener.listener_completion_handler import ListenerCompletionHandler
from slack_bolt.listener.listener_start_handler import ListenerStartHandler

from bot import logs
from bot.cards.common import general as views
from bot.cards.common.blocks import Message
from bot.command_parser import unescape
from bot.context import AppContext
from bot.health import metrics
from bot.services.common import messages
from bot.slack.users import begin_delivery, end_delivery

REFUSED = re.compile(r'"ok"\s*:\s*false')  # Slack answers `ok`, or JSON with the error
# Keys in the context of a Bolt request.
DELIVERY = "finetune_delivery"
REFERENCE = "finetune_reference"
ARRIVED = "finetune_arrived"  # monotonic seconds
MOST_TRIES = 3
STALE_S = 3600.0

log = logging.getLogger(__name__)


def register(app: App, context: AppContext) -> None:
    """Records when a listener begins to handle a delivery, and when it is done."""
    app.listener_runner.listener_start_handler = _MarkBegun(context)
    app.listener_runner.listener_completion_handler = _MarkEnded(context)


def replay(app: App, context: AppContext) -> None:
    """Handles the unfinished deliveries. Call it before new ones come in."""
    for delivery in context.store.inbox.waiting():
        is_stale = context.clock() - delivery.at > STALE_S
        if is_stale or delivery.tries >= MOST_TRIES:
            log.warning("%s was interrupted, and is not carried out any more", delivery.id)
            notice = views.interrupted_notice(typed_command(delivery.body))
            tell(context, delivery.id, delivery.body, notice)
            context.store.inbox.end(delivery.id)
            continue
        context.store.inbox.count_try(delivery.id)
        log.info("%s was interrupted, and is handled now", delivery.id)
        response = app.dispatch(BoltRequest(mode="socket_mode", body=dict(delivery.body)))
        if response.status == 404:  # no listener matches it
            context.store.inbox.end(delivery.id)
        elif message := _message(response):
            tell(context, delivery.id, delivery.body, message)


class _MarkBegun(ListenerStartHandler):
    def __init__(self, context: AppContext) -> None:
        self._context = context

    def handle(self, request: BoltRequest, response: BoltResponse | None) -> None:
        logs.begin(request.context.get(REFERENCE))
        begin_delivery()
        if delivery := request.context.get(DELIVERY):
            self._context.store.inbox.begin(delivery)


class _MarkEnded(ListenerCompletionHandler):
    def __init__(self, context: AppContext) -> None:
        self._context = context

    def handle(self, request: BoltRequest, response: BoltResponse | None) -> None:
        end_delivery()
        if delivery := request.context.get(DELIVERY):
            self._context.store.inbox.end(delivery)
        if arrived := request.context.get(ARRIVED):
            kind = metrics.delivery_kind(request.body)
            metrics.ANSWER_S.labels(kind).observe(time.monotonic() - arrived)


def _message(response: BoltResponse) -> Message | None:
    """Returns what the ack would have shown: a command's answer, or a form's errors. None if there is neither."""
    try:
        body: Mapping[str, Any] = json.loads(response.body or "{}")
    except ValueError:
        body = {"text": response.body}
    if errors := body.get("errors"):
        return views.closed_form_refusal(list(map(str, errors.values())))
    text = str(body.get("text") or "")
    if not text:
        return None
    return Message(text, tuple(body.get("blocks") or ()))


def tell(context: AppContext, delivery: str, body: Mapping[str, Any], message: Message) -> None:
    person = _id_in(body, "user")
    channel = _id_in(body, "channel")
    if person:
        messages.tell_person(context, f"cut off: {delivery}", person, channel, message, topic="answers")


def _id_in(body: Mapping[str, Any], kind: str) -> str:
    """Returns the id of the user or the channel, '' if it has none. Commands have it alone, clicks and forms in an
    object."""
    alone = body.get(f"{kind}_id")
    if alone:
        return str(alone)
    value = body.get(kind)
    if not isinstance(value, Mapping):
        return ""
    return str(value.get("id") or "")


def answer(context: AppContext, body: Mapping[str, Any], respond: Respond, message: Message) -> None:
    """Shows the message to the person alone, at the address that came with the command.

    That works in channels without the bot, and takes none of Slack's limits. The address is valid for half an hour; if
    it is not, as after a long outage, the message goes through the outbox.
    """
    if _is_accepted(respond, message):
        return
    person = str(body["user_id"])
    channel = str(body["channel_id"])
    command = hashlib.sha256(str(body["trigger_id"]).encode()).hexdigest()
    messages.tell_person(context, f"answer {command}", person, channel, message, topic="answers")


def _is_accepted(respond: Respond, message: Message) -> bool:
    if not respond.response_url:
        return False
    try:
        response = respond(**message.body(), response_type="ephemeral", replace_original=False)
    except (OSError, ValueError, HTTPException) as error:
        log.info("an answer could not be sent to its address: %s", error)
        return False
    is_accepted = response.status_code == 200 and not REFUSED.search(response.body)
    if not is_accepted:
        log.info("an answer was not accepted at its address: %s %s", response.status_code, response.body)
    return is_accepted


def typed_command(body: Mapping[str, Any]) -> str | None:
    """Returns the command as it was typed, None if the delivery is not a command."""
    if "command" not in body:
        return None
    text = unescape(body.get("text") or "")
    return f"{body['command']} {text}".strip()
