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
from trainers.local.training.base import load_model, load_tokenizer
from trainers.local.training.devices import best_device, best_dtype
from trainers.local.training.failures import TrainingFailed

MAX_BASES = 2
MAX_ADAPTERS = 8


class Shelf:
    """Base models by folder or hub id, the least used put away."""

    def __init__(self) -> None:
        self._bases: OrderedDict[str, Base] = OrderedDict()

    def base(self, source: str) -> Base:
        """Raises Problem (500) where it cannot be loaded."""
        if source not in self._bases:
            while len(self._bases) >= MAX_BASES:
                self._bases.popitem(last=False)
            self._bases[source] = _load(source)
        self._bases.move_to_end(source)
        return self._bases[source]


def _load(source: str) -> Base:
    try:
        return Base(source)
    except TrainingFailed as error:
        raise Problem(500, error.message, error.code, error.param, kind="server_error") from error


class Base:
    """`context` in tokens, prompt and answer together. `end_tokens` are the ids that end a turn."""

    def __init__(self, source: str) -> None:
        self.device = best_device()
        self.tokenizer = load_tokenizer(source)
        model = load_model(source, self.device, best_dtype(self.device), MAX_BATCH_TOKENS)
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
            text = self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
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
        self._made += 1
        name = f"adapter_{self._made}"
        options: dict[str, Any] = {"is_trainable": False, "autocast_adapter_dtype": False}
        if self._adapters:
            self._model.load_adapter(str(adapter), adapter_name=name, use_safetensors=True, **options)
        else:
            self._model = PeftModel.from_pretrained(
                self._model, str(adapter), adapter_name=name, use_safetensors=True, **options
            )
        self._model.to(next(self._model.parameters()).dtype)
        self._adapters[adapter] = name
        return name


def _end_tokens(model: Any, tokenizer: Any) -> frozenset[int]:
    configured = model.generation_config.eos_token_id
    ends = configured if isinstance(configured, list) else [configured]
    return frozenset(int(each) for each in [*ends, tokenizer.eos_token_id] if each is not None)
