"""A trace in each message, by which one whose answer got lost is found again instead of being sent twice.

Slack gives no key that makes a post happen once. So each carries the outbox's number as metadata, which nobody sees,
and where it may stand already it is looked for first; a file is known by its name and size. That takes the right to
read the conversation's messages (`channels:history`, `groups:history`, `im:history`), which manifest.yml doesn't ask
for: without it such a message is sent again.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from storage.records import OutboxItem

EVENT = "finetune_message"
SKEW_S = 3600.0  # between our clock and Slack's
NEWEST = 200
# Of the first two Slack's reference says that a part of the operation may have succeeded.
UNCLEAR = frozenset({"internal_error", "fatal_error", "service_unavailable"})
PASSING = UNCLEAR | {"ratelimited", "rate_limited"}

Message = Mapping[str, Any]
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Look:
    """`ts` of the message where it stands already."""

    was_allowed: bool
    ts: str | None = None


class Traces:
    def __init__(self, slack: WebClient) -> None:
        self._slack = slack
        self._unreadable: set[str] = set()

    def look(self, channel: str, thread: str | None, item: OutboxItem) -> Look:
        """SlackApiError where Slack should be asked again later; what else it says against a look is no reason to keep
        the message back."""
        kind = channel[:1]  # C, G or D: each has a right of its own
        if kind in self._unreadable:
            return Look(was_allowed=False)
        span: dict[str, Any] = {
            "oldest": str(item.created_at - SKEW_S),
            "limit": NEWEST,
            "include_all_metadata": True,
        }
        try:
            found: Any = (
                self._slack.conversations_replies(channel=channel, ts=thread, **span)
                if thread
                else self._slack.conversations_history(channel=channel, **span)
            )
        except SlackApiError as error:
            code = error.response.get("error")
            if code in PASSING or error.response.status_code != 200:
                raise
            if code == "missing_scope":
                self._unreadable.add(kind)
                log.info(
                    "no right to read messages: one whose answer was lost is sent again (message %s)", item.id
                )
            return Look(was_allowed=False)
        is_it = _has_file(item) if item.kind == "file" else _has_trace(item)
        return Look(
            was_allowed=True, ts=next((str(one["ts"]) for one in found["messages"] if is_it(one)), None)
        )


def trace(item: OutboxItem) -> dict[str, Any]:
    """As `metadata` of a message. The time tells it from the same number in a database that was begun anew."""
    return {"event_type": EVENT, "event_payload": {"number": str(item.id), "at": repr(item.created_at)}}


def _has_trace(item: OutboxItem) -> Callable[[Message], bool]:
    ours = trace(item)["event_payload"]
    return lambda message: (message.get("metadata") or {}).get("event_payload") == ours


def _has_file(item: OutboxItem) -> Callable[[Message], bool]:
    """An upload takes no metadata: the same name and size in the same place is taken for the same file."""
    ours = (item.body["filename"], Path(item.body["file"]).stat().st_size)
    return lambda message: any(
        (one.get("name"), one.get("size")) == ours for one in message.get("files") or ()
    )
