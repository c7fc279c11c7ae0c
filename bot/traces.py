"""A trace in each message, by which one whose answer got lost is found again instead of being sent twice.

Slack gives no key that makes a post happen once. So each carries the outbox's number as metadata, which nobody sees,
and where it may stand already it is looked for first. That takes the right to read the conversation's messages
(`channels:history`, `groups:history`, `im:history`), which manifest.yml doesn't ask for: without it such a message is
sent again.
"""

from __future__ import annotations

import logging
from typing import Any

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from storage.records import OutboxItem

EVENT = "finetune_message"
SKEW_S = 3600.0  # between our clock and Slack's
NEWEST = 200
PASSING = frozenset({"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable"})

log = logging.getLogger(__name__)


class Traces:
    def __init__(self, slack: WebClient) -> None:
        self._slack = slack
        self._unreadable: set[str] = set()

    def find(self, channel: str, thread: str | None, item: OutboxItem) -> str | None:
        """The message's ts where it stands already. SlackApiError where Slack should be asked again later; what else
        it says against a look is no reason to keep the message back."""
        kind = channel[:1]  # C, G or D: each has a right of its own
        if kind in self._unreadable:
            return None
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
            return None
        ours = trace(item)["event_payload"]
        stands = (one for one in found["messages"] if _payload(one) == ours)
        return next((str(one["ts"]) for one in stands), None)


def trace(item: OutboxItem) -> dict[str, Any]:
    """As `metadata` of a message. The time tells it from the same number in a database that was begun anew."""
    return {"event_type": EVENT, "event_payload": {"number": str(item.id), "at": repr(item.created_at)}}


def _payload(message: dict[str, Any]) -> Any:
    return (message.get("metadata") or {}).get("event_payload")
