"""An HTTP client for a Ray cluster's head: its Jobs API, its store of packages and its lists of nodes. Doesn't need
Ray."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx2

API_VERSION = "4"  # of /api/version, unchanged from Ray 2.0 on
MIN_VERSION = (2, 30)
TIMEOUT_S = 15.0
UPLOAD_S = 120.0
TOKEN_VARIABLE = "FINETUNE_RAY_TOKEN"  # noqa: S105 - a name
# e.g. node864B0F2C…, as the dashboard writes it
PLAIN_NODE = re.compile(r"node_?[0-9a-f]{20,}", re.IGNORECASE)
FINAL = ("SUCCEEDED", "FAILED", "STOPPED")


class RayError(Exception):
    """The message is a sentence for the user."""


class RayAway(RayError):
    """There is no answer, or a temporary error. It is unknown whether the request was carried out."""


class RayRefused(RayError):
    """The head refused the request for good."""


@dataclass(frozen=True)
class RayJob:
    """`status` is PENDING, RUNNING, SUCCEEDED, FAILED or STOPPED. `exit_code` is the entrypoint's if it has ended by
    itself, otherwise None."""

    status: str
    message: str
    exit_code: int | None

    @property
    def is_final(self) -> bool:
        return self.status in FINAL


class RayHead:
    """`address` is, for example, http://127.0.0.1:8265. A cluster with token authentication needs
    $FINETUNE_RAY_TOKEN."""

    def __init__(self, address: str) -> None:
        self.address = address.rstrip("/")
        headers = {}
        token = os.environ.get(TOKEN_VARIABLE, "").strip()
        if token:
            headers["Authorization"] = f"Bearer {token}"
        self._http = httpx2.Client(base_url=self.address, headers=headers, timeout=TIMEOUT_S)

    def close(self) -> None:
        self._http.close()

    def check(self) -> str:
        """Returns Ray's version. Raises RayAway, or RayRefused if the address is not a Ray cluster of a supported
        version."""
        answer = self._ask("GET", "/api/version")
        try:
            raw = answer.json()
            version = str(raw["ray_version"])
            api = str(raw["version"])
        except (ValueError, KeyError, TypeError) as error:
            text = f"{self.address} is not a Ray dashboard. Give the address of the head's, by default with port 8265."
            raise RayRefused(text) from error
        major_and_minor = version.split(".")[:2]
        numbers = tuple(int(part) for part in major_and_minor if part.isdigit())
        if api != API_VERSION or numbers < MIN_VERSION:
            wanted = ".".join(str(number) for number in MIN_VERSION)
            raise RayRefused(
                f"Ray {version} at {self.address} has version {api} of the Jobs API. Update the cluster: Ray {wanted} "
                f"or newer is needed, with version {API_VERSION} of the API."
            )
        return version

    def find_job(self, submission: str) -> RayJob | None:
        """Returns None if the head does not know the submission. Raises RayAway or RayRefused."""
        answer = self._ask("GET", f"/api/jobs/{submission}", allow_404=True)
        if answer.status_code == 404:
            return None
        raw = _object(answer)
        return RayJob(
            status=str(raw.get("status")),
            message=str(raw.get("message") or ""),
            exit_code=raw.get("driver_exit_code"),
        )

    def submit(self, body: Mapping[str, Any]) -> None:
        """Submits a job. Call `find_job` first, since Ray answers a repeated submission with an error. Raises RayAway
        or RayRefused."""
        self._ask("POST", "/api/jobs/", json=body)

    def stop(self, submission: str) -> None:
        """Asks Ray to end a job, with SIGTERM and 3 s later SIGKILL. A job that waits for a machine ends only when it
        gets one."""
        self._ask("POST", f"/api/jobs/{submission}/stop", allow_404=True)

    def logs(self, submission: str) -> str:
        """Returns the entrypoint's output so far. Raises RayAway or RayRefused."""
        answer = self._ask("GET", f"/api/jobs/{submission}/logs", allow_404=True)
        if answer.status_code == 404:
            return ""
        return str(_object(answer).get("logs") or "")

    def nodes_with(self, gpus: int) -> int:
        """Returns the number of machines with a CPU and at least `gpus` GPUs, free or not. Raises RayAway or
        RayRefused."""
        count = 0
        for node in self._state("nodes", "state", "ALIVE"):
            total = node.get("resources_total") or {}
            if total.get("CPU", 0) >= 1 and total.get("GPU", 0) >= gpus:
                count += 1
        return count

    @property
    def may_grow(self) -> bool:
        """True if an autoscaler may add machines when jobs wait. Version 1 of the autoscaler lists node types by name,
        and version 2 reports nothing; a cluster without an autoscaler lists each node under its id. Raises RayAway or
        RayRefused."""
        answer = self._ask("GET", "/api/cluster_status")
        data = _object(answer).get("data") or {}
        status = data.get("clusterStatus") or {}
        report = status.get("autoscalerReport") or {}
        types = report.get("activeNodes") or {}
        if not types:
            return True
        return any(not PLAIN_NODE.fullmatch(name) for name in types)

    def has_placed(self, name: str) -> bool:
        """True if the placement group of this name has its nodes. Raises RayAway or RayRefused."""
        return any(raw.get("state") == "CREATED" for raw in self._state("placement_groups", "name", name))

    def _state(self, resource: str, key: str, value: str) -> list[dict[str, Any]]:
        """Lists resources of a kind, see docs.ray.io/en/latest/ray-observability/reference/api.html."""
        query = {"filter_keys": key, "filter_predicates": "=", "filter_values": value, "limit": "10000"}
        raw = _object(self._ask("GET", f"/api/v0/{resource}", params=query))
        # Ray answers 200 even if the list is missing, and says why in `msg`.
        data = raw.get("data") or {}
        result = data.get("result") or {}
        listed = result.get("result")
        if not isinstance(listed, list):
            reason = _last_line(str(raw.get("msg")))
            raise RayAway(f"{self.address} does not list its {resource}: {reason}")
        return listed

    def upload_package(self, name: str, package: bytes) -> None:
        """Uploads a package unless the cluster already has it. Raises RayAway or RayRefused."""
        path = f"/api/packages/gcs/{name}"
        stored = self._ask("GET", path, allow_404=True)
        if stored.status_code == 404:
            self._ask("PUT", path, content=package, timeout=UPLOAD_S)

    def _ask(self, method: str, path: str, *, allow_404: bool = False, **more: Any) -> httpx2.Response:
        try:
            answer = self._http.request(method, path, **more)
        except httpx2.TransportError as error:
            text = " ".join(str(error).split()) or type(error).__name__
            raise RayAway(f"no answer from {self.address}: {text}") from error
        status = answer.status_code
        if answer.is_success or (status == 404 and allow_404):
            return answer
        fault = f"{method} {path} at {self.address}: HTTP {status}, {_last_line(answer.text)}"
        if status in (401, 403):
            raise RayRefused(f"{fault}. Set {TOKEN_VARIABLE} to the cluster's token.")
        if status >= 500 or status == 429:
            raise RayAway(fault)
        raise RayRefused(fault)


def _object(answer: httpx2.Response) -> dict[str, Any]:
    """Raises RayAway if the answer is not JSON, such as the page of a proxy in front of a head that is down."""
    try:
        raw = answer.json()
    except ValueError as error:
        raise RayAway(f"the answer of {answer.request.url} is not JSON") from error
    if not isinstance(raw, dict):
        return {}
    return raw


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip(" .")]
    if not lines:
        return "no message"
    return lines[-1][:300]
