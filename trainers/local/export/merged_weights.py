"""The base model's files, and the adapter merged into its weights: in float32, compared with base and adapter, then
written.

W becomes W + B·A·alpha/r. In float32 the two ways of computing it differ by rounding alone; a larger difference means
that the adapter does something that merging loses, and nothing is written."""

from __future__ import annotations

import gc
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import ModelCard
from safetensors import safe_open
from torch import Tensor
from transformers import AutoModelForCausalLM, GgufConfig
from yaml import YAMLError

from trainers.local.export.output import ExportRefused
from trainers.local.export.sources import Source
from trainers.local.peft import PeftModel
from trainers.local.serving.vocabulary import end_tokens
from trainers.local.training.base_files import fetch_base
from trainers.local.training.base_model import calm_peft, load_model, load_tokenizer
from trainers.local.training.devices import best_device
from trainers.local.training.errors import TrainingFailed

DTYPES = ("float32", "float16", "bfloat16")
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
MERGE_TOLERANCE = 1e-3  # of the largest logit. Measured: 1e-6 on the toy, 4e-6 on SmolLM2-135M
LAST_PLACES = 8


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
    folder = _base_folder(source)
    config = _read_base_config(folder)
    text = config.get("text_config") or {}
    dtypes = (part.get(key) for part in (config, text) for key in ("dtype", "torch_dtype"))
    dtype = next(filter(None, dtypes), "")
    hub_id = hub_id or (None if Path(source).is_dir() else source)
    return Base(
        folder=folder,
        name=hub_id or name,
        hub_id=hub_id,
        licence=licence or _licence(source, folder),
        parameters=_parameters(folder),
        dtype=dtype if dtype in DTYPES else "float32",
        config=config,
    )


def _base_folder(source: str) -> Path:
    try:
        return fetch_base(source)
    except TrainingFailed as error:
        raise ExportRefused(error.message) from error


def _read_base_config(folder: Path) -> dict[str, Any]:
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
    """What the base model's own card says. None without a card, or where the hub can't be asked: then the person has
    to say the licence."""
    card = folder / "README.md"
    try:
        licence = ModelCard.load(
            card if Path(source).is_dir() else source, ignore_metadata_errors=True
        ).data.license
    except (OSError, ValueError, YAMLError):  # huggingface_hub's own errors are of the first kind
        return None
    return licence if isinstance(licence, str) else None


@dataclass(frozen=True)
class Merged:
    """`difference`: the largest between two logits, as a share of the largest logit."""

    difference: float
    end_tokens: Sequence[int]


@dataclass(frozen=True)
class Loaded:
    """A model in float32 with what it needs to answer."""

    model: Any
    tokenizer: Any
    end_tokens: Sequence[int]


def merge(source: Source, base: Base, prompts: Sequence[Sequence[int]], dtype: str, out: Path) -> Merged:
    """Write weights, tokenizer with chat template and generation config into `out`. Raises ExportRefused."""
    adapted = with_adapter(base.folder, source.adapter)
    before = [_logits(adapted.model, prompt) for prompt in prompts]
    merged = adapted.model.merge_and_unload(safe_merge=True)
    difference = max(
        _difference(old, _logits(merged, prompt)) for old, prompt in zip(before, prompts, strict=True)
    )
    if not difference <= MERGE_TOLERANCE:
        raise ExportRefused(
            f"The merged weights compute other logits than base and adapter: they differ by {difference:.1e} of the "
            f"largest, {MERGE_TOLERANCE:.0e} is allowed. Export the adapter itself: --to vllm or --to hub."
        )
    _write(merged, adapted.tokenizer, dtype, out)
    return Merged(difference, adapted.end_tokens)


def with_adapter(base: Path, adapter: Path) -> Loaded:
    """Base and adapter as peft puts them together, in float32."""
    loaded = load(base)
    with calm_peft():
        model = PeftModel.from_pretrained(
            loaded.model, str(adapter), is_trainable=False, use_safetensors=True
        )
    return Loaded(model.eval(), loaded.tokenizer, loaded.end_tokens)


def load(folder: Path) -> Loaded:
    """A transformers folder. Raises ExportRefused."""
    try:
        tokenizer = load_tokenizer(str(folder))
        model = load_model(str(folder), best_device(), torch.float32)
    except TrainingFailed as error:
        raise ExportRefused(error.message) from error
    return Loaded(model.eval(), tokenizer, sorted(end_tokens(model.generation_config, tokenizer)))


def load_gguf(file: Path, tokenizer: Any, end_tokens: Sequence[int]) -> Loaded:
    """Its numbers, dequantised, in transformers' model of that family. Raises ExportRefused."""
    try:
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent,
            gguf_file=file.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ExportRefused(f"Reading the GGUF file again, to check it: {reason}") from error
    return Loaded(model.to(best_device()).eval(), tokenizer, end_tokens)


def free_memory() -> None:
    """Models that nobody holds any more leave the memory now: the next one needs it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@torch.inference_mode()
def _logits(model: Any, prompt: Sequence[int]) -> Tensor:
    """Of the last places: (places, vocabulary)."""
    logits: Tensor = model(input_ids=torch.tensor([list(prompt)], device=model.device)).logits
    return logits[0, -LAST_PLACES:].float().cpu()


def _difference(old: Tensor, new: Tensor) -> float:
    return float((old - new).abs().max() / old.abs().max())


def _write(model: Any, tokenizer: Any, dtype: str, out: Path) -> None:
    model.to(getattr(torch, dtype))
    model.config.dtype = dtype
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
