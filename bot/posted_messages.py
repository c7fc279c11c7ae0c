"""Looks in Slack for messages that may be posted already, because the answer to their post was lost.

Slack has no idempotency key for posts. So each post carries its outbox number as invisible metadata, and after a lost
answer the sender looks for it before sending again; it recognises a file by name and size. That needs the right to
read the conversation: manifest.yml asks for `im:history`, but not for `channels:history` and `groups:history`. Without
the right, such a message is sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bot.slack.users import PASSING
from storage.records import OutboxItem

EVENT = "finetune_message"
SKEW_S = 3600.0  # allowed between our clock and Slack's
NEWEST = 200

SlackMessage = Mapping[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FoundMessage:
    """`was_allowed`: the app may read the conversation. `ts` identifies the message if it is posted already."""

    was_allowed: bool
    ts: str | None = None


class PostedMessages:
    """Finds them, and remembers which kinds of conversation the app may not read, so that Slack is asked once."""

    def __init__(self, slack: WebClient) -> None:
        self._slack = slack
        self._unreadable: set[str] = set()

    def find(self, channel: str, thread: str | None, item: OutboxItem) -> FoundMessage:
        """Looks for the message. Raises SlackApiError if Slack should be asked again later. After any other refusal the
        message can be sent."""
        kind = channel[:1]  # C, G or D: each needs its own scope
        if kind in self._unreadable:
            return FoundMessage(was_allowed=False)
        span: dict[str, Any] = {
            "oldest": str(item.created_at - SKEW_S),
            "limit": NEWEST,
            "include_all_metadata": True,
        }
        try:
            if thread:
                result: Any = self._slack.conversations_replies(channel=channel, ts=thread, **span)
            else:
                result = self._slack.conversations_history(channel=channel, **span)
        except SlackApiError as error:
            code = error.response.get("error")
            if code in PASSING or error.response.status_code != 200:
                raise
            if code == "missing_scope":
                self._unreadable.add(kind)
                log.info(
                    "no right to read messages, so message %s, whose answer was lost, is sent again", item.id
                )
            return FoundMessage(was_allowed=False)
        is_it = _matches_files(item) if item.kind == "file" else _matches_metadata(item)
        for message in result["messages"]:
            if is_it(message):
                return FoundMessage(was_allowed=True, ts=str(message["ts"]))
        return FoundMessage(was_allowed=True)


def message_metadata(item: OutboxItem) -> dict[str, Any]:
    """Returns the `metadata` of a message. Its time distinguishes it from the same number in a recreated database."""
    return {"event_type": EVENT, "event_payload": {"number": str(item.id), "at": repr(item.created_at)}}


def _matches_metadata(item: OutboxItem) -> Callable[[SlackMessage], bool]:
    ours = message_metadata(item)["event_payload"]
    return lambda message: (message.get("metadata") or {}).get("event_payload") == ours


def _matches_files(item: OutboxItem) -> Callable[[SlackMessage], bool]:
    """Matches files by name and size, as an upload can't carry metadata."""
    uploads = item.body.get("file_uploads") or [item.body]
    ours = set()
    for upload in uploads:
        size = Path(upload["file"]).stat().st_size
        ours.add((upload["filename"], size))

    def has_ours(message: SlackMessage) -> bool:
        files = message.get("files") or ()
        theirs = {(file.get("name"), file.get("size")) for file in files}
        return ours <= theirs

    return has_ours
