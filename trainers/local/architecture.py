"""`python -m trainers.local.architecture < config.json`: builds transformers' own class for a config, without weights
(on PyTorch's meta device), and prints the fields of an Architecture as JSON. If it can't be built, exits with code 1
and a sentence on stderr.

`find_base` starts it for the families that trainers/sizing/architecture.py has no formula for.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
from transformers import CONFIG_MAPPING

from trainers.local.training.errors import TrainingFailed
from trainers.local.training.model_structure import (
    choose_class,
    fused_experts,
    linear_layers,
    text_module_name,
)
from trainers.sizing.architecture import Architecture, CountedLayers, Experts, Vision

UNBOUNDED = 2**20  # tokens, for state-space models, which have no limit of positions


def main() -> None:
    raw = json.load(sys.stdin)
    try:
        architecture = architecture_of(raw)
    except TrainingFailed as error:
        sys.exit(error.message)
    except Exception as error:
        sentence = " ".join(str(error).split())[:300]
        sys.exit(f"transformers can't build it: {sentence}")
    print(json.dumps(asdict(architecture)))


def architecture_of(raw: Mapping[str, Any]) -> Architecture:
    """Raises TrainingFailed if it is not a model that writes text. transformers' own errors pass through."""
    family = str(raw.get("model_type"))
    if family not in CONFIG_MAPPING:
        why = f"transformers has no class for the family '{family}'"
        raise TrainingFailed("base_needs_code", why, "model")
    config = CONFIG_MAPPING[family].from_dict(dict(raw))
    name = str(raw.get("_name_or_path") or family)
    choice = choose_class(name, config)
    with torch.device("meta"):
        model = choice.model_class(choice.config)
    text = choice.config.get_text_config()
    head = model.get_output_embeddings()
    vocab, hidden = map(int, head.weight.shape)
    heads = _number(text, "num_attention_heads", "num_heads") or 1
    text_module = model.get_submodule(text_module_name(model))
    inside = _parameters(text_module) | _parameters(head)
    linear = _linear_parameters(model, head)
    in_text = [size for weight, size in linear.items() if weight in inside]
    return Architecture(
        model_type=choice.family,
        layers=_number(text, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=heads,  # differences between layers show in the matrices
        head_dim=hidden // heads,
        dense_intermediate=0,
        vocab=vocab,
        is_tied=head.weight is model.get_input_embeddings().weight,
        context=_number(text, "max_position_embeddings") or UNBOUNDED,
        experts=_experts(model, text, hidden),
        vision=_vision(model, inside, linear),
        counted=CountedLayers(
            matrices=_adaptable_matrices(model),
            parameters=sum(inside.values()),
            in_linear=sum(in_text),
        ),
    )


def _parameters(module: torch.nn.Module) -> dict[int, int]:
    """Returns the size of each parameter by its identity, so that a tied matrix counts once."""
    return {id(weight): weight.numel() for weight in module.parameters()}


def _linear_parameters(model: Any, head: Any) -> dict[int, int]:
    """Returns the size of each matrix in a Linear layer by its identity, without the head."""
    sizes = {}
    for module in model.modules():
        if type(module) is torch.nn.Linear and module is not head:
            sizes[id(module.weight)] = module.weight.numel()
    return sizes


def _vision(model: Any, inside: Mapping[int, int], linear: Mapping[int, int]) -> Vision | None:
    """Returns the sizes of what is outside the text model, or None if nothing is."""
    outside = {weight: size for weight, size in _parameters(model).items() if weight not in inside}
    if not outside:
        return None
    in_linear = [size for weight, size in linear.items() if weight in outside]
    return Vision(sum(outside.values()), sum(in_linear))


def _adaptable_matrices(model: Any) -> tuple[tuple[str, int, int, int], ...]:
    """Returns the layers that LoRA can adapt: the last part of their names, inputs, outputs, and how many there are."""
    counts: Counter[tuple[str, int, int]] = Counter()
    for name in linear_layers(model):
        outputs, inputs = model.get_submodule(name).weight.shape
        _, _, last = name.rpartition(".")
        counts[last, inputs, outputs] += 1
    return tuple((*matrix, count) for matrix, count in counts.items())


def _experts(model: Any, text: Any, hidden: int) -> Experts | None:
    fused = fused_experts(model)
    if not fused:
        return None
    shapes = [tuple(model.get_parameter(name).shape) for name in fused]
    modules = set()
    for name in fused:
        module, _, _ = name.rpartition(".")
        modules.add(module)
    layers = len(modules)
    count = shapes[0][0]  # a fused parameter has its experts in the first dimension
    active = _number(text, "num_experts_per_tok", "top_k_experts", "moe_topk") or count
    weights = sum(math.prod(shape) for shape in shapes)
    # An expert has three matrices of hidden times intermediate.
    intermediate = round(weights / (3 * layers * count * hidden))
    return Experts(layers, count, min(active, count), intermediate)


def _number(config: Any, *names: str) -> int:
    """Returns the first of `names` that the config has, or 0. If it differs by layer, returns the largest."""
    for name in names:
        value = getattr(config, name, None)
        if isinstance(value, list | tuple) and value:
            return int(max(value))
        if value:
            return int(value)
    return 0


if __name__ == "__main__":
    main()
