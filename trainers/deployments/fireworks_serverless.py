"""Models tuned at Fireworks on its shared machines (Specialized Model Inference, a preview): loaded by a request, asked
by the model's own name, billed by the token at the base's price, and for nothing while nobody asks.

The vendor chooses the id of what is loaded, so it is found by its model: before a load is requested, and before one is
taken back. What runs on a machine by the hour is in fireworks.py.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from trainers.deployments.port import Deployment, Deployments, DeploymentState, unix_seconds
from trainers.errors import Refused, Uncertain

PATH = "/deployedModels"
STATES: Mapping[str, DeploymentState] = {
    "DEPLOYED": "ready",
    "UPDATING": "ready",
    "UNDEPLOYING": "stopping",
}
MOST_LOADED = 3  # of an account, by its documentation
TOO_MANY = 429


class FireworksServerless(Deployments):
    bills_tokens = True

    def usd_per_hour(self, base_model: str) -> Decimal | None:
        return None

    def start(self, name: str, model: str, base_model: str, idle_stop_s: int) -> Deployment:
        """Requests the load, unless there is one already. There is no idle stop."""
        action = self._action(f"loading {model!r}")
        self._check_model(action, model, base_model)
        rows = list(self._loaded())
        for row in rows:
            if row.get("model") == model:
                return self._existing(action, row)
        body = {"model": model, "displayName": name, "serverless": True}
        try:
            return self._read_deployment(self._post(action, PATH, body))
        except Uncertain as refused:
            # The vendor answers with the same status to too many requests.
            if refused.status != TOO_MANY or len(rows) < MOST_LOADED:
                raise
            others = ", ".join(str(row.get("model")) for row in rows)
            text = f"{action}: {len(rows)} models are loaded there, which is the most: {others}. Take one back first."
            raise Refused(text, code="too_many_loaded", status=TOO_MANY) from refused

    def _check_model(self, action: str, model: str, base_model: str) -> None:
        """Raises Refused for a model that the vendor doesn't load, whose own answer says less."""
        row = self._look_up(action, self._resource_url(model))
        if row is None:
            raise Refused(f"{action}: it is not there any more.", code="not_found", status=404)
        if row.get("state") != "READY":
            raise Refused(
                f"{action}: it is not ready there ({row.get('state')}).", code="not_ready", status=400
            )
        details = row.get("peftDetails")
        base = details.get("baseModel") if isinstance(details, dict) else None
        if base not in (None, base_model):
            raise Refused(
                f"{action}: it is tuned from {base}, and only {base_model} is served so.",
                code="not_hosted",
                status=400,
            )

    def _existing(self, action: str, row: Mapping[str, Any]) -> Deployment:
        deployment = self._read_deployment(row)
        if deployment.state == "stopping":
            raise Uncertain(f"{action}: it is still being taken back.")
        return deployment

    def _list_all(self) -> Iterable[Deployment]:
        return map(self._read_deployment, self._loaded())

    def find(self, name: str, model: str = "") -> Sequence[Deployment]:
        return [deployment for deployment in self.list_running() if deployment.model == model]

    def stop(self, deployment: Deployment) -> None:
        if deployment.state == "stopping":
            return
        _, _, number = deployment.id.rpartition("/")
        self._delete(f"taking {deployment.model!r} back", f"{PATH}/{number}")

    def delete_adapter(self, name: str) -> None:
        """Takes the model of this name back, wherever it was loaded from. The model itself stays."""
        for deployment in self.find("", name):
            self.stop(deployment)

    def _loaded(self) -> Iterable[Mapping[str, Any]]:
        """Yields what is loaded on the vendor's own machines."""
        path = f"{PATH}?pageSize=200"
        ours = f"{self._account_name}/deployments/"
        for row in self._pages(
            "listing the loaded models", path, "deployedModels", "pageToken", "nextPageToken"
        ):
            is_on_our_machine = str(row.get("deployment") or "").startswith(ours)
            if row.get("serverless") is True or not is_on_our_machine:
                yield row

    @property
    def _account_name(self) -> str:
        """Returns "accounts/ID"."""
        _, slash, account = self._url.rpartition("/accounts/")
        return f"{slash.removeprefix('/')}{account}"

    def _resource_url(self, name: str) -> str:
        root, _, _ = self._url.rpartition("/accounts/")
        return f"{root}/{name}"

    def _read_deployment(self, row: Mapping[str, Any]) -> Deployment:
        model = self._text(row, "model")
        return Deployment(
            id=self._text(row, "name"),
            name=str(row.get("displayName") or ""),
            model=model,
            state=STATES.get(str(row.get("state")), "starting"),
            chat_model=model,
            started_at=unix_seconds(row.get("createTime")),
            is_billed=False,
        )
