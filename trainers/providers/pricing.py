"""Finds prices of models by name, with source and date, and the dates on which models are retired. For an unknown name
it suggests similar names and never guesses a price.

Retirement dates come from the provider's API (`shutdown_date`), from our provider rows (providers.py) and from the
dated list models.toml (model_list.py); a model without a known date may still be retired. Prices of training and of
tuned models come from our rows. Prices of prompted models come from the library genai-prices, or from models.toml for
models that it lacks. A user's own price takes precedence.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from functools import lru_cache
from importlib import metadata
from typing import TYPE_CHECKING, Literal

from trainers.json_values import from_object
from trainers.models.model_list import RELEASE_SUFFIX, ListedModel, find_listed_model, strip_effort
from trainers.providers.providers import ModelRow, ProviderRow
from trainers.rentals.prices import Rental
from trainers.types import Price

if TYPE_CHECKING:
    from genai_prices.types import MatchLogic, ModelPrice, PriceCalculation, TieredPrices

LIBRARY = "genai-prices"
OLD_AFTER = timedelta(days=183)


@dataclass(frozen=True)
class Retirement:
    """The retirement of a model. `day` is the first day on which it no longer answers. `successor` is None if its maker
    named none. `said_by` is the source of this, with its date. `is_confirmed` is False if the successor is doubtful;
    `said_by` then says why."""

    day: date
    successor: str | None = None
    said_by: str = field(default="", compare=False)
    is_confirmed: bool = field(default=True, compare=False)


def find_retirement(name: str, providers: Sequence[ProviderRow]) -> Retirement | None:
    """Returns the retirement of 'gpt-4o', 'openai/gpt-4o' or 'ft:gpt-4o-2024-08-06:acme::x', or None if none is known.
    For a model that is sold by somebody other than its maker ('azure/gpt-4o'), the seller's date counts. A successor
    that its maker's own list lacks, as it was read last night, is called unconfirmed, as is one that nobody has read on
    its maker's page."""
    seller, slash, bare = strip_effort(name.lower()).partition("/")
    if not slash:
        bare = seller
        seller = ""
    if bare.startswith("ft:"):
        bare = bare.split(":")[1]
    listed = find_listed_model(bare, seller or None)
    successor = None
    if listed is not None:
        successor = listed.successor
    rows = [row for row in providers if not slash or row.name == seller]
    doubt = _doubt(listed, rows)
    is_confirmed = not doubt
    # What a vendor's API announces itself is newer than the lists.
    for row in rows:
        if bare in row.shutdowns:
            said_by = f"the list of models of {row.title}{doubt}"
            return Retirement(row.shutdowns[bare], successor, said_by, is_confirmed)
    for row in rows:
        model = next((model for model in row.models if bare in model.names), None)
        if model and model.ends:
            said_by = dated_source(model.source or "your settings", model.as_of)
            return Retirement(model.ends, successor, f"{said_by}{doubt}", is_confirmed)
    if listed is None or listed.ends is None:
        return None
    return Retirement(listed.ends, successor, f"{listed.said_by}{doubt}", is_confirmed)


def _doubt(listed: ListedModel | None, rows: Sequence[ProviderRow]) -> str:
    """Returns why the successor of a listed model is unconfirmed, as the end of a sentence; "" if it is confirmed."""
    if listed is None:
        return ""
    for row in rows:
        if listed.successor and row.name == listed.seller and row.lacks(listed.successor):
            return f"; unconfirmed, since the list of models of {row.title} has no {listed.successor}"
    if listed.unconfirmed:
        return "; unconfirmed"
    return ""


def dated_source(source: str, as_of: date | None) -> str:
    if as_of is None:
        return source
    return f"{source}, {as_of}"


