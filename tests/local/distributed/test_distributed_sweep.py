"""A sweep in two processes: the trials, winner and adapter of one process, also after a pause and a kill."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.local.distributed.test_distributed import largest_difference
from tests.local.runs import (
    adapter_bytes,
    count_steps,
    event_messages,
    kill_one_process,
    read_done,
    run_on_two_machines,
    run_processes,
    start_processes,
    wait_for_first,
    write_ticket_rows,
)
from tests.local.sweeps import count_trial_steps, make_sweep, read_table
from trainers.hyperparameters import Sweep
from trainers.local.job_directory import read_json
from trainers.local.launch import PAUSED
from trainers.local.train import run_training
from trainers.methods import Parameters

pytestmark = [pytest.mark.deep, pytest.mark.usefixtures("exact_numbers")]
SETTINGS = Parameters(n_epochs=4, batch_size=5, lora_r=4, lora_alpha=8)
SWEEP: Sweep = (("learning_rate", (1e-3, 1e30, 1e-2)),)
# Of 16: trials 1 and 3 to step 4, trial 2 fails after step 1, trials 1 and 3 to step 8, one to the end
STEPS = 25


def make_distributed_sweep(root: Path, base: Path, settings: Parameters = SETTINGS) -> Path:
    """Batches of 5, of which one process has 3 rows and the other 2. The second trial's loss becomes nan."""
    training, validation = (write_ticket_rows(root / f"{count}.jsonl", count) for count in (20, 4))
    return make_sweep(root / "job", base, training, validation, settings, SWEEP)


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    return run_on_two_machines(make_distributed_sweep(tmp_path_factory.mktemp("two"), tiny_model_dir))


def test_two_processes_find_the_losses_the_winner_and_the_adapter_of_one(
    by_two: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    single = make_distributed_sweep(tmp_path, tiny_model_dir)
    assert run_training(single) == 0
    for ours, theirs in zip(read_table(by_two), read_table(single), strict=True):
        assert float(ours.pop("valid_loss") or 0) == pytest.approx(
            float(theirs.pop("valid_loss") or 0), abs=1e-4
        )
        assert ours == theirs
    assert read_done(by_two) == read_done(single)
    assert largest_difference(by_two, single) < 1e-4
    messages = event_messages(by_two)
    assert "2 processes share each batch, each with the whole base" in messages
    assert [message.partition(" ")[0] for message in messages if "adapter saved" in message] == ["All"]
    assert [message[:7] for message in messages if message.startswith("Round ")] == [
        "Round 1",
        "Round 2",
        "Round 3",
    ]


def test_a_trial_that_fails_is_out_in_both_processes(by_two: Path) -> None:
    assert read_table(by_two)[1]["outcome"].startswith("out after step 1: At step 2 the loss became nan")
    warnings = event_messages(by_two, "warn")
    assert any(warning.startswith("Trial 2: drops out: ") for warning in warnings)


def test_a_process_on_another_machine_writes_only_its_tokenized_rows(by_two: Path) -> None:
    files = {path.name for path in by_two.with_name("elsewhere").iterdir()}
    assert files == {"job.json", "base.json", "rows"}


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_a_sweep_that_is_paused_and_killed_loses_no_step_and_ends_with_the_same_bytes(
    rank: int, by_two: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = make_distributed_sweep(tmp_path, tiny_model_dir)
    processes = start_processes(folder, 2)
    while count_steps(folder / "arms" / "01") == 0:
        processes[0].join(0.005)
        assert processes[0].is_alive()
    (folder / "PAUSED").touch()
    assert wait_for_first(processes) == PAUSED
    progress = read_json(folder / "progress.json") or {}
    assert 0 < progress["step"] < STEPS
    (folder / "PAUSED").unlink()
    kill_one_process(folder, rank, lambda: count_trial_steps(folder), steps=STEPS - 6)
    assert run_processes(folder, 2) == [0, 0]
    assert adapter_bytes(folder) == adapter_bytes(by_two)
    assert read_table(folder) == read_table(by_two)
    assert count_trial_steps(folder) == STEPS


@pytest.mark.slow
def test_one_ceiling_holds_for_all_trials_in_both_processes(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = make_distributed_sweep(
        tmp_path, tiny_model_dir, replace(SETTINGS, n_epochs=1000, max_seconds=15)
    )
    assert run_processes(folder, 2) == [0, 0]
    done = read_done(folder)
    assert done["stopped"].startswith(f"Stopped at step {done['step']}/")
    assert "the ceiling of 15 s" in done["stopped"]
    assert read_table(folder)[done["winner"] - 1]["outcome"] == "won"
