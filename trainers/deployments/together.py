"""Together's deployments: an endpoint with our name, which is free, holding one deployment, which is billed by the
minute. Every deployment is created with the vendor's idle stop, and costs nothing once it has stopped."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from decimal import Decimal
from typing import Any

from trainers.client.payloads import optional_rows, rows_under
from trainers.deployments.port import Deployment, Deployments, DeploymentState, unix_seconds
from trainers.errors import Refused, TrainerError

STATES: Mapping[str, DeploymentState] = {
    "READY": "ready",
    "SCALING": "ready",
    "DEGRADED": "ready",
    "STOPPING": "stopping",
    "FAILED": "failed",
    "STOPPED": "stopped",
}
# The vendor's limits.
MIN_IDLE_MINUTES = 30
MAX_IDLE_MINUTES = 1440


class TogetherDeployments(Deployments):
    def usd_per_hour(self, base_model: str) -> Decimal | None:
        _, cents = self._find_profile(base_model)
        if cents is None:
            return None
        return Decimal(cents) / 100

    def start(self, name: str, model: str, base_model: str, idle_stop_s: int) -> Deployment:
        profile, _ = self._find_profile(base_model)
        what = f"deploying {model!r} as {name!r}"
        action = self._action(what)
        # A start that was cut off may have left an endpoint, which is free and is used again.
        endpoint = self._find_endpoint(name)
        if endpoint is None:
            endpoint = self._post(action, "/endpoints", {"name": name})
        # A deployment wants the model's full name, and a job may state only its id.
        if not model.startswith("projects/"):
            _, _, project_name = self._url.partition("/projects")
            project = f"projects{project_name}"
            model = f"{project}/models/{model}"
        idle_minutes = min(max(idle_stop_s // 60, MIN_IDLE_MINUTES), MAX_IDLE_MINUTES)
        body = {
            "name": "tuned",
            "model": model,
            "autoscaling": {"minReplicas": 1, "maxReplicas": 1},
            "inactiveTimeout": idle_minutes,
        }
        if profile.get("config"):
            body["config"] = profile["config"]
        path = f"/endpoints/{self._text(endpoint, 'id')}"
        try:
            row = self._post(action, f"{path}/deployments", body)
            return self._read_deployment(endpoint, row)
        except Refused:
            # An empty endpoint is not listed as a deployment, so nothing else would ever delete it. It is free, so the
            # refusal matters more than a failure to delete it.
            with suppress(TrainerError):
                self._delete(what, path)
            raise

    def _list_all(self) -> Iterable[Deployment]:
        action = self._action("listing the endpoints")
        for endpoint in self._list_endpoints():
            for row in optional_rows(endpoint, "deployments", action):
                yield self._read_deployment(endpoint, row)

    def stop(self, deployment: Deployment) -> None:
        """Deletes the deployment and its endpoint, which has no other use."""
        endpoint, _, number = deployment.id.partition("/")
        what = f"stopping the deployment {deployment.name!r}"
        # The deployment first: it is what costs money if the second delete fails.
        self._delete(what, f"/endpoints/{endpoint}/deployments/{number}")
        self._delete(what, f"/endpoints/{endpoint}")

    @property
    def _root(self) -> str:
        root, _, _ = self._url.partition("/projects/")
        return root

    def _find_endpoint(self, name: str) -> Mapping[str, Any] | None:
        for endpoint in self._list_endpoints():
            if _last_segment(self._text(endpoint, "name")) == name:
                return endpoint
        return None

    def _find_profile(self, base_model: str) -> tuple[Mapping[str, Any], int | None]:
        """Returns the cheapest way in which the vendor serves models of this base, with its price in cents per hour,
        None if no price is listed. It can train some bases that it doesn't serve."""
        action = f"looking for a machine that serves {base_model!r}"
        path = f"{self._root}/supported-models?product=PRODUCT_DEDICATED"
        for row in self._rows(action, path, "data"):
            is_base = str(row.get("name")).lower() == base_model.lower()
            if is_base and row.get("deploymentProfiles"):
                profiles = rows_under(row, "deploymentProfiles", self._action(action))
                return self._cheapest(profiles)
        text = f"{self._action(action)}: there is none, so a model tuned from it can't be deployed there."
        raise Refused(text, code="not_hosted", status=404)

    def _cheapest(self, profiles: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any], int | None]:
        types = self._rows("reading hourly prices", f"{self._root}/public/inference-instance-types", "data")
        priced = []
        for profile in profiles:
            cents = _cents_per_hour(profile, types)
            if cents is not None:
                priced.append((cents, profile))
        if not priced:
            return profiles[0], None
        cents, profile = min(priced, key=lambda each: each[0])
        return profile, cents

    def _list_endpoints(self) -> Iterator[Mapping[str, Any]]:
        return self._pages("listing the endpoints", "/endpoints?limit=100", "data", "after", "next_cursor")

    def _read_deployment(self, endpoint: Mapping[str, Any], row: Mapping[str, Any]) -> Deployment:
        # Some answers have the state at the top, others under `status`.
        state = row.get("state")
        status = row.get("status")
        if not state and isinstance(status, dict):
            state = status.get("state")
        state = str(state).removeprefix("DEPLOYMENT_STATE_")
        return Deployment(
            id=f"{self._text(endpoint, 'id')}/{self._text(row, 'id')}",
            name=_last_segment(self._text(endpoint, "name")),
            model=str(row.get("model") or ""),
            # An unknown state counts as a live deployment, since it may cost money.
            state=STATES.get(state, "starting"),
            chat_model=self._text(row, "name"),
            started_at=unix_seconds(row.get("createdAt")),
        )


def _cents_per_hour(profile: Mapping[str, Any], types: Sequence[Mapping[str, Any]]) -> int | None:
    """The lowest price of the machines that the profile wants."""
    cents = []
    for row in types:
        is_same = all(row.get(name) == profile.get(name) for name in ("gpuType", "gpuCount"))
        price = row.get("priceCentsPerHour")
        if is_same and isinstance(price, int):
            cents.append(price)
    return min(cents, default=None)


def _last_segment(name: str) -> str:
    _, _, last = name.rpartition("/")
    return last
