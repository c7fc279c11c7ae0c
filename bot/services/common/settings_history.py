"""Records in the audit log what changed in finetune.toml: money, prices, people, and the places that data may go to.

Nobody signs a change of a file, so it is recorded at the next start. The log itself says what was valid before: each
setting's newest entry has its value as JSON, and a setting without an entry had its default. Keys and tokens are in the
environment, and never here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import urlsplit

from bot.rules.permissions import Policy
from bot.settings import AssistantSettings, BudgetSettings, Settings
from storage.store import Store
from trainers.providers.providers import ProviderRow, load_providers

ACTION = "change setting"
FILE = "finetune.toml"
SUBJECT = "setting "
PLACES = frozenset({"where"})  # where a rule stands in the file: moving it changes nothing


def record_changes(store: Store, settings: Settings, *, now: float) -> None:
    """Adds an entry for each setting whose value isn't the one that the log has last."""
    values = _values_of(settings)
    logged = _logged_values(store)
    with store.transaction():
        # Logged ones too: a setting that was taken out of the file has changed as well.
        for name in sorted({*values, *logged}):
            value = values.get(name)
            # At the first start only what differs from the defaults is a change.
            before = logged.get(name, DEFAULTS.get(name))
            if value == before:
                continue
            detail = f"{json.dumps(value)}, before {json.dumps(before)}"
            subject = f"{SUBJECT}{name}"
            store.audit.add(at=now, who=FILE, action=ACTION, subject=subject, detail=detail)


def _logged_values(store: Store) -> dict[str, Any]:
    """Returns the newest value of each setting in the log. A value is followed by the one before it."""
    decoder = json.JSONDecoder()
    values = {}
    for entry in store.audit.entries_below(SUBJECT):
        name = entry.subject.removeprefix(SUBJECT)
        value, _ = decoder.raw_decode(entry.detail)
        values[name] = value
    return values


def _values_of(settings: Settings) -> dict[str, Any]:
    values = {
        **_fields("budget", settings.budget),
        **_fields("policy", settings.policy),
        **_fields("assistant", settings.assistant),
        "slack.fallback_channel": settings.slack.fallback_channel,
    }
    for row in settings.providers:
        values[f"providers.{row.name}"] = {
            "address": _address(row.provider.base_url),
            "cluster": _address(row.cluster),
            "stays_here": row.stays_here,
            "outputs_terms": row.outputs_terms,
        }
    for price in settings.prices:
        values[f"prices.{price.model}"] = _as_json(price.price)
    values |= _own_prices(settings)
    return values


def _own_prices(settings: Settings) -> dict[str, Any]:
    """Returns the prices of providers' models that finetune.toml changes or adds; those that are shipped change with
    the version of the bot."""
    shipped = {row.name: _prices_of(row) for row in load_providers()}
    own = {}
    for row in settings.providers:
        before = shipped.get(row.name, {})
        for name, price in _prices_of(row).items():
            is_own = price != before.get(name)
            if is_own and any(price.values()):
                own[f"providers.{row.name}.{name}"] = price
    return own


def _prices_of(row: ProviderRow) -> dict[str, dict[str, Any]]:
    """Returns the prices of the provider's models, and what it charges for the machines of every model."""
    prices = {}
    for model in row.models:
        prices[model.name] = {
            **_as_json(model.price),
            "usd_per_hour": _as_json(model.usd_per_hour),
            "serving_usd_per_hour": _as_json(model.serving_usd_per_hour),
        }
    machines = {
        "usd_per_hour": _as_json(row.usd_per_hour),
        "serving_usd_per_hour": _as_json(row.serving_usd_per_hour),
    }
    return {**prices, "every model": machines}


def _fields(table: str, value: Any) -> dict[str, Any]:
    values = {}
    for field in fields(value):
        values[f"{table}.{field.name}"] = _as_json(getattr(value, field.name))
    return values


def _as_json(value: Any) -> Any:
    """Returns a setting as plain JSON. Sets are sorted, so that their order is no change."""
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name not in PLACES]
        return {name: _as_json(getattr(value, name)) for name in names}
    if isinstance(value, Mapping):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        return sorted(_as_json(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [_as_json(item) for item in value]
    if isinstance(value, Decimal):
        return f"{value.normalize():f}"
    return value


def _address(url: str | None) -> str | None:
    """Returns an address without a user name or password that somebody may have written into it, and without the port
    of the trainer that is started here, which is another one each time."""
    parts = urlsplit(url or "")
    host = parts.hostname
    if not host or host in ("127.0.0.1", "localhost"):
        return host
    port = ""
    if parts.port:
        port = f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path}"


DEFAULTS = {
    **_fields("budget", BudgetSettings()),
    **_fields("policy", Policy()),
    **_fields("assistant", AssistantSettings()),
}
