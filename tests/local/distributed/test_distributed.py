"""One training in several processes: the same adapter as by one, with a whole or a divided base, and refusals."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.local.families import HYBRIDS, make_family
from tests.local.preferences import write_pairs
from tests.local.runs import (
    Process,
    event_messages,
    exit_codes,
    make_job,
    read_failure,
    read_results,
    run_one_process,
    run_processes,
    set_launcher_environment,
    start_processes,
    write_ticket_rows,
)
from tests.local.sweeps import make_sweep
from tests.local.trainer_server import examples, free_port
from trainers.hyperparameters import Sweep
from trainers.local import launch
from trainers.local.job_directory import read_job, write_job
from trainers.local.jobs.backends import LocalBackend, backend_refusal
from trainers.local.train import run_training
from trainers.local.training import distributed, setup
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.sharding import is_sharding_wanted
from trainers.methods import DpoParameters, Parameters, Quantization

pytestmark = pytest.mark.usefixtures("exact_numbers")
GB = 10**9
SWEEP: Sweep = (("lora_r", (8, 16)),)


def make_distributed_job(root: Path, base: Path, settings: Parameters) -> Path:
    """9 rows in batches of 4: the last batch has a row for one process only."""
    (root / "rows.jsonl").write_bytes(examples(9))
    (root / "held.jsonl").write_bytes(examples(5))
    return make_job(root / "job", base, root / "rows.jsonl", settings, validation=root / "held.jsonl")


def largest_difference(folder: Path, other: Path) -> float:
    """The largest difference between two adapters' numbers."""
    ours, theirs = (load_file(each / "adapter" / "adapter_model.safetensors") for each in (folder, other))
    assert ours.keys() == theirs.keys()
    return max(float((ours[name] - theirs[name]).abs().max()) for name in ours)


