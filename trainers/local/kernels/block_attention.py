"""Attention in packs on a GPU: torch's flex_attention computes only blocks of tokens that may see each other.

A mask over all T tokens of a pack has T² numbers and rules out torch's flash kernels: with 8 rows of 1,024 tokens,
seven eighths of the computed scores are discarded. This attention is registered with transformers as "blocks", and
compared with a mask when a base is loaded (Dong et al. 2024, Flex Attention, arXiv 2412.05496). On a CPU,
shared_prefix_attention.py is used instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, Literal

import torch
from torch import Tensor
from torch import _dynamo as dynamo
from torch.nn import functional
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

BY_BLOCKS: Final[Literal["blocks"]] = "blocks"
BLOCK_TOKENS = 128
# A pack of up to this many tokens uses a mask: attention is then a twentieth of the work, and nothing is compiled.
MAX_MASKED_TOKENS = 1024
MIN_CAPABILITY = 8  # NVIDIA's compute capability: Triton's kernels need Ampere or later
RECOMPILES = 64
ROWS = (60, 700, 420, 300)  # tokens of a common beginning and of three rows, for the comparison with a mask
TOLERANCE = {torch.float32: 1e-3}
TOLERANCE_NARROW = 0.02  # for bfloat16 and float16


@dataclass(frozen=True)
class Blocks:
    """`tokens` is a pack's length, rounded up to a power of two because a kernel is compiled for each length."""

    mask: BlockMask
    tokens: int


