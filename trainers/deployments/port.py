"""A tuned model on a dedicated machine at a vendor, or served there by the token, and the interface of a vendor's API
for both.

The caller decides what runs, for how long, and who pays.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Literal
from urllib.parse import urlencode

from trainers.client.calls import ApiClient
from trainers.client.payloads import optional_rows, required
from trainers.errors import InvalidResponse

DeploymentState = Literal["starting", "ready", "stopping", "failed", "stopped"]
"""One that is stopping answers nobody any more, and is billed until it has stopped."""
MAX_PAGES = 50


@dataclass(frozen=True)
class Deployment:
    """`id` is the vendor's, `name` is ours, and `chat_model` is the model name for chat requests. `usd_per_hour` is
    None if the vendor doesn't say. `is_billed` is False while the deployment is scaled to zero. Times are unix
    seconds."""

    id: str
    name: str
    model: str
    state: DeploymentState
    chat_model: str
    usd_per_hour: Decimal | None = None
    started_at: float | None = None
    is_billed: bool = True


class Deployments(ApiClient):
    """A vendor's deployments. Every method raises only TrainerError and its subclasses. No POST is retried.
    `bills_tokens`: what is deployed costs nothing while nobody asks. `takes_folders`: it is an adapter that was trained
    elsewhere; `start` gets its folder as the model."""

    bills_tokens = False
    takes_folders = False

    def usd_per_hour(self, base_model: str) -> Decimal | None:
        """Returns the price of deploying a model tuned from this base, or None if the vendor doesn't say. Raises
        Refused if such a model can't be deployed."""
        raise NotImplementedError

    def start(self, name: str, model: str, base_model: str, idle_stop_s: int) -> Deployment:
        """Starts a deployment, which the vendor stops after `idle_stop_s` without a request, if it can. If this raises
        Uncertain the deployment may exist: call `find` before starting another."""
        raise NotImplementedError

    def list_running(self) -> Sequence[Deployment]:
        """Returns every deployment that is not stopped, no matter who started it, oldest first."""
        live = [deployment for deployment in self._list_all() if deployment.state != "stopped"]
        return sorted(live, key=lambda deployment: (deployment.started_at or 0.0, deployment.id))

    def _list_all(self) -> Iterable[Deployment]:
        """Returns every deployment in the vendor's list, in any order."""
        raise NotImplementedError

    def find(self, name: str, model: str = "") -> Sequence[Deployment]:
        """Returns the deployments of this name that are not stopped, oldest first. An empty result proves nothing,
        since the vendor's list may lag. Where we can't choose names, they are found by their `model`, by the vendor's
        name of it."""
        return [deployment for deployment in self.list_running() if deployment.name == name]

    def stop(self, deployment: Deployment) -> None:
        """Stops and deletes the deployment. Does nothing if it is already gone."""
        raise NotImplementedError

    def delete_adapter(self, name: str) -> None:
        """Deletes an uploaded adapter, or takes back a model that was trained there, no matter who did it. Does nothing
        if it is already gone."""
        raise NotImplementedError

    @property
    def _url(self) -> str:
        return self.provider.deploy_base_url or self.provider.base_url

    def _rows(self, what: str, path: str, key: str) -> list[Mapping[str, Any]]:
        """Returns the objects under `key` of an answer."""
        action = self._action(what)
        return list(optional_rows(self._read(action, path), key, action))

    def _pages(
        self, what: str, path: str, key: str, cursor: str, next_cursor: str
    ) -> Iterator[Mapping[str, Any]]:
        """Yields the objects under `key` of every page. `cursor` is the query parameter that selects a page, and
        `next_cursor` the key of its next value in an answer."""
        action = self._action(what)
        at = ""
        for _ in range(MAX_PAGES):
            page_path = path
            if at:
                page_path = f"{path}&{urlencode({cursor: at})}"
            page = self._read(action, page_path)
            yield from optional_rows(page, key, action)
            at = str(page.get(next_cursor) or "")
            if not at:
                return
        raise InvalidResponse(f"{action}: the list does not end.")

    def _delete(self, what: str, path: str) -> None:
        self._delete_if_present(self._action(what), lambda: self._client.delete(path, cast_to=bytes))

    def _text(self, row: Mapping[str, Any], key: str) -> str:
        return required(row, key, self._action("reading a deployment"))


def unix_seconds(value: object) -> float | None:
    """Reads an ISO time (UTC if it names no zone) or a number of seconds since 1970. Returns None for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, str):
        return None
    try:
        at = datetime.fromisoformat(value)
    except ValueError:
        return None
    if at.tzinfo is None:
        at = at.replace(tzinfo=UTC)
    return at.timestamp()


def dollars(value: object) -> Decimal | None:
    """Reads an amount from a number or a text. Returns None if it is not an amount above 0."""
    # A bool is an int in Python, so true would be one dollar.
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        amount = Decimal(str(value))
    except InvalidOperation:
        return None
    if not amount.is_finite() or amount <= 0:
        return None
    return amount
