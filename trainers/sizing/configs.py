"""Reads an Architecture out of a model's config.json, as transformers writes it. Refuses what it doesn't know.

The families are those whose parameters were compared with transformers' own classes, number by number, in
tests/local/test_presets.py and test_sizing_configs.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from trainers.sizing.architecture import Architecture, Experts, Vision

FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral", "phi3", "gemma", "gemma3_text"),
    *("llama4_text", "smollm3", "olmo2"),
)
WITH_VISION = ("llama4", "gemma3")
NORMS = {"gemma3_text": 4}
HEAD_NORMS = ("qwen3", "qwen3_moe", "gemma3_text")
TIED_UNLESS_SAID = ("gemma", "gemma3_text", "gemma3", "smollm3")


@dataclass(frozen=True)
class Unsized:
    """Why the size of a model can't be told, as a sentence with its cure."""

    sentence: str


def read_config(raw: Mapping[str, Any], name: str) -> Architecture | Unsized:
    """`name` is the model's, for the sentences."""
    if raw.get("quantization_config"):
        kind = raw["quantization_config"].get("quant_method", "quantised")
        return Unsized(
            f"{name} comes quantised ({kind}): LoRA on it is not planned here. Name the model that it was made from."
        )
    family = raw.get("model_type")
    if family in WITH_VISION:
        return _with_vision(raw, name)
    if family not in FAMILIES:
        known = ", ".join(dict.fromkeys((*FAMILIES, *WITH_VISION)))
        return Unsized(
            f"{name} is of the family '{family}', whose memory I can't work out. I know {known}: choose such a model."
        )
    try:
        return _decoder(raw, str(family))
    except (KeyError, TypeError, ValueError) as error:
        return Unsized(f"The config.json of {name} can't be used: {_fault(error)}. Is it the original one?")


def _fault(error: Exception) -> str:
    return f"it has no {error}" if isinstance(error, KeyError) else str(error)


def _with_vision(raw: Mapping[str, Any], name: str) -> Architecture | Unsized:
    text = dict(raw.get("text_config") or {})
    text.setdefault("model_type", f"{raw['model_type']}_text")
    if "tie_word_embeddings" in raw:
        text.setdefault("tie_word_embeddings", raw["tie_word_embeddings"])
    found = read_config(text, name)
    if isinstance(found, Unsized):
        return found
    try:
        vision = _siglip(raw, found) if raw["model_type"] == "gemma3" else _llama4_vision(raw, found)
    except (KeyError, TypeError, ValueError) as error:
        return Unsized(f"The vision_config of {name} can't be used: {_fault(error)}. Is it the original one?")
    return Architecture(**{**vars(found), "vision": vision})


def _decoder(raw: Mapping[str, Any], family: str) -> Architecture:
    hidden, heads = _whole(raw, "hidden_size"), _whole(raw, "num_attention_heads")
    experts = _experts(raw, family)
    dense = "intermediate_size_mlp" if family == "llama4_text" else "intermediate_size"
    return Architecture(
        model_type=family,
        layers=_whole(raw, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_whole(raw, "num_key_value_heads", heads),
        head_dim=_whole(raw, "head_dim", hidden // heads),
        dense_intermediate=_whole(raw, dense),
        vocab=_whole(raw, "vocab_size"),
        is_tied=bool(raw.get("tie_word_embeddings", family in TIED_UNLESS_SAID)),
        context=_whole(raw, "max_position_embeddings"),
        norms=NORMS.get(family, 2),
        has_head_norms=family in HEAD_NORMS,
        has_wide_head_norms=family == "olmo2",
        has_qkv_bias=family == "qwen2" or bool(raw.get("attention_bias", False)),
        fused=family == "phi3",
        experts=experts,
    )


def _experts(raw: Mapping[str, Any], family: str) -> Experts | None:
    layers = _whole(raw, "num_hidden_layers")
    if family == "llama4_text":
        step, width = _whole(raw, "interleave_moe_layer_step", 1), _whole(raw, "intermediate_size")
        count, active = _whole(raw, "num_local_experts"), _whole(raw, "num_experts_per_tok")
        return Experts(layers // step, count, active, width, shared=width, computes_all=True)
    if family == "mixtral":
        return Experts(
            layers,
            _whole(raw, "num_local_experts"),
            _whole(raw, "num_experts_per_tok"),
            _whole(raw, "intermediate_size"),
        )
    if family == "qwen3_moe":
        if raw.get("mlp_only_layers") or raw.get("decoder_sparse_step", 1) != 1:
            raise ValueError("only some of its layers have experts, which I can't tell apart")
        count = _whole(raw, "num_experts", raw.get("num_local_experts"))
        return Experts(
            layers, count, _whole(raw, "num_experts_per_tok"), _whole(raw, "moe_intermediate_size")
        )
    return None


def _siglip(raw: Mapping[str, Any], text: Architecture) -> Vision:
    """Gemma 3's: SigLIP without its head, a projection and a norm (transformers, `Gemma3MultiModalProjector`)."""
    vision = raw["vision_config"]
    width, layers, inner = (
        _whole(vision, key) for key in ("hidden_size", "num_hidden_layers", "intermediate_size")
    )
    patch, image = _whole(vision, "patch_size"), _whole(vision, "image_size")
    linear = layers * (4 * width * width + 2 * width * inner)
    biases = layers * (4 * width + inner + width)
    norms = layers * 4 * width + 2 * width
    patches = 3 * patch * patch * width + width + (image // patch) ** 2 * width
    projector = width * text.hidden + width
    return Vision(linear + biases + norms + patches + projector, linear)


def _llama4_vision(raw: Mapping[str, Any], text: Architecture) -> Vision:
    """transformers, `Llama4VisionModel` and `Llama4MultiModalProjector`."""
    vision = raw["vision_config"]
    width, layers, inner = (
        _whole(vision, key) for key in ("hidden_size", "num_hidden_layers", "intermediate_size")
    )
    patch, image = _whole(vision, "patch_size"), _whole(vision, "image_size")
    projected, output = _whole(vision, "projector_input_dim"), _whole(vision, "projector_output_dim")
    adapter = inner * projected + projected * output
    linear = layers * (4 * width * width + 2 * width * inner) + adapter + 3 * patch * patch * width
    biases = layers * (4 * width + inner + width)
    norms = layers * 4 * width + 4 * width
    places = width + ((image // patch) ** 2 + 1) * width
    projector = _whole(vision, "vision_output_dim") * text.hidden
    return Vision(linear + biases + norms + places + projector, linear + projector)


def _whole(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if value is None:
        raise KeyError(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**9:
        raise ValueError(f"its {key} is {value!r}, not a whole number above 0")
    return value
