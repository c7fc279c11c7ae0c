"""What Fireworks serves by the token, in memory: tuned models that are loaded on its shared machines by a request,
asked by their own names, and billed by the token."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from tests.peers.fireworks import ACCOUNT, Fireworks
from tests.peers.service import Query, Reply
from tests.peers.vendors import iso

FIELDS = {"model", "serverless", "displayName"}
MOST_LOADED = 3


@dataclass
class Load:
    """`state` is the vendor's word. `looks` counts the looks at it."""

    number: str
    model: str
    name: str
    created: float
    state: str = "DEPLOYING"
    looks: int = 0


@dataclass
class FireworksServerless(Fireworks):
    """Serves adapters of `shared_bases` by the token. A load takes `load_looks` looks, and so does taking one back.
    `others` are loads of other people in the account."""

    shared_bases: tuple[str, ...] = ()
    load_looks: int = 2
    token_usd_in: Decimal = Decimal("0.15")
    token_usd_out: Decimal = Decimal("0.50")
    loads: list[Load] = field(default_factory=list)
    token_chats: list[dict[str, Any]] = field(default_factory=list)
    """The usage of each answer by the token, with its model."""
    _numbers: int = 0

    @property
    def token_bill(self) -> Decimal:
        read = sum(chat["prompt_tokens"] for chat in self.token_chats)
        written = sum(chat["completion_tokens"] for chat in self.token_chats)
        return (read * self.token_usd_in + written * self.token_usd_out) / 1_000_000

    def answer_to(
        self, method: str, path: str, query: Query, headers: Mapping[str, str], body: dict[str, Any]
    ) -> Reply:
        with self._lock:
            match (method, *path.strip("/").split("/")):
                case ("GET", "accounts", "acme", "deployedModels"):
                    return 200, {"deployedModels": [self._load_row(load) for load in self._listed_loads()]}
                case ("POST", "accounts", "acme", "deployedModels"):
                    return self._load(body)
                case ("DELETE", "accounts", "acme", "deployedModels", number):
                    return self._take_back(number)
                case ("GET", "inference", "v1", "models"):
                    return 200, {"object": "list", "data": [{"id": base} for base in self.shared_bases]}
        return super().answer_to(method, path, query, headers, body)

    def _listed_loads(self) -> list[Load]:
        for load in self.loads:
            load.looks += 1
            if load.looks >= self.load_looks:
                load.state = {"DEPLOYING": "DEPLOYED", "UNDEPLOYING": "GONE"}.get(load.state, load.state)
        self.loads = [load for load in self.loads if load.state != "GONE"]
        return self.loads

    def _load(self, body: dict[str, Any]) -> Reply:
        job = next((job for job in self.jobs.values() if self.tuned_name(job) == body.get("model")), None)
        if set(body) - FIELDS or body.get("serverless") is not True or job is None:
            return 400, _status("INVALID_ARGUMENT", "The model can't be loaded.")
        if job.request["baseModel"] not in self.shared_bases:
            return 400, _status("FAILED_PRECONDITION", "LoRA models require a dedicated deployment.")
        if any(load.model == body["model"] for load in self.loads):
            return 409, _status("ALREADY_EXISTS", "It is loaded.")
        if len(self.loads) >= MOST_LOADED:
            return 429, _status("RESOURCE_EXHAUSTED", "3 adapters are loaded.")
        self._numbers += 1  # a number is never reused
        number = f"dm-{self._numbers}"
        load = Load(number, body["model"], body.get("displayName", ""), time.time())
        self.loads.append(load)
        return 200, self._load_row(load)

    def _take_back(self, number: str) -> Reply:
        for load in self.loads:
            if load.number == number and load.state != "UNDEPLOYING":
                load.state = "UNDEPLOYING"
                load.looks = 0
                return 200, {}
        return 404, _status("NOT_FOUND", f"Nothing is loaded as {number}.")

    def _load_row(self, load: Load) -> dict[str, Any]:
        return {
            "name": f"{ACCOUNT}/deployedModels/{load.number}",
            "displayName": load.name,
            "model": load.model,
            "deployment": "accounts/fireworks/deployments/shared-1",
            "serverless": True,
            "state": load.state,
            "status": {"code": "OK", "message": ""},
            "createTime": iso(load.created),
        }

    def _chat(self, body: dict[str, Any]) -> Reply:
        """Answers by the bare name of what is loaded, and for the shared bases themselves."""
        name = str(body["model"])
        is_loaded = any(load.model == name and load.state == "DEPLOYED" for load in self.loads)
        if not is_loaded:
            return super()._chat(body)
        status, answer = Fireworks._chat(self, body)
        if status == 200 and isinstance(answer, dict):
            self.token_chats.append({"model": name, **answer["usage"]})
        return status, answer


def _status(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "details": []}
