"""A sweep that is trained, killed, paused, short of time or memory, or has trials that fail."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.local.faults import limit_memory, pause_in_forward
from tests.local.runs import (
    adapter_bytes,
    event_messages,
    limit_file_size,
    make_job,
    read_done,
    read_failure,
    write_ticket_rows,
)
from tests.local.sweeps import count_trial_steps, kill_after_steps, make_sweep, read_table
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
from trainers.local.launch import PAUSED
from trainers.local.train import run_training
from trainers.methods import Parameters

pytestmark = [pytest.mark.deep, pytest.mark.usefixtures("exact_numbers")]
SETTINGS = Parameters(n_epochs=2, batch_size=5, lora_r=4, lora_alpha=8, lora_dropout=0.1)
SWEEP: Sweep = (("lora_r", (2, 4)), ("learning_rate", (1e-3, 1e-2)))
COURSE = 16  # steps: 40 rows, 5 in each, twice


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ticket_rows(tmp_path_factory.mktemp("data") / "train.jsonl", 40)


@pytest.fixture(scope="module")
def valid_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ticket_rows(tmp_path_factory.mktemp("data") / "valid.jsonl", 8)


@pytest.fixture(scope="module")
def undisturbed(
    exact_numbers: None,
    tiny_model_dir: Path,
    rows_file: Path,
    valid_file: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    make_sweep(folder, tiny_model_dir, rows_file, valid_file, SETTINGS, SWEEP)
    assert run_training(folder) == 0
    return folder


@pytest.fixture
def same_sweep(tiny_model_dir: Path, rows_file: Path, valid_file: Path, tmp_path: Path) -> Path:
    """The sweep of `undisturbed`, not yet started."""
    return make_sweep(tmp_path / "job", tiny_model_dir, rows_file, valid_file, SETTINGS, SWEEP)


def test_the_winner_has_the_bytes_of_a_single_job_at_twice_its_steps_and_tokens(
    undisturbed: Path, tiny_model_dir: Path, rows_file: Path, valid_file: Path, tmp_path: Path
) -> None:
    done, job = read_done(undisturbed), read_job(undisturbed)
    winner = job.trials[done["winner"] - 1]
    settings = replace(winner, eval_steps=4)
    single = make_job(tmp_path, tiny_model_dir, rows_file, settings, validation=valid_file)
    assert run_training(single) == 0
    assert adapter_bytes(undisturbed) == adapter_bytes(single)
    assert with_winning_settings(undisturbed, job).settings == winner
    expected = read_done(single)
    assert done["step"] == 2 * COURSE == 2 * expected["step"]
    tokens = 2 * expected["trained_tokens"]
    assert done["trained_tokens"] == pytest.approx(tokens, rel=0.01)  # a round may end within an epoch
    assert done["trainable_parameters"] == expected["trainable_parameters"]
    progress = read_json(undisturbed / "progress.json") or {}
    assert progress["step"] == progress["total_steps"] == 2 * COURSE


def test_the_table_has_each_trials_steps_and_outcome(undisturbed: Path) -> None:
    rows = read_table(undisturbed)
    done = read_done(undisturbed)
    assert [(row["arm"], row["lora_r"], row["learning_rate"]) for row in rows] == [
        ("1", "2", "0.001"),
        ("2", "2", "0.01"),
        ("3", "4", "0.001"),
        ("4", "4", "0.01"),
    ]
    won = rows[done["winner"] - 1]
    assert (won["outcome"], won["step"], won["best_step"]) == ("won", "16", str(done["result_step"]))
    assert float(won["valid_loss"]) == min(float(row["valid_loss"]) for row in rows)
    outcomes = sorted(row["outcome"] + " at " + row["step"] for row in rows if row is not won)
    assert outcomes == ["stopped after round 1 at 4"] * 2 + ["stopped after round 2 at 8"]


def test_each_round_is_reported_once_with_its_trials_from_best_to_worst(undisturbed: Path) -> None:
    rounds = [event for event in read_events(undisturbed) if event["message"].startswith("Round ")]
    assert [event["data"]["rung"] for event in rounds] == [1, 2, 3]
    assert [len(event["data"]["arms"]) for event in rounds] == [4, 2, 1]
    losses = [trial["valid_loss"] for trial in rounds[0]["data"]["arms"]]
    assert losses == sorted(losses)
    first, *_, last = rounds[0]["message"].splitlines()[1:]
    assert first.endswith("continues")
    assert last.endswith("stopped")
    assert "step 4/16, validation loss" in last


def test_the_winners_checkpoints_and_curve_become_the_jobs_and_other_weights_are_deleted(
    undisturbed: Path,
) -> None:
    winner = undisturbed / "arms" / f"{read_done(undisturbed)['winner']:02d}"
    assert (undisturbed / "results.csv").read_text() == (winner / "results.csv").read_text()
    steps = [path.name for path in sorted((undisturbed / "checkpoints").iterdir())]
    assert steps == ["step-000008", "step-000016"]
    assert not list(undisturbed.glob("arms/*/checkpoints"))


@pytest.mark.parametrize(
    "kills",
    [(18,), pytest.param((1, 4, 5, 9, 15, 16, 18, 21, 24, 26, 31), marks=pytest.mark.slow)],
    ids=["once", "many times"],
)
def test_a_killed_sweep_repeats_no_step_and_ends_with_the_same_bytes(
    kills: tuple[int, ...], undisturbed: Path, same_sweep: Path
) -> None:
    """`kills` are steps counted over all trials."""
    for steps in kills:
        kill_after_steps(same_sweep, steps)
    assert run_training(same_sweep) == 0
    assert_same_sweep(same_sweep, undisturbed)
    assert round_messages(same_sweep) == round_messages(undisturbed)


def assert_same_sweep(folder: Path, undisturbed: Path) -> None:
    assert adapter_bytes(folder) == adapter_bytes(undisturbed)
    assert read_table(folder) == read_table(undisturbed)
    assert count_trial_steps(folder) == 2 * COURSE
    assert read_done(folder) == read_done(undisturbed)


def round_messages(folder: Path) -> list[str]:
    return [message for message in event_messages(folder) if message.startswith("Round ")]


def test_a_kill_between_choosing_and_publishing_the_winner_only_repeats_publishing(undisturbed: Path) -> None:
    before, done = adapter_bytes(undisturbed), read_done(undisturbed)
    (undisturbed / "DONE").unlink()
    assert run_training(undisturbed) == 0
    assert adapter_bytes(undisturbed) == before
    assert read_done(undisturbed) == done


def test_a_sweep_paused_within_any_trial_ends_with_the_same_bytes(
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
    assert_same_sweep(same_sweep, undisturbed)


def test_each_trial_finds_out_only_once_that_memory_is_too_small(
    tiny_model_dir: Path, rows_file: Path, valid_file: Path, tmp_path: Path
) -> None:
    sweep: Sweep = (("learning_rate", (1e-3, 1e-2)),)
    settings = replace(SETTINGS, n_epochs=1)
    folder = make_sweep(tmp_path, tiny_model_dir, rows_file, valid_file, settings, sweep)
    with limit_memory(60), pause_in_forward(folder, 24, is_training=True):
        assert run_training(folder) == PAUSED
    checkpoints = [read_json(path) or {} for path in folder.glob("arms/*/checkpoints/*/checkpoint.json")]
    assert len(checkpoints) >= 2
    assert all(0 < checkpoint["room"]["tokens"] < 100 for checkpoint in checkpoints)
    (folder / "PAUSED").unlink()
    with limit_memory(60):
        assert run_training(folder) == 0
    warnings = [warning for warning in event_messages(folder, "warn") if "Memory was full" in warning]
    kinds = {(warning.partition(":")[0], "recomputed" in warning) for warning in warnings}
    assert len(warnings) == len(kinds) == 4


def test_a_trial_whose_loss_is_not_finite_is_out_and_the_others_go_on(
    tiny_model_dir: Path, rows_file: Path, valid_file: Path, tmp_path: Path
) -> None:
    sweep: Sweep = (("learning_rate", (1e-3, 1e30, 1e-2)),)
    folder = make_sweep(tmp_path, tiny_model_dir, rows_file, valid_file, SETTINGS, sweep)
    assert run_training(folder) == 0
    assert read_table(folder)[1]["outcome"].startswith("out after step 1: At step 2 the loss became nan")
    warnings = event_messages(folder, "warn")
    assert any(warning.startswith("Trial 2: drops out: ") for warning in warnings)
    done = read_done(folder)
    assert done["winner"] == 3
    assert done["step"] == 4 + 1 + 16 + 4  # round 2 is for two, so trial 1 goes on too


def test_a_sweep_whose_trials_all_fail_fails_with_their_reasons(
    tiny_model_dir: Path, rows_file: Path, valid_file: Path, tmp_path: Path
) -> None:
    sweep: Sweep = (("learning_rate", (1e29, 1e30)),)
    folder = make_sweep(tmp_path, tiny_model_dir, rows_file, valid_file, SETTINGS, sweep)
    assert run_training(folder) == 1
    failure = read_failure(folder)
    assert (failure["code"], failure["param"]) == ("all_arms_out", "sweep")
    reason = "All 2 trials of the sweep failed. Trial 1 (learning_rate 1e+29): At step 2"
    assert failure["message"].startswith(reason)


def test_one_ceiling_holds_for_all_trials_and_the_best_so_far_is_the_result(
    tiny_model_dir: Path, rows_file: Path, valid_file: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, n_epochs=50, batch_size=1, max_seconds=2)
    folder = make_sweep(tmp_path, tiny_model_dir, rows_file, valid_file, settings, SWEEP)
    assert run_training(folder) == 0
    done = read_json(folder / "DONE") or {}
    assert done["seconds"] <= 2
    stopped = f"Stopped at step {done['step']}/4000: the ceiling of 2 s leaves no time"
    assert done["stopped"].startswith(stopped)
    assert read_table(folder)[done["winner"] - 1]["outcome"] == "won"
    assert adapter_bytes(folder)


def test_time_of_killed_processes_counts_against_the_sweeps_ceiling(same_sweep: Path) -> None:
    job = read_job(same_sweep)
    write_job(same_sweep, replace(job, settings=replace(job.settings, max_seconds=3000)))
    progress = {"step": 0, "total_steps": 32, "trained_tokens": 0, "seconds": 4000}
    replace_json(same_sweep / "progress.json", progress)
    assert run_training(same_sweep) == 1
    failure = read_failure(same_sweep)
    assert (failure["code"], failure["param"]) == ("ceiling_reached", "max_seconds")


def test_a_full_disk_pauses_the_sweep_and_no_trial_is_out(same_sweep: Path) -> None:
    with limit_file_size(12_000):
        assert run_training(same_sweep) == PAUSED
    assert "The disk is full: " in event_messages(same_sweep)[-1]
    assert not list(same_sweep.glob("arms/*/OUT"))
