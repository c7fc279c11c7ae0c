"""Slack messages both ways: deliveries kept until they are handled once, and posts and edits until they are
sent once."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.database import Database, Table
from storage.records import Card, Draft, OutboxItem, OutboxKind, due_sql

DELIVERY_KEPT_S = 24 * 3600.0
SLACK_TOKEN_FIELD = "token"  # noqa: S105 - the name of a key: Slack's old verification token comes with every delivery


@dataclass(frozen=True)
class Delivery:
    """A delivery that is not handled yet. `body` is as Bolt parsed it; `tries`: how often it was replayed."""

    id: str
    at: float
    body: Mapping[str, Any]
    tries: int


class Inbox:
    def __init__(self, database: Database) -> None:
        self._db = database
        self._under_way: set[str] = set()
        self._lock = threading.Lock()
        self._handled_here = threading.local()

    def receive(self, delivery: str, body: Mapping[str, Any], *, now: float) -> bool:
        """Stores a delivery and returns whether to handle it. False: it is done or under way, as Slack repeats what it
        believes lost. If its process was killed before it was done, it is handled when it comes again."""
        text = json.dumps({name: value for name, value in body.items() if name != SLACK_TOKEN_FIELD})
        with self._lock, self._db.immediate():
            self._db.change("DELETE FROM deliveries WHERE at < ?", (now - DELIVERY_KEPT_S,))
            self._db.change(
                "INSERT INTO deliveries (id, at, body) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (delivery, now, text),
            )
            is_open = self._db.value("SELECT body IS NOT NULL FROM deliveries WHERE id = ?", (delivery,))
            if not is_open or delivery in self._under_way:
                return False
            self._under_way.add(delivery)
        return True

    def begin(self, delivery: str) -> None:
        """Call it in the thread that handles the delivery."""
        self._handled_here.delivery = delivery

    def end(self, delivery: str) -> None:
        """Marks it as handled, whatever the outcome, and deletes its body."""
        self._handled_here.delivery = None
        self._done(delivery)
        with self._lock:
            self._under_way.discard(delivery)

    def close_current(self) -> None:
        """Closes the delivery that this thread handles, if any, in the transaction that carries it out."""
        delivery = getattr(self._handled_here, "delivery", None)
        if delivery:
            self._done(delivery)

    def waiting(self) -> list[Delivery]:
        """Returns what was not handled, oldest first. Call it before new deliveries come in."""
        rows = self._db.rows(
            "SELECT id, at, body, tries FROM deliveries WHERE body IS NOT NULL ORDER BY at, id"
        )
        return [Delivery(**{**row, "body": json.loads(row["body"])}) for row in rows]

    def count_try(self, delivery: str) -> None:
        """Counts a replay before it begins, so that a delivery that ends its process each time is given up at last."""
        self._db.change("UPDATE deliveries SET tries = tries + 1 WHERE id = ?", (delivery,))

    def _done(self, delivery: str) -> None:
        self._db.change("UPDATE deliveries SET body = NULL WHERE id = ? AND body IS NOT NULL", (delivery,))


PATIENT_TRIES = 3
"""How often a lane waits for a message that fails, which keeps the order through a short outage of Slack's."""
RETRY_S = 300.0
"""Seconds between two tries of what Slack refuses until somebody fixes it."""
LANE_SQL = """CASE WHEN kind = 'edit' THEN 'edits ' || channel
    WHEN kind = 'direct' OR (kind = 'file' AND person IS NOT NULL) THEN 'person ' || person
    ELSE 'posts ' || channel END"""


