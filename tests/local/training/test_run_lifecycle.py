"""What becomes of a run that is killed, paused, stopped early, out of time, or given rows that are too long."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.local.faults import pause_in_forward
from tests.local.runs import (
    adapter_bytes,
    assert_same_result,
    count_steps,
    event_messages,
    kill_after_step,
    make_job,
    read_done,
    read_failure,
    start_run,
    train_losses,
    wait_for_step,
    write_ticket_rows,
)
from trainers.local.job_directory import read_events, read_json, replace_json
from trainers.local.launch import PAUSED
from trainers.local.train import run_training
from trainers.local.training import loop
from trainers.local.training.checkpoints import checkpoint_folder
from trainers.local.training.loop import train_step
from trainers.local.training.metrics_logger import Scores
from trainers.methods import Parameters

pytestmark = pytest.mark.usefixtures("exact_numbers")
SETTINGS = Parameters(n_epochs=2, batch_size=4, learning_rate=1e-2, lora_r=4, lora_alpha=8, lora_dropout=0.1)
STEPS = 20
VALIDATED = [4, 8, 10, 12, 16, 20]


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ticket_rows(tmp_path_factory.mktemp("data") / "train.jsonl", 40)


@pytest.fixture(scope="module")
def undisturbed(
    exact_numbers: None, tiny_model_dir: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed")
    make_job(folder, tiny_model_dir, rows_file, replace(SETTINGS, eval_steps=4), validation=rows_file)
    assert run_training(folder) == 0
    return folder


@pytest.fixture
def same_job(tiny_model_dir: Path, rows_file: Path, tmp_path: Path) -> Path:
    """The job of `undisturbed`, not yet started."""
    settings = replace(SETTINGS, eval_steps=4)
    return make_job(tmp_path / "job", tiny_model_dir, rows_file, settings, validation=rows_file)


@pytest.mark.deep
def test_a_run_that_was_killed_twice_ends_with_the_same_bytes_and_one_curve(
    undisturbed: Path, same_job: Path
) -> None:
    """The first time with a checkpoint after each step, the second time some steps after the last one."""
    kill_after_step(same_job, 2)
    kill_after_step(same_job, 13, checkpoint_s=60)
    (same_job / "checkpoints" / ".step-000099").mkdir()  # left by a kill within a checkpoint
    assert run_training(same_job) == 0
    assert_same_result(same_job, undisturbed)
    messages = event_messages(same_job)
    assert sum(message.startswith("Resuming from the checkpoint of step ") for message in messages) == 2
    assert not list((same_job / "checkpoints").glob(".*"))
    board = EventAccumulator(str(same_job / "tensorboard")).Reload()
    curve = board.Scalars("train/loss")
    assert [point.step for point in curve] == list(range(1, STEPS + 1))
    assert [point.value for point in curve] == pytest.approx(train_losses(same_job), rel=1e-4)
    assert [point.step for point in board.Scalars("valid/loss")] == VALIDATED


@pytest.mark.deep
def test_a_paused_run_saves_a_checkpoint_ends_within_seconds_and_resumes_to_the_same_bytes(
    undisturbed: Path, same_job: Path
) -> None:
    process = start_run(same_job)  # without checkpoints within an epoch
    wait_for_step(same_job, 3, process)
    (same_job / "PAUSED").write_text("{}")
    process.join(3)
    assert process.exitcode == PAUSED
    progress = read_json(same_job / "progress.json") or {}
    assert 3 <= progress["step"] < STEPS
    assert checkpoint_folder(same_job, progress["step"]).exists()
    assert progress["estimated_finish"] is None
    assert run_training(same_job) == PAUSED
    (same_job / "PAUSED").unlink()
    assert run_training(same_job) == 0
    assert_same_result(same_job, undisturbed)


@pytest.mark.deep
def test_a_pause_within_a_step_or_a_validation_loses_neither(undisturbed: Path, same_job: Path) -> None:
    for is_training, forwards in ((False, 4), (True, 7), (False, 1)):
        with pause_in_forward(same_job, forwards, is_training=is_training):
            assert run_training(same_job) == PAUSED
        (same_job / "PAUSED").unlink()
    assert run_training(same_job) == 0
    assert_same_result(same_job, undisturbed)


@pytest.mark.deep
def test_a_run_stops_when_validation_gets_no_better_and_its_best_checkpoint_is_the_result(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    contrary = write_ticket_rows(tmp_path / "valid.jsonl", 8, is_wrong=True)
    settings = replace(SETTINGS, n_epochs=20, patience=3, eval_steps=5)
    folder = make_job(tmp_path / "job", tiny_model_dir, rows_file, settings, validation=contrary)
    assert run_training(folder) == 0
    done = read_done(folder)
    validations = [event["data"] for event in read_events(folder) if "valid_loss" in event["data"]]
    assert [validation["step"] for validation in validations] == list(range(5, done["step"] + 1, 5))
    best = min(validations, key=lambda validation: validation["valid_loss"])["step"]
    assert done["result_step"] == best == done["step"] - 15
    assert done["stopped"] == event_messages(folder, "warn")[-1]
    assert done["stopped"].startswith(f"Stopped at step {done['step']}/200: 3 validations in a row had no")
    best_weights = checkpoint_folder(folder, best) / "adapter_model.safetensors"
    assert adapter_bytes(folder) == best_weights.read_bytes()
    result = f"The result is the checkpoint of step {best}/200"
    assert any(message.startswith(result) for message in event_messages(folder))


@pytest.mark.deep
def test_a_run_stops_before_its_ceiling_is_passed_and_keeps_its_result(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    settings = replace(
        SETTINGS, n_epochs=50, batch_size=1, max_usd_micros=1_000, usd_per_hour_micros=1_800_000
    )
    assert settings.ceiling_s == 2.0
    folder = make_job(tmp_path, tiny_model_dir, rows_file, settings)
    assert run_training(folder) == 0
    done = read_json(folder / "DONE") or {}
    assert 0 < done["step"] < 2000
    assert done["seconds"] <= 2.0
    stopped = f"Stopped at step {done['step']}/2000: the ceiling of under 1 cent at $1.80 an hour (2 s)"
    assert done["stopped"].startswith(stopped)
    assert adapter_bytes(folder)


@pytest.mark.deep
def test_a_slow_first_step_does_not_end_a_run_at_its_ceiling(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def step_slowly_at_first(state: Any, batch: Any, rate: float, step: int) -> Scores:
        time.sleep(2 if step == 1 else 0)
        return train_step(state, batch, rate, step)

    monkeypatch.setattr(loop, "train_step", step_slowly_at_first)
    settings = replace(
        SETTINGS, n_epochs=1, batch_size=1, max_seconds=20
    )  # validating would take 27 s like that
    folder = make_job(tmp_path / "job", tiny_model_dir, rows_file, settings, validation=rows_file)
    assert run_training(folder) == 0
    assert read_done(folder)["stopped"] is None


def test_time_before_a_kill_counts_against_the_ceiling(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, max_usd_micros=1_000_000, usd_per_hour_micros=1_200_000)
    folder = make_job(tmp_path, tiny_model_dir, rows_file, settings)
    progress = {"step": 0, "total_steps": STEPS, "trained_tokens": 0, "seconds": 4000}
    replace_json(folder / "progress.json", progress)
    assert run_training(folder) == 1
    failure = read_failure(folder)
    assert (failure["code"], failure["param"]) == ("ceiling_reached", "max_seconds")
    assert failure["message"].startswith("The ceiling of $1.00 at $1.20 an hour (3,000 s) was reached before")


def test_a_resumed_run_takes_no_step_that_its_ceiling_leaves_no_time_for(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, tiny_model_dir, rows_file, replace(SETTINGS, max_seconds=3000))
    with pause_in_forward(folder, 4, is_training=True):
        assert run_training(folder) == PAUSED
    (folder / "PAUSED").unlink()
    step = count_steps(folder)
    progress = read_json(folder / "progress.json") or {}
    replace_json(folder / "progress.json", {**progress, "seconds": 2900.0, "step_s": 200.0})
    assert run_training(folder) == 0
    assert read_done(folder)["step"] == step > 0


def test_truncated_rows_are_counted_in_an_event(tiny_model_dir: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, n_epochs=1, too_long="truncate", max_length=16)
    folder = make_job(tmp_path / "job", tiny_model_dir, write_long_rows(tmp_path, 4, words=200), settings)
    assert run_training(folder) == 0
    assert event_messages(folder, "warn") == [
        "Training rows cut to max_length 16 tokens, perhaps in the middle of an answer: 4"
    ]


def write_long_rows(folder: Path, count: int, words: int) -> Path:
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y " * words}]
    path = folder / "long.jsonl"
    path.write_text((json.dumps({"messages": turns}) + "\n") * count, encoding="utf-8")
    return path
