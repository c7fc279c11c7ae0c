"""The trainers we know and the models they tune, read from providers.toml and the user's own file. Does not
call a trainer and does not compute costs."""

from __future__ import annotations

import difflib
import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from importlib import resources
from typing import Literal, TypeVar, get_args
from urllib.parse import urlsplit

from trainers.chat_parameters import thinks
from trainers.money import is_payable
from trainers.types import Ability, Hyperparameter, Price, Provider

_ABILITIES: tuple[Ability, ...] = get_args(Ability)
_T = TypeVar("_T")


class TomlRow:
    """`where` is the table's name as it stands in the file; `problems` collects sentences."""

    def __init__(self, where: str, table: Mapping[str, object], problems: list[str]) -> None:
        self.where = where
        self._rest = dict(table)
        self._known: list[str] = []
        self._problems = problems

    def take(self, key: str) -> object:
        self._known.append(key)
        return self._rest.pop(key, None)

    def text(self, key: str) -> str | None:
        return self._typed(key, str, 'text in quotes, like "abc"')

    def variable(self, key: str) -> str | None:
        """A variable's name. What is none may be the key itself: it is not repeated in the message."""
        value = self.text(key)
        if value is None or re.fullmatch(r"[A-Z_][A-Z0-9_]*", value):
            return value
        self._problem(key, "should name the environment variable that holds the key, like OPENAI_API_KEY")
        return None

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._typed(key, list, 'a list of texts, like ["abc", "def"]') or []
        wrong = [value for value in values if not isinstance(value, str)]
        if wrong:
            self._problem(key, f"{wrong[0]!r} is not text in quotes")
        return tuple(value for value in values if isinstance(value, str))

    def day(self, key: str) -> date | None:
        value = self._typed(key, date, "a day without quotes, like 2027-01-14")
        return value.date() if isinstance(value, datetime) else value

    def positive(self, key: str) -> int | float | Decimal | None:
        value = self.take(key)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal) or value <= 0:
            self._problem(key, f"should be a number above 0, not {value!r}")
            return None
        return value

    def whole(self, key: str) -> int | None:
        value = self.take(key)
        if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
            return value
        self._problem(key, f"should be a whole number above 0, not {value!r}")
        return None

    def flag(self, key: str) -> bool | None:
        return self._typed(key, bool, "true or false")

    def money(self, key: str, what: str = "US dollars", *, required: bool = False) -> Decimal | None:
        value = self.take(key)
        if value is None and not required:
            return None
        amount = _decimal(value)
        if amount is None or not is_payable(amount):
            self._problem(key, f'should be {what} in quotes, like "2.50", not {value!r}')
            return None
        return amount

    def base_url(self) -> str:
        value = self.text("base_url")
        if value is None:
            self._problem("base_url", 'is missing: the address of the API, like "https://gpu-box.example/v1"')
        elif value and not value.startswith(("http://", "https://")):
            self._problem("base_url", f"should start with https:// (or http://), not {value!r}")
        return (value or "").rstrip("/")

    def abilities(self) -> frozenset[Ability]:
        names = self.texts("abilities")
        for name in names:
            if name not in _ABILITIES:
                self._problem("abilities", f"{name!r} is not an ability{_nearest(name, _ABILITIES)}")
        return frozenset(ability for ability in _ABILITIES if ability in names)

    def hyperparameters(self, key: str) -> Mapping[str, Hyperparameter]:
        values: Mapping[str, object] = self._typed(key, dict, "a table, like { lora = true }") or {}
        taken: dict[str, Hyperparameter] = {}
        for name, value in values.items():
            if isinstance(value, Decimal):
                taken[name] = float(value)
            elif isinstance(value, int | float | str):
                taken[name] = value
            else:
                self._problem(f"{key}.{name}", f"should be a number, true, false or text, not {value!r}")
        return taken

    def report_other_keys(self) -> None:
        for key in self._rest:
            self._problem(key, f"is not a key of such a row{_nearest(key, self._known)}")

    def _typed(self, key: str, kind: type[_T], wanted: str) -> _T | None:
        value = self.take(key)
        if value is None or isinstance(value, kind):
            return value
        self._problem(key, f"should be {wanted}, not {value!r}")
        return None

    def _problem(self, key: str, what: str) -> None:
        self._problems.append(f"{self.where}.{key}: {what}{'' if what.endswith('?') else '.'}")


def _decimal(value: object) -> Decimal | None:
    """None for a float: its last digits are already lost."""
    if isinstance(value, Decimal):
        return value
    if isinstance(value, bool) or not isinstance(value, str | int):
        return None
    try:
        return Decimal(value)
    except InvalidOperation:
        return None


def _nearest(name: str, texts: Sequence[str]) -> str:
    names = difflib.get_close_matches(name, texts, n=1)
    return f"; did you mean {names[0]!r}?" if names else f"; there are {', '.join(texts)}"


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


NEAR_THE_END = timedelta(days=60)
CALLERS, OWN_CALLERS = 8, 32
REQUESTS_PER_MINUTE = 500


