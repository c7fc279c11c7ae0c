"""Reads the settings from the environment and finetune.toml into frozen values, and reports all problems at once. The
rules in [people] and [policy] are read by `policy_settings`."""

from __future__ import annotations

import json
import logging
import os
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from bot.policy_settings import PeopleTable, PolicyTable, build_policy
from bot.rules.permissions import CHANNEL, USER, Policy
from bot.toml_file import TomlFile, line_numbers
from trainers.encoders import DEFAULT_ENCODER
from trainers.providers.pricing import PriceRow, read_own_prices
from trainers.providers.providers import ModelRow, ProviderProblems, ProviderRow, load_providers
from trainers.rentals import prices as rentals
from trainers.typed_tables import SET_BY_CALLER, Fault, Key, Limits, read_table
from trainers.types import Price

CONFIG_FILE = "finetune.toml"
MODEL_ENDS_FILE = "model_ends.json"  # in the data folder: what providers announced
PACKAGED_TARGET = "minilm-encoder"
RAY_ADDRESS = "http://127.0.0.1:8265"  # the default of trainers.local
SLACK_API = "https://slack.com/api/"
HOST = "127.0.0.1"
# The placeholders of .env.example, and tokens that were pasted with extra characters, don't match.
BOT_TOKEN, APP_TOKEN = re.compile(r"xoxb-[A-Za-z0-9-]+"), re.compile(r"xapp-[A-Za-z0-9-]+")
SIGNING_SECRET = re.compile(r"[A-Za-z0-9-]+")
LEAST_WATCHDOG_S = 60  # a single request may take 30 s, which is slow, but no hang
NO_PRESIDIO = "presidio is not installed: pip install presidio-analyzer"

Mode = Literal["socket", "http"]
Blocks = Literal["newest", "classic"]
Port = Annotated[int, Limits(ge=0, le=65535)]
StoredEnds = Mapping[str, Mapping[str, Any]]
T = TypeVar("T")

log = logging.getLogger(__name__)


class SettingsProblems(Exception):
    """The settings cannot be used. `problems` are sentences, each with its cure."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


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
        return PACKAGED_TARGET if self.encoder == DEFAULT_ENCODER else Path(self.encoder).name.lower()

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
        return self.nodes_per_job if self.gpus_per_job is None else self.gpus_per_job

    @property
    def cluster(self) -> str | None:
        """The address of the Ray cluster where jobs run; None if they run on this machine."""
        return (self.ray_address or RAY_ADDRESS) if self.executor == "ray" else None

    @property
    def arguments(self) -> tuple[str, ...]:
        """The trainer's command-line arguments for GPUs, serving engine, encoder, cluster and rented machines."""
        several = ("--nodes-per-job", str(self.nodes_per_job)) if self.nodes_per_job > 1 else ()
        serving = () if self.engine == "builtin" else ("--serving-engine", self.engine)
        encoder = () if self.executor == "ray" else ("--encoder", f"{self.encoder_name}={self.encoder}")
        arguments = ["--gpus-per-job", str(self.gpus), *several, *serving, *encoder]
        if self.executor == "ray":
            arguments += ["--executor", "ray"]
            for name in ("ray_address", "ray_python", "storage", "relay_url"):
                value = getattr(self, name)
                arguments += [f"--{name.replace('_', '-')}", value] if value else []
            arguments += ["--ray-shared"] if self.ray_shared else []
        if self.renting:
            wait = str(self.renting.wait_minutes)
            arguments += ["--hf-image", self.renting.image, "--hf-wait-minutes", wait]
            arguments += ["--hf-namespace", self.renting.namespace] if self.renting.namespace else []
            arguments += ["--hf-keep-files"] if self.renting.keep_files else []
        return tuple(arguments)

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
class CheckTable:
    presidio: bool = False


@dataclass(frozen=True)
class EncoderTable:
    """`model` is a folder or a hub id."""

    model: str = DEFAULT_ENCODER


@dataclass(frozen=True)
class ServingTable:
    engine: Literal["builtin", "vllm"] = "builtin"


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
    serving: ServingTable
    retention: RetentionSettings


@dataclass(frozen=True)
class Settings:
    """All settings. `presidio`: checks of data use presidio too. `encoder` is the model of the comparison's encoder
    candidate."""

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

    def provider(self, name: str) -> ProviderRow | None:
        return next((row for row in self.providers if row.name == name), None)

    def title_of(self, provider: str) -> str:
        """Returns the provider's name for people. For a provider that is no longer configured, returns `provider`."""
        row = self.provider(provider)
        return row.title if row else provider

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


