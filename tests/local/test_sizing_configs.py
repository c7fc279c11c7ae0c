"""Families without a preset, at toy size: our count beside that of transformers' own class, from its own
config."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from trainers.sizing.architecture import FAMILIES, Architecture, read_config

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
    assert found.quantisable == weights
