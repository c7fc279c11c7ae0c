"""The memory that a training takes at its peak, part by part, in bytes. Pure arithmetic.

The tensors that autograd keeps were listed (torch.autograd.graph.saved_tensors_hooks) for Llamas of 8 and 30 layers in
our own engine. They take, in bytes per token and layer, with e bytes per number, h hidden, i intermediate, q the width
of all queries, k of all keys, H heads, T tokens computed at a time:

    4·e·h             both norms: their outputs and the residual stream; 2·e·h + 8·h if the stream is in float32
    4·e·i             gate, its activation, up, their product
    2·e·(q + k·L/o)       several rows of L tokens on a CPU, o of which belong to one row alone: queries, output, the
    + e·H·L               keys and values that a row sees; the weights of its pairs of tokens
    2·e·(q + k) + 4·H     otherwise (fused attention): queries, keys, values, output, one sum per head
    e·r               for each matrix that LoRA adapts

Experts in 4 bits are unpacked one layer at a time, which saves memory only with gradient checkpointing, so that is
always on for them. With gradient checkpointing a layer keeps e·h per token, and only one layer at a time all of the
above (Chen et al. 2016, Training Deep Nets with Sublinear Memory Cost, §3).

FIXED_CPU, KEPT_BY_ALLOCATOR and BACKWARD_SCORES were measured as peaks of resident memory, each in a process of its own
(2 cores, torch 2.13, SmolLM2-135M and random Llamas of 8 and 30 layers, 95 to 1,000 tokens, float32 and bfloat16).
GPU_FIXED and GPU_ALLOCATOR are rules of thumb.

In DPO and GRPO, TRL computes all answers to a prompt at once, and the head over the whole vocabulary. From trl 1.16:

    dpo_trainer.py, DataCollatorForPreference   2·n rows for n pairs, all padded to the longest: nothing is shared
    dpo_trainer.py, _compute_loss               policy, then the reference without gradients, then the backward pass
    utils.py, add_fused_lm_head                 on a CPU the head is applied at every token but a row's last; on a GPU
                                                (Triton) at the answers' tokens only
    chunked_logprob.py                          tiles of at most 4,096 tokens by 32,768 words; their log-softmax is not
                                                kept but recomputed in the backward pass

A tile takes, in bytes per token and word, with e bytes per number:

    GPU   e           logits; Triton's kernels turn them into their gradient in place
    CPU   e + 13      forward: logits; z, z - max, exp in float32; a mask of the words before the target (1 byte)
          e + 29      backward: logits; y, z, log p, p, the gradient in float32; a mask of the target (1 byte), the mask
                      in float32, and the mask minus p
          e + 4       then the product in float32, with as many columns of the head in float32 (bfloat16 only)

The reference is the same model with its adapter disabled, so it needs no weights of its own. Its pass runs while
everything that the policy keeps is in memory, but its tiles are smaller than those of the backward pass, so it is never
the peak.

GRPO is computed the same way, with all sampled answers to a question instead of two. Sampling keeps only the keys and
values of each layer and frees them before the training step, so it is never the peak either.

Attention is torch's own with a mask, since rows are padded: keys and values are repeated for all heads, and each
layer turns the mask into numbers (scaled_dot_product_attention):

    4·e·q + 4·H + e·L
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from trainers.sizing.architecture import Architecture

Method = Literal["lora", "qlora", "8bit", "full"]
METHODS: tuple[Method, ...] = get_args(Method)

MIB = 2**20
# Bytes per weight: 4 bits, one scale for 64 weights, which are quantised in groups of 256 (QLoRA, §3).
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)
INT8 = 1.0
FLOAT32 = 4
ADAM = 8  # two moments in float32 (Kingma and Ba 2015)

# Families whose norms keep float32 states, since trainers/local/kernels/fused_layers.py does not replace them.
FLOAT_NORMS = ("gemma", "gemma3_text", "llama4_text")
FIXED_CPU = 85 * MIB  # code loaded on first use, tokenizer, rows, partly used pages of the allocator
KEPT_BY_ALLOCATOR = 0.16  # gaps in the heap, as a share of what autograd keeps
BACKWARD_SCORES = 18  # bytes per pair of tokens and head in the backward pass of a layer's attention
PROCESS_CPU = 520 * MIB  # torch, transformers, peft and datasets, imported
GPU_FIXED = 1024 * MIB  # CUDA's context, cuBLAS's workspace
GPU_ALLOCATOR = 0.10
# Tokens computed at a time; the same as pack_tokens() in trainers/local/training/packing.py.
CPU_TOKENS = 768
GPU_TOKENS = 8192
OLD_GPU_TOKENS = 2048  # before Ampere, where packs need a mask
# Logits of chats beyond which the head works in chunks, and those of a chunk; the same as in
# trainers/local/kernels/chunked_loss.py.
MANY_LOGITS = 2**25
CHUNK_LOGITS = 2**26

TILE_TOKENS = 4096  # TRL's TOKEN_CHUNK_SIZE
TILE_WORDS = 32768  # TRL's _CHUNKED_LOGPROB_CHUNK_SIZE
# Bytes per token and word of a tile on a CPU, besides the logits themselves (see the table above).
FORWARD_CPU = 13
BACKWARD_CPU = 29
PRODUCT_CPU = 4


@dataclass(frozen=True)
class Device:
    """The kind of device that trains. `number_bytes` is the size of a weight: 2 (bfloat16) or 4 (float32). `is_old`: a
    GPU before Ampere."""

    kind: Literal["cpu", "gpu"]
    number_bytes: int
    is_old: bool = False

    @property
    def tokens_at_a_time(self) -> int:
        if self.kind == "cpu":
            return CPU_TOKENS
        if self.is_old:
            return OLD_GPU_TOKENS
        return GPU_TOKENS

    @property
    def narrow_copy(self) -> int:
        """The bytes per number of a copy in the device's format beside one in float32; 0 if it computes in float32."""
        if self.number_bytes == FLOAT32:
            return 0
        return self.number_bytes


