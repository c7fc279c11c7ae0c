"""What passes between the bot and a trainer: frozen values, in the words of OpenAI's fine-tuning API."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal

from trainers.hyperparameters import Sweep
from trainers.typed_tables import SET_BY_CALLER, Key, Limits

Ability = Literal[
    "metadata",  # a job keeps our metadata; else our key travels at the end of the suffix
    "metadata_filter",  # jobs.list(metadata=…) filters on the server
    "idempotency",  # honours Idempotency-Key on create
    "extra_hyperparameters",  # lora_r, lora_alpha, … beside n_epochs
    "method",  # takes `method: {type: supervised}`, else top-level `hyperparameters`
    "dpo",  # takes `method: {type: dpo}` and a file of preference pairs in OpenAI's form
    "suffix",
    "checkpoints",
    "progress",  # trained_steps / total_steps / estimated_finish on the job
    "pause",  # a job can be paused, and goes on from where it was when it is resumed
    "early_stopping",  # takes patience beside a validation file, and serves the best checkpoint
    "sweep",  # takes a grid of hyperparameters as one job, and a validation file that chooses between its arms
    "chat",  # serves the tuned model under /chat/completions; alone: it answers questions and trains nothing
    "aliases",  # a name that we choose can stand for a model, and for another one later: /aliases
    "job_deletion",  # a job that has ended can be deleted with its rows and its model
    "expires_after",  # takes a date of expiry with an upload
    "estimate",  # says beforehand what a job will cost
    "own_id",  # the job's id is ours, so that a create that is sent twice makes one job
    "deploy",  # a tuned model answers once it is deployed, and costs by the hour until that is stopped
    "limits",  # says of a model what its hyperparameters may be
]
Dialect = Literal["openai", "together", "fireworks"]

Hyperparameter = int | float | str
Role = Literal["system", "developer", "user", "assistant", "tool"]

QUEUED_STATUSES = frozenset({"validating_files", "queued"})
FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})
KNOWN_STATUSES = QUEUED_STATUSES | FINAL_STATUSES | {"running", "paused"}


SUFFIX_LENGTH = 64  # OpenAI's most
LEAST_SUFFIX = 24  # a mark of 16 characters, a dash, and something to read before it
DeployApi = Literal["crusoe", "fireworks", "together"]

PositiveInt = Annotated[int, Limits(gt=0)]
Address = Annotated[str, re.compile("|https?://.*")]
ADDRESS = "an address that starts with https:// (or http://)"
Variable = Annotated[str, re.compile(r"[A-Z_][A-Z0-9_]*")]
NumberLists = Mapping[
    str,
    Annotated[
        tuple[float, ...],
        Key(wants="numbers: [least, most], or all values where there are more than two, or [] for none"),
    ],
]

JobState = Literal["queued", "paused", "resumed"]


@dataclass(frozen=True)
class Provider:
    """How to talk to a trainer, as a row of configuration says it. `base_url` ends in /v1; `key_env` names the key's
    variable, `account_env` that of `account`, which stands for {account} in the addresses. `deploy_api`: by which API a
    tuned model is put on a machine that answers for it, at `deploy_base_url` or else `base_url`.

    `model_lookup`: "catalogue" where a job wants the id that the list of models gives beside the name.
    `hyperparameter_names`: theirs by ours. `hyperparameter_limits`: two numbers are a range, more are the only values,
    none means that it isn't taken. `suffix_characters`: those that a suffix may have beside letters and digits; None:
    any. `create_extra` goes into each request for a job, `chat_extra` into each question. `bom`: an upload begins with
    a byte order mark.
    """

    name: Annotated[str, SET_BY_CALLER] = ""
    base_url: Annotated[
        Address, Key(required='the address of the API, like "https://gpu-box.example/v1"', wants=ADDRESS)
    ] = ""
    key_env: Annotated[
        Variable | None,
        # What is none may be the key itself.
        Key(
            wants="the name of the environment variable that holds the key, like OPENAI_API_KEY",
            is_secret=True,
        ),
    ] = None
    abilities: Annotated[frozenset[Ability], Key(wants='abilities, like ["metadata", "chat"]')] = frozenset()
    timeout_s: Annotated[float, Limits(gt=0)] = 30.0
    dialect: Dialect = "openai"
    chat_base_url: Annotated[Address, Key(wants=ADDRESS)] = ""
    deploy_base_url: Annotated[Address, Key(wants=ADDRESS)] = ""
    deploy_api: DeployApi | None = None
    account_env: Annotated[
        Variable | None,
        Key(
            wants="the name of the environment variable that holds the account or project, like ACME_ACCOUNT"
        ),
    ] = None
    account: Annotated[str, SET_BY_CALLER] = ""
    model_lookup: Literal["catalogue"] | None = None
    hyperparameter_names: Mapping[str, str] = field(default_factory=dict)
    hyperparameter_limits: NumberLists = field(default_factory=dict)
    suffix_length: Annotated[int, Limits(ge=LEAST_SUFFIX, le=256)] = SUFFIX_LENGTH
    suffix_characters: str | None = None
    create_extra: Mapping[str, Any] = field(default_factory=dict)
    chat_extra: Mapping[str, Any] = field(default_factory=dict)
    min_examples: PositiveInt | None = None
    max_file_bytes: PositiveInt | None = None
    bom: bool = False

    @property
    def variables(self) -> str:
        """The environment variables that have to be set before it can be asked, for a sentence."""
        return " and ".join(filter(None, (self.key_env, self.account_env)))

    def can(self, ability: Ability) -> bool:
        return ability in self.abilities

    @property
    def sends_copies(self) -> bool:
        """Each job gets a copy of its file, by which it is found: neither metadata nor the id is sure to say
        whose it is, as a suffix may not come back."""
        return not self.can("metadata") and not self.can("own_id")

    @property
    def only_chats(self) -> bool:
        """It answers questions and trains nothing: its row has the ability `chat` alone."""
        return self.abilities == {"chat"}


@dataclass(frozen=True)
class JobSpec:
    """A request for a job. `key` is ours and deterministic: it travels as metadata and as Idempotency-Key."""

    key: str
    model: str
    training_file: str
    hyperparameters: Mapping[str, Hyperparameter]
    seed: int
    suffix: str
    validation_file: str | None = None
    sweep: Sweep = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    method: str = "supervised"


@dataclass(frozen=True)
class Job:
    """A trainer's job, as it last answered. Times are unix seconds. `percent` of the training, where no steps are
    counted; `billed_usd`: what the trainer itself says that the job cost, once it is over. `billed_seconds`: of a
    machine that is rented for it."""

    id: str
    status: str
    model: str
    created_at: int
    fine_tuned_model: str | None = None
    finished_at: int | None = None
    estimated_finish: int | None = None
    trained_tokens: int | None = None
    trained_steps: int | None = None
    total_steps: int | None = None
    result_files: tuple[str, ...] = ()
    error_code: str | None = None
    error_message: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    suffix: str | None = None
    training_file: str | None = None
    hyperparameters: Mapping[str, object] = field(default_factory=dict)
    percent: int | None = None
    billed_usd: Decimal | None = None
    billed_seconds: int | None = None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL_STATUSES

    @property
    def has_known_status(self) -> bool:
        return self.status in KNOWN_STATUSES


@dataclass(frozen=True)
class Event:
    """A job's event. `data` as the trainer sends it: figures, or a `state`, what the job is from this event on."""

    id: str
    created_at: int
    level: str
    message: str
    data: Mapping[str, object] = field(default_factory=dict)

    def announces(self, state: JobState) -> bool:
        return self.data.get("state") == state


