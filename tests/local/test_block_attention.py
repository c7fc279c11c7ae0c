"""Attention by blocks is what a mask over the pack is; on a CPU, by flex_attention's plain sums, not its
kernels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import create_block_mask

from tests.local.test_packing import CPU, ROWS, alone, tiny
from trainers.local.kernels import block_attention
from trainers.local.kernels.block_attention import (
    BLOCK_TOKENS,
    attend_by_blocks,
    build_blocks,
    choose_attention,
    difference_from_mask,
)
from trainers.local.training.model_structure import linear_layers
from trainers.local.training.packing import PACKED_FAMILIES, find_abilities, measure, pack_rows

pytestmark = [
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile:UserWarning"),
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning"),  # Dynamo looks at all
]


@pytest.fixture(autouse=True)
def _backward_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its kernels for CPUs have no way back, which it refuses; its sums in plain tensors have one."""
    monkeypatch.setattr(flex, "_validate_device", lambda *_: None)
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def owners_of(common: int, lengths: list[int]) -> list[int]:
    return [0] * common + [row for row, length in enumerate(lengths, 1) for _ in range(length)]


def listed(counts: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    found = torch.zeros(places.shape[-2:], dtype=torch.bool)
    for line, count in enumerate(counts[0, 0].tolist()):
        found[line, places[0, 0, line, :count].long()] = True
    return found


@pytest.mark.parametrize("seed", range(12))
def test_the_blocks_are_those_that_the_mask_has(seed: int) -> None:
    chosen = random.Random(seed)
    common = chosen.choice([0, 5, 128, 200, 300])
    owners = owners_of(common, [chosen.randint(1, 300) for _ in range(chosen.randint(2, 9))])
    mask = build_blocks(owners, CPU).mask
    wanted = create_block_mask(
        mask.mask_mod, None, None, *mask.seq_lengths, device="cpu", BLOCK_SIZE=BLOCK_TOKENS
    )
    whole = listed(mask.full_kv_num_blocks, mask.full_kv_indices)
    part = listed(mask.kv_num_blocks, mask.kv_indices)
    assert not (whole & part).any()
    assert not (whole & ~listed(wanted.full_kv_num_blocks, wanted.full_kv_indices)).any()
    needed = wanted.to_dense()[0, 0].bool()
    in_use = -(-len(owners) // BLOCK_TOKENS)
    assert torch.equal((whole | part)[:in_use], needed[:in_use])
    assert torch.equal((whole | part)[in_use:], torch.eye(len(needed), dtype=torch.bool)[in_use:])


def test_rows_of_one_length_cost_their_own_blocks_alone() -> None:
    """8 rows of 1,024: of 64 x 64 blocks 8 x 36 instead of the 2,080 that a causal pass has."""
    mask = build_blocks(owners_of(0, [1024] * 8), CPU).mask
    assert int(mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum()) == 8 * 36
    assert int(mask.kv_num_blocks.sum()) == 64


@pytest.mark.parametrize("heads", [(4, 4, 16), (9, 3, 16), (8, 2, 24)])
def test_results_and_gradients_are_those_under_a_mask(heads: tuple[int, int, int]) -> None:
    assert difference_from_mask(heads, CPU, torch.float32) < 1e-5


@pytest.mark.parametrize("family", PACKED_FAMILIES)
def test_a_pack_by_blocks_is_to_each_family_what_rows_are_alone(
    family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.local.training import packing

    monkeypatch.setattr(packing, "MAX_MASKED_TOKENS", 0)
    model = tiny(family, "blocks")
    projection = next(layer for layer in linear_layers(model) if layer.endswith(("q_proj", "qkv_proj")))
    weight = model.get_submodule(projection).weight
    able = find_abilities(model, longest=13)
    assert (able.packs, able.by_blocks, able.by_rows) == (True, True, False)
    pack = pack_rows(ROWS, CPU, torch.float32, by_blocks=able.by_blocks)
    assert (pack.layout is not None, pack.mask) == (True, None)
    packed, plain = measure(model, pack, able).total, alone(model, ROWS)
    assert packed.item() == pytest.approx(plain.item(), rel=1e-5)
    (ours,), (theirs,) = (torch.autograd.grad(one, weight) for one in (packed, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def test_a_short_pack_and_a_single_row_need_no_blocks() -> None:
    assert pack_rows(ROWS, CPU, torch.float32, by_blocks=True).mask is not None
    assert pack_rows(ROWS[:1], CPU, torch.float32, by_blocks=True).layout is None


@pytest.mark.parametrize(
    ("capability", "changes", "kernel", "why"),
    [
        ((9, 0), {}, attend_by_blocks, None),
        ((7, 5), {}, attend_by_blocks, "this GPU is too old for its kernels"),
        ((9, 0), {"attention_dropout": 0.1}, attend_by_blocks, "this model has dropout in its attention"),
        ((9, 0), {}, ValueError("no kernel"), "it did not run here: ValueError no kernel"),
        ((9, 0), {}, 1.5, "its results differ here (by 0.5)"),
    ],
)
def test_it_is_used_where_it_runs_and_computes_the_same(
    capability: tuple[int, int],
    changes: dict[str, Any],
    kernel: Any,
    why: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def instead(*given: Any, **more: Any) -> Any:
        if isinstance(kernel, Exception):
            raise kernel
        found, _ = attend_by_blocks(*given, **more)
        return found * (kernel if isinstance(kernel, float) else 1.0), None

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(block_attention, "attend_by_blocks", instead)
    model = tiny("llama", **changes)
    assert choose_attention(model, CPU) == why
    assert model.config._attn_implementation == ("sdpa" if why else "blocks")


def test_the_two_devices_have_a_kernel_each(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Any] = []
    monkeypatch.setattr(torch, "compile", lambda made, **more: told.append((made, more)) or SimpleNamespace())
    block_attention._compile_attention.cache_clear()
    assert block_attention._compile_attention("cpu") is block_attention.flex_attention
    block_attention._compile_attention("cuda")
    assert told == [(block_attention.flex_attention, {"dynamic": False})]
    block_attention._compile_attention.cache_clear()
