"""What a workflow step works with: the store, the trainers, workers, and the two things only Slack knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bot.asking.askers import Askers
from bot.decisions.approval import Person
from bot.provider_threads import ProviderThreads
from bot.results import Refusal
from bot.settings import Settings
from bot.waits import Waits
from bot.workers import Workers
from storage.records import Draft
from storage.store import Store
from trainers.client import Trainer


class FetchLater(Exception):
    """A file could not be fetched now and may be later."""


@dataclass(frozen=True)
class FetchedFile:
    path: Path
    name: str
    sha256: str


class Files(Protocol):
    def fetch(self, file_id: str, folder: Path, most: int) -> FetchedFile | Refusal: ...


class Directory(Protocol):
    def person(self, user_id: str) -> Person | None: ...

    def members(self, group_id: str) -> frozenset[str] | None: ...

    def is_private(self, channel: str) -> bool | None: ...

    def takes_posts(self, channel: str) -> bool | None: ...

    def is_member(self, person: str, channel: str) -> bool | None: ...

    def is_shared(self, channel: str) -> bool | None: ...

    def permalink(self, channel: str, ts: str) -> str | None: ...


class Backroom(Protocol):
    """The part of a desk that needs no Slack: the terminal has it too."""

    @property
    def settings(self) -> Settings: ...

    @property
    def store(self) -> Store: ...

    @property
    def trainers(self) -> Mapping[str, Trainer]: ...

    @property
    def clock(self) -> Callable[[], float]: ...


@dataclass(eq=False)
class Desk:
    """`settings` are replaced when a provider tells that models end (nightly.py), and by nothing else.

    `trainers` by provider name, only those that can be reached with what is configured. `troubles`: what is wrong
    with the installation now, by what it is about; /healthz tells it. `checked_at`: when that was looked at last."""

    settings: Settings
    store: Store
    trainers: Mapping[str, Trainer]
    workers: Workers
    askers: Askers
    threads: ProviderThreads
    files: Files
    directory: Directory
    clock: Callable[[], float]
    waits: Waits
    troubles: dict[str, str] = field(default_factory=dict)
    checked_at: dict[str, float] = field(default_factory=dict)

    def say(self, channel: str, body: Mapping[str, Any], *, dedupe: str | None = None) -> None:
        """Put a plain message into the outbox."""
        self.store.outbox.put(Draft(kind="post", channel=channel, body=body, dedupe=dedupe), now=self.clock())
