"""Each preset against transformers itself: built from its config class without weights, then counted."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig

from trainers.local.architecture import architecture_of
from trainers.models.base_models import Base, Preset, find_base, find_preset, presets


def build_without_weights(preset: Preset) -> nn.Module:
    config = AutoConfig.for_model(**preset.config)
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, preset.model_class)(config)
    return model


@pytest.mark.deep
@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.hub_id)
def test_a_presets_numbers_are_those_of_transformers_class(preset: Preset) -> None:
    """Its parameters, its target modules, the weights that bitsandbytes would replace, and its shape."""
    base = find_base(preset.hub_id, ask_the_hub=False)
    assert isinstance(base, Base)
    architecture = base.architecture
    model = build_without_weights(preset)
    assert (
        sum(parameter.numel() for parameter in model.parameters()) == preset.parameters
    )  # tied matrices once
    assert (architecture.parameters, architecture.context) == (preset.parameters, preset.context)

    linear = {name: module for name, module in model.named_modules() if type(module) is nn.Linear}
    adaptable = {name for name in linear if preset.within is None or f"{preset.within}." in f"{name}."}
    assert {name.rpartition(".")[2] for name in adaptable} >= set(preset.target_modules)
    targets = [linear[name] for name in adaptable if name.rpartition(".")[2] in preset.target_modules]
    lora = sum(8 * (layer.in_features + layer.out_features) for layer in targets)
    assert architecture.lora_parameters(8, preset.target_modules) == lora

    head = model.get_output_embeddings()  # type: ignore[operator]
    quantizable = sum(layer.weight.numel() for layer in linear.values() if layer is not head)
    assert architecture.quantisable_weights == quantizable

    if preset.shape:
        assert preset.shape == architecture_of(preset.config)


def test_a_preset_is_found_by_its_hub_id_and_by_its_alias() -> None:
    scout = find_preset("llama-4-scout")
    assert scout is not None
    assert scout is find_preset("META-LLAMA/llama-4-scout-17b-16e-instruct")
    assert scout is find_preset("meta-llama/Llama-4-Scout"), "as articles write it"
    assert (scout.model_class, scout.within, scout.is_gated) == (
        "Llama4ForConditionalGeneration",
        "language_model",
        True,
    )
    assert find_preset("gpt-4o") is None
