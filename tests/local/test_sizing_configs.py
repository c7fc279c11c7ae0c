"""Families without a preset, at toy size: our count beside that of transformers' own class, from its own
config."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests.local.families import HYBRIDS
from trainers.local.architecture import architecture_of
from trainers.local.training.model_structure import choose_class
from trainers.sizing.architecture import FAMILIES, Architecture, read_config
from trainers.sizing.memory import Device, Work, estimate_memory

TOY = {
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
MORE = {
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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tied", [False, True])
def test_a_familys_config_gives_as_many_parameters_as_its_class(family: str, tied: bool) -> None:
    config = AutoConfig.for_model(family, **{**TOY, **MORE.get(family, {}), "tie_word_embeddings": tied})
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    found = read_config(config.to_dict(), family)
    assert isinstance(found, Architecture)
    assert found.parameters == sum(one.numel() for one in model.parameters())
    linear = [m for m in model.modules() if type(m) is nn.Linear and m is not model.get_output_embeddings()]
    weights = sum(one.weight.numel() for one in linear)
    assert found.quantisable_weights == weights
    counted = architecture_of(config.to_dict())
    assert counted.lora_parameters(8) == found.lora_parameters(8)
    assert (counted.parameters, counted.quantisable_weights) == (found.parameters, found.quantisable_weights)
    assert (counted.active_parameters, counted.is_tied) == (found.active_parameters, tied)


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_family_without_a_formula_is_counted_in_its_class(name: str) -> None:
    config = HYBRIDS[name].config()
    choice = choose_class(name, config)
    with torch.device("meta"):
        model = choice.model_class(choice.config)
    found = architecture_of(config.to_dict())
    assert found.parameters == sum(one.numel() for one in model.parameters())
    assert {matrix.name for matrix, _ in found.matrices} == HYBRIDS[name].layers
    memory = estimate_memory(found, Work("qlora", 64, 4), Device("gpu", 2))
    assert memory.weights < 2 * found.parameters
    assert memory.activations > 2 * 64 * found.hidden * found.layers
