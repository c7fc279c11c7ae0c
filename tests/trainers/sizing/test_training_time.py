"""Training time from a measured speed, compared with sums by hand, and unusable calibration files."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from trainers.models.base_models import Base, find_base
from trainers.sizing.architecture import Architecture
from trainers.sizing.hardware import Machine, cpu_speed, gpu_speed, read_gpu
from trainers.sizing.memory import Device
from trainers.sizing.training_time import (
    Calibration,
    InvalidCalibration,
    PairLengths,
    RowLengths,
    guess_calibration,
    operations,
    pack_seconds,
    pair_seconds,
    read_calibration,
    serving_speed,
    training_seconds,
    weights_at_work,
)

MACHINE = Calibration(
    device="cpu",
    number="bfloat16",
    threads=2,
    speed=1e11,
    layer_s=0.002,
    pair_s=1e-8,
    long_pair_s=3e-9,
    parameter_s=1e-9,
    startup_s=10,
    load=0.1,
    peaks={"float32": 1e11, "bfloat16": 4e11},
    measured_at=1_795_000_000.0,
    word_s=2e-9,
    trl_s=3,
)
ROWS = RowLengths(count=80, tokens=60, batch=8, epochs=2, shared=20, answer=2)


def model(name: str) -> Architecture:
    base = find_base(name, ask_the_hub=False)
    assert isinstance(base, Base)
    return base.architecture


def test_a_token_takes_four_operations_per_frozen_weight_and_six_per_trained_one() -> None:
    smol = model("smollm2-135m")
    assert operations(smol, 16) == 4 * smol.matrix_parameters + 6 * smol.lora_parameters(16)
    # Llama 4 computes all experts for every token.
    scout = model("llama-4-scout")
    assert operations(scout, 16) > 4 * (scout.expert_parameters - scout.layers * scout.hidden * 16)


@pytest.mark.parametrize(
    ("by_rows", "pairs", "pair_s"),
    [(True, 4096 * 512, 1e-8), (False, 4096**2, 1e-8), (None, 4096**2, 3e-9)],
)
def test_attention_of_a_pack_on_a_gpu_is_computed_in_blocks_or_for_all_pairs(
    by_rows: bool | None, pairs: int, pair_s: float
) -> None:
    """None: the calibration is older than packs."""
    smol = model("smollm2-135m")
    machine = replace(MACHINE, device="cuda", by_rows=by_rows)
    work = 4096 * operations(smol, 16) / machine.speed
    expected = smol.layers * (machine.layer_s + smol.heads * pairs * pair_s) + work
    assert pack_seconds(smol, 4096, 512, 0, 16, machine) == pytest.approx(expected)


def test_a_packs_time_is_the_sum_of_layers_operations_and_pairs() -> None:
    smol = model("smollm2-135m")
    head = 4 * 2 * 49152 * 576
    work = 30 * 0.002 + (300 * operations(smol, 16) + head) / 1e11
    by_rows, alone = 30 * 9 * 300 * 50 * 1e-8, 30 * 9 * 300**2 * 3e-9
    assert pack_seconds(smol, 300, 50, 2, 16, MACHINE) == pytest.approx(work + by_rows)
    assert pack_seconds(smol, 300, 300, 2, 16, MACHINE) == pytest.approx(work + alone)


def test_a_trainings_time_is_the_sum_of_its_steps_and_the_start() -> None:
    smol = model("smollm2-135m")
    pack = pack_seconds(smol, 8 * 40 + 20, 60, 8 * 2, 16, MACHINE)
    a_step = pack + smol.lora_parameters(16) * 1e-9
    assert training_seconds(smol, ROWS, MACHINE) == pytest.approx(10 + 2 * 10 * a_step)
    # Rows beyond the engine's limit take more packs.
    short, long = replace(ROWS, tokens=90), replace(ROWS, tokens=200)
    assert training_seconds(smol, long, MACHINE) > 2 * training_seconds(smol, short, MACHINE) - 10


def test_pairs_take_policy_reference_and_trls_head_for_every_token() -> None:
    smol = model("smollm2-135m")
    pairs = PairLengths(count=16, longer=90, padded=96, batch=8, epochs=2)
    tokens = 4 * 2 * 96  # 8 pairs in parts of 4
    layers = 1.5 * 30 * (0.002 + 9 * 2 * tokens * 96 * 3e-9)
    work = tokens * (operations(smol, 16) + operations(smol, 0) / 2) / 1e11
    head = tokens * 49152 * (2e-9 + 576 * (6 / 4e11 + 2 / 1e11))
    a_step = 2 * (layers + work + head) + smol.lora_parameters(16) * 1e-9
    assert pair_seconds(smol, pairs, MACHINE) == pytest.approx(10 + 3 + 4 * a_step)
    gpu = replace(MACHINE, device="cuda")
    few, many = (pair_seconds(smol, replace(pairs, answer=answer), gpu) for answer in (1, 90))
    assert few is not None and many is not None and few < many


def test_a_calibration_older_than_pairs_is_used_for_chats_only(tmp_path: Path) -> None:
    file, older = tmp_path / "calibration.json", json.loads(MACHINE.to_json())
    del older["word_s"], older["trl_s"]
    file.write_text(json.dumps(older))
    machine = read_calibration(file)
    assert machine is not None
    smol = model("smollm2-135m")
    assert training_seconds(smol, ROWS, machine) == training_seconds(smol, ROWS, MACHINE)
    assert pair_seconds(smol, PairLengths(16, 90, 96, 8, 1), machine) is None


def test_a_stored_calibration_can_be_read(tmp_path: Path) -> None:
    file = tmp_path / "calibration.json"
    assert read_calibration(file) is None
    file.write_text(MACHINE.to_json())
    assert read_calibration(file) == MACHINE


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", json.dumps({**json.loads(MACHINE.to_json()), "speed": 0})]
)
def test_an_unusable_calibration_is_refused_with_how_to_measure_again(tmp_path: Path, content: str) -> None:
    file = tmp_path / "calibration.json"
    file.write_text(content)
    with pytest.raises(InvalidCalibration, match="measure again with `finetune calibrate`"):
        read_calibration(file)


def test_a_larger_model_is_served_slower_in_proportion_to_its_weights() -> None:
    small, large = model("smollm2-135m"), model("llama-3.1-8b")
    served = replace(MACHINE, reads=1000.0, writes=100.0, served_weights=weights_at_work(small))
    assert serving_speed(small, served) == (1000, 100)
    slower = serving_speed(large, served)
    assert slower is not None and 15 < slower[0] < 20 and slower[1] == pytest.approx(slower[0] / 10)
    assert serving_speed(small, MACHINE) is None


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("NVIDIA A100-SXM4-80GB", "a100"),
        ("Tesla T4", "t4"),
        ("NVIDIA GeForce RTX 4090", "4090"),
        ("NVIDIA H100 80GB HBM3", "h100"),
        ("NVIDIA RTX A6000", "a6000"),
    ],
)
def test_a_gpu_is_recognised_by_its_drivers_name(name: str, key: str) -> None:
    machine = read_gpu(key)
    assert machine is not None
    assert gpu_speed(name) == machine.speed is not None
    assert gpu_speed("NVIDIA Quadro K620") is None


def test_the_guess_for_two_cores_is_near_the_measurement() -> None:
    """800 support tickets of 57 tokens through SmolLM2-135M took 147 s: docs/scale.md."""
    cpu = guess_calibration(Machine("two cores", 10**10, Device("cpu", 2), cpu_speed(2, 2)))
    assert cpu is not None
    assert 147 / 3 < training_seconds(model("smollm2-135m"), RowLengths(800, 57, 8, 1), cpu) < 147 * 3
    assert guess_calibration(Machine("a GPU of 24 GB", 24 * 10**9, Device("gpu", 2))) is None


def test_recomputing_activations_takes_a_third_more() -> None:
    smol = model("smollm2-135m")
    machine = replace(MACHINE, startup_s=0, parameter_s=0)
    again = training_seconds(smol, replace(ROWS, recomputes=True), machine)
    assert again == pytest.approx(training_seconds(smol, ROWS, machine) * 4 / 3)


def test_grpo_generates_all_samples_and_then_learns_from_them() -> None:
    smol = model("smollm2-135m")
    pairs = PairLengths(count=16, longer=90, padded=96, batch=8, epochs=1, answer=10)
    serving = replace(MACHINE, reads=1000.0, writes=100.0, served_weights=weights_at_work(smol))
    variants = (pairs, *(replace(pairs, samples=samples) for samples in (2, 4)))
    learning, two, four = (pair_seconds(smol, variant, serving) or 0.0 for variant in variants)
    writing = 16 * 2 * (80 / 1000 + 10 / 100)
    assert two == pytest.approx(learning + writing)
    assert four - two > writing, "twice as many answers are written, and learnt from"
    without_reference = pair_seconds(smol, replace(pairs, samples=2, has_reference=False), serving)
    assert without_reference is not None and without_reference < two
    assert (pair_seconds(smol, variants[1], MACHINE) or 0.0) > learning, "also if serving was not measured"