@dataclass(frozen=True)
class Work:
    """A training on rows of `length` tokens, the last `answer` of which are learnt, with `batch` rows per step and LoRA
    of rank `rank`.

    `shared` is the number of tokens with which all rows begin; they are computed once for all rows of a pack.
    `checkpoints` means that activations are recomputed in the backward pass instead of kept.
    `pairs` means DPO: `batch` preference pairs per step, where `length` is a prompt with its longer answer. Nothing is
    shared. `samples` is the number of answers that GRPO samples to each of `batch` questions, where `length` is a
    question with the longest answer allowed; 0 for other methods. `targets` is target_modules, the layers that LoRA
    adapts; experts that are fused into one weight are not counted.
    """

    method: Method
    length: int
    batch: int
    rank: int = 16
    answer: int = 32
    shared: int = 0
    checkpoints: bool = False
    pairs: bool = False
    samples: int = 0
    targets: str = "all-linear"

    @property
    def padded(self) -> int:
        """The number of answers to a prompt that are padded alike and computed together. 0 for chats, whose rows are
        packed one after the other without padding."""
        if self.pairs:
            return 2
        return self.samples

    @property
    def modules(self) -> tuple[str, ...] | None:
        """The names of the adapted layers, or None for all linear layers."""
        if self.targets == "all-linear":
            return None
        names = []
        for path in self.targets.split(","):
            *_, name = path.split(".")
            names.append(name)
        return tuple(names)


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak. `process` is the memory of the program itself; 0 for a GPU, whose memory it doesn't use."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    overhead: int
    process: int

    @property
    def total(self) -> int:
        """All parts except `process`."""
        value = self.weights + self.adapter + self.gradients + self.optimizer
        return value + self.activations + self.logits + self.overhead


def with_forced_checkpoints(model: Architecture, work: Work) -> Work:
    """Turns gradient checkpointing on if the engine always uses it for this model
    (trainers/local/training/base_model.py, recompute_if_packed)."""
    is_packed = model.experts is not None and work.method == "qlora"
    if is_packed:
        return replace(work, checkpoints=True)
    return work


def estimate_memory(model: Architecture, work: Work, place: Device) -> Memory:
    work = with_forced_checkpoints(model, work)
    e = place.number_bytes
    trainable = trainable_parameters(model, work)
    if work.method == "full":
        adapter = 0
        gradient = FLOAT32
        optimizer = ADAM
    else:
        # The adapter is stored in float32, and a step computes with a narrow copy.
        adapter = FLOAT32 + place.narrow_copy
        gradient = FLOAT32
        optimizer = ADAM

    tokens = tokens_at_a_time(work, place)
    layer = tokens * _bytes_per_token(model, work, place)
    activations = model.layers * layer
    if work.checkpoints:
        inputs = model.layers * tokens * e * model.hidden
        activations = inputs + layer

    process = 0
    if place.kind == "cpu":
        process = PROCESS_CPU
    weights = base_bytes(model, work.method, e)
    if work.method == "full":
        # Learnt in float32; a step computes with a narrow copy, which autocast makes.
        weights = loaded_parameters(model) * (FLOAT32 + place.narrow_copy)
    return Memory(
        weights=weights,
        adapter=trainable * adapter,
        gradients=trainable * gradient,
        optimizer=trainable * optimizer,
        activations=activations,
        logits=_logit_bytes(model, work, place),
        overhead=_overhead_bytes(model, work, place, activations),
        process=process,
    )


