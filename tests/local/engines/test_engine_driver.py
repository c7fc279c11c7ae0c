"""The life of a job that another engine trains. The engine is a stand-in; its process and files are real."""

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
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.local.engines.conftest import Behave, change_settings, facts
from tests.local.trainer_server import wait_for
from trainers.local.engines.artifacts import read_results
from trainers.local.engines.attempt import EngineCrashed
from trainers.local.engines.catalog import LLAMAFACTORY, lock_engine
from trainers.local.engines.process import kill_leftover
from trainers.local.engines.runner import train_with_engine
from trainers.local.job_directory import read_events, read_job, read_json
from trainers.local.training.errors import TrainingFailed, TrainingPaused

ROOT = Path(__file__).resolve().parents[3]
RUN_ENGINE = """
import sys
from pathlib import Path
from typing import Any
from trainers.local.engines.process import follow_log, run_engine
folder = Path(sys.argv[1])
with run_engine(folder, folder / "run.sh", {}) as process:
    print("running", flush=True)
    for line in follow_log(folder / "log.txt", 0, process):
        pass
"""


def train(folder: Path) -> None:
    train_with_engine(LLAMAFACTORY, folder, read_job(folder))


def event_messages(folder: Path) -> list[str]:
    return [event["message"] for event in read_events(folder)]


def read_required_json(path: Path) -> dict[str, Any]:
    content = read_json(path)
    assert content is not None
    return content


def fail_training(folder: Path) -> TrainingFailed:
    with pytest.raises(TrainingFailed) as caught:
        train(folder)
    return caught.value


def test_a_job_ends_with_an_adapter_and_its_log_as_events_and_results(job_folder: Path) -> None:
    train(job_folder)
    check_adapter(job_folder)
    check_results(job_folder)
    check_events(job_folder)
    engine = job_folder / "engine"
    assert "lora_rank: 8\n" in (engine / "config.yml").read_text()
    assert "python train.py config.yml" in (engine / "run.sh").read_text()
    assert len((engine / "rows" / "train.jsonl").read_text().splitlines()) == 24
    assert "learning_rate" in (engine / "log.txt").read_text()


def check_adapter(job_folder: Path) -> None:
    done = read_required_json(job_folder / "DONE")
    assert (done["trained_tokens"], done["trainable_parameters"]) == (2012, 8 * 64)
    weights = load_file(job_folder / "adapter" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}
    assert (job_folder / "adapter" / "adapter_config.json").exists()


