"""Each preset against transformers itself: built from its config class without weights, then counted."""

from __future__ import annotations

import pytest
import torch
import transformers
from torch import nn
from transformers import AutoConfig

from trainers.base_models import Base, Preset, find_base, find_preset, presets
from trainers.local.architecture import architecture_of
from trainers.sizing.architecture import Architecture


def built(preset: Preset) -> nn.Module:
    """On the meta device: shapes without numbers."""
    config = AutoConfig.for_model(**preset.config)
    with torch.device("meta"):
        model: nn.Module = getattr(transformers, preset.model_class)(config)
    return model


def architecture(preset: Preset) -> Architecture:
    found = find_base(preset.hub_id, ask_the_hub=False)
    assert isinstance(found, Base)
    return found.architecture


@pytest.mark.parametrize("preset", presets(), ids=lambda one: one.hub_id)
def test_a_presets_dimensions_give_the_published_number_of_parameters(preset: Preset) -> None:
    model = built(preset)
    counted = sum(parameter.numel() for parameter in model.parameters())  # a tied matrix comes once
    assert counted == preset.parameters
    assert architecture(preset).parameters == preset.parameters
    assert architecture(preset).context == preset.context


@pytest.mark.parametrize("preset", presets(), ids=lambda one: one.hub_id)
def test_a_presets_target_modules_are_there_and_count_as_reckoned(preset: Preset) -> None:
    linear = [
        (name, module)
        for name, module in built(preset).named_modules()
        if type(module) is nn.Linear and (preset.within is None or f"{preset.within}." in f"{name}.")
    ]
    found = [m for name, m in linear if name.rpartition(".")[2] in preset.target_modules]
    by_hand = sum(8 * (one.in_features + one.out_features) for one in found)
    assert {name.rpartition(".")[2] for name, _ in linear} >= set(preset.target_modules)
    assert architecture(preset).lora_parameters(8, preset.target_modules) == by_hand


@pytest.mark.parametrize("preset", presets(), ids=lambda one: one.hub_id)
def test_what_bitsandbytes_would_replace_is_counted(preset: Preset) -> None:
    model = built(preset)
    head = model.get_output_embeddings()  # type: ignore[operator]
    weights = sum(m.weight.numel() for m in model.modules() if type(m) is nn.Linear and m is not head)
    assert architecture(preset).quantisable_weights == weights


@pytest.mark.parametrize("preset", [each for each in presets() if each.shape], ids=lambda one: one.hub_id)
def test_a_shape_is_what_its_class_has(preset: Preset) -> None:
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
