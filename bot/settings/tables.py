"""The tables and keys of finetune.toml, each with its default and what it accepts, and all settings together.

A key that is declared here is read, checked and reported by `read_table`; its meaning is in finetune.example.toml.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal

from bot.rules.permissions import CHANNEL, USER, Policy
from bot.settings.policy import PeopleTable, PolicyTable
from trainers.encoders import DEFAULT_ENCODER
from trainers.providers.pricing import PriceRow
from trainers.providers.providers import ProviderRow
from trainers.typed_tables import SET_BY_CALLER, Key, Limits
from trainers.types import TriedWith

PACKAGED_TARGET = "minilm-encoder"
RAY_ADDRESS = "http://127.0.0.1:8265"  # the default of trainers.local
SLACK_API = "https://slack.com/api/"
HOST = "127.0.0.1"
EVERY_INTERFACE = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
SERVING_ADDRESS = f"{HOST}:8024"
LEAST_WATCHDOG_S = 60  # a single request may take 30 s, which is slow, but no hang

Mode = Literal["socket", "http"]
Blocks = Literal["newest", "classic"]
Port = Annotated[int, Limits(ge=0, le=65535)]


def _text_or_none(text: str) -> str | None:
    return text or None


@dataclass(frozen=True)
class SlackSettings:
    """`host` and `port` are for mode "http"; a host other than loopback is for containers behind a proxy that
    terminates TLS. `api_url` is changed only for a Slack stand-in on this machine."""

    bot_token: Annotated[str, SET_BY_CALLER] = field(default="", repr=False)
    app_token: Annotated[str, SET_BY_CALLER] = field(default="", repr=False)
    signing_secret: Annotated[str, SET_BY_CALLER] = field(default="", repr=False)
    mode: Mode = "socket"
    host: str = HOST
    port: Port = 3000
    api_url: str = SLACK_API
    fallback_channel: Annotated[str | None, Key(convert=_text_or_none)] = None
    blocks: Blocks = "newest"


@dataclass(frozen=True)
class BudgetSettings:
    """Limits in US dollars per calendar month. `channels` and `people` have their own limits, all others `per_…`; None
    means that only the team's limit applies. `measurement_usd` is the most that one measurement may cost.
    `hosting_usd_per_day` is the most that all models that run by the hour may cost together in a day (UTC)."""

    monthly_usd: Decimal = Decimal(0)
    measurement_usd: Decimal = Decimal(5)
    hosting_usd_per_day: Decimal = Decimal(20)
    per_channel_usd: Decimal | None = None
    per_person_usd: Decimal | None = None
    channels: Mapping[Annotated[str, CHANNEL, Key(wants="an id, like C0123456789")], Decimal] = field(
        default_factory=dict
    )
    people: Mapping[Annotated[str, USER, Key(wants="an id, like U0123456789")], Decimal] = field(
        default_factory=dict
    )

    @property
    def has_own(self) -> bool:
        """True if there are limits besides the team's."""
        per_each = (self.per_channel_usd, self.per_person_usd)
        return bool(self.channels or self.people) or per_each != (None, None)

    def of_channel(self, channel: str) -> Decimal | None:
        return self.channels.get(channel, self.per_channel_usd)

    def of_person(self, person: str) -> Decimal | None:
        return self.people.get(person, self.per_person_usd)


@dataclass(frozen=True)
class RentingSettings:
    """[hf]: machines of Hugging Face Jobs, one per training, for targets that start with hf/.

    `image` has the extra [local]. A machine is waited for `wait_minutes` at most, and ended after `minutes`.
    `namespace` is the account that pays, '' for the token's own. `keep_files` keeps the private repositories with data
    and results."""

    hardware: str = ""
    image: Annotated[
        str,
        re.compile(r"|[\w./:-]+@sha256:[0-9a-f]{64}"),
        Key(wants="NAME@sha256:DIGEST, which names an image by its content"),
    ] = ""
    minutes: Annotated[int, Limits(ge=10, le=2880)] = 120
    wait_minutes: Annotated[int, Limits(ge=1, le=2880)] = 60
    namespace: Annotated[str, re.compile(r"[\w.-]*"), Key(wants="an account's name at Hugging Face")] = ""
    keep_files: bool = False

    @property
    def arguments(self) -> list[str]:
        """The trainer's command-line arguments for rented machines."""
        arguments = ["--hf-image", self.image, "--hf-wait-minutes", str(self.wait_minutes)]
        if self.namespace:
            arguments += ["--hf-namespace", self.namespace]
        if self.keep_files:
            arguments.append("--hf-keep-files")
        return arguments


