"""Rows as frozen values. Times are unix seconds, money is in whole micro-dollars, JSON stays text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
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
# What a message is about, by which people and channels choose what they get (`/finetune notify`).
Topic = Literal[
    "results",
    "changes",
    "approvals",
    "money",
    "ends",
    "weekly",
    "problems",
    "answers",
    "questions",
    "receipts",
    "cards",
]
ComparedModel = Literal["base", "tuned"]
Wish = Literal["pause", "resume"]
MeasurementKind = Literal["ladder", "curve"]
COMPARISON: MeasurementKind = "ladder"  # the stored word for a comparison of candidates
MeasurementState = Literal["asked", "running", "done", "failed", "cancelled"]
DocumentState = Literal["received", "ready", "refused"]
DatasetOrigin = Literal["people", "teacher"]
LabellingState = Literal["received", "choosing", "open", "closing", "done", "cancelled", "failed"]

OPEN_RUN_STATES: tuple[RunState, ...] = (
    "awaiting_approval",
    "approved",
    "creating",
    "training",
    "evaluating",
)
# Word for word as in the index runs_open, which SQLite uses only then.
OPEN_RUN_SQL = "state IN ('awaiting_approval', 'approved', 'creating', 'training', 'evaluating')"


LONGEST_WAIT_S = 900.0
"""No wait is longer. One that appears longer was stored before the machine's clock was set back, and counts as over."""


def is_due(at: float, now: float) -> bool:
    """Returns True if the time `at` has come, even if the machine's clock was set back since."""
    return at <= now or at > now + LONGEST_WAIT_S


def due_sql(column: str) -> str:
    """Returns `is_due` as an SQL condition on a column. It has two parameters, both the current time."""
    return f"({column} <= ? OR {column} > ? + {LONGEST_WAIT_S})"


def unreported_sql(table: str, subject: str) -> str:
    """Returns a query for the rows that have had a result since a time (its parameter) but no report in the outbox yet.
    A report that its channel didn't want counts as posted. Rows of deleted datasets are left out."""
    once = f"'report of {subject} ' || {table}.id"
    return (
        f"SELECT {table}.* FROM {table} JOIN datasets ON datasets.id = dataset_id"  # noqa: S608
        f" WHERE {table}.state = 'done' AND {table}.result IS NOT NULL AND {table}.updated_at >= ?"
        " AND forgotten_at IS NULL"
        f" AND NOT EXISTS (SELECT 1 FROM outbox WHERE dedupe = {once})"
        f" AND NOT EXISTS (SELECT 1 FROM sent_once WHERE dedupe = {once})"
        f" AND NOT EXISTS (SELECT 1 FROM unwanted_messages WHERE dedupe = {once})"
    )


@dataclass(frozen=True)
class Dataset:
    """One version of a team's labelled examples. `source` is a Slack file id, or a path on this machine.

    The dataset belongs to the channel `owner`, where its first version was uploaded. `sources` are the channels that
    its rows came from, including held-out rows of earlier versions, separated by spaces. `origin` says whose labels the
    bot added to the previous version, None for an uploaded file. `sealed` is the number of rows that the uploader wants
    set aside for a promotion. `sheet` is the only sheet of a workbook that is read, None if nobody has chosen one.
    """

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
    owner: str
    sources: str
    forgotten_at: float | None = None
    origin: DatasetOrigin | None = None
    sealed: int = 0
    sheet: str | None = None

    @property
    def source_channels(self) -> frozenset[str]:
        return frozenset(self.sources.split())

    @property
    def title(self) -> str:
        return self.name if self.version == 1 else f"{self.name} (version {self.version})"


@dataclass(frozen=True)
class Run:
    """One plan on its way from request to result. `plan` is canonical JSON and `plan_hash` its sha256.

    `wish` is what a person wants the trainer to do with the job, until it has done so. `wished_by` is kept while the
    job is paused.
    """

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
    wish: Wish | None
    wished_by: str | None


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
    """The answer of one of a run's two models to one held-out row. All of a run's answers are stored at once. `came_at`
    is None in rows that are older than this column."""

    run_id: int
    arm: ComparedModel
    row: int
    text: str
    correct: bool
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    came_at: float | None = None


@dataclass(frozen=True)
class DatasetSettings:
    """A team's settings for all versions of a dataset; None means the default. `bar` is a share of right answers."""

    name: str
    bar: float | None
    task_kind: str | None
    prompt: str | None
    updated_by: str
    updated_at: float


@dataclass(frozen=True)
class Waiver:
    """A person's decision that a dataset with personal data may be sent to a vendor."""

    dataset_id: int
    person: str
    reason: str
    at: float


@dataclass(frozen=True)
class Cleaning:
    """A person's request for a cleaned copy of a dataset's file, answered at a later tick."""

    id: int
    dataset_id: int
    person: str
    at: float


@dataclass(frozen=True)
class Measurement:
    """An evaluation of alternatives on the holdout, or a learning curve. `plan` is the request, as JSON.

    Its money counts in `month` ('YYYY-MM'): the reservation while it is open, the actual cost afterwards.
    """

    id: int
    kind: MeasurementKind
    state: MeasurementState
    dataset_id: int
    channel: str
    requested_by: str
    plan: str
    progress: str | None
    result: str | None
    error: str | None
    month: str | None
    reserved_micros: int
    actual_micros: int | None
    cancel_asked_by: str | None
    tries: int
    next_at: float
    created_at: float
    updated_at: float