def load_settings(
    environment: Mapping[str, str] | None = None, config: Path | None = None, *, need_slack: bool = True
) -> Settings:
    """Reads the file FINETUNE_CONFIG (by default finetune.toml here) and the tokens from the environment.

    Raises SettingsProblems with everything that is wrong. Missing tokens are a problem only with `need_slack`.
    """
    environment = os.environ if environment is None else environment
    path = config or Path(environment.get("FINETUNE_CONFIG", CONFIG_FILE))
    file = _read_toml(path, must_exist=bool(config or "FINETUNE_CONFIG" in environment))
    faults: list[Fault] = []
    table = read_table(SettingsTable, file.table, faults)
    trainer = replace(
        table.trainer,
        engine=table.serving.engine,
        encoder=table.encoder.model,
        renting=_check_renting(table.hf, file),
    )
    _check_gpus(trainer, file)
    _check_encoder_name(trainer, file)
    data = path.parent / table.data
    rows = _read_rows(lambda tables: load_providers(tables, environment), table.providers, faults)
    providers = with_announced_ends(_with_own_models(rows, trainer), data)
    settings = Settings(
        data=data,
        slack=_with_tokens(table.slack, environment, file.problems, need_slack=need_slack),
        policy=build_policy(table.people, table.policy, [row.name for row in providers], file),
        trainer=trainer,
        providers=providers,
        prices=_read_rows(read_own_prices, table.prices, faults),
        budget=table.budget,
        presidio=table.check.presidio,
        encoder=table.encoder.model,
        service=table.service,
        retention=table.retention,
    )
    if table.check.presidio and not has_presidio():
        file.note(f"is true, but {NO_PRESIDIO}", "check", "presidio")
    for fault in faults:
        file.note(fault.text, *fault.path)
    if file.problems:
        raise SettingsProblems(tuple(file.problems))
    return settings


def collect_secrets(settings: Settings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Returns the values of all tokens and keys that the bot holds, for the log to redact."""
    slack, rows = settings.slack, settings.providers
    keys = (environment.get(row.provider.key_env or "", "") for row in rows)
    return tuple(
        secret for secret in (slack.bot_token, slack.app_token, slack.signing_secret, *keys) if secret
    )


def has_presidio() -> bool:
    return find_spec("presidio_analyzer") is not None


def _with_tokens(
    slack: SlackSettings, environment: Mapping[str, str], problems: list[str], *, need_slack: bool
) -> SlackSettings:
    second = (
        ("SLACK_SIGNING_SECRET", SIGNING_SECRET) if slack.mode == "http" else ("SLACK_APP_TOKEN", APP_TOKEN)
    )
    where = "api.slack.com/apps → your app"
    for name, pattern in (("SLACK_BOT_TOKEN", BOT_TOKEN), second) if need_slack else ():
        value, prefix = environment.get(name, ""), pattern.pattern.split("[")[0]
        if not value:
            problems.append(f"{name} is not set: put it into .env. You find it at {where}.")
        elif not value.startswith(prefix):
            problems.append(f"{name} should start with {prefix}: this is another token. See {where}.")
        elif not pattern.fullmatch(value):
            problems.append(
                f"{name} is a placeholder or incomplete: a token has letters, digits and dashes only. See {where}."
            )
    return replace(
        slack,
        bot_token=environment.get("SLACK_BOT_TOKEN", ""),
        app_token=environment.get("SLACK_APP_TOKEN", ""),
        signing_secret=environment.get("SLACK_SIGNING_SECRET", ""),
    )


def _check_gpus(trainer: TrainerSettings, file: TomlFile) -> None:
    gpus, nodes = trainer.gpus, trainer.nodes_per_job
    for name, is_set in (("nodes_per_job", nodes > 1), ("storage", bool(trainer.storage))):
        if is_set and trainer.cluster is None:
            file.note('needs a cluster: also set executor = "ray", or remove it.', "trainer", name)
    if gpus % nodes:
        text = (
            f"can't be divided evenly among {nodes} nodes: it counts all GPUs of a job, which is {gpus} now."
        )
        file.note(f"{text} Set it to {nodes * (gpus // nodes + 1)}.", "trainer", "gpus_per_job")


def _check_encoder_name(trainer: TrainerSettings, file: TomlFile) -> None:
    # The trainer refuses to start with the same name twice. On a cluster it gets no encoder.
    name = trainer.encoder_name
    if trainer.cluster is None and name in trainer.models:
        text = "is the encoder's name. Choose another name for this base model."
        file.note(text, "trainer", "models", name)


def _with_own_models(rows: tuple[ProviderRow, ...], trainer: TrainerSettings) -> tuple[ProviderRow, ...]:
    """Gives our own trainer's row the models and the hourly price of [trainer]. If [hf] is set, adds a row that trains
    the same models on rented machines."""
    rows = tuple(_own_trainer_row(row, trainer) if row.is_started_by_us else row for row in rows)
    ours = next((row for row in rows if row.name == "local"), None)
    return (*rows, _rented_row(ours)) if trainer.renting and ours else rows


def _check_renting(table: RentingSettings, file: TomlFile) -> RentingSettings | None:
    if not table.hardware and not table.image:
        return None
    for name in ("hardware", "image"):
        if not getattr(table, name):
            file.note("is missing: a rented machine needs both hardware and image.", "hf", name)
    return table


def _rented_row(ours: ProviderRow) -> ProviderRow:
    """Returns the row `hf`: the same trainer, which rents a machine for each of its jobs and serves the models here."""
    provider = replace(ours.provider, name=rentals.PROVIDER, abilities=ours.provider.abilities - {"pause"})
    models = tuple(model for model in ours.models if not model.is_encoder)
    title, address = f"{rentals.WHO} Jobs", "https://huggingface.co"
    return replace(
        ours, provider=provider, title=title, models=models, cluster=address, stays_here=False, rents=True
    )


def _own_trainer_row(row: ProviderRow, trainer: TrainerSettings) -> ProviderRow:
    unpriced = Price(training=None, input=None, cached_input=None, output=None)
    own = [row.model(name) or ModelRow(name=name, price=unpriced) for name in trainer.models]
    models = own or [model for model in row.models if not model.is_encoder]
    if trainer.cluster is None:  # encoders can't be trained on a cluster
        name = trainer.encoder_name
        named = ModelRow(name=name, price=unpriced, base_name=trainer.encoder, kind="encoder")
        models.append(row.model(name) or named)
    row = replace(row, models=tuple(_with_hourly_price(model, trainer.usd_per_hour) for model in models))
    if trainer.cluster is None:
        return row
    title = f"the Ray cluster at {trainer.cluster}"
    return replace(row, title=title, cluster=trainer.cluster, stays_here=trainer.ray_is_ours)


def _with_hourly_price(model: ModelRow, usd_per_hour: Decimal | None) -> ModelRow:
    """Returns the model with the hourly price of [trainer]. Without one, a price that a person set for the model holds;
    otherwise an hour is free."""
    if usd_per_hour is None:
        return model if model.is_hourly_price_set else replace(model, usd_per_hour=Decimal(0))
    source = "usd_per_hour in finetune.toml"
    return replace(model, usd_per_hour=usd_per_hour, source=source, as_of=None, is_hourly_price_set=True)


def _read_rows(
    read: Callable[[Mapping[str, Any]], tuple[T, ...]], tables: Mapping[str, Any], faults: list[Fault]
) -> tuple[T, ...]:
    """Reads the rows of providers or prices. Returns none, and adds to `faults`, if something is wrong."""
    try:
        return read(tables)
    except ProviderProblems as error:
        faults += error.faults
        return ()


def _read_toml(path: Path, *, must_exist: bool) -> TomlFile:
    """Returns an empty TomlFile with the problem if the file can't be read."""
    problem = ""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors start a file with a byte order mark
        return TomlFile(path.name, tomllib.loads(text), line_numbers(text), [])
    except FileNotFoundError:
        if must_exist:
            problem = f"{path} does not exist: FINETUNE_CONFIG should name your settings file."
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problem = f"{path} is not TOML: {error}."
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}. FINETUNE_CONFIG should name a file."
    return TomlFile(path.name, {}, {}, [problem] if problem else [])


