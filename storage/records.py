"""Rows as frozen values. Times are unix seconds, money is integer micro-dollars, JSON stays text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

DatasetState = Literal["received", "checking", "ready", "refused"]
RunState = Literal[
    "awaiting_approval",
    "approved",
    "creating",
    "training",
    "evaluating",
    "done",
    "rejected",
    "expired",
    "cancelled",
    "failed",
    "needs_human",
]
Decision = Literal["approve", "reject"]
LedgerKind = Literal["reserve", "settle", "release"]
OutboxKind = Literal["post", "edit", "ephemeral", "direct", "file"]
Arm = Literal["base", "tuned"]

OPEN_RUN_STATES: tuple[RunState, ...] = (
    "awaiting_approval",
    "approved",
    "creating",
    "training",
    "evaluating",
)


@dataclass(frozen=True)
class Dataset:
    """One version of a team's labelled examples. `source` is a Slack file id, or a path on this machine."""

    id: int
    name: str
    version: int
    state: DatasetState
    channel: str
    uploaded_by: str
    filename: str
    source: str
    text_column: str | None
    label_column: str | None
    sha256: str | None
    report: str | None
    refusal: str | None
    tries: int
    next_at: float
    created_at: float
    updated_at: float

    @property
    def title(self) -> str:
        return self.name if self.version == 1 else f"{self.name} (version {self.version})"


@dataclass(frozen=True)
class Run:
    """One plan on its way from request to result. `plan` is canonical JSON, its sha256 `plan_hash`."""

    id: int
    plan_hash: str
    plan: str
    key: str
    state: RunState
    dataset_id: int
    requester: str
    channel: str
    provider: str
    job_id: str | None
    file_id: str | None
    model: str | None
    tries: int
    next_at: float
    state_since: float
    progress: str | None
    result: str | None
    error: str | None
    reserved_micros: int
    actual_micros: int | None
    cancel_asked_by: str | None
    created_at: float
    updated_at: float


@dataclass(frozen=True)
class Approval:
    run_id: int
    plan_hash: str
    person: str
    decision: Decision
    reason: str | None
    at: float


@dataclass(frozen=True)
class AnswerRow:
    """What one arm answered to one held-out row."""

    run_id: int
    arm: Arm
    row: int
    text: str
    correct: bool
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True)
class Ask:
    """A person's `try MODEL text`, answered by the next tick."""

    id: int
    person: str
    channel: str
    model: str
    text: str
    created_at: float


@dataclass(frozen=True)
class Model:
    """A tuned model that a team can use by its name."""

    name: str
    run_id: int
    provider: str
    provider_model: str
    state: Literal["candidate", "promoted", "retired"]
    created_at: float


@dataclass(frozen=True)
class Draft:
    """A message to be sent: written in the transaction that makes it true, sent by the outbox.

    `card` names a message that is edited in place; `thread` names the card to reply under. `person`
    is set for ephemeral and direct messages. `dedupe` makes a second identical draft do nothing. A `private`
    one is for the members of its channel alone: it is lost before it goes elsewhere.
    """

    kind: OutboxKind
    channel: str
    body: Mapping[str, Any]
    dedupe: str | None = None
    card: str | None = None
    thread: str | None = None
    person: str | None = None
    private: bool = False


@dataclass(frozen=True)
class OutboxItem:
    id: int
    kind: OutboxKind
    channel: str
    person: str | None
    card: str | None
    thread: str | None
    private: bool
    body: dict[str, Any]
    tries: int
    due_at: float


@dataclass(frozen=True)
class Card:
    name: str
    channel: str
    ts: str


@dataclass(frozen=True)
class AuditEntry:
    id: int
    at: float
    who: str
    action: str
    subject: str
    detail: str
    previous: str
    hash: str
