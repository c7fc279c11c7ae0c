"""The cache with spare places holds what transformers' own cache would hold, and writes into no other memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, Gemma3TextConfig, LlamaConfig
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from trainers.local.serving.growing_cache import SPARE_TOKENS, GrowingLayer, new_cache
from trainers.local.serving.prefixes import cut_row

ROWS = 3
HEADS = 2
WIDTH = 4


def states(tokens: int, rows: int = ROWS) -> tuple[Tensor, Tensor]:
    return torch.randn(rows, HEADS, tokens, WIDTH), torch.randn(rows, HEADS, tokens, WIDTH)


def add_to_both(ours: DynamicLayer, theirs: DynamicLayer, tokens: int, rows: int = ROWS) -> None:
    new = states(tokens, rows)
    for mine, expected in zip(ours.update(*new), theirs.update(*new), strict=True):
        torch.testing.assert_close(mine, expected, rtol=0, atol=0)


def test_it_holds_what_the_usual_cache_holds() -> None:
    ours = GrowingLayer()
    theirs = DynamicLayer()
    add_to_both(ours, theirs, 100)
    for _ in range(SPARE_TOKENS + 2):
        add_to_both(ours, theirs, 1)
    for layer in (ours, theirs):
        layer.crop(-3)
    add_to_both(ours, theirs, 5)
    for layer in (ours, theirs):
        layer.batch_select_indices(torch.tensor([2, 0]))
    add_to_both(ours, theirs, 1, rows=2)
    for layer in (ours, theirs):
        layer.batch_repeat_interleave(2)
    add_to_both(ours, theirs, 2, rows=4)
    add_to_both(ours, theirs, SPARE_TOKENS + 1, rows=4)
    add_to_both(ours, theirs, 1, rows=4)
    assert ours.get_seq_length() == theirs.get_seq_length()


def test_a_token_is_written_behind_the_others_without_a_copy() -> None:
    layer = GrowingLayer()
    layer.update(*states(100))
    keys, _ = layer.update(*states(1))
    for _ in range(SPARE_TOKENS):
        later, _ = layer.update(*states(1))
        assert later.data_ptr() == keys.data_ptr()
    later, _ = layer.update(*states(1))
    assert later.data_ptr() != keys.data_ptr()


def test_memory_of_others_is_not_written_into() -> None:
    present = states(100)
    before = copy.deepcopy(present)
    layer = GrowingLayer()
    layer.lazy_initialization(*present)
    layer.keys, layer.values = (tensor[:, :, :60] for tensor in present)
    layer.update(*states(1))
    for tensor, expected in zip(present, before, strict=True):
        torch.testing.assert_close(tensor, expected, rtol=0, atol=0)


def test_a_copy_writes_for_itself() -> None:
    layer = GrowingLayer()
    layer.update(*states(100))
    layer.update(*states(1))
    twin = copy.deepcopy(layer)
    twin.update(*states(1))
    mine, _ = layer.update(*states(1))
    others, _ = twin.update(*states(1))
    assert not torch.equal(mine[:, :, 101], others[:, :, 101])


def test_a_row_that_is_cut_out_holds_no_more_memory_than_its_tokens() -> None:
    cache = new_cache(LlamaConfig(num_hidden_layers=1))
    cache.update(*states(100), 0)
    cache.update(*states(1), 0)
    (layer,) = cut_row(cache, 1, torch.arange(50)).layers
    assert layer.keys.untyped_storage().nbytes() == HEADS * 50 * WIDTH * 4
    assert layer.key_places is None


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        (LlamaConfig(num_hidden_layers=2), [GrowingLayer, GrowingLayer]),
        (
            Gemma3TextConfig(num_hidden_layers=2, layer_types=["sliding_attention", "full_attention"]),
            [DynamicSlidingWindowLayer, GrowingLayer],
        ),
    ],
)
def test_only_layers_that_keep_every_token_get_places(config: LlamaConfig, kinds: list[type]) -> None:
    cache = new_cache(config)
    assert isinstance(cache, DynamicCache)
    assert [type(layer) for layer in cache.layers] == kinds
