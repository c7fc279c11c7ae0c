"""Which class of transformers a base model is loaded as, and which part of it reads and writes text.

By its configuration, never by its name. Models that also see are trained on text only: where transformers has a class
for the text part alone (Llama 4) that one is loaded, else the whole (Mistral Small, Gemma 3), and LoRA keeps to the
part that get_decoder names. Loads nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, PreTrainedConfig

from trainers.bases import WRITERS
from trainers.local.training.failures import TrainingFailed


@dataclass(frozen=True)
class Choice:
    """`model_class` is one of transformers' own; `config` is the one that it takes."""

    model_class: Any
    config: PreTrainedConfig

    @property
    def family(self) -> str:
        return str(self.config.model_type)


def choose_class(source: str, config: PreTrainedConfig) -> Choice:
    """Raises TrainingFailed where the model does not write text after a prompt."""
    kind, names = type(config), config.architectures or []
    is_writer = not names or any(name.endswith(WRITERS) for name in names)
    if is_writer and not config.is_encoder_decoder:
        if kind in MODEL_FOR_CAUSAL_LM_MAPPING:
            model_class: Any = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
            text_config = config.get_text_config()
            return Choice(
                model_class, text_config if model_class.config_class is type(text_config) else config
            )
        if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            return Choice(MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[kind], config)
    called = ", ".join(names) or config.model_type
    text = f"The base model {source} is a {called}, which does not go on writing a text. Choose a chat model."
    raise TrainingFailed("base_writes_no_text", text, "model")


def text_part(model: Any) -> str:
    """Dotted name of the module that holds the layers between embeddings and head: 'model', 'model.language_model'."""
    decoder: torch.nn.Module = model.get_decoder()
    return next(str(name) for name, module in model.named_modules() if module is decoder)


def sees_too(model: Any) -> bool:
    """It has parts beside the text part that LoRA must keep out of."""
    return bool(model.config.get_text_config() is not model.config)
