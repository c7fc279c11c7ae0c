"""Experts in 4 bits: what they compute, what stays in memory, and that they can't be trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.local.families import FAMILIES, make_family
from trainers.local.training.base_model import (
    add_lora,
    count_parameters,
    keep_trainable,
    load_model,
    recompute_if_packed,
)
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.model_structure import packed_experts
from trainers.methods import Parameters
from trainers.models.base_models import Base, find_base
from trainers.sizing.memory import base_bytes

NAMES = ("llama-4-scout", "qwen-3-moe", "mixtral")
IDS = torch.arange(20, 60)[None]
SETTINGS = Parameters(lora_r=4, target_modules="q_proj")


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("bases")
    return {name: make_family(root / name, FAMILIES[name]) for name in NAMES}


def load_packed(base: Path) -> Any:
    model = load_model(str(base), torch.device("cpu"), torch.float32, "nf4").eval()
    keep_trainable(model)  # else a CPU with AVX512-BF16 computes in bfloat16
    return model


def dequantize(model: Any, base: Path) -> Any:
    """The base in float32, with the weights that the packed model unpacks."""
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
def test_a_packed_base_computes_with_its_dequantized_weights(name: str, bases: dict[str, Path]) -> None:
    model = load_packed(bases[name])
    assert len(packed_experts(model)) == 4  # two weights in each of two layers
    dense = dequantize(model, bases[name])
    assert torch.allclose(model(input_ids=IDS).logits, dense(input_ids=IDS).logits, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_its_gradients_are_those_of_the_dequantized_base(name: str, bases: dict[str, Path]) -> None:
    """The packed base recomputes its layers, the other one keeps them."""
    model = load_packed(bases[name])
    dense = dequantize(model, bases[name])
    gradients: list[dict[str, Tensor]] = []
    for base in (model, dense):
        torch.manual_seed(3)
        tuned = add_lora(base, SETTINGS).train()
        assert recompute_if_packed(tuned) == (base is model)
        tuned(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append(
            {each: weight.grad for each, weight in tuned.named_parameters() if weight.grad is not None}
        )
    ours, expected = gradients
    assert ours.keys() == expected.keys()
    assert any(gradient.abs().max() > 1e-4 for gradient in expected.values())
    for name, gradient in expected.items():
        assert torch.allclose(ours[name], gradient, atol=1e-4), name


def test_a_validation_leaves_the_gradients_of_a_packed_base_as_they_are(bases: dict[str, Path]) -> None:
    gradients: list[list[Tensor]] = []
    tuned = add_lora(load_model(str(bases["mixtral"]), torch.device("cpu"), torch.float32, "nf4"), SETTINGS)
    assert recompute_if_packed(tuned)
    for _ in range(2):
        tuned.train()
        tuned(input_ids=IDS, labels=IDS).loss.backward()
        gradients.append([weight.grad.clone() for weight in tuned.parameters() if weight.grad is not None])
        tuned.zero_grad()
        tuned.eval()
        with torch.no_grad():
            tuned(input_ids=IDS)
    assert any(gradient.any() for gradient in gradients[0])
    assert all(map(torch.equal, *gradients))


def test_unpacked_weights_are_freed_after_a_pass_and_after_an_error(
    bases: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_packed(bases["mixtral"])
    experts = next(module for name, module in model.named_modules() if name.endswith(".experts"))
    assert experts.unpacked == {}
    model(input_ids=IDS)
    assert experts.unpacked == {}
    monkeypatch.setattr(experts.act_fn, "forward", run_out_of_memory)
    with pytest.raises(RuntimeError, match="no memory"):
        model(input_ids=IDS)
    assert experts.unpacked == {}


def run_out_of_memory(*_: Any) -> Tensor:
    raise RuntimeError("no memory")


def test_packed_experts_count_as_their_unpacked_parameters(bases: dict[str, Path]) -> None:
    models = [
        load_model(str(bases["mixtral"]), torch.device("cpu"), torch.float32, kind)
        for kind in ("none", "nf4")
    ]
    sizes = [count_parameters(add_lora(model, SETTINGS)) for model in models]
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize("name", NAMES)
def test_packed_weights_take_the_estimated_memory(name: str, tmp_path: Path) -> None:
    """The toy is larger, since bitsandbytes also stores some bytes for each matrix."""
    wide = FAMILIES[name].config()
    for config in {id(part): part for part in (wide, wide.get_text_config())}.values():
        config.hidden_size = 256
        config.intermediate_size = 512
        config.head_dim = 64
        if hasattr(config, "moe_intermediate_size"):
            config.moe_intermediate_size = 256
        if hasattr(config, "intermediate_size_mlp"):
            config.intermediate_size_mlp = 512
    base = make_family(tmp_path / name, replace(FAMILIES[name], config=lambda: wide))
    sized = find_base(str(base))
    assert isinstance(sized, Base)
    assert bytes_of(load_packed(base)) == pytest.approx(base_bytes(sized.architecture, "qlora", 4), rel=0.02)


def bytes_of(model: Any) -> int:
    """Of all weights and their scales."""
    states = [getattr(weight, "quant_state", None) for weight in model.parameters()]
    states += [state for module in model.modules() for state in getattr(module, "states", {}).values()]
    scales = [state.absmax.nbytes + state.state2.absmax.nbytes for state in states if state]
    return sum(weight.nbytes for weight in model.parameters()) + sum(scales)


def test_training_packed_experts_is_refused_with_advice(bases: dict[str, Path]) -> None:
    model = load_packed(bases["llama-4-scout"])
    with pytest.raises(TrainingFailed) as caught:
        add_lora(model, Parameters(target_modules="q_proj,experts.gate_up_proj"))
    assert (caught.value.code, caught.value.param) == ("experts_packed", "target_modules")
    assert caught.value.message == (
        "experts.gate_up_proj is loaded in 4 bits, so it can't be trained. Leave it out of target_modules, or set "
        "quantization to int8 or none."
    )
