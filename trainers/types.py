"""The frozen values that the bot and a trainer exchange, named as in OpenAI's fine-tuning API."""

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
    "metadata",  # jobs keep our metadata; otherwise our key is marked in the suffix
    "metadata_filter",  # jobs.list(metadata=…) filters on the server
    "idempotency",  # honours Idempotency-Key when a job is created
    "extra_hyperparameters",  # accepts lora_r, lora_alpha and others besides n_epochs
    "method",  # accepts `method: {type: supervised}`; otherwise top-level `hyperparameters`
    "dpo",  # accepts `method: {type: dpo}` and a file of preference pairs in OpenAI's format
    "going_on",  # a job may start from a model that was tuned there, by its name as `model`
    "suffix",
    "checkpoints",
    "progress",  # jobs have trained_steps, total_steps and estimated_finish
    "pause",  # jobs can be paused, and continue from there when resumed
    "early_stopping",  # accepts `patience` with a validation file, and serves the best checkpoint
    "sweep",  # accepts a grid of hyperparameters as one job, and a validation file to choose between its trials
    "chat",  # serves the tuned model at /chat/completions; if it is the only ability, nothing can be trained
    "aliases",  # a name of our choice can stand for a model, and later for another one: /aliases
    "job_deletion",  # ended jobs can be deleted with their rows and models
    "expires_after",  # accepts an expiry date for uploads
    "estimate",  # estimates the cost of a job in advance
    "own_id",  # we choose the job's id, so creating it twice makes only one job
    "deploy",  # a tuned model must be deployed to answer, and is billed by the hour until that is stopped
    "adapters",  # serves adapters by the token: those that our own trainer made, or that another provider did
    "limits",  # publishes the allowed hyperparameters of each model
]
Dialect = Literal["openai", "together", "fireworks"]
TriedWith = Literal["stand-in", "SDK-typed", "live"]
"""What the road of a provider was tried with: a stand-in of its servers, whose answers and our requests fit the types
of its own package, or the service itself."""

Hyperparameter = int | float | str
Role = Literal["system", "developer", "user", "assistant", "tool"]

QUEUED_STATUSES = frozenset({"validating_files", "queued"})
FINAL_STATUSES = frozenset({"succeeded", "failed", "cancelled"})
KNOWN_STATUSES = QUEUED_STATUSES | FINAL_STATUSES | {"running", "paused"}


SUFFIX_LENGTH = 64  # OpenAI's maximum
LEAST_SUFFIX = 24  # room for a mark of 16 characters, a dash, and a few readable characters
DeployApi = Literal["coreweave", "crusoe", "fireworks", "fireworks_serverless", "tinker", "together"]

PositiveInt = Annotated[int, Limits(gt=0)]
Address = Annotated[str, re.compile("|https?://.*")]
ADDRESS = "an address that starts with https:// (or http://)"
Variable = Annotated[str, re.compile(r"[A-Z_][A-Z0-9_]*")]
NumberLists = Mapping[
    str,
    Annotated[
        tuple[float, ...],
        Key(wants="numbers: [lowest, highest], or three or more allowed values, or [] for none"),
    ],
]

JobState = Literal["queued", "paused", "resumed"]


