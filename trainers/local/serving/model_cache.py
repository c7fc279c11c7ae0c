"""Base models and adapters in memory. Each row of a batch may have its own adapter. Imports torch, so only the
generator's thread imports this module. No code from a model's folder is executed: safetensors only, no remote code.

    y[rows] += s · (x[rows] Aᵀ) Bᵀ   for each run of neighbouring rows with the same adapter

peft loads the matrices, but its own forward pass looks up adapters, hooks and settings in each layer every time: a step
of one token for 16 rows with four adapters took 233 ms of CPU with peft, and 168 ms here (SmolLM2-135M)."""

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
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from trainers.http.errors import ApiError
from trainers.local.base_download import fetch_base
from trainers.local.base_files import adapter_base_fingerprint, base_fingerprint
from trainers.local.peft import AuxiliaryTrainingWrapper, Linear, LoraLayer, PeftModel
from trainers.local.serving.embeddings import Embedder
from trainers.local.serving.memory import (
    bytes_per_token,
    can_join_caches,
    can_keep_prefixes,
    free_bytes,
    keeps_state,
    release_memory,
)
from trainers.local.serving.prefixes import PrefixStore, prefix_room
from trainers.local.serving.sequences import Drafts
from trainers.local.serving.values import (
    MAX_ADAPTERS,
    Weights,
    adapter_damaged_error,
    adapter_gone_error,
    check_adapter_files,
    check_base_unchanged,
    first_words,
)
from trainers.local.serving.vocabulary import Vocabulary, end_tokens
from trainers.local.training.base_model import load_config, load_model, load_tokenizer, silence_peft_warning
from trainers.local.training.devices import CpuThreads, best_device, best_dtype
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.packing import max_packed_length, stretches_positions
from trainers.methods import Quantization

MAX_BASES = 2
NO_LIMIT = 1_000_000  # tokens
PLAIN = "__base__"  # peft's name for the adapter of a row without one
QUANTISED = ("Linear4bit", "Linear8bitLt")  # by name, since peft has these classes only with bitsandbytes
# Names of adapters, each with its neighbouring rows; None stands for all rows.
Runs = list[tuple[str, slice | None]]

log = logging.getLogger(__name__)