class Outbox(Table):
    """Messages on their way to Slack: written in the transaction of the fact they report, sent later, each once.

    A card is a message that is edited in place. Only its newest text matters: one that still waits is replaced by the
    next, in an edit and in a first post alike, and one that this process sent last is not sent again."""

    def __init__(self, database: Database) -> None:
        super().__init__(database)
        self._shown: dict[str, bytes] = {}  # digests by card; after a restart an edit too many does no harm

    def put(self, draft: Draft, *, now: float) -> None:
        """Adds a message that is sent once; a second one with the same `dedupe` does nothing."""
        with self._db.immediate():
            if draft.dedupe is None or not self._was_sent(draft.dedupe):
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
    ) -> None:
        """Posts this card, or edits it where it is posted; a text that still waits is replaced. A card whose post was
        given up is posted again. The other arguments are those of a Draft."""
        draft = Draft("post", channel, body, None, card, thread, None, private, concerns, progress)
        text = _text(body)
        with self._db.immediate():
            # What waits keeps its place. If it is a decision, the progress that replaces its text doesn't delay it.
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
            else:
                # A new post takes the place of one that was given up, by its dedupe.
                sql = "SELECT dedupe FROM outbox WHERE card = ? AND state = 'dead'"
                self._add("post", draft, self._db.value(sql, (card,)) or card, now)

    def due(self, now: float) -> list[OutboxItem]:
        """Returns the head of each lane, oldest first.

        A lane is what goes to one place: the posts of a channel, what one person alone gets, the edits in a channel.
        What failed PATIENT_TRIES times goes behind the others of its lane, and an edit that only shows progress behind
        the other edits. What belongs to a thread or a card comes after the card's own post.
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
        waits = self._db.value("SELECT 1 FROM outbox WHERE dedupe = ?", (dedupe,)) is not None
        return waits or self._was_sent(dedupe)

    def files(self) -> set[str]:
        """Returns the paths of the files that wait to be sent."""
        rows = self._db.rows(
            "SELECT json_extract(body, '$.file') AS path FROM outbox WHERE state = 'due' AND kind = 'file'"
        )
        return {row["path"] for row in rows}

    def waiting_ids(self) -> set[int]:
        return {row["id"] for row in self._db.rows("SELECT id FROM outbox WHERE state = 'due'")}

    def waiting(self) -> int:
        return int(self._db.value("SELECT count(*) FROM outbox WHERE state = 'due'"))

    def mark_sent(self, item: OutboxItem, *, channel: str, ts: str | None) -> None:
        """Deletes a message that was sent, but for its dedupe. Where a card was posted is kept for later edits and
        replies."""
        with self._db.immediate():
            self._db.change(
                "INSERT OR IGNORE INTO sent_once SELECT dedupe FROM outbox WHERE id = ? AND dedupe IS NOT NULL",
                (item.id,),
            )
            if item.card:
                self._shown[item.card] = _digest(_text(item.body))
            # An edit replaced while it was under way stays due with its newer body.
            self._db.change("DELETE FROM outbox WHERE id = ? AND body = ?", (item.id, _text(item.body)))
            if item.kind == "post" and item.card and ts:
                self._db.change(
                    "INSERT INTO cards (name, channel, ts) VALUES (?, ?, ?)"
                    " ON CONFLICT (name) DO UPDATE SET channel = excluded.channel, ts = excluded.ts",
                    (item.card, channel, ts),
                )
                self._db.change("UPDATE outbox SET kind = 'edit' WHERE id = ? AND state = 'due'", (item.id,))

    def postpone(self, item: OutboxItem, *, due_at: float, error: str, counts: bool = True) -> None:
        """Postpones a message. `counts` is False if the message itself is not the reason."""
        self._db.change(
            "UPDATE outbox SET due_at = ?, tries = tries + ?, error = ? WHERE id = ?",
            (due_at, int(counts), error, item.id),
        )

    def give_up(self, item: OutboxItem, *, error: str) -> None:
        """Gives up and deletes this body; a newer one that has replaced it meanwhile stays due."""
        self._db.change(
            "UPDATE outbox SET state = 'dead', body = '{}', error = ? WHERE id = ? AND body = ?",
            (error, item.id, _text(item.body)),
        )

    def repost(self, item: OutboxItem, *, now: float) -> None:
        """Posts a card again whose message is gone or closed for edits."""
        with self._db.immediate():
            self._db.change("DELETE FROM cards WHERE name = ?", (item.card,))
            self._db.change("UPDATE outbox SET kind = 'post', due_at = ? WHERE id = ?", (now, item.id))

    def reroute(self, item: OutboxItem, *, channel: str, now: float) -> None:
        """Sends a message whose channel is closed to us to another channel, not into a thread there. What only one
        person may see goes to that person."""
        self._db.change(
            "UPDATE outbox SET channel = ?, thread = NULL, kind = CASE kind WHEN 'edit' THEN 'post'"
            " WHEN 'ephemeral' THEN 'direct' ELSE kind END, due_at = ? WHERE id = ?",
            (channel, now, item.id),
        )

    def card(self, name: str) -> Card | None:
        return self._db.first(Card, "SELECT name, channel, ts FROM cards WHERE name = ?", (name,))

    def record_home(self, person: str, *, now: float) -> None:
        """Remembers who looks at their App Home: it is kept among the cards, with the time in place of a message's."""
        self._db.change(
            "INSERT INTO cards (name, channel, ts) VALUES (?, ?, ?) ON CONFLICT (name) DO UPDATE SET ts = excluded.ts",
            (f"home {person}", person, f"{now:.6f}"),
        )

    def homes(self, since: float) -> list[str]:
        """Returns the people who have opened their App Home since then."""
        rows = self._db.rows(
            "SELECT channel FROM cards WHERE name LIKE 'home %' AND CAST(ts AS REAL) >= ? ORDER BY ts DESC",
            (since,),
        )
        return [row["channel"] for row in rows]

    def is_waiting(self, card: str) -> bool:
        """Returns whether a message of this card is still to be sent."""
        return bool(self._db.value("SELECT 1 FROM outbox WHERE card = ? AND state = 'due'", (card,)))

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