class ProviderProblems(Exception):
    """Rows that cannot be used. `problems`: one sentence each, naming row and key."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class ModelRow:
    """A base model that a provider tunes. `price` is that of training and of the *tuned* model.

    `ends`: the first day on which neither the model nor its fine-tunes answer. `context`: tokens of the
    longest training example. `base_name`: the base model as price lists call it. `usd_per_hour`: of a machine
    of our own; `is_hour_said`: by a person, be it nothing, and not by our own rows. `reasoning`: it thinks in
    hidden tokens before it answers; None: as its name says.
    """

    name: str
    price: Price
    aliases: tuple[str, ...] = ()
    ends: date | None = None
    base_name: str | None = None
    source: str | None = None
    as_of: date | None = None
    context: int | None = None
    usd_per_hour: Decimal | None = None
    reasoning: bool | None = None
    is_hour_said: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """In small letters."""
        return tuple(name.lower() for name in (self.name, *self.aliases))

    def has_ended(self, today: date) -> bool:
        return self.ends is not None and today >= self.ends


@dataclass(frozen=True)
class ProviderRow:
    """`closes`: the last day on which it takes a new job. `defaults`: what a plan there starts with.

    `stays_here`: what is sent to it stays with those who run the bot. So it is with the trainer that we start, unless
    its jobs run on a cluster which nobody says is theirs; with another one only where its row says so, because behind a
    loopback address there may be a proxy. `cluster`: the address of the Ray cluster on which its jobs run. `is_child`:
    the bot has started it, and `at` told its address. `closed_to_new`: the first day on which it trained only for
    accounts that had trained there before.

    `callers` questions are under way at a time, and `requests_per_minute` begin at most (None: no such limit),
    while models are measured. `shutdowns`: the first day without an answer of each model of which it said one.
    """

    provider: Provider
    title: str
    closes: date | None
    models: tuple[ModelRow, ...]
    defaults: Mapping[str, Hyperparameter]
    callers: int = CALLERS
    requests_per_minute: int | None = REQUESTS_PER_MINUTE
    stays_here: bool = False
    cluster: str | None = None
    is_child: bool = False
    closed_to_new: date | None = None
    shutdowns: Mapping[str, date] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.provider.name

    @property
    def is_started_by_us(self) -> bool:
        """The trainer runs as our child: its address is known only once it is up, and told by `at`."""
        return self.is_child or not self.provider.base_url

    @property
    def keeps_models_here(self) -> bool:
        """Its data folder is on this machine, wherever its jobs run."""
        return self.is_started_by_us or is_loopback(self.provider.base_url)

    def at(self, base_url: str) -> ProviderRow:
        return replace(self, provider=replace(self.provider, base_url=base_url), is_child=True)

    def with_shutdowns(self, days_by_name: Mapping[str, date]) -> ProviderRow:
        """What the provider says wins over our rows, by a model's name before its aliases."""
        days_by_name = {name.lower(): day for name, day in days_by_name.items()}
        models = tuple(
            replace(model, ends=next((days_by_name[n] for n in model.names if n in days_by_name), model.ends))
            for model in self.models
        )
        return replace(self, shutdowns=days_by_name, models=models)

    def model(self, name: str) -> ModelRow | None:
        """By name, alias, or the name of a fine-tune of it (ft:BASE:…)."""
        base = name.split(":")[1] if name.startswith("ft:") else name
        return next((row for row in self.models if base == row.name or base in row.aliases), None)

    def thinks(self, name: str) -> bool:
        """Does the model of this name think before it answers? Its row's word wins over its name."""
        row = self.model(name)
        return thinks(name) if row is None or row.reasoning is None else row.reasoning


@dataclass(frozen=True)
class ModelVerdict:
    """`reasons` are sentences for a person; empty when there is nothing to say. `way_out` is one too."""

    level: Literal["ok", "warn", "refuse"]
    reasons: tuple[str, ...] = ()
    way_out: str | None = None

    @property
    def may_train(self) -> bool:
        return self.level != "refuse"


def load_providers(own: Mapping[str, object] | None = None) -> tuple[ProviderRow, ...]:
    """The shipped rows with the user's on top. `own` is the [providers] table of their TOML, as parsed.

    Raises ProviderProblems with everything that is wrong, not only the first thing.
    """
    problems: list[str] = []
    tables = _merged(_shipped(), own or {}, problems)
    rows = tuple(_provider_row(name, table, problems) for name, table in tables.items())
    if problems:
        raise ProviderProblems(problems)
    return tuple(_with_said_hours(row, own or {}) for row in rows)


def _with_said_hours(row: ProviderRow, own: Mapping[str, object]) -> ProviderRow:
    mine = _tables("", _tables("", own, []).get(row.name, {}).get("models", {}), [])
    models = (replace(model, is_hour_said="usd_per_hour" in mine.get(model.name, {})) for model in row.models)
    return replace(row, models=tuple(models))


def model_verdict(
    row: ProviderRow, model: ModelRow, today: date, payback_days: float | None = None
) -> ModelVerdict:
    """May a job on this model start today, and will the tuned model live long enough to be worth it?"""
    refusals = _refusals(row, model, today)
    if refusals:
        return ModelVerdict("refuse", refusals, _way_out(row))
    warnings = (*_end_warnings(model, today, payback_days), *_closing_warnings(row, today))
    if warnings:
        return ModelVerdict("warn", warnings, _way_out(row))
    return ModelVerdict("ok")


