"""Parameters and memory, compared with published values and sums by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainers.models.base_models import Base, find_base
from trainers.sizing.architecture import Architecture
from trainers.sizing.hardware import Machine, check_fit, read_gpu, smallest_gpu
from trainers.sizing.memory import (
    Device,
    Memory,
    Work,
    base_bytes,
    estimate_memory,
    loaded_parameters,
    reference_logit_bytes,
    tokens_at_a_time,
    trainable_parameters,
    with_forced_checkpoints,
)

GPU, CPU = Device("gpu", 2), Device("cpu", 4)
WORK = Work("lora", 1024, 8)


def model(name: str) -> Architecture:
    base = find_base(name, ask_the_hub=False)
    assert isinstance(base, Base)
    return base.architecture


def gpu(text: str) -> Machine:
    machine = read_gpu(text)
    assert machine is not None
    return machine


@pytest.mark.parametrize(
    ("name", "lora_gb", "qlora_gb"),
    [("mistral-7b", 14.5, 4.1), ("phi-4", 29.3, 9.1), ("llama-4-scout", 216, 58.7)],
)
def test_the_weights_of_three_families_take_the_agreed_memory(
    name: str, lora_gb: float, qlora_gb: float
) -> None:
    assert base_bytes(model(name), "lora", 2) / 1e9 == pytest.approx(lora_gb, rel=0.01)
    assert base_bytes(model(name), "qlora", 2) / 1e9 == pytest.approx(qlora_gb, rel=0.01)


def test_scouts_experts_are_packed_only_in_4_bits_and_only_gemmas_vision_is_loaded() -> None:
    scout = model("llama-4-scout")
    assert loaded_parameters(scout) / 1e9 == pytest.approx(107.8, abs=0.05)
    assert scout.active_parameters / 1e9 == pytest.approx(17.2, abs=0.05)
    assert base_bytes(scout, "8bit", 2) / 1e9 == pytest.approx(205, abs=2)
    packed = Work("qlora", 100, 1)
    assert with_forced_checkpoints(scout, packed).checkpoints
    assert not with_forced_checkpoints(scout, replace(packed, method="8bit")).checkpoints
    assert not with_forced_checkpoints(model("mistral-7b"), packed).checkpoints
    gemma = model("gemma-3-4b")
    assert loaded_parameters(gemma) == gemma.parameters > gemma.active_parameters == gemma.text_parameters


def test_lora_has_rank_times_both_dimensions_of_each_matrix() -> None:
    smol = model("smollm2-135m")
    attention = 2 * (576 + 576)
    narrow = 2 * (576 + 192)
    wide = 3 * (576 + 1536)
    assert trainable_parameters(smol, Work("lora", 64, 1, rank=16)) == 30 * 16 * (attention + narrow + wide)
    assert trainable_parameters(smol, Work("full", 64, 1)) == smol.parameters


def test_an_adapter_takes_16_bytes_a_parameter_in_float32() -> None:
    smol = model("smollm2-135m")
    memory, trained = estimate_memory(smol, WORK, CPU), trainable_parameters(smol, WORK)
    assert memory.adapter + memory.gradients + memory.optimizer == 16 * trained
    assert Memory(1, 2, 3, 4, 5, 6, 7, 1000).total == 28, "without the program itself"


@pytest.mark.parametrize(("device", "size"), [(GPU, 18), (CPU, 16)])
def test_training_all_weights_takes_16_bytes_a_parameter_and_a_copy_in_2(device: Device, size: int) -> None:
    phi = model("phi-4-mini")
    memory = estimate_memory(phi, replace(WORK, method="full"), device)
    assert memory.weights + memory.gradients + memory.optimizer == size * phi.parameters
    assert memory.adapter == 0


@pytest.mark.parametrize(
    "smaller",
    [
        replace(WORK, checkpoints=True),
        replace(WORK, batch=2),
        replace(WORK, length=512),
        replace(WORK, method="qlora"),
        replace(WORK, method="8bit"),
        replace(WORK, rank=4),
    ],
    ids=lambda work: f"{work.method} {work.length}x{work.batch} r{work.rank} {work.checkpoints}",
)
def test_each_change_takes_less_memory(smaller: Work) -> None:
    mistral = model("mistral-7b")
    batch = replace(WORK, batch=4) if smaller.length < WORK.length else WORK
    smaller = replace(smaller, batch=min(smaller.batch, batch.batch))
    assert estimate_memory(mistral, smaller, GPU).total < estimate_memory(mistral, batch, GPU).total


def test_activations_grow_with_the_tokens_and_on_a_cpu_with_the_length_of_a_row() -> None:
    smol = model("smollm2-135m")

    def activations(length: int, batch: int, device: Device) -> float:
        return estimate_memory(smol, Work("lora", length, batch), device).activations

    assert activations(2000, 1, GPU) / activations(1000, 1, GPU) == pytest.approx(2)
    assert activations(700, 1, CPU) / activations(350, 1, CPU) == pytest.approx(2)
    assert activations(350, 2, CPU) / activations(70, 10, CPU) > 1.1


def test_only_trained_tokens_have_logits() -> None:
    llama = model("llama-3.1-8b")
    few, more = Work("lora", 1000, 1, answer=10), Work("lora", 1000, 1, answer=200)
    assert estimate_memory(llama, few, GPU).logits == 10 * 128256 * (2 + 4 + 4)
    assert estimate_memory(llama, more, GPU).logits == 20 * estimate_memory(llama, few, GPU).logits


def test_beyond_a_chunk_only_states_are_added() -> None:
    llama = model("llama-3.1-8b")
    works = [Work("lora", length, 1, answer=length) for length in (1000, 8000)]
    fewer, more = (estimate_memory(llama, work, GPU).logits for work in works)
    assert more - fewer == 3 * 7000 * 4096 * 2
    assert more < 10**9


def test_a_training_that_fits_needs_no_changes() -> None:
    fit = check_fit(model("smollm2-135m"), WORK, gpu("24"))
    assert (fit.standing, fit.alternatives) == ("fits", ())


def test_a_training_that_is_too_large_gets_suggestions_that_fit() -> None:
    mistral, machine = model("mistral-7b"), gpu("24")
    fit = check_fit(mistral, WORK, machine)
    assert fit.standing == "too large" and fit.alternatives
    kinds = {(work.method, work.checkpoints, work.length, work.batch) for work in fit.alternatives}
    assert len(kinds) == len(fit.alternatives)
    for work in fit.alternatives:
        assert check_fit(mistral, work, machine).standing == "fits"


def test_a_training_that_fits_without_headroom_is_tight() -> None:
    mistral = model("mistral-7b")
    needed = estimate_memory(mistral, WORK, GPU).total
    assert check_fit(mistral, WORK, Machine("a GPU", needed, GPU)).standing == "tight"
    assert check_fit(mistral, WORK, Machine("a GPU", needed - 1, GPU)).standing == "too large"


def test_if_no_change_is_enough_the_least_memory_is_given() -> None:
    fit = check_fit(model("llama-4-scout"), WORK, gpu("l40s"))
    assert fit.alternatives == ()
    assert 60e9 < fit.least < 70e9 < fit.needed
    assert smallest_gpu(fit.needed) is None
    assert smallest_gpu(round(20e9)) == "NVIDIA A10"


@pytest.mark.parametrize(
    ("text", "gb"),
    [("24", 24), ("24GB", 24), ("0.5 gb", 0.5), ("H100", 85.5), ("nvidia-a100", 85.9), ("RTX 4090", 25.8)],
)
def test_a_gpu_is_read_as_gigabytes_or_by_its_name(text: str, gb: float) -> None:
    assert gpu(text).memory / 1e9 == pytest.approx(gb, abs=0.05)


@pytest.mark.parametrize("text", ["", "0", "-4", "99999", "potato", "24 GB of it", "nan", "1e9"])
def test_other_texts_are_not_read_as_a_gpu(text: str) -> None:
    assert read_gpu(text) is None


PAIRS = replace(WORK, length=100, batch=8, answer=20, pairs=True)


def test_both_answers_of_a_pair_are_computed_up_to_the_engines_limit() -> None:
    assert tokens_at_a_time(PAIRS, CPU) == 3 * 2 * 100
    assert tokens_at_a_time(replace(PAIRS, length=500), CPU) == 1000
    assert tokens_at_a_time(PAIRS, GPU) == 8 * 2 * 100


def test_trls_head_computes_every_token_on_a_cpu_and_the_answers_on_a_gpu() -> None:
    smol = model("smollm2-135m")
    tokens, tile = 6 * 99, 32768
    assert estimate_memory(smol, PAIRS, CPU).logits == tokens * tile * (4 + 29) + tokens * 576 * (4 + 4)
    answers = 16 * 20
    assert estimate_memory(smol, PAIRS, GPU).logits == answers * tile * 2 + answers * 576 * (2 + 4)
    assert estimate_memory(smol, replace(PAIRS, length=4000, answer=4000), GPU).logits == (
        4096 * tile * 2 + 8000 * 576 * (2 + 4)
    )


def test_the_reference_has_no_weights_and_its_logits_are_never_the_peak() -> None:
    for name in ("smollm2-135m", "mistral-7b"):
        for device in (CPU, GPU, Device("cpu", 2)):
            memory = estimate_memory(model(name), PAIRS, device)
            assert memory.weights == estimate_memory(model(name), replace(PAIRS, pairs=False), device).weights
            assert 0 < reference_logit_bytes(model(name), PAIRS, device) <= memory.logits


def test_a_pair_takes_the_activations_of_two_rows_and_repeated_keys_and_values() -> None:
    smol, pair = model("smollm2-135m"), replace(PAIRS, batch=1)
    chat = estimate_memory(smol, replace(pair, pairs=False), CPU).activations
    repeated = 2 * 4 * (smol.queries - smol.keys) + 4 * 100  # and the mask
    assert estimate_memory(smol, pair, CPU).activations == 2 * chat + 2 * smol.layers * 100 * repeated


def test_two_sampled_answers_take_the_memory_of_a_pair() -> None:
    smol = model("smollm2-135m")
    for device in (CPU, replace(CPU, kind="gpu")):
        pair, two, eight = (
            estimate_memory(smol, replace(PAIRS, batch=1, pairs=not samples, samples=samples), device)
            for samples in (0, 2, 8)
        )
        assert two == pair
        assert eight.activations == 4 * two.activations
        assert eight.weights == two.weights


def test_only_target_modules_have_adapters_gradients_and_moments() -> None:
    smol = model("smollm2-135m")
    every, few = (
        estimate_memory(smol, replace(WORK, targets=targets), CPU)
        for targets in ("all-linear", "q_proj,v_proj")
    )
    trained = 30 * 16 * ((576 + 576) + (576 + 192))
    assert trainable_parameters(smol, replace(WORK, targets="q_proj,self_attn.v_proj")) == trained
    assert (few.gradients, few.optimizer) == (4 * trained, 8 * trained)
    assert few.adapter < every.adapter and few.activations < every.activations
    assert few.weights == every.weights
