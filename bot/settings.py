"""Frozen settings from the environment and one TOML file; every problem is reported at once, at start."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal, InvalidOperation
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeVar

from trainers.money import is_payable
from trainers.pricing import PriceRow, own_prices
from trainers.providers import ModelRow, ProviderProblems, ProviderRow, load_providers
from trainers.types import Price

CONFIG_FILE = "finetune.toml"
SLACK_API = "https://slack.com/api/"
MEASUREMENT_USD = Decimal(5)
NO_PRESIDIO = "presidio is not installed here; pip install presidio-analyzer does that."

Mode = Literal["socket", "http"]
Blocks = Literal["newest", "classic"]
_T = TypeVar("_T")


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
class PeopleSettings:
    """Who may what: ids of users and of user groups. Approvers are nobody until they are named."""

    approvers: tuple[str, ...] = ()
    approver_groups: tuple[str, ...] = ()
    quorum: int = 1


@dataclass(frozen=True)
class TrainerSettings:
    """Our own trainer, started as a child. `models`: name → folder or hub id. `port` 0 takes a free one."""

    models: Mapping[str, str] = field(default_factory=dict)
    port: int = 0
    slots: int = 1
    usd_per_hour: Decimal = Decimal(0)
    tokens_per_second: int = 450

    @property
    def folders(self) -> Mapping[str, Path]:
        """Those of the models that lie on this machine."""
        return {name: Path(where) for name, where in self.models.items() if Path(where).is_dir()}


@dataclass(frozen=True)
class Settings:
    """`measurement_usd`: the most that one measurement of models may cost. `presidio`: checks ask it, too."""

    data: Path
    slack: SlackSettings
    people: PeopleSettings
    trainer: TrainerSettings
    providers: tuple[ProviderRow, ...]
    prices: tuple[PriceRow, ...]
    monthly_budget_usd: Decimal
    measurement_usd: Decimal = MEASUREMENT_USD
    presidio: bool = False

    @property
    def database(self) -> Path:
        return self.data / "finetune.db"

    @property
    def files(self) -> Path:
        """Uploaded files and what is made of them, each named by its sha256."""
        return self.data / "files"

    def provider(self, name: str) -> ProviderRow | None:
        return next((row for row in self.providers if row.name == name), None)


KNOWN_KEYS: Mapping[str, tuple[str, ...]] = {
    "": ("data", "slack", "people", "budget", "check", "trainer", "providers", "prices"),
    "slack": ("mode", "port", "api_url", "fallback_channel", "blocks"),
    "people": ("approvers", "approver_groups", "quorum"),
    "budget": ("monthly_usd", "measurement_usd"),
    "check": ("presidio",),
    "trainer": ("models", "port", "slots", "usd_per_hour", "tokens_per_second"),
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
    table = _read_toml(path, must_exist=bool(config or "FINETUNE_CONFIG" in environment), problems=problems)
    reader = _Reader(path.name, table, problems)
    trainer = _trainer(reader)
    settings = Settings(
        data=path.parent / reader.text("", "data", "data"),
        slack=_slack(reader, environment, need_slack),
        people=PeopleSettings(
            reader.texts("people", "approvers"),
            reader.texts("people", "approver_groups"),
            reader.whole("people", "quorum", 1, lowest=1, highest=20),
        ),
        trainer=trainer,
        providers=_with_own_models(_providers(table, problems), trainer),
        prices=_prices(reader),
        monthly_budget_usd=reader.usd("budget", "monthly_usd", "0"),
        measurement_usd=reader.usd("budget", "measurement_usd", str(MEASUREMENT_USD)),
        presidio=_presidio(reader),
    )
    reader.check_keys()
    if problems:
        raise SettingsProblems(tuple(problems))
    return settings


def _presidio(reader: _Reader) -> bool:
    wanted = reader.flag("check", "presidio")
    if wanted and not has_presidio():
        reader.problems.append(f"{reader.where('check', 'presidio')} is true, but {NO_PRESIDIO}")
    return wanted


def has_presidio() -> bool:
    return find_spec("presidio_analyzer") is not None


def _slack(reader: _Reader, environment: Mapping[str, str], need_slack: bool) -> SlackSettings:
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


def _trainer(reader: _Reader) -> TrainerSettings:
    return TrainerSettings(
        reader.table("trainer", "models"),
        reader.whole("trainer", "port", 0, lowest=0, highest=65535),
        reader.whole("trainer", "slots", 1, lowest=1, highest=64),
        reader.usd("trainer", "usd_per_hour", "0"),
        reader.whole("trainer", "tokens_per_second", 450, lowest=1, highest=10**9),
    )


def _with_own_models(rows: tuple[ProviderRow, ...], trainer: TrainerSettings) -> tuple[ProviderRow, ...]:
    """The trainer that we start offers what [trainer] models names, and each hour costs what it says there."""
    return tuple(
        replace(row, models=_own_models(row, trainer)) if row.is_started_by_us else row for row in rows
    )


def _own_models(row: ProviderRow, trainer: TrainerSettings) -> tuple[ModelRow, ...]:
    nothing = Price(training=None, input=None, cached_input=None, output=None)
    known = [row.model(name) or ModelRow(name=name, price=nothing) for name in trainer.models]
    return tuple(_paid_by_the_hour(model, trainer.usd_per_hour) for model in known or row.models)


def _paid_by_the_hour(model: ModelRow, usd_per_hour: Decimal) -> ModelRow:
    """The list's own words about its price hold only where nobody has set one."""
    if not usd_per_hour:
        return replace(model, usd_per_hour=usd_per_hour)
    return replace(model, usd_per_hour=usd_per_hour, source="usd_per_hour in finetune.toml", as_of=None)


