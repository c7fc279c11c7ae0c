"""Base models and adapters in memory, each row of a batch with its own adapter. Only the generator's thread imports
this, since it imports torch. Nothing from a model's folder is executed: safetensors only, no remote code.

    y[rows] += s · (x[rows] Aᵀ) Bᵀ   for each run of neighbouring rows with the same adapter

peft loads the matrices. Its own pass through a layer looks for adapters, hooks and settings each time: a step of one
token for 16 rows with four adapters took 233 ms of CPU by it, and 168 ms here (SmolLM2-135M)."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.local.api_errors import ApiError
from trainers.local.base_download import fetch_base
from trainers.local.base_files import adapter_base_fingerprint, base_fingerprint
from trainers.local.peft import AuxiliaryTrainingWrapper, Linear, LoraLayer, PeftModel
from trainers.local.serving.embeddings import Embedder
from trainers.local.serving.memory import (
    CachedPrefix,
    bytes_per_token,
    can_join_caches,
    keeps_state,
    release_memory,
)
from trainers.local.serving.sequences import Drafts
from trainers.local.serving.values import MAX_ADAPTERS, Weights, adapter_gone_error, check_base_unchanged
from trainers.local.serving.vocabulary import Vocabulary, end_tokens
from trainers.local.training.base_model import load_config, load_model, load_tokenizer, silence_peft_warning
from trainers.local.training.devices import CpuThreads, best_device, best_dtype
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.packing import max_packed_length
from trainers.methods import Quantization

MAX_BASES = 2
NO_LIMIT = 1_000_000
PLAIN = "__base__"  # peft's name for the adapter of a row without one
QUANTISED = ("Linear4bit", "Linear8bitLt")  # peft has these classes only where bitsandbytes is
# Adapters' names and their neighbouring rows; None: every row, however many.
Runs = list[tuple[str, slice | None]]

log = logging.getLogger(__name__)


class ModelCache:
    """Base models by folder or hub id and the format of their weights. The least used is unloaded first."""

    def __init__(self) -> None:
        self.device = best_device()
        self.cores = CpuThreads()
        self._bases: OrderedDict[Weights, Base] = OrderedDict()
        self._embedder: tuple[str, Embedder] | None = None

    def base(self, weights: Weights) -> Base:
        """Raises ApiError (500) where it cannot be loaded, OutOfMemoryError where it doesn't fit even alone."""
        if weights not in self._bases:
            while len(self._bases) >= MAX_BASES:
                self._bases.popitem(last=False)
            try:
                self._bases[weights] = _load(weights, self.device)
            except torch.OutOfMemoryError:
                log.warning("loading %s: out of memory; other models are put away", weights[0])
                self.clear()
                self._bases[weights] = _load(weights, self.device)
        self._bases.move_to_end(weights)
        return self._bases[weights]

    def embedder(self, source: str) -> Embedder:
        """One at a time. Raises ApiError (404) where the model makes no embeddings."""
        if self._embedder is None or self._embedder[0] != source:
            self._embedder = None  # frees its memory before the next one is loaded
            self._embedder = (source, Embedder(source, self.device))
        return self._embedder[1]

    def clear(self) -> None:
        """Unloads all models."""
        self._bases.clear()
        self._embedder = None
        release_memory(self.device)


def _load(weights: Weights, device: torch.device) -> Base:
    try:
        return Base(*weights, device)
    except TrainingFailed as error:
        raise ApiError(500, error.message, error.code, error.param, kind="server_error") from error


