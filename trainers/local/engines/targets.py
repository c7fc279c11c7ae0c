"""Which modules get LoRA matrices, as names that mean the same to every engine. Loads no weights.

Only for models that engines and our server load alike: text models of plain weights, whose adapters' names agree.
"""

from __future__ import annotations

from pathlib import Path

import torch

from trainers.local.training.base import load_config
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.families import choose_class, sees_too
from trainers.local.training.quantization import stored_method
from trainers.local.training.targets import find_targets


def target_names(base: Path, wanted: str, engine: str) -> tuple[str, ...]:
    """`wanted`: 'all-linear' or names separated by commas. Raises TrainingFailed."""
    config = load_config(str(base))
    stored = stored_method(config)
    if stored is not None:
        raise _builtin_only(f"weights are stored in the format {stored}", engine, "model")
    choice = choose_class(str(base), config)
    with torch.device("meta"):
        model = choice.model_class(choice.config)
    if choice.config is not config or sees_too(model):
        raise _builtin_only("model also sees, and only its text part would be trained", engine, "model")
    targets = find_targets(model, wanted)
    if targets.parameters or isinstance(targets.modules, str):
        raise _builtin_only(f"{targets.parameters[0]} is no linear layer", engine, "target_modules")
    return tuple(targets.modules)


def _builtin_only(why: str, engine: str, param: str) -> TrainingFailed:
    text = f"The engine {engine} cannot train this: the base's {why}. Let the engine be builtin."
    return TrainingFailed("engine_cannot", text, param)
