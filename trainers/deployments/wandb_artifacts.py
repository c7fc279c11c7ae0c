"""Adapters as artifacts of a W&B project, by W&B's own package: uploads, lists and deletes them.

A process of its own, since the package takes a second to import, starts a service and prints. It reads an order as JSON
from its standard input, and writes what came of it as JSON to its standard output. It knows nothing of our store.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

Work = Literal["upload", "list", "delete"]
TYPE = "lora"
REGION = "coreweave-us"  # the only one from which adapters are served
BASE_MODEL = "wandb.base_model"
DIGEST = "sha256"  # in the metadata: by it an upload whose answer was lost is found again
# Nothing about this machine goes there but the adapter.
SILENCE: Mapping[str, Any] = {
    "silent": True,
    "console": "off",
    "disable_git": True,
    "disable_code": True,
    "save_code": False,
    "x_disable_stats": True,
    "x_disable_meta": True,
    "x_disable_machine_info": True,
    "x_save_requirements": False,
    "host": "finetune",
    "program": "finetune",
}


@dataclass(frozen=True)
class Order:
    """What to do in a project (`entity`/`project`) of the account of `key`.

    "upload" stores the `files` (paths by the names in the artifact) under `name`, unless a version with this `digest`
    exists; "list" returns the versions of all names that begin with `name`; "delete" deletes all versions of `name` and
    the run that uploaded them.
    """

    do: Work
    base_url: str
    key: str
    entity: str
    project: str
    name: str
    files: Mapping[str, str] | None = None
    digest: str = ""
    base_model: str = ""


@dataclass(frozen=True)
class Stored:
    """A version of an artifact: `version` is like 'v0', `base_model` the base that it names, `created_at` an ISO
    time."""

    name: str
    version: str
    digest: str
    base_model: str
    created_at: str


def main() -> None:
    order = Order(**json.load(sys.stdin))
    # What the package prints must not get into the answer.
    answer = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    json.dump(carry_out(order), answer)
    answer.close()


def carry_out(order: Order) -> dict[str, Any]:
    """Returns {"stored": [...]}, or {"error": text, "status": the status of HTTP if the package names one}."""
    try:
        with tempfile.TemporaryDirectory(prefix="finetune-wandb-") as folder:
            os.environ.update(WANDB_DIR=folder, WANDB_CACHE_DIR=folder, WANDB_DATA_DIR=folder)
            stored = _carry_out(order, folder)
    except Exception as error:
        # The package's errors belong to several families, and some to none.
        return {"error": str(error) or type(error).__name__, "status": _status_of(error)}
    return {"stored": [asdict(each) for each in stored]}


def _carry_out(order: Order, folder: str) -> Sequence[Stored]:
    if order.do == "upload":
        return [_upload(order, folder)]
    if order.do == "delete":
        _delete(order)
        return []
    return list(_find(order, order.name))


def _upload(order: Order, folder: str) -> Stored:
    """Returns the version with these files, which is uploaded unless there is one already."""
    import wandb

    files = order.files or {}
    with _only_once(files):
        for stored in _find(order, order.name):
            if stored.name == order.name and stored.digest == order.digest:
                return stored
        settings = wandb.Settings(base_url=order.base_url, api_key=order.key, root_dir=folder, **SILENCE)
        # One run for each name, however often the upload is repeated.
        run = wandb.init(
            entity=order.entity,
            project=order.project,
            id=order.name,
            resume="allow",
            job_type="upload",
            settings=settings,
        )
        metadata = {BASE_MODEL: order.base_model, DIGEST: order.digest}
        artifact = wandb.Artifact(order.name, type=TYPE, metadata=metadata, storage_region=REGION)
        for name, path in sorted(files.items()):
            artifact.add_file(path, name=name, policy="immutable")
        uploaded = run.log_artifact(artifact).wait()
        run.finish()
    return Stored(
        order.name, str(uploaded.version), order.digest, order.base_model, str(uploaded.created_at or "")
    )


@contextlib.contextmanager
def _only_once(files: Mapping[str, str]) -> Iterator[None]:
    """Waits for another process that uploads the same files: one that outlived its bot may still be at it."""
    with Path(min(files.values())).open("rb") as locked:
        fcntl.flock(locked, fcntl.LOCK_EX)
        yield


def _find(order: Order, prefix: str) -> Iterator[Stored]:
    """Yields the versions that are uploaded completely, of all names that begin so."""
    api = _api(order)
    path = f"{order.entity}/{order.project}"
    for collection in api.artifact_collections(path, TYPE):
        if not collection.name.startswith(prefix):
            continue
        for artifact in collection.artifacts():
            if artifact.state == "COMMITTED":
                metadata = artifact.metadata
                yield Stored(
                    collection.name,
                    str(artifact.version),
                    str(metadata.get(DIGEST, "")),
                    str(metadata.get(BASE_MODEL, "")),
                    str(artifact.created_at or ""),
                )


def _delete(order: Order) -> None:
    api = _api(order)
    path = f"{order.entity}/{order.project}"
    for collection in api.artifact_collections(path, TYPE):
        if collection.name == order.name:
            for artifact in collection.artifacts():
                artifact.delete(delete_aliases=True)
            collection.delete()
    for run in api.runs(path, filters={"name": order.name}):
        run.delete()


def _api(order: Order) -> Any:
    import wandb

    return wandb.Api(overrides={"base_url": order.base_url}, api_key=order.key)


def _status_of(error: BaseException) -> int | None:
    """Returns the status of HTTP behind an error. The package calls every trouble of its first request a wrong key, so
    only what it didn't even send counts as 401."""
    import wandb

    cause: BaseException | None = error
    while cause is not None:
        response = getattr(cause, "response", None)
        status = getattr(response, "status_code", None) or getattr(response, "http_status", None)
        if isinstance(status, int) and status:
            return status
        cause = cause.__cause__ or cause.__context__
    was_sent = error.__cause__ is not None
    if isinstance(error, wandb.errors.AuthenticationError) and not was_sent:
        return 401
    return None


if __name__ == "__main__":
    main()
