"""The context that every service gets: settings, store, trainers, workers, and access to Slack's files and people.
Built in `app`; imports no service."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Protocol

from bot.cards.common.blocks import Message
from bot.llm_client import LlmClient
from bot.provider_threads import ProviderThreads
from bot.questions.model_prompt import CommandSchema
from bot.rules import units
from bot.rules.permissions import Person
from bot.settings import Settings
from bot.values.runs import Refusal
from bot.worker_pool import WorkerPool
from storage.database import Stopped as Stopped  # for bot.slack and the scheduler, which import no storage
from storage.questions import PlainOutcome
from storage.questions import PlainQuestion as PlainQuestion  # for bot.slack, too
from storage.records import Draft, Topic
from storage.store import Store
from trainers.client.client import Trainer
from trainers.client.vendor_bills import Billing
from trainers.deployments.port import Deployments


class WaitClock:
    """Measures how long something has been waiting, even if the system clock is set meanwhile. `clock` gives unix
    seconds; `steady` is a monotonic clock."""

    def __init__(self, clock: Callable[[], float], steady: Callable[[], float]) -> None:
        self._clock = clock
        self._steady = steady
        self._known: dict[float, tuple[float, float]] = {}

    def begin(self, at: float) -> None:
        """Notes that a wait begins at `at` (unix seconds), which is now: `since` is exact from here on."""
        self.since(at)

    def since(self, at: float) -> float:
        """Returns the seconds since `at` (unix seconds). If the wait's beginning was not noted, as after a restart, it
        is exact from the first call for this `at`."""
        now = self._steady()
        # Never less than nothing, as the clock may have been set back.
        passed = max(self._clock() - at, 0.0)
        before, known_at = self._known.setdefault(at, (passed, now))
        return before + now - known_at


class FetchLater(Exception):
    """A file can't be fetched now, but may be later."""


@dataclass(frozen=True)
class FetchedFile:
    path: Path
    name: str
    sha256: str


class Files(Protocol):
    """Files that people gave the bot in Slack; bot/slack/files.py."""

    def fetch(self, file_id: str, folder: Path, most: int) -> FetchedFile | Refusal: ...


class Directory(Protocol):
    """Look-ups of people, groups and channels in Slack; bot/slack/users.py says what each returns."""

    def person(self, user_id: str) -> Person | None: ...

    def name(self, user_id: str) -> str: ...

    def time_zone(self, user_id: str) -> str | None: ...

    def members(self, group_id: str) -> frozenset[str] | None: ...

    def is_private(self, channel: str) -> bool | None: ...

    def takes_posts(self, channel: str) -> bool | None: ...

    def is_member(self, person: str, channel: str) -> bool | None: ...

    def is_shared(self, channel: str) -> bool | None: ...

    def permalink(self, channel: str, ts: str) -> str | None: ...


class RecentDirectory(Directory, Protocol):
    """Answers of the last minutes, for what people read; bot/slack/recent_answers.py. Whatever gives somebody something
    asks the Directory, which asks Slack."""

    def forget_channel(self, channel: str) -> None: ...

    def forget_group(self, group_id: str) -> None: ...


@dataclass(frozen=True)
class ReadQuestion:
    """What a question in plain words got, and the messages that answer it, in their order."""

    outcome: PlainOutcome
    messages: tuple[Message, ...]


class Commands(Protocol):
    """Slack's commands, which stand above the services, for questions in plain words;
    bot/slack/question_answers.py."""

    def schemas(self) -> tuple[CommandSchema, ...]: ...

    def read(self, context: AppContext, question: PlainQuestion, answer: str) -> ReadQuestion:
        """Checks what a model answered, and runs the command if it only reads, with the asker's rights."""

    def by_words(self, context: AppContext, question: PlainQuestion, why: str) -> Message:
        """Returns the commands whose words are nearest. `why` says, in mrkdwn, why no model chose."""


class CoreContext(Protocol):
    """The part of the context that needs no Slack, so that the terminal can provide it too."""

    @property
    def settings(self) -> Settings: ...

    @property
    def store(self) -> Store: ...

    @property
    def trainers(self) -> Mapping[str, Trainer]: ...

    @property
    def deployments(self) -> Mapping[str, Deployments]: ...

    @property
    def clock(self) -> Callable[[], float]: ...

    def audit(self, who: str, action: str, subject: str, detail: str = "") -> None: ...


@dataclass(eq=False)
class AppContext:
    """Everything that services need.

    `settings` are replaced when a provider announces that models end (reconciler.py) or the price of a machine's hour
    (services/common/hourly_prices.py), and by nothing else. `trainers` are by provider name, only for providers with a
    key; `deployments` are those that run models by the hour or by the token, and `billing` those whose bills we may
    read (empty in the terminal, which books nothing). `troubles` are the installation's current
    problems by subject, for /healthz; `started_at` is the process' start and `checked_at` says when each subject was
    last checked, both in unix seconds. `answers_programs` says whether programs that call what is in use get an answer,
    by the last look. `commands` are Slack's.
    """

    settings: Settings
    store: Store
    trainers: Mapping[str, Trainer]
    deployments: Mapping[str, Deployments]
    workers: WorkerPool
    llm: LlmClient
    threads: ProviderThreads
    files: Files
    directory: Directory
    recent: RecentDirectory
    clock: Callable[[], float]
    waits: WaitClock
    started_at: float
    answers_programs: Callable[[], bool]
    commands: Commands
    billing: Mapping[str, Billing] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    checked_at: dict[str, float] = field(default_factory=dict)

    def audit(self, who: str, action: str, subject: str, detail: str = "") -> None:
        """Records in the audit log what a person, or "finetune" itself, did. Call it in the same transaction."""
        self.store.audit.add(at=self.clock(), who=who, action=action, subject=subject, detail=detail)

    def wants(self, topic: Topic, place: str) -> bool:
        """Returns whether a person or a channel (`place` is its id) gets messages of this topic. The outbox drops the
        others by itself; this is for code that says something elsewhere instead."""
        return self.store.message_settings.is_on(place, topic)

    def send(self, draft: Draft) -> None:
        """Puts a message into the outbox, unless its person or channel doesn't want its topic."""
        self.store.outbox.put(draft, now=self.clock())

    def post(self, channel: str, body: Mapping[str, Any], *, topic: Topic, dedupe: str | None = None) -> None:
        """Puts a plain message into the outbox, unless the channel doesn't want its topic."""
        self.send(Draft("post", channel, body, dedupe=dedupe, topic=topic))

    def show(
        self,
        card: str,
        channel: str,
        message: Message,
        *,
        concerns: str | None = None,
        thread: str | None = None,
        private: bool = False,
        progress: bool = False,
        topic: Topic = "cards",
    ) -> None:
        """Posts this card, or edits it if it is posted already; see Outbox.show."""
        self.store.outbox.show(
            card,
            channel,
            message.letter(),
            now=self.clock(),
            thread=thread,
            private=private,
            concerns=concerns,
            progress=progress,
            topic=topic,
        )

    def link(self, card: str, text: str) -> str:
        """Returns `text` as a link to the card's message. Returns the bare text if the card isn't posted yet or the
        workspace's address is unknown."""
        posted = self.store.outbox.card(card)
        address = self.directory.permalink(posted.channel, posted.ts) if posted else None
        return f"<{address}|{text}>" if address else text

    def today(self) -> date:
        return units.day_of(self.clock())
