"""Shortcuts, mentions, files sent to the bot, and the App Home."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from slack_bolt import Ack, App
from slack_sdk import WebClient

from bot.cards import datasets as dataset_views
from bot.cards import general, status
from bot.context import AppContext
from bot.services import overview
from bot.slack import commands


def register(app: App, context: AppContext, wake: Callable[[], None]) -> None:
    @app.shortcut("use_as_training_data")
    def use_message(ack: Ack, body: dict[str, Any], client: WebClient) -> None:
        files = body["message"].get("files") or []
        channel, trigger = str(body["channel"]["id"]), str(body["trigger_id"])
        if files:
            view = dataset_views.upload_modal(
                channel, file_id=str(files[0]["id"]), filename=str(files[0].get("name") or "file")
            )
        else:
            view = general.notice_modal(
                "Use as training data", "This message has no file. Choose one that has."
            )
        client.views_open(trigger_id=trigger, view=view)
        ack()

    @app.shortcut("upload_training_data")
    def upload_anywhere(ack: Ack, body: dict[str, Any], client: WebClient) -> None:
        client.views_open(trigger_id=str(body["trigger_id"]), view=dataset_views.upload_modal(""))
        ack()

    @app.event("app_mention")
    def mention(event: dict[str, Any]) -> None:
        body = general.help_text(commands.help_list()).body()
        if thread := event.get("thread_ts"):
            body["thread_ts"] = str(thread)
        context.say(str(event["channel"]), body, dedupe=f"mention {event['ts']}")
        wake()

    @app.event("file_shared")
    def file_sent(event: dict[str, Any]) -> None:
        """A file in the conversation with the bot; files elsewhere are none of our business."""
        channel = str(event.get("channel_id") or "")
        if channel.startswith("D"):
            context.say(channel, general.file_hint().body(), dedupe=f"file {event.get('file_id')}")
            wake()

    @app.event("app_home_opened")
    def home_opened(event: dict[str, Any], client: WebClient) -> None:
        if event.get("tab", "home") == "home":
            person = str(event["user"])
            client.views_publish(user_id=person, view=status.home_page(overview.home(context, person)))
