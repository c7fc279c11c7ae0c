"""The memory that a training takes at its peak, part by part, in bytes. Pure arithmetic.

What autograd keeps was listed tensor by tensor (torch.autograd.graph.saved_tensors_hooks) for a Llama of 8 and of 30
layers in our own engine. In bytes a token and layer, with e bytes a number, h hidden, i intermediate, q all queries, k
all keys, H heads, T tokens computed at a time:

    4·e·h             both norms: what they put out, and the residual stream; 2·e·h + 8·h where it is in float32
    4·e·i             gate, its activation, up, their product
    2·e·(q + k·L/o)       several rows of L tokens on a CPU, o of them a row's own: queries, output, the keys and
    + e·H·L               values that a row sees; its pairs' weights
    2·e·(q + k) + 4·H     else (fused attention): queries, keys, values, output, one sum a head
    e·r               for each matrix that LoRA stands beside

Experts in 4 bits are unpacked a layer at a time, which only pays with gradient checkpointing: it is always on there.
With gradient checkpointing a layer keeps e·h a token, and one layer at a time all of the above (Chen et al. 2016,
Training Deep Nets with Sublinear Memory Cost, §3).

Measured constants, each from peaks of resident memory in processes of their own (2 cores, torch 2.13, SmolLM2-135M and
random Llamas of 8 and 30 layers, 95 to 1,000 tokens, float32 and bfloat16): FIXED_CPU, KEPT_BY_ALLOCATOR and
BACKWARD_SCORES. GPU_FIXED and GPU_ALLOCATOR are rules of thumb: no GPU was at hand.

DPO and GRPO by TRL compute all answers to a prompt at once, and their head over all words. Read off trl 1.16:

    dpo_trainer.py, DataCollatorForPreference   2·n rows for n pairs, all padded to the longest: nothing is shared
    dpo_trainer.py, _compute_loss               policy, then the reference without gradients, then the way back
    utils.py, add_fused_lm_head                 on a CPU the head is applied at every token but a row's last; on a GPU
                                                (Triton) at the answers' tokens only
    chunked_logprob.py                          tiles of at most 4,096 tokens by 32,768 words; their log-softmax is not
                                                kept but computed again on the way back

A tile takes, in bytes a token and word, with e bytes a number:

    GPU   e           its logits; Triton's kernels turn them into their gradient in place
    CPU   e + 13      forward: logits; z, z - max, exp in float32; which words stand before the target, 1
          e + 29      back: logits; y, z, log p, p, the gradient in float32; whether a word is the target, 1, that as
                      float32, and less p
          e + 4       then the product in float32, with the head's own part of as many words in float32 (bfloat16 only)

The reference is the same model with its adapter off, so there are no weights of it. Its pass runs while all that the
policy keeps is there; its tiles are smaller than those of the way back, so it is never the peak.

GRPO is computed the same way, with all the answers that were sampled to a question in place of two. Sampling keeps keys
and values of each layer and nothing else, and they are gone before learning begins: it is never the peak either.

Attention is torch's own under a mask, since rows are padded: keys and values are repeated for all heads, and each
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
NF4 = 0.5 + 1 / 64 + 4 / (64 * 256)  # bytes a weight: 4 bits, scales of 64 quantised in 256s (QLoRA, §3)
INT8 = 1.0
FLOAT32 = 4
ADAM = 8  # two moments in float32 (Kingma and Ba 2015)

FLOAT_NORMS = ("gemma", "gemma3_text", "llama4_text")  # not those of trainers/local/kernels/fused_layers.py
FIXED_CPU = 85 * MIB  # code loaded on first use, tokenizer and rows, pages that the allocator has begun
KEPT_BY_ALLOCATOR = 0.16  # of what autograd keeps: gaps in the heap
BACKWARD_SCORES = 18  # bytes for each pair of tokens and head, while a layer's attention is differentiated
PROCESS_CPU = 520 * MIB  # torch, transformers, peft, datasets, imported
GPU_FIXED = 1024 * MIB  # CUDA's context, cuBLAS's workspace
GPU_ALLOCATOR = 0.10
CPU_TOKENS, GPU_TOKENS = 768, 8192  # computed at a time: pack_tokens() of trainers/local/training/packing.py


TILE_TOKENS, TILE_WORDS = 4096, 32768  # TOKEN_CHUNK_SIZE, _CHUNKED_LOGPROB_CHUNK_SIZE
FORWARD_CPU, BACKWARD_CPU, PRODUCT_CPU = 13, 29, 4


@dataclass(frozen=True)
class Device:
    """Where it is trained. `number_bytes` of a weight: 2 (bfloat16) or 4 (float32)."""

    kind: Literal["cpu", "gpu"]
    number_bytes: int

    @property
    def tokens_at_a_time(self) -> int:
        return CPU_TOKENS if self.kind == "cpu" else GPU_TOKENS


@dataclass(frozen=True)
class Work:
    """Rows of `length` tokens of which the last `answer` are learnt, `batch` rows a step, LoRA of `rank`.

    `shared`: the first tokens that all rows have in common are computed once for all rows at a time.
    `checkpoints`: activations are computed again while going backward instead of kept.
    `pairs`: preference pairs by DPO: `batch` pairs a step, each as long as its prompt with the longer answer; nothing
    is shared. `samples`: so many answers to each of `batch` questions are sampled (GRPO), each as long as a question
    with the most tokens that an answer may have; 0 elsewhere. `targets`: the layers that LoRA stands beside, as
    target_modules names them; experts that are fused into one weight are not counted.
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
        """Rows to a prompt that are computed at once under one mask, all padded alike; 0: rows are laid one after the
        other, which is how chats are trained."""
        return 2 if self.pairs else self.samples

    @property
    def modules(self) -> tuple[str, ...] | None:
        """None: all linear layers."""
        if self.targets == "all-linear":
            return None
        return tuple(name.rpartition(".")[2] for name in self.targets.split(","))