def tokens_at_a_time(work: Work, place: Device) -> int:
    """Returns how many tokens are computed at a time. Rows are packed one after the other up to the engine's limit; a
    longer row is computed alone. For a preference pair both answers are computed, and for a GRPO question all samples,
    each after the prompt and padded to the longest."""
    rows = rows_at_a_time(work, place)
    if work.padded:
        return work.padded * rows * work.length
    repeated = (rows - 1) * work.shared
    return rows * work.length - repeated


def rows_at_a_time(work: Work, place: Device) -> int:
    """Returns how many rows (for DPO pairs, for GRPO questions) are computed at a time."""
    if work.padded:
        room = place.tokens_at_a_time // (work.padded * work.length)
    else:
        own = work.length - work.shared
        room = (place.tokens_at_a_time - work.shared) // own
    return max(1, min(work.batch, room))


def reference_logit_bytes(model: Architecture, work: Work, place: Device) -> int:
    """Returns the bytes of logits in the reference model's pass. They are freed before the backward pass, so they are
    not part of the peak."""
    positions = _head_positions(work, place)
    e = place.number_bytes
    per_logit = e
    if place.kind == "cpu":
        per_logit += FORWARD_CPU
    tile = _tile_size(model, positions) * per_logit
    inputs = positions * model.hidden * e
    return tile + inputs


def trainable_parameters(model: Architecture, work: Work) -> int:
    """Returns the number of trained parameters: all of them, or those of LoRA on its target layers."""
    if work.method == "full":
        return loaded_parameters(model)
    return model.lora_parameters(work.rank, work.modules)


def loaded_parameters(model: Architecture) -> int:
    """Returns the number of loaded parameters. Llama 4 is loaded without its vision part, since transformers has a
    class for the text part alone."""
    if model.model_type == "llama4_text":
        return model.text_parameters
    return model.parameters


def base_bytes(model: Architecture, method: Method, number_bytes: int) -> int:
    """Returns the bytes of the base's weights. bitsandbytes quantises Linear layers, and with 4 bits experts are packed
    too; embeddings, head and norms keep their format."""
    total = loaded_parameters(model)
    if method in ("lora", "full"):
        return total * number_bytes
    replaced = model.quantisable_weights
    if method == "qlora" and model.experts:
        replaced += model.experts.layers * model.expert_parameters_per_layer
    if model.vision and total < model.parameters:  # the vision part is not loaded
        replaced -= model.vision.in_linear
    quantised = INT8
    if method == "qlora":
        quantised = NF4
    rest = total - replaced
    return round(replaced * quantised) + rest * number_bytes


def _bytes_per_token(model: Architecture, work: Work, place: Device) -> int:
    """Returns the bytes that one layer keeps per token, by the table in the module's docstring."""
    e = place.number_bytes
    stream = e
    if model.model_type in FLOAT_NORMS:
        stream = FLOAT32
    norms = model.norms * (e + stream) * model.hidden

    lora = 0
    if work.method != "full":
        lora = e * work.rank * _adapted_matrices(model, work)
    return norms + _feed_forward_bytes(model, e) + _attention_bytes(model, work, place) + lora


def _adapted_matrices(model: Architecture, work: Work) -> int:
    """Returns the number of matrices per layer that LoRA adapts."""
    matrices = 7  # of a Llama: queries, keys, values, output, gate, up, down
    if model.fused:
        matrices = 4  # queries, keys and values are one matrix, and so are gate and up
    if model.counted:
        in_all = sum(times for _, times in model.matrices)
        matrices = math.ceil(in_all / model.layers)
    if work.modules is None:
        return matrices
    return min(matrices, len(set(work.modules)))


def _feed_forward_bytes(model: Architecture, e: int) -> int:
    """Returns the bytes of a dense layer or of a layer with experts, whichever is larger. The inputs of fused experts
    are not kept, since their weights are frozen."""
    dense = 0
    if model.dense_layers:
        dense = 4 * e * model.dense_intermediate
    experts = model.experts
    if experts is None:
        return dense
    computed = experts.active
    if experts.computes_all:
        computed = experts.count
    routed = e * computed * (model.hidden + 3 * experts.intermediate)
    shared = 4 * e * experts.shared
    return max(dense, routed + shared)


