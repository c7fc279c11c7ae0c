"""The base model's files: its folder, numbers of parameters, number format and licence. Loads no weights."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from safetensors import safe_open

from trainers.local.exporting.refusals import ExportRefused
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.hub import fetch

DTYPES = ("float32", "float16", "bfloat16")


@dataclass(frozen=True)
class Base:
    """`hub_id` None: a folder of this machine. `licence` None: nothing says it. `dtype`: as its weights are stored."""

    folder: Path
    name: str
    hub_id: str | None
    licence: str | None
    parameters: int
    dtype: str
    config: dict[str, Any]

    @property
    def architecture(self) -> str:
        return str((self.config.get("architectures") or ["unknown"])[0])

    @property
    def is_quantised(self) -> bool:
        return "quantization_config" in self.config


def open_base(source: str, name: str, hub_id: str | None, licence: str | None) -> Base:
    """`source`: a local folder or a hub id, as the job names it; `hub_id` and `licence` are what the person says.

    A hub id's files are taken from the cache, or fetched. Raises ExportRefused.
    """
    folder = _folder(source)
    config = _config(folder)
    text = config.get("text_config") or {}
    said = next(
        filter(None, (one.get(key) for one in (config, text) for key in ("dtype", "torch_dtype"))), ""
    )
    known = hub_id or (None if Path(source).is_dir() else source)
    return Base(
        folder=folder,
        name=known or name,
        hub_id=known,
        licence=licence or _licence(source, folder),
        parameters=_parameters(folder),
        dtype=said if said in DTYPES else "float32",
        config=config,
    )


def _folder(source: str) -> Path:
    try:
        return fetch(source)
    except TrainingFailed as error:
        raise ExportRefused(error.message) from error


def _config(folder: Path) -> dict[str, Any]:
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportRefused(f"Reading the base model's config.json in {folder}: {error}") from error
    return config


def _parameters(folder: Path) -> int:
    """Out of the files' headers."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            total += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total


def _licence(source: str, folder: Path) -> str | None:
    """What the front matter of the base model's own card says."""
    front = re.match(r"---\n(.*?)\n---", _card(source, folder), re.S)
    said = re.search(r"^license:\s*['\"]?([\w.-]+)", front[1], re.M) if front else None
    return said[1] if said else None


def _card(source: str, folder: Path) -> str:
    """Empty where there is none, or the hub can't be asked: then the person has to say the licence."""
    path = folder / "README.md"
    try:
        if not Path(source).is_dir():
            path = Path(hf_hub_download(source, path.name))
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # huggingface_hub's own are of this kind
        return ""