class Base:
    """A base model and the adapters over it.

    `context` in tokens, prompt and answer together. `prefixes`: what the last batch's prompts began with, by adapter.
    `can_join`: whether caches of rows that were read apart can be put together. `can_mix`: whether rows with different
    adapters can. `window`: tokens that all layers see at once. `keeps_state`: its state runs over every token in turn,
    padding too, so rows are answered one by one.
    """

    def __init__(self, source: str, quantization: Quantization, device: torch.device) -> None:
        self._source = source
        self._fingerprint = base_fingerprint(fetch_base(source))
        self.device = device
        dtype = best_dtype(device, load_config(source).model_type)
        tokenizer = load_tokenizer(source)
        model = load_model(source, device, dtype, quantization)
        config = model.config.get_text_config()
        # Bloom, MPT and pure state spaces name no limit under this name, if any.
        self.context = int(getattr(config, "max_position_embeddings", None) or NO_LIMIT)
        self.window = max_packed_length(config.to_dict())
        self.bytes_per_token = bytes_per_token(config, dtype)
        self.can_join = self.can_mix = can_join_caches(model)
        self.keeps_state = keeps_state(model)
        self.vocabulary = Vocabulary(
            tokenizer, end_tokens(model.generation_config, tokenizer), int(config.vocab_size)
        )
        self.prefixes: dict[Path | None, CachedPrefix] = {}
        self._drafts: dict[Path | None, Drafts] = {}
        self._bare: Any = model.eval()  # peft puts its layers into this one too
        self._model: Any = model
        self._runs: Runs = []  # what the next pass computes; the layers hold this very list
        self._is_batched = True  # the layers compute adapters here, not by peft
        self._adapters: OrderedDict[Path, str] = OrderedDict()
        self._loaded = 0
        self._active = PLAIN  # peft's adapter, where the layers are peft's

    def ensure_adapter(self, adapter: Path | None, in_use: Collection[Path | None]) -> None:
        """Loads the adapter unless it is there, and unloads the least used that are not `in_use`. Raises ApiError (404)
        where its files are gone."""
        if adapter is None:
            return
        if not adapter.is_dir():
            raise adapter_gone_error(adapter)
        if adapter in self._adapters:
            return self._adapters.move_to_end(adapter)
        self._load_adapter(adapter)
        idle = [adapter for adapter in self._adapters if adapter not in in_use]
        for oldest in idle[: max(0, len(self._adapters) - MAX_ADAPTERS)]:
            self._model.delete_adapter(self._adapters.pop(oldest))
            self._drafts.pop(oldest, None)
        self._is_batched = _install_batched_lora(self._model, self._runs)
        self.can_mix = self.can_join and self._is_batched  # peft 0.21 mixes plain LoRA only

    def drafts(self, adapter: Path | None) -> Drafts:
        return self._drafts.setdefault(adapter, Drafts())

    def drop_prefixes(self) -> None:
        """Gives back the memory of what was kept for the next batch."""
        self.prefixes = {}
        release_memory(self.device)

    def with_adapters(self, adapters: Sequence[Path | None]) -> Any:
        """The model with one adapter for all rows, or with one for each; None is the bare base. `hold` has to have
        loaded them."""
        names = [self._adapters[adapter] if adapter else PLAIN for adapter in adapters]
        if self._is_batched:
            self._runs[:] = _runs_of(names)
            return self._bare
        self._activate(next((name for name in names if name != PLAIN), PLAIN))
        return partial(self._model, adapter_names=names) if len(set(names)) > 1 else self._model

    def _activate(self, name: str) -> None:
        """Switches peft's adapter. Each switch visits every layer, so it is made only where the name changes."""
        if name == self._active:
            return
        if name == PLAIN:
            self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(name)
        self._model.eval()
        self._active = name

    def _load_adapter(self, adapter: Path) -> None:
        check_base_unchanged(self._source, adapter_base_fingerprint(adapter), self._fingerprint)
        self._loaded += 1
        name = f"adapter_{self._loaded}"
        options: dict[str, Any] = {
            "adapter_name": name,
            "use_safetensors": True,
            "is_trainable": False,
            "autocast_adapter_dtype": False,
        }
        try:
            with silence_peft_warning():
                if isinstance(self._model, PeftModel):
                    self._model.load_adapter(str(adapter), **options)
                else:
                    self._model = PeftModel.from_pretrained(self._model, str(adapter), **options)
        except (OSError, ValueError) as error:
            if not (adapter / "adapter_model.safetensors").exists():  # deleted while it was read
                raise adapter_gone_error(adapter) from error
            raise
        # The adapter's matrices into the model's format; quantised weights are left alone.
        dtype = next(self._model.parameters()).dtype
        for parameter_name, weight in self._model.named_parameters():
            if f".{name}." in parameter_name:
                weight.data = weight.data.to(dtype)
        # peft has activated it, perhaps in training mode, and the one before may be unloaded next.
        self._active = ""
        self._activate(name)
        self._adapters[adapter] = name


def _runs_of(names: Sequence[str]) -> Runs:
    """`names`: an adapter's for each row, or one for all rows."""
    if len(set(names)) == 1:
        return [(names[0], None)] if names[0] != PLAIN else []
    runs: Runs = []
    start = 0
    for name, group in groupby(names):
        end = start + len(list(group))
        if name != PLAIN:
            runs.append((name, slice(start, end)))
        start = end
    return runs


@dataclass(frozen=True)
class Matrices:
    """a: (r, in), b: (out, r)"""

    a: Tensor
    b: Tensor
    scale: float


def _install_batched_lora(model: PeftModel, runs: Runs) -> bool:
    """Makes the model's LoRA layers follow `runs`. Has to be called again after each change of adapters. False, and all
    is left to peft, where one of them is more than plain LoRA on a linear layer."""
    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    is_plain = all(map(_is_plain, layers)) and not any(
        isinstance(module, AuxiliaryTrainingWrapper) for module in model.modules()
    )
    for layer in layers:
        layer.__dict__.pop("forward", None)
        if is_plain:
            matrices_by_name = {
                name: Matrices(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
                for name in layer.lora_A
            }
            layer.forward = partial(_forward_with_adapters, layer.base_layer, matrices_by_name, runs)
    return is_plain


def _is_plain(layer: Any) -> bool:
    is_linear = type(layer) is Linear or type(layer).__name__ in QUANTISED
    return bool(
        is_linear
        and not layer.lora_variant
        and not any(layer.use_dora.values())
        and all(matrix.bias is None for matrix in layer.lora_B.values())
    )


def _forward_with_adapters(
    base: nn.Module, matrices_by_name: dict[str, Matrices], runs: Runs, x: Tensor
) -> Tensor:
    result: Tensor = base(x)
    for name, rows in runs:
        matrices = matrices_by_name.get(name)
        if matrices is not None:
            narrow = functional.linear((x if rows is None else x[rows]).to(matrices.a.dtype), matrices.a)
            out = result if rows is None else result[rows]
            # Neighbouring rows are a view, so the product is added in place.
            flat = out.view(-1, out.shape[-1])
            flat.addmm_(
                narrow.view(-1, narrow.shape[-1]).to(flat.dtype),
                matrices.b.T.to(flat.dtype),
                alpha=matrices.scale,
            )
    return result
