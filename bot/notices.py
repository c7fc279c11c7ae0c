"""Sends the outbox to Slack: paced, retried, one card edited in place. The only place that posts.

Every error of Slack is one of four: try later, post the card anew, send it elsewhere, or give up and say so
in the log. A failed send never fails the work that it tells of.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from typing import Any
from urllib.error import URLError

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError, SlackClientError

from bot import heartbeat
from bot.settings import Blocks
from bot.traces import PASSING, UNCLEAR, Traces, trace
from storage.records import OutboxItem
from storage.store import Store

SECONDS_BETWEEN_POSTS = 1.05
SECONDS_BETWEEN_EDITS = 2.5
SETTLE_S = 5.0  # after which Slack has shown, or never will, what a post sent to it
MAX_TRIES = 320  # about a day of Slack being away

CARD_IS_GONE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed", "is_inactive"})
CHANNEL_IS_CLOSED = frozenset({"is_archived", "channel_not_found", "not_in_channel", "restricted_action"})
APP_IS_LOCKED_OUT = frozenset(
    {"account_inactive", "token_revoked", "invalid_auth", "not_authed", "missing_scope"}
)
NO_ANSWER = (SlackClientError, URLError, OSError, HTTPException)
BLOCKS_REFUSED = frozenset(
    {"invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long", "unsupported_block"}
)

log = logging.getLogger(__name__)


class MayStillStand(Exception):
    """A post was under way to Slack, and `seconds` from now Slack must have shown it."""

    def __init__(self, seconds: float) -> None:
        super().__init__("it may stand already: looked for again before it is sent")
        self.seconds = seconds


@dataclass
class Notices:
    """`pace` in (0, 1] scales the pauses between messages; below 1 only on a workspace of our own.

    `blocks` "newest" sends a message's newest form where it has one, until Slack refuses it once.
    """

    store: Store
    slack: WebClient
    fallback_channel: str | None = None
    pace: float = 1.0
    blocks: Blocks = "classic"
    clock: Callable[[], float] = time.time
    settle_s: float = SETTLE_S
    locked_out: str | None = None
    _next_allowed: dict[str, float] = field(default_factory=dict)
    _uncertain_at: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._traces, self._started = Traces(self.slack), self.clock()

    def send_due(self) -> int:
        """Send what may be sent now; how many messages left."""
        sent = 0
        for item in self.store.outbox.due(self.clock()):
            if self._may_go(item):
                sent += self._send(item)
        return sent

    def _may_go(self, item: OutboxItem) -> bool:
        return self.clock() >= self._next_allowed.get(_lane(item), 0.0)

    def _send(self, item: OutboxItem) -> bool:
        heartbeat.step()
        if item.private and self._place(item.channel, item)[0] != item.channel:
            self._give_up_private(item)
            return False
        pause = SECONDS_BETWEEN_EDITS if item.kind == "edit" else SECONDS_BETWEEN_POSTS
        self._next_allowed[_lane(item)] = self.clock() + pause * self.pace
        try:
            channel, ts = self._deliver_as_it_can_be_shown(item)
        except MayStillStand as soon:
            self._later(item, str(soon), soon.seconds, counts=False)
            return False
        except SlackApiError as error:
            self._answer(item, error)
            return False
        except FileNotFoundError as error:
            log.error("message %s to %s needs a file that is gone: %s", item.id, item.channel, error.filename)
            self.store.outbox.give_up(item, error=str(error))
            return False
        except NO_ANSWER as error:
            self._later(item, f"Slack did not answer: {error}", _backoff(item.tries))
            return False
        self.locked_out = None
        self._uncertain_at.pop(item.id, None)
        self.store.outbox.sent(item, channel=channel, ts=ts)
        return True

    def _deliver_as_it_can_be_shown(self, item: OutboxItem) -> tuple[str, str | None]:
        """The newest blocks where they are wanted; refused blocks post nothing, so the classic ones can follow."""
        body = dict(item.body)
        newest = body.pop("newest", None)
        if newest and self.blocks == "newest":
            try:
                return self._deliver(replace(item, body={**body, "blocks": newest}))
            except SlackApiError as error:
                if error.response.get("error") not in BLOCKS_REFUSED:
                    raise
                log.warning(
                    "Slack refused the newest blocks of message %s: classic ones from now on", item.id
                )
                self.blocks = "classic"
        return self._deliver(replace(item, body=body))

    def _deliver(self, item: OutboxItem) -> tuple[str, str | None]:
        match item.kind:
            case "post":
                return self._post(item.channel, item)
            case "direct":
                return self._post(self._direct(item), item)
            case "ephemeral":
                self.slack.chat_postEphemeral(channel=item.channel, user=item.person or "", **item.body)
                return item.channel, None
            case "edit":
                card = self.store.outbox.card(item.card or "")
                if card is None:
                    return self._post(item.channel, item)
                self.slack.chat_update(channel=card.channel, ts=card.ts, **item.body)
                return card.channel, card.ts
            case "file":
                where = self._direct(item) if item.person else item.channel
                return self._upload(where, item)

    def _direct(self, item: OutboxItem) -> str:
        """The conversation with a person alone."""
        opened: Any = self.slack.conversations_open(users=item.person or "")
        return str(opened["channel"]["id"])

    def _post(self, channel: str, item: OutboxItem) -> tuple[str, str]:
        channel, thread = self._place(channel, item)
        if (ts := self._standing(channel, thread, item)) is not None:
            if item.card:  # an edit may have taken the place of the words that it was sent with
                self.slack.chat_update(channel=channel, ts=ts, **item.body)
            return channel, ts
        with self._noting_what_is_unclear(item):
            posted = self.slack.chat_postMessage(
                channel=channel, thread_ts=thread, metadata=trace(item), **item.body
            )
        return str(posted["channel"]), str(posted["ts"])

    def _upload(self, channel: str, item: OutboxItem) -> tuple[str, None]:
        channel, thread = self._place(channel, item)
        if self._standing(channel, thread, item) is None:
            with self._noting_what_is_unclear(item):
                self.slack.files_upload_v2(channel=channel, thread_ts=thread, **item.body)
        return channel, None

    @contextmanager
    def _noting_what_is_unclear(self, item: OutboxItem) -> Iterator[None]:
        try:
            yield
        except SlackApiError as error:
            if error.response.status_code >= 500 or error.response.get("error") in UNCLEAR:
                self._uncertain_at[item.id] = self.clock()
            raise
        except NO_ANSWER:
            self._uncertain_at[item.id] = self.clock()
            raise

    def _standing(self, channel: str, thread: str | None, item: OutboxItem) -> str | None:
        """The ts of a message that stands already. MayStillStand where it can't be seen yet, and might be soon."""
        since = self._uncertain_since(item)
        if since is None:
            return None
        look = self._traces.look(channel, thread, item)
        if look.was_allowed and look.ts is None and self.clock() < since + self.settle_s:
            raise MayStillStand(since + self.settle_s - self.clock())
        return look.ts

    def _uncertain_since(self, item: OutboxItem) -> float | None:
        """Since when it may stand: its answer got lost, or it is older than this process, whose predecessor may have
        been killed before it noted one."""
        before = self._started if item.created_at < self._started else None
        return self._uncertain_at.get(item.id, before)

    def _place(self, channel: str, item: OutboxItem) -> tuple[str, str | None]:
        """Channel and thread: a reply follows its card, which may stand in the fallback channel."""
        card = self.store.outbox.card(item.thread) if item.thread else None
        return (card.channel, card.ts) if card else (channel, None)

    def _answer(self, item: OutboxItem, error: SlackApiError) -> None:
        code = str(error.response.get("error", "")) or f"HTTP {error.response.status_code}"
        if error.response.status_code == 429 or code in PASSING or error.response.status_code >= 500:
            self._later(item, code, _retry_after(error) or _backoff(item.tries))
        elif item.kind == "edit" and code in CARD_IS_GONE:
            self.store.outbox.repost(item, now=self.clock())
        elif code in APP_IS_LOCKED_OUT:
            self.locked_out = code
            self._later(item, code, 60.0, counts=False)
        elif item.kind == "ephemeral" and code in {*CHANNEL_IS_CLOSED, "user_not_in_channel"}:
            self.store.outbox.reroute(item, channel=item.channel, now=self.clock())  # to its person directly
        elif item.private and code in CHANNEL_IS_CLOSED:
            self._give_up_private(item)
        elif code in CHANNEL_IS_CLOSED and self.fallback_channel not in (None, item.channel):
            log.warning(
                "message %s cannot go to %s (%s): sent to the fallback channel", item.id, item.channel, code
            )
            self.store.outbox.reroute(item, channel=str(self.fallback_channel), now=self.clock())
        else:
            log.error(
                "message %s of kind %s to %s was refused by Slack: %s", item.id, item.kind, item.channel, code
            )
            self.store.outbox.give_up(item, error=code)

    def _give_up_private(self, item: OutboxItem) -> None:
        log.warning("message %s is for %s alone, which is closed to us: not sent", item.id, item.channel)
        self.store.outbox.give_up(item, error="its private channel is closed")

    def _later(self, item: OutboxItem, error: str, seconds: float, *, counts: bool = True) -> None:
        if counts and item.tries + 1 >= MAX_TRIES:
            log.error("message %s given up after %s tries: %s", item.id, MAX_TRIES, error)
            self.store.outbox.give_up(item, error=error)
            return
        self._next_allowed[_lane(item)] = self.clock() + seconds
        self.store.outbox.later(item, due_at=self.clock() + seconds, error=error, counts=counts)


def _lane(item: OutboxItem) -> str:
    """Slack limits posts by channel and edits by card."""
    return f"edit {item.card}" if item.kind == "edit" else f"post {item.channel or item.person}"


def _backoff(tries: int) -> float:
    return float(min(2**tries, 300))


def _retry_after(error: SlackApiError) -> float | None:
    value = error.response.headers.get("Retry-After") or error.response.headers.get("retry-after")
    return float(value) if value and str(value).isdigit() else None
