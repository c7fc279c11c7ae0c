"""What becomes of a job that another engine trains. The engine is a stand-in, its process and files are
real."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.local.engines.conftest import change, facts
from trainers.local.engines.artifacts import read_results
from trainers.local.engines.catalog import LLAMAFACTORY, lock_engine
from trainers.local.engines.process import kill_leftover
from trainers.local.engines.runner import EngineCrashed, train_with_engine
from trainers.local.job_directory import read_events, read_job, read_json
from trainers.local.training.errors import TrainingFailed, TrainingPaused

ROOT = Path(__file__).resolve().parents[3]
HOLDS = """
import sys
from pathlib import Path
from trainers.local.engines.process import follow_log, run_engine
folder = Path(sys.argv[1])
with run_engine(folder, folder / "run.sh", {}) as process:
    print("running", flush=True)
    for line in follow_log(folder / "log.txt", 0, process):
        pass
"""


def train(folder: Path) -> None:
    train_with_engine(LLAMAFACTORY, folder, read_job(folder))


def messages(folder: Path) -> list[str]:
    return [event["message"] for event in read_events(folder)]


def failure(folder: Path) -> TrainingFailed:
    with pytest.raises(TrainingFailed) as caught:
        train(folder)
    return caught.value


def test_a_job_ends_with_an_adapter_in_float32_and_done(job_folder: Path) -> None:
    train(job_folder)
    done = read_json(job_folder / "DONE")
    assert done is not None
    assert (done["trained_tokens"], done["trainable_parameters"]) == (2012, 8 * 64)
    weights = load_file(job_folder / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert (job_folder / "adapter" / "adapter_config.json").exists()


@pytest.mark.parametrize("name", ["SLACK_BOT_TOKEN", "OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY"])
def test_an_engine_gets_no_key_in_its_environment(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "canary-key")
    python = job_folder.parents[1] / "engines" / "llamafactory" / "env" / "bin" / "python"
    told = job_folder / "environ"
    python.write_text(f'#!/bin/sh\ntest "$1" = train.py || exit 0\ncat /proc/self/environ > {told}; exit 1\n')
    with pytest.raises(EngineCrashed):
        train(job_folder)
    assert "PATH=" in told.read_text()
    assert "canary-key" not in told.read_text()


def test_its_log_becomes_our_events_and_results(job_folder: Path) -> None:
    train(job_folder)
    with (job_folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert [row["valid_loss"] for row in rows if row["valid_loss"]] == ["2.94", "2.88"]
    assert {row["train_accuracy"] for row in rows} == {""}
    progress = read_json(job_folder / "progress.json")
    assert progress is not None
    assert (progress["step"], progress["total_steps"], progress["trained_tokens"]) == (12, 12, 2012)
    assert progress["estimated_finish"] <= time.time() + 1
    said = messages(job_folder)
    assert "Training local/tiny with llamafactory 0.9.5 on cpu in fp32" in said
    assert "Epoch 2/2 finished after step 12/12" in said
    assert "Checkpoint of step 12/12 saved" in said
    metrics = [event["data"] for event in read_events(job_folder) if event["type"] == "metrics"]
    assert metrics[-1]["valid_loss"] == 2.88
    assert "train_mean_token_accuracy" not in metrics[-1]


def test_the_result_is_the_checkpoint_of_the_lowest_validation_loss(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_FAKE_ENGINE", "worse")
    train(job_folder)
    done = read_json(job_folder / "DONE")
    assert done is not None
    assert (done["step"], done["result_step"]) == (12, 6)
    weights = load_file(job_folder / "adapter" / "adapter_model.safetensors")
    assert {tensor.max().item() for tensor in weights.values()} == {6.0}
    assert any("The result is the checkpoint of step 6/12" in message for message in messages(job_folder))


def test_a_paused_job_ends_its_engine_and_goes_on_when_resumed(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_FAKE_ENGINE", "slow")
    mark = threading.Timer(3.0, (job_folder / "PAUSED").touch)
    mark.start()
    with pytest.raises(TrainingPaused):
        train(job_folder)
    mark.join()
    kill_leftover(job_folder / "engine")  # finds none, else it would wait
    progress = read_json(job_folder / "progress.json")
    assert progress is not None
    assert progress["estimated_finish"] is None
    assert not (job_folder / "DONE").exists()
    (job_folder / "PAUSED").unlink()
    train(job_folder)
    assert (job_folder / "DONE").exists()


def test_a_full_disk_is_a_pause(job_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FINETUNE_FAKE_ENGINE", "disk")
    with pytest.raises(TrainingPaused):
        train(job_folder)
    assert (job_folder / "PAUSED").exists()
    assert any("Free some space and resume it" in message for message in messages(job_folder))


def test_what_it_was_told_stays_in_the_jobs_folder(job_folder: Path) -> None:
    train(job_folder)
    engine = job_folder / "engine"
    assert "lora_rank: 8\n" in (engine / "config.yml").read_text()
    assert "python train.py config.yml" in (engine / "run.sh").read_text()
    assert len((engine / "rows" / "train.jsonl").read_text().splitlines()) == 24
    assert "learning_rate" in (engine / "log.txt").read_text()


def test_a_crash_says_the_engines_last_words_and_the_next_try_goes_on(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_FAKE_ENGINE", "crash")
    with pytest.raises(
        EngineCrashed, match=r"llamafactory ended with exit code 1: .*the card fell off the bus"
    ):
        train(job_folder)
    assert not (job_folder / "FAILED").exists()
    assert [path.name for path in sorted(job_folder.glob("checkpoints/*"))] == ["step-000006", "step-000012"]
    train(job_folder)
    assert "Resuming from the checkpoint of step 12/12" in messages(job_folder)
    assert not (job_folder / "engine" / "output" / "checkpoint-999").exists()
    rows = (job_folder / "results.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [str(step) for step in range(1, 13)]


def test_checkpoints_whose_steps_nobody_heard_of_are_not_gone_on_from(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As an engine leaves them that outlived the process which read its log."""
    monkeypatch.setenv("FINETUNE_FAKE_ENGINE", "crash")
    with pytest.raises(EngineCrashed):
        train(job_folder)
    output, results = job_folder / "engine" / "output", job_folder / "results.csv"
    results.write_text("".join(results.read_text().splitlines(keepends=True)[:9]))
    train(job_folder)
    assert "Resuming from the checkpoint of step 6/12" in messages(job_folder)
    rows = results.read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [str(step) for step in range(1, 13)]
    assert (output / "checkpoint-12").exists()


