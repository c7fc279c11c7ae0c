"""A job by another engine that ends before its last step: by a ceiling, by lost patience, or after a kill."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.local.engines.conftest import Behave, change_settings
from trainers.local.engines.attempt import EngineCrashed
from trainers.local.engines.catalog import LLAMAFACTORY
from trainers.local.engines.runner import SAVING_S, StepTimes, train_with_engine
from trainers.local.job_directory import read_events, read_job, read_json, replace_json
from trainers.local.training.errors import TrainingFailed

FOREVER = 200  # epochs of 6 steps
ENDLESS = {"n_epochs": FOREVER, "max_seconds": 8}


def train(folder: Path) -> dict[str, Any]:
    train_with_engine(LLAMAFACTORY, folder, read_job(folder))
    return read_done(folder)


def read_done(folder: Path) -> dict[str, Any]:
    done = read_json(folder / "DONE")
    assert done is not None
    return done


def warnings(folder: Path) -> list[str]:
    return [event["message"] for event in read_events(folder) if event["level"] == "warn"]


def validated_steps(folder: Path) -> list[int]:
    with (folder / "results.csv").open() as file:
        return [int(row["step"]) for row in csv.DictReader(file) if row["valid_loss"]]


def undo_end(folder: Path, *files: str) -> None:
    """Leaves the folder as a kill after the decision to stop would."""
    shutil.rmtree(folder / "adapter")
    for name in ("DONE", *files):
        (folder / name).unlink()


def is_same_end(folder: Path, before: dict[str, Any]) -> bool:
    names = ("step", "result_step", "trained_tokens", "trainable_parameters")
    after = train(folder)
    is_same = [after[name] for name in names] == [before[name] for name in names]
    return is_same and after["stopped"].split(" Reached")[0] == before["stopped"].split(" Reached")[0]


@pytest.mark.deep
def test_a_ceiling_ends_with_a_validated_checkpoint_also_after_a_kill(
    job_folder: Path, behave: Behave
) -> None:
    behave("slow")
    change_settings(job_folder, **ENDLESS)
    ended = train(job_folder)
    assert 0 < ended["step"] < 6 * FOREVER
    stopped = f"Stopped at step {ended['step']}/1200: the ceiling of 8 s leaves no time for another step."
    assert ended["stopped"].startswith(stopped)
    assert ended["stopped"] in warnings(job_folder)
    assert validated_steps(job_folder)[-1] == ended["step"]
    assert ended["result_step"] == ended["step"]  # its loss falls
    assert (job_folder / "adapter" / "adapter_model.safetensors").exists()
    undo_end(job_folder)
    behave("key")
    assert is_same_end(job_folder, ended)


@pytest.mark.deep
def test_an_engine_that_ignores_the_ceiling_is_ended_with_its_last_checkpoint(
    job_folder: Path, behave: Behave
) -> None:
    behave("deaf")
    # Long enough for steps after the checkpoint also on a busy machine.
    change_settings(job_folder, n_epochs=FOREVER, max_seconds=12)
    ended = train(job_folder)
    assert ended["result_step"] == 6 < ended["step"] < 6 * FOREVER
    assert "The steps after the checkpoint of step 6 are lost" in warnings(job_folder)


def test_a_ceiling_before_the_first_checkpoint_fails_the_job(job_folder: Path, behave: Behave) -> None:
    behave("loads")
    change_settings(job_folder, max_seconds=4)
    with pytest.raises(TrainingFailed, match="loading the model and 0 steps took") as caught:
        train(job_folder)
    assert (caught.value.code, caught.value.param) == ("ceiling_reached", "max_seconds")
    assert caught.value.message.startswith("The ceiling of 4 s was reached before the first checkpoint")


def test_lost_patience_ends_the_engine_with_the_best_checkpoint(job_folder: Path, behave: Behave) -> None:
    behave("worse")
    change_settings(job_folder, n_epochs=FOREVER, patience=2)
    ended = train(job_folder)
    assert (ended["step"], ended["result_step"]) == (18, 6)
    assert ended["stopped"].startswith("Stopped at step 18/1200: 2 validations in a row had no lower loss.")
    assert validated_steps(job_folder) == [6, 12, 18]


def test_patience_not_lost_by_the_end_stops_nothing(job_folder: Path, behave: Behave) -> None:
    behave("worse")
    change_settings(job_folder, patience=1)
    ended = train(job_folder)
    assert (ended["step"], ended["result_step"], ended["stopped"]) == (12, 6, None)


def test_validations_come_every_eval_steps_with_checkpoints(job_folder: Path) -> None:
    change_settings(job_folder, eval_steps=4)
    train(job_folder)
    assert validated_steps(job_folder) == [4, 6, 8, 12]
    checkpoints = sorted(path.name for path in (job_folder / "checkpoints").iterdir())
    assert checkpoints == ["step-000006", "step-000008", "step-000012"]


@pytest.mark.parametrize("lost", [(), ("engine/STOP",)])
def test_a_kill_after_patience_was_lost_changes_nothing(
    job_folder: Path, behave: Behave, lost: tuple[str, ...]
) -> None:
    """Not even before the decision was written to a file, since all validations are."""
    behave("worse")
    change_settings(job_folder, n_epochs=FOREVER, patience=2)
    before = train(job_folder)
    undo_end(job_folder, *lost)
    behave("key")
    assert is_same_end(job_folder, before)


@pytest.mark.parametrize(
    ("ceiling", "phrase"),
    [
        ({"max_seconds": 3600}, "the ceiling of 3,600 s"),
        (
            {"max_usd_micros": 2_000_000, "usd_per_hour_micros": 2_000_000},
            "the ceiling of $2.00 at $2.00 an hour (3,600 s)",
        ),
    ],
)
def test_the_time_of_earlier_tries_counts_towards_the_ceiling(
    job_folder: Path, behave: Behave, ceiling: dict[str, int], phrase: str
) -> None:
    behave("crash")
    change_settings(job_folder, n_epochs=FOREVER, **ceiling)
    with pytest.raises(EngineCrashed):
        train(job_folder)
    progress = read_json(job_folder / "progress.json")
    assert progress is not None
    replace_json(job_folder / "progress.json", {**progress, "seconds": 3599.0})
    behave("key")
    ended = train(job_folder)
    assert (ended["step"], ended["result_step"]) == (12, 12)
    assert ended["stopped"].startswith(f"Stopped at step 12/1200: {phrase} leaves no time for another step.")


def test_a_kill_before_the_last_checkpoint_ends_with_the_one_before(job_folder: Path, behave: Behave) -> None:
    behave("crash")
    change_settings(job_folder, n_epochs=FOREVER, max_seconds=3600)
    with pytest.raises(EngineCrashed):
        train(job_folder)
    replace_json(job_folder / "engine" / "STOP", {"why": "ceiling"})
    shutil.rmtree(job_folder / "checkpoints" / "step-000012")
    shutil.rmtree(job_folder / "engine" / "output" / "checkpoint-12")
    behave("key")
    ended = train(job_folder)
    assert (ended["step"], ended["result_step"]) == (12, 6)
    assert "The steps after the checkpoint of step 6 are lost" in warnings(job_folder)


def test_time_is_left_for_two_steps_and_the_validations() -> None:
    times = StepTimes(validation_steps=0.5)
    assert times.until_end(is_validated_next=False).needed_s == SAVING_S
    for now in (100.0, 102.0, 105.0):
        times.record_step(now)
    assert times.until_end(is_validated_next=False).needed_s == 2 * 3 + 1.5 + SAVING_S
    times.record_validation(109.0)
    assert times.until_end(is_validated_next=False).needed_s == 2 * 3 + 4 + SAVING_S
    assert times.until_end(is_validated_next=True).needed_s == 2 * 3 + 2 * 4 + SAVING_S


def test_the_first_step_which_includes_loading_is_no_estimate() -> None:
    times = StepTimes(validation_steps=0.0)
    times.record_step(90.0)
    assert times.until_end(is_validated_next=False).needed_s == SAVING_S
