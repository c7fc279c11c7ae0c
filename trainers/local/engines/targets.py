"""Which modules get LoRA matrices, by name, so that "all-linear" means the same to every engine. Loads no weights."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from trainers.local.training.failures import TrainingFailed


def target_names(base: str, wanted: str) -> tuple[str, ...]:
    """`wanted`: 'all-linear' or names separated by commas. `base` is a local folder. Raises TrainingFailed."""
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except (OSError, ValueError) as error:
        text = f"Reading the base model's config in {base}: {' '.join(str(error).split())[:300]}"
        raise TrainingFailed("base_not_loaded", text, "model") from error
    return choose(_linear_names(model), wanted)


def choose(linear: Sequence[str], wanted: str) -> tuple[str, ...]:
    """`linear`: full names of the linear layers that may be chosen."""
    last_parts = tuple(sorted({name.rpartition(".")[2] for name in linear}))
    if wanted == "all-linear":
        return last_parts
    targets = tuple(dict.fromkeys(wanted.split(",")))
    for target in targets:
        if not any(name == target or name.endswith(f".{target}") for name in linear):
            text = (
                f"The base model has no linear layer '{target}'. "
                f"Set target_modules to all-linear, or to some of {', '.join(last_parts)}."
            )
            raise TrainingFailed("target_modules_not_found", text, "target_modules")
    return targets


def _linear_names(model: torch.nn.Module) -> list[str]:
    """Without the output layer, which peft's all-linear leaves out too."""
    head = model.get_output_embeddings()  # type: ignore[operator]  # transformers' own method
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head
    ]
