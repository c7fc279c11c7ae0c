"""A LoRA adapter in peft's layout, in a folder on this machine, and what a vendor that serves uploaded adapters by the
token can't serve. Uploads nothing."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_CHUNK = 1 << 20


class AdapterUnusable(Exception):
    """The folder has no adapter, or one that can't be served. The message may be shown to a user."""


@dataclass(frozen=True)
class AdapterJob:
    """The job of our trainer that made an adapter: of `base`, a folder or a hub id, which is called `base_name`."""

    id: str
    base: str
    base_name: str
    method: str


@dataclass(frozen=True)
class Adapter:
    """An adapter of this `rank` in `folder`. `digest` is the sha256 of its weights and settings."""

    folder: Path
    rank: int
    digest: str

    @property
    def files(self) -> Mapping[str, Path]:
        return {CONFIG: self.folder / CONFIG, WEIGHTS: self.folder / WEIGHTS}


def read_adapter(folder: Path) -> Adapter:
    """Raises AdapterUnusable."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        digest = _digest(folder)
    except FileNotFoundError as missing:
        name = Path(str(missing.filename)).name
        raise AdapterUnusable(
            f"{folder} has no {name}, so there is no adapter to upload. Train the model again."
        ) from missing
    except (OSError, ValueError) as error:
        raise AdapterUnusable(f"Reading the adapter in {folder}: {error}.") from error
    return Adapter(folder, _rank(folder, config), digest)


def read_adapter_job(folder: Path) -> AdapterJob:
    """Reads the folder of a job (trainers/local/job_directory.py). Raises AdapterUnusable."""
    try:
        raw = json.loads((folder / "job.json").read_text(encoding="utf-8"))
        job = AdapterJob(raw["id"], raw["base"], raw["base_name"], raw.get("method", "supervised"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise AdapterUnusable(f"Reading the job in {folder}: {error}.") from error
    if not (folder / "DONE").exists():
        raise AdapterUnusable(f"The job in {folder} has not succeeded, so it has no adapter to upload.")
    return job


def rank_problem(rank: int, most_rank: int | None, title: str, base_model: str) -> str | None:
    """Returns a sentence if a vendor doesn't serve adapters of this rank, None if it does."""
    if most_rank is None or rank <= most_rank:
        return None
    return (
        f"{title} serves adapters of {base_model} up to rank {most_rank}, and this one has rank {rank}. Train it with "
        f"`lora_r={most_rank}`."
    )


def _rank(folder: Path, config: Mapping[str, Any]) -> int:
    ranks = [config.get("r"), *(config.get("rank_pattern") or {}).values()]
    if config.get("peft_type") != "LORA" or not all(isinstance(rank, int) for rank in ranks):
        raise AdapterUnusable(f"{folder} has no LoRA adapter: only those are served by the token.")
    for part in ("modules_to_save", "target_parameters"):
        if config.get(part):
            raise AdapterUnusable(
                f"The adapter in {folder} changes more than LoRA's matrices ({part}), which is not served by the token."
            )
    if config.get("use_dora"):
        raise AdapterUnusable(f"The adapter in {folder} uses DoRA, which is not served by the token.")
    return max(int(rank) for rank in ranks)


def _digest(folder: Path) -> str:
    digest = hashlib.sha256()
    for name in (CONFIG, WEIGHTS):
        digest.update(f"{name}\n".encode())
        with (folder / name).open("rb") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()
