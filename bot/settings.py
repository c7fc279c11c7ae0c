"""Frozen settings from the environment and finetune.toml; every problem is reported at once, at start. The
rules of [people] and [policy] are read in `policy_settings`."""

from __future__ import annotations

import json
import logging
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from bot.policy_settings import CHANNEL, POLICY_KEYS, USER, read_limits, read_policy
from bot.rules.permissions import Policy
from bot.toml_reader import Lines, Reader, lines_of
from trainers.pricing import PriceRow, own_prices
from trainers.providers import ModelRow, ProviderProblems, ProviderRow, load_providers
from trainers.types import Price

RAY_ADDRESS = "http://127.0.0.1:8265"  # as trainers.local takes it where nobody says


def usual_slots(nodes: int, is_on_ray: bool) -> int:
    """Jobs at a time where nobody says: on a cluster as many as the trainer takes by itself."""
    if not is_on_ray:
        return 1
    return 64 if nodes == 1 else 8


def gpu_arguments(reader: Reader, nodes: int, is_on_ray: bool) -> tuple[str, ...]:
    """`nodes`: of one job."""
    gpus = reader.whole("trainer", "gpus_per_job", nodes, lowest=0, highest=512)
    if nodes > 1 and not is_on_ray:
        where = reader.where("trainer", "nodes_per_job")
        reader.problems.append(f'{where} needs a cluster: set executor = "ray" too, or leave it out.')
    if gpus % nodes:
        where = reader.where("trainer", "gpus_per_job")
        text = f"can't be divided evenly among {nodes} nodes: it counts all GPUs of a job, {gpus} now."
        reader.problems.append(f"{where} {text} Set it to {nodes * (gpus // nodes + 1)}.")
    several = ("--nodes-per-job", str(nodes)) if nodes > 1 else ()
    return ("--gpus-per-job", str(gpus), *several)


def ray_address(reader: Reader) -> str:
    return reader.text("trainer", "ray_address", "") or RAY_ADDRESS


def ray_arguments(reader: Reader) -> tuple[str, ...]:
    """`ray_shared` and `relay_url` are of 0.1.0: the trainer's log says what replaces them."""
    names = ["--executor", "ray"]
    for name in ("ray_address", "ray_python", "storage", "relay_url"):
        value = reader.text("trainer", name, "")
        names += [f"--{name.replace('_', '-')}", value] if value else []
    return tuple(names + (["--ray-shared"] if reader.flag("trainer", "ray_shared") else []))


MODEL_ENDS_FILE = "model_ends.json"

StoredEnds = Mapping[str, Mapping[str, Any]]

log = logging.getLogger(__name__)