def _refusals(row: ProviderRow, model: ModelRow, today: date) -> tuple[str, ...]:
    refusals = []
    if row.closes and today > row.closes:
        refusals.append(f"{row.title} has taken no new fine-tuning job since {row.closes}.")
    if model.has_ended(today):
        refusals.append(
            f"{model.name} ended on {model.ends}: neither it nor a fine-tune of it answers any more."
        )
    return tuple(refusals)


def _end_warnings(model: ModelRow, today: date, payback_days: float | None) -> tuple[str, ...]:
    if model.ends is None:
        return ()
    days = (model.ends - today).days
    if payback_days is not None and payback_days > days:
        return (
            f"{model.name} ends on {model.ends}, in {_days(days)}, but pays for itself only "
            f"after {_days(round(payback_days))}: the money would not come back.",
        )
    if days < NEAR_THE_END.days:
        return (f"{model.name} and its fine-tunes end on {model.ends}, in {_days(days)}.",)
    return ()


def _closing_warnings(row: ProviderRow, today: date) -> tuple[str, ...]:
    if row.closes is None or row.closes - today >= NEAR_THE_END:
        return ()
    return (f"{row.title} takes new jobs only until {row.closes}: after that the model cannot be retrained.",)


def _way_out(row: ProviderRow) -> str | None:
    if row.name == "local":
        return None
    return "A model trained on your own machine has no end date: choose a target that starts with local/."


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count:,} days"


def _shipped() -> dict[str, object]:
    text = resources.files("trainers").joinpath("providers.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


def _merged(
    shipped: Mapping[str, object], own: Mapping[str, object], problems: list[str]
) -> dict[str, Mapping[str, object]]:
    """Tables by provider; keys of `own` win, those of its models too, one by one."""
    merged = _tables("providers", shipped, problems)
    for name, table in _tables("providers", own, problems).items():
        before = merged.get(name, {})
        merged[name] = {**before, **table}
        models = _tables(f"providers.{name}.models", before.get("models", {}), problems)
        for model, changes in _tables(f"providers.{name}.models", table.get("models", {}), problems).items():
            models[model] = {**models.get(model, {}), **changes}
        merged[name] = {**merged[name], "models": models}
    return merged


def _tables(where: str, value: object, problems: list[str]) -> dict[str, Mapping[str, object]]:
    """The tables in a table; what is no table is a problem."""
    if not isinstance(value, Mapping):
        problems.append(f"{where}: should be a table with one row a name, not {value!r}.")
        return {}
    tables: dict[str, Mapping[str, object]] = {}
    for name, row in value.items():
        if isinstance(row, Mapping):
            tables[str(name)] = row
        else:
            problems.append(f"{where}.{name}: should be a table of keys, not {row!r}.")
    return tables


def _provider_row(name: str, table: Mapping[str, object], problems: list[str]) -> ProviderRow:
    row = TomlRow(f"providers.{name}", table, problems)
    provider = Provider(
        name=name,
        base_url=row.base_url(),
        key_env=row.variable("key_env"),
        abilities=row.abilities(),
        timeout_s=float(row.positive("timeout_s") or 30),
    )
    title = row.text("title") or name
    closes, closed_to_new = row.day("closes"), row.day("closed_to_new")
    defaults = row.hyperparameters("defaults")
    is_ours = name == "local" or not provider.base_url
    callers = row.whole("callers") or (OWN_CALLERS if is_ours else CALLERS)
    a_minute = row.whole("requests_per_minute") or (None if is_ours else REQUESTS_PER_MINUTE)
    stays_here = row.flag("stays_here")
    if stays_here and provider.base_url and not is_loopback(provider.base_url):
        problems.append(
            f"{row.where}.stays_here: is true, but {provider.base_url} is not on this machine. Leave it out."
        )
    models = _tables(row.where + ".models", row.take("models") or {}, [])  # reported while merging
    row.report_other_keys()
    rows = tuple(_model_row(name, model, values, problems) for model, values in models.items())
    return ProviderRow(
        provider,
        title,
        closes,
        rows,
        defaults,
        callers,
        a_minute,
        stays_here if stays_here is not None else not provider.base_url,
        closed_to_new=closed_to_new,
    )


def _model_row(provider: str, name: str, table: Mapping[str, object], problems: list[str]) -> ModelRow:
    row = TomlRow(f'providers.{provider}.models."{name}"', table, problems)
    price = Price(row.money("training"), row.money("input"), row.money("cached_input"), row.money("output"))
    context = row.positive("context")
    model = ModelRow(
        name=name,
        price=price,
        aliases=row.texts("aliases"),
        ends=row.day("ends"),
        base_name=row.text("base_name"),
        source=row.text("source"),
        as_of=row.day("as_of"),
        context=None if context is None else int(context),
        usd_per_hour=row.money("usd_per_hour"),
        reasoning=row.flag("reasoning"),
    )
    row.report_other_keys()
    return model
