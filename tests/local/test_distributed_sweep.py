"""A sweep that two processes train: the arms, the winner and the adapter of one process, over a kill of
either."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.local.runs import (
    adapter_bytes,
    count_steps,
    kill_one_process,
    run_processes,
    run_to_end,
    start_processes,
    wait_for_first,
)
from tests.local.sweeps import count_trial_steps, make_sweep, table
from tests.local.test_distributed import largest_difference
from tests.local.test_run_lifecycle import messages, warnings, write_rows
from trainers.hyperparameters import Sweep
from trainers.local.job_directory import read_json
from trainers.local.train import PAUSED
from trainers.methods import Parameters

SETTINGS = Parameters(n_epochs=2, batch_size=5, lora_r=4, lora_alpha=8)
SWEEP: Sweep = (("lora_r", (2, 4)), ("learning_rate", (1e-3, 1e-2)))
STEPS = 32  # courses of 16 steps: 4 arms to step 4, 2 to step 8, 1 to the end


def sweep(root: Path, base: Path, tried: Sweep = SWEEP, settings: Parameters = SETTINGS) -> Path:
    """Batches of 5, of which one process has 3 rows and the other 2."""
    training, validation = write_rows(root / "train.jsonl", 40), write_rows(root / "valid.jsonl", 8)
    return make_sweep(root / "job", base, training, validation, settings, tried)


@pytest.fixture(scope="module")
def by_two(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """The second one is on another machine, as far as it sees: in a copy of the folder, made before they began."""
    folder = sweep(tmp_path_factory.mktemp("two"), tiny_model_dir)
    shutil.copytree(folder, folder.with_name("elsewhere"))
    assert run_processes(folder, 2, others=folder.with_name("elsewhere")) == [0, 0]
    return folder


def test_two_processes_find_the_losses_the_winner_and_the_adapter_that_one_finds(
    by_two: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    alone = sweep(tmp_path, tiny_model_dir)
    assert run_to_end(alone) == 0
    for ours, theirs in zip(table(by_two), table(alone), strict=True):
        assert float(ours.pop("valid_loss")) == pytest.approx(float(theirs.pop("valid_loss")), abs=1e-4)
        assert ours == theirs
    done, other = read_json(by_two / "DONE") or {}, read_json(alone / "DONE") or {}
    assert {**done, "seconds": 0} == {**other, "seconds": 0}
    assert largest_difference(by_two, alone) < 1e-4
    said = messages(by_two)
    assert "2 processes share each batch, each with the whole base" in said
    assert [each.partition(" ")[0] for each in said if "adapter saved" in each] == ["All"]
    assert [each[:6] for each in said if each.startswith("Rung ")] == ["Rung 1", "Rung 2", "Rung 3"]


def test_a_process_on_another_machine_has_all_that_it_needs_from_the_first_and_writes_its_tokens_alone(
    by_two: Path,
) -> None:
    assert {path.name for path in by_two.with_name("elsewhere").iterdir()} == {
        "job.json",
        "base.json",
        "rows",
    }


@pytest.mark.parametrize(("rank", "steps"), [pytest.param(0, 6, marks=pytest.mark.slow), (1, 19)])
def test_a_kill_of_either_process_loses_no_arm_and_ends_with_the_same_bytes(
    rank: int, steps: int, by_two: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = sweep(tmp_path, tiny_model_dir)
    kill_one_process(folder, rank, lambda: count_trial_steps(folder), steps)
    check_gone_on(folder, by_two)


def check_gone_on(folder: Path, by_two: Path) -> None:
    assert run_processes(folder, 2) == [0, 0]
    assert adapter_bytes(folder) == adapter_bytes(by_two)
    assert table(folder) == table(by_two)
    assert count_trial_steps(folder) == STEPS


def test_a_pause_of_the_sweep_is_seen_in_the_midst_of_an_arm(
    by_two: Path, tmp_path: Path, tiny_model_dir: Path
) -> None:
    folder = sweep(tmp_path, tiny_model_dir)
    team = start_processes(folder, 2)
    while count_steps(folder / "arms" / "02") == 0:
        team[0].join(0.002)
        assert team[0].is_alive()
    (folder / "PAUSED").touch()
    assert wait_for_first(team) == PAUSED
    progress = read_json(folder / "progress.json") or {}
    assert 4 < progress["step"] < STEPS
    assert progress["estimated_finish"] is None
    (folder / "PAUSED").unlink()
    check_gone_on(folder, by_two)


def test_an_arm_that_is_out_is_out_in_both_processes(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = sweep(tmp_path, tiny_model_dir, (("learning_rate", (1e-3, 1e30)),))
    assert run_processes(folder, 2) == [0, 0]
    assert table(folder)[1]["outcome"].startswith("out after step 1: At step 2 the loss became nan")
    assert [said for said in warnings(folder) if said.startswith("Arm 2: is out, and the sweep goes on")]
    assert (read_json(folder / "DONE") or {})["winner"] == 1


def test_arms_are_not_trained_on_a_base_that_is_divided(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = sweep(tmp_path, tiny_model_dir, settings=replace(SETTINGS, sharding="fsdp"))
    assert wait_for_first(start_processes(folder, 2)) == 1
    failed = read_json(folder / "FAILED") or {}
    assert (failed["code"], failed["param"]) == ("sharding_unavailable", "sharding")


@pytest.mark.slow
def test_one_ceiling_holds_for_all_arms_in_both_processes(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = sweep(tmp_path, tiny_model_dir, settings=replace(SETTINGS, n_epochs=1000, max_seconds=15))
    assert run_processes(folder, 2) == [0, 0]
    done = read_json(folder / "DONE") or {}
    assert done["stopped"].startswith(f"Stopped at step {done['step']}/16000: the ceiling of 15 s")
    assert table(folder)[done["winner"] - 1]["outcome"] == "won"
