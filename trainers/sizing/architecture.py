"""A decoder's dimensions and parameter counts, read from the config.json that transformers writes.

Supported are the families whose parameter counts are compared with those of transformers' own classes in
tests/local/sizing/test_presets.py and test_configs.py. Other families are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Matrix:
    """A linear layer's weight, `inputs` by `outputs`."""

    name: str
    inputs: int
    outputs: int
    has_bias: bool = False

    @property
    def parameters(self) -> int:
        weights = self.inputs * self.outputs
        if self.has_bias:
            return weights + self.outputs
        return weights


@dataclass(frozen=True)
class Experts:
    """The experts of `layers` layers. Each layer has `count` gated feed-forward networks of width `intermediate`, of
    which each token uses `active`, and one of width `shared` for every token (0: none). `computes_all`: transformers
    computes all experts for each token and discards the unused results.

    transformers 5 fuses a layer's experts into one Parameter, not Linear layers, so bitsandbytes doesn't quantise them.
    """

    layers: int
    count: int
    active: int
    intermediate: int
    shared: int = 0
    computes_all: bool = False


@dataclass(frozen=True)
class Vision:
    """The vision tower with its projector: all its parameters, and those in Linear layers."""

    parameters: int
    in_linear: int


@dataclass(frozen=True)
class CountedLayers:
    """Counts taken from transformers' own class, for a family without a formula here. `matrices` are name, inputs,
    outputs and number of each linear layer; `parameters` are all of the language model's; `in_linear` are the weights
    in Linear layers, without the head."""

    matrices: tuple[tuple[str, int, int, int], ...]
    parameters: int
    in_linear: int


@dataclass(frozen=True)
class Architecture:
    """A model's dimensions, named as in transformers' config.json. `norms` is the number of norms per layer that are
    `hidden` wide.

    `has_head_norms`: each layer has a norm for queries and one for keys, `head_dim` wide; with `has_wide_head_norms`
    they are as wide as all heads together (OLMo 2). `fused`: queries, keys and values are one matrix, gate and up
    another (Phi-3). `dense_intermediate` is the feed-forward width of layers without experts.
    """

    model_type: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    dense_intermediate: int
    vocab: int
    is_tied: bool
    context: int
    norms: int = 2
    has_head_norms: bool = False
    has_wide_head_norms: bool = False
    has_qkv_bias: bool = False
    fused: bool = False
    experts: Experts | None = None
    vision: Vision | None = None
    counted: CountedLayers | None = None

    @property
    def queries(self) -> int:
        """The width of the queries of all heads together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def dense_layers(self) -> int:
        if self.experts is None:
            return self.layers
        return self.layers - self.experts.layers

    @property
    def attention(self) -> tuple[Matrix, ...]:
        """The matrices of one layer's attention."""
        out = Matrix("o_proj", self.queries, self.hidden)
        if self.fused:
            width = self.queries + 2 * self.keys
            fused = Matrix("qkv_proj", self.hidden, width, self.has_qkv_bias)
            return (fused, out)
        return (
            Matrix("q_proj", self.hidden, self.queries, self.has_qkv_bias),
            Matrix("k_proj", self.hidden, self.keys, self.has_qkv_bias),
            Matrix("v_proj", self.hidden, self.keys, self.has_qkv_bias),
            out,
        )

    def feed_forward(self, width: int) -> tuple[Matrix, ...]:
        """Returns the matrices of a gated network of that width."""
        down = Matrix("down_proj", width, self.hidden)
        if self.fused:
            gate_and_up = Matrix("gate_up_proj", self.hidden, 2 * width)
            return (gate_and_up, down)
        return (
            Matrix("gate_proj", self.hidden, width),
            Matrix("up_proj", self.hidden, width),
            down,
        )

    @property
    def matrices(self) -> tuple[tuple[Matrix, int], ...]:
        """Every linear layer of the language model except the head, with the number of layers that have it."""
        entries: list[tuple[Matrix, int]] = []
        if self.counted:
            for name, inputs, outputs, times in self.counted.matrices:
                entries.append((Matrix(name, inputs, outputs), times))
            return tuple(entries)
        for matrix in self.attention:
            entries.append((matrix, self.layers))
        if self.dense_layers:  # none, if all layers have experts
            for matrix in self.feed_forward(self.dense_intermediate):
                entries.append((matrix, self.dense_layers))
        if self.experts and self.experts.shared:
            for matrix in self.feed_forward(self.experts.shared):
                entries.append((matrix, self.experts.layers))
        return tuple(entries)

    @property
    def matrix_parameters(self) -> int:
        return sum(matrix.parameters * times for matrix, times in self.matrices)

    @property
    def expert_parameters(self) -> int:
        """The number of parameters of all routed experts and their routers."""
        if self.experts is None:
            return 0
        router = self.hidden * self.experts.count
        return self.experts.layers * (self.expert_parameters_per_layer + router)

    @property
    def expert_parameters_per_layer(self) -> int:
        """The number of parameters of all routed experts of one layer."""
        if self.experts is None:
            return 0
        return self.experts.count * self._parameters_per_expert

    @property
    def text_parameters(self) -> int:
        if self.counted:
            return self.counted.parameters
        per_layer = self.norms * self.hidden
        if self.has_head_norms:
            per_layer += 2 * self.head_dim
        if self.has_wide_head_norms:
            per_layer += self.queries + self.keys
        norms = self.layers * per_layer + self.hidden  # and one after the last layer
        embeddings = self.vocab * self.hidden
        if not self.is_tied:  # with tied embeddings one matrix both reads and writes tokens
            embeddings *= 2
        return self.matrix_parameters + self.expert_parameters + norms + embeddings

    @property
    def parameters(self) -> int:
        if self.vision is None:
            return self.text_parameters
        return self.text_parameters + self.vision.parameters

    @property
    def active_parameters(self) -> int:
        """The number of parameters that one token of text uses, without vision and unused experts."""
        if self.experts is None:
            return self.text_parameters
        idle = self.experts.layers * (self.experts.count - self.experts.active)
        return self.text_parameters - idle * self._parameters_per_expert

    @property
    def quantisable_weights(self) -> int:
        """The number of weights that bitsandbytes quantises: those in Linear layers except the head (transformers,
        `integrations/bitsandbytes.py`: `type(module) is nn.Linear`, `get_keys_to_not_convert`)."""
        weights = 0
        if self.counted:
            weights = self.counted.in_linear
        else:
            for matrix, times in self.matrices:
                weights += matrix.inputs * matrix.outputs * times
        if self.vision:
            weights += self.vision.in_linear
        return weights

    def lora_parameters(self, rank: int, targets: tuple[str, ...] | None = None) -> int:
        """Returns the sum of rank * (inputs + outputs) over the matrices (Hu et al. 2021, LoRA, §4.1). With `targets`
        None these are all linear layers of the language model except the head."""
        parameters = 0
        for matrix, times in self.matrices:
            is_target = targets is None or matrix.name in targets
            if is_target:
                parameters += rank * (matrix.inputs + matrix.outputs) * times
        return parameters

    @property
    def _parameters_per_expert(self) -> int:
        """Parameters of one routed expert."""
        if self.experts is None:
            return 0
        return 3 * self.hidden * self.experts.intermediate  # gate, up and down


