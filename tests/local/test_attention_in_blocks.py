"""Attention of a prompt in blocks of queries: the same as all at once, for each place in padded rows behind a cache."""

from __future__ import annotations

import pytest
import torch

from trainers.local.kernels.shared_prefix_attention import QUERIES, attend, attend_in_blocks


@pytest.mark.parametrize(
    ("length", "before"), [(1, 40), (QUERIES, 0), (QUERIES + 1, 7), (3 * QUERIES + 5, 76)]
)
def test_blocks_of_queries_attend_as_all_queries_at_once(length: int, before: int) -> None:
    torch.manual_seed(1)
    rows, width = 2, before + length
    query = torch.randn(rows, length, 9, 16)
    key, value = (torch.randn(rows, width, 3, 16) for _ in range(2))
    lowest = torch.finfo(torch.float32).min
    mask = torch.full((rows, length, width), lowest).triu(before + 1)
    mask[1, :, : min(before, 5)] = lowest  # the second row is padded in front

    blocks = attend_in_blocks(query, key, value, mask, 0.25)

    torch.testing.assert_close(blocks, attend(query, key, value, mask, 0.25), rtol=1e-5, atol=1e-6)
