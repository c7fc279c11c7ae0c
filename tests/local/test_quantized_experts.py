"""Experts in 4 bits: the numbers they compute with, what is kept of them, what is said where one would train
them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.local.families import FAMILIES, make_family
from trainers.base_models import Base, find_base
from trainers.local.training.base_model import add_lora, count_parameters, load_model, recompute_if_packed
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.model_structure import packed_experts
from trainers.methods import Parameters
from trainers.sizing.memory import base_bytes

NAMES = ("llama-4-scout", "qwen-3-moe", "mixtral")
IDS = torch.arange(20, 60)[None]
SETTINGS = Parameters(lora_r=4, target_modules="q_proj")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {name: make_family(root / name, FAMILIES[name]) for name in NAMES}


def packed(base: Path) -> Any:
    return load_model(str(base), torch.device("cpu"), torch.float32, "nf4").eval()


def in_full(model: Any, base: Path) -> Any:
    """The base in full with the very numbers that the packed one unpacks."""
    dense = load_model(str(base), torch.device("cpu"), torch.float32).eval()
    from bitsandbytes.functional import dequantize_4bit

    for name, module in dense.named_modules():
        other = model.get_submodule(name)
        if isinstance(module, torch.nn.Linear) and hasattr(other.weight, "quant_state"):
            module.weight.data = dequantize_4bit(other.weight.data, other.weight.quant_state)
    for name in packed_experts(model):
        owner, _, weight = name.rpartition(".")
        dense.get_parameter(name).data = getattr(model.get_submodule(owner), weight)
    return dense


@pytest.mark.parametrize("name", NAMES)
def test_a_packed_base_computes_with_what_its_4_bits_mean(name: str, bases: dict[str, Path]) -> None:
    model = packed(bases[name])
    assert len(packed_experts(model)) == 4  # two weights in each of two layers
    dense = in_full(model, bases[name])
    assert torch.allclose(model(input_ids=IDS).logits, dense(input_ids=IDS).logits, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_its_gradients_are_those_of_the_base_in_full(name: str, bases: dict[str, Path]) -> None:
    """Layers computed again, against layers kept."""
    model = packed(bases[name])
    dense = in_full(model, bases[name])
    found: list[dict[str, Tensor]] = []
    for base in (model, dense):
        torch.manual_seed(3)
        tuned = add_lora(base, SETTINGS).train()
        assert recompute_if_packed(tuned) == (base is model)
        tuned(input_ids=IDS, labels=IDS).loss.backward()
        found.append(
            {each: weight.grad for each, weight in tuned.named_parameters() if weight.grad is not None}
        )
    assert found[0].keys() == found[1].keys()
    assert any(gradient.abs().max() > 1e-4 for gradient in found[1].values())
    for each, gradient in found[1].items():
        assert torch.allclose(found[0][each], gradient, atol=1e-4), each


def test_what_was_unpacked_is_gone_when_a_pass_is_over_and_when_it_broke_off(
    bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = packed(bases["mixtral"])
    experts = next(one for name, one in model.named_modules() if name.endswith(".experts"))
    assert experts.unpacked == {}
    model(input_ids=IDS)
    assert experts.unpacked == {}
    monkeypatch.setattr(experts.act_fn, "forward", broken)
    with pytest.raises(RuntimeError, match="no memory"):
        model(input_ids=IDS)
    assert experts.unpacked == {}


def broken(*_: Any) -> Tensor:
    raise RuntimeError("no memory")


def test_packed_experts_are_counted_as_the_numbers_that_they_are(bases: dict[str, Path]) -> None:
    models = [
        load_model(str(bases["mixtral"]), torch.device("cpu"), torch.float32, kind)
        for kind in ("none", "nf4")
    ]
    sizes = [count_parameters(add_lora(model, SETTINGS)) for model in models]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", NAMES)
def test_packed_weights_take_what_was_reckoned(name: str, tmp_path: Path) -> None:
    """Of a larger toy: what bitsandbytes keeps beside the numbers is a few bytes for each matrix."""
    wide = FAMILIES[name].config()
    for one in {id(part): part for part in (wide, wide.get_text_config())}.values():
        one.hidden_size, one.intermediate_size, one.head_dim = 256, 512, 64
        if hasattr(one, "moe_intermediate_size"):
            one.moe_intermediate_size = 256
        if hasattr(one, "intermediate_size_mlp"):
            one.intermediate_size_mlp = 512
    base = make_family(tmp_path / name, replace(FAMILIES[name], config=lambda: wide))
    found = find_base(str(base))
    assert isinstance(found, Base)
    assert bytes_of(packed(base)) == pytest.approx(base_bytes(found.architecture, "qlora", 4), rel=0.02)


def bytes_of(model: Any) -> int:
    """Of all weights, and of the scales to unpack them with."""
    states = [getattr(weight, "quant_state", None) for weight in model.parameters()]
    states += [state for module in model.modules() for state in getattr(module, "states", {}).values()]
    scales = [state.absmax.nbytes + state.state2.absmax.nbytes for state in states if state]
    return sum(weight.nbytes for weight in model.parameters()) + sum(scales)


def test_packed_experts_are_not_trained_and_the_cure_is_said(bases: dict[str, Path]) -> None:
    model = packed(bases["llama-4-scout"])
    with pytest.raises(TrainingFailed) as caught:
        add_lora(model, Parameters(target_modules="q_proj,experts.gate_up_proj"))
    assert (caught.value.code, caught.value.param) == ("experts_packed", "target_modules")
    assert caught.value.message == (
        "experts.gate_up_proj is loaded in 4 bits, so it can't be trained. Leave it out of target_modules, or set "
        "quantization to int8 or none."
    )