@dataclass(frozen=True)
class CachedAnswer:
    """A model's answer to one prompt. `key` is a hash of the model, the messages and the token limit, so that the same
    question is paid for once."""

    key: str
    model: str
    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    at: float


@dataclass(frozen=True)
class Document:
    """A document that a team uploaded for a dataset, in which retrieval looks things up."""

    id: int
    dataset: str
    filename: str
    source: str
    state: DocumentState
    channel: str
    uploaded_by: str
    sha256: str | None
    passages: int | None
    refusal: str | None
    tries: int
    next_at: float
    created_at: float
    updated_at: float


@dataclass(frozen=True)
class Preference:
    """One person's choice of the better of two candidates' answers to a held-out row."""

    measurement_id: int
    row: int
    first_arm: str
    second_arm: str
    person: str
    choice: Literal["first", "second", "tie"]
    at: float


@dataclass(frozen=True)
class HumanVerdict:
    """What one person said about an answer that a judge had judged: is it acceptable? `answer` is a hash of the
    question, the right answer and this one. `judged` is the judge's verdict. 'unsure' means that the person can't
    tell."""

    dataset: str
    judge: str
    measurement_id: int
    answer: str
    judged: Literal["yes", "no"]
    person: str
    verdict: Literal["yes", "no", "unsure"]
    at: float


@dataclass(frozen=True)
class Labelling:
    """A batch of up to `count` rows that people, or a model as the teacher, label.

    `dataset_id` is the version that the rows were chosen from or for. `source` is the Slack file with unlabelled rows,
    or says where they come from if it is none, and is None for training rows with a doubted label; `left_out` lines of
    that file can't be used. `teacher` is the model that labels them ('provider/model') in the measurement
    `measurement_id`, None if people do. `version_id` is the version that was made from the labels.
    """

    id: int
    dataset: str
    dataset_id: int
    channel: str
    person: str
    count: int
    filename: str | None
    source: str | None
    sha256: str | None
    teacher: str | None
    measurement_id: int | None
    left_out: int
    state: LabellingState
    closed_by: str | None
    version_id: int | None
    tries: int
    next_at: float
    created_at: float
    updated_at: float


@dataclass(frozen=True)
class LabellingRow:
    """A row to label. `key` is its question_key in hexadecimal, `given` its present label (None if it has none), and
    `likely` the label of similar rows."""

    labelling_id: int
    place: int
    key: str
    text: str
    given: str | None
    likely: str


@dataclass(frozen=True)
class RowLabel:
    """One person's, or the teacher's, label of a row. None means that the row should be dropped."""

    labelling_id: int
    place: int
    person: str
    label: str | None
    at: float


@dataclass(frozen=True)
class StoredEstimate:
    """An estimate that a person got. `asked` is the question as they would type it; a 'wanted' one is to be shared."""

    id: int
    dataset: str
    asked: str
    channel: str
    person: str
    state: Literal["shown", "wanted", "shared"]
    at: float


@dataclass(frozen=True)
class Ask:
    """A person's `try MODEL text`. `sent_at` is when it was sent to the model, `most_micros` its maximum cost.
    `is_priced` is False if it is older than the storing of costs. `promotion` is the number of what was in use if that
    is asked under its dataset's name, None for a tuned model."""

    id: int
    person: str
    channel: str
    model: str
    text: str
    created_at: float
    sent_at: float | None = None
    most_micros: int = 0
    is_priced: bool = True
    promotion: int | None = None


@dataclass(frozen=True)
class Model:
    """A tuned model under the name that people use. A 'promoted' one is in use, a 'retired' one was. `gone_at` is when
    its provider was found to have lost it."""

    name: str
    run_id: int
    provider: str
    provider_model: str
    state: Literal["candidate", "promoted", "retired"]
    created_at: float
    gone_at: float | None = None


@dataclass(frozen=True)
class Promotable:
    """What can be promoted: a tuned model by its name, or a `candidate`, as JSON, as this `measurement` measured it."""

    model: str | None = None
    candidate: str | None = None
    measurement: int | None = None


@dataclass(frozen=True)
class Draft:
    """A message to send, stored in the transaction of the fact that it reports.

    `topic` is what it is about: a person or a channel that doesn't want this topic isn't sent the message.
    `card` names a message that is edited in place; `thread` names the card to reply under. `person` is set for
    ephemeral and direct messages, and for a file that goes to one person. A second draft with the same `dedupe` does
    nothing. A `private` message is only for the members of its channel, or that person, and is dropped rather than sent
    elsewhere. `concerns` is the person to inform if it can't be delivered. `progress` marks an edit that only shows
    progress, so that decisions are sent first.
    """

    kind: OutboxKind
    channel: str
    body: Mapping[str, Any]
    dedupe: str | None = None
    card: str | None = None
    thread: str | None = None
    person: str | None = None
    private: bool = False
    concerns: str | None = None
    progress: bool = False
    topic: Topic = field(kw_only=True)

    @property
    def place(self) -> str:
        """The id of the person or the channel that the message is for."""
        return self.person or self.channel


@dataclass(frozen=True)
class OutboxItem:
    id: int
    kind: OutboxKind
    channel: str
    person: str | None
    dedupe: str | None
    card: str | None
    thread: str | None
    private: bool
    body: dict[str, Any]
    tries: int
    due_at: float
    created_at: float
    concerns: str | None
    progress: bool
    lane: str


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