def assert_close_results(folder: Path, other: Path) -> None:
    assert largest_difference(folder, other) < 1e-4
    for ours, theirs in zip(read_results(folder), read_results(other), strict=True):
        numbers, expected = ([float(cell or 0) for cell in row.values()] for row in (ours, theirs))
        assert numbers == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def single(exact_numbers: None, tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A job that one process has trained."""
    folder = make_distributed_job(tmp_path_factory.mktemp("single"), tiny_model_dir, Parameters(batch_size=4))
    assert run_training(folder) == 0
    return folder


@pytest.mark.deep
@pytest.mark.parametrize(
    ("sharding", "how"),
    [("none", "each with the whole base"), ("fsdp", "dividing the base among them")],
)
def test_two_processes_train_the_same_adapter_as_one(
    sharding: Any, how: str, single: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    settings = Parameters(batch_size=4, sharding=sharding)
    folder = make_distributed_job(tmp_path, tiny_model_dir, settings)
    assert run_processes(folder, 2) == [0, 0]
    assert_close_results(folder, single)
    messages = event_messages(folder)
    assert f"2 processes share each batch, {how}" in messages
    assert sum("adapter saved" in message for message in messages) == 1


@pytest.mark.deep
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_with_padded_rows_train_the_same_adapter_as_one(sharding: Any, tmp_path: Path) -> None:
    base = make_family(tmp_path / "base", HYBRIDS["qwen-3.5"])
    folders = []
    for name in ("single", "team"):
        root = tmp_path / name
        root.mkdir()
        folders.append(make_distributed_job(root, base, Parameters(batch_size=4, sharding=sharding)))
    alone, together = folders
    assert run_training(alone) == 0, read_failure(alone)
    assert run_processes(together, 2) == [0, 0], read_failure(together)
    assert_close_results(together, alone)
    for folder in folders:
        assert any("the shorter ones padded" in message for message in event_messages(folder))


@pytest.mark.deep
def test_two_processes_train_the_same_weights_as_one(tmp_path: Path, tiny_model_dir: Path) -> None:
    folders = []
    for name in ("single", "team"):
        root = tmp_path / name
        root.mkdir()
        folder = make_distributed_job(root, tiny_model_dir, Parameters(batch_size=4, learning_rate=1e-3))
        write_job(folder, replace(read_job(folder), method="all_weights"))
        folders.append(folder)
    alone, together = folders
    assert run_training(alone) == 0, read_failure(alone)
    assert run_processes(together, 2) == [0, 0], read_failure(together)
    ours, expected = (load_file(folder / "adapter" / "model.safetensors") for folder in (together, alone))
    assert ours.keys() == expected.keys()
    for name, weight in expected.items():
        assert torch.allclose(ours[name], weight, atol=1e-5), name


def run_in_chunks(folder: Path, checkpoint_s: float, rank: int, count: int, port: int) -> None:
    """A process whose head computes the logits of two tokens at a time."""
    from trainers.local.kernels import chunked_loss

    chunked_loss.MANY_LOGITS = 0
    chunked_loss.CHUNK_LOGITS = 2 * 512
    run_one_process(folder, checkpoint_s, rank, count, port)


@pytest.mark.deep
@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_processes_whose_head_works_in_chunks_train_the_same_adapter(
    sharding: Any, single: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    settings = Parameters(batch_size=4, sharding=sharding)
    folder = make_distributed_job(tmp_path, tiny_model_dir, settings)
    assert exit_codes(start_processes(folder, 2, target=run_in_chunks)) == [0, 0]
    assert_close_results(folder, single)


def test_a_launcher_that_starts_too_few_processes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_PROCESSES", "2")
    with pytest.raises(TrainingFailed, match="needs 2 processes, and its launcher started 1"):
        distributed.join(seed=7)


def halve_in_one(rank: int, port: int, folder: Path) -> None:
    """Only process 1 is short of memory. Writes the sizes of the parts that both then compute."""
    from trainers.local.training.data import Row
    from trainers.local.training.memory import MicroBatcher
    from trainers.local.training.packing import fill_packs, width
    from trainers.local.training.schedule import UNREDUCED

    set_launcher_environment(rank, 2, port)
    distributed.join(seed=7)
    batcher = MicroBatcher(64, UNREDUCED, packs=True, fill=fill_packs, width=width, tell=lambda message: None)
    rows = [Row(line, [1] * 16, [True] * 16) for line in range(1, 9)]

    def compute(parts: Sequence[Sequence[Row]]) -> list[int]:
        if rank == 1 and len(parts[0]) > 1:
            raise MemoryError("out of memory")
        return [len(part) for part in parts]

    sizes = batcher.compute_in_parts(distributed.share(rows, lambda row: len(row.ids)), compute, "in a test")
    (folder / str(rank)).write_text(f"{sizes} {batcher.tokens}")
    distributed.leave()


def test_all_processes_compute_smaller_parts_when_one_is_short_of_memory(tmp_path: Path) -> None:
    port = free_port()
    processes = [Process(target=halve_in_one, args=(rank, port, tmp_path)) for rank in (0, 1)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    first, second = ((tmp_path / name).read_text() for name in ("0", "1"))
    assert first == second
    assert first.startswith("[1, 1, 1, 1] ")


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_the_allocators_options_are_the_users_if_there_are_any(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in launch.ALLOCATOR_VARIABLES:
        monkeypatch.setenv(each, "")  # so that it is restored
        monkeypatch.delenv(each)
    monkeypatch.setenv(name, "max_split_size_mb:512")
    before = dict(os.environ)
    launch.grow_segments()
    assert dict(os.environ) == before
    monkeypatch.delenv(name)
    launch.grow_segments()
    assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"


def test_processes_share_a_step_by_its_tokens() -> None:
    lengths = [900, 10, 20, 30, 400, 500]
    assert distributed.divide(lengths, 2, lambda length: length) == [[900, 30], [10, 20, 400, 500]]
    assert distributed.divide(lengths[:1], 3, lambda length: length) == [[900], [], []]
    assert distributed.divide([7] * 8, 4, lambda length: length) == [[7, 7]] * 4


@pytest.mark.parametrize(
    ("sharding", "processes", "weights", "memory", "expected"),
    [
        ("auto", 2, 15 * GB, 24 * GB, False),
        ("auto", 2, 20 * GB, 24 * GB, True),
        ("auto", 1, 20 * GB, 24 * GB, False),
        ("auto", 2, 20 * GB, None, False),
        ("none", 2, 20 * GB, 24 * GB, False),
        ("fsdp", 2, 1 * GB, None, True),
    ],
)
def test_a_base_is_divided_on_request_or_if_one_gpu_cannot_hold_it(
    sharding: Any, processes: int, weights: int, memory: int | None, expected: bool
) -> None:
    assert is_sharding_wanted(sharding, processes, weights, memory) is expected


@pytest.mark.parametrize(("quantization", "expected"), [("none", True), ("nf4", False), ("int8", False)])
def test_a_quantized_base_is_never_divided(
    quantization: Quantization, expected: bool, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "any_process", lambda flag: flag)
    monkeypatch.setattr(setup, "device_memory", lambda device: 1000)
    settings = Parameters(quantization=quantization)
    assert setup.needs_sharding(settings, tiny_model_dir, torch.device("cpu")) is expected


@pytest.mark.parametrize(
    ("gpus_per_job", "settings", "reason"),
    [
        (1, Parameters(sharding="fsdp"), "gives each job only one"),
        (2, Parameters(sharding="fsdp", quantization="nf4"), "A base in nf4 can't be divided"),
        (2, Parameters(engine="unsloth"), "the engine unsloth runs in a single one"),
        (2, Parameters(sharding="fsdp", sweep=SWEEP), "The trials of a sweep take turns on one base"),
        (2, DpoParameters(sharding="fsdp"), "The method dpo needs the whole base"),
    ],
)
def test_a_job_that_its_processes_cannot_train_is_refused_at_creation(
    gpus_per_job: int, settings: Parameters, reason: str
) -> None:
    refusal = backend_refusal(LocalBackend(gpus_per_job=gpus_per_job), settings)
    assert refusal is not None
    assert reason in refusal.message


@pytest.mark.parametrize("settings", [Parameters(sharding="fsdp"), Parameters(sweep=SWEEP), DpoParameters()])
def test_a_job_that_two_processes_can_train_is_accepted(settings: Parameters) -> None:
    assert backend_refusal(LocalBackend(gpus_per_job=2), settings) is None


@pytest.mark.parametrize("kind", ["pairs", "sweep"])
def test_a_base_too_large_for_one_gpu_fails_jobs_that_need_it_whole(
    kind: str, tmp_path: Path, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "is_sharding_wanted", lambda *_: True)
    if kind == "pairs":
        rows = write_pairs(tmp_path / "pairs.jsonl", 4)
        folder = make_job(tmp_path / "job", tiny_model_dir, rows, Parameters(), method="dpo")
    else:
        rows = write_ticket_rows(tmp_path / "rows.jsonl", 8)
        folder = make_sweep(tmp_path / "job", tiny_model_dir, rows, rows, Parameters(), SWEEP)
    assert run_training(folder) == 1
    failure = read_failure(folder)
    assert (failure["code"], failure["param"]) == ("sharding_unavailable", "sharding")
