"""Whether a base model is still the one that a job was trained on: by its files, not by its name.

Names, sizes, headers and samples of the weights are hashed, a few hundred kilobytes of a model of any size: another
training of the same architecture differs in every sample. Loads nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from trainers.local.spool import read_json, replace_json
from trainers.local.training.failures import TrainingFailed

SAMPLES = 8
SAMPLE_BYTES = 4096
FILE = "base.json"  # in the job's folder


def fingerprint(base: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(base.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for number in range(SAMPLES):
                file.seek(size * number // SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def remember_base(job_folder: Path, base: Path, name: str) -> None:
    """Raises TrainingFailed where a run goes on with other weights than it began with."""
    now, before = fingerprint(base), read_json(job_folder / FILE)
    if before is None:
        replace_json(job_folder / FILE, {"fingerprint": now})
    elif before["fingerprint"] != now:
        text = (
            f"The weights of the base model {name} have changed since this job began, so its checkpoints do not fit "
            "them. Put the former weights back, or create a new job."
        )
        raise TrainingFailed("base_changed", text, "model")


def base_of_adapter(adapter: Path) -> str | None:
    """What remember_base kept for an adapter or a checkpoint of a job; None for jobs from before it did."""
    job_folder = adapter.parent if adapter.name == "adapter" else adapter.parent.parent
    kept = read_json(job_folder / FILE)
    return str(kept["fingerprint"]) if kept else None