@dataclass(frozen=True)
class Metric:
    """One line of a job's result file. Losses in nats per supervised token."""

    step: int
    train_loss: float | None = None
    train_accuracy: float | None = None
    valid_loss: float | None = None
    valid_accuracy: float | None = None


@dataclass(frozen=True)
class SweepArm:
    """One line of a sweep's table. `chosen` is what is special to the arm, as it was written; loss and accuracy are
    those of its best validation; `outcome` is a phrase of the trainer's: won, stopped after rung 1, …"""

    number: int
    chosen: tuple[tuple[str, str], ...]
    step: int
    total_steps: int
    valid_loss: float | None
    valid_accuracy: float | None
    seconds: float
    outcome: str

    @property
    def is_out(self) -> bool:
        """Whether the arm failed by itself: the table has one column for how an arm ended, and this is its phrase
        for it."""
        return self.outcome.startswith("out after ")


@dataclass(frozen=True)
class Checkpoint:
    """A job's checkpoint. `files`: ids of its weight files, where the trainer offers them instead of serving the
    model."""

    id: str
    step: int
    fine_tuned_model: str | None
    created_at: int
    train_loss: float | None = None
    valid_loss: float | None = None
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class JobEstimate:
    """What a trainer expects a job to cost. `usd` None: it can't tell now, and `why` has its words. `is_affordable`:
    the account has the credit for it."""

    usd: Decimal | None
    training_tokens: int | None = None
    is_affordable: bool = True
    why: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """A model that a trainer lists. `shutdown_date` where its end is announced. `name`: what people call it where its
    id is another; `is_trainable` None: it isn't told."""

    id: str
    shutdown_date: date | None = None
    name: str | None = None
    is_trainable: bool | None = None


@dataclass(frozen=True)
class AliasUsage:
    """What one model answered under an alias on one day ('2026-11-27', UTC)."""

    day: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Message:
    """`extra`: what else it has in OpenAI's form (tool_calls, tool_call_id, name), as a JSON object, where `content` is
    the text alone."""

    role: Role
    content: str
    weight: int | None = None
    extra: str = ""


@dataclass(frozen=True)
class Answer:
    """A model's answer to a prompt and what it took. `seconds` is the wall time of the request."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True)
class Price:
    """USD per million tokens; None where the price is unknown or does not apply."""

    training: Decimal | None
    input: Decimal | None
    cached_input: Decimal | None
    output: Decimal | None