@dataclass(frozen=True)
class TrainerSettings:
    """[trainer]: our own trainer, started as a child process.

    `models` are folders or hub ids by name. `port` 0 chooses a free port. `wanted_slots` and `gpus_per_job` None mean
    that they follow from the other settings; see `slots` and `gpus`. `tokens_per_second` is the training speed that a
    person set for a model like SmolLM2-135M. `ray_is_ours`: data may go to all of the cluster's nodes. `ray_shared` and
    `relay_url` are from 0.1.0; the trainer's log says what replaces them. `engine`, `encoder` and `renting` come from
    [serving], [encoder] and [hf].
    """

    models: Annotated[Mapping[str, str], Key(wants='a table of texts, like { name = "folder" }')] = field(
        default_factory=dict
    )
    port: Port = 0
    wanted_slots: Annotated[int | None, Limits(ge=1, le=1024), Key("slots")] = None
    usd_per_hour: Decimal | None = None
    tokens_per_second: Annotated[int, Limits(ge=1, le=10**9)] | None = None
    gpus_per_job: Annotated[int, Limits(ge=0, le=512)] | None = None
    nodes_per_job: Annotated[int, Limits(ge=1, le=64)] = 1
    executor: Literal["processes", "ray"] = "processes"
    ray_address: str = ""
    ray_shared: bool = False
    ray_python: str = ""
    ray_is_ours: bool = False
    relay_url: str = ""
    storage: str = ""
    engine: Annotated[str, SET_BY_CALLER] = "builtin"
    encoder: Annotated[str, SET_BY_CALLER] = DEFAULT_ENCODER
    renting: Annotated[RentingSettings | None, SET_BY_CALLER] = None

    @property
    def encoder_name(self) -> str:
        """The encoder's name as a target."""
        if self.encoder == DEFAULT_ENCODER:
            return PACKAGED_TARGET
        return Path(self.encoder).name.lower()

    @property
    def slots(self) -> int:
        """Jobs at a time. The defaults on a cluster are those of trainers.local."""
        if self.wanted_slots:
            return self.wanted_slots
        if self.executor != "ray":
            return 1
        return 64 if self.nodes_per_job == 1 else 8

    @property
    def gpus(self) -> int:
        if self.gpus_per_job is None:
            return self.nodes_per_job  # each node has at least one
        return self.gpus_per_job

    @property
    def cluster(self) -> str | None:
        """The address of the Ray cluster where jobs run; None if they run on this machine."""
        if self.executor != "ray":
            return None
        return self.ray_address or RAY_ADDRESS

    @property
    def arguments(self) -> tuple[str, ...]:
        """The trainer's command-line arguments for GPUs, serving engine, encoder, cluster and rented machines."""
        arguments = ["--gpus-per-job", str(self.gpus)]
        if self.nodes_per_job > 1:
            arguments += ["--nodes-per-job", str(self.nodes_per_job)]
        if self.engine != "builtin":
            arguments += ["--serving-engine", self.engine]
        if self.executor == "ray":
            arguments += self._ray_arguments()
        else:
            arguments += ["--encoder", f"{self.encoder_name}={self.encoder}"]
        if self.renting:
            arguments += self.renting.arguments
        return tuple(arguments)

    def _ray_arguments(self) -> list[str]:
        arguments = ["--executor", "ray"]
        if self.ray_address:
            arguments += ["--ray-address", self.ray_address]
        if self.ray_python:
            arguments += ["--ray-python", self.ray_python]
        if self.storage:
            arguments += ["--storage", self.storage]
        if self.relay_url:
            arguments += ["--relay-url", self.relay_url]
        if self.ray_shared:
            arguments.append("--ray-shared")
        return arguments

    @property
    def folders(self) -> Mapping[str, Path]:
        """The models that are folders on this machine, by name."""
        return {name: Path(source) for name, source in self.models.items() if Path(source).is_dir()}


def _check_watchdog(seconds: int) -> int:
    if 0 < seconds < LEAST_WATCHDOG_S:
        raise ValueError(seconds)
    return seconds


@dataclass(frozen=True)
class ServiceSettings:
    """[service]: nightly backups, the port of /healthz and /metrics, and the seconds after which the watchdog ends a
    process whose ticks take no step. 0 turns each of them off. A `health_host` other than loopback is for probes from
    outside a container."""

    backups_kept: Annotated[int, Limits(ge=0, le=1000)] = 7
    health_port: Port = 0
    health_host: str = HOST
    watchdog_s: Annotated[
        int,
        Limits(ge=0, le=86_400),
        Key(convert=_check_watchdog, wants=f"0 (off) or at least {LEAST_WATCHDOG_S}"),
    ] = 300


@dataclass(frozen=True)
class RetentionSettings:
    """[retention]: the days after which files are deleted; 0 keeps them. `refused`: files that the check refused.
    `scratch`: files that a measurement left for people to look at. `runs`: the answers of ended runs and measurements,
    and the jobs of such runs at trainers that keep models on your disk."""

    refused: Annotated[int, Limits(ge=0, le=3650), Key("refused_days")] = 1
    scratch: Annotated[int, Limits(ge=0, le=3650), Key("scratch_days")] = 7
    runs: Annotated[int, Limits(ge=0, le=3650), Key("runs_days")] = 0


@dataclass(frozen=True)
class AssistantSettings:
    """[assistant]: the `model` ('provider/model') that reads questions in plain words, '' if they are answered by their
    words alone. `daily_usd` is the most that all its answers may cost together in a day (UTC)."""

    model: Annotated[
        str,
        re.compile(r"|[\w.-]+/\S+"),
        Key(wants='a model with its provider, like "openai/gpt-4o-mini", or "" for none'),
    ] = ""
    daily_usd: Decimal = Decimal(1)

    @property
    def provider(self) -> str:
        return self.model.partition("/")[0]