@dataclass(frozen=True)
class PriceRow:
    """What `model` costs. `as_of` is None if the source's version already dates it.

    `usd_per_hour` is set for a model on a machine of our own, whose hours cost money and whose tokens are free. The
    same holds for a vendor's machine that is rented for this model alone (`is_hosted`, at `hosted_usd_per_hour`). After
    `idle_window_s` seconds without a question such a machine costs nothing until the next question; None means that it
    always costs. `rental` is the price of the machine that trains the model, if that is rented by the minute. `note` is
    a sentence that a buyer should know. `batch_discount` of 0.5 means that batch requests cost half; None means that no
    batch price is listed. `ends` is the first day on which the model no longer answers, or None if none is announced,
    `successor` the model that its maker recommends instead, and `ends_said_by` the source of both;
    `is_successor_doubtful` is True if no page of its maker confirms it. `served_by` is the provider that serves the
    tuned model by the token, if that isn't its trainer: `price` is then what that one charges, and `usd_per_hour` or
    `rental` is paid for the training alone. `prices_from` says where to get a missing price. `closed_since` is the
    first day on which the provider takes no more jobs, `closed_to_new` the one from which on it takes them only from
    those who had trained there before, and `closing_said_by` the source of both.
    """

    model: str
    kind: Literal["prompted", "tuned"]
    price: Price
    source: str
    as_of: date | None = None
    usd_per_hour: Decimal | None = None
    note: str | None = None
    batch_discount: Decimal | None = None
    ends: date | None = None
    successor: str | None = None
    ends_said_by: str | None = None
    is_successor_doubtful: bool = False
    is_hosted: bool = False
    hosted_usd_per_hour: Decimal | None = None
    idle_window_s: int | None = None
    rental: Rental | None = None
    served_by: str = ""
    prices_from: str = ""
    closed_since: date | None = None
    closed_to_new: date | None = None
    closing_said_by: str = ""

    @property
    def answers_by_hour(self) -> bool:
        """True if its answers are paid by the hours of a machine of our own."""
        return self.usd_per_hour is not None and not self.served_by

    @property
    def is_trained_elsewhere(self) -> bool:
        """True if its provider serves tuned models and trains none."""
        return self.model.startswith(f"{self.served_by}/")

    @property
    def said_by(self) -> str:
        return dated_source(self.source, self.as_of)

    def is_old(self, today: date) -> bool:
        """True if nobody has read the price for over half a year. Those of a library or a person have no such date."""
        return self.as_of is not None and today - self.as_of > OLD_AFTER

    def has_ended(self, today: date) -> bool:
        return self.ends is not None and today >= self.ends

    def is_closed(self, today: date) -> bool:
        """True if nobody can train the model there any more."""
        return self.closed_since is not None and today >= self.closed_since


@dataclass(frozen=True)
class UnknownPrice:
    """No price is known for `name`. `sentence` tells a person so, with the `nearest` names and the next step."""

    name: str
    nearest: tuple[str, ...]
    sentence: str


@dataclass(frozen=True)
class PriceList:
    """The prices that a plan was made with, as read on `read_on`."""

    rows: tuple[PriceRow, ...]
    read_on: date

    def to_json(self) -> str:
        """Returns JSON with amounts as text and sorted keys, so that equal lists give equal bytes."""
        rows = [_row_to_json(row) for row in self.rows]
        return json.dumps(
            {"read_on": self.read_on.isoformat(), "rows": rows},
            sort_keys=True,
            separators=(",", ":"),
            default=str,  # for the Decimal of a rental's price
        )

    @staticmethod
    def from_json(text: str) -> PriceList:
        raw = json.loads(text)
        names = {field.name for field in fields(Price)}
        rows = []
        for flat in raw["rows"]:
            price = {name: value for name, value in flat.items() if name in names}
            rest = {name: value for name, value in flat.items() if name not in names}
            row = from_object(PriceRow, {**rest, "price": price})
            rows.append(row)
        return PriceList(tuple(rows), date.fromisoformat(raw["read_on"]))


def find_prompted_price(
    name: str,
    providers: Sequence[ProviderRow],
    own: Sequence[PriceRow],
    today: date,
) -> PriceRow | UnknownPrice:
    """Finds the price of asking a model: 'gpt-4o', 'groq/llama-3.1-8b-instant', 'ft:gpt-4o-2024-08-06:acme::x' or
    'local/smollm2-135m'. The user's `own` prices take precedence.

    A model of a provider in `providers` may also be listed without the provider's name: as somebody typed it into
    their own prices, or as price lists name it."""
    row = _find_by_name(name, providers, own, today)
    if isinstance(row, PriceRow):
        return row
    for other_name in _other_names(name, providers, own):
        other = _find_by_name(other_name, providers, own, today)
        if isinstance(other, PriceRow):
            return replace(other, model=name.strip())
    return row


def _other_names(
    name: str,
    providers: Sequence[ProviderRow],
    own: Sequence[PriceRow],
) -> Iterator[str]:
    """Yields the names without the provider under which lists may have the price of 'PROVIDER/MODEL'."""
    seller, slash, bare = name.strip().partition("/")
    provider = next((row for row in providers if slash and row.name == seller.lower()), None)
    if provider is None:
        return
    bare = strip_effort(bare)
    model = provider.model(bare)
    if any(row.model.lower() == bare.lower() for row in own):
        yield bare
    if model is not None:
        yield model.base_name or bare