@dataclass(frozen=True)
class Provider:
    """How to talk to a provider, as its configured row says.

    `base_url` ends in /v1. `key_env` names the environment variable of the key, and `account_env` that of the
    `account`, which replaces {account} in addresses. `deploy_api` is the API by which a tuned model is deployed on a
    machine, at `deploy_base_url` or, if that is empty, `base_url`. At `billing_base_url` an administrator, whose key is
    in `billing_key_env`, reads what the account is billed.

    `model_lookup` is "catalogue" if jobs must name a model by the id that the list of models gives besides its name.
    `hyperparameter_names` maps our names to the provider's. In `hyperparameter_limits`, two numbers are a range, three
    or more are the only allowed values, and none means that it isn't accepted. `suffix_characters` are allowed in
    suffixes besides letters and digits; None allows any. `create_extra` is added to each request for a job,
    `chat_extra` to each question. `headers` are sent with each request; {account} in them is replaced too.
    `gpu_usd_per_hour` is the price of each kind of GPU on which it deploys models, by the vendor's name of it. `bom`:
    uploads begin with a byte order mark.
    """

    name: Annotated[str, SET_BY_CALLER] = ""
    base_url: Annotated[
        Address, Key(required='the address of the API, like "https://gpu-box.example/v1"', wants=ADDRESS)
    ] = ""
    key_env: Annotated[
        Variable | None,
        # Secret, because people may put the key itself here by mistake.
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
    billing_base_url: Annotated[Address, Key(wants=ADDRESS)] = ""
    billing_key_env: Annotated[
        Variable | None,
        Key(
            wants="the name of the environment variable that holds an administrator's key, like ACME_ADMIN_KEY",
            is_secret=True,
        ),
    ] = None
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
    headers: Mapping[str, str] = field(default_factory=dict)
    gpu_usd_per_hour: Mapping[str, Decimal] = field(default_factory=dict)
    min_examples: PositiveInt | None = None
    max_file_bytes: PositiveInt | None = None
    bom: bool = False

    @property
    def variables(self) -> str:
        """The environment variables that must be set to use it, for a sentence."""
        return " and ".join(filter(None, (self.key_env, self.account_env)))

    def can(self, ability: Ability) -> bool:
        return ability in self.abilities

    @property
    def sends_copies(self) -> bool:
        """True if each job gets its own copy of its file, by which it is recognised. Needed if neither metadata nor the
        id can identify a job, because some providers don't return the suffix."""
        return not self.can("metadata") and not self.can("own_id")

    @property
    def only_chats(self) -> bool:
        """True if it answers questions and trains nothing."""
        return self.abilities in ({"chat"}, {"chat", "adapters"})


@dataclass(frozen=True)
class JobSpec:
    """A request for a job. `key` is our own deterministic key, sent as metadata and as Idempotency-Key."""

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
    """A trainer's job, as last reported. Times are unix seconds.

    `percent` is the progress at trainers that don't report steps. `billed_usd` is the cost that the trainer itself
    reports for an ended job, `billed_seconds` the time of a machine that was rented for it.
    """

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
    """A job's event. `data` is as the trainer sends it: figures, or a `state` that the job is in from then on."""

    id: str
    created_at: int
    level: str
    message: str
    data: Mapping[str, object] = field(default_factory=dict)

    def announces(self, state: JobState) -> bool:
        return self.data.get("state") == state


@dataclass(frozen=True)
class Metric:
    """One line of a job's result file. Losses are in nats per supervised token. A reward is GRPO's, the mean over
    sampled answers. Preference accuracy is DPO's: the share of pairs in which the right answer has gained on the wrong
    one since training began. The margin is by how much, in beta times nats."""

    step: int
    train_loss: float | None = None
    train_accuracy: float | None = None
    valid_loss: float | None = None
    valid_accuracy: float | None = None
    train_reward: float | None = None
    valid_reward: float | None = None
    train_preference_accuracy: float | None = None
    valid_preference_accuracy: float | None = None
    train_reward_margin: float | None = None
    valid_reward_margin: float | None = None


@dataclass(frozen=True)
class SweepTrial:
    """One line of a sweep's table. `chosen` are the trial's own hyperparameters, as written. Loss and accuracy are
    those of its best validation. `outcome` is a phrase of the trainer's, such as "won" or "stopped after round 1"."""

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
        """True if the trial failed. The table describes how a trial ended only by a phrase, which is recognised
        here."""
        return self.outcome.startswith("out after ")


@dataclass(frozen=True)
class JobEstimate:
    """A trainer's own estimate of a job's cost. If it can't give one, `usd` is None and `why` quotes its reason.
    `is_affordable`: the account has enough credit."""

    usd: Decimal | None
    training_tokens: int | None = None
    is_affordable: bool = True
    why: str = ""


@dataclass(frozen=True)
class ModelInfo:
    """A model that a trainer lists. `shutdown_date` is set if its end is announced, `name` if people call it by another
    name than its id. `is_trainable` is None if the trainer doesn't say."""

    id: str
    shutdown_date: date | None = None
    name: str | None = None
    is_trainable: bool | None = None


@dataclass(frozen=True)
class AliasUsage:
    """The usage of one model under an alias on one day ('2026-11-27', UTC)."""

    day: str
    model: str
    calls: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class Message:
    """A chat message. `extra` is a JSON object with its other keys in OpenAI's format (tool_calls, tool_call_id, name);
    `content` is then the text alone."""

    role: Role
    content: str
    weight: int | None = None
    extra: str = ""


@dataclass(frozen=True)
class Answer:
    """A model's answer to a prompt, with its tokens and `seconds`, the wall time of the request."""

    text: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float


@dataclass(frozen=True)
class Price:
    """USD per million tokens; None if a price is unknown or doesn't apply."""

    training: Decimal | None
    input: Decimal | None
    cached_input: Decimal | None
    output: Decimal | None


UsageKind = Literal["training", "sampling", "checkpoint", "storage", "other"]


@dataclass(frozen=True)
class BilledUsage:
    """An hour's usage of one kind, which ended at `ends_at` (unix seconds). `session` is None if the vendor attributes
    it to none, as it does with storage. `usd` is before credits, and None while the vendor has no price for it;
    checkpoint operations never get one."""

    kind: UsageKind
    session: str | None
    ends_at: float
    usd: Decimal | None


@dataclass(frozen=True)
class UsageList:
    """`metadata` is what each session was created with, by the session's id. Prices of usage before `invoiced_until`
    (unix seconds) follow from the vendor's invoice; later ones are its list prices and may change. None means that
    none follows from an invoice."""

    usage: tuple[BilledUsage, ...]
    metadata: Mapping[str, Mapping[str, str]]
    invoiced_until: float | None
