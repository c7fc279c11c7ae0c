"""Attention in blocks of queries equals attention all at once, also for padded rows after a cached prefix."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from trainers.local.kernels.shared_prefix_attention import (
    BLOCK_QUERIES,
    MAX_STEP_QUERIES,
    attend,
    attend_by_rows,
    attend_in_blocks,
)


@pytest.mark.parametrize(
    ("length", "before"), [(1, 40), (BLOCK_QUERIES, 0), (BLOCK_QUERIES + 1, 7), (3 * BLOCK_QUERIES + 5, 76)]
)
def test_blocks_of_queries_attend_like_all_queries_at_once(length: int, before: int) -> None:
    torch.manual_seed(1)
    rows, width = 2, before + length
    query = torch.randn(rows, length, 9, 16)
    key, value = (torch.randn(rows, width, 3, 16) for _ in range(2))
    lowest = torch.finfo(torch.float32).min
    mask = torch.full((rows, length, width), lowest).triu(before + 1)
    mask[1, :, : min(before, 5)] = lowest  # the second row is padded in front

    blocks = attend_in_blocks(query, key, value, mask, 0.25)

    torch.testing.assert_close(blocks, attend(query, key, value, mask, 0.25), rtol=1e-5, atol=1e-6)


def test_a_new_token_without_a_mask_attends_to_all_before_it() -> None:
    torch.manual_seed(1)
    query, key, value = (torch.randn(2, heads, tokens, 16) for heads, tokens in ((9, 1), (3, 40), (3, 40)))

    with torch.inference_mode():
        result, _ = attend_by_rows(torch.nn.Module(), query, key, value, None, scaling=0.25)

    expected = functional.scaled_dot_product_attention(query, key, value, scale=0.25, enable_gqa=True)
    torch.testing.assert_close(result, expected.transpose(1, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, MAX_STEP_QUERIES])
def test_a_step_of_generation_attends_like_all_queries_at_once(count: int) -> None:
    torch.manual_seed(1)
    rows = 3
    places = 80
    tokens = 60
    query = torch.randn(rows, 9, count, 16)
    key, value = (torch.randn(rows, 3, places, 16)[:, :, :tokens] for _ in range(2))
    lowest = torch.finfo(torch.float32).min
    mask = torch.full((rows, 1, count, tokens), lowest).triu(tokens - count + 1)
    mask[1, :, :, :5] = lowest  # the second row is padded in front

    with torch.inference_mode():
        result, _ = attend_by_rows(torch.nn.Module(), query, key, value, mask, scaling=0.25)

    expected = attend(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), mask[:, 0], 0.25)
    torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-6)
