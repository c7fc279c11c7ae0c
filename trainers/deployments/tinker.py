"""Adapters that our trainer has trained at Tinker, served there by the token.

From the last state that the job left there, weights to answer with are saved under our name. While nobody asks, only
their storage is billed. They are found by that name, so a repeated start makes no second ones. They have no end date;
stopping deletes them.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

from trainers.client.payloads import optional_rows, required
from trainers.deployments.port import MAX_PAGES, Deployment, Deployments, unix_seconds
from trainers.errors import InvalidResponse, Refused, Uncertain
from trainers.types import Provider

PREFIX = "ft-run"  # of our deployments' names
PAGE = 100
SDK_VERSION = "0.38.0"  # of the vendor's package, whose requests these are
NAME = "finetune_deployment"  # key of the metadata of the run that saves the weights
WAIT_S = 900.0  # for the vendor to load a state, and to save weights; less than the watchdog allows a vendor's thread
POLL_S = 1.0
STATES = "engine/output/checkpoint-*/state.json"  # in a job's folder, see trainers/local/engines


class TinkerDeployments(Deployments):
    bills_tokens = True
    takes_folders = True

    def __init__(self, provider: Provider, key: str) -> None:
        super().__init__(replace(provider, headers={**provider.headers, "X-API-Key": key.strip()}), key)

    def usd_per_hour(self, base_model: str) -> Decimal | None:
        return None

    def start(self, name: str, model: str, base_model: str, idle_stop_s: int) -> Deployment:
        """Saves weights to answer with, unless they are there already. `model` is the adapter's folder, in that of its
        job. There is no idle stop."""
        present = self.find(name)
        if present:
            return present[0]
        action = self._action(f"saving the weights {name!r}")
        state = newest_state(Path(model).parent)
        if state is None:
            raise Refused(
                f"{action}: the job has left no state there. It does with `serve={self.provider.name}` in its plan.",
                code="no_state",
                status=400,
            )
        session = self._create_session(action, name)
        loading = {
            "session_id": session,
            "model_seq_id": 0,
            "path": state,
            "optimizer": False,
            "user_metadata": {NAME: name},
            "type": "load_weights",
        }
        run = required(self._wait(action, self._post(action, "/load_weights", loading)), "model_id", action)
        saving = {"model_id": run, "path": name, "seq_id": 1, "type": "save_weights_for_sampler"}
        path = required(
            self._wait(action, self._post(action, "/save_weights_for_sampler", saving)), "path", action
        )
        self._post(action, f"/sessions/{session}/finish", {"reason": {"type": "success"}, "detail": None})
        return _deployment(name, path, None)

    def find(self, name: str, model: str = "") -> Sequence[Deployment]:
        return [deployment for deployment in self._stored() if deployment.name == name]

    def _list_all(self) -> Iterable[Deployment]:
        return [deployment for deployment in self._stored() if deployment.name.startswith(PREFIX)]

    def _stored(self) -> Iterator[Deployment]:
        """Yields all weights to answer with that the account has there."""
        action = self._action("listing the weights")
        offset = 0
        for _ in range(MAX_PAGES):
            page = self._read(action, f"/checkpoints?limit={PAGE}&offset={offset}")
            rows = list(optional_rows(page, "checkpoints", action))
            for row in rows:
                path = required(row, "tinker_path", action)
                name = path.rpartition("/")[2]
                if row.get("checkpoint_type") == "sampler":
                    yield _deployment(name, path, unix_seconds(row.get("time")))
            offset += len(rows)
            if len(rows) < PAGE:
                return
        raise InvalidResponse(f"{action}: the list does not end.")

    def stop(self, deployment: Deployment) -> None:
        run, _, checkpoint = deployment.chat_model.removeprefix("tinker://").partition("/")
        self._delete(
            f"deleting the weights {deployment.name!r}", f"/training_runs/{run}/checkpoints/{checkpoint}"
        )

    def delete_adapter(self, name: str) -> None:
        for deployment in self.find(name):
            self.stop(deployment)

    def _create_session(self, action: str, name: str) -> str:
        body = {
            "tags": [],
            "user_metadata": {NAME: name},
            "sdk_version": SDK_VERSION,
            "type": "create_session",
        }
        return required(self._post(action, "/create_session", body), "session_id", action)

    def _wait(self, action: str, promised: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns what a request comes to. Raises Uncertain if it takes too long, and Refused if it fails."""
        request = required(promised, "request_id", action)
        deadline = time.monotonic() + WAIT_S
        while time.monotonic() < deadline:
            try:
                answer = self._post(action, "/retrieve_future", {"request_id": request})
            except Uncertain:  # not done yet (a 408), or the answer was lost
                answer = {"type": "try_again"}
            if answer.get("type") == "try_again":
                time.sleep(POLL_S)
                continue
            if "error" in answer:
                text = " ".join(str(answer["error"]).split())[:300].rstrip(".")
                if answer.get("category") == "user":
                    raise Refused(f"{action}: refused: {text}.", code=None, status=400)
                raise Uncertain(f"{action}: {text}.")
            return answer
        raise Uncertain(f"{action}: not done within {WAIT_S:.0f} s.")


def newest_state(job_folder: Path) -> str | None:
    """Returns the address of the last state that a job has saved, None if it has none."""
    states: list[tuple[int, str]] = []
    for file in job_folder.glob(STATES):
        state = json.loads(file.read_text(encoding="utf-8"))
        states.append((state["step"], state["path"]))
    if not states:
        return None
    return max(states)[1]


def _deployment(name: str, path: str, started_at: float | None) -> Deployment:
    return Deployment(
        id=path,
        name=name,
        model=path,
        state="ready",
        chat_model=path,
        usd_per_hour=None,
        started_at=started_at,
        is_billed=False,
    )