def _prices(reader: _Reader) -> tuple[PriceRow, ...]:
    try:
        return own_prices(reader.rows("prices"))
    except ProviderProblems as found:
        reader.problems.extend(found.problems)
        return ()


def _providers(table: Mapping[str, Any], problems: list[str]) -> tuple[ProviderRow, ...]:
    try:
        return load_providers(table.get("providers", {}))
    except ProviderProblems as found:
        problems.extend(found.problems)
        return ()


def _read_toml(path: Path, *, must_exist: bool, problems: list[str]) -> Mapping[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        if must_exist:
            problems.append(f"{path} does not exist: FINETUNE_CONFIG should name your settings file.")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        problems.append(f"{path} is not TOML: {error}.")
    except OSError as error:
        problems.append(f"{path} cannot be read: {error.strerror}. FINETUNE_CONFIG should name a file.")
    return {}


class _Reader:
    """Takes typed values out of the TOML; notes what is wrong with file, section and key."""

    def __init__(self, file: str, table: Mapping[str, Any], problems: list[str]) -> None:
        self._file = file
        self._table = table
        self.problems = problems

    def text(self, section: str, key: str, default: str) -> str:
        value = self._get(section, key, default)
        return value if isinstance(value, str) else self._wrong(section, key, 'text, like "abc"', default)

    def texts(self, section: str, key: str) -> tuple[str, ...]:
        value = self._get(section, key, [])
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        return self._wrong(section, key, 'a list of texts, like ["U123", "U456"]', ())

    def whole(self, section: str, key: str, default: int, *, lowest: int, highest: int) -> int:
        value = self._get(section, key, default)
        if isinstance(value, int) and not isinstance(value, bool) and lowest <= value <= highest:
            return value
        return self._wrong(section, key, f"a whole number from {lowest} to {highest}", default)

    def flag(self, section: str, key: str) -> bool:
        value = self._get(section, key, False)
        return value if isinstance(value, bool) else self._wrong(section, key, "true or false", False)

    def choice(self, section: str, key: str, choices: tuple[str, ...]) -> str:
        value = self._get(section, key, choices[0])
        if value in choices:
            return str(value)
        return self._wrong(section, key, "one of " + ", ".join(choices), choices[0])

    def table(self, section: str, key: str) -> Mapping[str, str]:
        value = self._get(section, key, {})
        if isinstance(value, Mapping) and all(isinstance(item, str) for item in value.values()):
            return {str(name): item for name, item in value.items()}
        return self._wrong(section, key, 'a table of texts, like { name = "folder" }', {})

    def rows(self, section: str) -> Mapping[str, Mapping[str, Any]]:
        """The tables in a section; what else stands there is wrong."""
        rows = self._get("", section, {})
        if not isinstance(rows, Mapping):
            return self._wrong("", section, f"a section with a table a name, like [{section}.NAME]", {})
        for name in [name for name, row in rows.items() if not isinstance(row, Mapping)]:
            self._wrong(section, str(name), f"a table, like [{section}.NAME]", None)
        return {str(name): row for name, row in rows.items() if isinstance(row, Mapping)}

    def usd(self, section: str, key: str, default: str) -> Decimal:
        value = self._get(section, key, default)
        try:
            amount = Decimal(value) if type(value) in (str, int) else Decimal("NaN")
        except InvalidOperation:
            amount = Decimal("NaN")
        if is_payable(amount):
            return amount
        return self._wrong(section, key, 'US dollars in quotes, like "200.00"', Decimal(default))

    def check_keys(self) -> None:
        for section, known in KNOWN_KEYS.items():
            table = self._table.get(section, {}) if section else self._table
            if not isinstance(table, Mapping):
                self._wrong("", section, f"a section of its own, [{section}]", None)
                continue
            for key in table:
                if key not in known:
                    near = difflib.get_close_matches(str(key), known, n=1)
                    hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}."
                    self.problems.append(f"{self.where(section, str(key))} is not a setting; {hint}")

    def _get(self, section: str, key: str, default: Any) -> Any:
        table = self._table.get(section, {}) if section else self._table
        return table.get(key, default) if isinstance(table, Mapping) else default

    def _wrong(self, section: str, key: str, wanted: str, default: _T) -> _T:
        value = self._get(section, key, default)
        self.problems.append(f"{self.where(section, key)} should be {wanted}, not {value!r}.")
        return default

    def where(self, section: str, key: str) -> str:
        return f"{self._file}: [{section}] {key}" if section else f"{self._file}: {key}"
