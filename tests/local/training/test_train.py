"""A training from its start to its result, and the reasons for which it fails."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.local.runs import (
    event_messages,
    limit_file_size,
    make_job,
    read_done,
    read_failure,
    read_results,
    start_run,
    train_losses,
    wait_for_step,
    write_ticket_rows,
)
from trainers.local.job_directory import lock_job, read_events, read_json
from trainers.local.launch import PAUSED
from trainers.local.train import run_training
from trainers.local.training.checkpoints import list_checkpoints
from trainers.local.training.data import Row
from trainers.local.training.loop import batches, new_optimizer
from trainers.local.training.methods import sft
from trainers.local.training.schedule import learning_rate_share
from trainers.methods import Parameters

pytestmark = pytest.mark.usefixtures("exact_numbers")
ROOT = Path(__file__).parents[3]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "FINETUNE_DTYPE": "fp32"}
SETTINGS = Parameters(n_epochs=3, batch_size=4, learning_rate=1e-2, lora_r=4, lora_alpha=8, lora_dropout=0.1)
STEPS = 30


@pytest.fixture(scope="module")
def rows_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ticket_rows(tmp_path_factory.mktemp("data") / "train.jsonl", 40)


@pytest.fixture(scope="module")
def trained(tiny_model_dir: Path, rows_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job that `python -m trainers.local.train` has trained without interruption."""
    folder = make_job(
        tmp_path_factory.mktemp("job"), tiny_model_dir, rows_file, SETTINGS, validation=rows_file
    )
    process = start_training_command(folder)
    assert process.returncode == 0, process.stderr
    return folder


def start_training_command(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "trainers.local.train", str(folder)]
    return subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)


@pytest.mark.deep
def test_the_loss_falls_and_the_job_ends_with_its_totals(trained: Path) -> None:
    losses = train_losses(trained)
    assert len(losses) == STEPS
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    valid = [float(row["valid_loss"]) for row in read_results(trained) if row["valid_loss"]]
    assert valid == sorted(valid, reverse=True)
    assert len(valid) == 3
    done = read_done(trained)
    assert (done["step"], done["result_step"], done["stopped"]) == (STEPS, STEPS, None)
    weights = load_file(trained / "adapter" / "adapter_model.safetensors").values()
    assert done["trainable_parameters"] == sum(weight.numel() for weight in weights)
    assert f"Training rows: 40 with {done['trained_tokens'] // 3:,} tokens" in event_messages(trained)
    assert not (trained / "FAILED").exists()
    progress = read_json(trained / "progress.json") or {}
    assert (progress["step"], progress["total_steps"]) == (STEPS, STEPS)
    assert progress["trained_tokens"] == done["trained_tokens"]
    assert abs(progress["estimated_finish"] - (trained / "DONE").stat().st_mtime) < 10


def test_events_have_the_machine_the_sizes_and_the_metrics(trained: Path) -> None:
    messages = event_messages(trained)
    assert messages[0] in ("Training tiny on cpu in float32", "Training tiny on cuda in float32")
    assert any(message.startswith("trainable params: ") for message in messages)
    assert "Epoch 3/3 finished after step 30/30" in messages
    metrics = [event["data"] for event in read_events(trained) if event["type"] == "metrics"]
    last = metrics[-1]
    assert (last["step"], last["total_steps"]) == (STEPS, STEPS)
    assert last["valid_loss"] == pytest.approx(float(read_results(trained)[-1]["valid_loss"]), rel=1e-4)
    assert {"train_loss", "train_mean_token_accuracy", "learning_rate"} <= set(last)
    assert [data["step"] for data in metrics if "valid_loss" in data] == [10, 20, 30]


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
def test_peft_loads_the_adapter_and_it_changes_the_logits(trained: Path, tiny_model_dir: Path) -> None:
    base: Any = AutoModelForCausalLM.from_pretrained(tiny_model_dir)
    ids = torch.tensor([[1, 20, 30, 40]])
    before = base(input_ids=ids).logits.detach().clone()
    tuned = PeftModel.from_pretrained(base, str(trained / "adapter"))
    assert not torch.allclose(before, tuned(input_ids=ids).logits)


