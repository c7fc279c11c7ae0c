"""Preference pairs by two processes: the adapter, the losses and the rewards of one process, over a kill of
either."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.local.preferences import write_pairs
from tests.local.runs import (
    adapter_bytes,
    count_steps,
    exit_codes,
    kill_one_process,
    make_job,
    run_one_process,
    run_processes,
    run_to_end,
    start_processes,
    wait_for_first,
)
from tests.local.test_distributed import largest_difference, results
from tests.local.test_run_lifecycle import limit_memory, messages, warnings
from tests.local.test_run_lifecycle import results as told
from trainers.local.job_directory import read_json
from trainers.methods import Parameters

SETTINGS = Parameters(n_epochs=2, batch_size=5, learning_rate=5e-3, lora_r=4, lora_alpha=8, eval_steps=4)
STEPS = 10


def job(root: Path, base: Path, settings: Parameters = SETTINGS, *, is_contrary: bool = False) -> Path:
    """21 pairs in batches of 5, 3 for one process and 2 for the other; the last of an epoch has one pair alone.
    `is_contrary`: the validation prefers the other answers."""
    root.mkdir(exist_ok=True)
    training = write_pairs(root / "train.jsonl", 21)
    validation = write_pairs(root / "valid.jsonl", 7, 100, is_wrong=is_contrary)
    return make_job(root / "job", base, training, settings, validation=validation, method="dpo")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """The second one is on another machine, as far as it sees: in a copy of the folder, made before they began."""
    folder = job(tmp_path_factory.mktemp("two"), tiny_model_dir)
    shutil.copytree(folder, folder.with_name("elsewhere"))
    assert run_processes(folder, 2, others=folder.with_name("elsewhere")) == [0, 0]
    return folder


def test_two_processes_make_the_adapter_the_losses_and_the_rewards_that_one_makes(
    by_two: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    alone = job(tmp_path, tiny_model_dir)
    assert run_to_end(alone) == 0
    assert largest_difference(by_two, alone) < 1e-4
    ours, theirs = results(by_two), results(alone)
    assert len(ours) == STEPS
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, abs=1e-4)
    done, other_done = read_json(by_two / "DONE") or {}, read_json(alone / "DONE") or {}
    assert {**done, "seconds": 0} == {**other_done, "seconds": 0}
    assert messages(by_two).count("2 processes share each batch, each with the whole base") == 1
    written = {path.name for path in by_two.with_name("elsewhere").rglob("*") if path.is_file()}
    assert written == {"job.json", "base.json"}


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_kill_of_either_process_costs_no_step_and_ends_with_the_same_bytes(
    rank: int, by_two: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = job(tmp_path, tiny_model_dir)
    kill_one_process(folder, rank, lambda: count_steps(folder), steps=5)
    assert run_processes(folder, 2) == [0, 0]
    assert [said for said in messages(folder) if said.startswith("Resuming from the checkpoint of step")]
    assert adapter_bytes(folder) == adapter_bytes(by_two)
    assert told(folder) == told(by_two)


def test_pairs_are_not_trained_on_a_base_that_is_divided(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = job(tmp_path, tiny_model_dir, replace(SETTINGS, sharding="fsdp"))
    assert wait_for_first(start_processes(folder, 2)) == 1
    failed = read_json(folder / "FAILED") or {}
    assert (failed["code"], failed["param"]) == ("sharding_unavailable", "sharding")


def run_narrow_process(folder: Path, checkpoint_s: float, rank: int, processes: int, port: int) -> None:
    """The second process has room for one pair at a time."""
    if rank == 0:
        run_one_process(folder, checkpoint_s, rank, processes, port)
    with limit_memory(80):
        run_one_process(folder, checkpoint_s, rank, processes, port)


@pytest.mark.slow
def test_where_one_process_has_no_room_both_learn_from_the_same_pairs_in_smaller_parts(
    by_two: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = job(tmp_path, tiny_model_dir)
    assert exit_codes(start_processes(folder, 2, member=run_narrow_process)) == [0, 0]
    assert any(said.startswith("Memory was full at step 1 with ") for said in warnings(folder))
    assert largest_difference(folder, by_two) < 1e-4
    for ours, theirs in zip(results(folder), results(by_two), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-3)


@pytest.mark.slow
def test_two_processes_lose_patience_at_the_step_where_one_does(tmp_path: Path, tiny_model_dir: Path) -> None:
    patient = replace(SETTINGS, n_epochs=20, eval_steps=3, patience=2)
    alone, both = (
        job(tmp_path / name, tiny_model_dir, patient, is_contrary=True) for name in ("alone", "both")
    )
    assert run_to_end(alone) == 0
    assert run_processes(both, 2) == [0, 0]
    done, other = read_json(both / "DONE") or {}, read_json(alone / "DONE") or {}
    assert (done["step"], done["result_step"]) == (other["step"], other["result_step"])
    assert "2 validations in a row had no lower loss" in done["stopped"]


@pytest.mark.slow
def test_the_ceiling_ends_both_processes_at_the_same_step(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = job(tmp_path, tiny_model_dir, replace(SETTINGS, n_epochs=1000, max_seconds=15))
    assert run_processes(folder, 2) == [0, 0]
    done = read_json(folder / "DONE") or {}
    assert done["stopped"].startswith(f"Stopped at step {done['step']}/5000: the ceiling of 15 s")
