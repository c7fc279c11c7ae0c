"""Adapters on W&B's serverless inference (CoreWeave): uploaded as artifacts of a project, served by the token at the
base's price, and billed nothing while nobody asks.

W&B's own package does the uploading, in a process of its own (wandb_artifacts.py). An artifact is found by our name and
by the digest of its files, so a repeated upload makes no second version. Programs ask a version by its number, never by
an alias, since an alias moves.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from importlib.util import find_spec
from pathlib import Path

from trainers.deployments.adapters import AdapterUnusable, read_adapter
from trainers.deployments.port import Deployment, Deployments, unix_seconds
from trainers.deployments.wandb_artifacts import Order, Stored, Work
from trainers.errors import InvalidResponse, Refused, Uncertain
from trainers.host import child_environment
from trainers.packages import needs_extra

PREFIX = "ft-run"  # of our deployments' names: a project may have other adapters
EXPORT_PREFIX = "finetune-"  # of the adapters that somebody uploaded from a terminal
PACKAGE = "wandb"
EXTRA = "coreweave"
UPLOAD_S = 3000.0  # less than the watchdog allows a vendor's thread
LOOK_S = 120.0
# After these the same request may be carried out later.
UNCLEAR = frozenset({408, 409, 429})


class CoreweaveDeployments(Deployments):
    bills_tokens = True
    takes_folders = True

    def usd_per_hour(self, base_model: str) -> Decimal | None:
        return None

    def start(self, name: str, model: str, base_model: str, idle_stop_s: int) -> Deployment:
        """Uploads the adapter in the folder `model`, unless it is there already. There is no idle stop."""
        action = self._action(f"uploading the adapter {name!r}")
        try:
            adapter = read_adapter(Path(model))
        except AdapterUnusable as unusable:
            raise Refused(str(unusable), code="adapter_unusable", status=400) from unusable
        files = {file: str(path) for file, path in adapter.files.items()}
        order = self._order("upload", name, files, adapter.digest, base_model)
        stored = self._run(action, order, UPLOAD_S)
        if not stored:
            raise InvalidResponse(f"{action}: no version was named.")
        return self._deployment(stored[0])

    def _list_all(self) -> Iterable[Deployment]:
        return self._stored(PREFIX)

    def find(self, name: str, model: str = "") -> Sequence[Deployment]:
        return [deployment for deployment in self._stored(name) if deployment.name == name]

    def stop(self, deployment: Deployment) -> None:
        self.delete_adapter(deployment.name)

    def delete_adapter(self, name: str) -> None:
        """Deletes all versions of an artifact and the run that uploaded it. Does nothing if they are already gone."""
        self._run(self._action(f"deleting the adapter {name!r}"), self._order("delete", name), LOOK_S)

    def _stored(self, prefix: str) -> Sequence[Deployment]:
        action = self._action("listing the adapters")
        return [self._deployment(each) for each in self._run(action, self._order("list", prefix), LOOK_S)]

    def _deployment(self, stored: Stored) -> Deployment:
        return Deployment(
            id=f"{stored.name}:{stored.version}",
            name=stored.name,
            model=stored.base_model,
            state="ready",
            chat_model=f"wandb-artifact:///{self.provider.account}/{stored.name}:{stored.version}",
            usd_per_hour=None,
            started_at=unix_seconds(stored.created_at),
            is_billed=False,
        )

    def _order(
        self,
        do: Work,
        name: str,
        files: Mapping[str, str] | None = None,
        digest: str = "",
        base_model: str = "",
    ) -> Order:
        entity, slash, project = self.provider.account.partition("/")
        if not slash or not entity or not project:
            raise Refused(
                f"{self.provider.account_env} must be ENTITY/PROJECT, as in acme/serving, and is "
                f"{self.provider.account!r}.",
                code="no_project",
                status=400,
            )
        return Order(do, self._url, self._key, entity, project, name, files, digest, base_model)

    def _run(self, action: str, order: Order, timeout_s: float) -> list[Stored]:
        if find_spec(PACKAGE) is None:
            raise Refused(f"{action}: {needs_extra('It', EXTRA)}.", code="needs_extra", status=501)
        environment = {
            **child_environment(),
            "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false",
        }
        try:
            # The key travels by the input, since other users can see a process's arguments.
            child = subprocess.run(
                [sys.executable, "-m", "trainers.deployments.wandb_artifacts"],
                input=json.dumps(asdict(order)),
                capture_output=True,
                encoding="utf-8",
                env=environment,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as late:
            raise Uncertain(f"{action}: no answer within {timeout_s:.0f} s.") from late
        return self._results(action, child.stdout, child.returncode)

    def _results(self, action: str, output: str, code: int) -> list[Stored]:
        try:
            answer = json.loads(output)
        except ValueError as error:
            raise Uncertain(f"{action}: {PACKAGE} ended with exit status {code}.") from error
        if "error" not in answer:
            return [Stored(**each) for each in answer["stored"]]
        status = answer["status"]
        text = " ".join(str(answer["error"]).replace(self._key, "(the key)").split())[:300].rstrip(".")
        is_refusal = status is not None and 400 <= status < 500 and status not in UNCLEAR
        if is_refusal:
            hint = ""
            if status in (401, 403):
                hint = f" Check {self.provider.variables}."
            raise Refused(f"{action}: refused (HTTP {status}): {text}.{hint}", code=None, status=status)
        raise Uncertain(f"{action}: {text}.", status=status)