def build_blocks(owners: Sequence[int], device: torch.device) -> Blocks:
    """`owners` is the row of each token, in ascending order; 0 is the beginning that all rows share."""
    power_of_two = 1 << (len(owners) - 1).bit_length()
    tokens = max(BLOCK_TOKENS, power_of_two)
    padding = owners[-1] + 1  # a row of its own, after all others
    owner = torch.full((tokens,), padding)
    owner[: len(owners)] = torch.tensor(owners)
    owner = owner.to(device)

    def may_see(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        is_same_row = owner[query] == owner[key]
        is_beginning = owner[key] == 0
        return (query >= key) & (is_same_row | is_beginning)

    part, full = _choose_blocks(owner.view(-1, BLOCK_TOKENS), padding)
    part_counts, part_blocks = _list_blocks(part)
    full_counts, full_blocks = _list_blocks(full)
    mask = BlockMask.from_kv_blocks(
        part_counts,
        part_blocks,
        full_counts,
        full_blocks,
        BLOCK_TOKENS,
        mask_mod=may_see,
        seq_lengths=(tokens, tokens),
    )
    return Blocks(mask, tokens)


def _choose_blocks(owner: Tensor, padding: int) -> tuple[Tensor, Tensor]:
    """Returns which blocks of keys (columns) each block of queries (lines) sees in part, and which in full, both
    (blocks, blocks). `owner` is (blocks, BLOCK_TOKENS). Blocks on the diagonal are always computed in part, since no
    token sees those after itself."""
    first = owner[:, 0]
    last = owner[:, -1]
    first_of_queries = first[:, None]
    block = torch.arange(len(first), device=owner.device)
    block_of_queries = block[:, None]
    is_diagonal = block_of_queries == block
    is_earlier = block_of_queries > block
    # Blocks of padding see only themselves.
    below = is_earlier & (first_of_queries < padding)

    # Owners ascend, so an earlier block has tokens for the queries if it ends in their first row or holds tokens of the
    # beginning.
    reaches_queries = last >= first_of_queries
    has_beginning = first == 0
    sees = below & (reaches_queries | has_beginning)
    # It is visible without looking at tokens if it lies in the beginning, or if both blocks lie in the same row.
    is_beginning = last == 0
    is_one_row = first == last
    is_same_row = is_one_row[:, None] & is_one_row & (first_of_queries == first)
    full = below & (is_beginning | is_same_row)
    part = sees & ~full
    return part | is_diagonal, full


def _list_blocks(blocks: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the number of blocks set in each line, (1, 1, blocks), and each line's block numbers with the set ones
    first, (1, 1, blocks, blocks). flex_attention wants both with a batch and a head."""
    counts = blocks.sum(-1, dtype=torch.int32)
    order = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
    numbers = order.to(torch.int32)
    return counts[None, None], numbers[None, None]


def attend_by_blocks(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row_layout: Blocks | None = None,
    scaling: float | None = None,
    **more: Any,
) -> tuple[Tensor, None]:
    """`query` is (1, heads, T, D); `key` and `value` are (1, groups, T, D). Returns (1, T, heads, D), as transformers
    expects."""
    if row_layout is None:
        result, _ = sdpa_attention_forward(
            module,
            query,
            key,
            value,
            attention_mask,
            scaling=scaling,
            **more,
        )
        return result, None
    length = query.shape[2]
    missing = (0, 0, 0, row_layout.tokens - length)  # none along D, the rest at the end of T
    # Queries and keys are wider than values if the rotary embedding computes in float32.
    queries = functional.pad(query.to(value.dtype), missing)
    keys = functional.pad(key.to(value.dtype), missing)
    values = functional.pad(value, missing)
    attend = _compile_attention(query.device.type)
    padded = attend(queries, keys, values, block_mask=row_layout.mask, scale=scaling, enable_gqa=True)
    result = padded[:, :, :length]
    return result.transpose(1, 2).contiguous(), None


@cache
def _compile_attention(device: str) -> Any:
    if device == "cuda":
        # One for each length, in training and in validation. Beyond the limit, which is 8, torch would compute all
        # pairs of tokens without a word.
        dynamo.config.recompile_limit = max(dynamo.config.recompile_limit, RECOMPILES)
        return torch.compile(flex_attention, dynamic=False)
    return flex_attention


def choose_attention(model: Any, device: torch.device) -> str | None:
    """Switches `model` to this attention if it gives the same results as a mask on this device. Otherwise returns the
    reason why not."""
    capability, _ = torch.cuda.get_device_capability(device)
    if capability < MIN_CAPABILITY:
        return "this GPU is too old for its kernels"
    text = model.config.get_text_config()
    if getattr(text, "attention_dropout", 0):
        return "this model has dropout in its attention"
    heads = text.num_attention_heads
    # Older configurations name neither: then each head has its own keys, and the heads divide the hidden size.
    groups = getattr(text, "num_key_value_heads", None) or heads
    size = getattr(text, "head_dim", None) or text.hidden_size // heads
    try:
        difference = difference_from_mask((heads, groups, size), device, model.dtype)
    except Exception as raised:  # Triton's compiler raises many kinds of errors
        sentence, _, _ = str(raised).strip().partition("\n")
        return f"it did not run here: {type(raised).__name__} {sentence[:200]}".strip()
    tolerance = TOLERANCE.get(model.dtype, TOLERANCE_NARROW)
    if not difference <= tolerance:  # "not <=", so that nan fails too
        return f"its results differ here (by {difference:.1g})"
    model.set_attn_implementation(BY_BLOCKS)
    return None


def difference_from_mask(
    heads: tuple[int, int, int],
    device: torch.device,
    dtype: torch.dtype,
) -> float:
    """Returns the largest relative difference of results and gradients between this attention and a mask, for a pack of
    random rows. `heads` are the number of heads, the number of groups, and the size of a head."""
    owners: list[int] = []
    for owner, length in enumerate(ROWS):
        owners += [owner] * length
    total = len(owners)
    blocks = build_blocks(owners, device)
    row = torch.tensor(owners, device=device)
    is_visible = (row[:, None] == row) | (row == 0)

    count, groups, size = heads
    generator = torch.Generator(device).manual_seed(0)

    def random_states(number: int) -> Tensor:
        states = torch.randn(1, number, total, size, device=device, generator=generator)
        return states.to(dtype).requires_grad_()

    query = random_states(count)
    key = random_states(groups)
    value = random_states(groups)
    # A sum over the results would have the same gradient everywhere and hide tokens that were swapped.
    slopes = torch.linspace(-1, 1, total * count * size, device=device)
    slopes = slopes.view(1, total, count, size)
    with torch.enable_grad():
        by_blocks, _ = attend_by_blocks(torch.nn.Module(), query, key, value, None, row_layout=blocks)
        by_mask = functional.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=is_visible.tril(),
            enable_gqa=True,
        )
        by_mask = by_mask.transpose(1, 2)
        sum_by_blocks = (by_blocks.float() * slopes).sum()
        sum_by_mask = (by_mask.float() * slopes).sum()
        gradients = torch.autograd.grad(sum_by_blocks, (query, key, value))
        expected = torch.autograd.grad(sum_by_mask, (query, key, value))
    pairs = zip([by_blocks, *gradients], [by_mask, *expected], strict=True)
    return max(_relative_difference(result, other) for result, other in pairs)


def _relative_difference(result: Tensor, expected: Tensor) -> float:
    expected = expected.detach().float()
    difference = result.detach().float() - expected
    length = expected.norm().clamp_min(1e-12)
    return float(difference.norm() / length)


AttentionInterface.register(BY_BLOCKS, attend_by_blocks)
AttentionMaskInterface.register(BY_BLOCKS, sdpa_mask)
