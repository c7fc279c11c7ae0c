"""Shortcuts, mentions, messages and files for the bot, and the App Home."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from slack_bolt import App
from slack_sdk import WebClient

from bot.cards.common import general
from bot.cards.common.blocks import Message
from bot.command_parser import mentioned_people, unescape
from bot.context import AppContext
from bot.services import plain_questions
from bot.services.common import messages
from bot.slack import commands
from bot.slack.forms import upload_form
from bot.slack.homes import Homes
from bot.slack.replies import AfterAck, Call, Form
from bot.slack.users import NO_ANSWER
from bot.values.runs import Refusal

THINKS = "is reading your question …"

log = logging.getLogger(__name__)


def register(app: App, context: AppContext, homes: Homes, wake: Callable[[], None]) -> None:
    _register_shortcuts(app, context)
    _register_messages(app, context, wake)

    @app.event("app_home_opened")
    def home_opened(event: dict[str, Any]) -> None:
        if event.get("tab", "home") == "home":
            homes.open(str(event["user"]))


def _register_shortcuts(app: App, context: AppContext) -> None:
    @app.shortcut("use_as_training_data")
    def use_message(body: dict[str, Any], client: WebClient) -> None:
        files = body["message"].get("files") or []
        view: Form | Refusal = Refusal("This message has no file. Choose one that has.")
        if files:
            first = files[0]
            file_id = str(first["id"])
            filename = str(first.get("name") or "file")
            view = upload_form(_call(body), file_id=file_id, filename=filename)
        _open(client, body, view)

    @app.shortcut("upload_training_data")
    def upload_anywhere(body: dict[str, Any], client: WebClient) -> None:
        view = upload_form(_call(body))
        _open(client, body, view)

    def _call(body: dict[str, Any]) -> Call:
        person = str(body["user"]["id"])
        # A global shortcut has no channel.
        place = body.get("channel") or {}
        channel = str(place.get("id") or "")
        return Call(context, person, channel)


def _register_messages(app: App, context: AppContext, wake: Callable[[], None]) -> None:
    @app.event("app_mention")
    def mention(event: dict[str, Any]) -> None:
        """Runs a command in a mention. Only the person who typed it sees the answer, as others may not be allowed
        to."""
        person = str(event.get("user") or "")
        channel = str(event["channel"])
        typed = str(event.get("text") or "")
        # The first mention is the bot's; later ones are people whom the command names.
        text = re.sub(r"<@[A-Z0-9]+(\|[^<>]*)?>", "", typed, count=1)
        thread = _thread_of(event)
        once = f"mention {event['ts']}"
        call = Call(context, person, channel, thread, delivery=once)
        message = _reply(call, text)
        if person and message:
            messages.tell_person(context, once, person, channel, message, topic="answers", thread_ts=thread)
        wake()

    @app.event("message")
    def direct_message(event: dict[str, Any], client: WebClient) -> None:
        """Runs a command in a direct message to the bot, and answers in its thread. `file_sent` answers a file
        there."""
        if event.get("channel_type") != "im" or not _is_typed(event):
            return
        person = str(event["user"])
        channel = str(event["channel"])
        once = f"message {event['ts']}"
        thread = _thread_of(event)
        text = str(event.get("text") or "")
        call = Call(context, person, channel, thread, delivery=once, is_direct=True)
        message = _reply(call, text)
        if message:
            posted = messages.in_thread(message, thread)
            context.post(channel, posted, topic="answers", dedupe=once)
        elif thread and plain_questions.is_waiting(context, once):
            _show_status(client, channel, thread)
        wake()

    @app.event("file_shared")
    def file_sent(event: dict[str, Any]) -> None:
        """Answers a file in a direct message to the bot. Ignores files elsewhere."""
        channel = str(event.get("channel_id") or "")
        if channel.startswith("D"):
            once = f"file {event.get('file_id')}"
            hint = general.file_hint().body()
            context.post(channel, hint, topic="answers", dedupe=once)
            wake()


def _is_typed(event: dict[str, Any]) -> bool:
    """False for a bot's message, our own too, which would be answered by an answer to it, and so on; and for an edit,
    which is a subtype."""
    if event.get("subtype") or event.get("bot_id"):
        return False
    return bool(event.get("user"))


CHANNEL_CHANGES = tuple(
    f"{kind}_{change}"
    for kind in ("channel", "group")
    for change in ("archive", "unarchive", "deleted", "left", "rename")
)
SHARING_CHANGES = ("channel_shared", "channel_unshared")
MEMBER_CHANGES = ("member_joined_channel", "member_left_channel")


def forget_changes(app: App, context: AppContext) -> None:
    """Forgets what Slack said of a channel or a group as soon as Slack says that it has changed."""

    def forget_channel(event: dict[str, Any]) -> None:
        # Some of these events have the channel's id, others an object with it.
        channel = event["channel"]
        if isinstance(channel, dict):
            channel = channel["id"]
        context.recent.forget_channel(str(channel))

    for change in (*CHANNEL_CHANGES, *SHARING_CHANGES, *MEMBER_CHANGES):
        app.event(change)(forget_channel)

    @app.event("subteam_members_changed")
    def forget_group(event: dict[str, Any]) -> None:
        context.recent.forget_group(str(event["subteam_id"]))


def _open(client: WebClient, body: dict[str, Any], view: Form | Refusal) -> None:
    if isinstance(view, Refusal):
        view = general.notice_modal("Use as training data", view.text)
    trigger = str(body["trigger_id"])
    client.views_open(trigger_id=trigger, view=view)


def _thread_of(event: dict[str, Any]) -> str | None:
    thread = event.get("thread_ts")
    if not thread:
        return None
    return str(thread)


def _show_status(client: WebClient, channel: str, thread: str) -> None:
    """Says in a thread with the bot that a model reads the question, until the answer comes. Where Slack refuses that,
    as in a workspace without its agents, only the sign is missing."""
    try:
        client.assistant_threads_setStatus(channel_id=channel, thread_ts=thread, status=THINKS)
    except NO_ANSWER as error:
        log.warning("showing that a question is being read: %s", error)


def _reply(call: Call, text: str) -> Message | None:
    """Answers a command that was typed without the slash. Returns None if the answer is sent otherwise."""
    plain = unescape(text)
    without_name = re.sub(r"^\s*/?finetune\b", "", plain, flags=re.IGNORECASE)
    typed = without_name.strip()
    # From the text as Slack sent it: unescaped, a mention has a person's name in place of the id.
    call = replace(call, mentioned=mentioned_people(text))
    reply = commands.reply_to(call, typed)
    if isinstance(reply, AfterAck):
        reply.work()
        return None
    if isinstance(reply, dict):  # only a slash command brings the trigger that opens a form
        return general.needs_slash(typed)
    if isinstance(reply, str | Refusal):
        return general.answer(reply)
    return reply
