"""The trainers we know and the models they tune, read from providers.toml and the user's own file. Does not
call a trainer and does not compute costs."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from importlib import resources
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from trainers.chat_parameters import thinks
from trainers.model_list import find_listed, strip_effort
from trainers.rentals.prices import Rental
from trainers.typed_tables import SET_BY_CALLER, Fault, Key, KeyPath, Limits, read_table, title_of
from trainers.types import Hyperparameter, PositiveInt, Price, Provider

Table = Mapping[str, Any]


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
    """Rows that cannot be used: all that is wrong with them. `problems`: one sentence each, naming row and key."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.problems = tuple(f"{title_of(fault.path)}: {fault.text}" for fault in faults)
        super().__init__("\n".join(self.problems))
        self.faults = tuple(faults)


@dataclass(frozen=True)
class ModelRow:
    """A base model that a provider tunes. `price` is that of training and of the *tuned* model.

    `ends`: the first day on which neither the model nor its fine-tunes answer. `context`: tokens of the
    longest training example. `base_name`: the base model as price lists call it. `usd_per_hour`: of a machine
    of our own; `is_hourly_price_set`: by a person, be it nothing, and not by our own rows. `reasoning`: it thinks in
    hidden tokens before it answers; None: as its name says. `kind`: an encoder learns labels and writes no text.
    `billions`: of parameters, by which some price a training; None: as its name says.
    `serving_usd_per_hour`: of a machine that answers for the tuned model; None: the provider's.
    """

    name: Annotated[str, SET_BY_CALLER]
    price: Annotated[Price, Key(is_inline=True)]
    aliases: tuple[str, ...] = ()
    ends: date | None = None
    base_name: str | None = None
    source: str | None = None
    as_of: date | None = None
    context: Annotated[int, Limits(gt=0)] | None = None
    usd_per_hour: Decimal | None = None
    reasoning: bool | None = None
    kind: Literal["chat", "encoder"] = "chat"
    billions: Annotated[float, Limits(gt=0)] | None = None
    serving_usd_per_hour: Decimal | None = None
    is_hourly_price_set: Annotated[bool, SET_BY_CALLER] = False

    @property
    def is_encoder(self) -> bool:
        return self.kind == "encoder"

    @property
    def names(self) -> tuple[str, ...]:
        """In small letters."""
        return tuple(name.lower() for name in (self.name, *self.aliases))

    @property
    def size(self) -> float | None:
        """In billions of parameters."""
        in_name = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z])", self.name.lower())
        return self.billions or (float(in_name[1]) if in_name else None)

    def has_ended(self, today: date) -> bool:
        return self.ends is not None and today >= self.ends


@dataclass(frozen=True)
class SizePrice:
    """What a million training tokens cost of models of at most so many billion parameters; None: of any."""

    training: Annotated[Decimal, Key(required='US dollars a million tokens, in quotes, like "0.50"')]
    up_to: Annotated[float, Limits(gt=0)] | None = None


Serving = Literal["included", "adapter", "dedicated", "download", "on_request"]


def _hyperparameter(value: object) -> Hyperparameter:
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, Decimal):
        return float(value)
    raise ValueError(value)


