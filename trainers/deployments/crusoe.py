"""Crusoe's self-serve deployments, billed by the second from creation to deletion.

The vendor has no idle stop and no idempotency key. Its API sends statuses in lower case, and its documentation has them
in upper case.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from trainers.deployments.port import Deployment, Deployments, DeploymentState, dollars, unix_seconds
from trainers.errors import Refused

PATH = "/selfserve/deployments"
STATES: Mapping[str, DeploymentState] = {"ready": "ready", "failed": "failed", "deleted": "stopped"}


class CrusoeDeployments(Deployments):
    def usd_per_hour(self, base_model: str) -> Decimal | None:
        flavor = self._cheapest_flavor(base_model)
        return dollars(flavor.get("price_per_hour"))

    def start(self, name: str, model: str, base_model: str, idle_stop_s: int) -> Deployment:
        """Ignores `idle_stop_s`: a deployment runs until the caller deletes it, since this vendor has no idle stop."""
        flavor = self._cheapest_flavor(base_model)
        action = self._action(f"deploying {model!r} as {name!r}")
        body = {
            "deployment_name": name,
            "fine_tuned_model": model,
            "flavor_id": self._text(flavor, "id"),
            "replicas": 1,
        }
        answer = self._post(action, PATH, body)
        # The answer to a start may lack what the request said.
        return self._read_deployment({"deployment_name": name, "fine_tuned_model": model, **answer})

    def _list_all(self) -> Iterable[Deployment]:
        for row in self._rows("listing the deployments", PATH, "deployments"):
            yield self._read_deployment(row)

    def stop(self, deployment: Deployment) -> None:
        self._delete(f"stopping the deployment {deployment.name!r}", f"{PATH}/{deployment.id}")

    def _cheapest_flavor(self, base_model: str) -> Mapping[str, Any]:
        """Returns the cheapest machine that serves adapters of this base."""
        action = f"looking for a machine that serves {base_model!r}"
        priced = []
        for flavor in self._rows(action, "/selfserve/flavors", "flavors"):
            # Tuned models are adapters here, which not every machine can serve.
            if not flavor.get("lora_suitable"):
                continue
            models = str(flavor.get("model_name") or "").lower()
            # Nobody could approve a machine whose price is unknown.
            has_price = dollars(flavor.get("price_per_hour"))
            if base_model.lower() in models and has_price:
                priced.append(flavor)
        if not priced:
            text = f"{self._action(action)}: there is none, so a model tuned from it can't be deployed there."
            raise Refused(text, code="not_hosted", status=404)
        return min(priced, key=lambda flavor: Decimal(str(flavor["price_per_hour"])))

    def _read_deployment(self, row: Mapping[str, Any]) -> Deployment:
        name = self._text(row, "deployment_name")
        # An unknown status counts as a live deployment, since it may cost money.
        status = str(row.get("status") or "").lower()
        state = STATES.get(status, "starting")
        return Deployment(
            id=self._text(row, "id"),
            name=name,
            model=str(row.get("fine_tuned_model") or ""),
            state=state,
            chat_model=name,
            usd_per_hour=dollars(row.get("hourly_cost")),
            started_at=unix_seconds(row.get("created_at")),
        )
