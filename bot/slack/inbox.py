"""Handles deliveries from Slack that an earlier process did not finish.

People saw no answer, or an error from Slack; now they get the answer. After an hour a delivery is not carried out any
more, as the person will have done something else by then; they are told so.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from typing import Any

from slack_bolt import App, BoltRequest, BoltResponse
from slack_bolt.listener.listener_completion_handler import ListenerCompletionHandler
from slack_bolt.listener.listener_start_handler import ListenerStartHandler

from bot import logs
from bot.cards import general as views
from bot.cards.blocks import Message
from bot.command_parser import unescape
from bot.context import AppContext
from bot.services import notifications

DELIVERY, REFERENCE = "finetune_delivery", "finetune_reference"
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
            tell(context, delivery.id, delivery.body, views.interrupted_notice(typed_command(delivery.body)))
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
        if delivery := request.context.get(DELIVERY):
            self._context.store.inbox.begin(delivery)


class _MarkEnded(ListenerCompletionHandler):
    def __init__(self, context: AppContext) -> None:
        self._context = context

    def handle(self, request: BoltRequest, response: BoltResponse | None) -> None:
        if delivery := request.context.get(DELIVERY):
            self._context.store.inbox.end(delivery)


def _message(response: BoltResponse) -> Message | None:
    """Returns what the ack would have shown: a command's answer, or a form's errors. None if there is neither."""
    try:
        body: Mapping[str, Any] = json.loads(response.body or "{}")
    except ValueError:
        body = {"text": response.body}
    if errors := body.get("errors"):
        return views.closed_form_refusal(list(map(str, errors.values())))
    text = str(body.get("text") or "")
    return Message(text, tuple(body.get("blocks") or ())) if text else None


def tell(context: AppContext, delivery: str, body: Mapping[str, Any], message: Message) -> None:
    user = body.get("user")
    person = str(body.get("user_id") or (user.get("id") if isinstance(user, Mapping) else "") or "")
    channel = body.get("channel")
    where = str(body.get("channel_id") or (channel.get("id") if isinstance(channel, Mapping) else "") or "")
    if person:
        notifications.tell_person(context, f"cut off: {delivery}", person, where, message)


def typed_command(body: Mapping[str, Any]) -> str | None:
    """Returns the command as it was typed, None if the delivery is not a command."""
    return f"{body['command']} {unescape(body.get('text') or '')}".strip() if "command" in body else None