Hyperparameters = Mapping[str, Annotated[Any, Key(by=_hyperparameter, wants="a number, true, false or text")]]


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
    `outputs_terms`: the address of its terms about training on what its models answer.
    `usd_per_hour`: it serves what it is asked for on a machine of our own, whose hours cost that.
    `training_by_size`: the smallest first. `serving`: how a tuned model answers: at once, as an adapter beside others,
    on a machine that costs `serving_usd_per_hour` until it is stopped (by itself after `idle_stop_s` without a
    question), elsewhere once it is downloaded, or if the provider agrees. `rents`: each training has its own machine,
    which is paid by the minute; `rental` is what it costs, once that was asked.
    """

    provider: Annotated[Provider, Key(is_inline=True)]
    title: str = ""
    closes: date | None = None
    models: Annotated[tuple[ModelRow, ...], Key(reads=Mapping[str, Any])] = ()
    defaults: Hyperparameters = field(default_factory=dict)
    callers: PositiveInt = CALLERS
    requests_per_minute: PositiveInt | None = None
    stays_here: bool = False
    cluster: Annotated[str | None, SET_BY_CALLER] = None
    is_child: Annotated[bool, SET_BY_CALLER] = False
    closed_to_new: date | None = None
    shutdowns: Annotated[Mapping[str, date], SET_BY_CALLER] = field(default_factory=dict)
    outputs_terms: Annotated[
        str | None, re.compile("https://.*"), Key(wants="an address that starts with https://")
    ] = None
    usd_per_hour: Decimal | None = None
    training_by_size: tuple[SizePrice, ...] = ()
    serving: Serving = "included"
    serving_usd_per_hour: Decimal | None = None
    idle_stop_s: PositiveInt | None = None
    rents: Annotated[bool, SET_BY_CALLER] = False
    rental: Annotated[Rental | None, SET_BY_CALLER] = None

    @property
    def name(self) -> str:
        return self.provider.name

    @property
    def is_hosted(self) -> bool:
        """A tuned model answers only on a machine that costs money by the hour."""
        return self.serving == "dedicated"

    @property
    def scales_to_zero(self) -> bool:
        """Such a machine costs nothing while nobody asks."""
        return self.provider.deploy_api == "fireworks"

    def hourly_price(self, base_model: str) -> Decimal | None:
        """What a model tuned from this base costs an hour while it is deployed; None: nobody said."""
        model = self.model(base_model)
        own = model.serving_usd_per_hour if model else None
        return self.serving_usd_per_hour if own is None else own

    def with_hourly_price(self, base_model: str, price: Decimal) -> ProviderRow:
        models = tuple(
            replace(model, serving_usd_per_hour=price) if model.name == base_model else model
            for model in self.models
        )
        return replace(self, models=models)

    @property
    def trains(self) -> bool:
        return not self.provider.only_chats

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
        base = strip_effort(name.split(":")[1] if name.startswith("ft:") else name)
        return next((row for row in self.models if base == row.name or base in row.aliases), None)

    def unlisted_model(self, name: str) -> ModelRow | None:
        """A model without a row that it serves on a machine of our own."""
        if self.usd_per_hour is None or not name:
            return None
        unpriced = Price(training=None, input=None, cached_input=None, output=None)
        source = f"{self.title}: its machine's hours, and no price a token"
        return ModelRow(name, unpriced, source=source, usd_per_hour=self.usd_per_hour)

    def thinks(self, name: str) -> bool:
        """Does the model of this name think before it answers? Its row's word wins over the list's and its name."""
        row = self.model(name)
        if row is not None and row.reasoning is not None:
            return row.reasoning
        listed = find_listed(name, self.name) or find_listed(name.rpartition("/")[2])
        return thinks(name) or (listed is not None and listed.thinks)


@dataclass(frozen=True)
class ModelVerdict:
    """`reasons` are sentences for a person; empty when there is nothing to say. `way_out` is one too."""

    level: Literal["ok", "warn", "refuse"]
    reasons: tuple[str, ...] = ()
    way_out: str | None = None

    @property
    def may_train(self) -> bool:
        return self.level != "refuse"


def load_providers(
    own: Mapping[str, object] | None = None, environment: Mapping[str, str] | None = None
) -> tuple[ProviderRow, ...]:
    """The shipped rows with the user's on top. `own` is the [providers] table of their TOML, as parsed; `environment`
    names accounts.

    Raises ProviderProblems with everything that is wrong, not only the first thing.
    """
    faults: list[Fault] = []
    shipped = resources.files("trainers").joinpath("providers.toml").read_text(encoding="utf-8")
    tables = _merged(tomllib.loads(shipped), own or {}, faults)
    own_tables = _merged({}, own or {}, [])
    rows = tuple(
        _provider_row(name, table, own_tables.get(name, {}), environment or {}, faults)
        for name, table in tables.items()
    )
    if faults:
        raise ProviderProblems(faults)
    return rows


def model_verdict(
    row: ProviderRow, model: ModelRow, today: date, payback_days: float | None = None
) -> ModelVerdict:
    """May a job on this model start today, and will the tuned model live long enough to be worth it?"""
    way_out = None
    if row.name != "local":
        way_out = (
            "A model trained on your own machine has no end date, and some services train open weights for anybody: "
            "choose a target that starts with local/, or one like crusoe/llama-3.1-8b."
        )
    refusals = []
    if row.closes and today > row.closes:
        refusals.append(f"{row.title} has taken no new fine-tuning job since {row.closes}.")
    if model.has_ended(today):
        refusals.append(
            f"{model.name} ended on {model.ends}: neither it nor a fine-tune of it answers any more."
        )
    if refusals:
        return ModelVerdict("refuse", tuple(refusals), way_out)

    warnings = _end_warnings(model, today, payback_days)
    if row.closes and row.closes - today < NEAR_THE_END:
        warnings += (
            f"{row.title} takes new jobs only until {row.closes}: after that the model cannot be retrained.",
        )
    return ModelVerdict("warn", warnings, way_out) if warnings else ModelVerdict("ok")


MANY = 3  # allowed values, from which on they are no range


@dataclass(frozen=True)
class RejectedValue:
    """A hyperparameter that isn't taken as it is. `allowed`: in words, what is; empty where no value is."""

    name: str
    allowed: str