# The ends of models that their providers announced. They are kept in the data folder, and override our own lists.


def store_model_ends(
    data: Path, provider: str, ends: Mapping[str, date], today: date, listed: Collection[str] = ()
) -> None:
    """Replaces everything that this provider announced before, as it may have postponed an end. `listed` are the names
    of all its models."""
    day_by_model = {model: day.isoformat() for model, day in sorted(ends.items())}
    ends_by_provider = {
        **_load_stored_ends(data),
        provider: {"read_on": today.isoformat(), "models": day_by_model, "listed": sorted(listed)},
    }
    path = data / MODEL_ENDS_FILE
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(ends_by_provider, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def models_listed_before(data: Path, provider: str) -> frozenset[str]:
    """Returns the provider's models when it was last asked; empty if it never was."""
    return frozenset(_load_stored_ends(data).get(provider, {}).get("listed", ()))


def with_announced_ends(rows: Sequence[ProviderRow], data: Path) -> tuple[ProviderRow, ...]:
    ends_by_provider = _load_stored_ends(data)
    return tuple(
        _with_stored_list(row, ends_by_provider) if row.name in ends_by_provider else row for row in rows
    )


def _with_stored_list(row: ProviderRow, ends_by_provider: StoredEnds) -> ProviderRow:
    listed = frozenset(ends_by_provider[row.name].get("listed", ()))
    return row.with_shutdowns(_read_days(ends_by_provider, row.name), listed)


def _read_days(ends_by_provider: StoredEnds, provider: str) -> Mapping[str, date]:
    return {model: date.fromisoformat(day) for model, day in ends_by_provider[provider]["models"].items()}


def _load_stored_ends(data: Path) -> StoredEnds:
    """Returns {} if the file is missing or damaged: then our own lists hold, until a provider's next answer."""
    try:
        ends_by_provider: StoredEnds = json.loads((data / MODEL_ENDS_FILE).read_text(encoding="utf-8"))
        for provider in ends_by_provider:
            _read_days(ends_by_provider, provider)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        log.warning("ignoring %s, which can't be read: %s", data / MODEL_ENDS_FILE, error)
        return {}
    return ends_by_provider
