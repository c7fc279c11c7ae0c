"""The known providers and the models that they tune, read from providers.toml and the user's finetune.toml. Calls no
provider and computes no costs."""

from __future__ import annotations

import ipaddress
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from decimal import Decimal
from functools import cache
from importlib import resources
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from trainers.models.chat_parameters import thinks
from trainers.models.model_list import RELEASE_SUFFIX, find_listed_model, strip_effort
from trainers.rentals.prices import Rental
from trainers.typed_tables import SET_BY_CALLER, Fault, Key, KeyPath, Limits, read_table, title_of
from trainers.types import Hyperparameter, PositiveInt, Price, Provider, TriedWith

Table = Mapping[str, Any]


def is_loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    # No other name is resolved, since it may lead elsewhere a moment later.
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


NEAR_THE_END = timedelta(days=60)
CALLERS = 8
OWN_CALLERS = 32
REQUESTS_PER_MINUTE = 500


class ProviderProblems(Exception):
    """Configured rows are invalid. `problems` has one sentence for each mistake, naming row and key."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        self.problems = tuple(f"{title_of(fault.path)}: {fault.text}" for fault in faults)
        super().__init__("\n".join(self.problems))


@dataclass(frozen=True)
class ModelRow:
    """A base model that a provider tunes. `price` is that of training and of the *tuned* model.

    `ends` is the first day on which neither the model nor its fine-tunes answer. `context` is the longest training
    example, in tokens. `base_name` is the base model's name in price lists. `usd_per_hour` is the cost of an hour of
    our own machine; `is_hourly_price_set` is True if the user set it, even to 0, and False if it comes from our own
    rows. `reasoning`: it thinks in hidden tokens before it answers; None decides by its name. `kind`: an encoder learns
    labels and generates no text. `billions` of parameters decide the training price at some providers; None takes them
    from its name. `serving_usd_per_hour` is the cost of an hour of the machine that serves the tuned model; None means
    the provider's price. `serving_tokens_per_second` are those that this machine handles, `tokens_per_second` those
    that a training handles on our own; None if nobody stated them. `most_rank` is the largest rank of an adapter that
    is served by the token.
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
    tokens_per_second: Annotated[int, Limits(gt=0)] | None = None
    serving_tokens_per_second: Annotated[int, Limits(gt=0)] | None = None
    most_rank: Annotated[int, Limits(gt=0)] | None = None
    is_hourly_price_set: Annotated[bool, SET_BY_CALLER] = False

    @property
    def is_encoder(self) -> bool:
        return self.kind == "encoder"

    @property
    def names(self) -> tuple[str, ...]:
        """The name and its aliases, in lower case."""
        return tuple(name.lower() for name in (self.name, *self.aliases))

    @property
    def size(self) -> float | None:
        """Billions of parameters, or None if unknown."""
        if self.billions:
            return self.billions
        # Of qwen3-30b-a3b this is 30, not the 3 that are active for a token.
        in_name = re.search(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z])", self.name.lower())
        if in_name is None:
            return None
        return float(in_name[1])

    def has_ended(self, today: date) -> bool:
        return self.ends is not None and today >= self.ends


@dataclass(frozen=True)
class SizePrice:
    """Price of a million training tokens for models of at most `up_to` billion parameters; None means any size."""

    training: Annotated[Decimal, Key(required='US dollars per million tokens, in quotes, like "0.50"')]
    up_to: Annotated[float, Limits(gt=0)] | None = None


Serving = Literal["included", "adapter", "dedicated", "download", "on_request"]


def _hyperparameter(value: object) -> Hyperparameter:
    if isinstance(value, int | float | str):
        return value
    if isinstance(value, Decimal):
        return float(value)
    raise ValueError(value)


Hyperparameters = Mapping[
    str, Annotated[Any, Key(convert=_hyperparameter, wants="a number, true, false or text")]
]


