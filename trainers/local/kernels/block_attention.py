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
    last_row, tokens = owners[-1], max(BLOCK_TOKENS, 1 << (len(owners) - 1).bit_length())
    owner = torch.full((tokens,), last_row + 1)
    owner[: len(owners)] = torch.tensor(owners)
    owner = owner.to(device)
    first, last = owner.view(-1, BLOCK_TOKENS)[:, 0], owner.view(-1, BLOCK_TOKENS)[:, -1]
    place = torch.arange(len(first), device=device)
    below = (place[:, None] > place) & (first <= last_row)[:, None]  # blocks of padding see only themselves
    sees = below & ((last >= first[:, None]) | (first == 0))
    is_one = first == last
    full = below & ((last == 0) | (is_one[:, None] & is_one & (first[:, None] == first)))
    part = (sees & ~full) | (place[:, None] == place)

    def may_see(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & ((owner[query] == owner[key]) | (owner[key] == 0))

    def list_blocks(blocks: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the number of blocks set in each line, and each line's block numbers with the set ones first."""
        order = torch.argsort(blocks.int(), dim=-1, descending=True, stable=True)
        return blocks.sum(-1, dtype=torch.int32)[None, None], order.to(torch.int32)[None, None]

    lists = (*list_blocks(part), *list_blocks(full))
    mask = BlockMask.from_kv_blocks(*lists, BLOCK_TOKENS, may_see, (tokens, tokens))
    return Blocks(mask, tokens)


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
        result, _ = sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **more)
        return result, None
    length = query.shape[2]
    queries, keys, values = (
        functional.pad(each.to(value.dtype), (0, 0, 0, row_layout.tokens - length))
        for each in (query, key, value)
    )
    attend = _compile_attention(query.device.type)
    result = attend(queries, keys, values, block_mask=row_layout.mask, scale=scaling, enable_gqa=True)
    return result[:, :, :length].transpose(1, 2).contiguous(), None


@cache
def _compile_attention(device: str) -> Any:
    return torch.compile(flex_attention, dynamic=False) if device == "cuda" else flex_attention


def choose_attention(model: Any, device: torch.device) -> str | None:
    """Switches `model` to this attention if it gives the same results as a mask on this device. Otherwise returns the
    reason why not."""
    if torch.cuda.get_device_capability(device)[0] < MIN_CAPABILITY:
        return "this GPU is too old for its kernels"
    text = model.config.get_text_config()
    if getattr(text, "attention_dropout", 0):
        return "this model has dropout in its attention"
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    groups = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    try:
        apart = difference_from_mask((text.num_attention_heads, groups, size), device, model.dtype)
    except Exception as raised:  # Triton's compiler raises many kinds of errors
        sentence = str(raised).strip().partition("\n")[0][:200]
        return f"it did not run here: {type(raised).__name__} {sentence}".strip()
    if not apart <= TOLERANCE.get(model.dtype, TOLERANCE_NARROW):  # "not <=", so that nan fails too
        return f"its results differ here (by {apart:.1g})"
    model.set_attn_implementation(BY_BLOCKS)
    return None


def difference_from_mask(heads: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> float:
    """Returns the largest relative difference of results and gradients between this attention and a mask, for a pack of
    random rows. `heads` are the number of heads, the number of groups, and the size of a head."""
    owners = [owner for owner, length in enumerate(ROWS) for _ in range(length)]
    blocks, total = build_blocks(owners, device), len(owners)
    owner = torch.tensor(owners, device=device)
    may_see = ((owner[:, None] == owner) | (owner == 0)).tril()
    generator = torch.Generator(device).manual_seed(0)
    count, groups, size = heads
    query, key, value = states = [
        torch.randn(1, number, total, size, device=device, generator=generator).to(dtype).requires_grad_()
        for number in (count, groups, groups)
    ]
    slopes = torch.linspace(-1, 1, total * count * size, device=device).view(1, total, count, size)
    with torch.enable_grad():
        by_blocks, _ = attend_by_blocks(torch.nn.Module(), query, key, value, None, row_layout=blocks)
        by_mask = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=may_see, enable_gqa=True
        ).transpose(1, 2)
        results = [by_blocks, *torch.autograd.grad((by_blocks.float() * slopes).sum(), states)]
        expected = [by_mask, *torch.autograd.grad((by_mask.float() * slopes).sum(), states)]

    def distance(result: Tensor, other: Tensor) -> float:
        result, other = result.detach().float(), other.detach().float()
        return float((result - other).norm() / other.norm().clamp_min(1e-12))

    return max(distance(result, other) for result, other in zip(results, expected, strict=True))


AttentionInterface.register(BY_BLOCKS, attend_by_blocks)
AttentionMaskInterface.register(BY_BLOCKS, sdpa_mask)
