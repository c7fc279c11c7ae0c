"""Sends the outbox to Slack: paces and retries messages, and edits cards in place. Nothing else posts to Slack.

Every error from Slack has one of five outcomes: try later, wait until a person has fixed the cause (an invitation, a
scope), post the card again, send the message elsewhere, or give up. The last two are reported to somebody another way.
A failed send never fails the work that it reports on, and doesn't hold up other messages for long.

Who reads a channel is asked when a message is sent, because a message may have waited for a day. Rows are posted only
while their channel is private, and what belongs to a private channel never goes to the fallback channel: it waits
until the channel is open again, and the person whom it concerns is told.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slack_sdk import WebClient
from slack_sdk.errors import SlackApiError

from bot import process_health
from bot.cards.common import general
from bot.health import metrics
from bot.posted_messages import PostedMessages, message_metadata
from bot.settings import Blocks
from bot.slack.api import APP_IS_LOCKED_OUT
from bot.slack.users import (
    NO_ANSWER,
    PASSING,
    UNCLEAR,
    ChannelFacts,
    SlackDirectory,
    read_channel,
    retry_after_s,
)
from storage.messages import PATIENT_TRIES, RETRY_S
from storage.records import Draft, OutboxItem, is_due
from storage.store import Store

log = logging.getLogger(__name__)
SECONDS_BETWEEN_POSTS = 1.05
SECONDS_BETWEEN_EDITS = 1.5  # of all cards together: Slack accepts about 50 a minute from an app
LEAST_BETWEEN_EDITS = 0.5  # after a late edit: with ticks of 1 s the average stays at 1.5 s
SETTLE_S = 5.0  # if Slack doesn't show a post after this time, it never will
MAX_TRIES = 320  # lasts about a day while Slack is away
ALONE_TRIES = 10  # for a message that fails while others get through: about half an hour
CARD_IS_GONE = frozenset({"message_not_found", "cant_update_message", "edit_window_closed", "is_inactive"})
CHANNEL_IS_CLOSED = frozenset({"is_archived", "channel_not_found", "not_in_channel", "restricted_action"})

BLOCKS_REFUSED = frozenset(
    {"invalid_blocks", "invalid_blocks_format", "msg_blocks_too_long", "unsupported_block"}
)
SCOPES = frozenset(
    {
        "app_mentions:read",
        "channels:read",
        "chat:write",
        "commands",
        "files:read",
        "files:write",
        "groups:read",
        "im:history",
        "im:write",
        "usergroups:read",
        "users:read",
    }
)
PRIVATE_AND_CLOSED = "its private channel is closed"
NO_LONGER_PRIVATE = "its channel is no longer private"
LEFT_THE_CHANNEL = "they are no longer in its channel"


@dataclass(frozen=True)
class _LoneFailures:
    """How often a message failed although others got through since its last try, and when it last failed."""

    tries: int
    at: float


class WrongReaders(Exception):
    """Others than those whom the message is for would read it; the text says why."""


class UnknownReaders(Exception):
    """Slack didn't say whether the person whom the message is for may still read it."""


@dataclass(frozen=True)
class _Readers:
    """Who may read what a message says: everybody (its channel is public), or at least the person it concerns."""

    is_public: bool
    includes_concerned: bool


class MaybePosted(Exception):
    """The message may be posted already; Slack will show it within `seconds`, if ever."""

    def __init__(self, seconds: float) -> None:
        super().__init__("it may be posted already; looking for it before sending it again")
        self.seconds = seconds


