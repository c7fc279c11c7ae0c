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
from trainers.errors import Refused

STATES: Mapping[str, DeploymentState] = {
    "READY": "ready",
    "UPDATING": "ready",
    "DELETING": "stopping",
    "FAILED": "failed",
    "DELETED": "stopped",
}
# The vendor's shortest time without a question before it scales to zero.
MIN_WINDOW_S = 300


class FireworksDeployments(Deployments):
    def usd_per_hour(self, base_model: str) -> Decimal | None:
        """Asks the vendor to validate a deployment without creating it. It names the GPU and no price. Raises Refused
        for a GPU whose price isn't known here: nobody could agree to it."""
        body = _body("finetune-check", base_model, MIN_WINDOW_S)
        path = "/deployments?deploymentId=finetune-check&validateOnly=true"
        action = self._action(f"asking whether {base_model!r} can be deployed")
        row = self._post(action, path, body)
        gpu = row.get("acceleratorType")
        if gpu and gpu not in self.provider.gpu_usd_per_hour:
            text = (
                f"{action}: it would run on {gpu}, and no price of that GPU is known here. Add it to gpu_usd_per_hour "
                f"under [providers.{self.provider.name}] in finetune.toml, from the vendor's price page."
            )
            raise Refused(text, code="no_price", status=400)
        return self._usd_per_hour(row)

    def start(self, name: str, model: str, base_model: str, idle_stop_s: int) -> Deployment:
        body = _body(name, model, idle_stop_s)
        action = self._action(f"deploying {model!r} as {name!r}")
        return self._read_deployment(self._post(action, f"/deployments?deploymentId={name}", body))

    def _list_all(self) -> Iterable[Deployment]:
        path = "/deployments?pageSize=200"
        rows = self._pages("listing the deployments", path, "deployments", "pageToken", "nextPageToken")
        return map(self._read_deployment, rows)

    def find(self, name: str, model: str = "") -> Sequence[Deployment]:
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
            usd_per_hour=self._usd_per_hour(row),
            started_at=unix_seconds(row.get("createTime")),
            # A missing count counts as billed, so that costs are rather overstated.
            is_billed=row.get("replicaCount") != 0,
        )

    def _usd_per_hour(self, row: Mapping[str, Any]) -> Decimal | None:
        price = self.provider.gpu_usd_per_hour.get(str(row.get("acceleratorType")))
        count = row.get("acceleratorCount")
        if price is None or not isinstance(count, int) or count <= 0:
            return None
        return price * count


def _body(name: str, model: str, idle_stop_s: int) -> dict[str, object]:
    return {
        "baseModel": model,
        "displayName": name,
        # The vendor's word for "choose a validated shape", which its SDK documents beside shapes' names.
        "deploymentShape": "default",
        "minReplicaCount": 0,
        "maxReplicaCount": 1,
        "autoscalingPolicy": {"scaleToZeroWindow": f"{max(idle_stop_s, MIN_WINDOW_S)}s"},
    }