def _find_by_name(
    name: str,
    providers: Sequence[ProviderRow],
    own: Sequence[PriceRow],
    today: date,
) -> PriceRow | UnknownPrice:
    full_name = name.strip()
    name = strip_effort(full_name)
    own_row = next((row for row in own if row.model.lower() == name.lower()), None)
    # The user's own price first; models.toml last, as it has only what the library lacks.
    row = own_row or _from_rows(name, providers) or library_price(name, today)
    if not isinstance(row, PriceRow):
        row = _from_list(name) or row
    if row is None:
        names = [*(row.model for row in own), *_models_on_own_machines(providers)]
        row = _unknown(name, names, today)
    if isinstance(row, UnknownPrice):
        return row
    if full_name != name:
        row = replace(row, model=full_name)
    end = find_retirement(name, providers)
    if end is None:
        return row
    # What the row itself says comes first.
    if not row.ends:
        row = replace(row, ends=end.day, ends_said_by=end.said_by)
    takes_successor = row.successor is None and end.successor is not None
    return replace(
        row,
        successor=row.successor or end.successor,
        is_successor_doubtful=takes_successor and not end.is_confirmed,
    )


def _models_on_own_machines(providers: Sequence[ProviderRow]) -> Iterator[str]:
    for provider in providers:
        for model in provider.models:
            if model.usd_per_hour is not None:
                yield f"{provider.name}/{model.name}"


def tuned_price(provider: ProviderRow, model: ModelRow) -> PriceRow:
    """Returns the price of training on `model` and of asking the tuned model. Unknown parts are None."""
    price = model.price
    if model.usd_per_hour is not None:
        # The hour is paid for in any case, so its tokens cost nothing more.
        training = None
        if provider.engine is not None:
            training = price.training  # at the engine's vendor; the tuned model answers here
        price = Price(training=training, input=Decimal(0), cached_input=Decimal(0), output=Decimal(0))
    elif provider.is_hosted and provider.provider.can("deploy"):
        # Only the machine's hours are billed, not the tokens.
        price = replace(price, input=Decimal(0), cached_input=Decimal(0), output=Decimal(0))
    source = model.source or "your settings"
    ends_said_by: str | None = None
    if model.ends:
        ends_said_by = dated_source(source, model.as_of)
    hourly_price: Decimal | None = None
    if provider.is_hosted:
        hourly_price = provider.hourly_price(model.name)
    closed_since: date | None = None
    if provider.closes:
        # `closes` is the last day on which it still takes jobs.
        closed_since = provider.closes + timedelta(days=1)
    idle_window_s: int | None = None
    if provider.scales_to_zero:
        idle_window_s = provider.idle_stop_s
    served_by = ""
    if not provider.trains:
        served_by = provider.name
    return PriceRow(
        model=f"{provider.name}/{model.name}",
        kind="tuned",
        price=price,
        source=source,
        as_of=model.as_of,
        usd_per_hour=model.usd_per_hour,
        rental=provider.rental,
        ends=model.ends,
        ends_said_by=ends_said_by,
        is_hosted=provider.is_hosted,
        hosted_usd_per_hour=hourly_price,
        idle_window_s=idle_window_s,
        served_by=served_by,
        prices_from=provider.prices_from,
        closed_since=closed_since,
        closed_to_new=provider.closed_to_new,
        closing_said_by=provider.closing_said_by,
    )


def tuned_prices(provider: ProviderRow) -> list[PriceRow]:
    """Returns the price of each model that can be tuned at a provider."""
    return [tuned_price(provider, model) for model in provider.models]


def served_price(trained: PriceRow, server: ProviderRow, base: ModelRow) -> PriceRow:
    """Returns the price of a tuned model that `server` serves by the token as an adapter of `base`, given the one at
    its trainer: an adapter's tokens cost what the base's cost."""
    price = replace(
        trained.price,
        input=base.price.input,
        cached_input=base.price.cached_input,
        output=base.price.output,
    )
    ends = min((day for day in (trained.ends, base.ends) if day is not None), default=None)
    ends_said_by = trained.ends_said_by
    if ends is not None and ends == base.ends:
        ends_said_by = dated_source(base.source or "your settings", base.as_of)
    return replace(
        trained,
        price=price,
        source=base.source or "your settings",
        as_of=base.as_of,
        ends=ends,
        ends_said_by=ends_said_by,
        is_hosted=False,
        hosted_usd_per_hour=None,
        idle_window_s=None,
        batch_discount=None,
        served_by=server.name,
    )