@dataclass(frozen=True)
class Memory:
    """Bytes at the peak. `process` is the program itself, in the machine's memory: on a GPU it does not count."""

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
        """All but the process."""
        value = self.weights + self.adapter + self.gradients + self.optimizer
        return value + self.activations + self.logits + self.overhead


def with_forced_checkpoints(model: Architecture, work: Work) -> Work:
    """Adds checkpoints where the engine always makes them (trainers/local/training/base_model.py,
    recompute_if_packed)."""
    is_packed = model.experts is not None and work.method == "qlora"
    return replace(work, checkpoints=True) if is_packed else work


def estimate_memory(model: Architecture, work: Work, place: Device) -> Memory:
    work, e = with_forced_checkpoints(model, work), place.number_bytes
    is_narrow = e < FLOAT32
    trainable = trainable_parameters(model, work)
    if work.method == "full":
        # In 2 bytes a float32 copy is kept beside the moments (Rajbhandari et al. 2020, ZeRO, §3.1).
        adapter, gradient, optimizer = 0, e, ADAM + (FLOAT32 if is_narrow else 0)
    else:
        # The adapter is in float32, and a step computes with a copy.
        adapter, gradient, optimizer = FLOAT32 + (e if is_narrow else 0), FLOAT32, ADAM

    tokens = tokens_at_a_time(work, place)
    layer = tokens * _bytes_per_token(model, work, place)
    activations = model.layers * layer
    if work.checkpoints:
        activations = model.layers * tokens * e * model.hidden + layer
    return Memory(
        weights=base_bytes(model, work.method, e),
        adapter=trainable * adapter,
        gradients=trainable * gradient,
        optimizer=trainable * optimizer,
        activations=activations,
        logits=_logit_bytes(model, work, place),
        overhead=_overhead_bytes(model, work, place, activations),
        process=PROCESS_CPU if place.kind == "cpu" else 0,
    )


def tokens_at_a_time(work: Work, place: Device) -> int:
    """Returns the tokens that are computed at a time. Rows are laid one after the other up to the engine's limit; a
    longer row stands alone. Of a pair both answers are computed, of a question all that were sampled, each behind
    the prompt and padded to the longest."""
    rows = rows_at_a_time(work, place)
    return work.padded * rows * work.length if work.padded else rows * work.length - (rows - 1) * work.shared


