"""Base models and adapters in memory, each row of a batch with its own adapter. Only the generator's thread imports
this, since it imports torch. Nothing from a model's folder is executed: safetensors only, no remote code.

    y[rows] += s · (x[rows] Aᵀ) Bᵀ   for each run of neighbouring rows with the same adapter

peft loads the matrices. Its own pass through a layer looks for adapters, hooks and settings each time: a step of one
token for 16 rows with four adapters took 233 ms of CPU by it, and 168 ms here (SmolLM2-135M)."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainers.local.api_errors import ApiError
from trainers.local.peft import AuxiliaryTrainingWrapper, Linear, LoraLayer, PeftModel
from trainers.local.serving.embeddings import Embedder
from trainers.local.serving.memory import bytes_a_token, can_be_joined, keeps_state, release_memory
from trainers.local.serving.sequences import Drafts
from trainers.local.serving.values import MAX_ADAPTERS, Weights, adapter_is_gone, check_base_unchanged
from trainers.local.serving.vocabulary import Vocabulary, end_tokens
from trainers.local.training.base_files import base_fingerprint, base_of_adapter, fetch_base
from trainers.local.training.base_model import calm_peft, load_config, load_model, load_tokenizer
from trainers.local.training.devices import CpuThreads, best_device, best_dtype
from trainers.local.training.errors import TrainingFailed
from trainers.methods import Quantization

PLAIN = "__base__"  # what peft calls a row without an adapter
QUANTISED = ("Linear4bit", "Linear8bitLt")  # peft has these classes only where bitsandbytes is


@dataclass(frozen=True)
class Matrices:
    """a: (r, in), b: (out, r)"""

    a: Tensor
    b: Tensor
    scale: float


@dataclass
class ActiveAdapters:
    """Runs of rows, each with its adapter's name; no rows at all (None): every row, however many."""

    runs: list[tuple[str, slice | None]] = field(default_factory=list)

    def put_on(self, names: Sequence[str]) -> None:
        """One a row, or one for all."""
        self.runs = []
        if len(set(names)) == 1:
            self.runs = [(names[0], None)] if names[0] != PLAIN else []
            return
        start = 0
        for name, group in groupby(names):
            end = start + len(list(group))
            if name != PLAIN:
                self.runs.append((name, slice(start, end)))
            start = end


def install_batched_lora(model: PeftModel, worn: ActiveAdapters) -> bool:
    """The model's LoRA layers follow `worn`. To be called again after each change of adapters; False, and all is left
    to peft, where one of them is no plain LoRA beside a linear layer."""
    layers = [each for each in model.modules() if isinstance(each, LoraLayer)]
    is_plain = all(map(_is_plain, layers)) and not any(
        isinstance(each, AuxiliaryTrainingWrapper) for each in model.modules()
    )
    for layer in layers:
        layer.__dict__.pop("forward", None)
        if is_plain:
            layer.forward = partial(_forward_with_adapters, layer.base_layer, _matrices_of(layer), worn)
    return is_plain


def _is_plain(layer: Any) -> bool:
    is_linear = type(layer) is Linear or type(layer).__name__ in QUANTISED
    return bool(
        is_linear
        and not layer.lora_variant
        and not any(layer.use_dora.values())
        and all(each.bias is None for each in layer.lora_B.values())
    )


def _matrices_of(layer: Any) -> dict[str, Matrices]:
    return {
        name: Matrices(layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name])
        for name in layer.lora_A
    }


def _forward_with_adapters(
    base: nn.Module, own: dict[str, Matrices], worn: ActiveAdapters, x: Tensor
) -> Tensor:
    result: Tensor = base(x)
    for name, rows in worn.runs:
        matrices = own.get(name)
        if matrices is not None:
            _add_product(matrices, x if rows is None else x[rows], result if rows is None else result[rows])
    return result


def _add_product(matrices: Matrices, x: Tensor, result: Tensor) -> None:
    """Into `result`: (…, out), neighbouring rows of it."""
    narrow = functional.linear(x.to(matrices.a.dtype), matrices.a)
    flat = result.view(-1, result.shape[-1])
    flat.addmm_(
        narrow.view(-1, narrow.shape[-1]).to(flat.dtype), matrices.b.T.to(flat.dtype), alpha=matrices.scale
    )


if TYPE_CHECKING:
    from trainers.local.serving.memory import CachedPrefixes

MAX_BASES = 2
NO_LIMIT = 1_000_000

log = logging.getLogger(__name__)


class ModelCache:
    """Base models by folder or hub id and the format of their weights, the least used put away."""

    def __init__(self) -> None:
        self.device = best_device()
        self.cores = CpuThreads()
        self._bases: OrderedDict[Weights, Base] = OrderedDict()
        self._embedder: tuple[str, Embedder] | None = None

    def base(self, weights: Weights) -> Base:
        """Raises Problem (500) where it cannot be loaded, OutOfMemoryError where it has no room even alone."""
        if weights not in self._bases:
            while len(self._bases) >= MAX_BASES:
                self._bases.popitem(last=False)
            self._bases[weights] = self._load(weights)
        self._bases.move_to_end(weights)
        return self._bases[weights]

    def embedder(self, source: str) -> Embedder:
        """One at a time. Raises Problem (404) where the model makes no embeddings."""
        if self._embedder is None or self._embedder[0] != source:
            self._embedder = None
            self._embedder = (source, Embedder(source, self.device))
        return self._embedder[1]

    def clear(self) -> None:
        """Puts all models away."""
        self._bases.clear()
        self._embedder = None
        release_memory(self.device)

    def _load(self, weights: Weights) -> Base:
        try:
            return _load(weights, self.device)
        except torch.OutOfMemoryError:
            log.warning("loading %s: out of memory; other models are put away", weights[0])
            self.clear()
            return _load(weights, self.device)