def test_the_last_three_checkpoints_are_kept(trained: Path) -> None:
    names = sorted(folder.name for folder in (trained / "checkpoints").iterdir())
    assert names == ["step-000010", "step-000020", "step-000030"]


def test_sigterm_ends_a_run_quickly_and_leaves_it_unfinished(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, tiny_model_dir, rows_file, SETTINGS)
    process = start_run(folder, checkpoint_s=0.0)
    try:
        wait_for_step(folder, 2, process)
        process.send_signal(signal.SIGTERM)
        sent = time.monotonic()
        process.join(10)
        assert process.exitcode == -signal.SIGTERM
        assert time.monotonic() - sent < 3
    finally:
        process.kill()
        process.join(10)
    assert not (folder / "DONE").exists()
    assert not (folder / "FAILED").exists()


def test_a_second_process_leaves_the_job_alone_with_exit_code_75(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, tiny_model_dir, rows_file, SETTINGS)
    with lock_job(folder):
        process = start_training_command(folder)
    assert process.returncode == 75
    assert "another process is training this job" in process.stderr
    assert not read_events(folder)


def test_nothing_heavy_is_imported_before_there_is_something_to_train() -> None:
    code = "import sys, trainers.local.train; sys.exit('torch' in sys.modules or 'datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30).returncode == 0


def test_a_finished_job_is_not_trained_again(trained: Path) -> None:
    events = read_events(trained)
    assert run_training(trained) == 0
    assert read_events(trained) == events


def failure_of(folder: Path) -> dict[str, Any]:
    """Runs a job that fails, and returns its failure."""
    assert run_training(folder) == 1
    assert not (folder / "DONE").exists()
    failure = read_failure(folder)
    assert event_messages(folder)[-1] == f"The job failed: {failure['message']}"
    return failure


