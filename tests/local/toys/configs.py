"""Configurations of transformers' families at toy size, made from each class's own defaults.

A toy has one layer of each kind that the family has, at least two, and a few heads and experts. `OWN_SIZES` is for
families in which sizes depend on each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tests.local.families import VOCABULARY

HIDDEN = 64
# What the keys of a configuration are set to, in the order of its parts: the model, attention, experts, state layers.
SIZES: Mapping[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input"), VOCABULARY),
    **dict.fromkeys(
        ("hidden_size", "n_embd", "d_model", "word_embed_proj_dim", "attention_hidden_size"), HIDDEN
    ),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "ffn_hidden_size"), 2 * HIDDEN),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers"), 2),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "context_length"), 512),
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 8,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.15,  # at the usual 0.02 a frozen random head leaves LoRA nothing to choose between
    # Without dropout a training's loss can be computed again.
    **dict.fromkeys(("attention_dropout", "dropout", "residual_dropout"), 0.0),
    **dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 64,
    "num_kv_shared_layers": 0,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
    "index_n_heads": 2,
    "index_head_dim": 16,
    "index_topk": 64,
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "moe_topk"), 2),
    **dict.fromkeys(("n_shared_experts", "num_shared_experts", "moe_num_shared_experts"), 1),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), HIDDEN // 2),
    **dict.fromkeys(("intermediate_size_mlp", "shared_intermediate_size"), HIDDEN),
    "moe_shared_expert_intermediate_size": HIDDEN // 2,
    **dict.fromkeys(("n_group", "topk_group"), 1),
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), 1),
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    **dict.fromkeys(("num_heads", "mamba_n_heads", "mamba_num_heads"), 8),
    **dict.fromkeys(("mamba_d_head", "mamba_head_dim"), 16),
    **dict.fromkeys(("state_size", "ssm_state_size", "mamba_d_state"), 16),
    **dict.fromkeys(("n_groups", "mamba_n_groups"), 1),
    **dict.fromkeys(("chunk_size", "mamba_chunk_size"), 32),
    "mamba_d_ssm": 2 * HIDDEN,
}
SIGHT: Mapping[str, Any] = {
    **dict.fromkeys(("hidden_size", "embed_dim"), 16),
    "intermediate_size": 32,
    **dict.fromkeys(("num_hidden_layers", "depth"), 1),
    **dict.fromkeys(("num_attention_heads", "num_heads"), 2),
    "head_dim": 8,
    "image_size": 28,
    "patch_size": 14,
    "out_hidden_size": HIDDEN,
    **dict.fromkeys(("projector_input_dim", "projector_output_dim", "vision_output_dim"), 16),
    "fullatt_block_indexes": [0],
    "deepstack_visual_indexes": [0],
}
# What differs from layer to layer, by the names of the lists that hold it.
KINDS = ("layer_types", "mlp_layer_types", "layers_block_type")


def toy_config(family: str) -> Any:
    from transformers import CONFIG_MAPPING

    config_class = CONFIG_MAPPING[family]
    return config_class(**shrink(config_class().to_dict(), OWN_SIZES.get(family, {})))


def shrink(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what to change in a configuration, including its part for text and the one for pictures."""
    small = {**_known(defaults, SIZES), **_one_layer_of_each_kind(defaults), **own}
    text = defaults.get("text_config")
    if text:
        small["text_config"] = {"model_type": text["model_type"], **shrink(text, own)}
    sight = defaults.get("vision_config")
    if sight:
        small["vision_config"] = {"model_type": sight["model_type"], **_known(sight, SIGHT)}
    return small


def _known(defaults: Mapping[str, Any], sizes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: size for name, size in sizes.items() if name in defaults}


def _one_layer_of_each_kind(defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Returns shorter lists of the kinds of layers, and their length."""
    lists: dict[str, Sequence[str]] = {name: defaults[name] for name in KINDS if defaults.get(name)}
    if not lists:
        return {}
    layers = list(dict.fromkeys(zip(*lists.values(), strict=True)))
    if len(layers) == 1:
        layers *= 2
    columns: Any = zip(*layers, strict=True)
    small = {name: list(column) for name, column in zip(lists, columns, strict=True)}
    return {**small, "num_hidden_layers": len(layers)}


# Latent attention has as many keys as queries, and rotates a part of each head.
LATENT = {"num_key_value_heads": 4, "head_dim": SIZES["qk_rope_head_dim"]}
LATENT_FAMILIES = (
    *("deepseek_v2", "deepseek_v3", "deepseek_v32", "glm4_moe_lite", "glm_moe_dsa", "kimi_k25", "minicpm3"),
    *("mistral_large4", "sarvam_mla", "youtu"),
)
ROPE = {"rope_type": "default", "rope_theta": 10000.0}
# The halves of a head's rotary pairs for time, height and width.
PLACES = {"rope_parameters": {**ROPE, "mrope_section": [2, 3, 3]}}
HALF_PLACES = {"rope_parameters": {**ROPE, "mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5}}
OWN_SIZES: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(LATENT_FAMILIES, LATENT),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), PLACES),
    **dict.fromkeys(("glm4v", "glm46v"), HALF_PLACES),
    "codegen": {"rotary_dim": 8},
    "gptj": {"rotary_dim": 8},
    "bamba": {"attn_layer_indices": [1]},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "mamba_dt_rank": 4, "use_mamba_kernels": False},
    "kimi_linear": {**LATENT, "num_experts_per_token": 2, "linear_head_dim": 16, "linear_num_heads": 4},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "recurrent_gemma": {"num_hidden_layers": 3, "lru_width": HIDDEN},
    "zamba2": {
        "layers_block_type": ["linear_attention", "hybrid"],
        "hybrid_layer_ids": [1],
        "attention_hidden_size": 2 * HIDDEN,
        "attention_head_dim": 32,
        "num_key_value_heads": 4,
        "num_query_groups": 4,
        "mamba_headdim": 16,
        "adapter_rank": 4,
        "use_mamba_kernels": False,
    },
}
