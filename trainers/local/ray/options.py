"""Checks what `--executor ray` needs before the trainer starts: the head, and a storage that the nodes see."""

from __future__ import annotations

import ipaddress
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from trainers.local.ray.backend import RayOptions
from trainers.local.ray.head import RayAway, RayError, RayHead
from trainers.local.ray.job_files import has_open_attempts
from trainers.local.ray.storage import Storage, StorageAway, local_folder, url_refusal

# Environment variables for the nodes. No keys: Ray shows these to everybody.
PASSED = (
    *("FINETUNE_DTYPE", "HF_ENDPOINT", "MLFLOW_TRACKING_URI", "OMP_NUM_THREADS"),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"),
)
log = logging.getLogger(__name__)


class Unusable(Exception):
    """The message is a sentence."""


@dataclass(frozen=True)
class RayArguments:
    """The command line's options. Without a `storage` the cluster uses the data folder itself, which it must see.
    `is_shared` and `relay` are options of 0.1.0."""

    address: str
    storage: str | None
    python: str
    gpus_per_job: int
    nodes_per_job: int = 1
    is_shared: bool = False
    relay: str | None = None


def ray_options(arguments: RayArguments, data: Path) -> RayOptions:
    """Raises Unusable. A head or a storage that does not answer is accepted where our jobs may be running there."""
    storage = _storage(arguments, data)
    head = RayHead(arguments.address)
    has_jobs = has_open_attempts(data / "jobs")
    try:
        log.info("Ray %s at %s", head.check(), arguments.address)
        if storage is not None:
            Storage(storage).check()
    except RayAway as error:
        if not has_jobs:
            text = "Start it with `ray start --head`, or name its dashboard with --ray-address."
            raise Unusable(f"the Ray cluster can't be used: {error}. {text}") from error
        log.warning("%s. Its jobs are waited for.", error)
    except RayError as error:
        raise Unusable(f"the Ray cluster can't be used: {error}") from error
    except StorageAway as error:
        if not has_jobs:
            raise Unusable(f"the storage can't be used: {error}.") from error
        log.warning("%s. Its jobs are waited for.", error)
    finally:
        head.close()
    return RayOptions(
        address=arguments.address,
        storage=storage,
        python=arguments.python,
        gpus=arguments.gpus_per_job,
        nodes=arguments.nodes_per_job,
        passed={name: os.environ[name] for name in PASSED if name in os.environ},
    )


def _storage(arguments: RayArguments, data: Path) -> str | None:
    """Returns None where the nodes see the data folder."""
    if arguments.relay is not None:
        log.warning(
            "--relay-url has no meaning any more: files go by a storage, see --storage in docs/ray.md."
        )
    if arguments.is_shared and arguments.storage is None:
        log.warning("--ray-shared is now --storage %s.", data.resolve())
        return None
    if arguments.storage is None:
        if is_loopback(urlsplit(arguments.address).hostname or ""):
            return None
        raise Unusable(
            f"the nodes of {arguments.address} don't see this machine's disk. Name a folder that they and we see "
            "with --storage: a path on a shared disk, s3://bucket/folder or gs://bucket/folder ([trainer] storage "
            "in finetune.toml)."
        )
    refusal = url_refusal(arguments.storage)
    if refusal is not None:
        raise Unusable(refusal)
    folder = local_folder(arguments.storage)
    if folder is not None and data.resolve().is_relative_to(folder.resolve()):
        return None
    return arguments.storage


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