def _load(weights: Weights, device: torch.device) -> Base:
    try:
        return Base(*weights, device)
    except TrainingFailed as error:
        raise ApiError(500, error.message, error.code, error.param, kind="server_error") from error


class Base:
    """`context` in tokens, prompt and answer together. `beginnings`: what the last batch's prompts began with.
    `joins`: caches of rows that were read apart can be put together. `mixes`: so can rows with different adapters.
    `keeps_state`: it goes over every token in turn, padding too, so that rows are answered one by one."""

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
        self.bytes_a_token = bytes_a_token(config, dtype)
        self.joins = self.mixes = can_be_joined(model)
        self.keeps_state = keeps_state(model)
        self.vocabulary = Vocabulary(
            tokenizer, end_tokens(model.generation_config, tokenizer), int(config.vocab_size)
        )
        self.beginnings: CachedPrefixes = {}
        self._drafts: dict[Path | None, Drafts] = {}
        self._bare: Any = model.eval()  # peft puts its layers into this one too
        self._model: Any = model
        self._worn_rows = ActiveAdapters()
        self._is_ours = True
        self._adapters: OrderedDict[Path, str] = OrderedDict()
        self._made = 0
        self._worn = PLAIN

    def hold(self, adapter: Path | None, in_use: Collection[Path | None]) -> None:
        """Loads it if need be, and puts the least used away that is not `in_use`. Raises Problem (404) where its files
        have gone."""
        if adapter is None:
            return
        if not adapter.is_dir():
            raise adapter_is_gone(adapter)
        if adapter in self._adapters:
            return self._adapters.move_to_end(adapter)
        self._load(adapter)
        idle = [adapter for adapter in self._adapters if adapter not in in_use]
        for oldest in idle[: max(0, len(self._adapters) - MAX_ADAPTERS)]:
            self._model.delete_adapter(self._adapters.pop(oldest))
            self._drafts.pop(oldest, None)
        self._is_ours = install_batched_lora(self._model, self._worn_rows)
        self.mixes = self.joins and self._is_ours  # peft 0.21 mixes plain LoRA only

    def drafts(self, adapter: Path | None) -> Drafts:
        return self._drafts.setdefault(adapter, Drafts())

    def forget(self) -> None:
        """What was kept for the next batch; its memory is given back."""
        self.beginnings = {}
        release_memory(self.device)

    def wearing(self, adapters: Sequence[Path | None]) -> Any:
        """The model with one adapter for all rows, or with one for each; None is the model as it was made. Adapters
        have to be held."""
        names = [self._adapters[adapter] if adapter else PLAIN for adapter in adapters]
        if self._is_ours:
            self._worn_rows.put_on(names)
            return self._bare
        self._wear(next((name for name in names if name != PLAIN), PLAIN))
        return partial(self._model, adapter_names=names) if len(set(names)) > 1 else self._model

    def _wear(self, name: str) -> None:
        """By peft. Each change looks at every layer, so that it is made only where there is one."""
        if name == self._worn:
            return
        if name == PLAIN:
            self._model.base_model.disable_adapter_layers()
        else:
            self._model.base_model.enable_adapter_layers()
            self._model.set_adapter(name)
        self._model.eval()
        self._worn = name

    def _load(self, adapter: Path) -> None:
        check_base_unchanged(self._source, base_of_adapter(adapter), self._fingerprint)
        self._made += 1
        name = f"adapter_{self._made}"
        try:
            with calm_peft():
                self._add(adapter, name)
        except (OSError, ValueError) as error:
            if not (adapter / "adapter_model.safetensors").exists():  # deleted while it was read
                raise adapter_is_gone(adapter) from error
            raise
        self._cast(name)
        self._worn = (
            ""  # peft has put it on, perhaps in training mode; the one that was worn may be put away next
        )
        self._wear(name)
        self._adapters[adapter] = name

    def _add(self, adapter: Path, name: str) -> None:
        options: dict[str, Any] = {"is_trainable": False, "autocast_adapter_dtype": False}
        if isinstance(self._model, PeftModel):
            self._model.load_adapter(str(adapter), adapter_name=name, use_safetensors=True, **options)
        else:
            self._model = PeftModel.from_pretrained(
                self._model, str(adapter), adapter_name=name, use_safetensors=True, **options
            )

    def _cast(self, adapter: str) -> None:
        """An adapter's matrices into the model's format; quantised weights are left alone."""
        dtype = next(self._model.parameters()).dtype
        for name, weight in self._model.named_parameters():
            if f".{adapter}." in name:
                weight.data = weight.data.to(dtype)
