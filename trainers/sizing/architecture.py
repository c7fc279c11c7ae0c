"""A decoder's dimensions and the parameters that follow from them. Counts only; memory.py makes bytes of it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Matrix:
    """A linear layer's weight, `inputs` by `outputs`."""

    name: str
    inputs: int
    outputs: int
    has_bias: bool = False

    @property
    def parameters(self) -> int:
        return self.inputs * self.outputs + (self.outputs if self.has_bias else 0)


@dataclass(frozen=True)
class Experts:
    """Of `layers` layers: `count` gated feed-forward networks of width `intermediate`, of which a token passes
    `active`, and one of width `shared` that every token passes (0: none).

    transformers 5 keeps them as one fused Parameter a layer, not as Linear: bitsandbytes doesn't quantise them.
    """

    layers: int
    count: int
    active: int
    intermediate: int
    shared: int = 0
    computes_all: bool = False


@dataclass(frozen=True)
class Vision:
    """What stands beside the language model, projector included: all parameters, and those in Linear layers."""

    parameters: int
    in_linear: int


@dataclass(frozen=True)
class Architecture:
    """Dimensions in the words of transformers' config.json; `norms` are those of a layer that are `hidden` wide.

    `has_head_norms`: one norm for queries and one for keys, `head_dim` wide, a layer; `has_wide_head_norms`: as
    wide as all heads together (OLMo 2). `fused`: queries, keys and
    values are one matrix, gate and up another (Phi-3). `dense_intermediate`: of the layers without experts.
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

    @property
    def queries(self) -> int:
        """Width of all heads' queries together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def dense_layers(self) -> int:
        return self.layers - (self.experts.layers if self.experts else 0)

    @property
    def attention(self) -> tuple[Matrix, ...]:
        """Of one layer."""
        out = Matrix("o_proj", self.queries, self.hidden)
        if self.fused:
            return (Matrix("qkv_proj", self.hidden, self.queries + 2 * self.keys, self.has_qkv_bias), out)
        return (
            Matrix("q_proj", self.hidden, self.queries, self.has_qkv_bias),
            Matrix("k_proj", self.hidden, self.keys, self.has_qkv_bias),
            Matrix("v_proj", self.hidden, self.keys, self.has_qkv_bias),
            out,
        )

    def feed_forward(self, width: int) -> tuple[Matrix, ...]:
        """A gated network of that width."""
        down = Matrix("down_proj", width, self.hidden)
        if self.fused:
            return (Matrix("gate_up_proj", self.hidden, 2 * width), down)
        return (
            Matrix("gate_proj", self.hidden, width),
            Matrix("up_proj", self.hidden, width),
            down,
        )

    @property
    def matrices(self) -> tuple[tuple[Matrix, int], ...]:
        """Every linear layer of the language model but the head, with how many layers have it."""
        found = [(one, self.layers) for one in self.attention]
        found += [(one, self.dense_layers) for one in self.feed_forward(self.dense_intermediate)]
        if self.experts and self.experts.shared:
            found += [(one, self.experts.layers) for one in self.feed_forward(self.experts.shared)]
        return tuple((one, times) for one, times in found if times)

    @property
    def in_matrices(self) -> int:
        return sum(one.parameters * times for one, times in self.matrices)

    @property
    def in_experts(self) -> int:
        """Routed experts and their routers."""
        if self.experts is None:
            return 0
        router = self.hidden * self.experts.count
        return self.experts.layers * (self.experts_a_layer + router)

    @property
    def experts_a_layer(self) -> int:
        """Parameters of all routed experts of one layer: two weights of three dimensions."""
        return self.experts.count * self._expert if self.experts else 0

    @property
    def in_norms(self) -> int:
        heads = 2 * self.head_dim if self.has_head_norms else 0
        heads += self.queries + self.keys if self.has_wide_head_norms else 0
        return self.layers * (self.norms * self.hidden + heads) + self.hidden

    @property
    def in_embeddings(self) -> int:
        """Where they are tied, one matrix both reads and writes tokens."""
        return self.vocab * self.hidden * (1 if self.is_tied else 2)

    @property
    def text_parameters(self) -> int:
        return self.in_matrices + self.in_experts + self.in_norms + self.in_embeddings

    @property
    def parameters(self) -> int:
        return self.text_parameters + (self.vision.parameters if self.vision else 0)

    @property
    def active_parameters(self) -> int:
        """Those that a token of text passes: vision and the experts not chosen are left out."""
        if self.experts is None:
            return self.text_parameters
        idle = self.experts.count - self.experts.active
        return self.text_parameters - self.experts.layers * idle * self._expert

    @property
    def quantisable(self) -> int:
        """Weights in Linear layers, the head excepted: what bitsandbytes replaces (transformers,
        `integrations/bitsandbytes.py`: `type(module) is nn.Linear`, `get_keys_to_not_convert`)."""
        text = sum(one.inputs * one.outputs * times for one, times in self.matrices)
        return text + (self.vision.in_linear if self.vision else 0)

    def lora_parameters(self, rank: int, targets: tuple[str, ...] | None = None) -> int:
        """r * (inputs + outputs) for each matrix (Hu et al. 2021, LoRA, §4.1). None: all linear layers of the
        language model, the head excepted."""
        chosen = [(one, times) for one, times in self.matrices if targets is None or one.name in targets]
        return sum(rank * (one.inputs + one.outputs) * times for one, times in chosen)

    @property
    def _expert(self) -> int:
        """Parameters of one routed expert."""
        return 3 * self.hidden * self.experts.intermediate if self.experts else 0
