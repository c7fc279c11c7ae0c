"""What Slack delivered: kept before it is acked, until what it asks for is done; each once, also after a kill.

A delivery is done with the first transaction of the thread that handles it, so that its effect and its end are one.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from storage.database import Database

KEPT_S = 24 * 3600.0
SECRET = "token"  # noqa: S105 - the name of a key: Slack's old verification token comes with every delivery


@dataclass(frozen=True)
class Delivery:
    """One that was not done when its process ended. `body` is as Bolt parsed it; `tries`: how often it was replayed."""

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
        """Kept, and to be handled now. False where it is done, or somebody is at it: Slack repeats what it believes
        lost. One whose process was killed before it was done is handled when it comes again."""
        text = json.dumps({name: value for name, value in body.items() if name != SECRET})
        with self._lock, self._db.immediate():
            self._db.change("DELETE FROM deliveries WHERE at < ?", (now - KEPT_S,))
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
        """Said in the thread that handles it."""
        self._handled_here.delivery = delivery

    def end(self, delivery: str) -> None:
        """Handled, whatever came of it. What it said is kept no longer."""
        self._handled_here.delivery = None
        self._done(delivery)
        with self._lock:
            self._under_way.discard(delivery)

    def done_here(self) -> None:
        """Called inside a transaction: what this thread handles, if anything, is done with it."""
        delivery = getattr(self._handled_here, "delivery", None)
        if delivery:
            self._done(delivery)

    def waiting(self) -> list[Delivery]:
        """What was not done, oldest first: to be asked before new ones come in."""
        rows = self._db.rows(
            "SELECT id, at, body, tries FROM deliveries WHERE body IS NOT NULL ORDER BY at, id"
        )
        return [Delivery(**{**row, "body": json.loads(row["body"])}) for row in rows]

    def tried(self, delivery: str) -> None:
        """Written before it is replayed: one that ends its process each time is given up at last."""
        self._db.change("UPDATE deliveries SET tries = tries + 1 WHERE id = ?", (delivery,))

    def _done(self, delivery: str) -> None:
        self._db.change("UPDATE deliveries SET body = NULL WHERE id = ? AND body IS NOT NULL", (delivery,))