@pytest.mark.parametrize(
    ("rows", "complete"),
    [
        ([], 0),
        (["1,2.5,,,", "2,2.4,,,"], 2),
        (["1,2.5,,,", "2,2.4,,,", "3,2.3,,2.2,"], 3),
        (["1,2.5,,,", "2,2.4,,,", "3,2.3,,,"], 2),
    ],
)
def test_a_step_is_told_with_the_validation_that_was_due(
    rows: list[str], complete: int, tmp_path: Path
) -> None:
    head = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    (tmp_path / "results.csv").write_text("\n".join([head, *rows, ""]))
    found = read_results(tmp_path, lambda step: step % 3 == 0)
    assert (found.steps, found.complete_steps) == (len(rows), complete)


def test_a_loss_that_is_no_number_ends_the_job_with_a_sentence(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_FAKE_ENGINE", "nan")
    failed = failure(job_folder)
    assert (failed.code, failed.param) == ("loss_not_finite", "learning_rate")
    assert failed.message == "At step 2 the loss became nan and its gradient 1.5. Set learning_rate lower."


def test_a_validation_loss_that_is_no_number_ends_the_job_with_a_sentence(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_FAKE_ENGINE", "nan-valid")
    failed = failure(job_folder)
    assert (failed.code, failed.param) == ("loss_not_finite", "learning_rate")
    assert failed.message == "After step 6 the validation loss is nan. Set learning_rate lower."


def test_an_adapter_with_broken_numbers_is_never_published(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_FAKE_ENGINE", "broken")
    assert failure(job_folder).code == "loss_not_finite"
    assert not (job_folder / "adapter").exists()


def test_a_base_that_was_not_quantised_ends_the_job_with_a_sentence(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_FAKE_ENGINE", "whole")
    change(job_folder, quantization="nf4")
    failed = failure(job_folder)
    assert (failed.code, failed.param) == ("engine_cannot", "quantization")
    assert failed.message == (
        "llamafactory did not load the base in nf4: the base's layers are Linear, not nf4. Leave quantization out, "
        "or set engine to builtin."
    )
    assert "Training local/tiny with llamafactory 0.9.5 on cpu in fp32, the base in nf4" in messages(
        job_folder
    )


def test_a_key_that_the_engine_refuses_ends_the_job_with_a_sentence(
    job_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FINETUNE_FAKE_ENGINE", "key")
    failed = failure(job_folder)
    assert failed.code == "engine_config_changed"
    assert failed.message == (
        "llamafactory 0.9.5 does not know the config key lora_rank; our configs are for version 0.9.5. "
        "Install that: `finetune engines remove llamafactory`, then `finetune engines install llamafactory`."
    )


def test_a_key_that_the_installation_did_not_name_stops_the_job_before_it_starts(
    job_folder: Path, engines: Path
) -> None:
    (engines / "llamafactory" / "engine.json").write_text(json.dumps(facts(without="lora_alpha")))
    failed = failure(job_folder)
    assert failed.code == "engine_config_changed"
    assert "config key lora_alpha" in failed.message
    assert not (job_folder / "engine" / "log.txt").exists()


def test_an_engine_that_is_being_changed_trains_nothing(job_folder: Path, engines: Path) -> None:
    with lock_engine(engines / "llamafactory", alone=True):
        assert failure(job_folder).code == "engine_busy"


def hold(folder: Path, script: str) -> subprocess.Popen[str]:
    """A process that runs `script` as an engine, as the driver does."""
    folder.mkdir(exist_ok=True)
    (folder / "run.sh").write_text(script)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDS, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "running\n"
    holder.stdout.close()
    return holder


def is_there(pid: int) -> bool:
    """A zombie has ended, anyone who its parent is now."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_an_engine_that_ignores_the_signal_is_ended_with_its_starter(tmp_path: Path) -> None:
    holder = hold(tmp_path / "e", "trap '' TERM\nwhile :; do sleep 0.2; done\n")
    pid = int((tmp_path / "e" / "pid").read_text())
    time.sleep(0.3)
    holder.send_signal(signal.SIGTERM)
    assert holder.wait(10) == 128 + signal.SIGTERM
    assert not is_there(pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_an_engine_whose_starter_was_killed_is_ended_before_another_begins(tmp_path: Path) -> None:
    holder = hold(tmp_path / "e", "exec sleep 60\n")
    pid = int((tmp_path / "e" / "pid").read_text())
    holder.kill()
    holder.wait(10)
    assert is_there(pid)
    kill_leftover(tmp_path / "e")
    assert not is_there(pid)


def test_a_child_that_outlives_a_killed_engine_is_waited_for(tmp_path: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait(10)
    (tmp_path / "pid").write_text(str(gone.pid))
    with (tmp_path / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = subprocess.Popen(["sleep", "0.5"], pass_fds=(lock.fileno(),))
    kill_leftover(tmp_path)
    assert child.wait(10) == 0
