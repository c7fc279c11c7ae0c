"""Checks the requirements of `--executor ray` before the trainer starts: the head, and a storage that nodes can
access."""

from __future__ import annotations

import logging
import os
from dataclasses import replace
from pathlib import Path

from trainers.local.ray.backend import RayOptions
from trainers.local.ray.head import RayAway, RayError, RayHead
from trainers.local.ray.job_files import has_open_attempts
from trainers.local.ray.storage import Storage, StorageAway, local_folder, url_refusal
from trainers.providers import is_loopback

# Environment variables that are passed to the nodes. No keys, since Ray shows these to everybody.
PASSED_VARIABLES = (
    *("FINETUNE_DTYPE", "HF_ENDPOINT", "MLFLOW_TRACKING_URI", "OMP_NUM_THREADS"),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"),
)
log = logging.getLogger(__name__)


class RayUnusable(Exception):
    """The cluster or the storage can't be used. The message is a sentence for the user."""


def check_options(options: RayOptions, data: Path) -> RayOptions:
    """Returns the options, with storage None if the nodes share the data folder. Raises RayUnusable. A head or a
    storage that doesn't answer is accepted if our jobs may be running there."""
    storage = _storage(options, data)
    head = RayHead(options.address)
    has_jobs = has_open_attempts(data / "jobs")
    try:
        log.info("Ray %s at %s", head.check(), options.address)
        if storage is not None:
            Storage(storage).check()
    except RayAway as error:
        if not has_jobs:
            text = "Start it with `ray start --head`, or set --ray-address to its dashboard."
            raise RayUnusable(f"the Ray cluster can't be used: {error}. {text}") from error
        log.warning("%s. Waiting for it, because it may be running our jobs.", error)
    except RayError as error:
        raise RayUnusable(f"the Ray cluster can't be used: {error}") from error
    except StorageAway as error:
        if not has_jobs:
            raise RayUnusable(f"the storage can't be used: {error}.") from error
        log.warning("%s. Waiting for it, because our jobs may be using it.", error)
    finally:
        head.close()
    passed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    return replace(options, storage=storage, passed=passed)


def _storage(options: RayOptions, data: Path) -> str | None:
    """Returns None if the nodes share the data folder. Raises RayUnusable."""
    if options.storage is None:
        if is_loopback(options.address):
            return None
        raise RayUnusable(
            f"the nodes of {options.address} can't access this machine's disk. Set --storage ([trainer] storage in "
            "finetune.toml) to a folder that both can access: a path on a shared disk, s3://bucket/folder or "
            "gs://bucket/folder."
        )
    refusal = url_refusal(options.storage)
    if refusal is not None:
        raise RayUnusable(refusal)
    folder = local_folder(options.storage)
    if folder is not None and data.resolve().is_relative_to(folder.resolve()):
        return None
    return options.storage
