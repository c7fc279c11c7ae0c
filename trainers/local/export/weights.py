"""The base model of an export, and models loaded in float32, to be merged or asked."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from transformers import AutoModelForCausalLM, GgufConfig
from yaml import YAMLError

from trainers.export_folder import ExportRefused
from trainers.local.base_download import fetch_base
from trainers.local.peft import PeftModel
from trainers.local.serving.vocabulary import end_tokens
from trainers.local.training.base_model import load_model, load_tokenizer, silence_peft_warning
from trainers.local.training.devices import best_device
from trainers.local.training.errors import TrainingFailed

DTYPES = ("float32", "float16", "bfloat16")
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}


@dataclass(frozen=True)
class Base:
    """`hub_id` is None for a folder of this machine, `licence` None if unknown. `dtype` is that of the stored
    weights."""

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
    """Reads the base that the job names by `source`, a local folder or a hub id. `hub_id` and `licence` are those that
    the user gave, if any.

    Files of a hub id come from the cache, or are downloaded. Raises ExportRefused.
    """
    try:
        folder = fetch_base(source)
    except TrainingFailed as error:
        raise ExportRefused(error.message) from error
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportRefused(f"Reading the base model's config.json in {folder}: {error}") from error
    parameters = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            parameters += sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    text = config.get("text_config") or {}
    dtypes = (part.get(key) for part in (config, text) for key in ("dtype", "torch_dtype"))
    dtype = next(filter(None, dtypes), "")
    if dtype not in DTYPES:
        dtype = "float32"
    if not hub_id and not Path(source).is_dir():
        hub_id = source
    return Base(
        folder=folder,
        name=hub_id or name,
        hub_id=hub_id,
        licence=licence or _read_licence(source, folder),
        parameters=parameters,
        dtype=dtype,
        config=config,
    )


def _read_licence(source: str, folder: Path) -> str | None:
    """Returns the licence in the base model's card, or None if it has none or the hub can't be reached; then the user
    has to give the licence."""
    card: str | Path = source
    if Path(source).is_dir():
        card = folder / "README.md"
    try:
        licence = ModelCard.load(card, ignore_metadata_errors=True).data.license
    except (OSError, ValueError, YAMLError):  # huggingface_hub's own errors are OSErrors
        return None
    if not isinstance(licence, str):  # some cards list several
        return None
    return licence


@dataclass(frozen=True)
class LoadedModel:
    """A model in float32, with its tokenizer and the tokens that end its answers."""

    model: Any
    tokenizer: Any
    end_tokens: Sequence[int]


def load_with_adapter(base: Path, adapter: Path) -> LoadedModel:
    """Loads base and adapter in float32, combined by peft."""
    loaded = load(base)
    with silence_peft_warning():
        model = PeftModel.from_pretrained(
            loaded.model, str(adapter), is_trainable=False, use_safetensors=True
        )
    return LoadedModel(model.eval(), loaded.tokenizer, loaded.end_tokens)


def load(folder: Path) -> LoadedModel:
    """Loads a transformers folder. Raises ExportRefused."""
    try:
        tokenizer = load_tokenizer(str(folder))
        model = load_model(str(folder), best_device(), torch.float32)
    except TrainingFailed as error:
        raise ExportRefused(error.message) from error
    return LoadedModel(model.eval(), tokenizer, sorted(end_tokens(model.generation_config, tokenizer)))


def load_gguf(file: Path, tokenizer: Any, end_tokens: Sequence[int]) -> LoadedModel:
    """Loads the file's dequantised weights into transformers' class for the model. Raises ExportRefused."""
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportRefused(f"Loading the GGUF file, to check it: {reason}") from error
    return LoadedModel(model.to(best_device()).eval(), tokenizer, end_tokens)
