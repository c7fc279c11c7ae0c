"""A sweep that is trained, killed, paused, out of time or memory, with arms that fail; on a model made in
process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.local.runs import adapter_bytes, limit_file_size, make_job
from tests.local.sweeps import count_trial_steps, kill_after_steps, make_sweep, table
from tests.local.test_run_lifecycle import (
    limit_memory,
    messages,
    pause_in_forward,
    results,
    warnings,
    write_rows,
)
from trainers.hyperparameters import Sweep
from trainers.local.job_directory import (
    read_events,
    read_job,
    read_json,
    replace_json,
    with_winning_settings,
    write_job,
)
from trainers.local.jobs.job_queue import steps_in_checkpoints
from trainers.local.train import PAUSED, run_training
from trainers.methods import Parameters

SETTINGS = Parameters(n_epochs=2, batch_size=5, lora_r=4, lora_alpha=8, lora_dropout=0.1)
SWEEP: Sweep = (("lora_r", (2, 4)), ("learning_rate", (1e-3, 1e-2)))
COURSE = 16  # 40 rows, 5 a step, twice


@contextmanager
def exact_numbers() -> Iterator[None]:
    threads = torch.get_num_threads()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FINETUNE_DTYPE", "fp32")
        torch.set_num_threads(1)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _exact_numbers() -> Iterator[None]:
    with exact_numbers():
        yield


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "train.jsonl", 40)


@pytest.fixture(scope="module")
def valid_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_rows(tmp_path_factory.mktemp("data") / "valid.jsonl", 8)


@pytest.fixture(scope="module")
def undisturbed(
    tiny_model_dir: Path, rows_file: Path, valid_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    make_sweep(folder, tiny_model_dir, rows_file, valid_file, SETTINGS, SWEEP)
    with exact_numbers():
        assert run_training(folder) == 0
    return folder


@pytest.fixture
def same_sweep(tiny_model_dir: Path, rows_file: Path, valid_file: Path, tmp_path: Path) -> Path:
    """The sweep of `undisturbed`, not begun."""
    return make_sweep(tmp_path / "job", tiny_model_dir, rows_file, valid_file, SETTINGS, SWEEP)


def test_four_arms_take_the_steps_and_tokens_of_two_single_jobs_and_the_winner_is_its_single_job_to_the_byte(
    undisturbed: Path, tiny_model_dir: Path, rows_file: Path, valid_file: Path, tmp_path: Path
) -> None:
    done, job = read_json(undisturbed / "DONE") or {}, read_job(undisturbed)
    winner = job.arms[done["winner"] - 1]
    alone = make_job(
        tmp_path, tiny_model_dir, rows_file, replace(winner, eval_steps=4), validation=valid_file
    )
    assert run_training(alone) == 0
    assert adapter_bytes(undisturbed) == adapter_bytes(alone)
    assert with_winning_settings(undisturbed, job).settings == winner
    single = read_json(alone / "DONE") or {}
    assert done["step"] == 2 * COURSE == 2 * single["step"]
    assert done["trained_tokens"] == pytest.approx(
        2 * single["trained_tokens"], rel=0.01
    )  # a rung ends in mid-epoch
    assert done["trainable_parameters"] == single["trainable_parameters"]
    progress = read_json(undisturbed / "progress.json") or {}
    assert progress["step"] == progress["total_steps"] == 2 * COURSE


def test_the_table_says_of_each_arm_how_far_it_came_and_why_it_ended(undisturbed: Path) -> None:
    rows = table(undisturbed)
    done = read_json(undisturbed / "DONE") or {}
    assert [(row["arm"], row["lora_r"], row["learning_rate"]) for row in rows] == [
        ("1", "2", "0.001"),
        ("2", "2", "0.01"),
        ("3", "4", "0.001"),
        ("4", "4", "0.01"),
    ]
    won = rows[done["winner"] - 1]
    assert (won["outcome"], won["step"], won["best_step"]) == ("won", "16", str(done["result_step"]))
    assert float(won["valid_loss"]) == min(float(row["valid_loss"]) for row in rows)
    fates = sorted(row["outcome"] + " at " + row["step"] for row in rows if row is not won)
    assert fates == ["stopped after rung 1 at 4"] * 2 + ["stopped after rung 2 at 8"]


def test_each_rung_is_told_once_with_its_arms_from_the_best_to_the_worst(undisturbed: Path) -> None:
    rungs = [event for event in read_events(undisturbed) if event["message"].startswith("Rung ")]
    assert [event["data"]["rung"] for event in rungs] == [1, 2, 3]
    assert [len(event["data"]["arms"]) for event in rungs] == [4, 2, 1]
    losses = [arm["valid_loss"] for arm in rungs[0]["data"]["arms"]]
    assert losses == sorted(losses)
    first, *_, last = rungs[0]["message"].splitlines()[1:]
    assert first.endswith("goes on")
    assert last.endswith("stopped")
    assert "step 4/16, validation loss" in last


def test_the_winners_checkpoints_and_curve_become_the_jobs_and_no_other_weights_stay(
    undisturbed: Path,
) -> None:
    done = read_json(undisturbed / "DONE") or {}
    arm = undisturbed / "arms" / f"{done['winner']:02d}"
    assert results(undisturbed) == results(arm)
    steps = [path.name for path in sorted((undisturbed / "checkpoints").iterdir())]
    assert steps == ["step-000008", "step-000016"]
    assert not list(undisturbed.glob("arms/*/checkpoints"))


def test_a_killed_sweep_trains_no_arm_twice_and_ends_with_the_same_bytes(
    undisturbed: Path, same_sweep: Path
) -> None:
    check_killed(undisturbed, same_sweep, (18,))


@pytest.mark.slow
def test_a_sweep_killed_at_many_points_ends_with_the_same_bytes(undisturbed: Path, same_sweep: Path) -> None:
    check_killed(undisturbed, same_sweep, (1, 4, 5, 9, 15, 16, 18, 21, 24, 26, 31))


def check_killed(undisturbed: Path, folder: Path, at: tuple[int, ...]) -> None:
    """`at`: steps, counted over all arms."""
    for steps in at:
        kill_after_steps(folder, steps)
    assert run_training(folder) == 0
    assert adapter_bytes(folder) == adapter_bytes(undisturbed)
    assert table(folder) == table(undisturbed)
    assert count_trial_steps(folder) == 2 * COURSE
    assert rungs_told(folder) == rungs_told(undisturbed)
    done, other = read_json(folder / "DONE") or {}, read_json(undisturbed / "DONE") or {}
    assert {**done, "seconds": 0} == {**other, "seconds": 0}


def rungs_told(folder: Path) -> list[str]:
    return [said for said in messages(folder) if said.startswith("Rung ")]


def test_a_kill_between_the_choice_and_the_end_publishes_the_choice(undisturbed: Path) -> None:
    before = adapter_bytes(undisturbed)
    (undisturbed / "DONE").rename(undisturbed / "was")
    assert run_training(undisturbed) == 0
    assert adapter_bytes(undisturbed) == before
    done, was = read_json(undisturbed / "DONE") or {}, read_json(undisturbed / "was") or {}
    assert {**done, "seconds": 0} == {**was, "seconds": 0}


def test_a_pause_within_any_arm_is_kept_and_the_sweep_goes_on_to_the_same_bytes(
    undisturbed: Path, same_sweep: Path
) -> None:
    for forwards in (3, 9):
        with pause_in_forward(same_sweep, forwards, is_training=True):
            assert run_training(same_sweep) == PAUSED
        progress = read_json(same_sweep / "progress.json") or {}
        assert progress["step"] == steps_in_checkpoints(same_sweep)
        assert progress["estimated_finish"] is None
        (same_sweep / "PAUSED").unlink()
    assert run_training(same_sweep) == 0
    assert adapter_bytes(same_sweep) == adapter_bytes(undisturbed)
    assert table(same_sweep) == table(undisturbed)


def test_an_arm_whose_loss_is_no_number_is_out_and_the_others_go_on(
    tiny_model_dir: Path, rows_file: Path, valid_file: Path, tmp_path: Path
) -> None:
    sweep: Sweep = (("learning_rate", (1e-3, 1e30, 1e-2)),)
    folder = make_sweep(tmp_path, tiny_model_dir, rows_file, valid_file, SETTINGS, sweep)
    assert run_training(folder) == 0
    out = table(folder)[1]
    assert out["outcome"].startswith("out after step 1: At step 2 the loss became nan")
    assert [said for said in warnings(folder) if said.startswith("Arm 2: is out, and the sweep goes on")]
    assert (read_json(folder / "DONE") or {})["winner"] == 3
    assert (read_json(folder / "DONE") or {})[
        "step"
    ] == 4 + 1 + 16 + 4  # rung 2 is for two: arm 1 goes on too


def test_where_every_arm_is_out_the_job_fails_with_each_ones_reason(
    tiny_model_dir: Path, rows_file: Path, valid_file: Path, tmp_path: Path
) -> None:
    sweep: Sweep = (("learning_rate", (1e29, 1e30)),)
    folder = make_sweep(tmp_path, tiny_model_dir, rows_file, valid_file, SETTINGS, sweep)
    assert run_training(folder) == 1
    failed = read_json(folder / "FAILED") or {}
    assert (failed["code"], failed["param"]) == ("all_arms_out", "sweep")
    assert failed["message"].startswith(
        "All 2 arms of the sweep failed. Arm 1 (learning_rate 1e+29): At step 2"
    )


def test_one_ceiling_holds_for_all_arms_together_and_the_best_so_far_is_the_result(
    tiny_model_dir: Path, rows_file: Path, valid_file: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, n_epochs=50, batch_size=1, max_seconds=2)
    folder = make_sweep(tmp_path, tiny_model_dir, rows_file, valid_file, settings, SWEEP)
    assert run_training(folder) == 0
    done = read_json(folder / "DONE") or {}
    assert done["seconds"] <= 2
    assert done["stopped"].startswith(
        f"Stopped at step {done['step']}/4000: the ceiling of 2 s leaves no time"
    )
    assert table(folder)[done["winner"] - 1]["outcome"] == "won"
    assert adapter_bytes(folder)


def test_what_killed_processes_took_counts_against_the_sweeps_ceiling(same_sweep: Path) -> None:
    job = read_job(same_sweep)
    write_job(same_sweep, replace(job, settings=replace(job.settings, max_seconds=3000)))
    told = {"step": 0, "total_steps": 32, "trained_tokens": 0, "seconds": 4000}
    replace_json(same_sweep / "progress.json", told)
    assert run_training(same_sweep) == 1
    failed = read_json(same_sweep / "FAILED") or {}
    assert (failed["code"], failed["param"]) == ("ceiling_reached", "max_seconds")


def test_a_full_disk_pauses_the_sweep_and_no_arm_is_out_for_it(same_sweep: Path) -> None:
    with limit_file_size(12_000):
        assert run_training(same_sweep) == PAUSED
    assert "The disk is full: " in messages(same_sweep)[-1]
    assert not list(same_sweep.glob("arms/*/OUT"))


def test_each_arm_remembers_that_memory_was_too_small_for_it(same_sweep: Path) -> None:
    with limit_memory(60), pause_in_forward(same_sweep, 40, is_training=True):
        assert run_training(same_sweep) == PAUSED
    rooms = [read_json(path) or {} for path in same_sweep.glob("arms/*/checkpoints/*/checkpoint.json")]
    assert len(rooms) >= 3
    assert all(0 < room["room"] < 100 for room in rooms)
    (same_sweep / "PAUSED").unlink()
    assert run_training(same_sweep) == 0
    told = [said for said in warnings(same_sweep) if "Memory was full" in said]
    once = {(said.partition(":")[0], "recomputed" in said) for said in told}
    assert len(told) == len(once)  # each measure once an arm, also those of the second process
