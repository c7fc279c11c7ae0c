"""Base models and adapters in memory. Imports torch and transformers: only the generator's thread does so.

Nothing from a model's folder is executed: safetensors only, no remote code.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from peft import PeftModel

from trainers.local.problems import Problem
from trainers.local.serving.serve import MAX_BATCH_TOKENS, ChatMessage
from trainers.local.spool import Quantization
from trainers.local.training.base import calm_peft, load_model, load_tokenizer
from trainers.local.training.data import TEMPLATE_OPTIONS
from trainers.local.training.devices import best_device, best_dtype
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.hub import fetch
from trainers.local.training.identity import base_of_adapter, fingerprint

MAX_BASES = 2
MAX_ADAPTERS = 8


class Shelf:
    """Base models by folder or hub id and the format of their weights, the least used put away."""

    def __init__(self) -> None:
        self._bases: OrderedDict[tuple[str, Quantization], Base] = OrderedDict()

    def base(self, source: str, quantization: Quantization = "none") -> Base:
        """Raises Problem (500) where it cannot be loaded."""
        key = (source, quantization)
        if key not in self._bases:
            while len(self._bases) >= MAX_BASES:
                self._bases.popitem(last=False)
            self._bases[key] = _load(source, quantization)
        self._bases.move_to_end(key)
        return self._bases[key]


def _load(source: str, quantization: Quantization) -> Base:
    try:
        return Base(source, quantization)
    except TrainingFailed as error:
        raise Problem(500, error.message, error.code, error.param, kind="server_error") from error


class Base:
    """`context` in tokens, prompt and answer together. `end_tokens` are the ids that end a turn."""

    def __init__(self, source: str, quantization: Quantization) -> None:
        self._source = source
        self._fingerprint = fingerprint(fetch(source))
        self.device = best_device()
        self.tokenizer = load_tokenizer(source)
        model = load_model(source, self.device, best_dtype(self.device), MAX_BATCH_TOKENS, quantization)
        self.context = int(model.config.get_text_config().max_position_embeddings)
        self.end_tokens = _end_tokens(model, self.tokenizer)
        self._model: Any = model.eval()
        self._adapters: OrderedDict[Path, str] = OrderedDict()
        self._made = 0

    def encode(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids up to where the answer begins. A 'developer' message is written as 'system'."""
        if not self.tokenizer.chat_template:
            text = "This model has no chat template, so it cannot chat. Choose an instruct or chat model."
            raise Problem(400, text, "no_chat_template", "model")
        turns = [
            {"role": "system" if each.role == "developer" else each.role, "content": each.content}
            for each in messages
        ]
        try:
            text = self.tokenizer.apply_chat_template(
                turns, tokenize=False, add_generation_prompt=True, **TEMPLATE_OPTIONS
            )
        except TemplateError as error:
            text = f"This model's chat template refuses these messages: {error}"
            raise Problem(400, text, "invalid_value", "messages") from error
        return list(self.tokenizer(text, add_special_tokens=False).input_ids)

    @contextmanager
    def wearing(self, adapter: Path | None) -> Iterator[Any]:
        """The model with this adapter, or as it was made."""
        if adapter is not None:
            self._put_on(adapter)
            yield self._model
        elif self._adapters:
            with self._model.disable_adapter():
                yield self._model
        else:
            yield self._model

    def _put_on(self, adapter: Path) -> None:
        name = self._adapters.get(adapter) or self._load(adapter)
        self._adapters.move_to_end(adapter)
        self._model.set_adapter(name)
        self._model.eval()
        while len(self._adapters) > MAX_ADAPTERS:
            _, oldest = self._adapters.popitem(last=False)
            self._model.delete_adapter(oldest)

    def _load(self, adapter: Path) -> str:
        if base_of_adapter(adapter) not in (None, self._fingerprint):
            text = (
                f"This model was tuned on another state of its base model {self._source}: the weights there have "
                "changed since. Put the former ones back and start the trainer again, or train anew."
            )
            raise Problem(409, text, "adapter_of_another_base", "model")
        self._made += 1
        name = f"adapter_{self._made}"
        options: dict[str, Any] = {"is_trainable": False, "autocast_adapter_dtype": False}
        with calm_peft():
            if self._adapters:
                self._model.load_adapter(str(adapter), adapter_name=name, use_safetensors=True, **options)
            else:
                self._model = PeftModel.from_pretrained(
                    self._model, str(adapter), adapter_name=name, use_safetensors=True, **options
                )
        self._cast(name)
        self._adapters[adapter] = name
        return name

    def _cast(self, adapter: str) -> None:
        """An adapter's matrices into the model's format; quantised weights are left alone."""
        dtype = next(self._model.parameters()).dtype
        for name, weight in self._model.named_parameters():
            if f".{adapter}." in name:
                weight.data = weight.data.to(dtype)


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(int(each) for each in [*ends, tokenizer.eos_token_id] if each is not None)