def test_an_unreadable_row_fails_the_job_with_its_line(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    lines = rows_file.read_text(encoding="utf-8").splitlines()
    broken = tmp_path / "broken.jsonl"
    broken.write_text("\n".join([*lines[:6], "oops", *lines[6:]]), encoding="utf-8")
    failure = failure_of(make_job(tmp_path / "a", tiny_model_dir, broken, SETTINGS))
    assert (failure["code"], failure["param"]) == ("invalid_row", "training_file")
    assert failure["message"].startswith("Line 7 ")
    job = make_job(tmp_path / "b", tiny_model_dir, rows_file, SETTINGS, validation=broken)
    assert failure_of(job)["param"] == "validation_file"


def test_rows_whose_answers_all_have_weight_0_fail_the_job(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    rows = [json.loads(line) for line in rows_file.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        row["messages"][1]["weight"] = 0
    muted = tmp_path / "muted.jsonl"
    muted.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert (
        failure_of(make_job(tmp_path / "job", tiny_model_dir, muted, SETTINGS))["code"] == "nothing_to_learn"
    )


def test_a_loss_that_is_not_finite_fails_the_job(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, learning_rate=1e30)
    failure = failure_of(make_job(tmp_path, tiny_model_dir, rows_file, settings))
    assert (failure["code"], failure["param"]) == ("loss_not_finite", "learning_rate")


def test_a_full_disk_pauses_the_job_and_leaves_no_incomplete_checkpoint(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path
) -> None:
    folder = make_job(tmp_path, tiny_model_dir, rows_file, replace(SETTINGS, n_epochs=1))
    with limit_file_size(10_000):
        assert run_training(folder) == PAUSED
    assert event_messages(folder)[-1].startswith("The disk is full: ")
    assert not list((folder / "checkpoints").iterdir())
    assert run_training(folder) == PAUSED
    (folder / "PAUSED").unlink()
    assert run_training(folder) == 0


def test_unknown_target_modules_fail_the_job(tiny_model_dir: Path, rows_file: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, target_modules="q_proj,qkv_proj")
    failure = failure_of(make_job(tmp_path, tiny_model_dir, rows_file, settings))
    assert (failure["code"], failure["param"]) == ("target_modules_not_found", "target_modules")
    assert "no linear layer 'qkv_proj'" in failure["message"]
    assert "q_proj" in failure["message"].partition("some of")[2]


def test_a_missing_base_fails_the_job(tmp_path: Path, rows_file: Path) -> None:
    failure = failure_of(make_job(tmp_path / "job", tmp_path / "nowhere", rows_file, SETTINGS))
    assert (failure["code"], failure["param"]) == ("base_not_loaded", "model")


def test_a_base_with_pickled_weights_is_not_opened(
    tmp_path: Path, rows_file: Path, tiny_model_dir: Path
) -> None:
    pickled = tmp_path / "pickled"
    shutil.copytree(tiny_model_dir, pickled)
    weights = load_file(pickled / "model.safetensors")
    (pickled / "model.safetensors").unlink()
    torch.save(weights, pickled / "pytorch_model.bin")
    failure = failure_of(make_job(tmp_path / "job", pickled, rows_file, SETTINGS))
    assert (failure["code"], failure["param"]) == ("base_not_safetensors", "model")


def test_packs_that_are_built_ahead_give_the_same_adapter(
    tiny_model_dir: Path, rows_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU."""
    settings = replace(SETTINGS, n_epochs=1)
    in_turn = make_job(tmp_path / "in-turn", tiny_model_dir, rows_file, settings, validation=rows_file)
    assert run_training(in_turn) == 0
    builders: list[str] = []

    def build_pack(*rows: Any, **more: Any) -> Any:
        builders.append(threading.current_thread().name.partition("_")[0])
        return build(*rows, **more)

    build = sft.build_pack
    monkeypatch.setattr(sft, "build_pack", build_pack)
    monkeypatch.setattr(sft, "BUILT_AHEAD", ("cpu",))
    ahead = make_job(tmp_path / "ahead", tiny_model_dir, rows_file, settings, validation=rows_file)
    assert run_training(ahead) == 0
    adapters = [folder / "adapter" / "adapter_model.safetensors" for folder in (in_turn, ahead)]
    assert adapters[0].read_bytes() == adapters[1].read_bytes()
    assert train_losses(ahead) == train_losses(in_turn)
    # In turn are only the first pack of all, and the first of a validation and of the step after it.
    assert builders.count("MainThread") <= 1 + 2 * len(list_checkpoints(ahead))
    assert builders.count("packs") > builders.count("MainThread")


def test_each_epoch_has_every_row_once_in_an_order_of_its_own() -> None:
    rows = [Row(line, [1, 2], [False, True]) for line in range(10)]
    lines = [[row.line for row in batch] for batch in batches(rows, 4, seed=1, epoch=0)]
    assert [len(batch) for batch in lines] == [4, 4, 2]
    assert sorted(line for batch in lines for line in batch) == list(range(10))
    first, again, second = (list(batches(rows, 4, seed=1, epoch=epoch)) for epoch in (0, 0, 1))
    assert first == again
    assert first != second


def test_weight_decay_shrinks_weights_in_proportion_to_the_learning_rate() -> None:
    weight = torch.nn.Parameter(torch.ones(2))
    weight.grad = torch.zeros(2)
    new_optimizer([weight], Parameters(learning_rate=0.5, weight_decay=0.1)).step()
    assert weight.tolist() == pytest.approx([0.95, 0.95])


def test_the_learning_rate_warms_up_then_falls_and_stays_above_0() -> None:
    shares = [learning_rate_share(step, 100) for step in range(1, 101)]
    assert shares[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert shares[4:] == sorted(shares[4:], reverse=True)
    assert 0 < shares[-1] < 0.02
    assert learning_rate_share(1, 1) == 1.0