class ModelCache:
    """Base models by their source and the format of their weights. The least recently used one is unloaded first."""

    def __init__(self) -> None:
        self.device = best_device()
        self.cores = CpuThreads()
        self._bases: OrderedDict[Weights, Base] = OrderedDict()
        self._embedder: tuple[str, Embedder] | None = None

    def base(self, weights: Weights) -> Base:
        """Raises ApiError (500) if it can't be loaded, OutOfMemoryError if it doesn't fit even alone."""
        if weights not in self._bases:
            while len(self._bases) >= MAX_BASES:
                self._bases.popitem(last=False)
            try:
                self._bases[weights] = _load(weights, self.device)
            except torch.OutOfMemoryError:
                log.warning("loading %s: out of memory; unloading other models", weights[0])
                self.clear()
                self._bases[weights] = _load(weights, self.device)
        self._bases.move_to_end(weights)
        return self._bases[weights]

    def embedder(self, source: str) -> Embedder:
        """Returns an embedding model; only one is kept. Raises ApiError (404) if it is not an embedding model."""
        if self._embedder is None or self._embedder[0] != source:
            self._embedder = None  # frees its memory before the next one is loaded
            self._embedder = (source, Embedder(source, self.device))
        return self._embedder[1]

    def forget_texts(self) -> None:
        """Drops what the models have read or written before."""
        for base in self._bases.values():
            base.forget_texts()

    def drop_unused_prefixes(self) -> None:
        for base in self._bases.values():
            if base.prefixes.drop_unused():
                release_memory(self.device)

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
    """A base model and its adapters.

    `context` is the most tokens that prompt and answer may have together. `prefixes` are kept of earlier prompts and
    answers, unless `keeps_prefixes` is False. `can_join` is true if caches of rows that were read separately can be
    joined, and `can_mix` if a batch may have rows with different adapters. `window` is the number of tokens that all
    layers see at once; with `stretches`, a longer row changes how positions are computed. With `keeps_state` the
    model's state depends on every token, including padding, so rows are answered one by one."""

    def __init__(self, source: str, quantization: Quantization, device: torch.device) -> None:
        self._source = source
        self._fingerprint = base_fingerprint(fetch_base(source))
        self.device = device
        dtype = best_dtype(device, load_config(source).model_type)
        tokenizer = load_tokenizer(source)
        model = load_model(source, device, dtype, quantization)
        config = model.config.get_text_config()
        # Bloom, MPT and pure state-space models have no limit, or have it under another name.
        self.context = int(getattr(config, "max_position_embeddings", None) or NO_LIMIT)
        self.window = max_packed_length(config.to_dict())
        self.stretches = stretches_positions(config.to_dict())
        self.bytes_per_token = bytes_per_token(config, dtype)
        self.can_join = self.can_mix = can_join_caches(model)
        self.keeps_state = keeps_state(model)
        self.vocabulary = Vocabulary(
            tokenizer, end_tokens(model.generation_config, tokenizer), int(config.vocab_size)
        )
        self.keeps_prefixes = can_keep_prefixes(model)
        self.prefixes = PrefixStore(lambda held: prefix_room(free_bytes(device), held))
        self._drafts: dict[Path | None, Drafts] = {}
        self._bare: Any = model.eval()  # peft inserts its layers into this object too
        self._model: Any = model
        self._runs: Runs = []  # the adapters of the next pass; the layers refer to this list object
        self._is_batched = True  # adapters are computed by this module, not by peft
        self._adapters: OrderedDict[Path, str] = OrderedDict()
        self._loaded = 0
        self._active = PLAIN  # peft's active adapter, used if adapters are computed by peft

    def ensure_adapter(self, adapter: Path | None, in_use: Collection[Path | None]) -> None:
        """Loads the adapter if necessary, and unloads the least recently used ones that are not `in_use`. Raises
        ApiError (404) if its files are gone."""
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
            self.prefixes.drop(oldest)
        self._is_batched = _install_batched_lora(self._model, self._runs)
        self.can_mix = self.can_join and self._is_batched  # peft 0.21 mixes plain LoRA only

    def drafts(self, adapter: Path | None) -> Drafts:
        return self._drafts.setdefault(adapter, Drafts())

    def drop_prefixes(self) -> None:
        """Releases the memory of what is kept of earlier prompts."""
        self.prefixes.clear()
        release_memory(self.device)

    def forget_texts(self) -> None:
        """Drops everything that was read or written before: prefixes, and guesses of answers."""
        self._drafts.clear()
        self.drop_prefixes()

    def with_adapters(self, adapters: Sequence[Path | None]) -> Any:
        """Returns the model with one adapter for all rows, or one for each row; None stands for the plain base. They
        must have been loaded by `ensure_adapter`."""
        names = [self._adapters[adapter] if adapter else PLAIN for adapter in adapters]
        if self._is_batched:
            self._runs[:] = _runs_of(names)
            return self._bare
        # With PLAIN active, peft's layers would compute no adapter for any row.
        self._activate(next((name for name in names if name != PLAIN), PLAIN))
        if len(set(names)) > 1:
            return partial(self._model, adapter_names=names)
        return self._model

    def _activate(self, name: str) -> None:
        """Switches peft's adapter. A switch visits every layer, so it is made only if the name changes."""
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
        check_adapter_files(adapter)
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
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            if not adapter.is_dir():  # deleted while it was read
                raise adapter_gone_error(adapter) from error
            raise adapter_damaged_error(adapter, first_words(error)) from error
        # Convert the adapter's matrices to the model's number format, but not quantised weights.
        dtype = next(self._model.parameters()).dtype
        for parameter_name, weight in self._model.named_parameters():
            if f".{name}." in parameter_name:
                weight.data = weight.data.to(dtype)
        # peft has activated the adapter, perhaps in training mode, and the previous one may be unloaded next.
        self._active = ""
        self._activate(name)
        self._adapters[adapter] = name


def _runs_of(names: Sequence[str]) -> Runs:
    """Returns the runs of neighbouring rows with the same adapter. `names` has an adapter's name for each row, or a
    single one for all rows."""
    if set(names) == {PLAIN}:
        return []
    if len(set(names)) == 1:
        return [(names[0], None)]
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
    """The matrices of a LoRA layer: `a` is (r, in), `b` is (out, r)."""

    a: Tensor
    b: Tensor
    scale: float


def _install_batched_lora(model: PeftModel, runs: Runs) -> bool:
    """Makes the model's LoRA layers compute the adapters in `runs`. Must be called again after each change of adapters.
    Returns False and leaves the layers to peft if any of them is more than plain LoRA on a linear layer."""
    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    has_whole_layers = any(isinstance(module, AuxiliaryTrainingWrapper) for module in model.modules())
    is_plain = all(map(_is_plain, layers)) and not has_whole_layers
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
        if matrices is None:  # this adapter leaves the layer as it is
            continue
        own = x
        out = result
        if rows is not None:
            own = x[rows]
            out = result[rows]
        narrow = functional.linear(own.to(matrices.a.dtype), matrices.a)
        # A slice of rows is a view, so the product is added in place.
        flat = out.view(-1, out.shape[-1])
        flat.addmm_(
            narrow.view(-1, narrow.shape[-1]).to(flat.dtype),
            matrices.b.T.to(flat.dtype),
            alpha=matrices.scale,
        )
    return result
