"""Messages from and to Slack: deliveries, stored until they have been handled; posts and edits, stored until they have
been sent; and the topics that people and channels don't want."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.database import Database, Table
from storage.records import Card, Draft, OutboxItem, OutboxKind, Topic, due_sql

DELIVERY_KEPT_S = 24 * 3600.0
SLACK_TOKEN_FIELD = "token"  # noqa: S105 - the name of a key: Slack's old verification token comes with every delivery


@dataclass(frozen=True)
class Delivery:
    """A delivery that has not been handled yet. `body` is as Bolt parsed it; `tries` counts its replays."""

    id: str
    at: float
    body: Mapping[str, Any]
    tries: int


@dataclass(eq=False)
class _Arrival:
    """A delivery that waits to be stored. `is_new` says afterwards whether it has to be handled."""

    delivery: str
    text: str
    at: float
    is_new: bool | None = None


class Inbox:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._under_way: set[str] = set()
        self._lock = threading.Lock()
        self._arrivals: list[_Arrival] = []
        self._storing = threading.Lock()
        self._handled_here = threading.local()

    def receive(self, delivery: str, body: Mapping[str, Any], *, now: float) -> bool:
        """Stores a delivery. Returns False if it has been handled or is being handled, since Slack repeats deliveries.

        A delivery whose process was killed while handling it is handled when it comes again.
        """
        text = json.dumps({name: value for name, value in body.items() if name != SLACK_TOKEN_FIELD})
        arrival = _Arrival(delivery, text, now)
        # Before the lock is taken: the thread that holds it stores this one too.
        self._arrivals.append(arrival)
        with self._storing:
            try:
                # One thread stores what has arrived while it waited, for all of them: with a commit each, the last of
                # twenty people would wait for the disk twenty times.
                if arrival.is_new is None:
                    self._store_arrivals()
            finally:
                self._arrivals.remove(arrival)
        return bool(arrival.is_new)

    def _store_arrivals(self) -> None:
        # What another thread has stored is left out, although its own thread may still wait to leave: looked at a
        # second time, it would count as a repetition and never be handled.
        arrivals = [arrival for arrival in tuple(self._arrivals) if arrival.is_new is None]
        new: set[str] = set()
        with self._lock, self._db.immediate():
            self._db.change("DELETE FROM deliveries WHERE at < ?", (arrivals[-1].at - DELIVERY_KEPT_S,))
            for arrival in arrivals:
                self._db.change(
                    "INSERT INTO deliveries (id, at, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                    (arrival.delivery, arrival.at, arrival.text),
                )
                # A handled delivery keeps its row without a body, so that a repetition is recognised.
                sql = "SELECT body IS NOT NULL FROM deliveries WHERE id = ?"
                is_open = bool(self._db.value(sql, (arrival.delivery,)))
                is_handled = arrival.delivery in self._under_way or arrival.delivery in new
                if is_open and not is_handled:
                    new.add(arrival.delivery)
        # Only after the commit: what could not be stored is not being handled.
        with self._lock:
            self._under_way |= new
        for arrival in arrivals:
            arrival.is_new = arrival.delivery in new
            new.discard(arrival.delivery)

    def begin(self, delivery: str) -> None:
        """Notes which delivery the calling thread handles."""
        self._handled_here.delivery = delivery
        self._handled_here.has_effect = False

    @property
    def has_effect_here(self) -> bool:
        """True if the delivery that this thread handles has changed something."""
        return getattr(self._handled_here, "has_effect", False)

    @property
    def is_idle(self) -> bool:
        """True if no delivery is being handled."""
        with self._lock:
            return not self._under_way

    def end(self, delivery: str) -> None:
        """Marks the delivery as handled, whatever the outcome, and deletes its body."""
        self._handled_here.delivery = None
        # Before it counts as no longer handled: a repetition in between would be handled again.
        self._done(delivery)
        with self._lock:
            self._under_way.discard(delivery)

    def close_current(self) -> None:
        """Marks the delivery that this thread handles, if any, as handled. Call it in the transaction of its effect."""
        delivery = getattr(self._handled_here, "delivery", None)
        if delivery:
            self._handled_here.has_effect = True
            self._done(delivery)

    def waiting(self) -> list[Delivery]:
        """Returns the deliveries that were not handled, oldest first. Call it before new deliveries arrive."""
        rows = self._db.rows(
            "SELECT id, at, body, tries FROM deliveries WHERE body IS NOT NULL ORDER BY at, id"
        )
        return [Delivery(**{**row, "body": json.loads(row["body"])}) for row in rows]

    def count_try(self, delivery: str) -> None:
        """Counts a replay before it begins, so that a delivery that ends its process each time is eventually given
        up."""
        self._db.change("UPDATE deliveries SET tries = tries + 1 WHERE id = ?", (delivery,))

    def _done(self, delivery: str) -> None:
        self._db.change("UPDATE deliveries SET body = NULL WHERE id = ? AND body IS NOT NULL", (delivery,))


PATIENT_TRIES = 3
"""A failing message keeps its place in its lane for this many tries, so that a short outage doesn't change the
order."""
RETRY_S = 300.0
"""Seconds between two tries of a message that Slack refuses until somebody fixes the cause."""
LANE_SQL = """CASE WHEN kind = 'edit' THEN 'edits ' || channel
    WHEN kind = 'direct' OR (kind = 'file' AND person IS NOT NULL) THEN 'person ' || person
    ELSE 'posts ' || channel END"""


@dataclass(frozen=True)
class MessageSetting:
    """Whether a person or a channel (`place` is its id) gets messages of a topic, and who set that when."""

    place: str
    topic: Topic
    is_on: bool
    person: str
    at: float


class MessageSettings(Table):
    """What people and channels have switched off or on again. A topic without a setting is on."""

    def of(self, place: str) -> dict[Topic, MessageSetting]:
        rows = self._db.rows(
            "SELECT place, topic, is_on, person, at FROM message_settings WHERE place = ?", (place,)
        )
        return {row["topic"]: MessageSetting(**{**row, "is_on": bool(row["is_on"])}) for row in rows}

    def is_on(self, place: str, topic: Topic) -> bool:
        setting = self.of(place).get(topic)
        return setting is None or setting.is_on

    def set(self, place: str, topic: Topic, *, is_on: bool, by: str, now: float) -> bool:
        """Returns False, and keeps who set it, if it was set so already."""
        with self._db.immediate():
            if self.is_on(place, topic) == is_on:
                return False
            self._db.change(
                "INSERT INTO message_settings (place, topic, is_on, person, at) VALUES (?, ?, ?, ?, ?)"
                " ON CONFLICT (place, topic) DO UPDATE SET is_on = excluded.is_on, person = excluded.person,"
                " at = excluded.at",
                (place, topic, is_on, by, now),
            )
        return True


class Outbox(Table):
    """Messages to Slack, stored in the transaction of the fact that they report and sent later, each once.

    Every message has a topic. One whose person or channel has switched that off is dropped here, for good, and for this
    person or channel only.

    A card is a message that is edited in place. Only its newest text matters: a waiting post or edit gets the newer
    text, and a text that this process has just sent is not sent again.
    """

    def __init__(self, database: Database, settings: MessageSettings) -> None:
        super().__init__(database)
        self._settings = settings
        self._shown: dict[
            str, bytes
        ] = {}  # digests of the texts by card; a superfluous edit after a restart is harmless

    def put(self, draft: Draft, *, now: float) -> None:
        """Adds a message to send once. A second one with the same `dedupe` does nothing."""
        with self._db.immediate():
            if draft.dedupe is not None and self._was_sent(draft.dedupe):
                return
            if self._is_wanted(draft, draft.dedupe, now):
                self._add(draft.kind, draft, draft.dedupe, now)

    def show(
        self,
        card: str,
        channel: str,
        body: Mapping[str, Any],
        *,
        now: float,
        thread: str | None = None,
        private: bool = False,
        concerns: str | None = None,
        progress: bool = False,
        topic: Topic = "cards",
    ) -> None:
        """Posts a card, or edits it if it was posted; a waiting text is replaced. A card whose post was given up is
        posted again. The other arguments are those of a Draft. Only a card that just tells something has a topic of its
        own; people act on the others."""
        draft = Draft(
            "post", channel, body, None, card, thread, None, private, concerns, progress, topic=topic
        )
        text = _text(body)
        with self._db.immediate():
            # A waiting message keeps its place. A decision is not delayed when progress replaces its text.
            replaced = self._db.change(
                "UPDATE outbox SET body = ?, progress = progress AND ?"
                " WHERE state = 'due' AND card = ? AND kind IN ('edit', 'post')",
                (text, progress, card),
            )
            if replaced:
                return
            if self.card(card):
                if self._shown.get(card) != _digest(text):
                    self._add("edit", draft, None, now)
            elif self._is_wanted(draft, card, now):
                # A new post replaces one that was given up, by reusing its dedupe.
                sql = "SELECT dedupe FROM outbox WHERE card = ? AND state = 'dead'"
                self._add("post", draft, self._db.value(sql, (card,)) or card, now)

    def due(self, now: float) -> list[OutboxItem]:
        """Returns the first message of each lane, oldest first.

        A lane holds the messages to one place: the posts in a channel, the messages to one person, or the edits in a
        channel. A message that failed PATIENT_TRIES times comes after the others of its lane, and an edit that only
        shows progress after the other edits. Replies and edits come after the post of their card.
        """
        rows = self._db.rows(
            f"""
            SELECT id, kind, channel, person, dedupe, card, thread, private, body, tries, due_at, created_at,
                   concerns, progress, {LANE_SQL} AS lane
            FROM outbox WHERE id IN (
                SELECT id FROM (
                    SELECT id, row_number() OVER (
                        PARTITION BY {LANE_SQL}
                        ORDER BY tries >= {PATIENT_TRIES}, kind = 'edit' AND progress, id) AS place
                    FROM outbox item
                    WHERE state = 'due' AND {due_sql("due_at")}
                      AND NOT (kind = 'edit' AND NOT EXISTS (SELECT 1 FROM cards WHERE name = item.card))
                      AND NOT (thread IS NOT NULL
                               AND NOT EXISTS (SELECT 1 FROM cards WHERE name = item.thread)
                               AND EXISTS (SELECT 1 FROM outbox post
                                           WHERE post.card = item.thread AND post.state = 'due')))
                WHERE place = 1)
            ORDER BY id
            """,  # noqa: S608  constants
            (now, now),
        )
        for row in rows:
            flags = {name: bool(row[name]) for name in ("private", "progress")}
            row.update(flags, body=json.loads(row["body"]))
        return [OutboxItem(**row) for row in rows]

    def was_put(self, dedupe: str) -> bool:
        """Returns True if a message with this `dedupe` waits, was sent, or was dropped because nobody wanted it."""
        for table in ("outbox", "sent_once", "unwanted_messages"):
            sql = f"SELECT 1 FROM {table} WHERE dedupe = ?"  # noqa: S608  constants
            if self._db.value(sql, (dedupe,)) is not None:
                return True
        return False

    def files(self) -> set[str]:
        """Returns the paths of the files that are waiting to be sent."""
        rows = self._db.rows(
            "SELECT json_extract(body, '$.file') AS path FROM outbox WHERE state = 'due' AND kind = 'file'"
        )
        return {row["path"] for row in rows}

    def waiting_ids(self) -> set[int]:
        return {row["id"] for row in self._db.rows("SELECT id FROM outbox WHERE state = 'due'")}

    def waiting(self) -> int:
        return int(self._db.value("SELECT count(*) FROM outbox WHERE state = 'due'"))

    def mark_sent(self, item: OutboxItem, *, channel: str, ts: str | None) -> None:
        """Deletes a sent message except its `dedupe`, and stores where a card was posted, for later edits and
        replies."""
        with self._db.immediate():
            self._db.change(
                "INSERT OR IGNORE INTO sent_once SELECT dedupe FROM outbox WHERE id = ? AND dedupe IS NOT NULL",
                (item.id,),
            )
            if item.card:
                self._shown[item.card] = _digest(_text(item.body))
            # If its text was replaced while it was being sent, it stays due with the newer one.
            self._db.change("DELETE FROM outbox WHERE id = ? AND body = ?", (item.id, _text(item.body)))
            if item.kind == "post" and item.card and ts:
                self._db.change(
                    "INSERT INTO cards (name, channel, ts) VALUES (?, ?, ?)"
                    " ON CONFLICT (name) DO UPDATE SET channel = excluded.channel, ts = excluded.ts",
                    (item.card, channel, ts),
                )
                # What is still due is a newer text, which has to edit the card and not post it again.
                self._db.change("UPDATE outbox SET kind = 'edit' WHERE id = ? AND state = 'due'", (item.id,))

    def postpone(self, item: OutboxItem, *, due_at: float, error: str, counts: bool = True) -> None:
        """Postpones a message. `counts` is False if the message is not the cause, so that the try is not counted."""
        self._db.change(
            "UPDATE outbox SET due_at = ?, tries = tries + ?, error = ? WHERE id = ?",
            (due_at, int(counts), error, item.id),
        )

    def give_up(self, item: OutboxItem, *, error: str) -> None:
        """Gives up a message and deletes its body. A newer body that has replaced it stays due."""
        self._db.change(
            "UPDATE outbox SET state = 'dead', body = '{}', error = ? WHERE id = ? AND body = ?",
            (error, item.id, _text(item.body)),
        )

    def repost(self, item: OutboxItem, *, now: float) -> None:
        """Posts a card again whose message was deleted or can't be edited any more."""
        with self._db.immediate():
            self._db.change("DELETE FROM cards WHERE name = ?", (item.card,))
            self._db.change("UPDATE outbox SET kind = 'post', due_at = ? WHERE id = ?", (now, item.id))

    def reroute(self, item: OutboxItem, *, channel: str, now: float) -> None:
        """Redirects a message whose channel the bot can't post in to another channel, outside any thread. An ephemeral
        message becomes a direct message to its person."""
        self._db.change(
            "UPDATE outbox SET channel = ?, thread = NULL, kind = CASE kind WHEN 'edit' THEN 'post'"
            " WHEN 'ephemeral' THEN 'direct' ELSE kind END, due_at = ? WHERE id = ?",
            (channel, now, item.id),
        )

    def card(self, name: str) -> Card | None:
        return self._db.first(Card, "SELECT name, channel, ts FROM cards WHERE name = ?", (name,))

    def record_home(self, person: str, *, now: float) -> None:
        """Records that a person opened their App Home. It is stored as a card with the current time as its `ts`."""
        self._db.change(
            "INSERT INTO cards (name, channel, ts) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET ts = excluded.ts",
            (f"home {person}", person, f"{now:.6f}"),
        )

    def homes(self, since: float) -> list[str]:
        """Returns the people who have opened their App Home since `since`, most recent first."""
        rows = self._db.rows(
            # A range of names, as LIKE would read every card that was ever posted; '!' comes after the space.
            "SELECT channel FROM cards WHERE name > 'home ' AND name < 'home!' AND CAST(ts AS REAL) >= ?"
            " ORDER BY ts DESC",
            (since,),
        )
        return [row["channel"] for row in rows]

    def is_waiting(self, card: str) -> bool:
        """Returns True if a message of this card is waiting to be sent."""
        return bool(self._db.value("SELECT 1 FROM outbox WHERE card = ? AND state = 'due'", (card,)))

    def is_shown(self, card: str) -> bool:
        """Returns True if the card is posted or is about to be."""
        return self.card(card) is not None or self.is_waiting(card)

    def _is_wanted(self, draft: Draft, dedupe: str | None, now: float) -> bool:
        """Returns False if its person or channel doesn't want the message, and remembers that: what was dropped stays
        dropped when they switch its topic on."""
        if dedupe is not None:
            sql = "SELECT 1 FROM unwanted_messages WHERE dedupe = ? AND place = ?"
            if self._db.value(sql, (dedupe, draft.place)) is not None:
                return False
        if self._settings.is_on(draft.place, draft.topic):
            return True
        if dedupe is not None:
            self._db.insert("unwanted_messages", {"dedupe": dedupe, "place": draft.place, "at": now})
        return False

    def _add(self, kind: OutboxKind, draft: Draft, dedupe: str | None, now: float) -> None:
        self._db.change(
            "INSERT INTO outbox (kind, channel, person, card, thread, private, body, dedupe,"
            " concerns, progress, due_at, created_at)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (dedupe) DO UPDATE SET state = 'due',"
            " tries = 0, channel = excluded.channel, thread = excluded.thread, body = excluded.body,"
            " created_at = excluded.created_at, due_at = max(excluded.due_at, due_at + ?)"
            " WHERE state = 'dead' AND card IS NOT NULL",
            (
                kind,
                draft.channel,
                draft.person,
                draft.card,
                draft.thread,
                draft.private,
                _text(draft.body),
                dedupe,
                draft.concerns,
                draft.progress,
                now,
                now,
                RETRY_S,
            ),
        )

    def _was_sent(self, dedupe: str) -> bool:
        return self._db.value("SELECT 1 FROM sent_once WHERE dedupe = ?", (dedupe,)) is not None


def _text(body: Mapping[str, Any]) -> str:
    return json.dumps(dict(body))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