def base_price_at(server: ProviderRow, base: ModelRow) -> PriceRow:
    """Returns the price of asking the untuned base at a provider that serves its adapters."""
    return PriceRow(
        model=f"{server.name}/{base.name}",
        kind="prompted",
        price=replace(base.price, training=None),
        source=base.source or "your settings",
        as_of=base.as_of,
        ends=base.ends,
    )


def _from_rows(name: str, providers: Sequence[ProviderRow]) -> PriceRow | None:
    """Returns the price of a fine-tuned model (ft:…) or of a model on a machine of our own, or None."""
    for provider in providers:
        bare = name.removeprefix(provider.name + "/")
        is_here = bare != name
        model = provider.model(bare)
        if model is None and is_here:
            model = provider.unlisted_model(bare)
        if model is None:
            continue
        if is_here and provider.provider.can("adapters"):
            return base_price_at(provider, model)
        is_on_our_machine = is_here and model.usd_per_hour is not None
        if bare.startswith("ft:") or is_on_our_machine:
            return tuned_price(provider, model)
    return None


def _from_list(name: str) -> PriceRow | None:
    """Returns the price in models.toml, or None."""
    seller, _, model = name.lower().partition("/")
    listed = find_listed_model(model, seller) if model else find_listed_model(seller)
    if listed is None or listed.input is None or listed.output is None:
        return None
    price = Price(None, listed.input, listed.cached_input, listed.output)
    return PriceRow(name, "prompted", price, listed.source, listed.as_of)


@lru_cache(maxsize=1000)  # the library tries all its patterns, which takes 10 ms
def library_price(name: str, today: date) -> PriceRow | UnknownPrice | None:
    """Returns the price in genai-prices, or None if it doesn't know this very model."""
    result = _library_match(name, today)
    _, ref = _seller_and_model(name)
    if result is None:
        return None
    is_same = result.model.id.lower() == ref.lower()
    if not is_same and not _is_named(result.model.match, ref.lower()):
        return None
    return _listed_row(name, result, today)


def _library_match(name: str, today: date) -> PriceCalculation | None:
    """Returns genai-prices' match for this name, which may be another model with a similar name."""
    from genai_prices import Usage, calc_price

    seller, ref = _seller_and_model(name)
    try:
        # The amount doesn't matter, since only prices per token are read.
        return calc_price(
            Usage(input_tokens=1),
            ref,
            provider_id=seller,
            genai_request_timestamp=_noon(today),
        )
    except LookupError:
        return None


def _seller_and_model(name: str) -> tuple[str | None, str]:
    """Splits 'SELLER/MODEL'. The seller is None if the library doesn't know it; the model is then the whole name."""
    from genai_prices.data_snapshot import get_snapshot

    seller, slash, model = name.partition("/")
    known_sellers = {provider.id for provider in get_snapshot().providers}
    if slash and seller.lower() in known_sellers:
        return seller.lower(), model
    return None, name


def _is_named(match: MatchLogic, name: str) -> bool:
    """True if the list has exactly this model. Its own matching by prefix would accept 'gpt-4o-mini-audio-nonsense'."""
    from genai_prices import types

    if isinstance(match, types.ClauseOr):
        return any(_is_named(clause, name) for clause in match.or_)
    if isinstance(match, types.ClauseEquals):
        return match.is_match(name)
    if isinstance(match, types.ClauseRegex):
        is_whole = match.regex.startswith("^") and match.regex.endswith("$")
        return is_whole and match.is_match(name)
    undated = RELEASE_SUFFIX.sub("", name)
    if isinstance(match, types.ClauseStartsWith):
        return match.starts_with.lower() in (name, undated)
    if isinstance(match, types.ClauseContains):
        return match.contains.lower() in (name, undated)
    return False