@dataclass(frozen=True)
class ProviderRow:
    """A provider. `closes` is the last day on which it accepts a new job; from `closed_to_new` on it trains only for
    accounts that had trained there before, and from `closed_to_idle` on only for those that have asked a tuned model
    within `idle_days`. `closing_said_by` is the source of these dates. `prices_from` says where to get prices that no
    public list has. `defaults` are the hyperparameters that a plan there starts with.

    `stays_here`: data sent to it stays with the people who run the bot. That is so for the trainer that we start,
    unless its jobs run on a cluster that nobody has declared to be theirs. For any other provider the row must say so,
    because there may be a proxy behind a loopback address. `cluster` is the address of the Ray cluster on which its
    jobs run. `is_child`: the bot started it, and `at_address` has set its address.

    While models are measured, at most `callers` requests are in flight, and at most `requests_per_minute` are started
    (None: unlimited). `shutdowns` are the shutdown days that the provider itself announces, by model, and `listed` the
    models in its last list, empty if it was never asked. `outputs_terms` is the address of its terms on training with
    its models' outputs. `usd_per_hour` is set if it serves models on a machine of our own. `training_by_size` has the
    smallest size first.

    `serving` says how a tuned model is served: "included" at once, "adapter" beside others, "dedicated" on a machine
    that costs `serving_usd_per_hour` until it is stopped (automatically after `idle_stop_s` without a question),
    "download" elsewhere, "on_request" if the provider agrees. `data_terms` is the address of its terms on the data that
    it gets, which a team accepts before it sends an adapter there. `serves_models_of` is the provider whose tuned
    models it serves by the token; None means adapters of our own trainer, which are uploaded. `tried_with` says how the
    road was tried, empty if nobody says. `rents`: each training runs on its own machine, rented by the minute; `rental`
    is its price, once that has been looked up. `engine`: our own trainer trains its models at a vendor, who is paid by
    the token and gets the rows; they answer here.
    """

    provider: Annotated[Provider, Key(is_inline=True)]
    title: str = ""
    closes: date | None = None
    models: Annotated[tuple[ModelRow, ...], Key(input_type=Mapping[str, Any])] = ()
    defaults: Hyperparameters = field(default_factory=dict)
    callers: PositiveInt = CALLERS
    requests_per_minute: PositiveInt | None = None
    stays_here: bool = False
    cluster: Annotated[str | None, SET_BY_CALLER] = None
    is_child: Annotated[bool, SET_BY_CALLER] = False
    closed_to_new: date | None = None
    closed_to_idle: date | None = None
    idle_days: PositiveInt = 60
    closing_said_by: str = ""
    prices_from: str = ""
    shutdowns: Annotated[Mapping[str, date], SET_BY_CALLER] = field(default_factory=dict)
    listed: Annotated[frozenset[str], SET_BY_CALLER] = frozenset()
    outputs_terms: Annotated[
        str | None, re.compile("https://.*"), Key(wants="an address that starts with https://")
    ] = None
    usd_per_hour: Decimal | None = None
    training_by_size: tuple[SizePrice, ...] = ()
    serving: Serving = "included"
    serving_usd_per_hour: Decimal | None = None
    idle_stop_s: PositiveInt | None = None
    data_terms: Annotated[
        str | None, re.compile("https://.*"), Key(wants="an address that starts with https://")
    ] = None
    engine: Literal["tinker"] | None = None
    serves_models_of: str | None = None
    tried_with: tuple[TriedWith, ...] = ()
    rents: Annotated[bool, SET_BY_CALLER] = False
    rental: Annotated[Rental | None, SET_BY_CALLER] = None

    @property
    def name(self) -> str:
        return self.provider.name

    @property
    def is_hosted(self) -> bool:
        """True if a tuned model is served only on a machine that is billed by the hour."""
        return self.serving == "dedicated"

    @property
    def takes_uploads(self) -> bool:
        """True if adapters that our own trainer made are uploaded to it."""
        return self.provider.can("adapters") and self.serves_models_of is None

    @property
    def scales_to_zero(self) -> bool:
        """True if such a machine costs nothing while it is idle."""
        return self.provider.deploy_api == "fireworks"

    def hourly_price(self, base_model: str) -> Decimal | None:
        """Returns the price of an hour in which a model tuned from this base is deployed; None if unknown."""
        model = self.model(base_model)
        if model is None or model.serving_usd_per_hour is None:
            return self.serving_usd_per_hour
        return model.serving_usd_per_hour

    def with_hourly_price(self, base_model: str, price: Decimal) -> ProviderRow:
        models = []
        for model in self.models:
            if model.name == base_model:
                model = replace(model, serving_usd_per_hour=price)
            models.append(model)
        return replace(self, models=tuple(models))

    @property
    def trains(self) -> bool:
        return not self.provider.only_chats

    @property
    def is_started_by_us(self) -> bool:
        """True if the trainer runs as our child process. Its address is known only once it is up; see `at_address`."""
        return self.is_child or not self.provider.base_url

    @property
    def keeps_models_here(self) -> bool:
        """True if its data folder is on this machine, wherever its jobs run."""
        return self.is_started_by_us or is_loopback(self.provider.base_url)

    def at_address(self, base_url: str) -> ProviderRow:
        """Returns the row of the trainer that the bot has started at this address."""
        provider = replace(self.provider, base_url=base_url)
        return replace(self, provider=provider, is_child=True)

    def with_shutdowns(
        self,
        days_by_name: Mapping[str, date],
        listed: frozenset[str] = frozenset(),
    ) -> ProviderRow:
        """Returns the row with the provider's own shutdown dates instead of the configured ones, and with the models
        that it `listed`. A model's name is looked up before its aliases."""
        days_by_name = {name.lower(): day for name, day in days_by_name.items()}
        models = []
        for model in self.models:
            days = [days_by_name[name] for name in model.names if name in days_by_name]
            if days:
                model = replace(model, ends=days[0])
            models.append(model)
        names = frozenset(name.lower() for name in listed)
        return replace(self, shutdowns=days_by_name, listed=names, models=tuple(models))

    def lacks(self, name: str) -> bool:
        """True if the provider's own list has no such model. False if the list was never read."""
        if not self.listed:
            return False
        # A list may have only dated releases of a model.
        undated = {RELEASE_SUFFIX.sub("", model) for model in self.listed}
        return name not in self.listed and name not in undated

    def model(self, name: str) -> ModelRow | None:
        """Finds a model by its name, an alias, or the name of a fine-tune of it (ft:BASE:…)."""
        if name.startswith("ft:"):
            name = name.split(":")[1]
        base = strip_effort(name)
        for row in self.models:
            if base == row.name or base in row.aliases:
                return row
        return None

    def unlisted_model(self, name: str) -> ModelRow | None:
        """Returns a row for a model that is served on a machine of our own without a configured row, or None."""
        if self.usd_per_hour is None or not name:
            return None
        unpriced = Price(training=None, input=None, cached_input=None, output=None)
        source = f"{self.title}: the machine's hours, and no price per token"
        return ModelRow(name, unpriced, source=source, usd_per_hour=self.usd_per_hour)

    def thinks(self, name: str) -> bool:
        """True if this model thinks before it answers. Its row decides, then models.toml or its name."""
        row = self.model(name)
        if row is not None and row.reasoning is not None:
            return row.reasoning
        if thinks(name):
            return True
        bare = name.rpartition("/")[2]
        listed = find_listed_model(name, self.name) or find_listed_model(bare)
        return listed is not None and listed.thinks


