"""Which modules get LoRA matrices, as names that mean the same to every engine. Loads no weights.

Only for models that engines and our server load alike: text models of plain weights, whose adapters' names agree.
"""

from __future__ import annotations

from pathlib import Path

import torch

from trainers.local.spool import LoraSettings
from trainers.local.training.base import load_config
from trainers.local.training.failures import TrainingFailed
from trainers.local.training.families import choose_class, sees_too
from trainers.local.training.quantization import stored_method
from trainers.local.training.targets import find_targets, fused_experts


def target_names(base: Path, settings: LoraSettings) -> tuple[str, ...]:
    """What `settings.target_modules` mean to its engine. Raises TrainingFailed."""
    engine, wanted = settings.engine, settings.target_modules
    config = load_config(str(base))
    stored = stored_method(config)
    if stored is not None:
        raise _builtin_only(f"weights are stored in the format {stored}", engine, "model")
    choice = choose_class(str(base), config)
    with torch.device("meta"):
        model = choice.model_class(choice.config)
    if choice.config is not config or sees_too(model):
        raise _builtin_only("model also sees, and only its text part would be trained", engine, "model")
    if settings.quantization == "nf4" and fused_experts(model):
        why = "experts would stay in full, and our server answers with packed ones"
        raise _builtin_only(why, engine, "quantization")
    targets = find_targets(model, wanted)
    if targets.parameters or isinstance(targets.modules, str):
        raise _builtin_only(f"{targets.parameters[0]} is no linear layer", engine, "target_modules")
    return tuple(targets.modules)


def _builtin_only(why: str, engine: str, param: str) -> TrainingFailed:
    text = f"The engine {engine} cannot train this: the base's {why}. Let the engine be builtin."
    return TrainingFailed("engine_cannot", text, param)
