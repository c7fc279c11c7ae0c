"""The outbox's sender with a store, the Slack emulator and a clock that only tests move, so that nothing sleeps."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bot.outbox_sender import OutboxSender
from bot.slack.api import SlackAnswers, WatchedClient
from demo.people import ANA, BOT, TICKETS
from demo.slack_emulator import SlackEmulator
from demo.workspace import Channel
from storage.records import Draft, OutboxKind
from storage.store import Store

OTHERS = Channel("C0OPS", "ml-ops", (ANA.id, BOT.id))


class OutboxHarness:
    def __init__(self, store: Store, slack: SlackEmulator, fallback: str | None = OTHERS.id) -> None:
        self.now = 1_000.0
        self.store = store
        self.slack = slack
        access = slack.access
        self.answers = SlackAnswers(lambda: self.now)
        client = WatchedClient(access.bot_token, access.api_url, 5, self.answers)
        self.sender = OutboxSender(store, client, fallback, clock=lambda: self.now)

    def put(self, kind: OutboxKind = "post", text: str = "x", **rest: Any) -> None:
        values: dict[str, Any] = {"channel": TICKETS.id, "body": {"text": text}, "topic": "results", **rest}
        self.store.outbox.put(Draft(kind=kind, **values), now=self.now)

    def show(self, card: str, text: str, *, channel: str = TICKETS.id, progress: bool = False) -> None:
        self.store.outbox.show(card, channel, {"text": text}, now=self.now, progress=progress)

    def send_after(self, seconds: float) -> int:
        """Lets time pass and sends what is due; returns how many messages were sent."""
        self.now += seconds
        return self.sender.send_due()

    def send_times(self, times: int, seconds: float) -> None:
        for _ in range(times):
            self.send_after(seconds)

    def set_tries(self, tries: int) -> None:
        """Leaves every waiting message as if it had been tried that often."""
        self.store.database.change("UPDATE outbox SET tries = ? WHERE state = 'due'", (tries,))

    def restart(self) -> None:
        """Begins with a new sender, as after a kill."""
        self.sender = OutboxSender(self.store, self.sender.slack, clock=lambda: self.now)

    def waiting(self) -> int:
        return self.store.outbox.waiting()

    def texts(self, channel: str = TICKETS.id) -> list[str]:
        return [message.text for message in self.slack.messages(channel)]

    def direct_texts(self, person: str = ANA.id) -> list[str]:
        return self.texts(self.slack.dm(person))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "finetune.db")
    yield store
    store.close()


@pytest.fixture
def outbox(store: Store, slack: SlackEmulator) -> OutboxHarness:
    """Needs a fixture `slack`."""
    return OutboxHarness(store, slack)