@dataclass(frozen=True)
class ModelVerdict:
    """Whether a job on a model may start. `reasons` are sentences for a person, if there are any; `way_out` is a
    sentence that suggests an alternative. `is_closed`: the provider takes no new jobs, whatever the model."""

    level: Literal["ok", "warn", "refuse"]
    reasons: tuple[str, ...] = ()
    way_out: str | None = None
    is_closed: bool = False

    @property
    def may_train(self) -> bool:
        return self.level != "refuse"


def load_providers(
    own: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[ProviderRow, ...]:
    """Returns the shipped rows, changed and extended by the user's. `own` is the parsed [providers] table of
    finetune.toml; `environment` has the variables that hold account names.

    Raises ProviderProblems with all mistakes, not only the first.
    """
    faults: list[Fault] = []
    # Once without our rows, to tell what the user wrote, and once more for its faults.
    own_tables = _merge_rows({}, own or {}, [])
    tables = _merge_rows(_shipped_tables(), own or {}, faults)
    rows: list[ProviderRow] = []
    for name, table in tables.items():
        account = (environment or {}).get(str(table.get("account_env", "")), "").strip()
        if name in own_tables:
            row = _provider_row(name, table, own_tables[name], account, faults)
        else:
            row = _shipped_row(name, account)
        rows.append(row)
    if faults:
        raise ProviderProblems(faults)
    return tuple(rows)


@cache
def _shipped_tables() -> Table:
    return tomllib.loads(resources.files("trainers").joinpath("providers.toml").read_text(encoding="utf-8"))


@cache
def _shipped_row(name: str, account: str) -> ProviderRow:
    faults: list[Fault] = []
    row = _provider_row(name, _shipped_tables()[name], {}, account, faults)
    if faults:
        raise ProviderProblems(faults)
    return row


def model_verdict(
    row: ProviderRow,
    model: ModelRow,
    today: date,
    payback_days: float | None = None,
) -> ModelVerdict:
    """Decides whether a job on this model may start today, and warns if the tuned model will be shut down too soon to
    pay back."""
    way_out = None
    if row.name != "local":
        way_out = (
            "Choose a target that starts with local/, since a model trained on your own machine is never shut down, or "
            "open weights at a service, such as crusoe/llama-3.1-8b."
        )
    refusals = []
    is_closed = row.closes is not None and today > row.closes
    source = ""
    if row.closing_said_by:
        source = f" ({row.closing_said_by})"
    if row.closes and is_closed:
        since = row.closes + timedelta(days=1)
        refusals.append(f"{row.title} has accepted no new fine-tuning jobs since {since}{source}.")
    if model.has_ended(today):
        refusals.append(
            f"{model.name} ended on {model.ends}: neither it nor a fine-tune of it answers any more."
        )
    if refusals:
        return ModelVerdict("refuse", tuple(refusals), way_out, is_closed)

    warnings = _end_warnings(model, today, payback_days)
    if row.closes and row.closes - today < NEAR_THE_END:
        warnings += (
            f"{row.title} accepts new jobs only until {row.closes}; after that the model can't be retrained.",
        )
    if row.closed_to_idle and today >= row.closed_to_idle:
        warnings += (
            f"Since {row.closed_to_idle}, {row.title} takes jobs only from organisations that have asked a tuned model "
            f"there within {row.idle_days} days{source}; if yours has not, it refuses the job, at no cost.",
        )
    if not warnings:
        return ModelVerdict("ok")
    return ModelVerdict("warn", warnings, way_out)


FEWEST_CHOICES = 3  # this many allowed values are a list of choices; two are a range


@dataclass(frozen=True)
class RejectedValue:
    """A hyperparameter whose value the vendor doesn't accept. `allowed` says in words which values it does accept;
    empty if it accepts none."""

    name: str
    allowed: str


def find_rejected_value(
    provider: Provider,
    chosen: Mapping[str, Hyperparameter],
) -> RejectedValue | None:
    """Returns the first hyperparameter whose value the vendor doesn't accept, or None."""
    for name, value in chosen.items():
        allowed = provider.hyperparameter_limits.get(name)
        if allowed == ():
            return RejectedValue(name, "")
        if allowed is None or not is_number(value):
            continue
        if _nearest_allowed(value, allowed) != value:
            return RejectedValue(name, _allowed_in_words(allowed))
    return None


def _allowed_in_words(allowed: tuple[float, ...]) -> str:
    numbers = [f"{number:g}" for number in allowed]
    if len(allowed) >= FEWEST_CHOICES:
        return ", ".join(numbers)
    least = numbers[0]
    most = numbers[-1]
    if allowed[0] == allowed[-1]:
        return f"only {least}"
    return f"{least} to {most}"


def fit_hyperparameters(
    provider: Provider, values: Mapping[str, Hyperparameter]
) -> dict[str, Hyperparameter]:
    """Returns the nearest values that the vendor accepts, without hyperparameters that it doesn't accept at all."""
    fitted: dict[str, Hyperparameter] = {}
    for name, value in values.items():
        allowed = provider.hyperparameter_limits.get(name)
        if allowed == ():
            continue
        if allowed is not None and is_number(value):
            value = _nearest_allowed(value, allowed)
        fitted[name] = value
    return fitted


def file_problem(provider: Provider, rows: int, size: int | None = None) -> str | None:
    """Returns why the vendor would not accept a training file with this many rows and bytes, or None. The text
    completes a sentence that begins with the vendor's name."""
    least = provider.min_examples
    most = provider.max_file_bytes
    if least is not None and rows < least:
        return f"needs at least {least} rows, and there are {rows}"
    if most is not None and size is not None and size > most:
        most_mb = most / 1e6
        mb = size / 1e6
        return f"accepts files of at most {most_mb:,.0f} MB, and this one has {mb:,.0f} MB"
    return None


def is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _nearest_allowed(value: Hyperparameter, allowed: tuple[float, ...]) -> Hyperparameter:
    """Returns the allowed value that is nearest; of two that are equally near, the smaller one."""
    number = float(value)
    if len(allowed) >= FEWEST_CHOICES:
        nearest = min(allowed, key=lambda each: (abs(each - number), each))
    else:
        nearest = min(max(number, allowed[0]), allowed[-1])
    if nearest == number:
        return value
    # Limits are floats, and a whole number such as n_epochs has to stay one.
    return type(value)(nearest)


def _end_warnings(model: ModelRow, today: date, payback_days: float | None) -> tuple[str, ...]:
    if model.ends is None:
        return ()
    days = (model.ends - today).days
    if payback_days is not None and payback_days > days:
        return (
            f"{model.name} ends on {model.ends}, in {_days(days)}, but takes "
            f"{_days(round(payback_days))} to pay for itself: the money would be lost.",
        )
    if days < NEAR_THE_END.days:
        return (f"{model.name} and its fine-tunes end on {model.ends}, in {_days(days)}.",)
    return ()


def _days(count: int) -> str:
    return "1 day" if count == 1 else f"{count:,} days"


def _merge_rows(shipped: Table, own: Table, faults: list[Fault]) -> dict[str, Table]:
    """Returns the tables by provider. Keys of `own` replace those of `shipped` one by one, in models too."""
    merged = _tables(("providers",), shipped, faults)
    for name, table in _tables(("providers",), own, faults).items():
        before = merged.get(name, {})
        path = ("providers", name, "models")
        models = _tables(path, before.get("models", {}), faults)
        own_models = _tables(path, table.get("models", {}), faults)
        for model, changes in own_models.items():
            models[model] = {**models.get(model, {}), **changes}
        merged[name] = {**before, **table, "models": models}
    return merged


def _tables(path: KeyPath, value: object, faults: list[Fault]) -> dict[str, Table]:
    """Returns the tables inside a table. Anything else in it is a fault."""
    if not isinstance(value, Mapping):
        faults.append(Fault(path, "value", "a table with one row per name", value))
        return {}
    tables: dict[str, Table] = {}
    for key, row in value.items():
        name = str(key)
        if isinstance(row, Mapping):
            tables[name] = row
        else:
            faults.append(Fault((*path, name), "value", "a table of keys", row))
    return tables


def _provider_row(
    name: str,
    table: Table,
    own: Table,
    account: str,
    faults: list[Fault],
) -> ProviderRow:
    """Reads a provider's row. `own` is the part of `table` that the user wrote. If the `account` is empty, {account}
    stays in the addresses."""
    path = ("providers", name)
    has_address = bool(table.get("base_url"))
    defaults: dict[str, object] = {
        "title": name,
        "callers": CALLERS,
        "requests_per_minute": REQUESTS_PER_MINUTE,
        # Without an address it is our own child process; for any other, the row has to say so.
        "stays_here": not has_address,
    }
    if name == "local" or not has_address:  # our own machine has no limit of its own
        defaults |= {"callers": OWN_CALLERS, "requests_per_minute": None}
    row = read_table(ProviderRow, {**defaults, **table}, faults, path)
    provider = row.provider

    def complete(address: str) -> str:
        return address.rstrip("/").replace("{account}", account or "{account}")

    provider = replace(
        provider,
        name=name,
        account=account,
        base_url=complete(provider.base_url),
        chat_base_url=complete(provider.chat_base_url),
        deploy_base_url=complete(provider.deploy_base_url),
        billing_base_url=complete(provider.billing_base_url),
        headers={header: complete(text) for header, text in provider.headers.items()},
    )
    # By such a mistake, rows would leave this machine unnoticed.
    if row.stays_here and provider.base_url and not is_loopback(provider.base_url):
        text = f"is true, but {provider.base_url} is not on this machine. Remove it."
        faults.append(Fault((*path, "stays_here"), "conflict", text))
    models = []
    for model_name, values in table.get("models", {}).items():
        own_values = own.get("models", {}).get(model_name, {})
        model = read_table(
            ModelRow,
            values,
            faults,
            (*path, "models", model_name),
            name=model_name,
            is_hourly_price_set="usd_per_hour" in own_values,
        )
        models.append(_with_price_by_size(model, row.training_by_size))
    return replace(row, provider=provider, models=tuple(models))


def _with_price_by_size(model: ModelRow, prices: tuple[SizePrice, ...]) -> ModelRow:
    size = model.size
    if model.price.training is not None or size is None:
        return model
    fitting = (price.training for price in prices if price.up_to is None or size <= price.up_to)
    by_size = next(fitting, None)
    return replace(model, price=replace(model.price, training=by_size))
