"""Several processes at one training: the same adapter as one process makes, whole or divided bases, room for
all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.local.runs import Process, make_job, run_processes, run_to_end, set_launcher_environment
from tests.local.trainer_server import examples, free_port
from trainers.hyperparameters import Sweep
from trainers.local.job_directory import read_events
from trainers.local.jobs.backends import LocalBackend, backend_refusal
from trainers.local.training.errors import TrainingFailed
from trainers.local.training.sharding import is_sharding_wanted
from trainers.methods import DpoParameters, Parameters, Quantization

GB = 10**9
SWEEP: Sweep = (("lora_r", (8, 16)),)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    folder = job(tmp_path_factory.mktemp("alone"), tiny_model_dir, Parameters(batch_size=4))
    assert run_to_end(folder) == 0
    return folder


def job(root: Path, base: Path, settings: Parameters) -> Path:
    """9 rows in batches of 4: the last batch has a row for one process only."""
    (root / "rows.jsonl").write_bytes(examples(9))
    (root / "held.jsonl").write_bytes(examples(5))
    return make_job(root / "job", base, root / "rows.jsonl", settings, validation=root / "held.jsonl")


def largest_difference(one: Path, other: Path) -> float:
    """The largest difference between two adapters' numbers."""
    first, second = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    assert first.keys() == second.keys()
    return max(float((first[name] - second[name]).abs().max()) for name in first)


def results(folder: Path) -> list[list[float]]:
    lines = (folder / "results.csv").read_text().splitlines()[1:]
    return [[float(number or 0) for number in line.split(",")] for line in lines]


@pytest.mark.parametrize("sharding", ["none", "fsdp"])
def test_two_processes_make_the_adapter_that_one_makes(
    sharding: str, alone: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    settings = Parameters(batch_size=4, sharding=sharding)  # type: ignore[arg-type]
    folder = job(tmp_path, tiny_model_dir, settings)
    assert run_processes(folder, 2) == [0, 0]
    assert largest_difference(alone, folder) < 1e-4
    for ours, theirs in zip(results(folder), results(alone), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-4)
    said = [event["message"] for event in read_events(folder)]
    how = "which divide the base among them" if sharding == "fsdp" else "each with the whole base"
    assert f"2 processes share each batch, {how}" in said
    assert len([each for each in said if "adapter saved" in each]) == 1


def test_a_launcher_that_started_fewer_processes_than_wanted_is_a_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from trainers.local.training import distributed

    monkeypatch.setenv("FINETUNE_PROCESSES", "2")
    with pytest.raises(TrainingFailed, match="needs 2 processes, and its launcher started 1"):
        distributed.join(seed=7)


def halve_in_one(rank: int, port: int, folder: Path) -> None:
    """Only process 1 finds its memory too small; what both then compute in goes into a file."""
    from trainers.local.training import distributed
    from trainers.local.training.data import Row
    from trainers.local.training.memory import MicroBatcher
    from trainers.local.training.packing import fill_packs, width

    set_launcher_environment(rank, 2, port)
    distributed.join(seed=7)
    room = MicroBatcher(64, None, packs=True, fill=fill_packs, width=width, tell=lambda said: None)
    rows = [Row(line, [1] * 16, [True] * 16) for line in range(1, 9)]

    def compute(parts: Sequence[Sequence[Row]]) -> list[int]:
        if rank == 1 and len(parts[0]) > 1:
            raise MemoryError("out of memory")
        return [len(part) for part in parts]

    sizes = room.compute_in_parts(distributed.share(rows), compute, "in a test")
    (folder / str(rank)).write_text(f"{sizes} {room.tokens}")
    distributed.leave()


def test_where_one_process_has_no_room_all_compute_in_smaller_parts(tmp_path: Path) -> None:
    port = free_port()
    both = [Process(target=halve_in_one, args=(rank, port, tmp_path)) for rank in (0, 1)]
    for each in both:
        each.start()
    for each in both:
        each.join(60)
    one, other = ((tmp_path / name).read_text() for name in ("0", "1"))
    assert one == other
    assert one.startswith("[1, 1, 1, 1] ")


@pytest.mark.parametrize(
    ("asked", "processes", "weights", "memory", "wanted"),
    [
        ("auto", 2, 15 * GB, 24 * GB, False),
        ("auto", 2, 20 * GB, 24 * GB, True),
        ("auto", 1, 20 * GB, 24 * GB, False),
        ("auto", 2, 20 * GB, None, False),
        ("none", 2, 20 * GB, 24 * GB, False),
        ("fsdp", 2, 1 * GB, None, True),
    ],
)
def test_a_base_is_divided_where_it_is_asked_for_or_one_gpu_cannot_hold_it(
    asked: str, processes: int, weights: int, memory: int | None, wanted: bool
) -> None:
    assert is_sharding_wanted(asked, processes, weights, memory) is wanted  # type: ignore[arg-type]


@pytest.mark.parametrize(("quantization", "divided"), [("none", True), ("nf4", False), ("int8", False)])
def test_a_base_in_fewer_bits_stays_whole(
    quantization: Quantization, divided: bool, tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from trainers.local.training import distributed, setup

    monkeypatch.setattr(distributed, "size", lambda: 2)
    monkeypatch.setattr(distributed, "any_process", lambda flag: flag)
    monkeypatch.setattr(setup, "device_memory", lambda device: 1000)
    settings = Parameters(quantization=quantization)
    assert setup.needs_sharding(settings, tiny_model_dir, torch.device("cpu")) is divided


@pytest.mark.parametrize(
    ("gpus_per_job", "settings", "said"),
    [
        (1, Parameters(sharding="fsdp"), "gives each job only one"),
        (2, Parameters(sharding="fsdp", quantization="nf4"), "A base in nf4 can't be divided"),
        (2, Parameters(engine="unsloth"), "the engine unsloth runs in a single one"),
        (2, Parameters(sharding="fsdp", sweep=SWEEP), "The arms of a sweep take turns on one base"),
        (2, DpoParameters(sharding="fsdp"), "The method dpo needs the whole base"),
    ],
)
def test_what_several_processes_cannot_do_is_refused_before_anything_starts(
    gpus_per_job: int, settings: Parameters, said: str
) -> None:
    refused = backend_refusal(LocalBackend(gpus_per_job=gpus_per_job), settings)
    assert refused is not None
    assert said in refused.message
    for able in (Parameters(sharding="fsdp"), Parameters(sweep=SWEEP), DpoParameters()):
        assert backend_refusal(LocalBackend(gpus_per_job=2), able) is None
