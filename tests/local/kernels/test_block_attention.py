"""Attention by blocks equals attention under a mask; on a CPU, flex_attention computes it without its kernels."""

from __future__ import annotations

import random
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.attention import flex_attention as flex
from torch.nn.attention.flex_attention import create_block_mask

from tests.local.training.test_packing import CPU, ROWS, loss_of_single_rows, tiny
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


@pytest.fixture(autouse=True, scope="module")
def _backward_on_a_cpu() -> Iterator[None]:
    """Its kernels for CPUs have no backward pass, so it refuses gradients; its plain tensors have one."""
    torch.compiler.reset()
    # By torch's own means: to undo a patch of its settings, pytest would delete them.
    with pytest.MonkeyPatch.context() as patch, torch._dynamo.config.patch(recompile_limit=100):
        patch.setattr(flex, "_validate_device", lambda *_: None)
        patch.setattr(block_attention, "ROWS", (60, 200, 100, 80))
        yield
    torch.compiler.reset()


def owners_of(common: int, lengths: list[int]) -> list[int]:
    return [0] * common + [row for row, length in enumerate(lengths, 1) for _ in range(length)]


def to_dense(counts: torch.Tensor, indices: torch.Tensor) -> torch.Tensor:
    dense = torch.zeros(indices.shape[-2:], dtype=torch.bool)
    for line, count in enumerate(counts[0, 0].tolist()):
        dense[line, indices[0, 0, line, :count].long()] = True
    return dense


@pytest.mark.parametrize("seed", range(6))
def test_the_blocks_are_those_of_the_mask(seed: int) -> None:
    random_rows = random.Random(seed)
    common = [0, 5, 128, 200, 300, 128][seed]
    owners = owners_of(common, [random_rows.randint(1, 300) for _ in range(random_rows.randint(2, 9))])
    mask = build_blocks(owners, CPU).mask
    expected = create_block_mask(
        mask.mask_mod, None, None, *mask.seq_lengths, device="cpu", BLOCK_SIZE=BLOCK_TOKENS
    )
    full = to_dense(mask.full_kv_num_blocks, mask.full_kv_indices)
    partial = to_dense(mask.kv_num_blocks, mask.kv_indices)
    assert not (full & partial).any()
    assert not (full & ~to_dense(expected.full_kv_num_blocks, expected.full_kv_indices)).any()
    needed = expected.to_dense()[0, 0].bool()
    in_use = -(-len(owners) // BLOCK_TOKENS)
    assert torch.equal((full | partial)[:in_use], needed[:in_use])
    assert torch.equal((full | partial)[in_use:], torch.eye(len(needed), dtype=torch.bool)[in_use:])


def test_rows_of_equal_length_need_only_their_own_blocks() -> None:
    """8 rows of 1,024 need 8 x 36 of the 64 x 64 blocks; a causal pass computes 2,080."""
    mask = build_blocks(owners_of(0, [1024] * 8), CPU).mask
    assert int(mask.kv_num_blocks.sum() + mask.full_kv_num_blocks.sum()) == 8 * 36
    assert int(mask.kv_num_blocks.sum()) == 64


@pytest.mark.parametrize("heads", [(4, 4, 16), (9, 3, 24)])
def test_results_and_gradients_equal_those_under_a_mask(heads: tuple[int, int, int]) -> None:
    assert difference_from_mask(heads, CPU, torch.float32) < 1e-5


@pytest.mark.deep
@pytest.mark.parametrize("family", PACKED_FAMILIES)
def test_a_pack_by_blocks_has_each_familys_loss_and_gradient_of_single_rows(
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
    packed, plain = measure(model, pack, able).total, loss_of_single_rows(model, ROWS)
    assert packed.item() == pytest.approx(plain.item(), rel=1e-5)
    (ours,), (theirs,) = (torch.autograd.grad(loss, weight) for loss in (packed, plain))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4 * float(theirs.abs().max()))


def test_a_short_pack_and_a_single_row_need_no_blocks() -> None:
    assert pack_rows(ROWS, CPU, torch.float32, by_blocks=True).mask is not None
    assert pack_rows(ROWS[:1], CPU, torch.float32, by_blocks=True).layout is None


@pytest.mark.parametrize(
    ("capability", "changes", "kernel", "reason"),
    [
        ((9, 0), {}, attend_by_blocks, None),
        ((7, 5), {}, attend_by_blocks, "this GPU is too old for its kernels"),
        ((9, 0), {"attention_dropout": 0.1}, attend_by_blocks, "this model has dropout in its attention"),
        ((9, 0), {}, ValueError("no kernel"), "it did not run here: ValueError no kernel"),
        ((9, 0), {}, 1.5, "its results differ here (by 0.5)"),
    ],
)
def test_attention_by_blocks_is_used_if_it_runs_and_computes_the_same(
    capability: tuple[int, int],
    changes: dict[str, Any],
    kernel: Any,
    reason: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def attend(*arguments: Any, **options: Any) -> Any:
        if isinstance(kernel, Exception):
            raise kernel
        result, _ = attend_by_blocks(*arguments, **options)
        return result * (kernel if isinstance(kernel, float) else 1.0), None

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(block_attention, "attend_by_blocks", attend)
    model = tiny("llama", **changes)
    assert choose_attention(model, CPU) == reason
    assert model.config._attn_implementation == ("sdpa" if reason else "blocks")


def test_only_cuda_compiles_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[Any] = []

    def compile_later(function: Any, **options: Any) -> SimpleNamespace:
        compiled.append((function, options))
        return SimpleNamespace()

    monkeypatch.setattr(torch, "compile", compile_later)
    block_attention._compile_attention.cache_clear()
    assert block_attention._compile_attention("cpu") is flex.flex_attention
    block_attention._compile_attention("cuda")
    assert compiled == [(flex.flex_attention, {"dynamic": False})]
    assert torch._dynamo.config.recompile_limit >= 64
    block_attention._compile_attention.cache_clear()
