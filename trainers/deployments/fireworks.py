"""Fireworks' deployments, billed by the second while a replica is up.

We choose the id, so a repeated create doesn't start a second deployment. The minimum number of replicas is always 0, so
that an unused deployment costs nothing even if nobody stops it. `expireTime` is not sent: the vendor's own SDK calls it
deprecated and says that it deletes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from trainers.deployments.port import Deployment, Deployments, DeploymentState, unix_seconds

STATES: Mapping[str, DeploymentState] = {
    "READY": "ready",
    "UPDATING": "ready",
    "DELETING": "stopping",
    "FAILED": "failed",
    "DELETED": "stopped",
}
# The vendor's shortest time without a question before it scales to zero.
MIN_WINDOW_S = 300
# US dollars per GPU and hour, from the vendor's page of 2026-10-07. A deployment bound to a region costs 50% more.
GPU_USD: Mapping[str, Decimal] = {
    "NVIDIA_H100_80GB": Decimal(8),
    "NVIDIA_H200_141GB": Decimal(8),
    "NVIDIA_B200_180GB": Decimal(13),
}


class FireworksDeployments(Deployments):
    def usd_per_hour(self, base_model: str) -> Decimal | None:
        """Asks the vendor to validate a deployment without creating it."""
        body = _body("finetune-check", base_model, MIN_WINDOW_S)
        path = "/deployments?deploymentId=finetune-check&validateOnly=true"
        action = self._action(f"asking whether {base_model!r} can be deployed")
        return _usd_per_hour(self._post(action, path, body))

    def start(self, name: str, model: str, base_model: str, idle_stop_s: int) -> Deployment:
        body = _body(name, model, idle_stop_s)
        action = self._action(f"deploying {model!r} as {name!r}")
        return self._read_deployment(self._post(action, f"/deployments?deploymentId={name}", body))

    def _list_all(self) -> Iterable[Deployment]:
        path = "/deployments?pageSize=200"
        rows = self._pages("listing the deployments", path, "deployments", "pageToken", "nextPageToken")
        return map(self._read_deployment, rows)

    def find(self, name: str) -> Sequence[Deployment]:
        action = self._action(f"looking at the deployment {name!r}")
        row = self._look_up(action, f"/deployments/{name}")
        if row is None:
            return []
        deployment = self._read_deployment(row)
        if deployment.state == "stopped":
            return []
        return [deployment]

    def stop(self, deployment: Deployment) -> None:
        # Without ignoreChecks the vendor refuses to delete a deployment that was used in the last hour.
        path = f"/deployments/{deployment.name}?ignoreChecks=true"
        self._delete(f"stopping the deployment {deployment.name!r}", path)

    def _read_deployment(self, row: Mapping[str, Any]) -> Deployment:
        full_name = self._text(row, "name")
        model = str(row.get("baseModel") or "")
        return Deployment(
            id=full_name,
            name=full_name.rpartition("/")[2],
            model=model,
            # An unknown state counts as a live deployment, since it may cost money.
            state=STATES.get(str(row.get("state")), "starting"),
            chat_model=f"{model}#{full_name}",
            usd_per_hour=_usd_per_hour(row),
            started_at=unix_seconds(row.get("createTime")),
            # A missing count counts as billed, so that costs are rather overstated.
            is_billed=row.get("replicaCount") != 0,
        )


def _body(name: str, model: str, idle_stop_s: int) -> dict[str, object]:
    return {
        "baseModel": model,
        "displayName": name,
        "deploymentShape": "default",
        "minReplicaCount": 0,
        "maxReplicaCount": 1,
        "autoscalingPolicy": {"scaleToZeroWindow": f"{max(idle_stop_s, MIN_WINDOW_S)}s"},
    }


def _usd_per_hour(row: Mapping[str, Any]) -> Decimal | None:
    price = GPU_USD.get(str(row.get("acceleratorType")))
    count = row.get("acceleratorCount")
    if price is None or not isinstance(count, int) or count <= 0:
        return None
    return price * count