FAMILIES = (
    *("llama", "mistral", "qwen2", "qwen3", "qwen3_moe", "mixtral", "phi3", "gemma", "gemma3_text"),
    *("llama4_text", "smollm3", "olmo2", "olmo3", "ministral3", "granite"),
)
# Quantised formats that are unpacked when the weights are loaded (trainers/local/training/base_model.py).
UNPACKED = ("mxfp4",)
WITH_VISION = ("llama4", "gemma3")
NORMS = {"gemma3_text": 4}
HEAD_NORMS = ("qwen3", "qwen3_moe", "gemma3_text")
TIED_BY_DEFAULT = ("gemma", "gemma3_text", "gemma3", "smollm3")


@dataclass(frozen=True)
class UnknownSize:
    """A sentence that explains why a model's size is unknown, and what to do. `is_unknown`: there is no formula for its
    family, so transformers' own class may be counted instead."""

    sentence: str
    is_unknown: bool = False


def read_config(raw: Mapping[str, Any], name: str) -> Architecture | UnknownSize:
    """Reads a model's config.json. `name` is the model's name, for messages."""
    quantisation = raw.get("quantization_config") or {}
    kind = quantisation.get("quant_method")
    if quantisation and kind not in UNPACKED:
        kind = kind or "quantised"
        return UnknownSize(
            f"{name} is already quantised ({kind}), and LoRA on that can't be planned here. Name the model that it was "
            "made from."
        )
    family = raw.get("model_type")
    if family in WITH_VISION:
        return _read_with_vision(raw, name)
    if family not in FAMILIES:
        families = ", ".join(dict.fromkeys((*FAMILIES, *WITH_VISION)))
        return UnknownSize(
            f"{name} is of the family '{family}', whose size can be counted only with transformers: install the extra "
            f"[local], or choose a model of one of these families: {families}.",
            is_unknown=True,
        )
    try:
        return _read_decoder(raw, str(family))
    except (KeyError, TypeError, ValueError) as error:
        return UnknownSize(
            f"The config.json of {name} can't be used: {_describe(error)}. Is it the original one?"
        )


def _describe(error: Exception) -> str:
    if isinstance(error, KeyError):  # whose text is only the key
        return f"it has no {error}"
    return str(error)


def _read_with_vision(raw: Mapping[str, Any], name: str) -> Architecture | UnknownSize:
    text = dict(raw.get("text_config") or {})
    text.setdefault("model_type", f"{raw['model_type']}_text")
    if "tie_word_embeddings" in raw:
        text.setdefault("tie_word_embeddings", raw["tie_word_embeddings"])
    architecture = read_config(text, name)
    if isinstance(architecture, UnknownSize):
        return architecture
    read_vision = _read_llama4_vision
    if raw["model_type"] == "gemma3":
        read_vision = _read_siglip
    try:
        vision = read_vision(raw, architecture)
        return replace(architecture, vision=vision)
    except (KeyError, TypeError, ValueError) as error:
        return UnknownSize(
            f"The vision_config of {name} can't be used: {_describe(error)}. Is it the original one?"
        )


