"""Reads the files of a base model that lies on this machine: its config.json, and a fingerprint of its weights that
tells whether they changed. Loads no weights and asks no hub; base_download.py does.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from trainers.hyperparameters import ENCODER_RATE, rate_for
from trainers.local.job_directory import read_json, replace_json
from trainers.local.training.errors import TrainingFailed
from trainers.methods import METHODS, MethodName

SAMPLES = 8
SAMPLE_BYTES = 4096
BASE_FILE = "base.json"  # in the job's folder


def base_fingerprint(base: Path) -> str:
    """Hashes names, sizes and samples of the weights, some hundred kilobytes of a model of any size: another training
    of the same architecture differs in every sample."""
    digest = hashlib.sha256()
    for path in sorted(base.glob("*.safetensors")):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            for number in range(SAMPLES):
                file.seek(size * number // SAMPLES)
                digest.update(file.read(SAMPLE_BYTES))
    return digest.hexdigest()


def ensure_same_base(job_folder: Path, base: Path, name: str) -> None:
    """Keeps the fingerprint in the job's folder. Raises TrainingFailed where a resumed run has other weights than it
    began with."""
    now, before = base_fingerprint(base), read_json(job_folder / BASE_FILE)
    if before is None:
        replace_json(job_folder / BASE_FILE, {"fingerprint": now})
    elif before["fingerprint"] != now:
        text = (
            f"The weights of the base model {name} have changed since this job began, so its checkpoints do not fit "
            "them. Put the former weights back, or create a new job."
        )
        raise TrainingFailed("base_changed", text, "model")


def adapter_base_fingerprint(adapter: Path) -> str | None:
    """Returns the fingerprint that ensure_same_base kept for an adapter or a checkpoint of a job; None for jobs of
    versions that kept none."""
    job_folder = adapter.parent if adapter.name == "adapter" else adapter.parent.parent
    values = read_json(job_folder / BASE_FILE)
    return str(values["fingerprint"]) if values else None


def rate_of_base(source: str, method: MethodName = "supervised") -> float:
    """Returns the learning rate by trainers/hyperparameters.py for a folder or a hub id. The hidden size of a base that
    isn't downloaded yet is unknown."""
    if METHODS[method].is_for_encoders:
        return ENCODER_RATE
    config = read_config(source)
    text = config.get("text_config", config)
    hidden = text.get("hidden_size") if isinstance(text, dict) else None
    rate = rate_for(hidden if isinstance(hidden, int) else None, str(config.get("model_type", "")))
    return METHODS[method].rate(rate)


def context_of_base(source: str) -> int | None:
    """Returns the most tokens that the model was trained for, or None where its config doesn't tell."""
    config = read_config(source)
    text = config.get("text_config", config)
    context = text.get("max_position_embeddings") if isinstance(text, dict) else None
    return context if isinstance(context, int) else None


def read_config(source: str) -> dict[str, Any]:
    """Returns an empty dictionary where this machine has no config.json of the base."""
    path = Path(source) / "config.json"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache  # 10 MB that an idle trainer doesn't hold

        cached = None if Path(source).is_absolute() else try_to_load_from_cache(source, "config.json")
        if not isinstance(cached, str):
            return {}
        path = Path(cached)
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config