def _attention_bytes(model: Architecture, work: Work, place: Device) -> int:
    e = place.number_bytes
    if model.counted:
        linear = _counted_layer_bytes(model, e)
        sums = FLOAT32 * model.heads
        pairs = 0
        if work.padded or _attends_by_rows(work, place):
            pairs = e * model.heads * work.length
        return linear + sums + pairs
    if work.padded:
        return 4 * e * model.queries + 4 * model.heads + e * work.length
    if not _attends_by_rows(work, place):
        return 2 * e * (model.queries + model.keys) + 4 * model.heads
    seen = model.keys * work.length // (work.length - work.shared)
    return 2 * e * (model.queries + seen) + e * model.heads * work.length


def _counted_layer_bytes(model: Architecture, e: int) -> int:
    """Returns the bytes that an average layer keeps for its linear layers.

    Counted are the outputs of layers that read the residual stream, and the inputs of those that write to it. In a
    gated network these are 3 of the 4 kept tensors (see the module's docstring), so a third is added."""
    wide = 0
    for matrix, times in model.matrices:
        width = matrix.inputs
        reads_stream = matrix.inputs == model.hidden
        if reads_stream:
            width = matrix.outputs
        wide += times * width
    return 4 * e * wide // (3 * model.layers)


def _attends_by_rows(work: Work, place: Device) -> bool:
    """True if attention is computed row by row (trainers/local/kernels/shared_prefix_attention.py), which keeps a
    weight for each pair of tokens."""
    if place.kind != "cpu" or work.padded:
        return False
    return rows_at_a_time(work, place) > 1


def _logit_bytes(model: Architecture, work: Work, place: Device) -> int:
    """Returns the bytes of the logits in the model's format, their log-softmax in float32, and its gradient. Chats need
    them only at learnt tokens, and of many of these only a chunk at a time."""
    e = place.number_bytes
    if not work.padded:
        return _chat_logit_bytes(model, rows_at_a_time(work, place) * min(work.answer, work.length), place)
    # The peak is in the backward pass.
    positions = _head_positions(work, place)
    around = positions * model.hidden * (e + FLOAT32)  # the head's input and its gradient
    tile = _tile_size(model, positions)
    if place.kind == "gpu":
        return tile * e + around
    product = tile * e
    if place.narrow_copy:
        columns = min(model.vocab, TILE_WORDS)
        product += tile * PRODUCT_CPU + FLOAT32 * model.hidden * columns
    backward = tile * (e + BACKWARD_CPU)
    return max(backward, product) + around


def _chat_logit_bytes(model: Architecture, learnt: int, place: Device) -> int:
    """Returns the bytes of the logits of `learnt` tokens, or of a chunk of them beside the states of all."""
    if learnt * model.vocab <= MANY_LOGITS:
        per_logit = place.narrow_copy + 2 * FLOAT32
        return learnt * model.vocab * per_logit
    at_once = min(learnt, max(1, CHUNK_LOGITS // model.vocab))
    # The logits, a copy in float32 that becomes their gradient, and its narrow copy.
    per_logit = place.number_bytes + FLOAT32 + place.narrow_copy
    states = 3 * learnt * model.hidden * place.number_bytes  # themselves, their gradient, and this scaled
    return at_once * model.vocab * per_logit + states


def _head_positions(work: Work, place: Device) -> int:
    """Returns the number of tokens to which TRL applies the head."""
    rows = work.padded * rows_at_a_time(work, place)
    if place.kind == "gpu":
        return rows * min(work.answer, work.length)
    return rows * (work.length - 1)


def _overhead_bytes(model: Architecture, work: Work, place: Device, activations: int) -> int:
    # A quantised matrix is unpacked while it is multiplied, and a layer's experts while the layer is computed.
    unpacked = 0
    if work.method in ("qlora", "8bit"):
        unpacked = max(matrix.inputs * matrix.outputs for matrix, _ in model.matrices)
    if work.method == "qlora":
        unpacked = max(unpacked, model.expert_parameters_per_layer)
    unpacked *= place.number_bytes

    if place.kind == "gpu":
        return GPU_FIXED + round(GPU_ALLOCATOR * activations) + unpacked
    scores = 0
    if _attends_by_rows(work, place) and place.narrow_copy:
        pairs = tokens_at_a_time(work, place) * work.length
        scores = BACKWARD_SCORES * model.heads * pairs
    gaps = round(KEPT_BY_ALLOCATOR * activations)
    return FIXED_CPU + gaps + scores + unpacked


def _tile_size(model: Architecture, tokens: int) -> int:
    """Returns the number of logits in the largest tile."""
    return min(tokens, TILE_TOKENS) * min(model.vocab, TILE_WORDS)
