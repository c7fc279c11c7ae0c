"""Reads files of a base model on this machine: its config.json, and a fingerprint of its weights that shows whether
they changed. Loads no weights and contacts no hub; base_download.py does."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
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
    """Hashes the names and sizes of the weight files and a few samples of each, some hundred kilobytes for a model of
    any size. That is enough, since weights from another training differ in every sample."""
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
    """Stores the base's fingerprint in the job's folder at the job's first start. Raises TrainingFailed at a later
    start if the weights have changed."""
    now = base_fingerprint(base)
    before = read_json(job_folder / BASE_FILE)
    if before is None:
        replace_json(job_folder / BASE_FILE, {"fingerprint": now})
    elif before["fingerprint"] != now:
        text = (
            f"The weights of the base model {name} have changed since this job began, so its checkpoints do not fit "
            "them. Put the former weights back, or create a new job."
        )
        raise TrainingFailed("base_changed", text, "model")


def adapter_base_fingerprint(adapter: Path) -> str | None:
    """Returns the base's fingerprint for a job's adapter or checkpoint, as ensure_same_base stored it; None for jobs of
    versions that stored none."""
    job_folder = adapter.parent
    if adapter.name != "adapter":  # a checkpoint's folder is one deeper
        job_folder = adapter.parent.parent
    values = read_json(job_folder / BASE_FILE)
    if not values:
        return None
    return str(values["fingerprint"])


def rate_of_base(source: str, method: MethodName = "supervised") -> float:
    """Returns the default learning rate for a folder or a hub id, by the rule in trainers/hyperparameters.py. The rule
    does without the hidden size if the base isn't downloaded yet."""
    if METHODS[method].is_for_encoders:
        return ENCODER_RATE
    config = read_config(source)
    hidden = _number_of_text_part(config, "hidden_size")
    rate = rate_for(hidden, str(config.get("model_type", "")))
    return METHODS[method].rate(rate)


def context_of_base(source: str) -> int | None:
    """Returns the longest context in tokens that the model was trained for, or None if its config has none."""
    return _number_of_text_part(read_config(source), "max_position_embeddings")


def _number_of_text_part(config: Mapping[str, Any], name: str) -> int | None:
    """Returns a number of the config or, for a model that also processes images, of its text part."""
    text = config.get("text_config", config)
    if not isinstance(text, Mapping):
        return None
    number = text.get(name)
    if not isinstance(number, int):
        return None
    return number


def read_config(source: str) -> dict[str, Any]:
    """Returns the base's config.json, or an empty dictionary if this machine doesn't have it."""
    path = Path(source) / "config.json"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache  # 10 MB, which an idle trainer does without

        cached = None
        if not Path(source).is_absolute():
            cached = try_to_load_from_cache(source, "config.json")
        if not isinstance(cached, str):
            return {}
        path = Path(cached)
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config
