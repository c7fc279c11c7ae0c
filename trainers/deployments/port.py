"""A tuned model that answers on a machine of its own at a vendor, and what a vendor's API for such machines does. What
runs, for how long and at whose cost is decided by its caller."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal
from urllib.parse import urlencode

from trainers.calls import ApiClient
from trainers.errors import InvalidResponse
from trainers.payloads import read_object, required, rows_under

DeploymentState = Literal["starting", "ready", "failed", "stopped"]
MAX_PAGES = 50


@dataclass(frozen=True)
class Deployment:
    """`id` is the vendor's, `name` ours. `chat_model`: what questions call it. `usd_per_hour` None: the vendor doesn't
    say. `is_billed`: its hours cost money now, which they don't while it is scaled to zero. Times are unix seconds."""

    id: str
    name: str
    model: str
    state: DeploymentState
    chat_model: str
    usd_per_hour: Decimal | None = None
    started_at: float | None = None
    is_billed: bool = True


class Deployments(ApiClient):
    """A vendor's deployments. Every method raises only TrainerError's family; no POST is repeated."""

    def usd_per_hour(self, base_model: str) -> Decimal | None:
        """Returns what a model tuned from this base costs while it is deployed, None where the vendor doesn't say.
        Raises Refused where it can't be deployed."""
        raise NotImplementedError

    def start(self, name: str, model: str, base_model: str, idle_stop_s: int) -> Deployment:
        """Without a clear answer it may be there: look before another one is started. The vendor stops it after
        `idle_stop_s` without a question, if it can."""
        raise NotImplementedError

    def list_running(self) -> Sequence[Deployment]:
        """Returns all that are not stopped, no matter who started them, oldest first."""
        live = [deployment for deployment in self._list_all() if deployment.state != "stopped"]
        return sorted(live, key=lambda deployment: (deployment.started_at or 0.0, deployment.id))

    def _list_all(self) -> Iterable[Deployment]:
        """Returns all that the vendor lists, in any order."""
        raise NotImplementedError

    def find(self, name: str) -> Sequence[Deployment]:
        """Returns those of this name that are not stopped, oldest first. None is no proof: a list may lag."""
        return [each for each in self.list_running() if each.name == name]

    def stop(self, deployment: Deployment) -> None:
        """May be said again; one that is gone already is no error."""
        raise NotImplementedError

    @property
    def _url(self) -> str:
        return self.provider.deploy_base_url or self.provider.base_url

    def _read(self, what: str, path: str) -> Mapping[str, Any]:
        action = self._action(what)
        return read_object(self._get(action, lambda: self._client.get(path, cast_to=bytes)), action)

    def _rows(self, what: str, path: str, key: str) -> list[Mapping[str, Any]]:
        """Returns the objects under a key of an answer; none where it is left out, as some vendors do with an empty
        list."""
        return list(rows_under({key: self._read(what, path).get(key) or []}, key, self._action(what)))

    def _pages(
        self, what: str, path: str, key: str, cursor: str, next_cursor: str
    ) -> Iterator[Mapping[str, Any]]:
        """Yields the objects under a key of every page. `cursor` is the parameter that names a page, `next_cursor`
        where an answer has the next one's."""
        at = ""
        for _ in range(MAX_PAGES):
            page = self._read(what, f"{path}&{urlencode({cursor: at})}" if at else path)
            yield from rows_under({key: page.get(key) or []}, key, self._action(what))
            at = str(page.get(next_cursor) or "")
            if not at:
                return
        raise InvalidResponse(f"{self._action(what)}: the list does not end.")

    def _post(self, what: str, path: str, body: Mapping[str, object]) -> Mapping[str, Any]:
        action = self._action(what)
        return read_object(
            self._send_once(action, lambda: self._client.post(path, body=body, cast_to=bytes)), action
        )

    def _delete(self, what: str, path: str) -> None:
        self._delete_if_present(self._action(what), lambda: self._client.delete(path, cast_to=bytes))

    def _text(self, row: Mapping[str, Any], key: str) -> str:
        return required(row, key, self._action("reading a deployment"))


def unix_seconds(value: object) -> float | None:
    """Reads an ISO time, or seconds since 1970; None where it is neither."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def dollars(value: object) -> Decimal | None:
    """Reads an amount that is a number or a text, as it is written; None where it is none, or not above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and amount > 0 else None