@dataclass(frozen=True)
class CheckTable:
    presidio: bool = False


@dataclass(frozen=True)
class EncoderTable:
    """`model` is a folder or a hub id."""

    model: str = DEFAULT_ENCODER


def _check_address(text: str) -> str:
    if not text:
        return text
    host, _, port = text.rpartition(":")
    is_port = port.isdecimal() and 0 < int(port) <= 65535
    if not host or not is_port:
        raise ValueError(text)
    return text


@dataclass(frozen=True)
class ServingSettings:
    """[serving]: `address` is where programs call team/NAME, "" if they don't; `start` is False if a unit of its own
    serves there, and not `finetune run`. `url` is the address that programs use, if a proxy or another machine's name
    is before it. `engine` serves our own trainer's models."""

    engine: Literal["builtin", "vllm"] = "builtin"
    address: Annotated[
        str,
        Key(convert=_check_address, wants=f'HOST:PORT, like "{SERVING_ADDRESS}", or "" for none'),
    ] = SERVING_ADDRESS
    start: bool = True
    url: Annotated[
        str, re.compile(r"|https?://\S+"), Key(wants='an address, like "https://models.example.com/v1"')
    ] = ""

    @property
    def host(self) -> str:
        # An IPv6 address is in brackets, because of its own colons.
        host, _, _ = self.address.rpartition(":")
        return host.strip("[]")

    @property
    def port(self) -> int:
        _, _, port = self.address.rpartition(":")
        return int(port)

    @property
    def base_url(self) -> str | None:
        """What programs call, None if they can't."""
        if not self.address:
            return None
        if self.url:
            return self.url.rstrip("/")
        host = self.host
        # It listens on all of them, and none can be called by that name.
        if host in EVERY_INTERFACE:
            host = HOST
        if ":" in host:
            host = f"[{host}]"
        return f"http://{host}:{self.port}/v1"


@dataclass(frozen=True, kw_only=True)
class SettingsTable:
    """The tables and keys of finetune.toml."""

    data: Annotated[str, Key(convert=os.path.expanduser)] = "data"
    slack: SlackSettings
    people: PeopleTable
    policy: PolicyTable
    budget: BudgetSettings
    check: CheckTable
    encoder: EncoderTable
    trainer: TrainerSettings
    hf: RentingSettings
    providers: Mapping[str, Any] = field(default_factory=dict)
    prices: Mapping[str, Any] = field(default_factory=dict)
    service: ServiceSettings
    serving: ServingSettings
    retention: RetentionSettings
    assistant: AssistantSettings


@dataclass(frozen=True)
class Settings:
    """All settings. `presidio`: checks of data use presidio too. `encoder` is the model of a comparison's candidate
    `encoder`."""

    data: Path
    slack: SlackSettings
    policy: Policy
    trainer: TrainerSettings
    providers: tuple[ProviderRow, ...]
    prices: tuple[PriceRow, ...]
    budget: BudgetSettings
    presidio: bool = False
    encoder: str = DEFAULT_ENCODER
    service: ServiceSettings = ServiceSettings()
    retention: RetentionSettings = RetentionSettings()
    serving: ServingSettings = ServingSettings()
    assistant: AssistantSettings = AssistantSettings()

    @property
    def backups(self) -> Path:
        return self.data / "backups"

    @property
    def database(self) -> Path:
        return self.data / "finetune.db"

    @property
    def database_check(self) -> Path:
        """A file with the time of the last check of the database, in unix seconds."""
        return self.data / "database-checked"

    @property
    def files(self) -> Path:
        """The folder of uploaded files and of files made from them, each named by its sha256."""
        return self.data / "files"

    @property
    def recipes(self) -> Path:
        """The folder of what answers programs, which is all that the process at [serving] address reads."""
        return self.data / "serving"

    def provider(self, name: str) -> ProviderRow | None:
        return next((row for row in self.providers if row.name == name), None)

    def title_of(self, provider: str) -> str:
        """Returns the provider's name for people. For a provider that is no longer configured, returns `provider`."""
        row = self.provider(provider)
        return row.title if row else provider

    @property
    def tried_with(self) -> Mapping[str, Sequence[TriedWith]]:
        """What the road of each provider was tried with."""
        return {row.name: row.tried_with for row in self.providers}

    def thinks(self, model: str) -> bool:
        """True if the model 'provider/model' generates thinking tokens, which are billed, before its answer."""
        provider, _, name = model.partition("/")
        row = self.provider(provider)
        return row is not None and row.thinks(name)

    def beside(self, name: str) -> tuple[str, ...]:
        """Returns the names of the providers at this one's address, including itself. They may share an account, with
        its files and jobs."""
        row = self.provider(name)
        if row is None:
            return (name,)
        return tuple(
            provider.name
            for provider in self.providers
            if provider.provider.base_url == row.provider.base_url
        )