def store_model_ends(data: Path, provider: str, ends: Mapping[str, date], today: date) -> None:
    """All that was told before of this provider is replaced: it may have put an end off."""
    day_by_model = {model: day.isoformat() for model, day in sorted(ends.items())}
    ends_by_provider = {
        **_stored_ends(data),
        provider: {"read_on": today.isoformat(), "models": day_by_model},
    }
    path = data / MODEL_ENDS_FILE
    partial = path.with_suffix(".tmp")
    partial.write_text(json.dumps(ends_by_provider, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def with_announced_ends(rows: Sequence[ProviderRow], data: Path) -> tuple[ProviderRow, ...]:
    ends_by_provider = _stored_ends(data)
    return tuple(
        row.with_shutdowns(_days(ends_by_provider, row.name)) if row.name in ends_by_provider else row
        for row in rows
    )


def _days(ends_by_provider: StoredEnds, provider: str) -> Mapping[str, date]:
    return {model: date.fromisoformat(day) for model, day in ends_by_provider[provider]["models"].items()}


def _stored_ends(data: Path) -> StoredEnds:
    """Nothing where the file is damaged: our lists hold then, and the next answer replaces it."""
    try:
        ends_by_provider: StoredEnds = json.loads((data / MODEL_ENDS_FILE).read_text(encoding="utf-8"))
        for provider in ends_by_provider:
            _days(ends_by_provider, provider)
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, LookupError, AttributeError) as error:
        log.warning("%s can't be read and is left out: %s", data / MODEL_ENDS_FILE, error)
        return {}
    return ends_by_provider


CONFIG_FILE = "finetune.toml"
SLACK_API = "https://slack.com/api/"
MEASUREMENT_USD = Decimal(5)
LEAST_WATCHDOG_S = 60  # one request may take 30 s, and a slow one is no hang
NO_PRESIDIO = "presidio is not installed here; pip install presidio-analyzer does that."

Mode = Literal["socket", "http"]
Blocks = Literal["newest", "classic"]


class SettingsProblems(Exception):
    """The settings cannot be used. `problems` are sentences, each with its cure."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


@dataclass(frozen=True)
class SlackSettings:
    """`api_url` differs from Slack's only for a workspace on this machine. `port` is for mode 'http'."""

    bot_token: str = field(repr=False)
    app_token: str = field(repr=False)
    signing_secret: str = field(repr=False)
    mode: Mode = "socket"
    port: int = 3000
    api_url: str = SLACK_API
    fallback_channel: str | None = None
    blocks: Blocks = "newest"


@dataclass(frozen=True)
class BudgetSettings:
    """US dollars a calendar month. Channels and people that are named have limits of their own, the others `per_…`;
    None: no limit but the team's."""

    monthly_usd: Decimal = Decimal(0)
    per_channel_usd: Decimal | None = None
    per_person_usd: Decimal | None = None
    channels: Mapping[str, Decimal] = field(default_factory=dict)
    people: Mapping[str, Decimal] = field(default_factory=dict)

    @property
    def has_own(self) -> bool:
        """Limits beside the team's."""
        return bool(self.channels or self.people) or (self.per_channel_usd, self.per_person_usd) != (
            None,
            None,
        )

    def of_channel(self, channel: str) -> Decimal | None:
        return self.channels.get(channel, self.per_channel_usd)

    def of_person(self, person: str) -> Decimal | None:
        return self.people.get(person, self.per_person_usd)


@dataclass(frozen=True)
class TrainerSettings:
    """Our own trainer, started as a child. `models`: name → folder or hub id. `port` 0 takes a free one.

    `tokens_per_second`: of a training, where a person says it. `arguments`: what else its command line says, of GPUs
    and of a cluster. `cluster`: the address of Ray, if its jobs run there; `is_cluster_ours`: somebody said that data
    may go to all of its nodes.
    """

    models: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    slots: int = 1
    usd_per_hour: Decimal | None = None
    tokens_per_second: int | None = None
    arguments: tuple[str, ...] = ()
    cluster: str | None = None
    is_cluster_ours: bool = False

    @property
    def folders(self) -> Mapping[str, Path]:
        """Those of the models that lie on this machine."""
        return {name: Path(where) for name, where in self.models.items() if Path(where).is_dir()}


@dataclass(frozen=True)
class ServiceSettings:
    """How the bot looks after itself. 0 turns each off: `backups_kept` of the nights, the port of /healthz and
    /metrics, the seconds without a tick's step after which the process ends."""

    backups_kept: int = 7
    health_port: int = 0
    watchdog_s: int = 300


@dataclass(frozen=True)
class RetentionSettings:
    """Days; 0 keeps it. `refused`: a file that its check refused. `scratch`: what a measurement left to look at."""

    refused: int = 1
    scratch: int = 7


@dataclass(frozen=True)
class Settings:
    """`measurement_usd`: the most that one measurement of models may cost. `presidio`: checks ask it, too."""

    data: Path
    slack: SlackSettings
    policy: Policy
    trainer: TrainerSettings
    providers: tuple[ProviderRow, ...]
    prices: tuple[PriceRow, ...]
    budget: BudgetSettings
    measurement_usd: Decimal = MEASUREMENT_USD
    presidio: bool = False
    service: ServiceSettings = ServiceSettings()
    retention: RetentionSettings = RetentionSettings()

    @property
    def monthly_budget_usd(self) -> Decimal:
        return self.budget.monthly_usd

    @property
    def backups(self) -> Path:
        return self.data / "backups"

    @property
    def database(self) -> Path:
        return self.data / "finetune.db"

    @property
    def files(self) -> Path:
        """Uploaded files and what is made of them, each named by its sha256."""
        return self.data / "files"

    def provider(self, name: str) -> ProviderRow | None:
        return next((row for row in self.providers if row.name == name), None)

    def beside(self, name: str) -> tuple[str, ...]:
        """The providers at this one's address, itself among them: they may share an account, its files and jobs."""
        row = self.provider(name)
        if row is None:
            return (name,)
        return tuple(
            provider.name
            for provider in self.providers
            if provider.provider.base_url == row.provider.base_url
        )


KNOWN_KEYS: Mapping[str, tuple[str, ...]] = {
    "": (
        "data",
        "slack",
        "people",
        "policy",
        "budget",
        "check",
        "trainer",
        "providers",
        "prices",
        "service",
        "serving",
        "retention",
    ),
    "slack": ("mode", "port", "api_url", "fallback_channel", "blocks"),
    "people": ("approvers", "approver_groups", "quorum"),
    "policy": POLICY_KEYS,
    "budget": ("monthly_usd", "measurement_usd", "per_channel_usd", "per_person_usd", "channels", "people"),
    "check": ("presidio",),
    "retention": ("refused_days", "scratch_days"),
    "service": ("backups_kept", "health_port", "watchdog_s"),
    "serving": ("engine",),
    "trainer": (
        *("models", "port", "slots", "usd_per_hour", "tokens_per_second", "gpus_per_job", "nodes_per_job"),
        *("executor", "ray_address", "ray_shared", "ray_python", "ray_is_ours", "relay_url", "storage"),
    ),
}


def load_settings(
    environment: Mapping[str, str] | None = None, config: Path | None = None, *, need_slack: bool = True
) -> Settings:
    """Read FINETUNE_CONFIG (or finetune.toml here) and the tokens from the environment.

    Raises SettingsProblems with everything that is wrong. Without `need_slack` missing tokens are no problem.
    """
    environment = os.environ if environment is None else environment
    path = config or Path(environment.get("FINETUNE_CONFIG", CONFIG_FILE))
    problems: list[str] = []
    table, lines = _read_toml(
        path, must_exist=bool(config or "FINETUNE_CONFIG" in environment), problems=problems
    )
    reader = Reader(path.name, table, problems, lines)
    trainer = _trainer(reader)
    data = path.parent / reader.text("", "data", "data")
    providers = with_announced_ends(_with_own_models(_providers(table, problems), trainer), data)
    settings = Settings(
        data=data,
        slack=_slack(reader, environment, need_slack),
        policy=read_policy(reader, [row.name for row in providers]),
        trainer=trainer,
        providers=providers,
        prices=_prices(reader),
        budget=_budget(reader.part("budget")),
        measurement_usd=reader.usd("budget", "measurement_usd", str(MEASUREMENT_USD)),
        presidio=_presidio(reader),
        service=_service(reader),
        retention=RetentionSettings(
            reader.whole("retention", "refused_days", 1, lowest=0, highest=3650),
            reader.whole("retention", "scratch_days", 7, lowest=0, highest=3650),
        ),
    )
    reader.check_keys(KNOWN_KEYS)
    if problems:
        raise SettingsProblems(tuple(problems))
    return settings


def _budget(reader: Reader) -> BudgetSettings:
    amounts_by_name = {
        key: reader.usd("", key, "0") for key in ("per_channel_usd", "per_person_usd") if key in reader.keys
    }
    return BudgetSettings(
        monthly_usd=reader.usd("", "monthly_usd", "0"),
        per_channel_usd=amounts_by_name.get("per_channel_usd"),
        per_person_usd=amounts_by_name.get("per_person_usd"),
        channels=read_limits(reader, "channels", CHANNEL, "C0123456789"),
        people=read_limits(reader, "people", USER, "U0123456789"),
    )


def secrets_of(settings: Settings, environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values of all keys that we hold."""
    slack, rows = settings.slack, settings.providers
    keys = (environment.get(row.provider.key_env or "", "") for row in rows)
    return tuple(name for name in (slack.bot_token, slack.app_token, slack.signing_secret, *keys) if name)


def _service(reader: Reader) -> ServiceSettings:
    watchdog_s = reader.whole("service", "watchdog_s", 300, lowest=0, highest=86_400)
    if 0 < watchdog_s < LEAST_WATCHDOG_S:
        where = reader.where("service", "watchdog_s")
        reader.problems.append(f"{where} should be 0 (off) or at least {LEAST_WATCHDOG_S}, not {watchdog_s}.")
    return ServiceSettings(
        reader.whole("service", "backups_kept", 7, lowest=0, highest=1000),
        reader.whole("service", "health_port", 0, lowest=0, highest=65535),
        watchdog_s,
    )


def _presidio(reader: Reader) -> bool:
    wanted = reader.flag("check", "presidio")
    if wanted and not has_presidio():
        reader.problems.append(f"{reader.where('check', 'presidio')} is true, but {NO_PRESIDIO}")
    return wanted


def has_presidio() -> bool:
    return find_spec("presidio_analyzer") is not None


def _slack(reader: Reader, environment: Mapping[str, str], need_slack: bool) -> SlackSettings:
    mode: Mode = "http" if reader.choice("slack", "mode", ("socket", "http")) == "http" else "socket"
    needed = {"SLACK_BOT_TOKEN": "xoxb-", "SLACK_APP_TOKEN": "xapp-"}
    if mode == "http":
        needed = {"SLACK_BOT_TOKEN": "xoxb-", "SLACK_SIGNING_SECRET": ""}
    for name, prefix in needed.items() if need_slack else ():
        _check_token(name, prefix, environment.get(name, ""), reader.problems)
    return SlackSettings(
        bot_token=environment.get("SLACK_BOT_TOKEN", ""),
        app_token=environment.get("SLACK_APP_TOKEN", ""),
        signing_secret=environment.get("SLACK_SIGNING_SECRET", ""),
        mode=mode,
        port=reader.whole("slack", "port", 3000, lowest=0, highest=65535),
        api_url=reader.text("slack", "api_url", SLACK_API),
        fallback_channel=reader.text("slack", "fallback_channel", "") or None,
        blocks="classic"
        if reader.choice("slack", "blocks", ("newest", "classic")) == "classic"
        else "newest",
    )


def _check_token(name: str, prefix: str, value: str, problems: list[str]) -> None:
    where = "api.slack.com/apps → your app"
    if not value:
        problems.append(f"{name} is not set: put it into .env; it is at {where}.")
    elif not value.startswith(prefix):
        problems.append(f"{name} should start with {prefix}: another token was put there; see {where}.")


def _trainer(reader: Reader) -> TrainerSettings:
    is_on_ray = reader.choice("trainer", "executor", ("processes", "ray")) == "ray"
    nodes = reader.whole("trainer", "nodes_per_job", 1, lowest=1, highest=64)
    engine = reader.choice("serving", "engine", ("builtin", "vllm"))
    serving = () if engine == "builtin" else ("--serving-engine", engine)
    return TrainerSettings(
        reader.table("trainer", "models"),
        reader.whole("trainer", "port", 0, lowest=0, highest=65535),
        reader.whole("trainer", "slots", usual_slots(nodes, is_on_ray), lowest=1, highest=1024),
        reader.usd("trainer", "usd_per_hour", "0") if "usd_per_hour" in reader.part("trainer").keys else None,
        reader.whole_if_said("trainer", "tokens_per_second", lowest=1, highest=10**9),
        (*gpu_arguments(reader, nodes, is_on_ray), *serving, *(ray_arguments(reader) if is_on_ray else ())),
        ray_address(reader) if is_on_ray else None,
        reader.flag("trainer", "ray_is_ours"),
    )


def _with_own_models(rows: tuple[ProviderRow, ...], trainer: TrainerSettings) -> tuple[ProviderRow, ...]:
    """The trainer that we start offers what [trainer] models names, and each hour costs what it says there."""
    return tuple(_our_own(row, trainer) if row.is_started_by_us else row for row in rows)


def _our_own(row: ProviderRow, trainer: TrainerSettings) -> ProviderRow:
    row = replace(row, models=_own_models(row, trainer))
    if trainer.cluster is None:
        return row
    title = f"the Ray cluster at {trainer.cluster}"
    return replace(row, title=title, cluster=trainer.cluster, stays_here=trainer.is_cluster_ours)


def _own_models(row: ProviderRow, trainer: TrainerSettings) -> tuple[ModelRow, ...]:
    nothing = Price(training=None, input=None, cached_input=None, output=None)
    rows = [row.model(name) or ModelRow(name=name, price=nothing) for name in trainer.models]
    return tuple(_paid_by_the_hour(model, trainer.usd_per_hour) for model in rows or row.models)


def _paid_by_the_hour(model: ModelRow, usd_per_hour: Decimal | None) -> ModelRow:
    """Where [trainer] says no price, the model's own holds if a person said it; else an hour counts as free."""
    if usd_per_hour is None:
        return model if model.is_hour_said else replace(model, usd_per_hour=Decimal(0))
    source = "usd_per_hour in finetune.toml"
    return replace(model, usd_per_hour=usd_per_hour, source=source, as_of=None, is_hour_said=True)


def _prices(reader: Reader) -> tuple[PriceRow, ...]:
    try:
        return own_prices(reader.rows("prices"))
    except ProviderProblems as error:
        reader.problems.extend(error.problems)
        return ()


def _providers(table: Mapping[str, Any], problems: list[str]) -> tuple[ProviderRow, ...]:
    try:
        return load_providers(table.get("providers", {}))
    except ProviderProblems as error:
        problems.extend(error.problems)
        return ()


def _read_toml(path: Path, *, must_exist: bool, problems: list[str]) -> tuple[Mapping[str, Any], Lines]:
    try:
        text = path.read_text(encoding="utf-8")
        return tomllib.loads(text), lines_of(text)
    except FileNotFoundError:
        if must_exist:
            problems.append(f"{path} does not exist: FINETUNE_CONFIG should name your settings file.")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path} is not TOML: {error}.")
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}. FINETUNE_CONFIG should name a file.")
    return {}, {}
