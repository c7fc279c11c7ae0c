"""Families without a preset, at toy size: our parameter count compared with that of transformers' own class."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests.local.families import HYBRIDS
from trainers.local.architecture import architecture_of
from trainers.local.training.model_structure import choose_class
from trainers.sizing.architecture import FAMILIES, Architecture, read_config
from trainers.sizing.memory import Device, Work, estimate_memory

TOY: dict[str, Any] = {
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "intermediate_size": 96,
    "vocab_size": 384,
    "pad_token_id": 0,
    "max_position_embeddings": 512,
}
MORE: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 48,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "llama4_text": {"intermediate_size_mlp": 160, "num_local_experts": 4, "interleave_moe_layer_step": 2},
}


@pytest.mark.deep
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_familys_config_gives_its_class_s_parameter_count(family: str, tied: bool) -> None:
    config = AutoConfig.for_model(family, **{**TOY, **MORE.get(family, {}), "tie_word_embeddings": tied})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    computed = read_config(config.to_dict(), family)
    assert isinstance(computed, Architecture)
    assert computed.parameters == sum(weight.numel() for weight in model.parameters())
    linear = [m for m in model.modules() if type(m) is nn.Linear and m is not model.get_output_embeddings()]
    assert computed.quantisable_weights == sum(layer.weight.numel() for layer in linear)
    counted = architecture_of(config.to_dict())
    assert counted.lora_parameters(8) == computed.lora_parameters(8)
    assert (counted.parameters, counted.quantisable_weights) == (
        computed.parameters,
        computed.quantisable_weights,
    )
    assert (counted.active_parameters, counted.is_tied) == (computed.active_parameters, tied)


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_family_without_a_formula_is_counted_from_its_class(name: str) -> None:
    config = HYBRIDS[name].config()
    choice = choose_class(name, config)
    with torch.device("meta"):
        model = choice.model_class(choice.config)
    counted = architecture_of(config.to_dict())
    assert counted.parameters == sum(weight.numel() for weight in model.parameters())
    assert {matrix.name for matrix, _ in counted.matrices} == HYBRIDS[name].layers
    memory = estimate_memory(counted, Work("qlora", 64, 4), Device("gpu", 2))
    assert memory.weights < 2 * counted.parameters
    assert memory.activations > 2 * 64 * counted.hidden * counted.layers
