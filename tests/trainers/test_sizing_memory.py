"""Parameters and memory as pure sums, beside figures that others published or that were worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from trainers.base_models import Base, find_base
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
    found = find_base(name, ask_the_hub=False)
    assert isinstance(found, Base)
    return found.architecture


@pytest.mark.parametrize(
    ("name", "lora_gb", "qlora_gb"),
    [("mistral-7b", 14.5, 4.1), ("phi-4", 29.3, 9.1), ("llama-4-scout", 216, 58.7)],
)
def test_the_weights_of_three_families_take_what_was_reckoned_before(
    name: str, lora_gb: float, qlora_gb: float
) -> None:
    assert base_bytes(model(name), "lora", 2) / 1e9 == pytest.approx(lora_gb, rel=0.01)
    assert base_bytes(model(name), "qlora", 2) / 1e9 == pytest.approx(qlora_gb, rel=0.01)


def test_scouts_experts_are_packed_by_4_bits_alone_and_its_vision_is_not_loaded() -> None:
    scout = model("llama-4-scout")
    assert loaded_parameters(scout) / 1e9 == pytest.approx(107.8, abs=0.05)
    assert scout.active_parameters / 1e9 == pytest.approx(17.2, abs=0.05)
    assert base_bytes(scout, "8bit", 2) / 1e9 == pytest.approx(205, abs=2)
    packed = Work("qlora", 100, 1)
    assert with_forced_checkpoints(scout, packed).checkpoints
    assert not with_forced_checkpoints(scout, replace(packed, method="8bit")).checkpoints
    assert not with_forced_checkpoints(model("mistral-7b"), packed).checkpoints


def test_gemmas_vision_is_loaded_but_is_not_at_work_for_text() -> None:
    gemma = model("gemma-3-4b")
    assert loaded_parameters(gemma) == gemma.parameters > gemma.active_parameters == gemma.text_parameters


def test_lora_counts_rank_times_both_sides_of_each_matrix() -> None:
    smol = model("smollm2-135m")
    attention, narrow, wide = 2 * (576 + 576), 2 * (576 + 192), 3 * (576 + 1536)
    assert trainable_parameters(smol, Work("lora", 64, 1, rank=16)) == 30 * 16 * (attention + narrow + wide)
    assert trainable_parameters(smol, Work("full", 64, 1)) == smol.parameters


def test_an_adapter_takes_16_bytes_a_parameter_in_float32() -> None:
    smol = model("smollm2-135m")
    found, trained = estimate_memory(smol, WORK, CPU), trainable_parameters(smol, WORK)
    assert found.adapter + found.gradients + found.optimizer == 16 * trained


def test_full_training_takes_16_bytes_a_parameter_and_no_adapter() -> None:
    phi = model("phi-4-mini")
    for place in (GPU, CPU):
        found = estimate_memory(phi, replace(WORK, method="full"), place)
        assert found.weights + found.gradients + found.optimizer == 16 * phi.parameters
        assert found.adapter == 0


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
def test_each_change_makes_it_smaller(smaller: Work) -> None:
    mistral = model("mistral-7b")
    batch = replace(WORK, batch=4) if smaller.length < WORK.length else WORK
    smaller = replace(smaller, batch=min(smaller.batch, batch.batch))
    assert estimate_memory(mistral, smaller, GPU).total < estimate_memory(mistral, batch, GPU).total


def test_activations_grow_with_the_length_and_where_attention_goes_by_rows_with_the_length_of_a_row() -> None:
    smol = model("smollm2-135m")

    def activations(length: int, batch: int, place: Device) -> float:
        return estimate_memory(smol, Work("lora", length, batch), place).activations

    assert activations(2000, 1, GPU) / activations(1000, 1, GPU) == pytest.approx(2)
    assert activations(700, 1, CPU) / activations(350, 1, CPU) == pytest.approx(2)
    assert activations(350, 2, CPU) / activations(70, 10, CPU) > 1.1


def test_only_learnt_tokens_have_logits() -> None:
    llama = model("llama-3.1-8b")
    few, all_of_them = Work("lora", 1000, 1, answer=10), Work("lora", 1000, 1, answer=1000)
    assert estimate_memory(llama, few, GPU).logits == 10 * 128256 * (2 + 4 + 4)
    assert estimate_memory(llama, all_of_them, GPU).logits == 100 * estimate_memory(llama, few, GPU).logits


def test_what_fits_with_room_needs_no_cure() -> None:
    found = check_fit(model("smollm2-135m"), WORK, gpu("24"))
    assert (found.standing, found.cures) == ("fits", ())


def test_what_is_too_large_names_changes_that_fit_each_of_another_kind() -> None:
    mistral, machine = model("mistral-7b"), gpu("24")
    found = check_fit(mistral, WORK, machine)
    assert found.standing == "too large"
    assert found.cures
    assert len({(one.method, one.checkpoints, one.length, one.batch) for one in found.cures}) == len(
        found.cures
    )
    for cure in found.cures:
        assert check_fit(mistral, cure, machine).standing == "fits"


def test_what_fits_only_if_the_estimate_is_right_is_tight() -> None:
    mistral = model("mistral-7b")
    needed = estimate_memory(mistral, WORK, GPU).total
    assert check_fit(mistral, WORK, Machine("a GPU", needed, GPU)).standing == "tight"
    assert check_fit(mistral, WORK, Machine("a GPU", needed - 1, GPU)).standing == "too large"


def test_where_no_change_is_enough_the_least_is_told() -> None:
    found = check_fit(model("llama-4-scout"), WORK, gpu("l40s"))
    assert found.cures == ()
    assert 60e9 < found.least < 70e9 < found.needed
    assert smallest_gpu(found.needed) is None
    assert smallest_gpu(round(20e9)) == "NVIDIA A10"


@pytest.mark.parametrize(
    ("text", "gb"),
    [("24", 24), ("24GB", 24), ("0.5 gb", 0.5), ("H100", 85.5), ("nvidia-a100", 85.9), ("RTX 4090", 25.8)],
)
def test_a_gpu_is_read_as_gigabytes_or_by_its_name(text: str, gb: float) -> None:
    found = read_gpu(text)
    assert found is not None
    assert found.memory / 1e9 == pytest.approx(gb, abs=0.05)


@pytest.mark.parametrize("text", ["", "0", "-4", "99999", "potato", "24 GB of it", "nan", "1e9"])
def test_what_is_no_gpu_is_not_read(text: str) -> None:
    assert read_gpu(text) is None


def gpu(text: str) -> Machine:
    found = read_gpu(text)
    assert found is not None
    return found


def test_the_total_leaves_out_the_program_itself() -> None:
    assert Memory(1, 2, 3, 4, 5, 6, 7, 1000).total == 28


PAIRS = replace(WORK, length=100, batch=8, answer=20, pairs=True)


def test_of_a_pair_both_answers_are_computed_up_to_the_engines_limit() -> None:
    assert tokens_at_a_time(PAIRS, CPU) == 3 * 2 * 100
    assert tokens_at_a_time(replace(PAIRS, length=500), CPU) == 1000
    assert tokens_at_a_time(PAIRS, GPU) == 8 * 2 * 100


def test_trls_head_looks_at_every_token_on_a_cpu_and_at_the_answers_on_a_gpu() -> None:
    smol = model("smollm2-135m")
    places, tile = 6 * 99, 32768
    assert estimate_memory(smol, PAIRS, CPU).logits == places * tile * (4 + 29) + places * 576 * (4 + 4)
    answers = 16 * 20
    assert estimate_memory(smol, PAIRS, GPU).logits == answers * tile * 2 + answers * 576 * (2 + 4)
    assert estimate_memory(smol, replace(PAIRS, length=4000, answer=4000), GPU).logits == (
        4096 * tile * 2 + 8000 * 576 * (2 + 4)
    )


def test_the_reference_has_no_weights_and_its_logits_are_never_the_peak() -> None:
    for name in ("smollm2-135m", "mistral-7b"):
        for place in (CPU, GPU, Device("cpu", 2)):
            found = estimate_memory(model(name), PAIRS, place)
            assert found.weights == estimate_memory(model(name), replace(PAIRS, pairs=False), place).weights
            assert 0 < reference_logit_bytes(model(name), PAIRS, place) <= found.logits


def test_a_pair_keeps_what_two_rows_alone_keep_and_keys_and_values_for_every_head() -> None:
    smol, one = model("smollm2-135m"), replace(PAIRS, batch=1)
    chat = estimate_memory(smol, replace(one, pairs=False), CPU).activations
    repeated = 2 * 4 * (smol.queries - smol.keys) + 4 * 100  # and the mask
    assert estimate_memory(smol, one, CPU).activations == 2 * chat + 2 * smol.layers * 100 * repeated


def test_sampled_answers_take_the_room_of_a_pairs_two() -> None:
    smol = model("smollm2-135m")
    for place in (CPU, replace(CPU, kind="gpu")):
        pair, two, eight = (
            estimate_memory(smol, replace(PAIRS, batch=1, pairs=not samples, samples=samples), place)
            for samples in (0, 2, 8)
        )
        assert two == pair
        assert eight.activations == 4 * two.activations
        assert eight.weights == two.weights


def test_only_the_target_modules_have_matrices_gradients_and_moments() -> None:
    smol = model("smollm2-135m")
    every, few = (
        estimate_memory(smol, replace(WORK, targets=each), CPU) for each in ("all-linear", "q_proj,v_proj")
    )
    trained = 30 * 16 * ((576 + 576) + (576 + 192))
    assert trainable_parameters(smol, replace(WORK, targets="q_proj,self_attn.v_proj")) == trained
    assert (few.gradients, few.optimizer) == (4 * trained, 8 * trained)
    assert few.adapter < every.adapter
    assert few.activations < every.activations
    assert few.weights == every.weights