@dataclass
class OutboxSender:
    """Sends what is due in the outbox.

    `pace` in (0, 1] scales the pauses between messages; use less than 1 only with a Slack stand-in. `blocks` "newest"
    sends a message's newest form if it has one, until Slack refuses it once. `missing_scopes` are scopes
    of manifest.yml that the app was not granted.
    """

    store: Store
    slack: WebClient
    fallback_channel: str | None = None
    pace: float = 1.0
    blocks: Blocks = "classic"
    clock: Callable[[], float] = time.time
    settle_s: float = SETTLE_S
    missing_scopes: frozenset[str] = frozenset()
    _next_allowed: dict[str, float] = field(default_factory=dict)
    _next_edit: float = 0.0
    _edited_at: dict[str, float] = field(default_factory=dict)
    _uncertain_at: dict[int, float] = field(default_factory=dict)
    _sent_at: float = 0.0
    _lone_failures: dict[int, _LoneFailures] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._posted = PostedMessages(self.slack)
        self._directory = SlackDirectory(self.slack, None)
        self._started = self.clock()
        self._inherited = self.store.outbox.waiting_ids()

    def note_scopes(self, headers: Mapping[str, str]) -> None:
        """Reads the app's scopes from the headers of one of Slack's answers."""
        names = granted_scopes(headers)
        lacks = frozenset[str]()
        if names:  # a stand-in for Slack may report none
            lacks = SCOPES - names
        if lacks - self.missing_scopes:
            names_lacking = ", ".join(sorted(lacks))
            log.error("the app lacks the scopes %s: reinstall it from manifest.yml", names_lacking)
        self.missing_scopes = lacks

    def send_due(self) -> int:
        """Sends every message that may be sent now, and returns how many were sent.

        Edits share one rate limit: those that report a decision go first, then the channel that has waited longest.
        """
        heads = self.store.outbox.due(self.clock())
        posts = [item for item in heads if item.kind != "edit"]
        edits = [item for item in heads if item.kind == "edit"]
        edits.sort(key=lambda item: (item.progress, self._edited_at.get(item.lane, 0.0)))
        n_sent = 0
        for item in (*posts, *edits):
            if self._may_send_now(item) and self._send(item):
                n_sent += 1
        return n_sent

    def _may_send_now(self, item: OutboxItem) -> bool:
        now = self.clock()
        if item.kind == "edit" and not is_due(self._next_edit, now):
            return False
        return is_due(self._next_allowed.get(item.lane, 0.0), now)

    def _send(self, item: OutboxItem) -> bool:
        process_health.mark_step()
        now = self.clock()
        if item.kind == "edit":
            least = now + LEAST_BETWEEN_EDITS * self.pace
            after_the_last = min(self._next_edit, now) + SECONDS_BETWEEN_EDITS * self.pace
            self._next_edit = max(after_the_last, least)
            self._edited_at[item.lane] = now
        else:
            self._next_allowed[item.lane] = now + SECONDS_BETWEEN_POSTS * self.pace
        try:
            self._check_readers(item)
            channel, ts = self._deliver_with_fallback(item)
        except WrongReaders as others:
            self._refuse_readers(item, str(others))
            return False
        except UnknownReaders as unknown:
            self._retry_later(item, str(unknown), _backoff(item.tries))
            return False
        except MaybePosted as soon:
            self._retry_later(item, str(soon), soon.seconds, counts=False)
            return False
        except SlackApiError as error:
            self._handle_error(item, error)
            return False
        except FileNotFoundError as error:
            # Without its folder, as this text is posted too.
            name = Path(os.fsdecode(error.filename)).name
            self._give_up(item, f"its file is gone: {name}")
            return False
        except NO_ANSWER as error:
            self._retry_later(item, f"Slack did not answer: {error}", _backoff(item.tries))
            return False
        metrics.MESSAGES_SENT.labels(item.kind).inc()
        self._sent_at = self.clock()
        self._clear_state(item)
        self.store.outbox.mark_sent(item, channel=channel, ts=ts)
        return True

    def _check_readers(self, item: OutboxItem) -> None:
        """Raises WrongReaders if others than those whom the message is for would read it now, UnknownReaders if Slack
        doesn't say."""
        channel = self._channel_of(item)
        is_elsewhere = channel not in (None, item.channel)
        if is_elsewhere and (item.private or not self._is_public(item.channel)):
            raise WrongReaders(PRIVATE_AND_CLOSED)
        if not item.private:
            return
        if item.person is None:
            if not self._is_for_members(item.channel):
                raise WrongReaders(NO_LONGER_PRIVATE)
        elif not self._is_public(item.channel):
            is_member = self._is_member(item.person, item.channel)
            if is_member is None:
                raise UnknownReaders("Slack did not say who is in its channel")
            if not is_member:
                raise WrongReaders(LEFT_THE_CHANNEL)

    def _refuse_readers(self, item: OutboxItem, why: str) -> None:
        """Gives the message up. A card that an older version posted in another channel is posted in its own again."""
        if item.kind == "edit" and not item.private:
            metrics.MESSAGE_FAILURES.labels("posted_again").inc()
            self.store.outbox.repost(item, now=self.clock())
        else:
            self._give_up(item, why)

    def _is_public(self, channel: str) -> bool:
        """True if everybody in the workspace may read the channel now. Raises what Slack's client raises."""
        if _is_direct(channel):
            return False
        return not self._look_up_channel(channel).is_private

    def _is_for_members(self, channel: str) -> bool:
        """True if only its members, all of this organisation, read the channel now."""
        if _is_direct(channel):
            return True
        facts = self._look_up_channel(channel)
        return facts.is_private and not facts.is_shared

    def _is_known_public(self, channel: str) -> bool:
        """Like `_is_public`; a channel about which Slack says nothing counts as private."""
        try:
            return self._is_public(channel)
        except NO_ANSWER:
            return False

    def _is_member(self, person: str, channel: str) -> bool | None:
        """True if the person is in the channel now, None if Slack doesn't say."""
        if _is_direct(channel):
            return True
        return self._directory.is_member(person, channel)

    def _look_up_channel(self, channel: str) -> ChannelFacts:
        # Not by the directory, which returns None for every error: what is to be done depends on the error.
        answer: Any = self.slack.conversations_info(channel=channel)
        return read_channel(answer["channel"])

    def _deliver_with_fallback(self, item: OutboxItem) -> tuple[str, str | None]:
        """Sends the newest blocks if they are enabled; if Slack refuses them, which posts nothing, the classic ones. A
        card with rows goes without them to another channel than its own, and to its own if others read there now."""
        body = dict(item.body)
        newest = body.pop("newest", None)
        elsewhere = body.pop("elsewhere", None)
        if elsewhere:
            home = elsewhere["channel"]
            is_at_home = self._channel_of(item) == home and self._is_for_members(home)
            if not is_at_home:
                without_rows = {**body, "blocks": elsewhere["blocks"]}
                return self._deliver(replace(item, body=without_rows))
        if newest and self.blocks == "newest":
            try:
                in_newest = {**body, "blocks": newest}
                return self._deliver(replace(item, body=in_newest))
            except SlackApiError as error:
                if error.response.get("error") not in BLOCKS_REFUSED:
                    raise
                log.warning(
                    "Slack refused the newest blocks of message %s; using classic ones from now on", item.id
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
                channel = item.channel
                if item.person:
                    channel = self._direct(item)
                return self._upload(channel, item)

    def _channel_of(self, item: OutboxItem) -> str | None:
        """Returns the channel that a message will be read in, None for one to a person."""
        if item.kind == "edit":
            card = self.store.outbox.card(item.card or "")
            if card:
                return card.channel
        if item.person:
            return None
        channel, _ = self._find_destination(item.channel, item)
        return channel

    def _direct(self, item: OutboxItem) -> str:
        """Opens the direct conversation with the item's person and returns its id."""
        opened: Any = self.slack.conversations_open(users=item.person or "")
        return str(opened["channel"]["id"])

    def _post(self, channel: str, item: OutboxItem) -> tuple[str, str]:
        channel, thread = self._find_destination(channel, item)
        ts = self._find_posted(channel, thread, item)
        if ts is not None:
            if item.card:  # the card may have changed since it was sent
                self.slack.chat_update(channel=channel, ts=ts, **item.body)
            return channel, ts
        arguments = {
            **item.body,
            "channel": channel,
            "thread_ts": thread,
            "metadata": message_metadata(item),
        }
        with self._marking_uncertain(item):
            posted = self.slack.chat_postMessage(**arguments)
        self.note_scopes(posted.headers)
        return str(posted["channel"]), str(posted["ts"])

    def _upload(self, channel: str, item: OutboxItem) -> tuple[str, None]:
        channel, thread = self._find_destination(channel, item)
        if self._find_posted(channel, thread, item) is None:
            with self._marking_uncertain(item):
                self.slack.files_upload_v2(channel=channel, thread_ts=thread, **item.body)
        return channel, None

    @contextmanager
    def _marking_uncertain(self, item: OutboxItem) -> Iterator[None]:
        try:
            yield
        except SlackApiError as error:
            # Slack may have posted it before it failed.
            if error.response.status_code >= 500 or error.response.get("error") in UNCLEAR:
                self._uncertain_at[item.id] = self.clock()
            raise
        except NO_ANSWER:
            self._uncertain_at[item.id] = self.clock()
            raise

    def _find_posted(self, channel: str, thread: str | None, item: OutboxItem) -> str | None:
        """Returns the ts of the message if it is posted already. Raises MaybePosted if Slack may not show it yet."""
        since = self._uncertain_at.get(item.id)
        # A message that was waiting at our start may have been sent by the process before, whose end nobody saw.
        if since is None and item.id in self._inherited:
            since = self._started
        if since is None:
            return None
        look = self._posted.find(channel, thread, item)
        left_s = since + self.settle_s - self.clock()
        if look.was_allowed and look.ts is None and left_s > 0:
            raise MaybePosted(left_s)
        return look.ts

    def _find_destination(self, channel: str, item: OutboxItem) -> tuple[str, str | None]:
        """Returns channel and thread: a reply goes where its card is, which may be the fallback channel."""
        card = None
        if item.thread:
            card = self.store.outbox.card(item.thread)
        if card is None:
            return channel, item.body.get("thread_ts")
        return card.channel, card.ts

    def _handle_error(self, item: OutboxItem, error: SlackApiError) -> None:
        response = error.response
        code = str(response.get("error", "")) or f"HTTP {response.status_code}"
        if error.response.status_code == 429:
            # The whole lane waits; after an edit, all edits wait.
            seconds = retry_after_s(error) or _backoff(item.tries)
            if item.kind == "edit":
                self._next_edit = self.clock() + seconds
            else:
                self._next_allowed[item.lane] = self.clock() + seconds
            self._retry_later(item, code, seconds, limited=True)
        elif code in PASSING or error.response.status_code >= 500:
            self._retry_later(item, code, retry_after_s(error) or _backoff(item.tries))
        elif item.kind == "edit" and code in CARD_IS_GONE:
            metrics.MESSAGE_FAILURES.labels("posted_again").inc()
            self.store.outbox.repost(item, now=self.clock())
        elif code in APP_IS_LOCKED_OUT:
            self._retry_later(item, code, 60.0, counts=False)
        elif code == "missing_scope":
            self._wait_for_a_person(item, code, needed=error.response.get("needed"))
        elif item.kind == "ephemeral" and code in {*CHANNEL_IS_CLOSED, "user_not_in_channel"}:
            metrics.MESSAGE_FAILURES.labels("sent_elsewhere").inc()
            self.store.outbox.reroute(item, channel=item.channel, now=self.clock())  # as a direct message
        elif item.private and code in CHANNEL_IS_CLOSED:
            self._give_up(item, PRIVATE_AND_CLOSED)
        elif code in CHANNEL_IS_CLOSED and self._may_be_rerouted(item):
            log.warning(
                "message %s can't go to %s (%s); sending it to the fallback channel",
                item.id,
                item.channel,
                code,
            )
            metrics.MESSAGE_FAILURES.labels("sent_elsewhere").inc()
            self.store.outbox.reroute(item, channel=str(self.fallback_channel), now=self.clock())
        elif code in CHANNEL_IS_CLOSED:
            self._wait_for_a_person(item, code)
        else:
            self._give_up(item, code)

    def _may_be_rerouted(self, item: OutboxItem) -> bool:
        if self.fallback_channel in (None, item.channel):
            return False
        return self._is_known_public(item.channel)

    def _retry_later(
        self, item: OutboxItem, error: str, seconds: float, *, counts: bool = True, limited: bool = False
    ) -> None:
        tries = item.tries + int(counts)
        if counts:
            # A whole lane that is limited fails through no fault of this message.
            is_at_fault = not limited and self._fails_alone(item)
            if tries >= MAX_TRIES or is_at_fault:
                self._give_up(item, f"{error}, after {tries} tries")
                return
        if not counts or tries < PATIENT_TRIES:
            self._next_allowed[item.lane] = self.clock() + seconds
        metrics.MESSAGE_FAILURES.labels("postponed").inc()
        self.store.outbox.postpone(item, due_at=self.clock() + seconds, error=error, counts=counts)

    def _fails_alone(self, item: OutboxItem) -> bool:
        """True if Slack accepted other messages between many of this one's tries, so that the fault is this one's."""
        now = self.clock()
        before = self._lone_failures.get(item.id, _LoneFailures(0, now))
        tries = before.tries
        if self._sent_at > before.at:
            tries += 1
        self._lone_failures[item.id] = _LoneFailures(tries, now)
        return tries >= ALONE_TRIES

    def _wait_for_a_person(self, item: OutboxItem, code: str, *, needed: str | None = None) -> None:
        """Tries again for a day, while the lane's other messages go on."""
        if item.tries + 1 >= MAX_TRIES:
            self._give_up(item, code)
            return
        metrics.MESSAGE_FAILURES.labels("waits_for_a_person").inc()
        # Which scope is missing is told without a word about the message.
        readers = None if needed else self._readers_of(item)
        with self.store.transaction():
            if needed:
                self._report_missing_scope(item, needed)
            elif readers:
                self._report_failure(item, code, readers)
            self.store.outbox.postpone(item, due_at=self.clock() + RETRY_S, error=code)

    def _give_up(self, item: OutboxItem, error: str) -> None:
        log.error("message %s of kind %s to %s is given up: %s", item.id, item.kind, item.channel, error)
        metrics.MESSAGE_FAILURES.labels("given_up").inc()
        self._clear_state(item)
        readers = self._readers_of(item)
        with self.store.transaction():
            self.store.outbox.give_up(item, error=error)
            self._report_failure(item, error, readers)

    def _readers_of(self, item: OutboxItem) -> _Readers:
        """Looks up who may read what a message says, before the transaction that reports its failure."""
        is_public = self._is_known_public(item.channel)
        if item.concerns is None or item.private:
            return _Readers(is_public, includes_concerned=False)
        # Without an answer from Slack the person counts as no member.
        is_reader = is_public
        if not is_public:
            is_reader = self._is_member(item.concerns, item.channel) is True
        return _Readers(is_public, includes_concerned=is_reader)

    def _report_failure(self, item: OutboxItem, error: str, readers: _Readers) -> None:
        """Reports the failure once. What everybody may read is reported in the fallback channel if there is one; else a
        message to a channel is reported to the person whom it concerns, and a message to a person in the channel that
        it is about. A report about a private channel that concerns nobody goes to the fallback channel without a word
        of the message; Slack shows the channel's name to its members only."""
        is_for_a_person = item.person is not None
        if item.card:
            once = f"undelivered {item.card}"
        else:
            about = item.dedupe or item.thread or ""  # deleting a dataset finds its messages by this
            once = f"undelivered {about} {item.id} {item.created_at}"
        may_be_read = readers.is_public or readers.includes_concerned
        words = None
        if may_be_read and not item.private and not is_for_a_person:
            words = str(item.body.get("text") or "")
        target = f"<@{item.person}>" if is_for_a_person else f"<#{item.channel}>"
        body = general.undelivered_notice(target, error, words).body()
        has_fallback = self.fallback_channel not in (None, item.channel)
        belongs_to_nobody = not item.channel or _is_direct(item.channel)
        in_fallback = Draft("post", str(self.fallback_channel), body, dedupe=once, topic="receipts")
        if has_fallback and (readers.is_public or belongs_to_nobody):
            self._put(in_fallback)
        elif is_for_a_person:
            self._put(Draft("post", item.channel, body, dedupe=once, topic="receipts"))
        elif item.concerns:
            self._put(replace(in_fallback, kind="direct", channel=item.channel, person=item.concerns))
        elif has_fallback:
            self._put(in_fallback)

    def _report_missing_scope(self, item: OutboxItem, needed: str) -> None:
        """Reports a missing scope once a day. Slack refuses the method everywhere, so the report names no channel or
        person."""
        if item.tries == 0:
            log.error("the app lacks the scope %s: message %s to %s waits", needed, item.id, item.channel)
        channel = self.fallback_channel or item.channel
        body = general.missing_scope(needed).body()
        day = int(self.clock() // 86_400)
        once = f"missing scope {needed} {day}"
        self._put(Draft("post", channel, body, dedupe=once, topic="receipts"))

    def _put(self, draft: Draft) -> None:
        self.store.outbox.put(draft, now=self.clock())

    def _clear_state(self, item: OutboxItem) -> None:
        self._uncertain_at.pop(item.id, None)
        self._lone_failures.pop(item.id, None)
        self._inherited.discard(item.id)


def granted_scopes(headers: Mapping[str, str]) -> frozenset[str]:
    """Returns the scopes in an answer's headers; empty if Slack doesn't report them."""
    value_by_name = {name.lower(): str(value) for name, value in headers.items()}
    value = value_by_name.get("x-oauth-scopes", "")
    names = [name.strip() for name in value.split(",")]
    return frozenset(filter(None, names))


def _backoff(tries: int) -> float:
    return float(min(2**tries, 300))


def _is_direct(channel: str) -> bool:
    """True for a direct conversation with the bot, about which Slack can't be asked."""
    return channel.startswith("D")