def _read_decoder(raw: Mapping[str, Any], family: str) -> Architecture:
    hidden = _read_whole_number(raw, "hidden_size")
    heads = _read_whole_number(raw, "num_attention_heads")
    dense = "intermediate_size"
    if family == "llama4_text":  # there, that is the width of the experts
        dense = "intermediate_size_mlp"
    is_tied = raw.get("tie_word_embeddings", family in TIED_BY_DEFAULT)
    has_attention_bias = bool(raw.get("attention_bias", False))
    return Architecture(
        model_type=family,
        layers=_read_whole_number(raw, "num_hidden_layers"),
        hidden=hidden,
        heads=heads,
        kv_heads=_read_whole_number(raw, "num_key_value_heads", heads),
        head_dim=_read_whole_number(raw, "head_dim", hidden // heads),
        dense_intermediate=_read_whole_number(raw, dense),
        vocab=_read_whole_number(raw, "vocab_size"),
        is_tied=bool(is_tied),
        context=_read_whole_number(raw, "max_position_embeddings"),
        norms=NORMS.get(family, 2),
        has_head_norms=family in HEAD_NORMS,
        has_wide_head_norms=family in ("olmo2", "olmo3"),
        has_qkv_bias=family == "qwen2" or has_attention_bias,
        fused=family == "phi3",
        experts=_read_experts(raw, family),
    )


def _read_experts(raw: Mapping[str, Any], family: str) -> Experts | None:
    if family not in ("llama4_text", "mixtral", "qwen3_moe"):
        return None
    layers = _read_whole_number(raw, "num_hidden_layers")
    active = _read_whole_number(raw, "num_experts_per_tok")
    if family == "qwen3_moe":
        if raw.get("mlp_only_layers") or raw.get("decoder_sparse_step", 1) != 1:
            raise ValueError("only some of its layers have experts, and I can't tell which")
        count = _read_whole_number(raw, "num_experts", raw.get("num_local_experts"))
        width = _read_whole_number(raw, "moe_intermediate_size")
        return Experts(layers, count, active, width)
    count = _read_whole_number(raw, "num_local_experts")
    width = _read_whole_number(raw, "intermediate_size")
    if family == "mixtral":
        return Experts(layers, count, active, width)
    step = _read_whole_number(raw, "interleave_moe_layer_step", 1)
    return Experts(layers // step, count, active, width, shared=width, computes_all=True)


def _read_siglip(raw: Mapping[str, Any], text: Architecture) -> Vision:
    """Counts Gemma 3's vision part: SigLIP without its head, a projection and a norm (transformers,
    `Gemma3MultiModalProjector`)."""
    vision = raw["vision_config"]
    width = _read_whole_number(vision, "hidden_size")
    layers = _read_whole_number(vision, "num_hidden_layers")
    inner = _read_whole_number(vision, "intermediate_size")
    patch = _read_whole_number(vision, "patch_size")
    image = _read_whole_number(vision, "image_size")
    linear = layers * (4 * width * width + 2 * width * inner)
    biases = layers * (4 * width + inner + width)
    norms = layers * 4 * width + 2 * width
    patches = 3 * patch * patch * width + width + (image // patch) ** 2 * width
    projector = width * text.hidden + width
    return Vision(linear + biases + norms + patches + projector, linear)


def _read_llama4_vision(raw: Mapping[str, Any], text: Architecture) -> Vision:
    """Counts Llama 4's vision part (transformers, `Llama4VisionModel` and `Llama4MultiModalProjector`)."""
    vision = raw["vision_config"]
    width = _read_whole_number(vision, "hidden_size")
    layers = _read_whole_number(vision, "num_hidden_layers")
    inner = _read_whole_number(vision, "intermediate_size")
    patch = _read_whole_number(vision, "patch_size")
    image = _read_whole_number(vision, "image_size")
    projected = _read_whole_number(vision, "projector_input_dim")
    output = _read_whole_number(vision, "projector_output_dim")
    adapter = inner * projected + projected * output
    linear = layers * (4 * width * width + 2 * width * inner) + adapter + 3 * patch * patch * width
    biases = layers * (4 * width + inner + width)
    norms = layers * 4 * width + 4 * width
    patches = (image // patch) ** 2
    positions = width + (patches + 1) * width
    projector = _read_whole_number(vision, "vision_output_dim") * text.hidden
    in_linear = linear + projector
    return Vision(in_linear + biases + norms + positions, in_linear)


def _read_whole_number(raw: Mapping[str, Any], key: str, default: int | None = None) -> int:
    value = raw.get(key)
    if value is None:
        value = default
    if value is None:
        raise KeyError(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 10**9:
        raise ValueError(f"its {key} is {value!r}, not a whole number above 0")
    return value
