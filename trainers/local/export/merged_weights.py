"""Reads the base model's files and merges the adapter into its weights: in float32, compared with base and adapter,
then written.

W becomes W + B·A·alpha/r. In float32 the logits of both differ by rounding alone; a larger difference means that the
adapter does something that merging loses, and nothing is written."""

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

from trainers.chat_templates import without_thoughts
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
LAST_PLACES = 8  # of each prompt, whose logits are compared


@dataclass(frozen=True)
class Base:
    """`hub_id` is None for a folder of this machine, `licence` None where it is unknown. `dtype` is that of the stored
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
    """`source` is a local folder or a hub id, as the job names it; a person may have given `hub_id` and `licence`.

    A hub id's files are taken from the cache, or fetched. Raises ExportRefused.
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
    hub_id = hub_id or (None if Path(source).is_dir() else source)
    return Base(
        folder=folder,
        name=hub_id or name,
        hub_id=hub_id,
        licence=licence or _read_licence(source, folder),
        parameters=parameters,
        dtype=dtype if dtype in DTYPES else "float32",
        config=config,
    )


def _read_licence(source: str, folder: Path) -> str | None:
    """Reads the base model's own card. Returns None without a card, or where the hub can't be asked; then a person has
    to give the licence."""
    card = folder / "README.md" if Path(source).is_dir() else source
    try:
        licence = ModelCard.load(card, ignore_metadata_errors=True).data.license
    except (OSError, ValueError, YAMLError):  # huggingface_hub's own errors are of the first kind
        return None
    return licence if isinstance(licence, str) else None


@dataclass(frozen=True)
class Merged:
    """`difference` is the largest between two logits, as a share of the largest logit."""

    difference: float
    end_tokens: Sequence[int]


@dataclass(frozen=True)
class Loaded:
    """A model in float32 with what it needs to answer."""

    model: Any
    tokenizer: Any
    end_tokens: Sequence[int]


def merge(source: Source, base: Base, prompts: Sequence[Sequence[int]], dtype: str, out: Path) -> Merged:
    """Writes weights, tokenizer with chat template and generation config into `out`. Raises ExportRefused."""
    adapted = load_with_adapter(base.folder, source.adapter)
    before = [_logits(adapted.model, prompt) for prompt in prompts]
    merged = adapted.model.merge_and_unload(safe_merge=True)
    difference = max(
        float((old - _logits(merged, prompt)).abs().max() / old.abs().max())
        for old, prompt in zip(before, prompts, strict=True)
    )
    if not difference <= MERGE_TOLERANCE:
        raise ExportRefused(
            f"The merged weights compute other logits than base and adapter: they differ by {difference:.1e} of the "
            f"largest, {MERGE_TOLERANCE:.0e} is allowed. Export the adapter itself: --to vllm or --to hub."
        )
    merged.to(getattr(torch, dtype))
    merged.config.dtype = dtype
    merged.save_pretrained(out)
    template = adapted.tokenizer.chat_template
    if isinstance(template, dict):  # several by name
        template = {name: without_thoughts(text) for name, text in template.items()}
    else:
        template = without_thoughts(template)
    adapted.tokenizer.chat_template = template
    adapted.tokenizer.save_pretrained(out)
    return Merged(difference, adapted.end_tokens)


def load_with_adapter(base: Path, adapter: Path) -> Loaded:
    """Loads base and adapter as peft puts them together, in float32."""
    loaded = load(base)
    with calm_peft():
        model = PeftModel.from_pretrained(
            loaded.model, str(adapter), is_trainable=False, use_safetensors=True
        )
    return Loaded(model.eval(), loaded.tokenizer, loaded.end_tokens)


def load(folder: Path) -> Loaded:
    """Loads a transformers folder. Raises ExportRefused."""
    try:
        tokenizer = load_tokenizer(str(folder))
        model = load_model(str(folder), best_device(), torch.float32)
    except TrainingFailed as error:
        raise ExportRefused(error.message) from error
    return Loaded(model.eval(), tokenizer, sorted(end_tokens(model.generation_config, tokenizer)))


def load_gguf(file: Path, tokenizer: Any, end_tokens: Sequence[int]) -> Loaded:
    """Loads the file's weights, dequantised, into transformers' model of its family. Raises ExportRefused."""
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
    """Frees the memory of models that are no longer referenced, at once: the next one needs it."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@torch.inference_mode()
def _logits(model: Any, prompt: Sequence[int]) -> Tensor:
    """Returns those of the last places: (places, vocabulary)."""
    logits: Tensor = model(input_ids=torch.tensor([list(prompt)], device=model.device)).logits
    return logits[0, -LAST_PLACES:].float().cpu()
