"""Rows packed into one sequence, or padded side by side, have the loss and gradients that they have one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import AutoConfig, AutoModelForCausalLM, masking_utils

from tests.local import families
from trainers.local.kernels.chunked_loss import find_chunked_head
from trainers.local.kernels.fused_layers import fuse_norms, trim_last_mlp
from trainers.local.training.base_model import add_lora
from trainers.local.training.data import Row
from trainers.local.training.model_structure import choose_class, linear_layers
from trainers.local.training.packing import (
    PACKED_FAMILIES,
    Abilities,
    fill_packs,
    fill_padded,
    find_abilities,
    measure,
    pack_rows,
    pad_rows,
    padded_width,
    padding_refusal,
    shared_prefix_length,
    width,
)
from trainers.methods import Parameters

CPU = torch.device("cpu")


def row(ids: list[int], learnt: set[int]) -> Row:
    return Row(1, ids, [place in learnt for place in range(len(ids))])


ROWS = [
    row([5, 6, 7, 8, 20, 21, 22, 2, 9], {6, 7}),
    row([5, 6, 7, 8, 30, 2], {4, 5}),
    row([5, 6, 7, 8, 40, 41, 42, 43, 44, 2, 50, 51, 2], {8, 9, 12}),
    row([5, 6, 7, 8, 40, 60, 2], {6}),
]


NO_MLP = ("llama4_text",)  # its feed-forward part has another name and returns more than one value
CONFIGS = {"gemma3": families.gemma3, "mistral3": families.mistral3}
CHANGES: dict[str, dict[str, Any]] = {
    "mistral": {"sliding_window": None},
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "smollm3": {"no_rope_layer_interval": 2},
    "llama4_text": {"intermediate_size_mlp": 64, "num_local_experts": 2, "no_rope_layer_interval": 2},
}


LONG_ROW = row([*range(10, 80), 2], {69, 70})  # more than a chunk of linear attention


def tiny(family: str, attention: str = "sdpa", **changes: Any) -> Any:
    torch.manual_seed(3)
    config = (
        CONFIGS[family]()
        if family in CONFIGS
        else families.config(family, **{**CHANGES.get(family, {}), **changes})
    )
    choice = choose_class("toy", config)
    assert choice.family == family
    model = choice.model_class._from_config(choice.config, attn_implementation=attention, dtype=torch.float32)
    return model.eval()


def loss_of_single_rows(model: Any, rows: list[Row]) -> torch.Tensor:
    """Computed plainly: one row at a time, with logits at all positions."""
    total = torch.zeros(())
    for row in rows:
        logits = model(input_ids=torch.tensor([row.ids])).logits[0]
        targets = [index for index in range(len(row.ids)) if row.supervised[index]]
        predicted = logits[[index - 1 for index in targets]]
        total = total + functional.cross_entropy(
            predicted, torch.tensor([row.ids[index] for index in targets]), reduction="sum"
        )
    return total


@pytest.mark.deep
@pytest.mark.parametrize("attention", ["sdpa", "eager", "rows"])
@pytest.mark.parametrize("family", PACKED_FAMILIES)
def test_the_packed_loss_and_its_gradient_are_those_of_single_rows(family: str, attention: str) -> None:
    model = tiny(family, attention)
    projection = next(layer for layer in linear_layers(model) if layer.endswith(("q_proj", "qkv_proj")))
    weight = model.get_submodule(projection).weight
    able = find_abilities(model, longest=13)
    assert (able.packs, able.selects) == (True, True)
    rows = [*ROWS, *ROWS]
    pack = pack_rows(rows, CPU, torch.float32, by_rows=able.by_rows)
    assert (pack.layout is not None) is (attention == "rows")
    plain = loss_of_single_rows(model, rows)
    last_mlp = trim_last_mlp(model)
    assert (last_mlp is None) is (family in NO_MLP)
    packed = measure(model, pack, replace(able, kept_positions=last_mlp))
    assert packed.total.item() == pytest.approx(plain.item(), rel=1e-5)
    assert packed.tokens == 16
    (from_packed,) = torch.autograd.grad(packed.total, weight)
    (from_plain,) = torch.autograd.grad(plain, weight)
    torch.testing.assert_close(from_packed, from_plain, rtol=0, atol=1e-4 * float(from_plain.abs().max()))


def test_a_trimmed_model_is_unchanged_until_positions_are_kept() -> None:
    model, ids = tiny("llama"), torch.tensor([ROWS[0].ids])
    before = model(input_ids=ids).logits
    last_mlp = trim_last_mlp(model)
    assert last_mlp is not None and trim_last_mlp(model) is last_mlp
    assert torch.equal(model(input_ids=ids).logits, before)
    last_mlp.keep(torch.tensor([5, 6]), tokens=9)
    trimmed = model(input_ids=ids).logits
    torch.testing.assert_close(trimmed[:, 5:7], before[:, 5:7])
    assert not torch.allclose(trimmed[:, :5], before[:, :5])


@pytest.mark.parametrize(
    "able", [Abilities(packs=False, selects=True), Abilities(packs=False, selects=False)]
)
def test_a_model_that_cannot_pack_or_select_has_the_same_loss(able: Abilities) -> None:
    model = tiny("llama")
    parts = [measure(model, pack_rows([each], CPU, torch.float32), able).total.item() for each in ROWS]
    assert sum(parts) == pytest.approx(loss_of_single_rows(model, ROWS).item(), rel=1e-5)


@pytest.mark.parametrize(
    ("family", "changes"),
    [
        ("mistral", {"sliding_window": 6}),
        ("gemma3_text", {"sliding_window": 6}),
        ("llama4_text", {"attention_chunk_size": 6}),
        ("phi3", {"rope_parameters": families.LONG_ROPE, "original_max_position_embeddings": 6}),
    ],
)
def test_a_row_longer_than_the_models_window_is_not_packed(family: str, changes: dict[str, Any]) -> None:
    model = tiny(family, **changes)
    assert find_abilities(model, longest=6).packs
    assert not find_abilities(model, longest=7).packs
    packed = measure(model, pack_rows(ROWS, CPU, torch.float32), Abilities(packs=True, selects=True))
    assert packed.total.item() != pytest.approx(loss_of_single_rows(model, ROWS).item(), rel=1e-4)


def test_a_pack_for_llama_4_ends_before_its_attention_is_scaled() -> None:
    model = tiny("llama4_text", floor_scale=20, attn_scale=5.0)
    able = find_abilities(model, longest=13)
    packs = fill_packs(ROWS, able.widest)
    assert [len(pack) for pack in packs] == [2, 2] and all(width(pack) < 20 for pack in packs)
    parts = [measure(model, pack_rows(pack, CPU, torch.float32), able).total.item() for pack in packs]
    assert sum(parts) == pytest.approx(loss_of_single_rows(model, ROWS).item(), rel=1e-5)
    in_one_pack = measure(model, pack_rows([*ROWS, *ROWS], CPU, torch.float32), able).total.item()
    assert in_one_pack != pytest.approx(2 * sum(parts), rel=1e-4)


def test_an_untested_family_is_not_packed() -> None:
    config = AutoConfig.for_model("gpt2", vocab_size=96, n_embd=32, n_layer=1, n_head=2)
    assert not find_abilities(AutoModelForCausalLM.from_config(config), longest=8).packs


def test_the_shared_prefix_is_packed_once_and_ends_before_learnt_tokens() -> None:
    assert shared_prefix_length(ROWS) == 3  # token 3 predicts the first token that the second row learns
    pack = pack_rows(ROWS, CPU, torch.float32)
    assert pack.input_ids.shape[1] == 3 + sum(each.last_target - 3 for each in ROWS)


def test_the_head_computes_only_positions_before_learnt_tokens(tiny_model_dir: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    seen: list[int] = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].shape[1]))
    measure(model, pack_rows(ROWS, CPU, torch.float32), Abilities(packs=True, selects=True))
    assert seen == [8]


def test_packs_keep_order_and_limit_and_a_long_row_is_alone() -> None:
    packs = fill_packs([ROWS[1], ROWS[3], ROWS[2], ROWS[1]], limit=9)
    assert [[len(each.ids) for each in pack] for pack in packs] == [[6], [7], [13], [6]]
    assert len(fill_packs(ROWS, limit=1000)) == 1


def test_shared_instructions_count_once_and_other_instructions_start_a_new_pack() -> None:
    def row_with_instructions(instructions: int, question: int) -> Row:
        return row([*[instructions] * 300, *[question] * 50, 9], {350})

    rows = [row_with_instructions(1, question) for question in (4, 5, 6, 7, 8)]
    packs = fill_packs([*rows, *[row_with_instructions(2, question) for question in (4, 5)]], limit=520)
    assert [len(pack) for pack in packs] == [4, 1, 2]
    assert [width(pack) for pack in packs] == [300 + 4 * 51, 351, 300 + 2 * 51]
    assert pack_rows(packs[0], CPU, torch.float32).input_ids.shape[1] == 300 + 4 * 50


def test_a_pack_with_one_much_longer_row_keeps_its_mask() -> None:
    long = row([5, 6, 7, 8, *range(9, 60), 2], {55})
    pack = pack_rows([*ROWS, long], CPU, torch.float32, by_rows=True)
    assert pack.layout is None and pack.mask is not None
    model = tiny("llama", "rows")
    able = find_abilities(model, longest=60)
    assert able.by_rows
    assert measure(model, pack, able).total.item() == pytest.approx(
        loss_of_single_rows(model, [*ROWS, long]).item(), rel=1e-5
    )


def test_a_family_that_ignores_the_layout_has_no_loss() -> None:
    model = tiny("llama", "sdpa")
    pack = pack_rows([*ROWS, *ROWS], CPU, torch.float32, by_rows=True)
    assert measure(model, pack, find_abilities(model, longest=13)).total.isnan()


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern keys")  # peft's own, for fused experts
@pytest.mark.parametrize("family", families.PADDED)
def test_rows_side_by_side_have_the_loss_and_gradient_of_single_rows(family: str) -> None:
    base = padded_base(families.PADDED[family]())
    able = replace(find_abilities(base, longest=71), head=find_chunked_head(base))
    assert not able.packs and able.head is not None
    assert padding_refusal(base, able, longest=300) is None
    model = add_lora(base, Parameters(lora_r=4))
    for name, weight in model.named_parameters():
        if "lora_B" in name:  # zeros at first, so that A would have no gradient
            torch.nn.init.normal_(weight, std=0.1)
    learnt = [weight for weight in model.parameters() if weight.requires_grad]
    rows = [*ROWS, LONG_ROW]
    alone = torch.stack([measure(model, pack_rows([each], CPU, torch.float32), able).total for each in rows])
    together = measure(model, pad_rows(rows, CPU), replace(able, pads=True))
    assert together.total.item() == pytest.approx(alone.sum().item(), rel=1e-5)
    assert together.tokens == 10
    pairs = zip(
        torch.autograd.grad(together.total, learnt), torch.autograd.grad(alone.sum(), learnt), strict=True
    )
    for padded, plain in pairs:
        assert plain.any()
        torch.testing.assert_close(padded, plain, rtol=0, atol=1e-4 * float(plain.abs().max()))


def padded_base(config: Any) -> Any:
    torch.manual_seed(3)
    choice = choose_class("toy", config)
    base = choice.model_class._from_config(choice.config, dtype=torch.float32)
    base.requires_grad_(False)
    fuse_norms(base)
    return base.eval()


@pytest.mark.parametrize("selects", [True, False])
def test_a_padded_model_whose_head_stands_not_alone_has_the_same_loss(selects: bool) -> None:
    model = tiny("llama")
    able = Abilities(packs=False, selects=selects, pads=True)
    padded = measure(model, pad_rows(ROWS, CPU), able).total.item()
    assert padded == pytest.approx(loss_of_single_rows(model, ROWS).item(), rel=1e-5)


def test_many_learnt_tokens_of_padded_rows_are_computed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama").requires_grad_(False)
    able = Abilities(packs=False, selects=True, pads=True, head=find_chunked_head(model))
    at_once = measure(model, pad_rows(ROWS, CPU), able)
    for name in ("MANY_LOGITS", "CHUNK_LOGITS"):
        monkeypatch.setattr(f"trainers.local.kernels.chunked_loss.{name}", 400 * 3)
    in_chunks = measure(model, pad_rows(ROWS, CPU), able)
    assert in_chunks.total.item() == pytest.approx(at_once.total.item(), rel=1e-6)
    assert in_chunks.right == at_once.right


def test_rows_are_padded_behind_with_a_token_of_their_own() -> None:
    pack = pad_rows([ROWS[1], ROWS[3]], CPU)
    assert pack.input_ids.tolist() == [[5, 6, 7, 8, 30, 30], [5, 6, 7, 8, 40, 60]]
    assert pack.positions.tolist() == [[0, 1, 2, 3, 4, 5]] * 2
    assert pack.predicting.tolist() == [3, 4, 6 + 5]
    assert pack.targets.tolist() == [30, 2, 2]


def row_of(length: int) -> Row:
    return row([7] * (length + 1), {length})


def test_rows_of_similar_length_are_padded_together() -> None:
    rows = [row_of(length) for length in (100, 10, 95, 11, 90, 10)]

    def lengths(limit: int, device: torch.device) -> list[list[int]]:
        return [[each.last_target for each in group] for group in fill_padded(rows, limit, device)]

    assert lengths(1000, CPU) == [[100, 95, 90], [11, 10, 10]]
    assert lengths(200, CPU) == [[100, 95], [90], [11, 10, 10]]
    assert lengths(20, CPU) == [[100], [95], [90], [11], [10, 10]]
    # On a GPU a pass costs more than some padding.
    assert lengths(1000, torch.device("cuda")) == [[100, 95, 90, 11], [10, 10]]
    assert padded_width(rows[:2]) == 200


def test_rows_are_not_padded_if_padding_changes_their_loss() -> None:
    model = tiny("llama").requires_grad_(False)
    able = find_abilities(model, longest=13)
    assert padding_refusal(model, able, longest=13) is None

    def centre(module: torch.nn.Module, inputs: Any, states: torch.Tensor) -> torch.Tensor:
        return states - states.mean(1, keepdim=True)  # over all places, those behind a row included

    model.get_input_embeddings().register_forward_hook(centre)
    refusal = padding_refusal(model, able, longest=13)
    assert refusal is not None and refusal.startswith("padding changes the loss of rows (by ")


def test_rows_are_not_padded_if_the_trial_fails() -> None:
    model = tiny("llama").requires_grad_(False)

    def want_one_row(module: torch.nn.Module, inputs: tuple[torch.Tensor]) -> None:
        if len(inputs[0]) > 1:
            raise ValueError("one row at a time")

    model.get_input_embeddings().register_forward_pre_hook(want_one_row)
    refusal = padding_refusal(model, find_abilities(model, longest=13), longest=13)
    assert refusal == "the trial with padded rows did not run: ValueError one row at a time"


def test_rows_are_not_padded_if_the_longest_changes_the_positions_of_all() -> None:
    model = tiny("phi3", rope_parameters=families.LONG_ROPE, original_max_position_embeddings=20)
    able = find_abilities(model, longest=20)
    assert padding_refusal(model, able, longest=20) is None
    refusal = padding_refusal(model, able, longest=21)
    assert refusal == "rows of more than 20 tokens change how this model computes the positions of all"


def test_no_pass_waits_for_a_search_for_packed_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' search copies a number from the device."""
    model = tiny("llama")
    searches: list[torch.Tensor] = []

    def search(position_ids: torch.Tensor) -> None:
        searches.append(position_ids)

    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", search)
    measure(model, pad_rows(ROWS, CPU), Abilities(packs=False, selects=True, pads=True))
    assert searches == []
    model(input_ids=pad_rows(ROWS, CPU).input_ids, use_cache=False)
    assert len(searches) == 1
