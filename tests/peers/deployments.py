"""A vendor where tuned models answer only on hourly machines, with the API of Crusoe, Fireworks or Together, and its
own ledger: which machines are running, since when, and what they will cost."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Literal

from tests.peers import together_rows
from tests.peers.service import Query, Reply, Service, refusal
from tests.peers.together_rows import PROJECT_PATH

TOGETHER_STATES = {"ready": "READY", "failed": "FAILED", "creating": "PROVISIONING", "stopping": "STOPPING"}


@dataclass
class Machine:
    """A machine without `ended` is running. `polls` counts the looks at it, after some of which it is ready."""

    id: str
    name: str
    model: str
    usd_per_hour: Decimal
    started: float
    sent: dict[str, Any]
    ended: float | None = None
    polls: int = 0
    is_failed: bool = False
    is_deleted: bool = False

    def usd(self, now: float) -> Decimal:
        ms = round(((now if self.ended is None else self.ended) - self.started) * 1000)
        return self.usd_per_hour * ms / 3_600_000


@dataclass
class HostingService(Service):
    """A machine is ready after `ready_after` looks, or never if that is None. There are machines for the bases in
    `hosts`, or for all models. Without `says_when` a machine's row has the year 1 as its creation. Without `is_listing`
    Crusoe's list lacks the machines that run."""

    api: Literal["crusoe", "fireworks", "together"] = "crusoe"
    clock: Callable[[], float] = time.time
    usd_per_hour: Decimal = Decimal("5.50")
    ready_after: int | None = 2
    hosts: tuple[str, ...] | None = None
    asks_base: bool = True
    replicas: int = 1
    gpu: str = "NVIDIA_H100_80GB"
    says_when: bool = True
    is_listing: bool = True
    machines: list[Machine] = field(default_factory=list)
    endpoints: dict[str, str] = field(default_factory=dict)
    _endpoints_made: int = 0

    @property
    def running(self) -> list[Machine]:
        return [machine for machine in self.machines if machine.ended is None]

    @property
    def bill(self) -> Decimal:
        """The price of all machines, to the cent."""
        now = self.clock()
        usd = sum((machine.usd(now) for machine in self.machines), Decimal(0))
        return usd.quantize(Decimal("0.01"))

    def die(self) -> None:
        """Takes away all running machines."""
        for machine in self.running:
            machine.ended, machine.is_deleted = self.clock(), True

    def answer_to(
        self, method: str, path: str, query: Query, headers: Mapping[str, str], body: dict[str, Any]
    ) -> Reply:
        with self._lock:
            match (self.api, method, *path.strip("/").split("/")):
                case ("crusoe", _, "selfserve", *rest):
                    return self._crusoe(method, rest, body)
                case ("fireworks", _, "deployments", *rest):
                    return self._fireworks(method, rest, query, body)
                case ("together", "GET", "public", "inference-instance-types"):
                    cents = int(self.usd_per_hour * 100)
                    rows = [together_rows.instance_type(gpus, gpus * cents) for gpus in (1, 2)]
                    return 200, {"data": rows}
                case ("together", "GET", "supported-models"):
                    profiles = [together_rows.profile(gpus) for gpus in (2, 1)]
                    now = _iso(self.clock())
                    rows = [together_rows.supported_model(base, now, profiles) for base in self._hosted()]
                    return 200, {"data": rows}
                case ("together", method, "projects", "p1", "models", name):
                    status, answer = super().answer_to(method, f"models/{name}", query, headers, body)
                    if status == 200 and method == "GET":
                        return 200, together_rows.registered_model(name)
                    return status, answer
                case ("together", _, "projects", "p1", "endpoints", *rest):
                    return self._together(method, rest, body)
        return super().answer_to(method, path, query, headers, body)

    def _hosted(self) -> tuple[str, ...]:
        return tuple(self.models) if self.hosts is None else self.hosts

    def _begin(self, name: str, model: str, sent: dict[str, Any]) -> Machine:
        number = f"dep-{len(self.machines) + 1}"
        machine = Machine(number, name, model, self.usd_per_hour, self.clock(), sent)
        self.machines.append(machine)
        return machine

    def _state(self, machine: Machine, *, looks: bool = False) -> str:
        machine.polls += looks
        if machine.is_failed:
            return "failed"
        is_ready = self.ready_after is not None and machine.polls >= self.ready_after
        return "ready" if is_ready else "creating"

    def _find(self, number: str) -> Machine | None:
        return next((each for each in self.running if number in (each.id, each.name)), None)

    def _crusoe(self, method: str, rest: list[str], body: dict[str, Any]) -> Reply:
        match (method, *rest):
            case ("GET", "flavors"):
                rows = [
                    {"id": f"h100-{base}", "model_name": base, "lora_suitable": True, "price_per_hour": price}
                    for base in self._hosted()
                    for price in (str(self.usd_per_hour), str(self.usd_per_hour + 1))
                ]
                return 200, {"flavors": rows}
            case ("POST", "deployments"):
                machine = self._begin(body["deployment_name"], body["fine_tuned_model"], body)
                return 202, {"id": machine.id, "status": "creating"}
            case ("GET", "deployments"):
                listed = self.running if self.is_listing else []
                return 200, {"deployments": [self._crusoe_row(machine) for machine in listed]}
            case ("DELETE", "deployments", number):
                machine = self._find(number)
                if machine is None:
                    return refusal(404, "not_found", f"No deployment {number}.")
                machine.ended = self.clock()
                return 202, {"id": number}
        return refusal(404, "not_found", "There is no such call.")

    def _created(self, machine: Machine) -> str:
        return _iso(machine.started) if self.says_when else "0001-01-01T00:00:00Z"

    def _crusoe_row(self, machine: Machine) -> dict[str, Any]:
        return {
            "id": machine.id,
            "deployment_name": machine.name,
            "fine_tuned_model": machine.model,
            "status": self._state(machine, looks=True),
            "hourly_cost": str(machine.usd_per_hour),
            "created_at": self._created(machine),
        }

    def _fireworks(self, method: str, rest: list[str], query: Query, body: dict[str, Any]) -> Reply:
        match (method, *rest):
            case ("POST",):
                return self._fireworks_create(query, body)
            case ("GET",):
                return 200, {"deployments": [self._fireworks_row(machine) for machine in self.running]}
            case ("GET", name) if machine := self._find(name):
                return 200, self._fireworks_row(machine)
            case ("DELETE", name) if machine := self._find(name):
                machine.ended = self.clock()
                return 200, {}
        return refusal(404, "not_found", "No such deployment.")

    def _fireworks_create(self, query: Query, body: dict[str, Any]) -> Reply:
        name, is_check = query["deploymentId"], query.get("validateOnly") == "true"
        base = body["baseModel"]
        if self.hosts is not None and base not in self.hosts and not base.startswith("ft:"):
            return refusal(400, "invalid_argument", f"{base} has no deployment shape.")
        if body.get("deploymentShape") != "default" or "autoscalingPolicy" not in body:
            return refusal(400, "invalid_argument", "No shape.")
        if self._find(name) and not is_check:
            return refusal(409, "already_exists", f"{name} is there already.")
        if is_check:
            return 200, {"name": name, **self._gpus()}
        return 200, self._fireworks_row(self._begin(name, base, body))

    def _gpus(self) -> dict[str, Any]:
        return {"acceleratorType": self.gpu, "acceleratorCount": int(self.usd_per_hour / 8)}

    def _fireworks_row(self, machine: Machine) -> dict[str, Any]:
        state = self._state(machine, looks=True).upper()
        if state == "STOPPING":
            state = "DELETING"
        return {
            "name": f"accounts/a1/deployments/{machine.name}",
            "baseModel": machine.model,
            "state": state,
            "createTime": self._created(machine),
            "replicaCount": self.replicas,
            **self._gpus(),
        }

    def _together(self, method: str, rest: list[str], body: dict[str, Any]) -> Reply:
        match (method, *rest):
            case ("GET",):
                return 200, {"data": [self._endpoint(number) for number in self.endpoints]}
            case ("POST",):
                self._endpoints_made += 1  # a number is never reused
                number = f"ep-{self._endpoints_made}"
                self.endpoints[number] = body["name"]
                return 200, self._endpoint(number)
            case ("POST", number, "deployments"):
                if not 30 <= body.get("inactiveTimeout", 0) <= 1440 or "config" not in body:
                    return refusal(400, "invalid_argument", "inactiveTimeout is out of its range.")
                machine = self._begin(self.endpoints[number], body["model"], body)
                state = self._together_state(machine)
                row = together_rows.deployment(
                    machine.id, _together_name(machine), number, body, state, self._created(machine)
                )
                return 200, row
            case ("DELETE", _, "deployments", number) if machine := self._find(number):
                machine.ended = self.clock()
                return 200, {}
            case ("DELETE", number) if number in self.endpoints:
                del self.endpoints[number]
                return 200, {}
        return refusal(404, "not_found", "There is no such endpoint.")

    def _endpoint(self, number: str) -> dict[str, Any]:
        name = self.endpoints[number]
        rows = [self._together_row(machine) for machine in self.running if machine.name == name]
        return together_rows.endpoint(number, name, _iso(self.clock()), rows)

    def _together_row(self, machine: Machine) -> dict[str, Any]:
        state = self._together_state(machine)
        return together_rows.deployment_summary(
            machine.id, _together_name(machine), machine.model, state, self._created(machine)
        )

    def _together_state(self, machine: Machine) -> str:
        word = self._state(machine, looks=True)
        return f"DEPLOYMENT_STATE_{TOGETHER_STATES[word]}"

    def _chat(self, body: dict[str, Any]) -> Reply:
        """Answers by the name of a machine that is ready; a tuned model's own name is unknown."""
        name = str(body["model"])
        for machine in self.running:
            names = (machine.name, _together_name(machine))
            if name in names or name.endswith(f"/deployments/{machine.name}"):
                if self._state(machine) != "ready":
                    return refusal(503, "not_ready", "The deployment is not ready.")
                model = machine.model.removeprefix(f"{PROJECT_PATH}/models/")
                return super()._chat({**body, "model": model})
        if name not in self.models or not self.asks_base:
            return refusal(404, "model_not_found", f"The model {name} does not exist.")
        return super()._chat(body)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).isoformat()


def _together_name(machine: Machine) -> str:
    return f"acme/{machine.name}/tuned"
