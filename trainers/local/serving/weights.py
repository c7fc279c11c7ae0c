"""Base models and adapters in memory. Imports torch and transformers: only the generator's thread does so.

Nothing from a model's folder is executed: safetensors only, no remote code.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from peft import PeftModel

from trainers.local.cores import Cores
from trainers.local.problems import Problem, missing
from trainers.local.serving.adapters import PLAIN, Worn, take_over
from trainers.local.serving.batching import MAX_ADAPTERS
from trainers.local.serving.drafts import Drafts
from trainers.local.serving.embedding import Embedder
from trainers.local.serving.memory import bytes_a_token, let_go
from trainers.local.serving.reading import can_be_joined, keeps_state
from trainers.local.serving.values import Weights
from trainers.local.serving.vocabulary import Vocabulary, end_tokens
from trainers.local.spool import Quantization
from trainers.local.training.base import calm_peft, load_config, load_model, load_tokenizer
from trainers.local.training.devices import best_device, best_dtype
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.hub import fetch
from trainers.local.training.identity import base_of_adapter, fingerprint

if TYPE_CHECKING:
    from trainers.local.serving.reading import Beginnings

MAX_BASES = 2
NO_LIMIT = 1_000_000

log = logging.getLogger(__name__)


class Shelf:
    """Base models by folder or hub id and the format of their weights, the least used put away."""

    def __init__(self) -> None:
        self.device = best_device()
        self.cores = Cores()
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
        let_go(self.device)

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
        raise Problem(500, error.message, error.code, error.param, kind="server_error") from error


class Base:
    """`context` in tokens, prompt and answer together. `beginnings`: what the last batch's prompts began with.
    `joins`: caches of rows that were read apart can be put together. `mixes`: so can rows with different adapters.
    `keeps_state`: it goes over every token in turn, padding too, so that rows are answered one by one."""

    def __init__(self, source: str, quantization: Quantization, device: torch.device) -> None:
        self._source = source
        self._fingerprint = fingerprint(fetch(source))
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
        self.vocabulary = Vocabulary(tokenizer, end_tokens(model, tokenizer), int(config.vocab_size))
        self.beginnings: Beginnings = {}
        self._drafts: dict[Path | None, Drafts] = {}
        self._bare: Any = model.eval()  # peft puts its layers into this one too
        self._model: Any = model
        self._worn_rows = Worn()
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
            raise _gone(adapter)
        if adapter in self._adapters:
            return self._adapters.move_to_end(adapter)
        self._load(adapter)
        idle = [one for one in self._adapters if one not in in_use]
        for oldest in idle[: max(0, len(self._adapters) - MAX_ADAPTERS)]:
            self._model.delete_adapter(self._adapters.pop(oldest))
            self._drafts.pop(oldest, None)
        self._is_ours = take_over(self._model, self._worn_rows)
        self.mixes = self.joins and self._is_ours  # peft 0.21 mixes plain LoRA only

    def drafts(self, adapter: Path | None) -> Drafts:
        return self._drafts.setdefault(adapter, Drafts())

    def forget(self) -> None:
        """What was kept for the next batch; its memory is given back."""
        self.beginnings = {}
        let_go(self.device)

    def wearing(self, adapters: Sequence[Path | None]) -> Any:
        """The model with one adapter for all rows, or with one for each; None is the model as it was made. Adapters
        have to be held."""
        names = [self._adapters[one] if one else PLAIN for one in adapters]
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
        if base_of_adapter(adapter) not in (None, self._fingerprint):
            text = (
                f"This model was tuned on another state of its base model {self._source}: the weights there have "
                "changed since. Put the former ones back and start the trainer again, or train anew."
            )
            raise Problem(409, text, "adapter_of_another_base", "model")
        self._made += 1
        name = f"adapter_{self._made}"
        try:
            with calm_peft():
                self._add(adapter, name)
        except (OSError, ValueError) as error:
            if not (adapter / "adapter_model.safetensors").exists():  # deleted while it was read
                raise _gone(adapter) from error
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


def _gone(adapter: Path) -> Problem:
    name = (
        adapter.parent.name if adapter.name == "adapter" else f"{adapter.parent.parent.name}/{adapter.name}"
    )
    problem = missing("adapter", name, "model_not_found", "model")
    problem.message += " It was deleted while the request waited."
    return problem
