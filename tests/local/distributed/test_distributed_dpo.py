"""Preference pairs in two processes: the adapter, losses and rewards of one process, also after a kill of either."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.local.distributed.test_distributed import assert_close_results
from tests.local.faults import limit_memory
from tests.local.preferences import write_pairs
from tests.local.runs import (
    assert_same_result,
    count_steps,
    event_messages,
    exit_codes,
    kill_one_process,
    make_job,
    read_done,
    read_results,
    run_on_two_machines,
    run_one_process,
    run_processes,
    run_to_end,
    start_processes,
)
from trainers.local.train import run_training
from trainers.methods import Parameters

pytestmark = pytest.mark.usefixtures("exact_numbers")
SETTINGS = Parameters(n_epochs=2, batch_size=5, learning_rate=5e-3, lora_r=4, lora_alpha=8, eval_steps=2)
STEPS = 6


def make_dpo_job(
    root: Path, base: Path, settings: Parameters = SETTINGS, *, is_contrary: bool = False
) -> Path:
    """11 pairs in batches of 5: 3 for one process and 2 for the other, and one pair alone at the end of an epoch.
    `is_contrary`: the validation pairs prefer the other answers."""
    root.mkdir(exist_ok=True)
    training = write_pairs(root / "train.jsonl", 11)
    validation = write_pairs(root / "valid.jsonl", 3, 100, is_wrong=is_contrary)
    return make_job(root / "job", base, training, settings, validation=validation, method="dpo")


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    return run_on_two_machines(make_dpo_job(tmp_path_factory.mktemp("two"), tiny_model_dir))


@pytest.mark.deep
def test_two_processes_train_the_adapter_losses_and_rewards_of_one(
    by_two: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    single = make_dpo_job(tmp_path, tiny_model_dir)
    assert run_training(single) == 0
    assert_close_results(by_two, single)
    assert len(read_results(by_two)) == STEPS
    assert read_done(by_two) == read_done(single)
    assert event_messages(by_two).count("2 processes share each batch, each with the whole base") == 1
    files = {path.name for path in by_two.with_name("elsewhere").rglob("*") if path.is_file()}
    assert files == {"job.json", "base.json"}


@pytest.mark.deep
@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_kill_of_either_process_loses_no_step_and_the_result_has_the_same_bytes(
    rank: int, by_two: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = make_dpo_job(tmp_path, tiny_model_dir)
    kill_one_process(folder, rank, lambda: count_steps(folder), steps=3)
    assert run_processes(folder, 2) == [0, 0]
    assert any(message.startswith("Resuming from the checkpoint") for message in event_messages(folder))
    assert_same_result(folder, by_two)


def run_process_with_little_memory(
    folder: Path, checkpoint_s: float, rank: int, processes: int, port: int
) -> None:
    """The second process has memory for one pair at a time."""
    if rank == 0:
        run_one_process(folder, checkpoint_s, rank, processes, port)
    with limit_memory(80):
        run_one_process(folder, checkpoint_s, rank, processes, port)


@pytest.mark.slow
def test_both_processes_compute_smaller_parts_when_one_is_short_of_memory(
    by_two: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = make_dpo_job(tmp_path, tiny_model_dir)
    assert exit_codes(start_processes(folder, 2, target=run_process_with_little_memory)) == [0, 0]
    warnings = event_messages(folder, "warn")
    assert any(warning.startswith("Memory was full at step 1 with ") for warning in warnings)
    assert_close_results(folder, by_two)


@pytest.mark.slow
def test_two_processes_stop_at_the_step_where_one_does(tmp_path: Path, tiny_model_dir: Path) -> None:
    patient = replace(SETTINGS, n_epochs=20, eval_steps=3, patience=2)
    single, both = (
        make_dpo_job(tmp_path / name, tiny_model_dir, patient, is_contrary=True)
        for name in ("single", "both")
    )
    assert run_to_end(single) == 0
    assert run_processes(both, 2) == [0, 0]
    done, expected = read_done(both), read_done(single)
    assert (done["step"], done["result_step"]) == (expected["step"], expected["result_step"])
    assert "2 validations in a row had no lower loss" in done["stopped"]


@pytest.mark.slow
def test_a_ceiling_ends_both_processes_at_the_same_step(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = make_dpo_job(tmp_path, tiny_model_dir, replace(SETTINGS, n_epochs=1000, max_seconds=15))
    assert run_processes(folder, 2) == [0, 0]
    done = read_done(folder)
    assert done["stopped"].startswith(f"Stopped at step {done['step']}/3000: the ceiling of 15 s")
