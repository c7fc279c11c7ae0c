"""Reads what a vendor lists of an account's usage, hour by hour, as Tinker does (`types.BillingUsageResponse` of its
package tinker 0.38.0). Adds nothing up.

Only an administrator may read it, so its key is another than the one that trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from urllib.parse import urlencode

from trainers.client.calls import ApiClient
from trainers.client.payloads import Json, required, rows_under
from trainers.errors import InvalidResponse
from trainers.money import MOST_USD
from trainers.types import BilledUsage, Provider, UsageKind, UsageList

LONGEST_WINDOW = timedelta(days=14)
DAY = timedelta(days=1)

KINDS: Mapping[str, UsageKind] = {
    "training": "training",
    "sampling_prefill": "sampling",
    "sampling_sample": "sampling",
    "checkpoint": "checkpoint",
    "storage": "storage",
}


class Billing(ApiClient):
    """Reads the list. Raises only TrainerErrors."""

    def __init__(self, provider: Provider, key: str) -> None:
        row = replace(
            provider,
            base_url=provider.billing_base_url,
            key_env=provider.billing_key_env,
            headers={**provider.headers, "X-API-Key": key.strip()},
        )
        super().__init__(row, key)

    def usage(self, since: float, until: float) -> UsageList:
        """Returns the usage of the UTC days from that of `since` to that of `until` (unix seconds), since the vendor
        prices whole days."""
        usage: list[BilledUsage] = []
        metadata: dict[str, Mapping[str, str]] = {}
        invoiced_until: float | None = None
        for first, end in windows(since, until):
            listed = self._read_window(first, end)
            usage += listed.usage
            metadata |= listed.metadata
            if listed.invoiced_until is not None:
                invoiced_until = max(listed.invoiced_until, invoiced_until or 0.0)
        return UsageList(tuple(usage), metadata, invoiced_until)

    def _read_window(self, first: datetime, end: datetime) -> UsageList:
        action = self._action("reading the usage")
        query = urlencode(window_query(first, end))
        return read_usage(self._read(action, f"/billing/usage/events?{query}"), action)


def find_billing_key(environment: Mapping[str, str], provider: Provider) -> str | None:
    """Returns the administrator's key, None if it isn't set or the provider lists no bills."""
    if not provider.billing_base_url or provider.billing_key_env is None:
        return None
    return environment.get(provider.billing_key_env) or None


def windows(since: float, until: float) -> Iterator[tuple[datetime, datetime]]:
    """Yields first and end of the windows that cover the UTC days of the two times, none longer than the vendor
    allows."""
    first = _day_of(since)
    end = _day_of(until) + DAY
    while first < end:
        window_end = min(end, first + LONGEST_WINDOW)
        yield first, window_end
        first = window_end


def window_query(first: datetime, end: datetime) -> Mapping[str, str]:
    return {"starting_on": _iso(first), "ending_before": _iso(end)}


def read_usage(raw: Json, action: str) -> UsageList:
    """Raises InvalidResponse."""
    usage = tuple(_read_event(row, action) for row in rows_under(raw, "data", action))
    metadata: dict[str, Mapping[str, str]] = {}
    sessions = raw.get("sessions")
    if isinstance(sessions, dict):
        for session, attributes in sessions.items():
            metadata[session] = _texts(attributes)
    invoiced_until = None
    if raw.get("cost_data_through") is not None:
        invoiced_until = _time(raw, "cost_data_through", action)
    return UsageList(usage, metadata, invoiced_until)


def _read_event(row: Json, action: str) -> BilledUsage:
    info = row.get("event_info")
    if not isinstance(info, dict):
        raise InvalidResponse(f"{action}: an event has no event_info.")
    session = row.get("session_id")
    return BilledUsage(
        kind=KINDS.get(required(info, "type", action), "other"),
        session=session if isinstance(session, str) else None,
        ends_at=_time(row, "bucket_end", action),
        usd=_amount(row.get("estimated_cost_usd"), action),
    )


def _amount(value: object, action: str) -> Decimal | None:
    if value is None:
        return None
    usd = Decimal(-1)
    if isinstance(value, int | float) and not isinstance(value, bool):
        usd = Decimal(str(value))  # by way of text, which has the digits that the vendor wrote
    if not usd.is_finite() or not 0 <= usd <= MOST_USD:
        raise InvalidResponse(f"{action}: {value!r} is no amount of dollars.")
    return usd


def _time(row: Json, key: str, action: str) -> float:
    text = required(row, key, action)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidResponse(f"{action}: {text!r} under {key!r} is no time.") from error
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return at.timestamp()


def _texts(attributes: object) -> Mapping[str, str]:
    if not isinstance(attributes, dict):
        return {}
    metadata = attributes.get("user_metadata")
    if not isinstance(metadata, dict):
        return {}
    return {key: value for key, value in metadata.items() if isinstance(value, str)}


def _day_of(at: float) -> datetime:
    return datetime.fromtimestamp(at, UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def _iso(at: datetime) -> str:
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"