def rows_at_a_time(work: Work, place: Device) -> int:
    """Returns how many rows are computed at a time, or pairs, or questions: their methods fill parts with as many
    tokens."""
    if work.padded:
        return max(1, min(work.batch, place.tokens_at_a_time // (work.padded * work.length)))
    return max(1, min(work.batch, (place.tokens_at_a_time - work.shared) // (work.length - work.shared)))


def reference_pass(model: Architecture, work: Work, place: Device) -> int:
    """Returns the bytes for logits while the reference answers pairs, before the peak and not part of it: they are
    freed before the way back begins."""
    places, e = _head_positions(work, place), place.number_bytes
    return (
        _tile_size(model, places) * (e if place.kind == "gpu" else e + FORWARD_CPU)
        + places * model.hidden * e
    )


def trainable_parameters(model: Architecture, work: Work) -> int:
    """Returns the trained parameters: all, or LoRA's beside the linear layers of the language model that are its
    targets, the head excepted."""
    if work.method == "full":
        return loaded_parameters(model)
    return model.lora_parameters(work.rank, work.modules)


def loaded_parameters(model: Architecture) -> int:
    """Returns the loaded parameters. Llama 4 is loaded without its vision part, since transformers has a class for
    its text part alone."""
    return model.text_parameters if model.model_type == "llama4_text" else model.parameters


def base_bytes(model: Architecture, method: Method, number_bytes: int) -> int:
    """Returns the bytes of the weights. bitsandbytes replaces Linear layers, and in 4 bits experts are packed too;
    embeddings, head and norms stay."""
    every = loaded_parameters(model)
    if method in ("lora", "full"):
        return every * number_bytes
    replaced = model.quantisable_weights
    if method == "qlora" and model.experts:
        replaced += model.experts.layers * model.expert_parameters_per_layer
    if model.vision and every < model.parameters:
        replaced -= model.vision.in_linear
    return round(replaced * (NF4 if method == "qlora" else INT8)) + (every - replaced) * number_bytes


def _bytes_per_token(model: Architecture, work: Work, place: Device) -> int:
    """Returns the bytes that one layer keeps of one token, by the sum in the module's docstring."""
    e = place.number_bytes
    norms = model.norms * (e + max(e, 4 if model.model_type in FLOAT_NORMS else 0)) * model.hidden
    matrices = 4 if model.fused else 7
    if model.counted:
        matrices = math.ceil(sum(times for _, times in model.matrices) / model.layers)
    targets = matrices if work.modules is None else min(matrices, len(set(work.modules)))
    lora = 0 if work.method == "full" else e * work.rank * targets
    return norms + _feed_forward_bytes(model, e) + _attention_bytes(model, work, place) + lora


def _feed_forward_bytes(model: Architecture, e: int) -> int:
    """Returns the bytes of the wider of a dense layer and one with experts; of a fused expert the frozen weights
    need no input."""
    dense = 4 * e * model.dense_intermediate if model.dense_layers else 0
    if model.experts is None:
        return dense
    computed = model.experts.count if model.experts.computes_all else model.experts.active
    routed = e * computed * (model.hidden + 3 * model.experts.intermediate)
    return max(dense, routed + 4 * e * model.experts.shared)


def _attention_bytes(model: Architecture, work: Work, place: Device) -> int:
    e = place.number_bytes
    if model.counted:
        pairs = work.length if work.padded or _attends_by_rows(work, place) else 0
        return _counted_layer_bytes(model, e) + model.heads * (4 + e * pairs)
    if work.padded:
        return 4 * e * model.queries + 4 * model.heads + e * work.length
    if not _attends_by_rows(work, place):
        return 2 * e * (model.queries + model.keys) + 4 * model.heads
    seen = model.keys * work.length // (work.length - work.shared)
    return 2 * e * (model.queries + seen) + e * model.heads * work.length


def _counted_layer_bytes(model: Architecture, e: int) -> int:
    """Returns the bytes that an average layer keeps, of what its linear layers put out and of what those read that lead
    back to the residual stream: 3 of the 4 of a gated network's sum above, so a third more."""
    wide = sum(
        times * (matrix.outputs if matrix.inputs == model.hidden else matrix.inputs)
        for matrix, times in model.matrices
    )
    return 4 * e * wide // (3 * model.layers)


def _attends_by_rows(work: Work, place: Device) -> bool:
    """Says whether attention goes row by row (trainers/local/kernels/shared_prefix_attention.py), which keeps the
    weights of pairs of tokens."""
    return place.kind == "cpu" and not work.padded and rows_at_a_time(work, place) > 1


def _logit_bytes(model: Architecture, work: Work, place: Device) -> int:
    """Returns the bytes at learnt places only: logits in the model's format, their log-softmax in float32, and its
    gradient."""
    e = place.number_bytes
    if not work.padded:
        learnt = rows_at_a_time(work, place) * min(work.answer, work.length)
        return learnt * model.vocab * ((e if e < FLOAT32 else 0) + 2 * FLOAT32)
    # On the way back, at all places that the head is applied at.
    places = _head_positions(work, place)
    around = places * model.hidden * (e + FLOAT32)  # what goes into the head, and its gradient
    tile = _tile_size(model, places)
    if place.kind == "gpu":
        return tile * e + around
    copies = PRODUCT_CPU + e if e < FLOAT32 else e
    weights = FLOAT32 * model.hidden * min(model.vocab, TILE_WORDS) if e < FLOAT32 else 0
    return max(tile * (e + BACKWARD_CPU), tile * copies + weights) + around


def _head_positions(work: Work, place: Device) -> int:
    """Returns the number of places where TRL applies the head."""
    rows = work.padded * rows_at_a_time(work, place)
    return rows * (min(work.answer, work.length) if place.kind == "gpu" else work.length - 1)


def _overhead_bytes(model: Architecture, work: Work, place: Device, activations: int) -> int:
    # A quantised matrix is unpacked while it is multiplied, all experts of a layer while that layer computes.
    unpacked = 0
    if work.method in ("qlora", "8bit"):
        unpacked = max(matrix.inputs * matrix.outputs for matrix, _ in model.matrices)
    if work.method == "qlora":
        unpacked = max(unpacked, model.expert_parameters_per_layer)
    unpacked *= place.number_bytes

    if place.kind == "gpu":
        return GPU_FIXED + round(GPU_ALLOCATOR * activations) + unpacked
    scores = 0
    if _attends_by_rows(work, place) and place.number_bytes < FLOAT32:
        scores = BACKWARD_SCORES * model.heads * tokens_at_a_time(work, place) * work.length
    return FIXED_CPU + round(KEPT_BY_ALLOCATOR * activations) + scores + unpacked


def _tile_size(model: Architecture, tokens: int) -> int:
    """Returns places times words."""
    return min(tokens, TILE_TOKENS) * min(model.vocab, TILE_WORDS)
