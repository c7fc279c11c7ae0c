"""Checks what `--executor ray` needs before the trainer starts: the head, and a storage that the nodes see."""

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

# Environment variables for the nodes. No keys: Ray shows these to everybody.
PASSED_VARIABLES = (
    *("FINETUNE_DTYPE", "HF_ENDPOINT", "MLFLOW_TRACKING_URI", "OMP_NUM_THREADS"),
    *("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"),
)
log = logging.getLogger(__name__)


class RayUnusable(Exception):
    """The message is a sentence."""


def check_options(options: RayOptions, data: Path) -> RayOptions:
    """Returns the options without a storage where the nodes see the data folder. Raises RayUnusable. A head or a
    storage that does not answer is accepted where our jobs may be running there."""
    storage = _storage(options, data)
    head = RayHead(options.address)
    has_jobs = has_open_attempts(data / "jobs")
    try:
        log.info("Ray %s at %s", head.check(), options.address)
        if storage is not None:
            Storage(storage).check()
    except RayAway as error:
        if not has_jobs:
            text = "Start it with `ray start --head`, or name its dashboard with --ray-address."
            raise RayUnusable(f"the Ray cluster can't be used: {error}. {text}") from error
        log.warning("%s. Its jobs are waited for.", error)
    except RayError as error:
        raise RayUnusable(f"the Ray cluster can't be used: {error}") from error
    except StorageAway as error:
        if not has_jobs:
            raise RayUnusable(f"the storage can't be used: {error}.") from error
        log.warning("%s. Its jobs are waited for.", error)
    finally:
        head.close()
    passed = {name: os.environ[name] for name in PASSED_VARIABLES if name in os.environ}
    return replace(options, storage=storage, passed=passed)


def _storage(options: RayOptions, data: Path) -> str | None:
    """Returns None where the nodes see the data folder."""
    if options.storage is None:
        if is_loopback(options.address):
            return None
        raise RayUnusable(
            f"the nodes of {options.address} don't see this machine's disk. Name a folder that they and we see "
            "with --storage: a path on a shared disk, s3://bucket/folder or gs://bucket/folder ([trainer] storage "
            "in finetune.toml)."
        )
    refusal = url_refusal(options.storage)
    if refusal is not None:
        raise RayUnusable(refusal)
    folder = local_folder(options.storage)
    if folder is not None and data.resolve().is_relative_to(folder.resolve()):
        return None
    return options.storage