def _listed_row(name: str, result: PriceCalculation, today: date) -> PriceRow | UnknownPrice:
    listed: ModelPrice = result.model_price
    # A model without these two is for speech, images or embeddings, and would otherwise count as free.
    if listed.input_mtok is None or listed.output_mtok is None:
        return UnknownPrice(
            name, (), f"{name} is not a chat model: it has no price for both text input and output."
        )
    input_price = _base(listed.input_mtok)
    cached_price: Decimal | None = None
    if listed.cache_read_mtok is not None:
        cached_price = _base(listed.cache_read_mtok)
    discount: Decimal | None = None
    # The discount on input in batches; the discount on output is the same.
    batch = result.model.get_prices(_noon(today), {"processing": "batch"})
    if batch.input_mtok is not None:
        batch_price = _base(batch.input_mtok)
        if 0 < batch_price < input_price:
            discount = 1 - batch_price / input_price
    return PriceRow(
        model=name,
        kind="prompted",
        price=Price(
            training=None,
            input=input_price,
            cached_input=cached_price,
            output=_base(listed.output_mtok),
        ),
        source=f"{LIBRARY} {metadata.version(LIBRARY)} ({result.provider.name})",
        note=_note(result),
        batch_discount=discount,
    )


def _noon(day: date) -> datetime:
    return datetime.combine(day, time(12), tzinfo=UTC)


def _base(price: Decimal | TieredPrices) -> Decimal:
    """Returns the lowest tier's price, which applies to ordinary requests. Prices per million tokens are not prices for
    requests of a million tokens, which would fall into the highest tier."""
    if isinstance(price, Decimal):
        return price
    return price.base


def _note(result: PriceCalculation) -> str | None:
    notes = []
    if result.model.deprecated:  # the library has no dates
        notes.append(f"{LIBRARY} lists it as deprecated without a date: it may be shut down soon.")
    price = result.model_price.input_mtok
    if price is not None and not isinstance(price, Decimal) and price.tiers:
        limit = price.tiers[0].start
        notes.append(
            f"Requests of more than {limit:,} tokens cost more per token; yours are assumed to be shorter."
        )
    return " ".join(notes) or None


def _unknown(name: str, names: Sequence[str], today: date) -> UnknownPrice:
    match = _library_match(name, today)
    like = None
    if match is not None:
        like = match.model.id
    nearest = _nearest(name, names, like)
    hint = ""
    if nearest:
        *first, last = nearest
        either = last
        if first:
            either = f"{', '.join(first)} or {last}"
        hint = f" Did you mean {either}?"
    shown = name[:80]
    cure = f'If the name is right, add its price to finetune.toml under [prices."{shown}"].'
    return UnknownPrice(name, nearest, f"No price is known for “{shown}”.{hint} {cure}")


def _nearest(name: str, own_names: Sequence[str], like: str | None) -> tuple[str, ...]:
    """Returns up to three similar names that have a price: as the model's maker names it, or as SELLER/MODEL."""
    from genai_prices.data_snapshot import get_snapshot

    sold_by: list[str] = []
    by_makers: list[str] = []
    for seller in get_snapshot().providers:
        for model in seller.models:
            if model.id.rpartition("/")[2] == name.lower():
                sold_by.append(f"{seller.id}/{model.id}")
            if seller.model_match and seller.model_match.is_match(model.id):
                by_makers.append(model.id)
    if sold_by and like is None:
        return tuple(sold_by[:3])
    # The library has beginnings of names too, like "gpt-4o-mini-2024-07-18.ft-", which nobody can call.
    callable_names = [name for name in by_makers if not name.startswith("ft:") and not name.endswith("-")]
    near = difflib.get_close_matches(name.lower(), [*own_names, *callable_names], n=3)
    if like is not None:
        near = [like, *near]
    return tuple(dict.fromkeys(near))[:3]


def _row_to_json(row: PriceRow) -> dict[str, object]:
    """Returns the row as a flat dict, with the prices beside the other fields. Amounts are written in plain digits, so
    that Decimal('1E+2') and Decimal('100') give the same bytes."""
    values = {**asdict(row), **asdict(row.price)}
    del values["price"]
    if not row.is_hosted:  # keeps the bytes, and so the hash, of plans from before these fields existed
        for name in ("is_hosted", "hosted_usd_per_hour", "idle_window_s"):
            del values[name]
    if not row.served_by:  # likewise
        del values["served_by"]
    if row.rental is None:  # likewise
        del values["rental"]
    if not row.is_successor_doubtful:  # likewise
        del values["is_successor_doubtful"]
    for name in ("prices_from", "closed_since", "closed_to_new", "closing_said_by"):
        del values[name]  # of no use once a plan has its prices
    for name, value in values.items():
        if isinstance(value, Decimal):
            values[name] = f"{value:f}"
        elif isinstance(value, date):
            values[name] = value.isoformat()
    return values
