"""The loss of a head that works in chunks, and all its gradients, are those of the head that doesn't."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from tests.local import families
from tests.local.training.test_packing import CPU, ROWS, tiny
from trainers.local.kernels import chunked_loss
from trainers.local.kernels.chunked_loss import find_chunked_head
from trainers.local.training.base_model import recompute_activations, silence_peft_warning
from trainers.local.training.model_structure import choose_class
from trainers.local.training.packing import Abilities, Loss, find_abilities, measure, pack_rows

WORDS = families.VOCABULARY
TOKENS = 5  # of a chunk
SCALED: dict[str, dict[str, Any]] = {
    "gemma2": {"final_logit_softcapping": 3.0},
    "cohere2": {"logit_scale": 0.3},
    "granite": {"logits_scaling": 4.0},
    "gpt_neox": {},
}


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunked_loss, "MANY_LOGITS", 0)
    monkeypatch.setattr(chunked_loss, "CHUNK_LOGITS", TOKENS * WORDS)


def adapt(base: Any, *modules: str) -> Any:
    """Adds an adapter that changes the model."""
    with silence_peft_warning():
        return get_peft_model(base, LoraConfig(target_modules=list(modules), init_lora_weights=False))


def compare(model: Any, base: Any, dtype: torch.dtype = torch.float32, tolerance: float = 1e-5) -> Loss:
    """Compares loss and gradients with and without chunks. Returns the loss by chunks."""
    pack = pack_rows([*ROWS, *ROWS], CPU, dtype)
    able = find_abilities(base, longest=13)
    head = find_chunked_head(base)
    assert head is not None and head.words == WORDS
    learnt = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    plain = measure(model, pack, able)
    expected = torch.autograd.grad(plain.total * 0.5, list(learnt.values()), allow_unused=True)
    chunked = measure(model, pack, replace(able, head=head))
    gradients = torch.autograd.grad(chunked.total * 0.5, list(learnt.values()), allow_unused=True)

    assert chunked.total.item() == pytest.approx(plain.total.item(), rel=tolerance)
    assert (chunked.right, chunked.tokens) == (plain.right, 16)
    for name, gradient, same in zip(learnt, gradients, expected, strict=True):
        assert (gradient is None) is (same is None), name
        if same is not None and gradient is not None:
            largest = float(same.abs().max())
            torch.testing.assert_close(gradient, same, rtol=0, atol=5 * tolerance * largest, msg=name)
    with torch.no_grad():
        assert measure(model, pack, replace(able, head=head)).total.item() == chunked.total.item()
    return chunked


@pytest.mark.parametrize(("family", "changes"), SCALED.items())
def test_logits_that_are_scaled_or_capped_have_the_same_loss(family: str, changes: dict[str, Any]) -> None:
    model = tiny(family, "eager", **changes)
    model.requires_grad_()
    compare(model, model)


@pytest.mark.deep
@pytest.mark.parametrize("family", [*families.FAMILIES.values(), *families.HYBRIDS.values()])
def test_each_familys_head_can_work_in_chunks(family: families.Family) -> None:
    choice = choose_class("toy", family.config())
    torch.manual_seed(3)
    model = choice.model_class._from_config(choice.config, dtype=torch.float32).eval()
    able = Abilities(packs=False, selects=True)
    pack = pack_rows(ROWS[:1], CPU, torch.float32)
    plain = measure(model, pack, able)
    chunked = measure(model, pack, replace(able, head=find_chunked_head(model)))
    assert find_chunked_head(model) is not None
    assert chunked.total.item() == pytest.approx(plain.total.item(), rel=1e-5)


def test_an_adapted_head_and_trained_embeddings_get_their_gradients() -> None:
    base = tiny("llama")
    model = adapt(base, "q_proj", "lm_head")
    base.get_input_embeddings().weight.requires_grad_()
    compare(model, base)
    names = [name for name, weight in model.named_parameters() if weight.requires_grad]
    assert any("lm_head" in name for name in names) and any("embed_tokens" in name for name in names)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_weights_of_a_model_whose_head_is_its_embeddings_can_be_trained(dtype: torch.dtype) -> None:
    model = tiny("llama", tie_word_embeddings=True).to(dtype).requires_grad_()
    tolerance = 1e-5 if dtype == torch.float32 else 0.01
    compare(model, model, dtype, tolerance)


def test_a_frozen_decoder_before_an_adapted_head_gets_no_gradient() -> None:
    base = tiny("llama")
    model = adapt(base, "lm_head")
    compare(model, base)


def test_activations_that_are_recomputed_give_the_same_loss() -> None:
    base = tiny("llama")
    model = adapt(base, "q_proj")
    before = compare(model.train(), base)
    assert recompute_activations(model)
    after = compare(model, base)
    assert after.total.item() == before.total.item()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_formats_lose_no_more_than_their_rounding(dtype: torch.dtype) -> None:
    base = tiny("llama").to(dtype)
    model = adapt(base, "q_proj", "lm_head")
    with torch.autocast("cpu", dtype):
        compare(model, base, dtype, tolerance=0.01)


class LargestTensor(TorchDispatchMode):
    """Records the most numbers that any new tensor has."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self.numbers = max(self.numbers, leaf.numel())
        return result


def test_no_tensor_has_the_logits_of_all_tokens() -> None:
    base = tiny("llama")
    model = adapt(base, "q_proj")
    pack = pack_rows([*ROWS, *ROWS], CPU, torch.float32)
    able = find_abilities(base, longest=13)
    sizes = []
    for head in (None, find_chunked_head(base)):
        with LargestTensor() as largest:
            measure(model, pack, replace(able, head=head)).total.backward()  # type: ignore[no-untyped-call]
        sizes.append(largest.numbers)
    weights = base.get_output_embeddings().weight.numel()  # its transposed view is a tensor too
    assert sizes == [max(weights, 16 * WORDS), max(weights, TOKENS * WORDS)]


@pytest.fixture
def restored() -> Iterator[Any]:
    model = tiny("llama")
    yield model
    assert "forward" not in vars(model) and "forward" not in vars(model.model)


def test_a_model_is_itself_again_after_an_error(restored: Any) -> None:
    head = find_chunked_head(restored)
    assert head is not None
    with pytest.raises(IndexError):
        head.measure(restored, {"input_ids": torch.tensor([[WORDS]])}, torch.tensor([0]), torch.tensor([1]))


def test_a_class_whose_logits_need_more_than_the_states_has_no_chunked_head() -> None:
    model = tiny("llama")

    class ByPosition(nn.Linear):
        """Adds to each token's logits its place among the tokens that it is called with."""

        def forward(self, states: Tensor) -> Tensor:
            places = torch.arange(states.shape[1])[None, :, None]
            return super().forward(states) + places

    model.lm_head = ByPosition(64, WORDS, bias=False)
    assert find_chunked_head(model) is None