def find_rejected_value(provider: Provider, chosen: Mapping[str, Hyperparameter]) -> RejectedValue | None:
    """The first that the vendor doesn't take as it is."""
    for name, value in chosen.items():
        allowed = provider.hyperparameter_limits.get(name)
        if allowed == ():
            return RejectedValue(name, "")
        if allowed is not None and is_number(value) and _fitted(value, allowed) != value:
            words = f"{allowed[0]:g} to {allowed[-1]:g}"
            if len(allowed) >= MANY:
                words = ", ".join(f"{number:g}" for number in allowed)
            elif allowed[0] == allowed[-1]:
                words = f"{allowed[0]:g} alone"
            return RejectedValue(name, words)
    return None


def fit_hyperparameters(
    provider: Provider, values: Mapping[str, Hyperparameter]
) -> dict[str, Hyperparameter]:
    """The nearest values that the vendor takes; what it doesn't take at all is left out."""
    limits = provider.hyperparameter_limits
    return {
        name: _fitted(value, limits[name]) if name in limits and is_number(value) else value
        for name, value in values.items()
        if limits.get(name) != ()
    }


def file_problem(provider: Provider, rows: int, size: int | None = None) -> str | None:
    """Why the vendor wouldn't take a training file of so many rows and bytes; completes a sentence that begins with its
    name."""
    least, most = provider.min_examples, provider.max_file_bytes
    if least is not None and rows < least:
        return f"trains on {least} rows or more, and there are {rows}"
    if most is not None and size is not None and size > most:
        return f"takes files of at most {most / 1e6:,.0f} MB, and this one has {size / 1e6:,.0f}"
    return None


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _fitted(value: Hyperparameter, allowed: tuple[float, ...]) -> Hyperparameter:
    """Of two values that are as near the smaller one."""
    number = float(value)
    if len(allowed) >= MANY:
        nearest = min(allowed, key=lambda each: (abs(each - number), each))
    else:
        nearest = min(max(number, allowed[0]), allowed[-1])
    return value if nearest == number else type(value)(nearest)


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


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count:,} days"


def _merged(shipped: Table, own: Table, faults: list[Fault]) -> dict[str, Table]:
    """Tables by provider; keys of `own` win, those of its models too, one by one."""
    merged = _tables(("providers",), shipped, faults)
    for name, table in _tables(("providers",), own, faults).items():
        before, path = merged.get(name, {}), ("providers", name, "models")
        models = _tables(path, before.get("models", {}), faults)
        for model, changes in _tables(path, table.get("models", {}), faults).items():
            models[model] = {**models.get(model, {}), **changes}
        merged[name] = {**before, **table, "models": models}
    return merged


def _tables(path: KeyPath, value: object, faults: list[Fault]) -> dict[str, Table]:
    """The tables in a table; what is no table is a fault."""
    if not isinstance(value, Mapping):
        faults.append(Fault(path, "value", "a table with one row a name", value))
        return {}
    rows = {str(name): row for name, row in value.items()}
    faults += [
        Fault((*path, name), "value", "a table of keys", row)
        for name, row in rows.items()
        if not isinstance(row, Mapping)
    ]
    return {name: row for name, row in rows.items() if isinstance(row, Mapping)}


def _provider_row(
    name: str, table: Table, own: Table, environment: Mapping[str, str], faults: list[Fault]
) -> ProviderRow:
    """`own`: what of `table` the user said. An account that isn't named leaves {account} in the addresses."""
    path = ("providers", name)
    is_ours = name == "local" or not table.get("base_url")
    by_place = {
        "title": name,
        "callers": OWN_CALLERS if is_ours else CALLERS,
        "requests_per_minute": None if is_ours else REQUESTS_PER_MINUTE,
        "stays_here": not table.get("base_url"),
    }
    row = read_table(ProviderRow, {**by_place, **table}, faults, path)
    provider = row.provider
    account = environment.get(provider.account_env or "", "").strip()
    addresses = {
        key: getattr(provider, key).rstrip("/").replace("{account}", account or "{account}")
        for key in ("base_url", "chat_base_url", "deploy_base_url")
    }
    provider = replace(provider, **addresses, name=name, account=account)
    if row.stays_here and provider.base_url and not is_loopback(provider.base_url):
        text = f"is true, but {provider.base_url} is not on this machine. Leave it out."
        faults.append(Fault((*path, "stays_here"), "conflict", text))
    models = (
        _priced_by_size(
            read_table(
                ModelRow,
                values,
                faults,
                (*path, "models", model),
                name=model,
                is_hourly_price_set="usd_per_hour" in own.get("models", {}).get(model, {}),
            ),
            row.training_by_size,
        )
        for model, values in table.get("models", {}).items()
    )
    return replace(row, provider=provider, models=tuple(models))


def _priced_by_size(model: ModelRow, prices: tuple[SizePrice, ...]) -> ModelRow:
    size = model.size
    if model.price.training is not None or size is None:
        return model
    fitting = (price.training for price in prices if price.up_to is None or size <= price.up_to)
    return replace(model, price=replace(model.price, training=next(fitting, None)))