def test_an_engine_gets_no_key_in_its_environment(job_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLACK_BOT_TOKEN", "OPENAI_API_KEY", "HF_TOKEN", "WANDB_API_KEY"):
        monkeypatch.setenv(name, "canary-key")
    python = job_folder.parents[1] / "engines" / "llamafactory" / "env" / "bin" / "python"
    environ = job_folder / "environ"
    python.write_text(
        f'#!/bin/sh\ntest "$1" = train.py || exit 0\ncat /proc/self/environ > {environ}; exit 1\n'
    )
    with pytest.raises(EngineCrashed):
        train(job_folder)
    assert "PATH=" in environ.read_text()
    assert "canary-key" not in environ.read_text()


def check_results(job_folder: Path) -> None:
    with (job_folder / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == list(range(1, 13))
    assert [row["valid_loss"] for row in rows if row["valid_loss"]] == ["2.94", "2.88"]
    assert {row["train_accuracy"] for row in rows} == {""}
    progress = read_required_json(job_folder / "progress.json")
    assert (progress["step"], progress["total_steps"], progress["trained_tokens"]) == (12, 12, 2012)
    assert progress["estimated_finish"] <= time.time() + 1


def check_events(job_folder: Path) -> None:
    messages = event_messages(job_folder)
    assert "Training local/tiny with llamafactory 0.9.5 on cpu in fp32" in messages
    assert "Epoch 2/2 finished after step 12/12" in messages
    assert "Checkpoint of step 12/12 saved" in messages
    metrics = [event["data"] for event in read_events(job_folder) if event["type"] == "metrics"]
    assert metrics[-1]["valid_loss"] == 2.88
    assert "train_mean_token_accuracy" not in metrics[-1]


def test_the_result_is_the_checkpoint_with_the_lowest_validation_loss(
    job_folder: Path, behave: Behave
) -> None:
    behave("worse")
    train(job_folder)
    done = read_required_json(job_folder / "DONE")
    assert (done["step"], done["result_step"]) == (12, 6)
    weights = load_file(job_folder / "adapter" / "adapter_model.safetensors")
    assert {tensor.max().item() for tensor in weights.values()} == {6.0}
    assert any(
        "The result is the checkpoint of step 6/12" in message for message in event_messages(job_folder)
    )


@pytest.mark.deep
def test_a_paused_job_ends_its_engine_and_can_be_resumed(job_folder: Path, behave: Behave) -> None:
    behave("slow")
    pause = threading.Thread(target=pause_after_first_step, args=(job_folder,))
    pause.start()
    with pytest.raises(TrainingPaused):
        train(job_folder)
    pause.join()
    kill_leftover(job_folder / "engine")  # returns at once, since there is none
    progress = read_required_json(job_folder / "progress.json")
    assert progress["estimated_finish"] is None
    assert not (job_folder / "DONE").exists()
    (job_folder / "PAUSED").unlink()
    train(job_folder)
    assert (job_folder / "DONE").exists()


def pause_after_first_step(job_folder: Path) -> None:
    wait_for(lambda: read_json(job_folder / "progress.json"), bool)
    (job_folder / "PAUSED").touch()


def test_a_full_disk_pauses_the_job(job_folder: Path, behave: Behave) -> None:
    behave("disk")
    with pytest.raises(TrainingPaused):
        train(job_folder)
    assert (job_folder / "PAUSED").exists()
    assert any("Free some space and resume it" in message for message in event_messages(job_folder))


def test_a_crash_quotes_the_engines_log_and_the_next_try_resumes(job_folder: Path, behave: Behave) -> None:
    behave("crash")
    with pytest.raises(
        EngineCrashed, match=r"llamafactory ended with exit code 1: .*the card fell off the bus"
    ):
        train(job_folder)
    assert not (job_folder / "FAILED").exists()
    assert [path.name for path in sorted(job_folder.glob("checkpoints/*"))] == ["step-000006", "step-000012"]
    train(job_folder)
    assert "Resuming from the checkpoint of step 12/12" in event_messages(job_folder)
    assert not (job_folder / "engine" / "output" / "checkpoint-999").exists()
    rows = (job_folder / "results.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == [str(step) for step in range(1, 13)]


def test_a_checkpoint_beyond_the_recorded_steps_is_not_resumed_from(job_folder: Path, behave: Behave) -> None:
    """An engine that outlives the process reading its log leaves one."""
    behave("crash")
    with pytest.raises(EngineCrashed):
        train(job_folder)
    output, results = job_folder / "engine" / "output", job_folder / "results.csv"
    results.write_text("".join(results.read_text().splitlines(keepends=True)[:9]))
    train(job_folder)
    assert "Resuming from the checkpoint of step 6/12" in event_messages(job_folder)
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
def test_a_step_is_complete_with_the_validation_that_is_due(
    rows: list[str], complete: int, tmp_path: Path
) -> None:
    head = "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy"
    (tmp_path / "results.csv").write_text("\n".join([head, *rows, ""]))
    results = read_results(tmp_path, lambda step: step % 3 == 0)
    assert (results.steps, results.complete_steps) == (len(rows), complete)


@pytest.mark.parametrize(
    ("behaviour", "message"),
    [
        ("nan", "At step 2 the loss became nan and its gradient 1.5. Set learning_rate lower."),
        ("nan-valid", "After step 6 the validation loss is nan. Set learning_rate lower."),
    ],
)
def test_a_loss_that_is_not_finite_fails_the_job(
    job_folder: Path, behave: Behave, behaviour: str, message: str
) -> None:
    behave(behaviour)
    failed = fail_training(job_folder)
    assert (failed.code, failed.param, failed.message) == ("loss_not_finite", "learning_rate", message)


def test_an_adapter_that_is_not_finite_is_never_published(job_folder: Path, behave: Behave) -> None:
    behave("broken")
    assert fail_training(job_folder).code == "loss_not_finite"
    assert not (job_folder / "adapter").exists()


def test_a_base_that_was_not_quantised_fails_the_job(job_folder: Path, behave: Behave) -> None:
    behave("full-weights")
    change_settings(job_folder, quantization="nf4")
    failed = fail_training(job_folder)
    assert (failed.code, failed.param) == ("engine_cannot", "quantization")
    assert failed.message == (
        "llamafactory did not load the base in nf4: the base's layers are Linear, not nf4. Leave quantization out, "
        "or set engine to builtin."
    )
    assert "Training local/tiny with llamafactory 0.9.5 on cpu in fp32, the base in nf4" in event_messages(
        job_folder
    )


def test_a_config_key_that_the_engine_refuses_fails_the_job(job_folder: Path, behave: Behave) -> None:
    behave("key")
    failed = fail_training(job_folder)
    assert failed.code == "engine_config_changed"
    assert failed.message == (
        "llamafactory 0.9.5 does not know the config key lora_rank; our configs are for version 0.9.5. "
        "Install that: `finetune engines remove llamafactory`, then `finetune engines install llamafactory`."
    )


def test_a_config_key_unknown_to_the_installation_fails_the_job_before_it_starts(
    job_folder: Path, engines: Path
) -> None:
    (engines / "llamafactory" / "engine.json").write_text(json.dumps(facts(without="lora_alpha")))
    failed = fail_training(job_folder)
    assert failed.code == "engine_config_changed"
    assert "config key lora_alpha" in failed.message
    assert not (job_folder / "engine" / "log.txt").exists()


def test_a_job_fails_while_its_engine_is_being_installed(job_folder: Path, engines: Path) -> None:
    with lock_engine(engines / "llamafactory", alone=True):
        assert fail_training(job_folder).code == "engine_busy"


def start_driver(folder: Path, script: str) -> subprocess.Popen[str]:
    """Starts a process that runs `script` as an engine."""
    folder.mkdir(exist_ok=True)
    (folder / "run.sh").write_text(script)
    driver = subprocess.Popen(
        [sys.executable, "-c", RUN_ENGINE, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    assert driver.stdout is not None
    assert driver.stdout.readline() == "running\n"
    driver.stdout.close()
    return driver


def is_running(pid: int) -> bool:
    """False for a zombie, too."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.deep
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_an_engine_that_ignores_sigterm_ends_with_its_driver(tmp_path: Path) -> None:
    trapped = tmp_path / "trapped"
    driver = start_driver(tmp_path / "e", f"trap '' TERM\ntouch {trapped}\nwhile :; do sleep 0.2; done\n")
    pid = int((tmp_path / "e" / "pid").read_text())
    wait_for(trapped.exists, bool)
    driver.send_signal(signal.SIGTERM)
    assert driver.wait(10) == 128 + signal.SIGTERM
    assert not is_running(pid)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs Linux's /proc")
def test_a_killed_drivers_engine_is_ended_before_the_next_starts(tmp_path: Path) -> None:
    driver = start_driver(tmp_path / "e", "exec sleep 60\n")
    pid = int((tmp_path / "e" / "pid").read_text())
    driver.kill()
    driver.wait(10)
    assert is_running(pid)
    kill_leftover(tmp_path / "e")
    assert not is_running(pid)


def test_a_child_that_outlives_its_engine_is_waited_for(tmp_path: Path) -> None:
    engine = subprocess.Popen(["true"])
    engine.wait(10)
    (tmp_path / "pid").write_text(str(engine.pid))
    with (tmp_path / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        child = subprocess.Popen(["sleep", "0.5"], pass_fds=(lock.fileno(),))
    kill_leftover(tmp_path)
    assert child.wait(10) == 0
